//! Servers of HTTP/2: one that keeps to the rules and answers what a function says, and one that writes frames as it is
//! told.

use std::net::{Ipv4Addr, TcpListener};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use bytes::Bytes;
use h2::RecvStream;
use h2::server::SendResponse;
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri};
use tokio::runtime::{Builder, Runtime};

use crate::http2::{self, Frame, Frames, PREFACE};
use crate::socket::{Address, Socket};
use crate::wait::wait_until;

/// A whole request, as the server has it.
#[derive(Clone, Debug)]
pub struct Asked {
    pub method: Method,
    pub uri: Uri,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
    pub trailers: Option<HeaderMap>,
}

/// What it is answered with.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub body: Vec<u8>,
    pub trailers: Vec<(&'static str, String)>,
}

impl Answer {
    /// 200 with this body.
    pub fn ok(body: impl Into<Vec<u8>>) -> Self {
        Self {
            status: 200,
            body: body.into(),
            ..Self::default()
        }
    }

    pub fn with(mut self, name: &'static str, value: &str) -> Self {
        self.headers.push((name, value.to_owned()));
        self
    }

    pub fn trailing(mut self, name: &'static str, value: &str) -> Self {
        self.trailers.push((name, value.to_owned()));
        self
    }
}

/// Answers each request when it is whole.
pub struct Origin {
    address: Address,
    asked: Arc<Mutex<Vec<Asked>>>,
    connections: Arc<AtomicUsize>,
    _runtime: Runtime,
}

impl Origin {
    /// One that allows so many streams at once.
    pub fn start(max_streams: u32, answer: impl Fn(&Asked) -> Answer + Send + Sync + 'static) -> Self {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let bound = runtime.block_on(tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)));
        let listener = bound.expect("a port is free");
        let address = Address::Tcp(listener.local_addr().expect("the listener has an address"));
        let (asked, connections) = (Arc::<Mutex<Vec<Asked>>>::default(), Arc::<AtomicUsize>::default());
        let (recorded, counted, answer) = (Arc::clone(&asked), Arc::clone(&connections), Arc::new(answer));
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                counted.fetch_add(1, Ordering::SeqCst);
                let (recorded, answer) = (Arc::clone(&recorded), Arc::clone(&answer));
                tokio::spawn(async move {
                    let mut builder = h2::server::Builder::new();
                    let builder = builder.max_concurrent_streams(max_streams);
                    let Ok(mut connection) = builder.handshake::<_, Bytes>(stream).await else {
                        return;
                    };
                    while let Some(Ok((request, respond))) = connection.accept().await {
                        let (recorded, answer) = (Arc::clone(&recorded), Arc::clone(&answer));
                        // Whoever breaks a stream off sees that for himself.
                        tokio::spawn(async move { drop(serve(request, respond, &recorded, &*answer).await) });
                    }
                });
            }
        });
        Self {
            address,
            asked,
            connections,
            _runtime: runtime,
        }
    }

    pub fn address(&self) -> &Address {
        &self.address
    }

    /// How many connections have come.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// The requests since the last call.
    pub fn take(&self) -> Vec<Asked> {
        std::mem::take(&mut *self.asked.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

async fn serve(
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    recorded: &Mutex<Vec<Asked>>,
    answer: &(dyn Fn(&Asked) -> Answer + Send + Sync),
) -> Result<(), h2::Error> {
    let (head, mut stream) = request.into_parts();
    let asked = Asked {
        method: head.method,
        uri: head.uri,
        headers: head.headers,
        body: http2::read(&mut stream).await?,
        trailers: stream.trailers().await?,
    };
    let answer = answer(&asked);
    recorded.lock().unwrap_or_else(PoisonError::into_inner).push(asked);
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::from_u16(answer.status).expect("a status");
    *response.headers_mut() = fields(&answer.headers);
    let (has_body, has_trailers) = (!answer.body.is_empty(), !answer.trailers.is_empty());
    let mut stream = respond.send_response(response, !has_body && !has_trailers)?;
    if has_body {
        stream.send_data(answer.body.into(), !has_trailers)?;
    }
    if has_trailers {
        stream.send_trailers(fields(&answer.trailers))?;
    }
    Ok(())
}

fn fields(of: &[(&'static str, String)]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in of {
        map.append(*name, value.parse().expect("a value"));
    }
    map
}

/// Does on each connection what its script says, by the connection's number, and then reads until the peer ends it.
pub struct Scripted {
    address: Address,
    connections: Arc<AtomicUsize>,
    seen: Arc<Mutex<Vec<Vec<Frame>>>>,
}

impl Scripted {
    /// The peer's preface is read before the script, and SETTINGS of these values are sent.
    pub fn start(settings: &[(u16, u32)], script: impl Fn(usize, &mut Conversation) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port is free");
        let address = Address::Tcp(listener.local_addr().expect("the listener has an address"));
        let (connections, seen) = (Arc::<AtomicUsize>::default(), Arc::<Mutex<Vec<_>>>::default());
        let (counted, recorded, script) = (Arc::clone(&connections), Arc::clone(&seen), Arc::new(script));
        let settings = http2::settings(settings);
        thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                stream.set_nodelay(true).expect("a TCP socket");
                let index = counted.fetch_add(1, Ordering::SeqCst);
                lock(&recorded).push(Vec::new());
                let (recorded, script, settings) = (Arc::clone(&recorded), Arc::clone(&script), settings.clone());
                thread::spawn(move || {
                    let mut conversation = Conversation {
                        frames: Frames::over(Socket::Tcp(stream)),
                        index,
                        seen: recorded,
                    };
                    if conversation.frames.client.read(PREFACE.len()) != PREFACE {
                        return;
                    }
                    conversation.frames.send(http2::SETTINGS, 0, 0, &settings);
                    script(index, &mut conversation);
                    while conversation.next().is_some() {}
                });
            }
        });
        Self {
            address,
            connections,
            seen,
        }
    }

    pub fn address(&self) -> &Address {
        &self.address
    }

    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// The frames that connection number `index` has received so far, without those that carry nothing.
    pub fn seen(&self, index: usize) -> Vec<Frame> {
        lock(&self.seen).get(index).cloned().unwrap_or_default()
    }

    /// Waits for a frame of this kind on this stream, and returns it.
    pub fn wait(&self, index: usize, kind: u8, stream: u32) -> Frame {
        let find = || {
            let seen = self.seen(index);
            seen.into_iter()
                .find(|frame| (frame.kind, frame.stream) == (kind, stream))
        };
        wait_until(&format!("frame {kind} on stream {stream}"), || find().is_some());
        find().expect("it was just there")
    }
}

/// One connection of a [`Scripted`].
pub struct Conversation {
    pub frames: Frames,
    index: usize,
    seen: Arc<Mutex<Vec<Vec<Frame>>>>,
}

impl Conversation {
    /// The next frame; SETTINGS are acknowledged.
    #[expect(
        clippy::should_implement_trait,
        reason = "reading a socket is no walk over a collection"
    )]
    pub fn next(&mut self) -> Option<Frame> {
        let frame = self.frames.next_frame()?;
        if frame.kind == http2::SETTINGS && frame.flags & http2::ACK == 0 {
            self.frames.try_send(http2::SETTINGS, http2::ACK, 0, &[]);
        }
        if frame.kind == http2::PING && frame.flags & http2::ACK == 0 {
            self.frames.try_send(http2::PING, http2::ACK, 0, &frame.payload);
        }
        lock(&self.seen)[self.index].push(frame.clone());
        Some(frame)
    }

    /// Reads up to this frame; panics when the connection ends before.
    pub fn wait(&mut self, kind: u8, stream: u32) -> Frame {
        loop {
            let frame = self
                .next()
                .unwrap_or_else(|| panic!("no frame {kind} on stream {stream}"));
            if (frame.kind, frame.stream) == (kind, stream) {
                return frame;
            }
        }
    }

    /// A response's head with these fields.
    pub fn head(&mut self, stream: u32, fields: &[(&str, &str)], flags: u8) -> &mut Self {
        let block = http2::block(fields);
        self.frames
            .send(http2::HEADERS, http2::END_HEADERS | flags, stream, &block);
        self
    }

    pub fn data(&mut self, stream: u32, bytes: &[u8], flags: u8) -> &mut Self {
        self.frames.send(http2::DATA, flags, stream, bytes);
        self
    }

    pub fn reset(&mut self, stream: u32, code: u32) -> &mut Self {
        self.frames.send(http2::RST_STREAM, 0, stream, &code.to_be_bytes());
        self
    }

    pub fn goaway(&mut self, last: u32, code: u32) -> &mut Self {
        let payload = [last.to_be_bytes(), code.to_be_bytes()].concat();
        self.frames.send(http2::GOAWAY, 0, 0, &payload);
        self
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
