//! Measures what a relayed packet costs the TURN server, beside coturn, pion and a bare copy
//! loop, in one run and on one machine: server and load in two network namespaces, packets
//! counted where they arrive.
//!
//! `turn-bench` runs everything; `load` and `floor` are its parts that it starts in the
//! namespaces.

mod floor;
mod load;
mod namespaces;
mod report;
mod runner;
mod stun;
mod usage;
mod workload;

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use clap::{Parser, Subcommand};
use e2e::stage::say;

use crate::floor::FloorArgs;
use crate::load::LoadArgs;
use crate::report::Comparison;
use crate::runner::{Options, Runner, Server};
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
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    match &arguments.part {
        Some(Part::Load(args)) => show(&serde_json::to_string(&load::run(args)?)?),
        Some(Part::Floor(args)) => return floor::run(args),
        None => return bench(arguments),
    }
    Ok(())
}

#[expect(clippy::print_stdout, reason = "results of a command-line program")]
fn show(text: &str) {
    println!("{text}");
}

fn bench(arguments: Arguments) -> Result<()> {
    let workloads = chosen(&arguments.workload)?;
    let all = || Server::ALL.to_vec();
    let runner = Runner::new(Options {
        seconds: if arguments.quick { 3.0 } else { arguments.seconds },
        runs: if arguments.quick { 1 } else { arguments.runs },
        servers: if arguments.server.is_empty() { all() } else { arguments.server },
        clients: arguments.clients,
        program: arguments.program,
    })?;
    let path = e2e::repository().join("target/bench/turn.jsonl");
    let mut comparisons = Vec::new();
    for workload in workloads {
        say(&format!("==> {}: {}", workload.name, workload.about));
        let comparison = runner.run(workload)?;
        let mut file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .with_context(|| format!("writing {}", path.display()))?;
        writeln!(file, "{}", comparison.json())?;
        comparisons.push(comparison);
    }
    show(report::HEAD);
    for comparison in &comparisons {
        show(&comparison.row());
    }
    show(&format!("µs of server CPU per relayed packet; {}", path.display()));
    ensure!(comparisons.iter().all(Comparison::meets_goals), "a goal was missed");
    Ok(())
}

fn chosen(names: &[String]) -> Result<Vec<&'static Workload>> {
    if names.is_empty() {
        return Ok(WORKLOADS.iter().collect());
    }
    let known = || WORKLOADS.map(|workload| workload.name).join(", ");
    let find = |name: &String| {
        workload::named(name)
            .with_context(|| format!("no workload {name:?}; there are {}", known()))
    };
    names.iter().map(find).collect()
}
