//! Requests without the token are refused; the others say who let them pass.

use std::sync::Once;

use exports::tamis::filter::request_head::Guest;
use tamis::filter::log::{self, Level};
use tamis::filter::request;
use tamis::filter::types::{Header, Reply, RequestVerdict};

wit_bindgen::generate!({ path: "wit", world: "local:filter/project", generate_all });

struct Project;

export!(Project);

impl Guest for Project {
    fn on_request_head() -> RequestVerdict {
        tell_panics();
        if request::header("x-token").as_deref() != Some(b"sesame".as_slice()) {
            return RequestVerdict::Reply(Reply {
                status: 403,
                headers: vec![Header { name: "content-type".into(), value: b"text/plain".to_vec() }],
                body: b"a token, please\n".to_vec(),
            });
        }
        request::set_header("x-filter", b"@NAME@").expect("the name and the value are sound");
        RequestVerdict::Proceed
    }
}

/// Whoever reads the log finds why it failed.
fn tell_panics() {
    static TOLD: Once = Once::new();
    TOLD.call_once(|| {
        std::panic::set_hook(Box::new(|panic| log::write(Level::Error, &panic.to_string())));
    });
}
