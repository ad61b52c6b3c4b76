//! `changes`: what a change of a running Tamis takes, and what traffic feels of it.
//!
//! Four figures, each from one process and one run: how long from the write of a component to the first request that it
//! serves; how long from validated to live; what a storm of reloads does to the latency of ordinary requests, beside
//! stretches of the same run without one; and how long a large configuration takes of which one route changed. Nothing
//! is pinned: reading and compiling compete with the traffic for the same cores, as they would in service.

use std::env;
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use serde_json::Value;
use tamis_benches::machine::Machine;
use tamis_benches::peer::{self, Surroundings};
use tamis_benches::probe::{self, Touch};
use tamis_benches::program::{self, Program};
use tamis_benches::service::{Interrupt, Service};
use tamis_benches::visitor::{Answer, Visitor};
use tamis_benches::work::Work;

const CORES: &str = "0-1";
const TEMPLATE: &str = include_str!("../../peers/tamis-changes.yaml");
/// Clients of the ordinary traffic, and how long each waits between two requests: far from what the proxy can take, so
/// that its latency is its own and not a queue's.
const CLIENTS: usize = 4;
const THINK: Duration = Duration::from_millis(1);
const STORM_NICENESS: i32 = 10;
/// A change that nobody sees within this is lost.
const PATIENCE: Duration = Duration::from_secs(20);
/// A chain holds few of the many filters; each route of the large configuration has one.
const MANY_FILTERS: usize = 500;
const MANY_ROUTES: usize = 10_000;

/// Measure what a change of a running Tamis takes, and what traffic feels of it.
///
/// Needs the apt package nginx, and the components that `make filters` builds. Everything listens on 127.0.0.1 only
/// and ends with this program.
#[derive(Parser)]
#[command(name = "changes", version)]
struct Arguments {
    /// The tamis binary [default: the one beside this program]
    #[arg(long, value_name = "FILE")]
    tamis: Option<PathBuf>,
    /// Folder of the filter components; touch.wasm, pass.wasm and tenant.wasm are used
    #[arg(long, value_name = "FOLDER", default_value = "filters/target/components")]
    components: PathBuf,
    /// Changes of one component
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    changes: u32,
    /// Stretches with a storm of reloads, each beside one without
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Length of one stretch
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,
}

fn main() -> ExitCode {
    match measure(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("changes: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn measure(arguments: &Arguments) -> Result<()> {
    let beside = env::current_exe()
        .context("cannot find this program")?
        .with_file_name("tamis");
    let tamis = Program::tamis(arguments.tamis.as_deref().unwrap_or(&beside))?;
    for wrapper in ["taskset", "setpriv"] {
        program::require(wrapper, "util-linux")?;
    }
    let interrupt = Interrupt::install()?;
    // Declared before the services, so that it is removed after they have ended.
    let folder = tempfile::Builder::new().prefix("changes-").tempdir()?;
    let mut ports = peer::free_ports(3)?.into_iter();
    let mut port = || ports.next().context("no free port");
    let place = Place {
        folder: folder.path(),
        components: fs::canonicalize(&arguments.components).context("no folder of components; run `make filters`")?,
        origin: port()?,
        web: port()?,
        admin: port()?,
    };
    let surroundings = Surroundings {
        work: Work::Http1,
        connections: 1,
        folder: place.folder,
        origin_port: place.origin,
        tamis: &tamis.path,
        components: &place.components,
    };
    let origin = peer::origin(&surroundings)?;
    let mut origin_service = Service::start("origin", &origin.command, CORES, place.folder)?;
    origin_service.wait_until_listening(place.origin, &interrupt)?;

    place.put("touch")?;
    place.write(&Size::SMALL, 0)?;
    let mut proxy = place.start("tamis", &tamis, &interrupt)?;
    probe::run(place.web, Touch::Header, Work::Http1)?;
    let mut text = one_component(&place, arguments.changes)?;
    text.push_str(&storm(&place, arguments)?);
    proxy.usage()?;
    drop(proxy);

    place.write(&Size::LARGE, 0)?;
    let _proxy = place.start("tamis-large", &tamis, &interrupt)?;
    text.push_str(&large(&place)?);
    let machine = Machine::here_and_now()?;
    let version = tamis.version()?.version;
    writeln!(
        text,
        "\n{}, {}, {} cores, Linux {}, Tamis {version}.",
        machine.date, machine.cpu_model, machine.cores, machine.kernel
    )?;
    std::io::stdout().write_all(text.as_bytes()).context("cannot print")
}

/// Where everything is.
struct Place<'a> {
    folder: &'a Path,
    components: PathBuf,
    origin: u16,
    web: u16,
    admin: u16,
}

/// What a configuration holds besides the one filter and the one route that are used.
struct Size {
    filters: usize,
    routes: usize,
}

impl Size {
    const SMALL: Self = Self { filters: 0, routes: 1 };
    const LARGE: Self = Self {
        filters: MANY_FILTERS,
        routes: MANY_ROUTES,
    };
}

impl Place<'_> {
    /// Replaces the component that changes.
    fn put(&self, component: &str) -> Result<()> {
        let (from, next) = (self.component(component), self.folder.join("next.wasm"));
        fs::copy(&from, &next).with_context(|| format!("cannot copy {}; run `make filters`", from.display()))?;
        fs::rename(&next, self.folder.join("changing.wasm")).context("cannot replace the component")
    }

    fn component(&self, name: &str) -> PathBuf {
        self.components.join(format!("{name}.wasm"))
    }

    /// Replaces the configuration by one of this size; every number makes another one.
    fn write(&self, size: &Size, number: usize) -> Result<()> {
        let component = self.component("tenant");
        let mut filters = String::new();
        for filter in 0..size.filters {
            writeln!(
                filters,
                "  f{filter}: {{ component: {component:?}, config: {{ header: x-tenant, allow: [t{filter}] }} }}"
            )?;
        }
        let mut routes = String::new();
        for route in 0..size.routes {
            let chain = match size.filters {
                0 => String::new(),
                filters => format!("filters: [f{}], ", route % filters),
            };
            let body = if route == 0 { number } else { 0 };
            writeln!(
                routes,
                "  - {{ name: r{route}, match: {{ path: {{ prefix: /r{route} }} }}, {chain}respond: {{ status: 200, body: \"{body}\" }} }}"
            )?;
        }
        let mut text = TEMPLATE.to_owned();
        for (key, value) in [
            ("@FOLDER@", self.folder.display().to_string()),
            ("@PORT@", self.web.to_string()),
            ("@ADMIN_PORT@", self.admin.to_string()),
            ("@ORIGIN_PORT@", self.origin.to_string()),
            ("@FILTERS@\n", filters),
            ("@ROUTES@\n", routes),
        ] {
            text = text.replace(key, &value);
        }
        let next = self.folder.join("next.yaml");
        fs::write(&next, text).context("cannot write the configuration")?;
        fs::rename(&next, self.folder.join("tamis.yaml")).context("cannot replace the configuration")
    }

    fn start(&self, name: &str, tamis: &Program, interrupt: &Interrupt) -> Result<Service> {
        let command = [
            tamis.path.as_os_str(),
            "run".as_ref(),
            "-c".as_ref(),
            self.folder.join("tamis.yaml").as_os_str(),
        ]
        .map(ToOwned::to_owned);
        let mut service = Service::start(name, &command, CORES, self.folder)?;
        service.wait_until_listening(self.web, interrupt)?;
        service.wait_until_listening(self.admin, interrupt)?;
        Ok(service)
    }

    /// The admin endpoint closes its connections.
    fn admin(&self, method: &str, path: &str) -> Result<Answer> {
        Visitor::connect(self.admin)?.ask(method, path)
    }

    /// `POST /reload`; the report, and how long it took as the caller sees it.
    fn reload(&self) -> Result<(Value, Duration)> {
        let answer = self.admin("POST", "/reload")?;
        let text = String::from_utf8_lossy(&answer.body);
        ensure!(answer.status == 200, "a reload was refused: {text}");
        Ok((serde_json::from_str(&text)?, answer.took))
    }
}

/// From the rename of a component, whose code is in the cache, to the first request that it serves.
fn one_component(place: &Place<'_>, changes: u32) -> Result<String> {
    let mut visitor = Visitor::connect(place.web)?;
    let (mut served, mut swaps, mut compiled) = (Vec::new(), Vec::new(), 0.0);
    // What is changed to is seen by the field that only one of the two sets.
    let versions = [("pass", "x-filter=[]"), ("touch", "x-filter=[1]")];
    for change in 0..changes as usize + versions.len() {
        let (component, mark) = versions[change % versions.len()];
        place.put(component)?;
        let written = Instant::now();
        while !String::from_utf8_lossy(&visitor.ask("GET", "/probe")?.body).contains(mark) {
            ensure!(written.elapsed() < PATIENCE, "the change to {component} is not seen");
            thread::sleep(Duration::from_micros(200));
        }
        let took = written.elapsed();
        let config: Value = serde_json::from_slice(&place.admin("GET", "/config")?.body)?;
        let report = &config["last_reload"];
        // The first of each fill the cache.
        if change >= versions.len() {
            served.push(took.as_secs_f64() * 1e3);
            swaps.push(report["took_ms"]["swap"].as_f64().context("no time of the swap")?);
            compiled += report["compiled"]
                .as_f64()
                .context("no number of compiled components")?;
        }
    }
    Ok(format!(
        "one component, compiled before, from its rename to the first request that it serves: {}; compiled {compiled}\n\
         from ready to live: {}\n",
        spread(&mut served, "ms"),
        spread(&mut swaps, "ms"),
    ))
}

/// Latencies of ordinary requests during reload after reload, beside those of quiet stretches.
fn storm(place: &Place<'_>, arguments: &Arguments) -> Result<String> {
    let length = Duration::from_secs(arguments.seconds);
    let (mut quiet, mut stormy) = (Vec::new(), Vec::new());
    let mut reloads = 0;
    for round in 1..=arguments.rounds {
        quiet.append(&mut traffic(place.web, length)?);
        let stop = AtomicBool::new(false);
        let before = reloads;
        let (latencies, after) = thread::scope(|scope| {
            let storm = scope.spawn(|| reload_until(place, &stop, before));
            let latencies = traffic(place.web, length);
            stop.store(true, Ordering::Relaxed);
            (latencies, storm.join().expect("the storm does not panic"))
        });
        reloads = after?;
        stormy.append(&mut latencies?);
        eprintln!("round {round}/{}: {reloads} reloads so far", arguments.rounds);
    }
    let [quiet, stormy] = [quiet, stormy].map(|mut latencies| {
        latencies.sort_unstable_by(f64::total_cmp);
        latencies
    });
    let mut text = format!(
        "{} requests, then {} during {reloads} reloads:",
        quiet.len(),
        stormy.len()
    );
    for (name, part) in [("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999)] {
        let (before, during) = (quantile(&quiet, part), quantile(&stormy, part));
        write!(text, " {name} {before:.0} -> {during:.0} us ({:.2})", during / before)?;
    }
    text.push('\n');
    Ok(text)
}

/// Changes the configuration, and every fourth time the component, as fast as the answers come.
fn reload_until(place: &Place<'_>, stop: &AtomicBool, mut number: usize) -> Result<usize> {
    // Whoever makes the storm must not hold up those who measure it; without the right to, it does.
    let _ = rustix::process::nice(STORM_NICENESS);
    while !stop.load(Ordering::Relaxed) {
        number += 1;
        place.write(&Size::SMALL, number)?;
        if number.is_multiple_of(4) {
            place.put(if number.is_multiple_of(8) { "touch" } else { "pass" })?;
        }
        place.reload()?;
    }
    Ok(number)
}

/// Latencies in microseconds.
fn traffic(port: u16, length: Duration) -> Result<Vec<f64>> {
    let client = move || {
        let mut visitor = Visitor::connect(port)?;
        let mut latencies = Vec::new();
        let end = Instant::now() + length;
        while Instant::now() < end {
            let answer = visitor.ask("GET", "/")?;
            ensure!(answer.status == 200, "a request was answered {}", answer.status);
            latencies.push(answer.took.as_secs_f64() * 1e6);
            thread::sleep(THINK);
        }
        Ok(latencies)
    };
    let clients: Vec<_> = (0..CLIENTS).map(|_| thread::spawn(client)).collect();
    let mut all = Vec::new();
    for client in clients {
        all.append(&mut client.join().expect("a client does not panic")?);
    }
    Ok(all)
}

/// One route changes of very many.
fn large(place: &Place<'_>) -> Result<String> {
    let (mut reloaded, mut answered, mut compiled) = (Vec::new(), Vec::new(), 0.0);
    for number in 1..=5 {
        place.write(&Size::LARGE, number)?;
        let (report, took) = place.reload()?;
        let phases = report["took_ms"].as_object().context("no times in the report")?;
        reloaded.push(phases.values().filter_map(Value::as_f64).sum());
        answered.push(took.as_secs_f64() * 1e3);
        compiled += report["compiled"]
            .as_f64()
            .context("no number of compiled components")?;
    }
    Ok(format!(
        "{MANY_FILTERS} filters and {MANY_ROUTES} routes, one route changed: live after {}, reported after {}; compiled {compiled}\n",
        spread(&mut reloaded, "ms"),
        spread(&mut answered, "ms"),
    ))
}

/// Median and extremes.
fn spread(values: &mut [f64], unit: &str) -> String {
    values.sort_unstable_by(f64::total_cmp);
    let (median, least, most) = (quantile(values, 0.5), quantile(values, 0.0), quantile(values, 1.0));
    format!("{median:.3} {unit} ({least:.3} to {most:.3})")
}

fn quantile(sorted: &[f64], part: f64) -> f64 {
    let last = sorted.len().saturating_sub(1);
    let at = (part * last as f64).round() as usize;
    sorted.get(at).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_arguments_are_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn quantiles_are_values_that_were_measured() {
        let sorted: Vec<f64> = (0..=100).map(f64::from).collect();
        assert_eq!(
            [0.0, 0.5, 0.99, 1.0].map(|part| quantile(&sorted, part)),
            [0.0, 50.0, 99.0, 100.0]
        );
        assert!(quantile(&[], 0.5).is_nan());
        assert_eq!(spread(&mut [3.0, 1.0, 2.0], "ms"), "2.000 ms (1.000 to 3.000)");
    }
}
