//! `touch`: reads one header and sets one. It does the least that a filter can do, so that the benchmarks measure the
//! proxy's part.

use tamis_filter::{Exchange, Failure, Filter, Reply, Request, RequestVerdict, filter};

#[derive(Clone)]
struct Touch;

#[filter]
impl Filter for Touch {
    type Config = ();

    fn configure((): ()) -> Result<Self, String> {
        Ok(Touch)
    }

    fn on_request_head(&mut self, request: &mut Request, _: &mut Exchange) -> Result<RequestVerdict, Failure> {
        // The benchmarks never send this: the comparison is there so that the read is not for nothing.
        if request.header("authorization").is_some_and(|value| value == "nope") {
            return Ok(Reply::new(403).into());
        }
        request.set_header("x-filter", "1")?;
        Ok(RequestVerdict::Proceed)
    }
}

#[cfg(test)]
mod tests {
    use tamis_filter::testing::{self, json};

    use super::*;

    #[test]
    fn it_reads_one_header_and_sets_one() {
        let touch: Touch = testing::configure(json!(null)).unwrap();
        let mut exchange = testing::Exchange::get("/").with_header("authorization", "Bearer x");
        assert_eq!(exchange.request_head(&touch), RequestVerdict::Proceed);
        assert_eq!(exchange.request.header("x-filter"), Some("1"));

        let mut exchange = testing::Exchange::get("/").with_header("authorization", "nope");
        assert_eq!(exchange.request_head(&touch), RequestVerdict::Reply(Reply::new(403)));
    }

    #[test]
    fn it_takes_no_configuration() {
        assert!(testing::configure::<Touch>(json!({})).is_err());
    }
}
