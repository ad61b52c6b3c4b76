//! The `tamis` command: arguments, logging, exit status. Control plane.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use tamis::address::Address;
use tamis::admin;
use tamis::report::Report;
use tamis::state::{self, Fallback};
use tamis::{demo, handover, serve, server, toolbox};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

/// glibc's allocator took about 4 % of the samples in a profile of plain proxying; this one took about 2 %.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A reverse proxy that sifts every request and response through a chain of filters.
///
/// A filter is a sandboxed WebAssembly component, or one of the built-in ones. Configuration is one YAML file; a change
/// of it, or of a component that it names, is taken over while traffic flows.
#[derive(Parser)]
#[command(
    version,
    propagate_version = true,
    after_help = "Start with `tamis demo`, or `tamis serve` if you have a component of wasi:http. The configuration's JSON Schema: `tamis schema`."
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve a configuration until a signal ends it
    ///
    /// SIGTERM and SIGQUIT drain: readiness flips, after `drain_delay` the listeners close, every further answer says
    /// `Connection: close`, a connection without a request is closed after a second, exchanges in flight finish within
    /// `drain_timeout`; exit status 0. A second one, or SIGINT, ends at once. SIGHUP reads the configuration again and
    /// reopens the access log. SIGUSR2 hands over to a new process of the same program, as `tamis upgrade` does.
    Run {
        #[command(flatten)]
        file: File,
        #[command(flatten)]
        state: State,
        #[command(flatten)]
        logging: Logging,
    },
    /// Check a configuration and load every filter that it names, without serving
    ///
    /// Exit status 0 when it would be served, 1 otherwise, with every error and its place on standard error. With
    /// `--against` it also says what a reload would change in a running process, and changes nothing; exit status 1
    /// when the reload would be refused.
    Check {
        #[command(flatten)]
        file: File,
        /// Compare with the process behind this admin endpoint: ADDRESS:PORT, or unix:/PATH
        #[arg(long, value_name = "ADMIN")]
        against: Option<Address>,
        /// Print the comparison as JSON
        #[arg(long, requires = "against")]
        json: bool,
    },
    /// Serve a built-in configuration with an origin of its own, to try Tamis without any set-up
    Demo {
        /// Where the demo listens
        #[arg(
            long,
            default_value = "127.0.0.1:8080",
            value_name = "IP:PORT",
            value_parser = serve::socket_address
        )]
        listen: SocketAddr,
        /// Where its admin endpoint listens; `off` for none
        #[arg(long, default_value = "127.0.0.1:9901", value_name = "IP:PORT")]
        admin: demo::Admin,
        #[command(flatten)]
        logging: Logging,
    },
    /// Serve one component of wasi:http, without a configuration
    ///
    /// For whoever writes one: any service of WASI 0.2 (`wasi:http/incoming-handler`) or 0.3 (`wasi:http/handler`), as it
    /// is. It may use clocks, random numbers and its standard output, which goes to the log, unless `--grant` says
    /// otherwise; no files, no sockets, and requests of its own to `--http` alone. When the file changes, the new
    /// component serves as soon as it is compiled, and the old one until then, or on if the new one does not load.
    /// Ctrl-C finishes what has begun, within 10 seconds; a second one ends at once.
    Serve {
        #[command(flatten)]
        options: serve::Options,
        #[command(flatten)]
        logging: Logging,
    },
    /// Print the JSON Schema of the configuration
    Schema,
    /// Write, build, test and measure filters
    #[command(subcommand)]
    Filter(toolbox::Command),
    /// Have a running process read its configuration again, and say what came of it
    ///
    /// Prints what is different, how long it took and which generation is live, or every error with its place. All or
    /// nothing: after an error the process serves as before. Exit status 0 when what the files say is live.
    Reload {
        /// The process's admin endpoint: ADDRESS:PORT, or unix:/PATH
        #[arg(long, default_value = "127.0.0.1:9901", value_name = "ADDRESS")]
        admin: Address,
        /// Only if this generation is live, as `tamis check --against` and the last reload said it
        #[arg(long, value_name = "GENERATION")]
        expect: Option<u64>,
        /// Print the report as JSON
        #[arg(long)]
        json: bool,
    },
    /// Have a new process take over from a running one, and no connection refused
    ///
    /// Nothing is cut but what outlasts the old process's `drain_timeout`, as a tunnel may; its log says how much.
    ///
    /// The running process starts the new one with its own arguments, environment and folder, and hands it every
    /// listening socket. Once the new one has loaded its configuration, with all that a reload cannot change, and
    /// serves, the old one drains and ends. Whatever fails before, the new one is ended and the old one serves on; exit
    /// status 1. It goes on when this command is interrupted.
    Upgrade {
        /// The `--state` of the running process; its user alone may ask
        #[arg(long, value_name = "FOLDER")]
        state: PathBuf,
        /// The program to start; by default the one at the path that the running process was started from
        #[arg(long, value_name = "FILE")]
        binary: Option<PathBuf>,
        /// How long the new process may take to be ready; large components compile for seconds each
        #[arg(long, value_name = "DURATION", default_value = "2m", value_parser = tamis_config::parse_duration)]
        timeout: Duration,
    },
}

#[derive(Args)]
struct File {
    /// The configuration, a YAML file
    #[arg(short = 'c', long = "config", value_name = "FILE")]
    path: PathBuf,
}

#[derive(Args)]
struct State {
    /// A folder of this user alone for what outlives the process: the socket of `tamis upgrade` and the last good
    /// generation. Nothing is written without it
    #[arg(long = "state", value_name = "FOLDER")]
    folder: Option<PathBuf>,
    /// When the files do not load, serve the last generation that did, and say so in log, readiness and metrics
    #[arg(long, requires = "folder")]
    fallback: bool,
    /// How long a generation has to be live before it counts as good: one that brings the process down does so before
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration_or_none)]
    good_after: Duration,
}

#[derive(Args)]
struct Logging {
    /// How log lines are written to standard error
    #[arg(long, value_enum, default_value = "text")]
    log_format: LogFormat,
    /// What is logged: a level, or levels by target, such as `info,tamis::guest=debug`
    ///
    /// `pingora_core` is at `warn` unless it is named.
    #[arg(long, default_value = "info", env = "TAMIS_LOG", value_name = "FILTER")]
    log: String,
}

#[derive(Clone, Copy, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

/// Targets of the log, and the most that each says unasked: `pingora_core` repeats at `info` what this process says
/// itself, and `notify` warns of folders that are gone, which is for [`tamis::watch`] to deal with.
const LIBRARIES: [(&str, LevelFilter); 2] = [("pingora_core", LevelFilter::WARN), ("notify", LevelFilter::ERROR)];
/// What `--log` is made of.
const LEVELS: &str = "write off, error, warn, info, debug or trace, and TARGET=LEVEL for one target";

/// How long `tamis reload` waits: compiling large components takes seconds each.
const RELOAD_TIMEOUT: Duration = Duration::from_secs(120);
/// How long `tamis check --against` waits for what a process knows already.
const CONFIG_TIMEOUT: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Run { file, state, logging } => {
            let options = server::Options {
                file: file.path,
                state: state.options(),
                interrupt: server::Interrupt::Ends,
            };
            logging.start().and_then(|_guard| server::run(&options))
        }
        Command::Check {
            file,
            against: None,
            json: _,
        } => check(&file.path),
        Command::Check {
            file,
            against: Some(admin),
            json,
        } => check_against(&file.path, &admin, json),
        Command::Demo { listen, admin, logging } => logging.start().and_then(|_guard| demo::run(listen, admin)),
        Command::Serve { options, logging } => logging.start().and_then(|_guard| serve::run(&options)),
        Command::Schema => {
            tamis::tell_line!("{:#}", tamis_config::schema());
            Ok(())
        }
        Command::Filter(command) => toolbox::run(command),
        Command::Reload { admin, expect, json } => reload(&admin, expect, json),
        Command::Upgrade { state, binary, timeout } => {
            let tell = |after: Duration, step: &str| tamis::tell_line!("{:>8.3} s  {step}", after.as_secs_f64());
            handover::client::upgrade(&state, binary.as_deref(), timeout, tell)
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("tamis: {message}");
            ExitCode::FAILURE
        }
    }
}

/// As durations of the configuration are written, and `0s`.
fn duration_or_none(text: &str) -> Result<Duration, String> {
    match text {
        "0s" => Ok(Duration::ZERO),
        _ => tamis_config::parse_duration(text),
    }
}

fn check(path: &std::path::Path) -> Result<(), String> {
    for warning in server::check(path)? {
        eprintln!("warning: {warning}");
    }
    tamis::tell_line!("{}: ok", path.display());
    Ok(())
}

fn check_against(path: &std::path::Path, admin: &Address, json: bool) -> Result<(), String> {
    // First, because loading takes long.
    expect_admin("--against", admin)?;
    let comparison = server::check_against(path, admin)?;
    for warning in &comparison.warnings {
        eprintln!("warning: {warning}");
    }
    if json {
        tamis::tell_line!("{:#}", serde_json::json!(comparison));
    } else {
        tamis::tell!("{}: ok; {comparison}", path.display());
    }
    match &*comparison.needs_restart {
        [] => Ok(()),
        _ => Err("a reload would be refused".to_owned()),
    }
}

fn reload(admin: &Address, expect: Option<u64>, json: bool) -> Result<(), String> {
    let path = expect.map_or("/reload".to_owned(), |generation| {
        format!("/reload?expect={generation}")
    });
    let argument = "--admin";
    let (status, body) =
        admin::post(admin, &path, RELOAD_TIMEOUT).map_err(|error| no_answer(argument, admin, error))?;
    let report: Report = serde_json::from_str(&body).map_err(|error| match is_of_admin(&body, "outcome") {
        true => format!("{argument} {admin}: its report (status {status}) is not understood: {error}"),
        false => no_admin(argument, admin, status),
    })?;
    if json {
        tamis::tell_line!("{:#}", serde_json::json!(report));
    } else {
        tamis::tell!("{report}");
    }
    match report.is_success() {
        true => Ok(()),
        false => Err("what the files say is not live".to_owned()),
    }
}

/// Fails in the words of the argument that says where the admin endpoint is.
fn expect_admin(argument: &str, admin: &Address) -> Result<(), String> {
    let answer = admin::get(admin, "/config", CONFIG_TIMEOUT);
    let (status, body) = answer.map_err(|error| no_answer(argument, admin, error))?;
    match status == 200 && is_of_admin(&body, "generation") {
        true => Ok(()),
        false => Err(no_admin(argument, admin, status)),
    }
}

/// Whatever else it says, and of whichever version it is.
fn is_of_admin(body: &str, key: &str) -> bool {
    serde_json::from_str(body).is_ok_and(|answer: serde_json::Value| answer.get(key).is_some())
}

fn no_answer(argument: &str, admin: &Address, error: std::io::Error) -> String {
    format!("{argument} {admin}: {}", admin::unreachable(error))
}

/// Without the answer, which may be anybody's page.
fn no_admin(argument: &str, admin: &Address, status: u16) -> String {
    format!(
        "{argument} {admin}: what answers there, with status {status}, is no admin endpoint of Tamis; give the \
         process's `admin.address`, not a listener's"
    )
}

impl State {
    fn options(self) -> Option<state::Options> {
        Some(state::Options {
            folder: self.folder?,
            good_after: self.good_after,
            fallback: match self.fallback {
                true => Fallback::LastGood,
                false => Fallback::Refuse,
            },
        })
    }
}

impl Logging {
    /// Lines are written by a thread of their own; when it falls behind they are dropped, and no worker waits.
    fn start(&self) -> Result<tracing_appender::non_blocking::WorkerGuard, String> {
        let refused = |error: String| format!("--log {}: {error}; {LEVELS}", self.log);
        refuse_unknown_level(&self.log).map_err(refused)?;
        let filter = EnvFilter::try_new(directives(&self.log)).map_err(|error| refused(error.to_string()))?;
        let (writer, guard) = tracing_appender::non_blocking(std::io::stderr());
        let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer);
        match self.log_format {
            LogFormat::Text => subscriber
                .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
                .init(),
            LogFormat::Json => subscriber.json().init(),
        }
        Ok(guard)
    }
}

/// A word alone is for the library a target, so that a misspelt level silences everything else.
fn refuse_unknown_level(log: &str) -> Result<(), String> {
    // Spans have a grammar of their own, with commas.
    if log.contains('[') {
        return Ok(());
    }
    let is_unknown = |word: &&str| !word.is_empty() && !word.contains('=') && word.parse::<LevelFilter>().is_err();
    match log.split(',').map(str::trim).find(is_unknown) {
        Some(word) => Err(format!("`{word}` is no level")),
        None => Ok(()),
    }
}

/// Libraries say less than this process. Whoever names one, or wants less of everything, is obeyed.
fn directives(log: &str) -> String {
    let levels = log
        .split(',')
        .filter_map(|part| part.trim().parse::<LevelFilter>().ok());
    let wanted = levels.max().unwrap_or(LevelFilter::OFF);
    let mut directives = log.to_owned();
    for (library, most) in LIBRARIES {
        if wanted > most && !log.contains(library) {
            // Writing to a string cannot fail.
            let _ = write!(directives, ",{library}={most}");
        }
    }
    directives
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_alone_is_a_level() {
        for log in [
            "info",
            "WARN",
            "off",
            "tamis=debug",
            "info, h2=trace,",
            "[request{a,b}]=debug",
            "tamis[request]",
        ] {
            assert_eq!(refuse_unknown_level(log), Ok(()), "{log}");
        }
        for (log, word) in [("debgu", "debgu"), ("info,tamis", "tamis"), ("tamis=info, all", "all")] {
            assert_eq!(refuse_unknown_level(log), Err(format!("`{word}` is no level")), "{log}");
        }
    }

    #[test]
    fn durations_are_written_as_in_the_configuration() {
        assert_eq!(duration_or_none("0s"), Ok(Duration::ZERO));
        assert_eq!(duration_or_none("10m"), Ok(Duration::from_secs(600)));
        for wrong in ["2", "15sec", "0", "0h", "-1s"] {
            assert!(duration_or_none(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_library_is_quiet_unless_it_is_named() {
        for (log, expected) in [
            ("info", "info,pingora_core=warn,notify=error"),
            ("info,tamis=debug", "info,tamis=debug,pingora_core=warn,notify=error"),
            ("info,pingora_core=debug", "info,pingora_core=debug,notify=error"),
            ("notify=trace,info", "notify=trace,info,pingora_core=warn"),
            ("warn", "warn,notify=error"),
            ("error", "error"),
            ("tamis=debug", "tamis=debug"),
        ] {
            assert_eq!(directives(log), expected);
            EnvFilter::try_new(directives(log)).expect("a filter");
        }
    }

    #[test]
    fn what_is_no_answer_of_an_admin_endpoint_is_not_taken_for_one() {
        assert!(is_of_admin(r#"{"generation": 1}"#, "generation"));
        for body in ["", "<html>generation</html>", "[]", "1", r#"{"error": "generation"}"#] {
            assert!(!is_of_admin(body, "generation"), "{body}");
        }
    }
}
