//! A worker with guests that do as they are told: all of the proxy from an exchange's passage inwards, and no network.

use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, Version};
use tamis::assemble::Assembler;
use tamis::head::{Attributes, Clusters, Facts, Message, RequestHead, Stage};
use tamis::name::Name;
use tamis::outbound::Desk;
use tamis::passage::{Forward, Passage};
use tamis::worker::{Live, Scene, Worker};
use tamis_config::System;
use tokio::runtime::Runtime;

/// The interface `types`, as the guests' texts need it.
const TYPES: &str = include_str!("guest/types.wat");

/// Lives as long as the thread.
pub struct Bench {
    pub runtime: Runtime,
    worker: Rc<Worker>,
}

impl Bench {
    /// `configuration` names the component of `text` as `GUEST`. Each exchange has fresh instances, and one that fails is
    /// not spared the next time.
    pub fn new(text: &str, configuration: &str) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .expect("a runtime can be built");
        let folder = tempfile::tempdir().expect("there is a folder for temporary files");
        let file = folder.path().join("guest.wasm");
        let component = wat::parse_str(text.replace("TYPES", TYPES)).unwrap_or_else(|error| panic!("{error}"));
        std::fs::write(&file, component).expect("the folder can be written to");
        let guest = format!(
            "component: {}, instance_reuse: 1, breaker: off, limits: {{ header_bytes: 4KiB, wall: 10s, cpu: 1s, exchange_cpu: 10s }}",
            file.display()
        );
        let configuration = configuration.replace("GUEST", &guest);
        let config = tamis_config::parse(&configuration, Path::new("bench.yaml"), &System)
            .unwrap_or_else(|errors| panic!("{errors}"));
        let compiler = Assembler::compiler(&config).expect("there is room for the instances");
        let assembler = Assembler::new(compiler, 1);
        let snapshot = match runtime.block_on(assembler.assemble(&config, 1)) {
            Ok(built) => built.snapshot,
            Err(faults) => panic!("{faults}"),
        };
        let (desk, _) = Desk::new();
        let worker = Worker::new(0, Arc::new(Live::new(Arc::new(snapshot))), "bench", desk);
        Self {
            runtime,
            worker: Rc::new(worker),
        }
    }

    /// An exchange's passage at its beginning, on the route with this number.
    pub fn passage(&self, route: usize) -> Rc<Passage> {
        let scene = Scene {
            worker: Rc::clone(&self.worker),
            pinned: self.worker.pin(),
            listener: 0,
            route: Some(route),
        };
        Rc::new(Passage::new(scene, Box::new(message())))
    }
}

/// The request halves of all filters.
pub async fn forward(passage: &Passage) -> Vec<Forward> {
    let mut clock = Instant::now();
    let mut forwards = Vec::new();
    for step in passage.steps() {
        match passage.forward(step, &mut clock).await {
            Ok(forward) => forwards.push(forward),
            Err(broken) => panic!("{broken:?} before it was told anything"),
        }
    }
    forwards
}

pub fn message() -> Message {
    let mut headers = HeaderMap::new();
    headers.insert("host", HeaderValue::from_static("a.example"));
    headers.insert("x-first", HeaderValue::from_static("1"));
    Message {
        request: RequestHead {
            method: Method::POST,
            scheme: "http",
            target: PathAndQuery::from_static("/a?b=c"),
            version: Version::HTTP_11,
            headers,
        },
        response: None,
        stage: Stage::Request,
        facts: Facts {
            client: None,
            local: None,
            tls: None,
            listener: Name::new("web"),
            route: Some(Name::new("route")),
            request_id: HeaderValue::from_static("id"),
        },
        attributes: Attributes::default(),
        clusters: Clusters::default(),
        passes_body: false,
        client_request_id: None,
    }
}
