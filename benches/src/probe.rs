//! One request through a proxy before the load, so that nothing is measured that does not work.
//!
//! The origin answers its probe path with the `x-filter` field that it was sent: a proxy whose filters silently do
//! nothing, or whose port belongs to another program, is found out here. A component that stands in the origin's place
//! says hello.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::work::Work;

/// Must be what `peers/origin.conf` answers.
const PATH: &str = "/probe";
/// What the components of `filters/wasi` have there, and say.
const SERVICE_PATH: &str = "/hello";
const SERVICE_SAYS: &str = "hello\n";
const LIMIT: Duration = Duration::from_secs(10);
/// More than any sane answer to the probe.
const ANSWER_BYTES: u64 = 64 << 10;

/// What the chain of a peer does to every request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Touch {
    /// Nothing: the origin sees no `x-filter`.
    None,
    /// Sets `x-filter: 1`.
    Header,
    /// There is no origin: a component answers.
    Service,
    /// Not ours to know (a proxy given by `--extra`).
    Unknown,
}

impl Touch {
    fn path(self) -> &'static str {
        match self {
            Self::Service => SERVICE_PATH,
            Self::None | Self::Header | Self::Unknown => PATH,
        }
    }
}

/// The origin speaks clear text whatever the work is.
pub fn run(port: u16, touch: Touch, work: Work) -> Result<()> {
    let (answer, protocol) = match work {
        Work::Http1 | Work::Idle => (ask(port, touch.path()), "HTTP/1.1"),
        Work::Tls | Work::Handshakes => (ask_securely(port, "--http1.1"), "HTTP/1.1"),
        Work::Http2 => (ask_securely(port, "--http2"), "HTTP/2"),
    };
    let answer = answer.with_context(|| format!("no answer from port {port}"))?;
    judge(&answer, protocol, touch)
}

/// curl's part, which knows TLS and HTTP/2.
fn ask_securely(port: u16, protocol: &str) -> Result<String> {
    let limit = LIMIT.as_secs().to_string();
    let output = Command::new("curl")
        .args([
            "--silent",
            "--show-error",
            "--insecure",
            "--include",
            "--max-time",
            &limit,
            protocol,
        ])
        .arg(format!("https://127.0.0.1:{port}{PATH}"))
        .stdin(Stdio::null())
        .output()
        .context("cannot run curl, which asks over TLS")?;
    ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn ask(port: u16, path: &str) -> Result<String> {
    let mut stream = TcpStream::connect_timeout(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)), LIMIT)?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.set_write_timeout(Some(LIMIT))?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\nconnection: close\r\n\r\n"
    )?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES).read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

fn judge(answer: &str, protocol: &str, touch: Touch) -> Result<()> {
    let status_line = answer.lines().next().unwrap_or_default();
    ensure!(
        status_line.starts_with(&format!("{protocol} 200")),
        "the probe was answered with `{status_line}` instead of {protocol} 200"
    );
    if touch == Touch::Service {
        ensure!(
            answer.contains(SERVICE_SAYS),
            "the answer to the probe does not come from the component"
        );
        return Ok(());
    }
    let seen = answer
        .split_once("x-filter=[")
        .and_then(|(_, rest)| rest.split_once(']'))
        .map(|(value, _)| value);
    match (seen, touch) {
        (None, _) | (_, Touch::Service) => bail!("the answer to the probe does not come from the origin"),
        (Some(_), Touch::Unknown) | (Some(""), Touch::None) | (Some("1"), Touch::Header) => Ok(()),
        (Some(value), Touch::None) => bail!("the origin was sent `x-filter: {value}`, though no filter should run"),
        (Some(value), Touch::Header) => {
            bail!("the origin saw x-filter `{value}` instead of `1`: the filters do not run")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(body: &str) -> String {
        format!("HTTP/1.1 200 OK\r\nserver: x\r\n\r\n{body}\n")
    }

    #[test]
    fn accepts_the_expected_touch_only() {
        let (bare, touched, wrong) = (answer("x-filter=[]"), answer("x-filter=[1]"), answer("x-filter=[2]"));
        let cases = [
            (&bare, Touch::None, true),
            (&touched, Touch::None, false),
            (&touched, Touch::Header, true),
            (&bare, Touch::Header, false),
            (&wrong, Touch::Header, false),
            (&wrong, Touch::Unknown, true),
            (&answer("hello"), Touch::Service, true),
            (&bare, Touch::Service, false),
        ];
        for (answer, touch, accepted) in cases {
            assert_eq!(judge(answer, "HTTP/1.1", touch).is_ok(), accepted, "{answer} {touch:?}");
        }
    }

    #[test]
    fn refuses_errors_and_strangers() {
        for answer in [
            "",
            "HTTP/1.1 503 Service Unavailable\r\n\r\nx-filter=[]",
            &answer("hello"),
            &answer("x-filter=[]").replace("HTTP/1.1", "HTTP/2"),
            "SSH-2.0-x",
        ] {
            assert!(judge(answer, "HTTP/1.1", Touch::Unknown).is_err(), "{answer}");
        }
    }
}
