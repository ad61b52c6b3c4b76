//! What is known of the current exchange besides its two heads, and what filters leave for one another.

use crate::host::{self, exchange};
use crate::{EditError, Peer};

/// Facts about the exchange, and its attributes: texts that later filters and the access log can read.
#[derive(Debug)]
pub struct Exchange(pub(crate) ());

impl Exchange {
    /// The client's address and port, such as `192.0.2.7:50312`; empty for a Unix socket.
    pub fn client_address(&self) -> String {
        exchange::client_address()
    }

    /// The listener's name.
    pub fn listener(&self) -> String {
        exchange::listener()
    }

    /// The chosen route's name; none when no route matched.
    pub fn route(&self) -> Option<String> {
        exchange::route()
    }

    /// The id that the access log and the client know this exchange by.
    pub fn request_id(&self) -> String {
        exchange::request_id()
    }

    /// What this or another filter has set.
    pub fn attribute(&self, name: &str) -> Option<String> {
        exchange::attribute(name)
    }

    /// Leaves a text for later filters and the access log.
    ///
    /// # Errors
    ///
    /// `TooLarge`: more than 32 attributes, or one of more than 4 KiB.
    pub fn set_attribute(&mut self, name: &str, value: &str) -> Result<(), EditError> {
        host::edited(exchange::set_attribute(name, value))
    }

    /// The cluster that a filter has chosen; none when the route's own choice stands.
    pub fn cluster(&self) -> Option<String> {
        exchange::cluster()
    }

    /// Chooses one of the clusters that the route names.
    ///
    /// # Errors
    ///
    /// `Invalid`: the route does not name that cluster. `TooLate`: the request is already sent.
    pub fn set_cluster(&mut self, name: &str) -> Result<(), EditError> {
        host::edited(exchange::set_cluster(name))
    }

    /// The client's connection, which carries this exchange.
    pub fn peer(&self) -> Peer {
        Peer(())
    }
}
