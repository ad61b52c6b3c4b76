//! `tamis filter`: what whoever writes a filter needs besides a compiler.
//!
//! Control plane. Opens no socket and serves nobody. A filter is linked, started and asked here by the code that a
//! worker runs, so that what passes here passes there; what the proxy itself does around a filter (routing, fields of
//! its own, upstreams) is not here.
//!
//! `project` writes a new one, `build` runs its build, `component` makes a component of a core module, `compose` one of
//! several; `stand` holds a loaded filter, and `inspect`, `trial` and `bench` look at it; `world` is what a component is
//! for, `graph` what it is made of; `cases` is a file of test cases, `walk` an exchange
//! through one filter, `difference` what it came to beside what was expected, `log` what it wrote meanwhile.

mod bench;
mod build;
mod cases;
mod component;
mod compose;
mod difference;
mod graph;
mod inspect;
mod log;
mod project;
mod stand;
mod trial;
mod walk;
mod world;

use std::path::PathBuf;

use clap::Subcommand;

pub use component::refuse_core;
pub use graph::Graph;
pub use project::Language;
pub use world::{Needs, World};

#[derive(Subcommand)]
pub enum Command {
    /// Write a small working filter to start from
    ///
    /// It refuses requests without a token and sets a header on the others. Beside it: the contract (WIT), a Makefile,
    /// test cases and a README. Nothing that is there already is overwritten.
    New {
        /// What the filter is called: lower-case letters, digits and dashes
        name: String,
        /// What it is written in
        #[arg(long, value_enum)]
        lang: Language,
        /// Where to; by default a new folder of the filter's name
        #[arg(long, value_name = "PATH")]
        dir: Option<PathBuf>,
    },
    /// Run a filter project's Makefile, saying what takes long
    Build {
        /// The project
        #[arg(default_value = ".")]
        dir: PathBuf,
    },
    /// Say what a component is: its kind, hooks, imports and the grants that open them, size, parts, whether it loads
    ///
    /// A filter of the contract is compiled and started; a service or a middleware of wasi:http is judged by its names.
    /// Exit status 1, with the reason, when Tamis would not load it. A filter that refuses to start without its
    /// configuration loads; with `--config`, a refusal is a failure.
    Inspect {
        /// The component
        file: PathBuf,
        /// The filter's configuration
        #[arg(long, value_name = "JSON")]
        config: Option<String>,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Run requests through a filter, without a proxy, and compare what it makes of them
    ///
    /// One line for each case, and a line for each difference. Exit status 1 when a case fails.
    #[command(after_long_help = cases::HELP)]
    Test {
        /// The component
        file: PathBuf,
        /// The cases, a YAML file; `--help` describes it
        #[arg(long = "case", value_name = "FILE")]
        cases: PathBuf,
    },
    /// Measure a filter: time for each hook, time to start, memory
    ///
    /// Each round is one whole exchange: a POST with a body of 4 KiB, answered with another, or the first case of
    /// `--case`. Build Tamis with `--release` for times that mean anything.
    Bench {
        /// The component
        file: PathBuf,
        /// The filter's configuration; by default the one of `--case`, or none
        #[arg(long, value_name = "JSON")]
        config: Option<String>,
        /// Take the exchange, the configuration and the limits from the first case of this file
        #[arg(long = "case", value_name = "FILE")]
        cases: Option<PathBuf>,
        /// How many exchanges to measure
        #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
        rounds: u32,
    },
    /// Make a component of a core module that speaks the contract
    ///
    /// The module comes from a compiler that leaves the WIT in it, as wit-bindgen does for Rust and C.
    Component {
        /// The core module
        core: PathBuf,
        /// The component
        #[arg(short, value_name = "FILE")]
        out: PathBuf,
    },
    /// Make one component of several, each taking what it imports from the next
    ///
    /// Prints what was joined. Fails where a component takes nothing from the next one, or what it imports has other
    /// types there.
    #[command(after_long_help = compose::HELP)]
    Compose {
        /// The components, the outermost first
        #[arg(required = true, num_args = 2..)]
        files: Vec<PathBuf>,
        /// The component that they become; what is there is replaced, but no input
        #[arg(short, value_name = "FILE")]
        out: PathBuf,
    },
}

/// The error is for the operator. Results go to standard output.
pub fn run(command: Command) -> Result<(), String> {
    match command {
        Command::New { name, lang, dir } => project::create(&name, lang, dir.as_deref()),
        Command::Build { dir } => build::run(&dir),
        Command::Inspect { file, config, json } => {
            let report = inspect::inspect(&file, config.as_deref())?;
            match json {
                true => crate::tell_line!("{:#}", report.to_json()),
                false => crate::tell!("{report}"),
            }
            report.verdict()
        }
        Command::Test { file, cases } => trial::run(&file, &cases),
        Command::Bench {
            file,
            config,
            cases,
            rounds,
        } => bench::run(&file, config.as_deref(), cases.as_deref(), rounds),
        Command::Component { core, out } => component::make(&core, &out),
        Command::Compose { files, out } => compose::run(&files, &out),
    }
}
