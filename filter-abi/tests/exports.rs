//! What `#[filter]` exports: the interfaces of the hooks that are written, and the one in which an exchange begins.

use tamis_filter::{
    __Exports, Admission, BodyVerdict, Connection, EndVerdict, Exchange, Failure, Filter, Header, HeldBody,
    HeldVerdict, Outcome, Request, RequestVerdict, Response, Verdict, filter,
};

/// A filter of which only the names of its hooks count.
macro_rules! filter {
    ($name:ident: $($hooks:tt)+) => {
        #[derive(Clone)]
        struct $name;

        #[filter]
        impl Filter for $name {
            type Config = ();

            fn configure((): ()) -> Result<Self, String> {
                Ok($name)
            }

            $($hooks)+
        }
    };
}

fn unused<T>() -> T {
    unreachable!("nobody runs these filters")
}

filter! { Heads:
    fn on_response_head(&mut self, _: &Request, _: &mut Response, _: &mut Exchange) -> Result<Verdict, Failure> {
        unused()
    }

    fn on_request_head(&mut self, _: &mut Request, _: &mut Exchange) -> Result<RequestVerdict, Failure> {
        unused()
    }
}

filter! { Held:
    fn on_request_head(&mut self, _: &mut Request, _: &mut Exchange) -> Result<RequestVerdict, Failure> {
        unused()
    }

    fn on_held_body(&mut self, _: HeldBody, _: &mut Request, _: &mut Exchange) -> Result<HeldVerdict, Failure> {
        unused()
    }
}

filter! { Around:
    fn on_tick(&mut self) -> Result<(), Failure> {
        unused()
    }

    fn on_connection(&mut self, _: &mut Connection) -> Result<Admission, Failure> {
        unused()
    }
}

filter! { RequestBody:
    fn on_request_body(&mut self, _: Vec<u8>, _: &Request, _: &mut Exchange) -> Result<BodyVerdict, Failure> {
        unused()
    }
}

filter! { RequestEnd:
    fn on_request_end(&mut self, _: Vec<Header>, _: &Request, _: &mut Exchange) -> Result<EndVerdict, Failure> {
        unused()
    }

    fn on_completion(&mut self, _: Outcome, _: &Request, _: &Response, _: &mut Exchange) -> Result<(), Failure> {
        unused()
    }
}

filter! { ResponseEnd:
    fn on_response_end(&mut self, _: Vec<Header>, _: &Request, _: &Response, _: &mut Exchange) -> Result<EndVerdict, Failure> {
        unused()
    }
}

filter! { Bodies:
    fn on_response_end(&mut self, _: Vec<Header>, _: &Request, _: &Response, _: &mut Exchange) -> Result<EndVerdict, Failure> {
        unused()
    }

    fn on_request_body(&mut self, _: Vec<u8>, _: &Request, _: &mut Exchange) -> Result<BodyVerdict, Failure> {
        unused()
    }
}

filter! { HeadAndBody:
    fn on_request_head(&mut self, _: &mut Request, _: &mut Exchange) -> Result<RequestVerdict, Failure> {
        unused()
    }

    fn on_response_end(&mut self, _: Vec<Header>, _: &Request, _: &Response, _: &mut Exchange) -> Result<EndVerdict, Failure> {
        unused()
    }
}

filter! { Completion:
    fn on_completion(&mut self, _: Outcome, _: &Request, _: &Response, _: &mut Exchange) -> Result<(), Failure> {
        unused()
    }
}

#[test]
fn filters_export_what_is_written_and_where_their_exchange_begins() {
    let cases: [(&[&str], &[&str]); 9] = [
        (Heads::EXPORTS, &["RequestHead", "ResponseHead"]),
        (Held::EXPORTS, &["RequestHead", "HeldBody"]),
        (Around::EXPORTS, &["Connection", "Tick"]),
        (RequestBody::EXPORTS, &["RequestHead", "RequestBody"]),
        (RequestEnd::EXPORTS, &["RequestHead", "RequestBody", "Completion"]),
        (ResponseEnd::EXPORTS, &["ResponseHead", "ResponseBody"]),
        (Bodies::EXPORTS, &["RequestHead", "RequestBody", "ResponseBody"]),
        (HeadAndBody::EXPORTS, &["RequestHead", "ResponseBody"]),
        (Completion::EXPORTS, &["Completion"]),
    ];
    for (exports, expected) in cases {
        assert_eq!(exports, expected);
    }
}
