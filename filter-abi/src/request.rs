//! The current exchange's request head. There is one request at a time, so the type holds nothing: having it is the
//! right to ask the proxy about it.

use crate::host::{self, request};
use crate::{EditError, Header, HeaderValue};

/// The request's head. A response hook can read it, as it was sent upstream.
#[derive(Debug)]
pub struct Request(pub(crate) ());

impl Request {
    /// `GET`, `POST`, ...
    pub fn method(&self) -> String {
        request::method()
    }

    /// `http` or `https`, as the client spoke it.
    pub fn scheme(&self) -> String {
        request::scheme()
    }

    /// Host and port as the client named them.
    pub fn authority(&self) -> String {
        request::authority()
    }

    /// Without the query; normalised, always starts with `/`.
    pub fn path(&self) -> String {
        request::path()
    }

    /// Without the question mark; none when there was no question mark.
    pub fn query(&self) -> Option<String> {
        request::query()
    }

    /// The first value of that name.
    pub fn header(&self, name: &str) -> Option<HeaderValue> {
        request::header(name).map(HeaderValue::from)
    }

    /// All values of that name, in order.
    pub fn header_values(&self, name: &str) -> Vec<HeaderValue> {
        request::header_values(name)
            .into_iter()
            .map(HeaderValue::from)
            .collect()
    }

    /// All header fields, in order. Costs more than asking for one or two by name.
    pub fn headers(&self) -> Vec<Header> {
        host::headers(request::headers())
    }

    /// Changes the method.
    ///
    /// # Errors
    ///
    /// `Invalid`: not a token (RFC 9110 section 9.1).
    pub fn set_method(&mut self, method: &str) -> Result<(), EditError> {
        host::edited(request::set_method(method))
    }

    /// Changes host and port for the upstream.
    ///
    /// # Errors
    ///
    /// `Invalid`: not an authority.
    pub fn set_authority(&mut self, authority: &str) -> Result<(), EditError> {
        host::edited(request::set_authority(authority))
    }

    /// Changes the path. It must start with `/` and is held to the same rules as a client's; the query is not part of
    /// it. The route is already chosen and stays.
    ///
    /// # Errors
    ///
    /// `Invalid` or `TooLarge`.
    pub fn set_path(&mut self, path: &str) -> Result<(), EditError> {
        host::edited(request::set_path(path))
    }

    /// Changes or removes the query.
    ///
    /// # Errors
    ///
    /// `Invalid` or `TooLarge`.
    pub fn set_query(&mut self, query: Option<&str>) -> Result<(), EditError> {
        host::edited(request::set_query(query))
    }

    /// Replaces all values of that name.
    ///
    /// # Errors
    ///
    /// `Invalid`, `Forbidden` or `TooLarge`.
    pub fn set_header(&mut self, name: &str, value: impl AsRef<[u8]>) -> Result<(), EditError> {
        host::edited(request::set_header(name, value.as_ref()))
    }

    /// Adds a value to those of that name.
    ///
    /// # Errors
    ///
    /// `Invalid`, `Forbidden` or `TooLarge`.
    pub fn append_header(&mut self, name: &str, value: impl AsRef<[u8]>) -> Result<(), EditError> {
        host::edited(request::append_header(name, value.as_ref()))
    }

    /// Removes all values of that name; it is no error when there are none.
    ///
    /// # Errors
    ///
    /// `Invalid` or `Forbidden`.
    pub fn remove_header(&mut self, name: &str) -> Result<(), EditError> {
        host::edited(request::remove_header(name))
    }

    /// In [`on_request_head`](crate::Filter::on_request_head): this request's body goes past this filter's body hooks,
    /// and keeps its length.
    pub fn pass_body(&mut self) {
        request::pass_body();
    }
}
