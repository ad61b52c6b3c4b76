//! The filter inside a component: the exports that `#[filter]` writes, each a few lines over the instance.
//!
//! Each interface has a world of its own, so that a component exports those whose hooks its filter has and no others.
//! Only this file and `guest/host.rs` name `wit_bindgen`, whose generated code is also the crate's only `unsafe`, but for the
//! names of two exports.

use std::cell::RefCell;

use crate::instance::Instance;
use crate::{Connection, Exchange, Failure, Filter, HeldBody, Request, Response, configuration};

#[path = "guest/host.rs"]
pub(crate) mod host;
#[path = "guest/translate.rs"]
mod translate;

use crate::answer::Answer;
pub use crate::hook::Hook;
pub use host::types;

use completion::exports::tamis::filter::completion::Outcome;
use connection::exports::tamis::filter::connection::Admission;
use translate::headers;

/// The bindings of one exported interface, but for a function that is written by hand.
macro_rules! export {
    ($module:ident, $world:literal $(, $types:literal)? $(; not $skipped:literal)?) => {
        /// An export.
        pub mod $module {
            wit_bindgen::generate!({
                path: "wit",
                inline: $world,
                $(with: { $types: super::types },)?
                $(skip: [$skipped],)?
                generate_all,
                pub_export_macro: true,
                default_bindings_module: "tamis_filter::__guest",
            });
        }
    };
}

export!(
    configure,
    "package tamis:guest; world configure { export tamis:filter/configure@0.1.0; }"
);
export!(
    connection,
    "package tamis:guest; world connection { export tamis:filter/connection@0.1.0; }"
);
export!(
    request_head,
    "package tamis:guest; world request-head { export tamis:filter/request-head@0.1.0; }",
    "tamis:filter/types@0.1.0";
    not "on-request-head"
);
export!(
    held_body,
    "package tamis:guest; world held-body { export tamis:filter/held-body@0.1.0; }",
    "tamis:filter/types@0.1.0"
);
export!(
    request_body,
    "package tamis:guest; world request-body { export tamis:filter/request-body@0.1.0; }",
    "tamis:filter/types@0.1.0"
);
export!(
    response_head,
    "package tamis:guest; world response-head { export tamis:filter/response-head@0.1.0; }",
    "tamis:filter/types@0.1.0";
    not "on-response-head"
);
export!(
    response_body,
    "package tamis:guest; world response-body { export tamis:filter/response-body@0.1.0; }",
    "tamis:filter/types@0.1.0"
);
export!(
    completion,
    "package tamis:guest; world completion { export tamis:filter/completion@0.1.0; }"
);
export!(
    tick,
    "package tamis:guest; world tick { export tamis:filter/tick@0.1.0; }"
);

/// The component's filter: none until it is configured.
pub struct Guest<F> {
    instance: RefCell<Option<Instance<F>>>,
    /// The last one to a hook on a head. It lies where the guest lies, which never moves.
    answer: RefCell<Answer>,
    exports: &'static [Hook],
}

impl<F: Filter> Guest<F> {
    /// Not configured yet. `exports` are in the contract's order.
    pub const fn new(exports: &'static [Hook]) -> Self {
        Guest {
            instance: RefCell::new(None),
            answer: RefCell::new(Answer::new()),
            exports,
        }
    }

    pub fn configure(&self, json: &str) -> Result<(), String> {
        std::panic::set_hook(Box::new(|panic| {
            let place = panic.location().map_or("?".to_owned(), ToString::to_string);
            crate::log::error!("panicked at {place}: {}", panic.payload_as_str().unwrap_or("?"));
        }));
        let filter = configuration::configure(json)?;
        self.instance.replace(Some(Instance::new(filter, self.exports)));
        Ok(())
    }

    pub fn on_connection(&self) -> Admission {
        self.run(Hook::Connection, |filter| filter.on_connection(&mut Connection(())))
            .into()
    }

    pub fn on_request_head(&self) -> *const u32 {
        let verdict = self.run(Hook::RequestHead, |filter| {
            filter.on_request_head(&mut Request(()), &mut Exchange(()))
        });
        self.answer.borrow_mut().after_request(verdict)
    }

    pub fn on_held_body(&self, data: Vec<u8>, complete: bool) -> types::HeldVerdict {
        let body = HeldBody { data, complete };
        self.run(Hook::HeldBody, |filter| {
            filter.on_held_body(body, &mut Request(()), &mut Exchange(()))
        })
        .into()
    }

    pub fn on_request_body(&self, chunk: Vec<u8>) -> types::BodyVerdict {
        self.run(Hook::RequestBody, |filter| {
            filter.on_request_body(chunk, &Request(()), &mut Exchange(()))
        })
        .into()
    }

    pub fn on_request_end(&self, trailers: Vec<types::Header>) -> types::EndVerdict {
        self.run(Hook::RequestBody, |filter| {
            filter.on_request_end(headers(trailers), &Request(()), &mut Exchange(()))
        })
        .into()
    }

    pub fn on_response_head(&self) -> *const u32 {
        let verdict = self.run(Hook::ResponseHead, |filter| {
            filter.on_response_head(&Request(()), &mut Response(()), &mut Exchange(()))
        });
        self.answer.borrow_mut().after_response(verdict)
    }

    pub fn on_response_body(&self, chunk: Vec<u8>) -> types::BodyVerdict {
        self.run(Hook::ResponseBody, |filter| {
            filter.on_response_body(chunk, &Request(()), &Response(()), &mut Exchange(()))
        })
        .into()
    }

    pub fn on_response_end(&self, trailers: Vec<types::Header>) -> types::EndVerdict {
        self.run(Hook::ResponseBody, |filter| {
            filter.on_response_end(headers(trailers), &Request(()), &Response(()), &mut Exchange(()))
        })
        .into()
    }

    pub fn on_completion(&self, outcome: Outcome) {
        self.run(Hook::Completion, |filter| {
            filter.on_completion(outcome.into(), &Request(()), &Response(()), &mut Exchange(()))
        });
    }

    pub fn on_tick(&self) {
        self.run(Hook::Tick, F::on_tick);
    }

    fn run<T>(&self, hook: Hook, run: impl FnOnce(&mut F) -> Result<T, Failure>) -> T {
        self.answer.borrow_mut().forget();
        match self.instance.borrow_mut().as_mut() {
            Some(instance) => instance
                .run(hook, run)
                .unwrap_or_else(|failure| fail(&failure.to_string())),
            None => fail("a hook was called before `configure`"),
        }
    }
}

/// Traps, which is how a filter fails its exchange.
#[cold]
fn fail(message: &str) -> ! {
    host::write_log(crate::log::Level::Error, message);
    std::process::abort()
}

/// What `#[filter]` becomes in a component: its exports.
#[doc(hidden)]
#[macro_export]
macro_rules! __guest {
    ($filter:ty: $($hook:ident),+) => {
        const _: () = {
            use $crate::__guest;

            ::std::thread_local! {
                static GUEST: __guest::Guest<$filter> =
                    const { __guest::Guest::new(&[$(__guest::Hook::$hook),+]) };
            }

            struct Exports;

            impl __guest::configure::exports::tamis::filter::configure::Guest for Exports {
                fn configure(json: ::std::string::String) -> ::std::result::Result<(), ::std::string::String> {
                    GUEST.with(|guest| guest.configure(&json))
                }
            }
            __guest::configure::export!(Exports with_types_in __guest::configure);

            $($crate::__export!($hook);)+
        };
    };
}

/// One interface's export.
#[doc(hidden)]
#[macro_export]
macro_rules! __export {
    (Connection) => {
        impl __guest::connection::exports::tamis::filter::connection::Guest for Exports {
            fn on_connection() -> __guest::connection::exports::tamis::filter::connection::Admission {
                GUEST.with(__guest::Guest::on_connection)
            }
        }
        __guest::connection::export!(Exports with_types_in __guest::connection);
    };
    (RequestHead) => {
        #[unsafe(export_name = "tamis:filter/request-head@0.1.0#on-request-head")]
        extern "C" fn on_request_head() -> *const u32 {
            GUEST.with(__guest::Guest::on_request_head)
        }
        __guest::request_head::export!(Exports with_types_in __guest::request_head);
    };
    (HeldBody) => {
        impl __guest::held_body::exports::tamis::filter::held_body::Guest for Exports {
            fn on_held_body(body: ::std::vec::Vec<u8>, complete: bool) -> __guest::types::HeldVerdict {
                GUEST.with(|guest| guest.on_held_body(body, complete))
            }
        }
        __guest::held_body::export!(Exports with_types_in __guest::held_body);
    };
    (RequestBody) => {
        impl __guest::request_body::exports::tamis::filter::request_body::Guest for Exports {
            fn on_request_body(chunk: ::std::vec::Vec<u8>) -> __guest::types::BodyVerdict {
                GUEST.with(|guest| guest.on_request_body(chunk))
            }
            fn on_request_end(trailers: ::std::vec::Vec<__guest::types::Header>) -> __guest::types::EndVerdict {
                GUEST.with(|guest| guest.on_request_end(trailers))
            }
        }
        __guest::request_body::export!(Exports with_types_in __guest::request_body);
    };
    (ResponseHead) => {
        #[unsafe(export_name = "tamis:filter/response-head@0.1.0#on-response-head")]
        extern "C" fn on_response_head() -> *const u32 {
            GUEST.with(__guest::Guest::on_response_head)
        }
        __guest::response_head::export!(Exports with_types_in __guest::response_head);
    };
    (ResponseBody) => {
        impl __guest::response_body::exports::tamis::filter::response_body::Guest for Exports {
            fn on_response_body(chunk: ::std::vec::Vec<u8>) -> __guest::types::BodyVerdict {
                GUEST.with(|guest| guest.on_response_body(chunk))
            }
            fn on_response_end(trailers: ::std::vec::Vec<__guest::types::Header>) -> __guest::types::EndVerdict {
                GUEST.with(|guest| guest.on_response_end(trailers))
            }
        }
        __guest::response_body::export!(Exports with_types_in __guest::response_body);
    };
    (Completion) => {
        impl __guest::completion::exports::tamis::filter::completion::Guest for Exports {
            fn on_completion(outcome: __guest::completion::exports::tamis::filter::completion::Outcome) {
                GUEST.with(|guest| guest.on_completion(outcome));
            }
        }
        __guest::completion::export!(Exports with_types_in __guest::completion);
    };
    (Tick) => {
        impl __guest::tick::exports::tamis::filter::tick::Guest for Exports {
            fn on_tick() {
                GUEST.with(__guest::Guest::on_tick);
            }
        }
        __guest::tick::export!(Exports with_types_in __guest::tick);
    };
}
