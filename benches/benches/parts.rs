//! What the parts cost, one by one: `cargo bench -p tamis-benches`. The whole is measured by `compare`.

use std::cell::RefCell;
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Version};
use tamis::assemble::Assembler;
use tamis::chain::{Chain, Floor, Step, StepKind, Walk};
use tamis::filter::{Failure, Hook, OnFailure};
use tamis::head::{Attributes, Facts, Message, RequestHead};
use tamis::name::Name;
use tamis::native;
use tamis::route::{HostPattern, PathPattern, Pattern, Table, Target};
use tamis::wasm::{Artifact, Engine, Filter, GuestMetric, Limits, Pool, Pools, Reservation};
use tokio::runtime::Runtime;

/// A request as browsers send it: a host, a dozen fields, an `authorization` for the guests to read.
fn message() -> Box<Message> {
    let mut headers = HeaderMap::new();
    headers.insert("host", HeaderValue::from_static("api.example.com"));
    headers.insert("authorization", HeaderValue::from_static("Bearer abcdefghijklmnop"));
    for number in 0..11 {
        let name: HeaderName = format!("x-field-{number}").parse().expect("a field name");
        headers.insert(name, HeaderValue::from_static("a value of usual length"));
    }
    Box::new(Message {
        request: RequestHead {
            method: Method::GET,
            scheme: "http",
            target: PathAndQuery::from_static("/v1/things/7?color=blue"),
            version: Version::HTTP_11,
            headers,
        },
        response: None,
        facts: Facts {
            client: None,
            listener: Name::new("web"),
            route: Some(Name::new("api")),
            request_id: HeaderValue::from_static("0123456789abcdef0123456789abcdef"),
        },
        attributes: Attributes::default(),
        client_request_id: None,
    })
}

/// A worker reduced to what a chain asks of it.
#[derive(Default)]
struct Bench {
    pools: Pools,
    seconds: RefCell<f64>,
}

impl Floor for Bench {
    fn guests(&self, filter: &Arc<Filter>, _slot: usize) -> Rc<Pool> {
        self.pools.of(filter)
    }

    fn called(&self, _step: &Step, _hook: Hook, took: Duration) {
        *self.seconds.borrow_mut() += took.as_secs_f64();
    }

    fn failed(&self, step: &Step, _hook: Hook, _policy: OnFailure, failure: Failure, detail: &str) {
        panic!("{}: {failure:?}: {detail}", step.name);
    }

    fn counted(&self, _step: &Step, _metrics: Vec<GuestMetric>) {}
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime can be built")
}

fn engine() -> Engine {
    let reservation = Reservation {
        instances: 64,
        memory_bytes: 64 << 20,
    };
    Engine::new(reservation).expect("the reservation fits")
}

fn component() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../filters/target/components/touch.wasm")
}

fn load(engine: &Engine, runtime: &Runtime, reuse: u32) -> Arc<Filter> {
    let bytes = Artifact::read(&component()).expect("`make filters` has been run");
    let artifact = Arc::new(Artifact::compile(engine, &bytes).expect("the component compiles"));
    let limits = Limits {
        memory: 16 << 20,
        cpu_ticks: 10,
        wall: Duration::from_millis(100),
        instances_per_worker: 16,
        header_bytes: 64 << 10,
        log_lines: 100,
        reuse,
    };
    let loading = Filter::load(engine, artifact, "touch", "null".into(), &[], limits, OnFailure::Closed);
    Arc::new(runtime.block_on(loading).expect("the component loads"))
}

fn guest_step(filter: &Arc<Filter>) -> Step {
    Step {
        name: "touch".into(),
        index: 0,
        kind: StepKind::Wasm(Arc::clone(filter), 0),
    }
}

fn native_step() -> Step {
    let config = serde_json::json!({"request": {"set": {"x-filter": "1"}}});
    Step {
        name: "headers".into(),
        index: 0,
        kind: StepKind::Native(native::build("headers", &config).expect("the filter's configuration is good")),
    }
}

/// Request halves of `chain`, forward; nothing waits, so the runtime only lends its context.
fn walk(criterion: &mut Criterion, name: &str, runtime: &Runtime, chain: &Chain) {
    let (bench, none) = (Bench::default(), Chain::default());
    criterion.bench_function(name, |bencher| {
        bencher.iter_custom(|count| {
            runtime.block_on(async {
                let mut message = Some(message());
                let start = Instant::now();
                for _ in 0..count {
                    let mut walk = Walk::default();
                    let reply = walk.forward(&bench, [&none, chain], &mut message).await;
                    assert!(matches!(reply, Ok(None)), "no filter here replies or fails");
                }
                start.elapsed()
            })
        });
    });
}

fn chains(criterion: &mut Criterion) {
    let (runtime, engine) = (runtime(), engine());
    let guest = load(&engine, &runtime, 1000);
    for count in [0, 1, 3] {
        let steps = (0..count).map(|_| native_step()).collect();
        walk(criterion, &format!("chain/native/{count}"), &runtime, &Chain { steps });
    }
    for count in [1, 3] {
        let steps = (0..count).map(|_| guest_step(&guest)).collect();
        walk(criterion, &format!("chain/wasm/{count}"), &runtime, &Chain { steps });
    }
    let fresh = load(&engine, &runtime, 1);
    let steps = vec![guest_step(&fresh)];
    walk(criterion, "chain/wasm/fresh instance", &runtime, &Chain { steps });
}

/// One hook of a guest in hand: no lease, no chain.
fn call(criterion: &mut Criterion) {
    let (runtime, engine) = (runtime(), engine());
    let filter = load(&engine, &runtime, u32::MAX);
    let pool = Pools::default().of(&filter);
    criterion.bench_function("wasm/call", |bencher| {
        bencher.iter_custom(|count| {
            runtime.block_on(async {
                let mut message = Some(message());
                let mut lease = pool.lease().await.expect("an instance is free");
                let start = Instant::now();
                for _ in 0..count {
                    let verdict = lease.call(Hook::RequestHead, &mut message).await;
                    assert!(verdict.is_ok(), "the guest does not fail");
                }
                let elapsed = start.elapsed();
                lease.put_back();
                elapsed
            })
        });
    });
    let fresh = load(&engine, &runtime, 1);
    let pool = Pools::default().of(&fresh);
    criterion.bench_function("wasm/instantiate", |bencher| {
        bencher.iter_custom(|count| {
            runtime.block_on(async {
                let start = Instant::now();
                for _ in 0..count {
                    drop(pool.lease().await.expect("an instance can be made"));
                }
                start.elapsed()
            })
        });
    });
    let bytes = Artifact::read(&component()).expect("`make filters` has been run");
    criterion.bench_function("wasm/compile", |bencher| {
        bencher.iter(|| Artifact::compile(&engine, black_box(&bytes)).expect("the component compiles"));
    });
}

fn routes(criterion: &mut Criterion) {
    let pattern = |number: usize| Pattern {
        hosts: vec![HostPattern::Exact(format!("tenant{}.example", number / 4))],
        path: Some(PathPattern::Prefix(format!("/v{}/", number % 4))),
        ..Pattern::default()
    };
    let headers = HeaderMap::new();
    for count in [3, 10_000] {
        let table = Table::build((0..count).map(pattern).collect()).expect("the patterns compile");
        let host = format!("tenant{}.example", (count - 1) / 4);
        let target = Target {
            host: &host,
            path: "/v2/things/7",
            query: None,
            method: &Method::GET,
            headers: &headers,
        };
        assert!(table.find(&target).is_some(), "the request has a route");
        criterion.bench_function(&format!("route/{count}"), |bencher| {
            bencher.iter(|| table.find(black_box(&target)))
        });
    }
}

/// A file of many routes and one component, as text, as a configuration, as a generation.
fn configuration(criterion: &mut Criterion) {
    let mut text = format!(
        "listeners: {{ web: {{ address: 127.0.0.1:0 }} }}\nclusters: {{ app: {{ endpoints: [127.0.0.1:9000] }} }}\n\
         filters: {{ touch: {{ component: {} }} }}\nroutes:\n",
        component().display()
    );
    for number in 0..100 {
        text += &format!("  - {{ match: {{ path: {{ prefix: /r{number}/ }} }}, filters: [touch], cluster: app }}\n");
    }
    let parse =
        || tamis_config::parse(&text, Path::new("bench.yaml"), &tamis_config::System).expect("the text is good");
    criterion.bench_function("config/load 100 routes", |bencher| bencher.iter(|| black_box(parse())));
    let (runtime, config) = (runtime(), parse());
    let mut assembler = Assembler::new(engine(), 2);
    let first = runtime
        .block_on(assembler.assemble(&config, 1))
        .expect("the configuration loads");
    assembler.accept(first);
    criterion.bench_function("reload/assemble, nothing changed", |bencher| {
        bencher.iter(|| {
            runtime
                .block_on(assembler.assemble(&config, 2))
                .expect("the configuration loads")
        });
    });
}

criterion_group!(parts, routes, chains, call, configuration);
criterion_main!(parts);
