//! What the proxies are given to do. Pure.

use std::ffi::OsString;

use clap::ValueEnum;
use serde::Serialize;

/// Streams at once on each connection of HTTP/2, which is about what a browser has under way.
const STREAMS: &str = "10";

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Work {
    /// Requests over clear-text HTTP/1.1 connections that are kept (wrk)
    Http1,
    /// The same over TLS 1.3 (h2load)
    Tls,
    /// Requests over HTTP/2 on TLS 1.3, ten streams a connection (h2load)
    Http2,
    /// Full TLS 1.3 handshakes, one after the other (openssl s_time)
    Handshakes,
    /// Clear-text connections that had one answer and rest; measures memory
    Idle,
}

/// Who applies a load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Generator {
    Wrk,
    H2load,
    STime,
    /// This program itself.
    Own,
}

/// How much of a load is applied, and to whom.
#[derive(Clone, Copy, Debug)]
pub struct Dose<'a> {
    pub port: u16,
    pub path: &'a str,
    pub connections: u32,
    pub seconds: u64,
}

impl Work {
    /// Whether the proxies speak TLS to the client.
    pub fn is_secure(self) -> bool {
        match self {
            Self::Http1 | Self::Idle => false,
            Self::Tls | Self::Http2 | Self::Handshakes => true,
        }
    }

    pub fn generator(self) -> Generator {
        match self {
            Self::Http1 => Generator::Wrk,
            Self::Tls | Self::Http2 => Generator::H2load,
            Self::Handshakes => Generator::STime,
            Self::Idle => Generator::Own,
        }
    }

    /// Heads of the columns that depend on it: what is compared, and what is counted.
    pub fn headings(self) -> [&'static str; 2] {
        match self {
            Self::Http1 | Self::Tls | Self::Http2 => ["CPU us/request", "requests/s"],
            Self::Handshakes => ["CPU us/handshake", "handshakes/s"],
            Self::Idle => ["KiB/connection", "connections/s"],
        }
    }

    /// What the load was, for a reader of the table.
    pub fn sentence(self, path: &str, connections: u32) -> String {
        match self {
            Self::Http1 => format!("path {path}, {connections} connections"),
            Self::Tls => format!("path {path}, {connections} connections, HTTP/1.1 over TLS 1.3"),
            Self::Http2 => {
                format!("path {path}, {connections} connections of {STREAMS} streams, HTTP/2 over TLS 1.3")
            }
            Self::Handshakes => "full TLS 1.3 handshakes one after the other, ECDSA P-256".to_owned(),
            Self::Idle => format!("{connections} connections that had one answer and rest for some seconds"),
        }
    }

    /// The options of its generator; none for our own.
    pub fn options(self, dose: Dose<'_>) -> Vec<OsString> {
        let Dose { port, path, .. } = dose;
        let (connections, seconds) = (dose.connections.to_string(), dose.seconds.to_string());
        let options: Vec<String> = match self {
            Self::Http1 => {
                let url = format!("http://127.0.0.1:{port}{path}");
                let duration = format!("{seconds}s");
                let fixed = ["--threads", "1", "--latency", "--connections"].map(str::to_owned);
                fixed
                    .into_iter()
                    .chain([connections, "--duration".to_owned(), duration, url])
                    .collect()
            }
            Self::Tls | Self::Http2 => {
                let url = format!("https://127.0.0.1:{port}{path}");
                let protocol = match self {
                    Self::Tls => vec!["--h1"],
                    _ => vec!["-m", STREAMS],
                };
                let given = ["-D", &seconds, "-c", &connections, &url];
                protocol.into_iter().chain(given).map(str::to_owned).collect()
            }
            Self::Handshakes => {
                let address = format!("127.0.0.1:{port}");
                let fixed = ["s_time", "-new", "-tls1_3", "-connect", &address, "-time", &seconds];
                fixed.map(str::to_owned).to_vec()
            }
            Self::Idle => Vec::new(),
        };
        options.into_iter().map(OsString::from).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(work: Work) -> String {
        let dose = Dose {
            port: 8080,
            path: "/json",
            connections: 64,
            seconds: 3,
        };
        let options = work.options(dose).into_iter().map(|option| option.into_string());
        options.collect::<Result<Vec<_>, _>>().unwrap().join(" ")
    }

    #[test]
    fn each_generator_gets_its_own_words() {
        let expected = [
            (
                Work::Http1,
                "--threads 1 --latency --connections 64 --duration 3s http://127.0.0.1:8080/json",
            ),
            (Work::Tls, "--h1 -D 3 -c 64 https://127.0.0.1:8080/json"),
            (Work::Http2, "-m 10 -D 3 -c 64 https://127.0.0.1:8080/json"),
            (Work::Handshakes, "s_time -new -tls1_3 -connect 127.0.0.1:8080 -time 3"),
            (Work::Idle, ""),
        ];
        for (work, words) in expected {
            assert_eq!(options(work), words);
        }
    }
}
