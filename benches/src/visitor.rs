//! A client on one keep-alive connection that asks for one thing again and again, and takes the time.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

/// No answer takes so long unless something is broken.
const LIMIT: Duration = Duration::from_secs(60);
/// More than any answer here.
const MAX_BODY: usize = 64 << 20;

pub struct Visitor {
    stream: BufReader<TcpStream>,
    port: u16,
}

pub struct Answer {
    pub status: u16,
    pub body: Vec<u8>,
    pub took: Duration,
}

impl Visitor {
    pub fn connect(port: u16) -> Result<Self> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let stream = TcpStream::connect_timeout(&address, LIMIT).with_context(|| format!("nobody at {address}"))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(LIMIT))?;
        stream.set_write_timeout(Some(LIMIT))?;
        Ok(Self {
            stream: BufReader::new(stream),
            port,
        })
    }

    /// Sends a request without a body and reads its whole answer, which has to be sized or chunked.
    pub fn ask(&mut self, method: &str, path: &str) -> Result<Answer> {
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: 127.0.0.1:{}\r\ncontent-length: 0\r\n\r\n",
            self.port
        );
        let started = Instant::now();
        self.stream.get_mut().write_all(request.as_bytes())?;
        let status_line = self.line()?;
        let status = status_line.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status = status.with_context(|| format!("not an answer: `{status_line}`"))?;
        let (mut length, mut is_chunked) = (None, false);
        loop {
            let line = self.line()?;
            let Some((name, value)) = line.split_once(':') else {
                break;
            };
            if name.eq_ignore_ascii_case("content-length") {
                length = value.trim().parse::<usize>().ok();
            }
            is_chunked |= name.eq_ignore_ascii_case("transfer-encoding");
        }
        let body = match length {
            Some(length) => self.bytes(length)?,
            None if is_chunked => self.chunks()?,
            None => bail!("an answer of unknown length"),
        };
        Ok(Answer {
            status,
            body,
            took: started.elapsed(),
        })
    }

    fn bytes(&mut self, length: usize) -> Result<Vec<u8>> {
        ensure!(length <= MAX_BODY, "an answer of {length} bytes");
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body)?;
        Ok(body)
    }

    fn chunks(&mut self) -> Result<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let line = self.line()?;
            let length = usize::from_str_radix(&line, 16).with_context(|| format!("not a chunk's length: `{line}`"))?;
            let chunk = self.bytes(length)?;
            ensure!(self.line()?.is_empty(), "a chunk is not as long as it says");
            if chunk.is_empty() {
                return Ok(body);
            }
            body.extend_from_slice(&chunk);
        }
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.stream.read_line(&mut line)?;
        ensure!(line.ends_with("\r\n"), "the connection was closed");
        line.truncate(line.len() - 2);
        Ok(line)
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    /// Answers each request with the next of these, on one connection, then closes it.
    fn serve(answers: &'static [&'static str]) -> u16 {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            let mut stream = BufReader::new(stream);
            for answer in answers {
                let mut line = String::new();
                while line != "\r\n" {
                    line.clear();
                    stream.read_line(&mut line).unwrap();
                }
                stream.get_mut().write_all(answer.as_bytes()).unwrap();
            }
        });
        port
    }

    #[test]
    fn reads_one_answer_after_another() {
        let port = serve(&[
            "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\none",
            "HTTP/1.1 422 No\r\nx: y\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbits\r\n8\r\n and all\r\n0\r\n\r\n",
        ]);
        let mut visitor = Visitor::connect(port).unwrap();
        let answer = visitor.ask("GET", "/").unwrap();
        assert_eq!((answer.status, answer.body.as_slice()), (200, b"one".as_slice()));
        assert_eq!(visitor.ask("POST", "/reload").unwrap().status, 422);
        assert_eq!(visitor.ask("GET", "/").unwrap().body, b"bits and all");
        assert!(visitor.ask("GET", "/").is_err());
    }

    #[test]
    fn an_answer_of_unknown_length_is_refused() {
        let port = serve(&["HTTP/1.1 200 OK\r\n\r\n"]);
        assert!(Visitor::connect(port).unwrap().ask("GET", "/").is_err());
    }
}
