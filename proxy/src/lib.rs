//! Tamis: a reverse proxy that sifts every request and response through a chain of filters.
//!
//! # Life of a request, in the order of the files
//!
//! 1. [`listener`] accepts a connection in the thread that will serve it ([`worker`]), within the listener's limits. A
//!    balancer in front may say first for whom it is ([`proxy_protocol`]); no address takes more than its share
//!    ([`census`]). If the listener speaks [`tls`], the [`handshake`] comes next, in the connection's own task; what it
//!    tells of the client ([`peer`]) every exchange knows. From then on the [`stream`] is as plain as any other.
//! 2. [`gateway`] gives the [`connection`] to hyper. Bytes pass through [`wire`], which keeps the deadlines and lets [`scan`] look at
//!    each head before hyper parses it. Each parsed request becomes an [`exchange`]. A client that begins with the preface
//!    of HTTP/2 goes to [`http2`] instead, where many exchanges share a connection and each has a [`lane`] of its own.
//! 3. [`exchange`] pins the current [`snapshot`], the one immutable generation that this request will see to its end.
//! 4. [`guard`] judges the head (sizes, framing, authority) and normalises authority and path, once. What is more than
//!    the process can take on ends here ([`overload`]).
//! 5. [`route`] finds the route: first match wins. The route carries its chain and its action. What trusted proxies say
//!    of the client is believed, or not, here and once: [`identity`].
//! 6. [`hop`] removes hop-by-hop fields and sets `x-forwarded-*`.
//! 7. [`passage`] takes the request forward through the listener's [`chain`] and then the route's: native filters
//!    ([`native`]) and components ([`wasm`]) alike, all on one [`head::Message`]. A filter that filters bodies puts its
//!    [`stage`] in the way. The first reply ends the way forward. Guests call others through [`outbound`], keep things in
//!    the [`store`], and are spared while their [`breaker`] is open. A middleware of [`wasm::http`] is handed the whole
//!    request, and has the exchange in its hands until it passes that on. Of a filter with a candidate, the [`trial`] says
//!    which version an exchange meets.
//! 8. What the route [rewrites](rewrite) (path, host, header [`edits`]) the upstream alone will see; a [`mirror`] gets a
//!    copy. Where the route tries again, [`retry`] says when, and the body comes from a [`replay`].
//!    The [`cluster`] has [`endpoint`]s, of which [`balance`] picks one, or a [`sticky`] cookie; [`pool`] gives a
//!    connection to it, within the cluster's limits; [`upstream`] sends the request and reads the response, both of
//!    which are bytes in [`h1`], or a stream of [`http2`]; the [`body`] streams through. Small writes to a [`stream`] wait in the [`outbox`] for
//!    the end of the round.
//!    Where a component stands in the place of servers ([`wasm::http`]), a place in an instance is what a connection is
//!    elsewhere, and a [`service`] fault what a reset is.
//!    A request that asks for another protocol, and is answered with it, makes a [`tunnel`] of both connections, or
//!    streams of HTTP/2; where one side is one and one the other, [`websocket`] has the keys that only HTTP/1.1 knows.
//! 9. The response head goes back through the [`passage`] in reverse: only filters whose request half ran, for every
//!    answer.
//! 10. Errors, wherever they come from, become an answer in [`reply`], or a status of [`grpc`].
//! 11. The response's body streams to the client; with its last byte the exchange is dropped, which counts it,
//!     tells the filters its outcome, and writes its record ([`telemetry`]).
//!
//! # Two planes
//!
//! The *control plane* may block and may fail with a paragraph: `tamis_config` parses, [`assemble`] builds a snapshot,
//! [`reload`] swaps the pointer, [`watch`] pulls its [`trigger`], [`difference`] and [`report`] say what came of it,
//! [`generations`] keeps what was replaced until nobody is on it, [`court`] has candidates judged by the rules of
//! [`canary`], [`upkeep`] has endpoints found ([`discovery`]), asked ([`health`]) and left alone ([`outlier`]),
//! [`memory`] says when load has to be shed,
//! [`admin`] answers operators, [`server`] owns the process, [`handover`] gives its place to a new one,
//! [`state`] keeps what outlives it, [`priority`] has all this give way to exchanges, [`supervisor`] tells the service
//! manager; [`serve`] and [`demo`] write a configuration for whoever has none; [`toolbox`] is for whoever writes a
//! filter, and serves nobody; [`terminal`] is where commands print. The *data plane* (everything above) never
//! compiles, never locks to read configuration, never panics by input. They share one atomic pointer, and commands that
//! are never sent per request.
//!
//! What is deliberately absent: the data plane does not know `tamis_config`; only [`wasm`] names wasmtime, only [`tls`]
//! rustls; only [`gateway`] names hyper's server types on the data plane, only [`http2`] the `h2` crate, and nobody
//! hyper's client; [`h1`] knows no socket, clock or engine; nothing points back at `gateway`, `server` or `main`;
//! `filter`, `chain` and `head` know no engine, no socket and no runtime.

#![deny(unsafe_code)]

pub mod address;
pub mod admin;
pub mod assemble;
pub mod balance;
pub mod body;
pub mod breaker;
pub mod canary;
pub mod census;
pub mod chain;
pub mod cluster;
pub mod connection;
pub mod counted;
pub mod court;
pub mod demo;
pub mod descriptors;
pub mod difference;
pub mod discovery;
pub mod edits;
pub mod endpoint;
pub mod exchange;
pub mod filter;
pub mod gateway;
pub mod generations;
pub mod grpc;
pub mod guard;
pub mod h1;
pub mod handover;
pub mod handshake;
pub mod head;
pub mod health;
pub mod hop;
pub mod http2;
pub mod identity;
pub mod lane;
pub mod listener;
pub mod memory;
pub mod mirror;
pub mod name;
pub mod native;
pub mod operations;
pub mod outbound;
pub mod outbox;
pub mod outlier;
pub mod overload;
pub mod panics;
pub mod passage;
pub mod peer;
pub mod permits;
pub mod pool;
pub mod priority;
pub mod proxy_protocol;
pub mod reload;
pub mod replay;
pub mod reply;
pub mod report;
pub mod retry;
pub mod rewrite;
pub mod route;
pub mod scan;
pub mod serve;
pub mod server;
pub mod service;
pub mod snapshot;
pub mod stage;
pub mod state;
pub mod sticky;
pub mod store;
pub mod stream;
pub mod supervisor;
pub mod telemetry;
pub mod terminal;
pub mod tick;
pub mod timer;
pub mod tls;
pub mod toolbox;
pub mod trial;
pub mod trigger;
pub mod tunnel;
pub mod upkeep;
pub mod upstream;
pub mod wasm;
pub mod watch;
pub mod websocket;
pub mod wire;
pub mod worker;
