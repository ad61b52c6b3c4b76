//! Components that serve, in a configuration, reusing those of the generation before.
//!
//! Control plane. A service whose component, grants and limits are as they were stays the same object, with its warm
//! instances.

use std::sync::Arc;

use tamis_config as config;

use super::Build;
use crate::store::{self, TableName};
use crate::wasm::http::{Folders, Grant, Instances, Limits, Role, Service, Settings};
use crate::wasm::{self, Artifact, Digest, Engine};

/// What one call across the border may copy out of the guest; a filter's default. Bodies go in pieces.
const LIFTED_BYTES: usize = 16 << 20;

/// Two clusters with the same key are one service.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct ServiceKey {
    name: String,
    component: Digest,
    /// Grants, bounds and ways to share instances, spelled out.
    terms: String,
}

impl Build<'_> {
    /// By cluster. One that does not load is a fault.
    pub(super) async fn load_services(&mut self) -> Vec<Option<Arc<Service>>> {
        let config = self.config;
        let mut services = Vec::with_capacity(config.clusters.len());
        for cluster in &config.clusters {
            services.push(match &cluster.endpoints {
                config::Endpoints::Component(service) => self.load_service(cluster, service).await,
                _ => None,
            });
        }
        services
    }

    async fn load_service(&mut self, cluster: &config::Cluster, service: &config::Service) -> Option<Arc<Service>> {
        match self.service(cluster, service).await {
            Ok(service) => Some(service),
            Err(message) => {
                self.fault(
                    &cluster.place,
                    "cluster",
                    &cluster.name,
                    format!("component: {message}"),
                );
                None
            }
        }
    }

    async fn service(&mut self, cluster: &config::Cluster, service: &config::Service) -> Result<Arc<Service>, String> {
        let of_file = |message: String| format!("{}: {message}", service.component.display());
        let bytes = Artifact::read(&service.component, self.compiler.max_component())?;
        let engine = self.compiler.engine().services(self.service_reservation())?;
        let artifact = self.service_artifact(&engine, bytes).await.map_err(of_file)?;
        let table = (TableName::Service(cluster.name.clone()), bounds(&service.limits));
        let grants = self.service_grants(&service.grants, table)?;
        let limits = limits(&service.limits, self.assembler.workers);
        let instances = (service.instances).map(|ways| instances(ways, service.instance_reuse));
        let key = ServiceKey {
            name: cluster.name.clone(),
            component: artifact.digest(),
            terms: format!("{:?} {:?} {limits:?} {instances:?}", service.grants, folders(&grants)),
        };
        let kept = self.assembler.parts.services.get(&key).cloned();
        let loaded = match kept {
            Some(kept) => kept,
            None => {
                let settings = Settings {
                    name: cluster.name.clone(),
                    role: Role::Service,
                    grants,
                    limits,
                    instances,
                    instance_reuse: service.instance_reuse,
                };
                Arc::new(Service::load(&engine, artifact, settings).await.map_err(of_file)?)
            }
        };
        self.parts.services.insert(key, Arc::clone(&loaded));
        Ok(loaded)
    }

    /// What a component gets, and what is its own table if it gets one; also of a component that is kept from the
    /// generation before, because that table goes on.
    pub(super) fn service_grants(
        &mut self,
        grants: &[config::ServiceGrant],
        (name, bounds): (TableName, store::Bounds),
    ) -> Result<Vec<Grant>, String> {
        let grant = |grant: &config::ServiceGrant| {
            Ok(match grant {
                config::ServiceGrant::Clocks => Grant::Clocks,
                config::ServiceGrant::Random => Grant::Random,
                config::ServiceGrant::Stdio => Grant::Stdio,
                config::ServiceGrant::Env(variables) => Grant::Env(variables.clone()),
                config::ServiceGrant::Config(values) => Grant::Config(Arc::new(values.iter().cloned().collect())),
                config::ServiceGrant::KeyValue => {
                    let table = self.assembler.tables.open(&name, bounds);
                    self.parts.tables.insert(name.clone(), (Arc::clone(&table), bounds));
                    Grant::KeyValue(table)
                }
                config::ServiceGrant::Dir(folders) => Grant::Dir(Folders::open(folders)?),
                config::ServiceGrant::UnsafeSockets => Grant::UnsafeSockets,
                config::ServiceGrant::Http(clusters) => Grant::Http(clusters.clone()),
            })
        };
        grants.iter().map(grant).collect()
    }

    pub(super) async fn service_artifact(&mut self, engine: &Engine, bytes: Vec<u8>) -> Result<Arc<Artifact>, String> {
        let digest = Digest::of(&bytes);
        let known = [&self.assembler.parts, &self.parts];
        let kept = known
            .iter()
            .find_map(|parts| parts.service_artifacts.get(&digest))
            .cloned();
        let artifact = match kept {
            Some(artifact) => artifact,
            None => Arc::new(self.compiler.compile_for(engine, bytes).await?),
        };
        self.parts.service_artifacts.insert(digest, Arc::clone(&artifact));
        Ok(artifact)
    }

    pub(super) fn service_reservation(&self) -> wasm::Reservation {
        let wasm = &self.config.wasm;
        wasm::Reservation {
            instances: wasm.max_service_instances,
            memory_bytes: wasm.max_service_memory,
            stack_bytes: wasm.max_stack,
            table_elements: wasm.max_table_elements,
        }
    }
}

/// Which ones are open, whatever their paths are.
pub(super) fn folders(grants: &[Grant]) -> Option<&str> {
    grants.iter().find_map(|grant| match grant {
        Grant::Dir(folders) => Some(folders.identity()),
        _ => None,
    })
}

/// What the component's own table may hold.
pub(super) fn bounds(limits: &config::ServiceLimits) -> store::Bounds {
    store::Bounds {
        bytes: limits.key_value_bytes,
        keys: limits.key_value_keys,
        ..store::Bounds::default()
    }
}

pub(super) fn instances(ways: config::Instances, reuse: u32) -> Instances {
    match ways {
        config::Instances::Fresh => Instances::Fresh,
        config::Instances::Exclusive => Instances::Exclusive { reuse },
        config::Instances::Concurrent(at_once) => Instances::Concurrent { at_once, reuse },
    }
}

/// What one service may take, in one of so many workers.
pub(super) fn limits(limits: &config::ServiceLimits, workers: usize) -> Limits {
    let share = limits.instances.div_ceil(u32::try_from(workers).unwrap_or(1)).max(1);
    Limits {
        memory: usize::try_from(limits.memory).unwrap_or(usize::MAX),
        // As many as the engine has room for.
        table_elements: usize::MAX,
        cpu_ticks: wasm::ticks(limits.cpu),
        wall: limits.wall,
        instances_per_worker: share,
        header_bytes: limits.header_bytes,
        handles: limits.handles,
        calls: limits.calls,
        call_timeout: limits.call_timeout,
        lifted_bytes: LIFTED_BYTES,
        log_lines: limits.log_lines,
    }
}
