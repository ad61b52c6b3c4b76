//! `everything`: has every hook and calls every import. For the tests of the contract, which read in the response what
//! it has seen, and tell it in the request what to do:
//!
//! * Each field `x-act` of the request is a line of [`act`](act::act), and its result is a field `x-result` of the
//!   response. A reply or a wish for the body ends the request-head hook.
//! * The field `x-trail` of the response names the exchange's hooks so far; the attribute `trail` names all of them.
//! * With the act `rewrite STATUS`, the response has another status, and a result says what it was before.
//! * With the act `capitals`, bodies are in capitals, end with a full stop, and have the trailer `x-bytes`.
//! * Every connection begins with the attribute `connection`: the name that was asked for in its TLS handshake, or
//!   `plain`. A connection for `refused.example` is refused.
//! * Every exchange counts in the metric `exchanges` by its status; every tick counts in the key `ticks`.

mod act;
mod head;

use tamis_filter::{
    Admission, BodyVerdict, Connection, EndVerdict, Exchange, Failure, Filter, Header, HeldBody, HeldVerdict, Outcome,
    Request, RequestVerdict, Response, Verdict, filter, key_value, log, metrics,
};

use act::{Done, act};

/// All of it is of one exchange.
#[derive(Clone, Default)]
struct Everything {
    trail: Vec<&'static str>,
    results: Vec<String>,
    capitals: bool,
    rewrite: Option<u16>,
    request_bytes: usize,
    response_bytes: usize,
}

#[filter]
impl Filter for Everything {
    type Config = ();

    fn configure((): ()) -> Result<Self, String> {
        Ok(Everything::default())
    }

    fn on_connection(&mut self, connection: &mut Connection) -> Result<Admission, Failure> {
        let name = connection.peer().server_name();
        connection.set_attribute("connection", name.as_deref().unwrap_or("plain"))?;
        match name.as_deref() {
            Some("refused.example") => Ok(Admission::Refuse),
            _ => Ok(Admission::Accept),
        }
    }

    fn on_request_head(&mut self, request: &mut Request, exchange: &mut Exchange) -> Result<RequestVerdict, Failure> {
        self.trail.push("request-head");
        for line in request.header_values("x-act") {
            match act(line.to_str()?, request, exchange)? {
                Done::Result(result) => self.results.push(result),
                Done::Capitals => self.capitals = true,
                Done::Rewrite(status) => self.rewrite = Some(status),
                Done::Verdict(verdict) => return Ok(verdict),
            }
        }
        Ok(RequestVerdict::Proceed)
    }

    fn on_held_body(
        &mut self,
        body: HeldBody,
        request: &mut Request,
        _: &mut Exchange,
    ) -> Result<HeldVerdict, Failure> {
        self.trail.push("held-body");
        let whole = if body.complete { "whole" } else { "part" };
        request.set_header("x-held", format!("{whole} {}", body.len()))?;
        match body.data {
            data if self.capitals => Ok(HeldVerdict::Replace(data.to_ascii_uppercase())),
            _ => Ok(HeldVerdict::Proceed),
        }
    }

    fn on_request_body(&mut self, chunk: Vec<u8>, _: &Request, _: &mut Exchange) -> Result<BodyVerdict, Failure> {
        self.note("request-body");
        self.request_bytes += chunk.len();
        Ok(self.piece(chunk))
    }

    fn on_request_end(&mut self, trailers: Vec<Header>, _: &Request, _: &mut Exchange) -> Result<EndVerdict, Failure> {
        self.trail.push("request-end");
        Ok(self.end(trailers, self.request_bytes))
    }

    fn on_response_head(&mut self, _: &Request, response: &mut Response, _: &mut Exchange) -> Result<Verdict, Failure> {
        self.trail.push("response-head");
        response.set_header("x-trail", self.trail.join(" "))?;
        if let Some(status) = self.rewrite {
            self.results.push(head::rewrite(response, status));
        }
        for result in &self.results {
            response.append_header("x-result", result)?;
        }
        Ok(Verdict::Proceed)
    }

    fn on_response_body(
        &mut self,
        chunk: Vec<u8>,
        _: &Request,
        _: &Response,
        _: &mut Exchange,
    ) -> Result<BodyVerdict, Failure> {
        self.note("response-body");
        self.response_bytes += chunk.len();
        Ok(self.piece(chunk))
    }

    fn on_response_end(
        &mut self,
        trailers: Vec<Header>,
        _: &Request,
        _: &Response,
        _: &mut Exchange,
    ) -> Result<EndVerdict, Failure> {
        self.trail.push("response-end");
        Ok(self.end(trailers, self.response_bytes))
    }

    fn on_completion(
        &mut self,
        outcome: Outcome,
        _: &Request,
        _: &Response,
        exchange: &mut Exchange,
    ) -> Result<(), Failure> {
        self.trail.push("completion");
        exchange.set_attribute("trail", &self.trail.join(" "))?;
        let status = outcome.status.to_string();
        metrics::labels(&[("status", &status)]).counter_add("exchanges", 1);
        Ok(())
    }

    fn on_tick(&mut self) -> Result<(), Failure> {
        let ticks = key_value::add("ticks", 1, None)?;
        log::debug!("tick {ticks}");
        Ok(())
    }
}

impl Everything {
    /// Notes a hook that may run many times on end.
    fn note(&mut self, hook: &'static str) {
        if self.trail.last() != Some(&hook) {
            self.trail.push(hook);
        }
    }

    fn piece(&self, chunk: Vec<u8>) -> BodyVerdict {
        match self.capitals {
            true => BodyVerdict::Replace(chunk.to_ascii_uppercase()),
            false => BodyVerdict::Keep,
        }
    }

    fn end(&self, mut trailers: Vec<Header>, bytes: usize) -> EndVerdict {
        if !self.capitals {
            return EndVerdict::Keep;
        }
        trailers.push(Header::new("x-bytes", bytes.to_string()));
        EndVerdict::Finish {
            data: b".".to_vec(),
            trailers: Some(trailers),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tamis_filter::outbound::CallError;
    use tamis_filter::testing::{self, Proxy, json};
    use tamis_filter::{Reply, check_header};

    use super::*;

    fn everything() -> Everything {
        testing::configure(json!(null)).unwrap()
    }

    /// The results of acts, one exchange after the other.
    fn results(proxy: &Proxy, acts: &[&str]) -> Vec<String> {
        let mut exchange = proxy.get("/").with_clusters(&["app", "canary"]);
        for act in acts {
            exchange = exchange.with_header("x-act", act);
        }
        let response = exchange.run(&everything()).response;
        let results = response.headers.iter().filter(|header| header.name == "x-result");
        results
            .map(|header| header.value.to_str().unwrap().to_owned())
            .collect()
    }

    #[test]
    fn a_whole_exchange_runs_every_hook_in_order() {
        let everything = everything();
        let mut exchange = testing::Exchange::post("/", "ab")
            .with_body("c")
            .with_trailer("x-sum", "1")
            .with_header("x-act", "capitals")
            .with_header("x-act", "hold 3")
            .with_response_body("x")
            .with_response_body("yz");
        assert_eq!(exchange.connection(&everything), Admission::Accept);
        let transcript = exchange.run(&everything);

        let request = transcript.request.unwrap();
        assert_eq!(
            (request.header("x-held"), request.body()),
            (Some("whole 3"), b"ABC.".to_vec())
        );
        assert_eq!(
            request.trailers,
            [Header::new("x-sum", "1"), Header::new("x-bytes", "3")]
        );
        assert_eq!(transcript.response.body(), b"XYZ.");
        assert_eq!(transcript.response.trailers, [Header::new("x-bytes", "3")]);
        assert_eq!(
            transcript.response.header("x-trail"),
            Some("request-head held-body request-body request-end response-head")
        );
        assert_eq!(
            exchange.attribute("trail"),
            Some("request-head held-body request-body request-end response-head response-body response-end completion")
        );
        assert_eq!(exchange.attribute("connection"), Some("plain"));
        assert_eq!(exchange.proxy.counter("exchanges{status=\"200\"}"), 1);
    }

    #[test]
    fn acts_call_every_import() {
        let proxy = Proxy::new();
        proxy.answer("app", Reply::new(201).body("made"));
        proxy.answer_in_pieces("app", Reply::new(200), ["a", "b.", "c"].map(|piece| Ok(piece.into())));
        proxy.fail("app", CallError::TimedOut);
        proxy.set_now_ms(7);
        proxy.advance(Duration::from_millis(1));
        let cases = [
            ("now", "8 1"),
            ("cluster canary", "canary"),
            ("cluster other", "edit refused: not a valid name or value"),
            ("peer", "192.0.2.1:80 None None 0"),
            ("call app /x", "201 made"),
            ("stream app /x", "ab."),
            ("call app /x", "outbound call: timed out"),
            ("call other /x", "outbound call: the cluster is not granted"),
            ("get k", "none"),
            ("swap k none a", "true"),
            ("swap k none b", "false"),
            ("swap k a b", "true"),
            ("get k", "b"),
            ("compute k c", "b"),
            ("delete k", "true"),
            ("delete k", "false"),
            ("compute k c", "c"),
            ("add n 2", "2"),
            ("add n -3", "-1"),
            ("set n x", "set"),
            ("pass", "passed"),
        ];
        let (acts, expected): (Vec<&str>, Vec<&str>) = cases.into_iter().unzip();
        assert_eq!(results(&proxy, &acts), expected);
        assert_eq!(proxy.calls().len(), 3);

        let random = results(&proxy, &["random 8", "random 8"]);
        assert!(random[0].len() == 16 && random[0] != random[1], "{random:?}");
        assert!(check_header("x", &random[0]).is_ok());
    }

    #[test]
    fn acts_on_heads() {
        let proxy = Proxy::new();
        let cases = [
            ("put x-new a", "done"),
            ("append x-new b", "done"),
            ("remove x-new", "done"),
            (
                "remove content-length",
                "edit refused: only the proxy writes framing and hop-by-hop fields",
            ),
            ("method PUT", "done"),
            ("authority b.example", "done"),
            ("path /b", "done"),
            ("query c=d", "done"),
            ("request", "PUT http://b.example/b?c=d false 12"),
            (
                "facts",
                "192.0.2.7:50312 test test none 00000000-0000-7000-8000-000000000000",
            ),
            ("measure size 2", "measured"),
            ("rewrite 202", "200 0 false 1 done"),
        ];
        let (acts, expected): (Vec<&str>, Vec<&str>) = cases.into_iter().unzip();
        assert_eq!(results(&proxy, &acts), expected);
    }

    #[test]
    fn replies_connections_and_ticks() {
        let proxy = Proxy::new();
        let mut exchange = proxy.get("/").with_header("x-act", "reply 418");
        let transcript = exchange.run(&everything());
        assert_eq!((transcript.request, transcript.response.status), (None, 418));
        assert_eq!(
            transcript.response.header("x-trail"),
            Some("request-head response-head")
        );

        exchange.peer.server_name = Some("refused.example".to_owned());
        assert_eq!(exchange.connection(&everything()), Admission::Refuse);

        proxy.tick(&everything());
        proxy.tick(&everything());
        assert_eq!((proxy.count("ticks"), proxy.log().len()), (2, 2));
    }
}
