//! Measures what a relayed packet costs the TURN server, beside coturn, pion and a bare copy
//! loop, in one run and on one machine: server and load in two network namespaces, packets
//! counted where they arrive.
//!
//! `turn-bench` runs everything; `load` and `floor` are its parts that it starts in the
//! namespaces.

mod floor;
mod hop;
mod load;
mod report;
mod runner;
mod stun;
mod workload;

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use clap::{Parser, Subcommand};
use e2e::stage::say;

use crate::floor::FloorArgs;
use crate::hop::HopArgs;
use crate::load::LoadArgs;
use crate::load::flood::{self, FloodArgs};
use crate::load::strangers::{self, StrangersArgs};
use crate::report::Comparison;
use crate::runner::{Bound, Options, Runner, Server};
use crate::workload::{WORKLOADS, Workload};

/// Measures what a relayed packet costs, beside coturn, pion and the limit of the machine.
#[derive(Debug, Parser)]
#[command(name = "turn-bench", version)]
struct Arguments {
    #[command(subcommand)]
    part: Option<Part>,
    /// Run only this workload; may be repeated.
    #[arg(long, value_name = "NAME")]
    workload: Vec<String>,
    /// Run only this server; may be repeated.
    #[arg(long, value_name = "NAME")]
    server: Vec<Server>,
    /// Length of a measured window.
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// Rounds of all servers, of which the median counts.
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// One round of three seconds.
    #[arg(long)]
    quick: bool,
    /// Run with so many clients instead of the most that all servers sustain.
    #[arg(long)]
    clients: Option<usize>,
    /// Our program [default: target/release/turn-server].
    #[arg(long, value_name = "FILE")]
    program: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Part {
    /// Clients and peer of one run.
    #[command(hide = true)]
    Load(LoadArgs),
    /// The copy loop.
    #[command(hide = true)]
    Floor(FloorArgs),
    /// A client that floods.
    #[command(hide = true)]
    Flood(FloodArgs),
    /// Clients without credentials.
    #[command(hide = true)]
    Strangers(StrangersArgs),
    /// The hop from a relay to the media node.
    #[command(hide = true)]
    Hop(HopArgs),
}

/// Something to measure.
#[derive(Debug, Clone, Copy)]
enum Task {
    Compare(&'static Workload),
    Bound(Bound),
}

impl Task {
    fn all() -> impl Iterator<Item = Self> {
        WORKLOADS.iter().map(Self::Compare).chain(Bound::ALL.map(Self::Bound))
    }

    fn name(self) -> &'static str {
        match self {
            Self::Compare(workload) => workload.name,
            Self::Bound(bound) => bound.name(),
        }
    }

    fn about(self) -> &'static str {
        match self {
            Self::Compare(workload) => workload.about,
            Self::Bound(bound) => bound.about(),
        }
    }
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    match &arguments.part {
        Some(Part::Load(args)) => show(&serde_json::to_string(&load::run(args)?)?),
        Some(Part::Floor(args)) => return floor::run(args),
        Some(Part::Flood(args)) => return flood::run(args, || show("flooding")),
        Some(Part::Strangers(args)) => show(&serde_json::to_string(&strangers::run(args)?)?),
        Some(Part::Hop(args)) => show(&serde_json::to_string(&hop::run(args)?)?),
        None => return bench(arguments),
    }
    Ok(())
}

#[expect(clippy::print_stdout, reason = "results of a command-line program")]
fn show(text: &str) {
    println!("{text}");
}

fn bench(arguments: Arguments) -> Result<()> {
    let tasks = chosen(&arguments.workload)?;
    let all = || Server::ALL.to_vec();
    let runner = Runner::new(Options {
        seconds: if arguments.quick { 3.0 } else { arguments.seconds },
        runs: if arguments.quick { 1 } else { arguments.runs },
        is_quick: arguments.quick,
        servers: if arguments.server.is_empty() { all() } else { arguments.server },
        clients: arguments.clients,
        program: arguments.program,
    })?;
    let path = e2e::repository().join("target/bench/turn.jsonl");
    let mut comparisons = Vec::new();
    let mut findings = Vec::new();
    for task in tasks {
        say(&format!("==> {}: {}", task.name(), task.about()));
        let line = match task {
            Task::Compare(workload) => {
                let comparison = runner.run(workload)?;
                let line = comparison.json();
                comparisons.push(comparison);
                line
            }
            Task::Bound(bound) => {
                let finding = runner.measure_bound(bound)?;
                let line = finding.json.clone();
                findings.push(finding);
                line
            }
        };
        let mut file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .with_context(|| format!("writing {}", path.display()))?;
        writeln!(file, "{line}")?;
    }
    if !comparisons.is_empty() {
        show(report::HEAD);
    }
    for comparison in &comparisons {
        show(&comparison.row());
    }
    for finding in &findings {
        show(&finding.text);
    }
    show(&format!("µs of server CPU per relayed packet; {}", path.display()));
    let goals = comparisons.iter().map(Comparison::meets_goals);
    let are_met = goals.chain(findings.iter().map(|finding| finding.meets_goal)).all(|met| met);
    ensure!(are_met, "a goal was missed");
    Ok(())
}

fn chosen(names: &[String]) -> Result<Vec<Task>> {
    if names.is_empty() {
        return Ok(Task::all().collect());
    }
    let known = || Task::all().map(Task::name).collect::<Vec<_>>().join(", ");
    let find = |name: &String| {
        let mut tasks = Task::all();
        let task = tasks.find(|task| task.name() == name);
        task.with_context(|| format!("no workload {name:?}; there are {}", known()))
    };
    names.iter().map(find).collect()
}
