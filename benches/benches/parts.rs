//! What the parts cost, one by one: `cargo bench -p tamis-benches`. The whole is measured by `compare`.

use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Version};
use tamis::assemble::Assembler;
use tamis::cluster::Asker;
use tamis::head::{Attributes, Clusters, Facts, Message, RequestHead, Stage};
use tamis::name::Name;
use tamis::outbound::Desk;
use tamis::passage::{Forward, Passage};
use tamis::route::{HostPattern, PathPattern, Pattern, Table, Target};
use tamis::wasm::{Artifact, Engine, Loan, OnRequestHead, Pools};
use tamis::worker::{Live, Scene, Worker};
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
        stage: Stage::Request,
        facts: Facts {
            client: None,
            local: None,
            tls: None,
            listener: Name::new("web"),
            route: Some(Name::new("api")),
            request_id: HeaderValue::from_static("0123456789abcdef0123456789abcdef"),
        },
        attributes: Attributes::default(),
        clusters: Clusters::default(),
        passes_body: false,
        client_request_id: None,
    })
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime can be built")
}

/// What is loaded from a configuration, without a process around it.
fn assembled(text: &str) -> (tamis_config::Config, Assembler) {
    let config = tamis_config::parse(text, Path::new("bench.yaml"), &tamis_config::System).expect("the text is good");
    let compiler = Assembler::compiler(&config).expect("the reservation fits");
    (config, Assembler::new(compiler, 1))
}

fn component() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../filters/target/components/touch.wasm")
}

/// One route with these filters, each the usual component or its native twin.
fn configured(filters: &[&str], reuse: u32) -> String {
    let touch = component();
    let names: Vec<String> = (0..filters.len()).map(|number| format!("f{number}")).collect();
    let mut text =
        String::from("wasm: { max_instances: 64 }\nlisteners: { web: { address: 127.0.0.1:0 } }\nfilters:\n");
    for (name, kind) in names.iter().zip(filters) {
        text += &match *kind {
            "wasm" => format!(
                "  {name}: {{ component: \"{}\", instance_reuse: {reuse} }}\n",
                touch.display()
            ),
            _ => format!("  {name}: {{ native: headers, config: {{ request: {{ set: {{ x-filter: \"1\" }} }} }} }}\n"),
        };
    }
    if filters.is_empty() {
        text = text.replace("filters:\n", "");
    }
    let chain = names.join(", ");
    text + &format!(
        "clusters: {{ app: {{ endpoints: [127.0.0.1:9000] }} }}\nroutes: [{{ filters: [{chain}], cluster: app }}]\n"
    )
}

/// A worker of this configuration, and its current generation.
fn worker(runtime: &Runtime, text: &str) -> Rc<Worker> {
    let (config, assembler) = assembled(text);
    let loading = assembler.assemble(&config, 1);
    let snapshot = runtime.block_on(loading).expect("the configuration loads").snapshot;
    let (desk, _) = Desk::new();
    Rc::new(Worker::new(0, Arc::new(Live::new(Arc::new(snapshot))), "bench", desk))
}

/// Request halves of a chain, forward; nothing waits, so the runtime only lends its context.
fn walk(criterion: &mut Criterion, name: &str, runtime: &Runtime, text: &str) {
    let worker = worker(runtime, text);
    criterion.bench_function(name, |bencher| {
        bencher.iter_custom(|count| {
            runtime.block_on(async {
                let mut message = Some(message());
                let start = Instant::now();
                for _ in 0..count {
                    let scene = Scene {
                        worker: Rc::clone(&worker),
                        pinned: worker.pin(),
                        listener: 0,
                        route: Some(0),
                    };
                    let passage = Passage::new(scene, message.take().expect("it is back"));
                    let mut clock = Instant::now();
                    for step in passage.steps() {
                        let forward = passage.forward(step, &mut clock).await;
                        assert!(
                            matches!(forward, Ok(Forward::Proceed { .. })),
                            "no filter here replies or fails"
                        );
                    }
                    message = passage.message().take();
                }
                start.elapsed()
            })
        });
    });
}

fn chains(criterion: &mut Criterion) {
    let runtime = runtime();
    for count in [0, 1, 3] {
        let text = configured(&vec!["native"; count], 1000);
        walk(criterion, &format!("chain/native/{count}"), &runtime, &text);
    }
    for count in [1, 3] {
        let text = configured(&vec!["wasm"; count], 1000);
        walk(criterion, &format!("chain/wasm/{count}"), &runtime, &text);
    }
    walk(
        criterion,
        "chain/wasm/fresh instance",
        &runtime,
        &configured(&["wasm"], 1),
    );
}

/// One hook of a guest in hand, and the making of a guest: no chain.
fn call(criterion: &mut Criterion) {
    let runtime = runtime();
    let guests = |reuse| {
        let (config, assembler) = assembled(&configured(&["wasm"], reuse));
        let loading = assembler.assemble(&config, 1);
        let snapshot = runtime.block_on(loading).expect("the configuration loads").snapshot;
        Pools::new(Desk::new().0).of(&snapshot.guests[0])
    };
    let pool = guests(u32::from(u16::MAX));
    criterion.bench_function("wasm/call", |bencher| {
        bencher.iter_custom(|count| {
            runtime.block_on(async {
                let mut message = Some(message());
                let mut lease = match pool.lease() {
                    Some(rested) => rested,
                    None => Rc::clone(&pool).lease_slowly().await.expect("an instance starts"),
                };
                let start = Instant::now();
                for _ in 0..count {
                    let loan = Loan {
                        home: &mut message,
                        cpu: Duration::from_millis(10),
                    };
                    assert!(
                        lease.ask_in_place(OnRequestHead, loan).is_ok(),
                        "the guest does not fail"
                    );
                }
                let elapsed = start.elapsed();
                lease.put_back();
                elapsed
            })
        });
    });
    let fresh = guests(1);
    criterion.bench_function("wasm/instantiate", |bencher| {
        bencher.iter_custom(|count| {
            runtime.block_on(async {
                let start = Instant::now();
                for _ in 0..count {
                    drop(Rc::clone(&fresh).lease_slowly().await.expect("an instance can be made"));
                }
                start.elapsed()
            })
        });
    });
    let (config, _) = assembled(&configured(&[], 1));
    let engine = Engine::new(Assembler::reservation(&config)).expect("the reservation fits");
    let bytes = Artifact::read(&component(), u64::MAX).expect("`make filters` has been run");
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
            certificate: None,
        };
        assert!(table.find(&target).is_some(), "the request has a route");
        criterion.bench_function(&format!("route/{count}"), |bencher| {
            bencher.iter(|| table.find(black_box(&target)))
        });
    }
}

/// The choice of an endpoint, of one and of many, as an exchange makes it.
fn picks(criterion: &mut Criterion) {
    let runtime = runtime();
    let headers = HeaderMap::new();
    for policy in ["round_robin", "least_request", "random", "ring_hash", "maglev"] {
        for count in [1, 3, 1000] {
            let endpoint = |number: usize| format!("10.0.{}.{}:80", number >> 8, number & 255);
            let listed: Vec<String> = (0..count).map(endpoint).collect();
            let hash = match policy {
                "ring_hash" | "maglev" => ", hash_key: path",
                _ => "",
            };
            let text = format!(
                "listeners: {{ web: {{ address: 127.0.0.1:0 }} }}\nroutes: [{{ cluster: app }}]\nclusters: {{ app: {{ \
                 endpoints: [{}], load_balancing: {policy}{hash} }} }}\n",
                listed.join(", ")
            );
            let worker = worker(&runtime, &text);
            let pool = worker.pin().upstreams(&worker, 0);
            let asker = Asker {
                client: None,
                path: "/v1/things/7",
                headers: &headers,
                is_secure: false,
            };
            let asker = pool.cluster.asks().then_some(&asker);
            criterion.bench_function(&format!("pick/{policy}/{count}"), |bencher| {
                bencher.iter(|| pool.pick(black_box(asker), &[], || worker.random()).is_some())
            });
        }
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
    let (config, mut assembler) = assembled(&text);
    let parse =
        || tamis_config::parse(&text, Path::new("bench.yaml"), &tamis_config::System).expect("the text is good");
    criterion.bench_function("config/load 100 routes", |bencher| bencher.iter(|| black_box(parse())));
    let runtime = runtime();
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

criterion_group!(parts, routes, picks, chains, call, configuration);
criterion_main!(parts);
