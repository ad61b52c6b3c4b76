//! The trait that a filter is: its configuration, and its hooks in the order of an exchange.

use serde::de::DeserializeOwned;

use crate::{
    Admission, BodyVerdict, Connection, EndVerdict, Exchange, Failure, Header, HeldBody, HeldVerdict, Outcome, Request,
    RequestVerdict, Response, Verdict,
};

/// A filter: what it is configured with, and its hooks. Put [`#[filter]`](macro@crate::filter) on the `impl`.
///
/// The hooks that are not written change nothing. A body hook gets what is new, then what the head hook of the same
/// message gets.
///
/// # The fields of the struct
///
/// What [`configure`](Filter::configure) makes is a template: each exchange begins with a clone of it, which is that of
/// all its hooks and of no other exchange. So a field may hold what the filter has seen of an exchange, and the next one,
/// of another client, does not find it there:
///
/// ```
/// use std::rc::Rc;
/// use tamis_filter::{BodyVerdict, Exchange, Failure, Filter, Reply, Request, filter};
///
/// #[derive(Clone)]
/// struct BodyLimit {
///     /// Configuration that is not a number goes into an `Rc`, whose clone costs next to nothing.
///     paths: Rc<[(String, u64)]>,
///     /// Of this exchange's body; 0 when it begins.
///     bytes: u64,
/// }
///
/// #[filter]
/// impl Filter for BodyLimit {
///     type Config = Vec<(String, u64)>;
///
///     fn configure(paths: Vec<(String, u64)>) -> Result<Self, String> {
///         Ok(BodyLimit { paths: paths.into(), bytes: 0 })
///     }
///
///     fn on_request_body(
///         &mut self,
///         chunk: Vec<u8>,
///         request: &Request,
///         _: &mut Exchange,
///     ) -> Result<BodyVerdict, Failure> {
///         self.bytes += chunk.len() as u64;
///         let path = request.path();
///         match self.paths.iter().find(|(prefix, _)| path.starts_with(prefix)) {
///             Some((_, limit)) if self.bytes > *limit => Ok(Reply::new(413).into()),
///             _ => Ok(BodyVerdict::Keep),
///         }
///     }
/// }
/// ```
///
/// A connection and a tick, too, begin with a clone of their own. What is to outlive them, such as a cache of the
/// instance, stands in an `Rc<RefCell<...>>`, which the clones share; what all instances share is for
/// [`key_value`](crate::key_value).
pub trait Filter: Clone + 'static {
    /// What the filter's `config` in the proxy's configuration must look like.
    ///
    /// Without a `config` this is read from `null` (so `()` and `Option<...>` do), then from an empty map (so a struct
    /// whose fields all have a `#[serde(default)]` does). With `()`, any other `config` is refused.
    type Config: DeserializeOwned + 'static;

    /// Called once for each instance, before any exchange.
    ///
    /// # Errors
    ///
    /// A text for whoever wrote the configuration: what is wrong, where, and what would be right. The proxy refuses
    /// the configuration and shows the text.
    fn configure(config: Self::Config) -> Result<Self, String>;

    /// Called once for each accepted connection, before its first exchange; in the chains of listeners only.
    ///
    /// # Errors
    ///
    /// Any error that `?` meets; it fails the connection.
    fn on_connection(&mut self, connection: &mut Connection) -> Result<Admission, Failure> {
        let _ = connection;
        Ok(Admission::Accept)
    }

    /// Called when the request's head is there, before any of its body.
    ///
    /// # Errors
    ///
    /// Any error that `?` meets; it fails the exchange.
    fn on_request_head(&mut self, request: &mut Request, exchange: &mut Exchange) -> Result<RequestVerdict, Failure> {
        let _ = (request, exchange);
        Ok(RequestVerdict::Proceed)
    }

    /// Called after [`RequestVerdict::ReadBody`], with the body. The head can still be changed.
    ///
    /// # Errors
    ///
    /// Any error that `?` meets; it fails the exchange.
    fn on_held_body(
        &mut self,
        body: HeldBody,
        request: &mut Request,
        exchange: &mut Exchange,
    ) -> Result<HeldVerdict, Failure> {
        let _ = (body, request, exchange);
        // The proxy, which sees what a component exports, fails the exchange in the same way.
        Err(Failure::new("`ReadBody` without `on_held_body`"))
    }

    /// Called for each piece of a request's body on its way to the upstream; not for what a filter replies to. The body
    /// then has no length, unless [`Request::pass_body`] was called.
    ///
    /// # Errors
    ///
    /// Any error that `?` meets; it fails the exchange.
    fn on_request_body(
        &mut self,
        chunk: Vec<u8>,
        request: &Request,
        exchange: &mut Exchange,
    ) -> Result<BodyVerdict, Failure> {
        let _ = (chunk, request, exchange);
        Ok(BodyVerdict::Keep)
    }

    /// Called once at the end of a request's body; not for a request without a body.
    ///
    /// # Errors
    ///
    /// Any error that `?` meets; it fails the exchange.
    fn on_request_end(
        &mut self,
        trailers: Vec<Header>,
        request: &Request,
        exchange: &mut Exchange,
    ) -> Result<EndVerdict, Failure> {
        let _ = (trailers, request, exchange);
        Ok(EndVerdict::Keep)
    }

    /// Called when the response's head is there, in the reverse order of the request hooks that ran, whoever made the
    /// response: the upstream, the proxy, another filter, or this one's own request hook. A reply here replaces it.
    ///
    /// # Errors
    ///
    /// Any error that `?` meets; it fails the exchange.
    fn on_response_head(
        &mut self,
        request: &Request,
        response: &mut Response,
        exchange: &mut Exchange,
    ) -> Result<Verdict, Failure> {
        let _ = (request, response, exchange);
        Ok(Verdict::Proceed)
    }

    /// Called for each piece of a response's body, in the reverse order of the request hooks. The body then has no
    /// length, unless [`Response::pass_body`] was called.
    ///
    /// # Errors
    ///
    /// Any error that `?` meets; it fails the exchange.
    fn on_response_body(
        &mut self,
        chunk: Vec<u8>,
        request: &Request,
        response: &Response,
        exchange: &mut Exchange,
    ) -> Result<BodyVerdict, Failure> {
        let _ = (chunk, request, response, exchange);
        Ok(BodyVerdict::Keep)
    }

    /// Called once at the end of a response's body; not for a response without a body.
    ///
    /// # Errors
    ///
    /// Any error that `?` meets; it fails the exchange.
    fn on_response_end(
        &mut self,
        trailers: Vec<Header>,
        request: &Request,
        response: &Response,
        exchange: &mut Exchange,
    ) -> Result<EndVerdict, Failure> {
        let _ = (trailers, request, response, exchange);
        Ok(EndVerdict::Keep)
    }

    /// Called when the exchange is over, before its record is written: attributes that are set here are still in it.
    ///
    /// # Errors
    ///
    /// Any error that `?` meets; it is the filter's failure, though there is no exchange left to fail.
    fn on_completion(
        &mut self,
        outcome: Outcome,
        request: &Request,
        response: &Response,
        exchange: &mut Exchange,
    ) -> Result<(), Failure> {
        let _ = (outcome, request, response, exchange);
        Ok(())
    }

    /// Called every `tick` of the filter's configuration, in an instance of its own. There is no exchange.
    ///
    /// # Errors
    ///
    /// Any error that `?` meets; it is the filter's failure, and the next tick finds a new instance.
    fn on_tick(&mut self) -> Result<(), Failure> {
        Ok(())
    }
}
