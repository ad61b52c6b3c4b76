//! What hooks get, and what becomes of what they answer.

use super::*;

/// Answers each hook as its table says, and keeps what it has got.
#[derive(Clone)]
struct Script {
    request_head: RequestVerdict,
    held_body: HeldVerdict,
    body: fn(&[u8]) -> BodyVerdict,
    end: EndVerdict,
    response_head: Verdict,
    /// What this exchange's hooks have got, each as one word.
    got: Vec<String>,
}

fn script() -> Script {
    Script {
        request_head: RequestVerdict::Proceed,
        held_body: HeldVerdict::Proceed,
        body: |_| BodyVerdict::Keep,
        end: EndVerdict::Keep,
        response_head: Verdict::Proceed,
        got: Vec::new(),
    }
}

impl Script {
    fn get(&mut self, hook: &str, data: &[u8]) {
        self.got.push(format!("{hook}:{}", String::from_utf8_lossy(data)));
    }
}

impl Filter for Script {
    type Config = ();

    fn configure((): ()) -> Result<Self, String> {
        Ok(script())
    }

    fn on_request_head(&mut self, _: &mut crate::Request, _: &mut crate::Exchange) -> Result<RequestVerdict, Failure> {
        self.get("head", b"");
        Ok(self.request_head.clone())
    }

    fn on_held_body(
        &mut self,
        body: HeldBody,
        _: &mut crate::Request,
        _: &mut crate::Exchange,
    ) -> Result<HeldVerdict, Failure> {
        self.get(if body.complete { "whole" } else { "part" }, &body);
        Ok(self.held_body.clone())
    }

    fn on_request_body(
        &mut self,
        chunk: Vec<u8>,
        _: &crate::Request,
        _: &mut crate::Exchange,
    ) -> Result<BodyVerdict, Failure> {
        self.get("piece", &chunk);
        Ok((self.body)(&chunk))
    }

    fn on_request_end(
        &mut self,
        trailers: Vec<Header>,
        _: &crate::Request,
        _: &mut crate::Exchange,
    ) -> Result<EndVerdict, Failure> {
        self.get("end", trailers.len().to_string().as_bytes());
        Ok(self.end.clone())
    }

    fn on_response_head(
        &mut self,
        _: &crate::Request,
        _: &mut crate::Response,
        _: &mut crate::Exchange,
    ) -> Result<Verdict, Failure> {
        self.get("response", b"");
        Ok(self.response_head.clone())
    }

    fn on_response_body(
        &mut self,
        chunk: Vec<u8>,
        _: &crate::Request,
        _: &crate::Response,
        _: &mut crate::Exchange,
    ) -> Result<BodyVerdict, Failure> {
        self.get("piece", &chunk);
        Ok((self.body)(&chunk))
    }

    fn on_response_end(
        &mut self,
        trailers: Vec<Header>,
        _: &crate::Request,
        _: &crate::Response,
        _: &mut crate::Exchange,
    ) -> Result<EndVerdict, Failure> {
        self.get("end", trailers.len().to_string().as_bytes());
        Ok(self.end.clone())
    }

    fn on_completion(
        &mut self,
        outcome: Outcome,
        _: &crate::Request,
        _: &crate::Response,
        exchange: &mut crate::Exchange,
    ) -> Result<(), Failure> {
        let whole = if outcome.complete { "whole" } else { "cut" };
        self.get("completion", format!("{},{whole}", outcome.status).as_bytes());
        exchange.set_attribute("got", &self.got.join(" "))?;
        Ok(())
    }
}

/// What the upstream got, what the client got, and what the hooks got.
fn run(mut exchange: Exchange, script: &Script) -> (Option<String>, String, String) {
    let transcript = exchange.run(script);
    let text = |body: Vec<u8>| String::from_utf8(body).expect("the test writes text");
    let Response { status, .. } = transcript.response;
    let cut = if transcript.complete { "" } else { " cut" };
    (
        transcript.request.map(|request| text(request.body())),
        format!("{status} {}{cut}", text(transcript.response.body())),
        exchange.attribute("got").unwrap_or_default().to_owned(),
    )
}

fn post() -> Exchange {
    Exchange::post("/", "ab").with_body("cd").with_response_body("ok")
}

#[test]
fn bodies_go_through_the_hooks_in_pieces() {
    type Case<'a> = (fn(&[u8]) -> BodyVerdict, EndVerdict, Option<&'a str>, &'a str, &'a str);
    let reply: fn(&[u8]) -> BodyVerdict = |_| Reply::new(422).text("no").into();
    let second: fn(&[u8]) -> BodyVerdict = |piece| match piece {
        b"cd" => Reply::new(422).into(),
        _ => BodyVerdict::Keep,
    };
    let all = "head: piece:ab piece:cd end:0 response: piece:ok end:0 completion:200,whole";
    let cases: [Case; 7] = [
        (|_| BodyVerdict::Keep, EndVerdict::Keep, Some("abcd"), "200 ok", all),
        (|_| BodyVerdict::Drop, EndVerdict::Keep, Some(""), "200 ", all),
        (
            |piece| BodyVerdict::Replace(piece.to_ascii_uppercase()),
            EndVerdict::with_data("."),
            Some("ABCD."),
            "200 OK.",
            all,
        ),
        (
            |piece| BodyVerdict::Pieces(vec![piece.to_vec(), b"-".to_vec()]),
            EndVerdict::Keep,
            Some("ab-cd-"),
            "200 ok-",
            all,
        ),
        // The reply goes through the response's hooks, of which the body's replies once more: too late.
        (
            reply,
            EndVerdict::Keep,
            None,
            "422  cut",
            "head: piece:ab response: piece:no completion:422,cut",
        ),
        (
            second,
            EndVerdict::Keep,
            None,
            "422 ",
            "head: piece:ab piece:cd response: completion:422,whole",
        ),
        (
            |_| BodyVerdict::Keep,
            Reply::new(422).into(),
            None,
            "422 ",
            "head: piece:ab piece:cd end:0 response: completion:422,whole",
        ),
    ];
    for (body, end, upstream, client, got) in cases {
        let script = Script { body, end, ..script() };
        assert_eq!(
            run(post(), &script),
            (upstream.map(str::to_owned), client.to_owned(), got.to_owned())
        );
    }
}

#[test]
fn a_response_that_has_begun_is_cut_off() {
    let second: fn(&[u8]) -> BodyVerdict = |piece| match piece {
        b"two" => Reply::new(502).into(),
        _ => BodyVerdict::Keep,
    };
    let first: fn(&[u8]) -> BodyVerdict = |_| Reply::new(502).into();
    let keep: fn(&[u8]) -> BodyVerdict = |_| BodyVerdict::Keep;
    let cases = [
        (second, EndVerdict::Keep, "200 one cut", "piece:one piece:two"),
        // Its head is as gone before the first piece as behind it.
        (first, EndVerdict::Keep, "200  cut", "piece:one"),
        (
            keep,
            Reply::new(502).into(),
            "200 onetwo cut",
            "piece:one piece:two end:1",
        ),
    ];
    for (body, end, client, got) in cases {
        let exchange = Exchange::get("/")
            .with_response_body("one")
            .with_response_body("two")
            .with_response_trailer("x-a", "1");
        let script = Script { body, end, ..script() };
        let got = format!("head: response: {got} completion:200,cut");
        assert_eq!(run(exchange, &script), (Some(String::new()), client.to_owned(), got));
    }
}

#[test]
fn a_body_is_held_up_to_its_bound() {
    use OverMax::{Continue, Refuse};
    let rest = "piece:abcd end:0 response: piece:ok end:0 completion:200,whole";
    let cases = [
        (
            4,
            Refuse,
            HeldVerdict::Proceed,
            Some("abcd"),
            format!("head: whole:abcd {rest}"),
        ),
        (
            3,
            Refuse,
            HeldVerdict::Proceed,
            None,
            "head: response: piece:content too large\n end:0 completion:413,whole".to_owned(),
        ),
        (
            3,
            Continue,
            HeldVerdict::Replace(b"x".to_vec()),
            Some("xd"),
            "head: part:abc piece:x piece:d end:0 response: piece:ok end:0 completion:200,whole".to_owned(),
        ),
        (
            4,
            Continue,
            Reply::new(403).into(),
            None,
            "head: whole:abcd response: completion:403,whole".to_owned(),
        ),
    ];
    for (max, over, held_body, upstream, got) in cases {
        let script = Script {
            request_head: RequestVerdict::ReadBody { max, over },
            held_body,
            ..script()
        };
        let (request, _, hooks) = run(post(), &script);
        assert_eq!((request.as_deref(), hooks), (upstream, got));
    }
    let script = Script {
        request_head: RequestVerdict::ReadBody { max: 0, over: Refuse },
        ..script()
    };
    let (_, _, got) = run(Exchange::get("/"), &script);
    assert_eq!(got, "head: whole: response: completion:200,whole");
}

#[test]
fn a_reply_to_a_response_replaces_it_whole() {
    let script = Script {
        response_head: Reply::new(503).text("later").into(),
        ..script()
    };
    let exchange = Exchange::get("/")
        .with_response_body("ok")
        .with_response_header("x-a", "1");
    let transcript = { exchange }.run(&script);
    assert_eq!(
        (transcript.response.status, transcript.response.header("x-a")),
        (503, None)
    );
    assert_eq!(transcript.response.body(), b"later");
}

#[test]
fn messages_without_a_body_have_no_body_hooks() {
    let (_, _, got) = run(Exchange::new("HEAD", "/").with_response_body("not sent"), &script());
    assert_eq!(got, "head: response: completion:200,whole");
    let (_, _, got) = run(Exchange::get("/").with_response_status(304), &script());
    assert_eq!(got, "head: response: completion:304,whole");
    let trailers = Exchange::get("/")
        .with_trailer("x-a", "1")
        .with_response_trailer("x-b", "2");
    let (_, _, got) = run(trailers, &script());
    assert_eq!(got, "head: end:1 response: end:1 completion:200,whole");
}

#[test]
fn exchanges_share_a_filter_and_not_its_state() {
    let script = script();
    let (mut one, mut other) = (post(), post());
    one.request_head(&script);
    other.request_head(&script);
    one.request_body(&script, "x");
    let outcome = one.outcome();
    one.completion(&script, outcome);
    assert_eq!(one.attribute("got"), Some("head: piece:x completion:200,whole"));
    let outcome = other.outcome();
    other.completion(&script, outcome);
    assert_eq!(other.attribute("got"), Some("head: completion:200,whole"));
}

#[test]
#[should_panic(expected = "`ReadBody` without `on_held_body`")]
fn a_body_is_held_only_for_a_hook() {
    #[derive(Clone)]
    struct Asks;
    impl Filter for Asks {
        type Config = ();
        fn configure((): ()) -> Result<Self, String> {
            Ok(Asks)
        }
        fn on_request_head(
            &mut self,
            _: &mut crate::Request,
            _: &mut crate::Exchange,
        ) -> Result<RequestVerdict, Failure> {
            Ok(RequestVerdict::ReadBody {
                max: 1,
                over: OverMax::Refuse,
            })
        }
    }
    Exchange::get("/").run(&Asks);
}

#[test]
#[should_panic(expected = "the proxy refuses the field `content-length`")]
fn replies_are_checked() {
    let script = Script {
        request_head: Reply::new(200).header("content-length", "1").into(),
        ..script()
    };
    Exchange::get("/").request_head(&script);
}
