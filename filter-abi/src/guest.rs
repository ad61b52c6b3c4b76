//! The filter inside a component: the proxy's imports as functions, and the exports that `#[filter]` writes.
//!
//! Each hook has a world of its own, so that a component exports the hooks that its filter has and no others; the
//! linker drops the imports that nobody calls. Nothing else in this crate names `wit_bindgen`, whose generated code is
//! also the crate's only `unsafe`.

use std::cell::RefCell;

use crate::{Exchange, Failure, Filter, Request, Response, Verdict, configuration};

/// What a component may import.
mod imports {
    wit_bindgen::generate!({
        path: "wit",
        inline: "
            package tamis:guest;
            world imports {
                import tamis:filter/types@0.1.0;
                import tamis:filter/request@0.1.0;
                import tamis:filter/response@0.1.0;
                import tamis:filter/exchange@0.1.0;
                import tamis:filter/log@0.1.0;
                import tamis:filter/metrics@0.1.0;
                import tamis:filter/clock@0.1.0;
            }
        ",
        generate_all,
        generate_unused_types: true,
    });
}

/// The export `configure`.
pub mod configure {
    wit_bindgen::generate!({
        path: "wit",
        inline: "package tamis:guest; world configure { export tamis:filter/configure@0.1.0; }",
        generate_all,
        pub_export_macro: true,
        default_bindings_module: "tamis_filter::__guest::configure",
    });
}

/// The export `request-head`.
pub mod on_request_head {
    wit_bindgen::generate!({
        path: "wit",
        inline: "package tamis:guest; world request-head { export tamis:filter/request-head@0.1.0; }",
        with: { "tamis:filter/types@0.1.0": super::imports::tamis::filter::types },
        generate_all,
        pub_export_macro: true,
        default_bindings_module: "tamis_filter::__guest::on_request_head",
    });
}

/// The export `response-head`.
pub mod on_response_head {
    wit_bindgen::generate!({
        path: "wit",
        inline: "package tamis:guest; world response-head { export tamis:filter/response-head@0.1.0; }",
        with: { "tamis:filter/types@0.1.0": super::imports::tamis::filter::types },
        generate_all,
        pub_export_macro: true,
        default_bindings_module: "tamis_filter::__guest::on_response_head",
    });
}

/// The functions that the rest of the crate is written against, as the proxy implements them.
pub(crate) mod host {
    use super::imports::tamis::filter::{log, types};
    use crate::log::Level;
    use crate::{EditError, Header};

    pub(crate) use super::imports::tamis::filter::{clock, exchange, metrics, request, response};

    pub(crate) fn edited(result: Result<(), types::EditError>) -> Result<(), EditError> {
        result.map_err(|error| match error {
            types::EditError::Invalid => EditError::Invalid,
            types::EditError::Forbidden => EditError::Forbidden,
            types::EditError::TooLarge => EditError::TooLarge,
            types::EditError::TooLate => EditError::TooLate,
        })
    }

    pub(crate) fn headers(headers: Vec<types::Header>) -> Vec<Header> {
        headers
            .into_iter()
            .map(|header| Header {
                name: header.name,
                value: header.value.into(),
            })
            .collect()
    }

    pub(crate) fn write_log(level: Level, line: &str) {
        let level = match level {
            Level::Debug => log::Level::Debug,
            Level::Info => log::Level::Info,
            Level::Warn => log::Level::Warn,
            Level::Error => log::Level::Error,
        };
        log::write(level, line);
    }
}

/// The instance's filter: none until it is configured.
pub struct Instance<F>(RefCell<Option<F>>);

impl<F: Filter> Instance<F> {
    /// Not configured yet.
    pub const fn new() -> Self {
        Instance(RefCell::new(None))
    }

    /// The export `configure`.
    pub fn configure(&self, json: &str) -> Result<(), String> {
        std::panic::set_hook(Box::new(|panic| {
            let place = panic.location().map_or("?".to_owned(), ToString::to_string);
            crate::log::error!("panicked at {place}: {}", panic.payload_as_str().unwrap_or("?"));
        }));
        *self.0.borrow_mut() = Some(configuration::configure(json)?);
        Ok(())
    }

    /// The export `on-request-head`.
    pub fn on_request_head(&self) -> types::Verdict {
        self.run(|filter| filter.on_request_head(&mut Request(()), &mut Exchange(())))
    }

    /// The export `on-response-head`.
    pub fn on_response_head(&self) -> types::Verdict {
        self.run(|filter| filter.on_response_head(&Request(()), &mut Response(()), &mut Exchange(())))
    }

    fn run(&self, hook: impl FnOnce(&mut F) -> Result<Verdict, Failure>) -> types::Verdict {
        match self.0.borrow_mut().as_mut().map(hook) {
            Some(Ok(Verdict::Proceed)) => types::Verdict::Proceed,
            Some(Ok(Verdict::Reply(reply))) => types::Verdict::Reply(types::Reply {
                status: reply.status,
                headers: reply.headers.into_iter().map(header).collect(),
                body: reply.body,
            }),
            Some(Err(failure)) => fail(&failure.to_string()),
            None => fail("a hook was called before `configure`"),
        }
    }
}

fn header(header: crate::Header) -> types::Header {
    types::Header {
        name: header.name,
        value: header.value.into_bytes(),
    }
}

/// Traps, which is how a filter fails its exchange.
#[cold]
fn fail(message: &str) -> ! {
    host::write_log(crate::log::Level::Error, message);
    std::process::abort()
}

pub use imports::tamis::filter::types;

/// What `#[filter]` becomes in a component: its exports.
#[doc(hidden)]
#[macro_export]
macro_rules! __guest {
    ($filter:ty: $($hook:ident),+) => {
        const _: () = {
            ::std::thread_local! {
                static INSTANCE: $crate::__guest::Instance<$filter> = const { $crate::__guest::Instance::new() };
            }
            struct Guest;
            impl $crate::__guest::configure::exports::tamis::filter::configure::Guest for Guest {
                fn configure(json: ::std::string::String) -> ::std::result::Result<(), ::std::string::String> {
                    INSTANCE.with(|instance| instance.configure(&json))
                }
            }
            $crate::__guest::configure::export!(Guest with_types_in $crate::__guest::configure);
            $($crate::__hook!($hook);)+
        };
    };
}

/// One hook's export.
#[doc(hidden)]
#[macro_export]
macro_rules! __hook {
    (on_request_head) => {
        impl $crate::__guest::on_request_head::exports::tamis::filter::request_head::Guest for Guest {
            fn on_request_head() -> $crate::__guest::types::Verdict {
                INSTANCE.with($crate::__guest::Instance::on_request_head)
            }
        }
        $crate::__guest::on_request_head::export!(Guest with_types_in $crate::__guest::on_request_head);
    };
    (on_response_head) => {
        impl $crate::__guest::on_response_head::exports::tamis::filter::response_head::Guest for Guest {
            fn on_response_head() -> $crate::__guest::types::Verdict {
                INSTANCE.with($crate::__guest::Instance::on_response_head)
            }
        }
        $crate::__guest::on_response_head::export!(Guest with_types_in $crate::__guest::on_response_head);
    };
}
