//! `pass`: sees every piece of a response's body and keeps it as it is. It does the least that a filter of bodies can
//! do, so that the benchmarks measure the proxy's part.

use tamis_filter::{BodyVerdict, Exchange, Failure, Filter, Request, Response, filter};

#[derive(Clone)]
struct Pass;

#[filter]
impl Filter for Pass {
    type Config = ();

    fn configure((): ()) -> Result<Self, String> {
        Ok(Pass)
    }

    fn on_response_body(
        &mut self,
        _: Vec<u8>,
        _: &Request,
        _: &Response,
        _: &mut Exchange,
    ) -> Result<BodyVerdict, Failure> {
        Ok(BodyVerdict::Keep)
    }
}

#[cfg(test)]
mod tests {
    use tamis_filter::testing::{self, json};

    use super::*;

    #[test]
    fn it_takes_no_configuration() {
        assert!(testing::configure::<Pass>(json!({})).is_err());
    }
}
