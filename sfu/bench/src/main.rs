//! Measures the forwarding plane beside livekit-server, in one run and on one machine: server
//! and load in two network namespaces, packets counted where they arrive.
//!
//! `forwarding-bench` runs everything; `load`, `floor` and `sink` are its parts that it starts
//! in the namespaces.

mod floor;
mod load;
mod report;
mod runner;
mod source;
mod workload;

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use clap::{Parser, Subcommand};
use e2e::stage::say;
use serde::Serialize;

use crate::floor::FloorArgs;
use crate::load::LoadArgs;
use crate::runner::{Options, Runner};
use crate::workload::{WORKLOADS, Workload};

/// Measures what forwarding costs the server, beside livekit-server and beside the limit of
/// the machine.
#[derive(Debug, Parser)]
#[command(name = "forwarding-bench", version)]
struct Arguments {
    #[command(subcommand)]
    part: Option<Part>,
    /// Run only this workload; may be repeated.
    #[arg(long, value_name = "NAME")]
    workload: Vec<String>,
    /// Length of a measured window.
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// Runs of each, of which the median counts.
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// One run of three seconds each.
    #[arg(long)]
    quick: bool,
    /// Media workers of our server.
    #[arg(long, default_value_t = 1)]
    workers: u16,
    /// Leave the peer out.
    #[arg(long)]
    ours_only: bool,
    /// Run at this size instead of the named one.
    #[arg(long)]
    size: Option<usize>,
    /// Let the kernel split at the receiver what a server sends at once, as for a network card
    /// that cannot.
    #[arg(long)]
    no_gro: bool,
    /// Our program [default: target/release/sfu].
    #[arg(long, value_name = "FILE")]
    sfu: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Part {
    /// Clients and publishers of one run.
    #[command(hide = true)]
    Load(LoadArgs),
    /// The sender of the floor.
    #[command(hide = true)]
    Floor(FloorArgs),
    /// The receivers of the floor.
    #[command(hide = true)]
    Sink(FloorArgs),
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    match &arguments.part {
        Some(Part::Load(args)) => print(&load::run(args)?),
        Some(Part::Floor(args)) => print(&floor::send(args)?),
        Some(Part::Sink(args)) => print(&floor::receive(args, || show("ready"))?),
        None => bench(arguments),
    }
}

#[expect(clippy::print_stdout, reason = "results of a command-line program")]
fn show(text: &str) {
    println!("{text}");
}

fn print(report: &impl Serialize) -> Result<()> {
    show(&serde_json::to_string(report)?);
    Ok(())
}

fn bench(arguments: Arguments) -> Result<()> {
    let workloads = chosen(&arguments.workload)?;
    let options = Options {
        seconds: if arguments.quick { 3.0 } else { arguments.seconds },
        runs: if arguments.quick { 1 } else { arguments.runs },
        workers: arguments.workers,
        no_gro: arguments.no_gro,
        ours_only: arguments.ours_only,
        size: arguments.size,
        sfu: arguments.sfu,
    };
    let runner = Runner::new(options)?;
    let path = e2e::repository().join("target/bench/forwarding.jsonl");
    let mut comparisons = Vec::new();
    let mut lines = String::new();
    for workload in workloads {
        say(&format!("==> {}: {}", workload.name, workload.about));
        let comparison = runner.run(workload)?;
        for line in comparison.json() {
            lines += &format!("{line}\n");
        }
        // What is measured is kept, even if the next workload fails.
        fs::write(&path, &lines).with_context(|| format!("writing {}", path.display()))?;
        comparisons.push(comparison);
    }
    show(&report::table(&comparisons));
    show(&format!(
        "µs of server CPU per media packet received (idle: bytes per subscriber); {}",
        path.display()
    ));
    ensure!(
        comparisons.iter().all(report::Comparison::is_complete),
        "ours did not deliver {} % somewhere",
        100.0 * runner::DELIVERED
    );
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
