//! One question over an HTTP/2 connection of its own, as health checks ask it.
//!
//! Control plane. Bounded: the answer is a head and a few bytes. Time is the caller's.

use std::io;

use bytes::Bytes;
use h2::client::{Builder, SendRequest};
use http::{HeaderMap, Request, StatusCode};

use super::client::broken;
use crate::stream::Stream;

/// What is read of a body: messages of health checks are a few bytes long.
const MAX_BODY: usize = 4 << 10;
const MAX_HEADER_LIST: u32 = 16 << 10;

/// As much of a response as health checks look at.
pub struct Answered {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
    pub trailers: HeaderMap,
}

/// Asks the server at the other end of the stream.
pub async fn ask(stream: Stream, request: Request<()>, body: Bytes) -> io::Result<Answered> {
    let (sender, connection) = Builder::new()
        .enable_push(false)
        .max_header_list_size(MAX_HEADER_LIST)
        .handshake(stream)
        .await
        .map_err(broken)?;
    let driving = async {
        // How it ends is seen by whoever waits for the answer.
        drop(connection.await);
        std::future::pending::<()>().await;
    };
    tokio::select! {
        biased;
        answered = exchange(sender, request, body) => answered.map_err(broken),
        () = driving => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

async fn exchange(sender: SendRequest<Bytes>, request: Request<()>, body: Bytes) -> Result<Answered, h2::Error> {
    let mut sender = sender.ready().await?;
    let (response, mut stream) = sender.send_request(request, body.is_empty())?;
    if !body.is_empty() {
        stream.send_data(body, true)?;
    }
    let (head, mut incoming) = response.await?.into_parts();
    let mut answered = Answered {
        status: head.status,
        headers: head.headers,
        body: Vec::new(),
        trailers: HeaderMap::new(),
    };
    while let Some(piece) = incoming.data().await {
        let piece = piece?;
        incoming.flow_control().release_capacity(piece.len())?;
        answered.body.extend_from_slice(&piece);
        if answered.body.len() > MAX_BODY {
            return Ok(answered);
        }
    }
    answered.trailers = incoming.trailers().await?.unwrap_or_default();
    Ok(answered)
}
