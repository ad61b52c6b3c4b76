//! One client connection: raw bytes out, exact bytes in.

use std::io::Write;
use std::net::Shutdown;
use std::time::{Duration, Instant};

use crate::DEADLINE;
use crate::message::{Broken, Cause, Kind, Message, Reader};
use crate::socket::{Address, Found, Socket};

#[derive(Debug)]
pub struct Client {
    socket: Socket,
    reader: Reader,
    /// The 1xx responses that came before final ones.
    pub interim: Vec<Message>,
}

/// How a connection ended, with what came before its end.
#[derive(Debug)]
pub struct Ending {
    pub bytes: Vec<u8>,
    /// `Nothing` when it did not end before the deadline.
    pub how: Found,
}

impl Client {
    pub fn connect(address: &Address) -> Self {
        let socket = address
            .connect(DEADLINE)
            .unwrap_or_else(|error| panic!("{address}: {error}"));
        socket.set_write_timeout(DEADLINE).expect("a write deadline can be set");
        Self {
            socket,
            reader: Reader::default(),
            interim: Vec::new(),
        }
    }

    /// Sends all of it; panics when the peer does not take it.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        self.socket
            .write_all(bytes.as_ref())
            .expect("the proxy takes the bytes");
        self
    }

    /// Sends what the peer takes; false when it has stopped taking.
    pub fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.socket.write_all(bytes.as_ref()).is_ok()
    }

    /// Another hold of the connection, to send by while this one reads.
    pub fn sender(&self) -> Socket {
        self.socket.try_clone().expect("a descriptor is free")
    }

    /// Says that no more bytes will come.
    pub fn finish(&mut self) -> &mut Self {
        self.socket
            .shutdown(Shutdown::Write)
            .expect("the connection is still there");
        self
    }

    /// Breaks the connection with an RST.
    pub fn reset(self) {
        self.socket.reset_on_close();
    }

    /// The next final response to any method but HEAD.
    pub fn response(&mut self) -> Message {
        self.final_response(Kind::Response)
            .unwrap_or_else(|broken| panic!("no whole response: {broken}"))
    }

    /// The next final response to a HEAD request.
    pub fn response_to_head(&mut self) -> Message {
        self.final_response(Kind::ResponseToHead)
            .unwrap_or_else(|broken| panic!("no whole response: {broken}"))
    }

    /// The next final response, or what came instead of a whole one.
    pub fn try_response(&mut self) -> Result<Message, Broken> {
        self.final_response(Kind::Response)
    }

    /// The next response, also a 1xx, within `wait`.
    pub fn next_response(&mut self, wait: Duration) -> Result<Message, Broken> {
        self.reader
            .read(&mut self.socket, Kind::Response, Instant::now() + wait)
    }

    /// Sends a request and reads its response.
    pub fn exchange(&mut self, request: impl AsRef<[u8]>) -> Message {
        self.send(request).response()
    }

    /// The next response's head; its body is left to [`Client::read`].
    pub fn read_head(&mut self) -> Message {
        let head = self.reader.read_head_alone(&mut self.socket, Instant::now() + DEADLINE);
        head.unwrap_or_else(|broken| panic!("no whole head: {broken}"))
    }

    /// A GET for the host `a.example` with no other field.
    pub fn get(&mut self, target: &str) -> Message {
        self.exchange(format!("GET {target} HTTP/1.1\r\nHost: a.example\r\n\r\n"))
    }

    /// The same, or nothing when the connection ends instead.
    pub fn try_get(&mut self, target: &str) -> Option<Message> {
        let sent = self.try_send(format!("GET {target} HTTP/1.1\r\nHost: a.example\r\n\r\n"));
        sent.then(|| self.try_response().ok()).flatten()
    }

    /// The next `count` bytes, or fewer when the connection ends or nothing comes.
    pub fn read(&mut self, count: usize) -> Vec<u8> {
        match self.reader.fill(&mut self.socket, count, Instant::now() + DEADLINE) {
            Ok(()) => self.reader.buffer.drain(..count).collect(),
            Err(broken) => broken.bytes,
        }
    }

    /// Reads until the connection ends.
    pub fn ending(&mut self) -> Ending {
        let deadline = Instant::now() + DEADLINE;
        let mut bytes = std::mem::take(&mut self.reader.buffer);
        loop {
            match self.socket.read_some(&mut bytes, deadline) {
                Found::Bytes(_) => (),
                how => return Ending { bytes, how },
            }
        }
    }

    /// Panics unless the connection ends without another byte.
    pub fn assert_closed(&mut self, context: &str) {
        let ending = self.ending();
        let shown = ending.bytes.escape_ascii();
        assert!(ending.bytes.is_empty(), "{context}: more bytes before the end: {shown}");
        assert_ne!(ending.how, Found::Nothing, "{context}: the connection was not closed");
    }

    /// Panics when a byte or the end comes within `wait`.
    pub fn assert_silent(&mut self, wait: Duration, context: &str) {
        let found = self.socket.read_some(&mut self.reader.buffer, Instant::now() + wait);
        let shown = self.reader.buffer.escape_ascii();
        assert_eq!(found, Found::Nothing, "{context}: {shown}");
    }

    /// Panics when a byte comes within `wait`; the end may.
    pub fn assert_silent_or_closed(&mut self, wait: Duration) {
        let found = self.socket.read_some(&mut self.reader.buffer, Instant::now() + wait);
        assert!(
            !matches!(found, Found::Bytes(_)),
            "{}",
            self.reader.buffer.escape_ascii()
        );
    }

    fn final_response(&mut self, kind: Kind) -> Result<Message, Broken> {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let message = self.reader.read(&mut self.socket, kind, deadline)?;
            let Some(code) = message.start.split(' ').nth(1) else {
                let bytes = message.start.into_bytes();
                return Err(Broken {
                    cause: Cause::Malformed("no status line".into()),
                    bytes,
                });
            };
            if !code.starts_with('1') || code == "101" {
                return Ok(message);
            }
            self.interim.push(message);
        }
    }
}

impl Ending {
    /// Whether the peer ended it in order.
    pub fn is_clean(&self) -> bool {
        self.how == Found::Fin
    }
}
