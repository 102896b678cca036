//! What is measured of our server alone: how much a client that floods harms the others, what
//! strangers cost, what the hop to the media node costs.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Stdio};

use anyhow::{Context as _, Result, ensure};
use e2e::bench::Side;
use e2e::process::Run as _;
use e2e::stage::say;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::{Runner, Server};
use crate::hop::HopCost;
use crate::load::strangers::StrangersReport;
use crate::report::{self, median};
use crate::workload::{CROWD, FLOOD};

/// Most that a flooding client may add to the others' 99th percentile, microseconds.
const FLOOD_GOAL: f64 = 2000.0;
/// Strangers, and what they may cost, bytes.
const STRANGERS: u32 = 1_000_000;
const STRANGERS_GOAL: u64 = 1024 * 1024;

/// A measurement of ours alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bound {
    Flood,
    Strangers,
    Hop,
}

impl Bound {
    pub(crate) const ALL: [Self; 3] = [Self::Flood, Self::Strangers, Self::Hop];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Flood => "flood",
            Self::Strangers => "strangers",
            Self::Hop => "hop",
        }
    }

    pub(crate) fn about(self) -> &'static str {
        match self {
            Self::Flood => "100 clients with sound, without and with one that floods",
            Self::Strangers => "Allocates without credentials from a million ports",
            Self::Hop => "a packet from a relay to the media node beside it, by several ways",
        }
    }
}

/// What came of it.
#[derive(Debug, Clone)]
pub(crate) struct Finding {
    pub(crate) json: Value,
    pub(crate) text: String,
    pub(crate) meets_goal: bool,
}

/// A part of this program in a namespace; ends with this value.
struct Part(Child);

impl Drop for Part {
    fn drop(&mut self) {
        // It may have ended already.
        let _ended = self.0.kill();
        let _reaped = self.0.wait();
    }
}

impl Runner {
    /// Measures a bound.
    pub(crate) fn measure_bound(&self, bound: Bound) -> Result<Finding> {
        match bound {
            Bound::Flood => self.flood(),
            Bound::Strangers => self.strangers(),
            Bound::Hop => self.hop(),
        }
    }

    fn flood(&self) -> Result<Finding> {
        let [mut quiet, mut flooded] = [Vec::new(), Vec::new()];
        for _ in 0..self.options.runs {
            for (is_flooded, latencies) in [(false, &mut quiet), (true, &mut flooded)] {
                let running = self.programs.start(Server::Ours, &CROWD, &self.namespaces)?;
                let _flooder = is_flooded.then(|| self.start_flooder()).transpose()?;
                let clients = self.options.clients.unwrap_or(CROWD.clients);
                let report = self.load(Server::Ours, running.pid(), &CROWD, clients)?;
                say(&format!("    flood: {is_flooded}, {}", report::summary(&report)));
                if is_flooded || report::is_valid(&report) {
                    latencies.push((report.latency_p99_us as f64, report.delivered()));
                }
            }
        }
        Ok(flood_finding(&quiet, &flooded))
    }

    fn start_flooder(&self) -> Result<Part> {
        let mut command = self.namespaces.command(Side::Load, &std::env::current_exe()?);
        command
            .arg("flood")
            .args(["--server", &Side::Server.address().to_string()])
            .args(["--address", &Side::Load.address().to_string()])
            .stdout(Stdio::piped());
        let mut part = Part(command.spawn().context("starting the flood")?);
        let output = part.0.stdout.take().context("its output is piped")?;
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line)?;
        ensure!(!line.is_empty(), "the flood did not begin");
        Ok(part)
    }

    fn strangers(&self) -> Result<Finding> {
        let count = if self.options.is_quick { STRANGERS / 10 } else { STRANGERS };
        let running = self.programs.start(Server::Ours, &CROWD, &self.namespaces)?;
        let mut command = self.namespaces.command(Side::Load, &std::env::current_exe()?);
        command
            .args(["strangers", "--count", &count.to_string()])
            .args(["--server", &Side::Server.address().to_string()])
            .args(["--server-pid", &running.pid().to_string()]);
        let report: StrangersReport = last_line(&command.read()?)?;
        let answered = f64::from(report.answered) / f64::from(report.waited.max(1));
        Ok(Finding {
            json: json!({
                "workload": Bound::Strangers.name(),
                "unit": "bytes of resident memory for all of them",
                "count": report.count,
                "ours": report.growth,
                "goal": STRANGERS_GOAL,
                "answered": answered,
            }),
            text: format!(
                "strangers: {} bytes for {}, {:.2} % answered",
                report.growth,
                report.count,
                100.0 * answered
            ),
            meets_goal: report.growth <= STRANGERS_GOAL && answered >= report::DELIVERED,
        })
    }

    fn hop(&self) -> Result<Finding> {
        let mut command = self.namespaces.command(Side::Server, &std::env::current_exe()?);
        command
            .args(["hop", "--seconds", &self.options.seconds.to_string()])
            .args(["--runs", &self.options.runs.to_string()]);
        let costs: Vec<HopCost> = last_line(&command.read()?)?;
        let row = |cost: &HopCost| {
            let HopCost { packets, single, runs, ring, copy } = cost;
            format!(
                "hop: bursts of {packets:2}: one by one {single:.2}, segmented {runs:.2}, \
                 ring {ring:.2}, copy {copy:.2} µs"
            )
        };
        Ok(Finding {
            json: json!({
                "workload": Bound::Hop.name(),
                "unit": "µs of CPU per packet, sender and receiver",
                "bursts": costs,
            }),
            text: costs.iter().map(row).collect::<Vec<_>>().join("\n"),
            meets_goal: true,
        })
    }
}

/// Compares the 99th percentiles (µs) and what was delivered without a flood, in runs that count, and
/// with one.
fn flood_finding(quiet: &[(f64, f64)], flooded: &[(f64, f64)]) -> Finding {
    let latency = |found: &[(f64, f64)]| median(found.iter().map(|(p99, _)| *p99).collect());
    let (before, after) = (latency(quiet), latency(flooded));
    let moved = before.zip(after).map(|(before, after)| after - before);
    let delivered = flooded.iter().map(|(_, share)| *share).fold(1.0, f64::min);
    let offered = FLOOD.burst as f64 / FLOOD.interval.as_secs_f64();
    let text = match before.zip(after) {
        Some((before, after)) => format!(
            "flood: p99 {before:.0} -> {after:.0} µs beside {offered:.0} packets/s, \
             {:.2} % of the others' arrived",
            100.0 * delivered
        ),
        None => "flood: no run without one counts, the machine is too busy".to_owned(),
    };
    Finding {
        json: json!({
            "workload": Bound::Flood.name(),
            "unit": "µs, 99th percentile of the round trip of the others",
            "quiet": before,
            "flooded": after,
            "moved": moved,
            "goal": FLOOD_GOAL,
            "delivered": delivered,
            "flood_packets_per_second": offered,
            "limit_packets_per_second": CROWD.packets_per_second,
        }),
        text,
        meets_goal: moved.is_some_and(|moved| moved <= FLOOD_GOAL)
            && delivered >= report::DELIVERED,
    }
}

/// What a part says last.
pub(super) fn last_line<T: DeserializeOwned>(text: &str) -> Result<T> {
    let line = text.lines().last().context("it said nothing")?;
    serde_json::from_str(line).with_context(|| format!("unexpected: {line}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_may_move_the_others_by_two_milliseconds() {
        let quiet = [(900.0, 1.0), (1100.0, 1.0), (1000.0, 1.0)];
        for (flooded, expected) in [
            (&[(2900.0, 1.0), (9000.0, 1.0), (2800.0, 0.999)][..], true),
            (&[(3100.0, 1.0)], false),
            (&[(1000.0, 0.9)], false),
            (&[], false),
        ] {
            assert_eq!(flood_finding(&quiet, flooded).meets_goal, expected, "{flooded:?}");
        }
        assert!(!flood_finding(&[], &quiet).meets_goal, "nothing to compare with");
    }
}
