//! Clients of HTTP/2: one that keeps to the rules, and one that writes frames as it is told.

use std::future::Future;

use bytes::Bytes;
use h2::RecvStream;
use h2::client::{ResponseFuture, SendRequest};
use http::{HeaderMap, Request, StatusCode};
use tokio::net::TcpStream;
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;

use crate::DEADLINE;
use crate::client::Client;
use crate::socket::{Address, Socket};

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

pub const ACK: u8 = 0x1;
pub const END_STREAM: u8 = 0x1;
pub const END_HEADERS: u8 = 0x4;

pub const NO_ERROR: u32 = 0;
pub const PROTOCOL_ERROR: u32 = 1;
pub const INTERNAL_ERROR: u32 = 2;
pub const SETTINGS_TIMEOUT: u32 = 4;
pub const REFUSED_STREAM: u32 = 7;
pub const CANCEL: u32 = 8;
pub const ENHANCE_YOUR_CALM: u32 = 11;

pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A client that writes frames as it is told, sound or not.
#[derive(Debug)]
pub struct Frames {
    pub client: Client,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

/// How a stream or a connection came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// With END_STREAM.
    Stream,
    Reset(u32),
    GoAway(u32),
    /// Without a word.
    Closed,
}

impl Frames {
    /// Connects and opens with the preface and empty SETTINGS.
    pub fn connect(address: &Address) -> Self {
        let mut frames = Self::silent(address);
        frames.open(&[]);
        frames
    }

    /// Connects, and says nothing.
    pub fn silent(address: &Address) -> Self {
        Self {
            client: Client::connect(address),
        }
    }

    /// The server's end of a connection.
    pub fn over(socket: Socket) -> Self {
        Self {
            client: Client::over(socket),
        }
    }

    /// Sends the preface, and SETTINGS of these values by their number.
    pub fn open(&mut self, settings: &[(u16, u32)]) -> &mut Self {
        self.client.send(PREFACE);
        let payload = self::settings(settings);
        self.send(SETTINGS, 0, 0, &payload)
    }

    pub fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> &mut Self {
        self.client.send(frame(kind, flags, stream, payload));
        self
    }

    /// The same; false when the peer has stopped taking.
    pub fn try_send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> bool {
        self.client.try_send(frame(kind, flags, stream, payload))
    }

    /// A request with these fields, in one frame.
    pub fn request(&mut self, stream: u32, fields: &[(&str, &str)], flags: u8) -> &mut Self {
        self.send(HEADERS, END_HEADERS | flags, stream, &block(fields))
    }

    /// A GET for `a.example` without a body.
    pub fn get(&mut self, stream: u32, path: &str) -> &mut Self {
        self.request(stream, &get(path), END_STREAM)
    }

    /// The next frame; nothing when the connection ends instead.
    pub fn next_frame(&mut self) -> Option<Frame> {
        let head = self.client.read(9);
        let [a, b, c, kind, flags, w, x, y, z] = head.try_into().ok()?;
        let length = u32::from_be_bytes([0, a, b, c]) as usize;
        let payload = self.client.read(length);
        (payload.len() == length).then_some(Frame {
            kind,
            flags,
            stream: u32::from_be_bytes([w, x, y, z]) & 0x7fff_ffff,
            payload,
        })
    }

    /// The next frame of this kind on this stream; panics when the connection ends before.
    pub fn wait(&mut self, kind: u8, stream: u32) -> Frame {
        loop {
            let frame = self
                .next_frame()
                .unwrap_or_else(|| panic!("no frame {kind} on stream {stream}"));
            if frame.kind == kind && frame.stream == stream {
                return frame;
            }
            assert_ne!(frame.kind, GOAWAY, "before frame {kind} on stream {stream}: {frame:?}");
        }
    }

    /// The next GOAWAY; panics when the connection ends before.
    pub fn wait_goaway(&mut self) -> Frame {
        std::iter::from_fn(|| self.next_frame())
            .find(|frame| frame.kind == GOAWAY)
            .expect("a GOAWAY")
    }

    /// Acknowledges nothing; how the stream ends, with the bytes of its body.
    pub fn end_of(&mut self, stream: u32) -> (End, Vec<u8>) {
        let mut body = Vec::new();
        while let Some(frame) = self.next_frame() {
            if frame.kind == GOAWAY {
                return (End::GoAway(frame.code(4)), body);
            }
            if frame.stream != stream {
                continue;
            }
            match frame.kind {
                DATA => body.extend(&frame.payload),
                RST_STREAM => return (End::Reset(frame.code(0)), body),
                _ => {}
            }
            if matches!(frame.kind, DATA | HEADERS) && frame.flags & END_STREAM != 0 {
                return (End::Stream, body);
            }
        }
        (End::Closed, body)
    }

    /// How the connection ends, and whether it is closed then.
    pub fn ending(&mut self) -> End {
        let mut end = End::Closed;
        while let Some(frame) = self.next_frame() {
            if frame.kind == GOAWAY {
                end = End::GoAway(frame.code(4));
            }
        }
        end
    }
}

impl Frame {
    /// The error code at this place of the payload.
    pub fn code(&self, at: usize) -> u32 {
        let bytes = self.payload.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
        u32::from_be_bytes(bytes.expect("an error code"))
    }
}

/// The payload of SETTINGS with these values by their number.
pub fn settings(values: &[(u16, u32)]) -> Vec<u8> {
    let bytes = |(name, value): &(u16, u32)| [&name.to_be_bytes()[..], &value.to_be_bytes()].concat();
    values.iter().flat_map(bytes).collect()
}

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a short payload").to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A header block of literal fields, neither indexed nor compressed (RFC 7541 6.2.2).
pub fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, value) in fields {
        bytes.push(0);
        for text in [name, value] {
            length(text.len(), &mut bytes);
            bytes.extend(text.as_bytes());
        }
    }
    bytes
}

/// An integer with a prefix of seven bits (RFC 7541 5.1).
fn length(length: usize, into: &mut Vec<u8>) {
    if length < 127 {
        return into.push(length as u8);
    }
    into.push(127);
    let mut rest = length - 127;
    while rest >= 128 {
        into.push((rest % 128) as u8 | 128);
        rest /= 128;
    }
    into.push(rest as u8);
}

/// The fields of a GET for `a.example`.
pub fn get(path: &str) -> [(&str, &str); 4] {
    [
        (":method", "GET"),
        (":scheme", "http"),
        (":authority", "a.example"),
        (":path", path),
    ]
}

/// A client that keeps to the rules. A thread of its own drives its connection.
pub struct Http2 {
    runtime: Runtime,
    pub sender: SendRequest<Bytes>,
}

/// A whole response.
#[derive(Debug)]
pub struct Response {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
    pub trailers: Option<HeaderMap>,
}

impl Response {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

impl Http2 {
    pub fn connect(address: &Address) -> Self {
        let Address::Tcp(address) = address else {
            panic!("not an IP address: {address}")
        };
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let sender = runtime.block_on(async {
            let stream = TcpStream::connect(address).await.expect("the proxy listens");
            let (sender, connection) = h2::client::handshake(stream).await.expect("a handshake");
            // Its end is seen by whoever uses it.
            tokio::spawn(async { drop(connection.await) });
            sender
        });
        Self { runtime, sender }
    }

    pub fn block_on<F: Future>(&self, future: F) -> F::Output {
        self.runtime
            .block_on(async { timeout(DEADLINE, future).await.expect("in time") })
    }

    /// Begins an exchange.
    pub fn begin(&mut self, request: Request<()>, body: &[u8]) -> ResponseFuture {
        let mut sender = self.sender.clone();
        let body = Bytes::copy_from_slice(body);
        self.block_on(async {
            std::future::poll_fn(|context| sender.poll_ready(context))
                .await
                .expect("room");
        });
        let (response, mut stream) = sender.send_request(request, body.is_empty()).expect("it is sent");
        if !body.is_empty() {
            // A server that has answered already may have closed the stream (RFC 9113 8.1): what it said counts.
            let _ = stream.send_data(body, true);
        }
        response
    }

    pub fn finish(&self, response: ResponseFuture) -> Response {
        self.block_on(async { whole(response).await.expect("a whole response") })
    }

    pub fn exchange(&mut self, request: Request<()>, body: &[u8]) -> Response {
        let response = self.begin(request, body);
        self.finish(response)
    }

    /// A GET for `a.example`.
    pub fn get(&mut self, path: &str) -> Response {
        self.exchange(request("GET", path), b"")
    }
}

/// A request for `a.example`.
pub fn request(method: &str, path: &str) -> Request<()> {
    let uri = format!("http://a.example{path}");
    Request::builder().method(method).uri(uri).body(()).expect("a request")
}

/// A response with all that comes of it.
pub async fn whole(response: ResponseFuture) -> Result<Response, h2::Error> {
    let (head, mut stream) = response.await?.into_parts();
    let body = read(&mut stream).await?;
    Ok(Response {
        status: head.status,
        headers: head.headers,
        body,
        trailers: stream.trailers().await?,
    })
}

/// A body to its end.
pub async fn read(stream: &mut RecvStream) -> Result<Vec<u8>, h2::Error> {
    let mut body = Vec::new();
    while let Some(piece) = stream.data().await {
        let piece = piece?;
        stream.flow_control().release_capacity(piece.len())?;
        body.extend(&piece);
    }
    Ok(body)
}
