//! Runs workloads: the peer at the largest size that it sustains, ours at that size and at the
//! one that is named, the floor beside both; interleaved, medians.

mod servers;

use std::fs;
use std::path::PathBuf;
use std::process::Stdio;

use anyhow::{Context as _, Result, bail};
use e2e::bench::{Namespaces, Side};
use e2e::process::Run as _;
use e2e::stage::say;
use serde::de::DeserializeOwned;

use crate::floor::{FloorReport, SinkReport};
use crate::load::LoadReport;
use crate::report::{Comparison, Measurement, Sample};
use crate::workload::Workload;
use servers::{KEY, Programs, SECRET, SIGNAL_PORT, Server};

/// A run counts when so much of the offered packets was offered and arrived.
pub(crate) const DELIVERED: f64 = 0.995;
/// Window of a search step.
const SEARCH_SECONDS: f64 = 3.0;
/// Steps of a search: each goes down by at least a fifth.
const MAX_SEARCH_STEPS: usize = 14;
/// The largest and the smallest part of a size that is tried after it.
const STEP: (f64, f64) = (0.25, 0.8);
/// Joins a second; one client of a burst every 20 ms.
const PACE: f64 = 50.0;

/// What the command line asks for.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    pub(crate) seconds: f64,
    pub(crate) runs: usize,
    pub(crate) workers: u16,
    pub(crate) no_gro: bool,
    /// Leave the peer out.
    pub(crate) ours_only: bool,
    /// Run at this size instead of the named one.
    pub(crate) size: Option<usize>,
    pub(crate) sfu: Option<PathBuf>,
}

/// Runs workloads one after the other.
pub(crate) struct Runner {
    namespaces: Namespaces,
    programs: Programs,
    options: Options,
}

impl Runner {
    /// Makes the namespaces and finds the programs.
    pub(crate) fn new(options: Options) -> Result<Self> {
        let target = e2e::repository().join("target");
        let directory = target.join("bench/run");
        fs::create_dir_all(&directory)?;
        let ours = options.sfu.clone().unwrap_or_else(|| target.join("release/sfu"));
        if !ours.is_file() {
            bail!("{} is missing: cargo build --release --package sfu", ours.display());
        }
        let peer = if options.ours_only { PathBuf::new() } else { servers::build_peer()? };
        let programs = Programs { ours, peer, workers: options.workers, directory };
        Ok(Self { namespaces: Namespaces::create()?, programs, options })
    }

    /// Measures one workload.
    pub(crate) fn run(&self, workload: &Workload) -> Result<Comparison> {
        let named = self.options.size.unwrap_or(workload.size);
        let mut comparison = Comparison::new(workload, named);
        if workload.is_idle() {
            self.run_idle(workload, named, &mut comparison)?;
            return Ok(comparison);
        }
        let peer_size = match self.options.ours_only {
            true => None,
            false => self.search(workload, named)?,
        };
        comparison.peer_size = peer_size;
        for run in 1..=self.options.runs {
            say(&format!("  {} run {run} of {}", workload.name, self.options.runs));
            if let Some(size) = peer_size {
                comparison.peer.add(self.measure(Server::Peer, workload, size)?);
                comparison.ours_at_peer.add(self.measure(Server::Ours, workload, size)?);
                comparison.floor_at_peer.add(self.floor(workload, size)?);
            }
            if peer_size != Some(named) {
                comparison.ours_at_named.add(self.measure(Server::Ours, workload, named)?);
                comparison.floor_at_named.add(self.floor(workload, named)?);
            }
        }
        self.half_load(workload, peer_size.unwrap_or(named) / 2, &mut comparison)?;
        Ok(comparison)
    }

    /// Latency at half the size, where no queue is long.
    fn half_load(&self, workload: &Workload, size: usize, to: &mut Comparison) -> Result<()> {
        let size = size.max(2);
        to.half_load_ours = Some(self.measure(Server::Ours, workload, size)?.report);
        if to.peer_size.is_some() {
            to.half_load_peer = Some(self.measure(Server::Peer, workload, size)?.report);
        }
        Ok(())
    }

    /// Memory: the same number for both, joined to a room where nobody publishes.
    fn run_idle(&self, workload: &Workload, size: usize, to: &mut Comparison) -> Result<()> {
        for _ in 0..self.options.runs {
            if !self.options.ours_only {
                to.peer_size = Some(size);
                to.peer.add(self.measure(Server::Peer, workload, size)?);
            }
            to.ours_at_named.add(self.measure(Server::Ours, workload, size)?);
        }
        Ok(())
    }

    /// The largest size that the peer sustains, from the named one downwards.
    fn search(&self, workload: &Workload, named: usize) -> Result<Option<usize>> {
        let mut size = named;
        for _ in 0..MAX_SEARCH_STEPS {
            let seconds = self.options.seconds.min(SEARCH_SECONDS);
            let sample = self.measure_for(Server::Peer, workload, size, seconds)?;
            if sample.is_valid() {
                return Ok(Some(size));
            }
            let next = next_size(size, &sample.report);
            if next < 2 {
                break;
            }
            size = next;
        }
        Ok(None)
    }

    fn measure(&self, server: Server, workload: &Workload, size: usize) -> Result<Sample> {
        self.measure_for(server, workload, size, self.options.seconds)
    }

    fn measure_for(
        &self,
        server: Server,
        workload: &Workload,
        size: usize,
        seconds: f64,
    ) -> Result<Sample> {
        let mut running = self.programs.start(server, &self.namespaces)?;
        let mut load = self.namespaces.command(Side::Load, &std::env::current_exe()?);
        load.arg("load")
            .args(["--workload", workload.name, "--size", &size.to_string()])
            .args(["--server", &format!("{}:{SIGNAL_PORT}", Side::Server.address())])
            .args(["--server-pid", &running.pid().to_string()])
            .args(["--key", KEY, "--secret", SECRET])
            .args(["--seconds", &seconds.to_string(), "--pace", &PACE.to_string()]);
        if self.options.no_gro {
            load.arg("--no-gro");
        }
        let report: LoadReport = match load.read() {
            Ok(text) => from_last_line(&text)?,
            Err(error) if running.has_ended() => bail!("{server:?} ended: {error:#}"),
            Err(error) => return Err(error),
        };
        let sample = Sample { report };
        say(&format!("    {server:?} at {size}: {}", sample.summary()));
        Ok(sample)
    }

    fn floor(&self, workload: &Workload, size: usize) -> Result<Measurement> {
        let program = std::env::current_exe()?;
        let arguments = |seconds: f64| {
            let mut list = vec!["--workload".to_owned(), workload.name.to_owned()];
            list.extend(["--size".to_owned(), size.to_string()]);
            list.extend(["--address".to_owned(), Side::Load.address().to_string()]);
            list.extend(["--seconds".to_owned(), seconds.to_string()]);
            if self.options.no_gro {
                list.push("--no-gro".to_owned());
            }
            list
        };
        let arguments = arguments(self.options.seconds.min(5.0));
        let mut sink = self.namespaces.command(Side::Load, &program);
        let mut sink = sink.arg("sink").args(&arguments).stdout(Stdio::piped()).spawn()?;
        let mut output = std::io::BufReader::new(sink.stdout.take().context("it is piped")?);
        let mut line = String::new();
        std::io::BufRead::read_line(&mut output, &mut line)?;
        let mut floor = self.namespaces.command(Side::Server, &program);
        let floor: FloorReport = from_last_line(&floor.arg("floor").args(&arguments).read()?)?;
        let mut text = String::new();
        std::io::Read::read_to_string(&mut output, &mut text)?;
        sink.wait()?;
        let sink: SinkReport = from_last_line(&text)?;
        let delivered = sink.received as f64 / floor.sent.max(1) as f64;
        let is_valid = delivered >= DELIVERED && sink.forged == 0 && sink.sampled > 0;
        let cost = floor.cpu_us / floor.packets.max(1) as f64;
        say(&format!("    floor at {size}: {cost:.2} µs, {:.2} % arrived", 100.0 * delivered));
        Ok(Measurement { cost, delivered, is_valid })
    }
}

fn from_last_line<T: DeserializeOwned>(text: &str) -> Result<T> {
    let line = text.lines().last().context("the program said nothing")?;
    serde_json::from_str(line).with_context(|| format!("unexpected: {line}"))
}

/// What to try after a size that was too large: what arrived tells how much too large.
fn next_size(size: usize, report: &LoadReport) -> usize {
    let share = if report.joined < report.participants {
        report.joined as f64 / report.participants as f64
    } else {
        report.delivered_share().min(report.paced)
    };
    let (least, most) = STEP;
    (size as f64 * share.clamp(least, most)) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_search_goes_down_by_what_was_lost_within_bounds() {
        let report = |joined, delivered| LoadReport {
            joined,
            participants: 100,
            expected: 1000,
            delivered,
            paced: 1.0,
            ..LoadReport::default()
        };
        assert_eq!(next_size(100, &report(100, 600)), 60);
        assert_eq!(next_size(100, &report(100, 990)), 80);
        assert_eq!(next_size(100, &report(100, 1)), 25);
        assert_eq!(next_size(100, &report(50, 0)), 50);
    }
}
