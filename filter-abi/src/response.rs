//! The current exchange's response head. Like the request it holds nothing: only a response hook is given one, so it
//! cannot be asked for too early.

use crate::host::{self, response};
use crate::{EditError, Header, HeaderValue};

/// The response's head. From the response's body on it can be read, but no more changed.
#[derive(Debug)]
pub struct Response(pub(crate) ());

impl Response {
    /// The status, 200 to 599. In [`on_completion`](crate::Filter::on_completion) 0 when there was no response.
    pub fn status(&self) -> u16 {
        response::status()
    }

    /// The first value of that name.
    pub fn header(&self, name: &str) -> Option<HeaderValue> {
        response::header(name).map(HeaderValue::from)
    }

    /// All values of that name, in order.
    pub fn header_values(&self, name: &str) -> Vec<HeaderValue> {
        response::header_values(name)
            .into_iter()
            .map(HeaderValue::from)
            .collect()
    }

    /// All header fields, in order. Costs more than asking for one or two by name.
    pub fn headers(&self) -> Vec<Header> {
        host::headers(response::headers())
    }

    /// Changes the status.
    ///
    /// # Errors
    ///
    /// `Invalid`: not 200 to 599.
    pub fn set_status(&mut self, status: u16) -> Result<(), EditError> {
        host::edited(response::set_status(status))
    }

    /// Replaces all values of that name.
    ///
    /// # Errors
    ///
    /// `Invalid`, `Forbidden` or `TooLarge`.
    pub fn set_header(&mut self, name: &str, value: impl AsRef<[u8]>) -> Result<(), EditError> {
        host::edited(response::set_header(name, value.as_ref()))
    }

    /// Adds a value to those of that name.
    ///
    /// # Errors
    ///
    /// `Invalid`, `Forbidden` or `TooLarge`.
    pub fn append_header(&mut self, name: &str, value: impl AsRef<[u8]>) -> Result<(), EditError> {
        host::edited(response::append_header(name, value.as_ref()))
    }

    /// Removes all values of that name; it is no error when there are none.
    ///
    /// # Errors
    ///
    /// `Invalid` or `Forbidden`.
    pub fn remove_header(&mut self, name: &str) -> Result<(), EditError> {
        host::edited(response::remove_header(name))
    }

    /// In [`on_response_head`](crate::Filter::on_response_head): this response's body goes past this filter's body
    /// hooks, and keeps its length.
    pub fn pass_body(&mut self) {
        response::pass_body();
    }
}
