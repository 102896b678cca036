//! Results: medians, a line of JSON a workload, a table.

use serde_json::{Value, json};

use crate::load::LoadReport;
use crate::runner::Server;
use crate::workload::{Transport, Workload};

/// A run counts when so much of what was offered was offered in time and arrived.
pub(crate) const DELIVERED: f64 = 0.995;
/// Most that our cost for `video` may be of the floor's, and of pion's.
const FLOOR_GOAL: f64 = 1.15;
const PION_GOAL: f64 = 0.4;
/// Most resident memory of an allocation, bytes, where there are many of them.
const ALLOCATION_GOAL: f64 = 4096.0;
const MANY: usize = 500;

/// Whether a run counts.
pub(crate) fn is_valid(report: &LoadReport) -> bool {
    report.delivered() >= DELIVERED && report.paced >= DELIVERED && report.relayed > 0
}

/// One line of progress.
pub(crate) fn summary(report: &LoadReport) -> String {
    format!(
        "{:.2} µs, {:.2} % arrived, {:.2} % paced, latency {}/{} µs, {:.1} kB a client, {:.1} kB an allocation{}",
        report.cost(),
        100.0 * report.delivered(),
        100.0 * report.paced,
        report.latency_p50_us,
        report.latency_p99_us,
        memory_each(report) / 1000.0,
        report.bytes_per_allocation / 1000.0,
        if is_valid(report) { "" } else { " (does not count)" },
    )
}

fn memory_each(report: &LoadReport) -> f64 {
    report.memory_after.saturating_sub(report.memory_before) as f64 / report.clients.max(1) as f64
}

/// All runs of a workload.
pub(crate) struct Comparison {
    workload: Workload,
    clients: usize,
    runs: Vec<(Server, LoadReport)>,
}

impl Comparison {
    /// Nothing measured yet.
    pub(crate) fn new(workload: &Workload, clients: usize) -> Self {
        Self { workload: *workload, clients, runs: Vec::new() }
    }

    /// Adds a run.
    pub(crate) fn add(&mut self, server: Server, report: LoadReport) {
        self.runs.push((server, report));
    }

    fn valid(&self, server: Server) -> impl Iterator<Item = &LoadReport> {
        self.runs
            .iter()
            .filter(move |(of, report)| *of == server && is_valid(report))
            .map(|(_, report)| report)
    }

    fn cost(&self, server: Server) -> Option<f64> {
        median(self.valid(server).map(LoadReport::cost).collect())
    }

    fn ratio(&self, to: Server) -> Option<f64> {
        Some(self.cost(Server::Ours)? / self.cost(to)?)
    }

    /// Whether ours delivered and met every goal that could be measured.
    pub(crate) fn meets_goals(&self) -> bool {
        let within = |to, goal: f64| self.ratio(to).is_none_or(|ratio| ratio <= goal);
        self.cost(Server::Ours).is_some()
            && within(Server::Coturn, self.workload.goal)
            && self.bytes_per_allocation().is_none_or(|bytes| bytes <= ALLOCATION_GOAL)
            && (self.workload.name != "video"
                || within(Server::Floor, FLOOR_GOAL) && within(Server::Pion, PION_GOAL))
    }

    /// Of ours by UDP, where there are enough clients that single pages do not count.
    fn bytes_per_allocation(&self) -> Option<f64> {
        let counts = self.workload.transport == Transport::Udp && self.clients >= MANY;
        let found = || self.valid(Server::Ours).map(|report| report.bytes_per_allocation);
        counts.then(|| median(found().collect())).flatten()
    }

    /// The result as it is kept.
    pub(crate) fn json(&self) -> Value {
        let delivered = self
            .runs
            .iter()
            .filter(|(server, _)| *server == Server::Ours)
            .map(|(_, report)| report.delivered())
            .min_by(f64::total_cmp);
        let each: Vec<Value> = self
            .runs
            .iter()
            .map(|(server, report)| {
                json!({
                    "server": server.name(),
                    "cost": report.cost(),
                    "delivered": report.delivered(),
                    "paced": report.paced,
                    "latency_p50_us": report.latency_p50_us,
                    "latency_p99_us": report.latency_p99_us,
                    "bytes_per_client": memory_each(report),
                    "bytes_per_allocation": report.bytes_per_allocation,
                    "counts": is_valid(report),
                })
            })
            .collect();
        json!({
            "workload": self.workload.name,
            "clients": self.clients,
            "unit": "µs of server CPU per relayed packet",
            "ours": self.cost(Server::Ours),
            "coturn": self.cost(Server::Coturn),
            "pion": self.cost(Server::Pion),
            "floor": self.cost(Server::Floor),
            "ratio": {
                "coturn": self.ratio(Server::Coturn),
                "pion": self.ratio(Server::Pion),
                "floor": self.ratio(Server::Floor),
            },
            "bytes_per_allocation": self.bytes_per_allocation(),
            "delivered": delivered,
            "runs": each,
        })
    }

    /// A row of the table.
    pub(crate) fn row(&self) -> String {
        let show = |value: Option<f64>| {
            value.map_or_else(|| "-".to_owned(), |value| format!("{value:.2}"))
        };
        format!(
            "{:8} {:7} {:>8} {:>8} {:>8} {:>8}   {:>6} {:>6} {:>6}",
            self.workload.name,
            self.clients,
            show(self.cost(Server::Ours)),
            show(self.cost(Server::Coturn)),
            show(self.cost(Server::Pion)),
            show(self.cost(Server::Floor)),
            show(self.ratio(Server::Coturn)),
            show(self.ratio(Server::Pion)),
            show(self.ratio(Server::Floor)),
        )
    }
}

/// The table's head.
pub(crate) const HEAD: &str = "workload clients     ours   coturn     pion    floor   \
                               /cotrn  /pion /floor";

/// The middle value; the mean of the two in the middle of an even number.
pub(crate) fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let upper = values.len() / 2;
    let lower = values.len().checked_sub(1)? / 2;
    Some((values[lower] + values[upper]) / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::WORKLOADS;

    fn run(cpu_us: f64, at_peer: u64) -> LoadReport {
        LoadReport {
            relayed: 1000,
            cpu_us,
            offered: 500,
            at_peer,
            at_clients: at_peer,
            paced: 1.0,
            ..LoadReport::default()
        }
    }

    #[test]
    fn only_runs_that_delivered_count() {
        let mut comparison = Comparison::new(&WORKLOADS[0], 100);
        comparison.add(Server::Coturn, run(20_000.0, 500));
        assert!(!comparison.meets_goals(), "nothing of ours was measured");
        comparison.add(Server::Ours, run(1_000.0, 400));
        assert_eq!(comparison.cost(Server::Ours), None);
        for cpu in [9_000.0, 8_000.0, 70_000.0] {
            comparison.add(Server::Ours, run(cpu, 500));
        }
        assert_eq!(comparison.cost(Server::Ours), Some(9.0));
        assert!(comparison.meets_goals());
        comparison.add(Server::Floor, run(7_000.0, 500));
        assert!(!comparison.meets_goals(), "9 is more than 1.15 of 7");
        assert_eq!(comparison.json()["ratio"]["coturn"], 0.45);
    }

    #[test]
    fn the_memory_of_an_allocation_counts_where_there_are_many() {
        for (clients, expected) in [(100, true), (1000, false)] {
            let mut comparison = Comparison::new(&WORKLOADS[1], clients);
            let bytes_per_allocation = 5000.0;
            comparison.add(Server::Ours, LoadReport { bytes_per_allocation, ..run(1.0, 500) });
            assert_eq!(comparison.meets_goals(), expected, "{clients}");
        }
    }
}
