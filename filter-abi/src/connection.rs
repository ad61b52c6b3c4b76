//! A client's connection: what is known of its other end, and what its exchanges inherit.

use crate::EditError;
use crate::host::{self, exchange, peer};

/// A connection that has just been accepted. There is no exchange on it yet.
#[derive(Debug)]
pub struct Connection(pub(crate) ());

impl Connection {
    /// The client's address and port, such as `192.0.2.7:50312`; empty for a Unix socket.
    pub fn client_address(&self) -> String {
        exchange::client_address()
    }

    /// The listener's name.
    pub fn listener(&self) -> String {
        exchange::listener()
    }

    /// What an earlier filter has set.
    pub fn attribute(&self, name: &str) -> Option<String> {
        exchange::attribute(name)
    }

    /// Sets an attribute that every exchange of the connection begins with.
    ///
    /// # Errors
    ///
    /// `TooLarge`: more than 32 attributes, or one of more than 4 KiB.
    pub fn set_attribute(&mut self, name: &str, value: &str) -> Result<(), EditError> {
        host::edited(exchange::set_attribute(name, value))
    }

    /// What the client asked for and showed of itself.
    pub fn peer(&self) -> Peer {
        Peer(())
    }
}

/// What a client asked for and showed of itself when it connected.
#[derive(Debug)]
pub struct Peer(pub(crate) ());

impl Peer {
    /// The address and port that the client connected to; empty for a Unix socket.
    pub fn local_address(&self) -> String {
        peer::local_address()
    }

    /// The name that the client asked for in its TLS handshake (SNI); none without TLS.
    pub fn server_name(&self) -> Option<String> {
        peer::server_name()
    }

    /// The protocol that was agreed on in the TLS handshake, such as `h2`; none without TLS.
    pub fn alpn(&self) -> Option<String> {
        peer::alpn()
    }

    /// The client's verified certificate, as DER; none when there is none.
    pub fn certificate(&self) -> Option<Vec<u8>> {
        peer::certificate()
    }
}
