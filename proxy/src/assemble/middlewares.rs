//! Filters that are middlewares of `wasi:http`, in a configuration, reusing those of the generation before.
//!
//! Control plane. One whose component, settings and terms are as they were stays the same object, with its warm instances.

use std::path::Path;
use std::sync::Arc;

use tamis_config as config;
use tamis_config::ComponentKind;

use super::services::{bounds, folders, instances, limits};
use super::{Build, breaker_settings, on_failure};
use crate::breaker::Breaker;
use crate::store::TableName;
use crate::wasm::Digest;
use crate::wasm::http::{Middleware, Nature, Role, Service, Settings, Terms, nature};

/// Two uses of a component with the same key are one middleware.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct MiddlewareKey {
    name: String,
    component: Digest,
    /// Grants, bounds and what failures mean, spelled out.
    terms: String,
}

impl Build<'_> {
    /// Whether the component of this filter is a middleware. The error names what the filter has that its component has
    /// no use for.
    pub(super) fn is_middleware(&self, filter: &config::Filter, bytes: &[u8]) -> Result<bool, String> {
        let (is, foreign) = match nature(bytes) {
            Nature::Middleware => (ComponentKind::Middleware, &filter.middleware.foreign),
            Nature::Other => (ComponentKind::Filter, &filter.middleware.own),
            Nature::Service => {
                let message = "is a service, which answers every request; name it as the `component` of a cluster";
                return Err(message.to_owned());
            }
        };
        let what = match is {
            ComponentKind::Middleware => "a middleware (it imports and exports `wasi:http/handler`)",
            ComponentKind::Filter => "not a middleware (it does not import and export `wasi:http/handler`)",
        };
        if let Some(wanted) = filter.wanted.filter(|wanted| *wanted != is) {
            let wanted = match wanted {
                ComponentKind::Middleware => "middleware",
                ComponentKind::Filter => "filter",
            };
            return Err(format!("is {what}, but `kind` is `{wanted}`"));
        }
        match foreign.as_slice() {
            [] => Ok(is == ComponentKind::Middleware),
            [key] => Err(format!("is {what}, to which `{key}` says nothing; remove it")),
            keys => Err(format!(
                "is {what}, to which these say nothing; remove them: `{}`",
                keys.join("`, `")
            )),
        }
    }

    /// The number of the filter's middleware, with these settings; of one version, under its own `name`.
    pub(super) async fn load_middleware(
        &mut self,
        filter: &config::Filter,
        name: &str,
        path: &Path,
        bytes: Vec<u8>,
        settings: &serde_json::Value,
    ) -> Result<usize, String> {
        let of_file = |message: String| format!("component {}: {message}", path.display());
        if !(settings.is_null() || settings.as_object().is_some_and(serde_json::Map::is_empty)) {
            let message = "is a middleware, to which `config` says nothing; what it reads by `wasi:config` it is granted: \
                           `grants: [{ config: { NAME: value } }]`";
            return Err(of_file(message.to_owned()));
        }
        let engine = self.compiler.engine().services(self.service_reservation())?;
        let artifact = self.service_artifact(&engine, bytes).await.map_err(of_file)?;
        let terms = &filter.middleware;
        let table = (TableName::Own(filter.name.clone()), bounds(&terms.limits));
        let grants = self.service_grants(&terms.grants, table).map_err(of_file)?;
        let limits = limits(&terms.limits, self.assembler.workers);
        let ways = terms.instances.unwrap_or(config::Instances::Exclusive);
        let ways = instances(ways, filter.instance_reuse);
        let breaker = filter.breaker.as_ref();
        let key = MiddlewareKey {
            name: name.to_owned(),
            component: artifact.digest(),
            terms: format!(
                "{:?} {:?} {limits:?} {ways:?} {:?} {:?} {breaker:?}",
                terms.grants,
                folders(&grants),
                filter.on_failure,
                filter.limits.wait
            ),
        };
        let known = [&self.assembler.parts, &self.parts];
        let kept = known.iter().find_map(|parts| parts.middlewares.get(&key)).cloned();
        let middleware = match kept {
            Some(kept) => kept,
            None => {
                let wall = limits.wall;
                let made = Settings {
                    name: name.to_owned(),
                    role: Role::Middleware,
                    grants,
                    limits,
                    instances: Some(ways),
                    instance_reuse: filter.instance_reuse,
                };
                let service = Service::load(&engine, artifact, made).await.map_err(of_file)?;
                Arc::new(Middleware {
                    service: Arc::new(service),
                    terms: Terms {
                        on_failure: on_failure(filter.on_failure),
                        wall,
                        wait: filter.limits.wait,
                        breaker: breaker.map(|breaker| Arc::new(Breaker::new(breaker_settings(breaker)))),
                    },
                })
            }
        };
        self.parts.middlewares.insert(key, Arc::clone(&middleware));
        self.middlewares.push(middleware);
        Ok(self.middlewares.len() - 1)
    }
}
