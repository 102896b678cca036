//! Results: medians, a line of JSON a workload, a table.

use serde_json::{Value, json};

use crate::load::LoadReport;
use crate::runner::DELIVERED;
use crate::workload::Workload;

/// Most that our cost may be of the floor's.
const FLOOR_GOAL: f64 = 2.0;

/// One run of a server.
#[derive(Debug, Clone)]
pub(crate) struct Sample {
    pub(crate) report: LoadReport,
}

impl Sample {
    /// Whether it counts: all joined, what was offered was offered in time and arrived, and
    /// what was decrypted was authentic.
    pub(crate) fn is_valid(&self) -> bool {
        let report = &self.report;
        report.joined == report.participants
            && report.join_error.is_none()
            && report.delivered_share() >= DELIVERED
            && report.paced >= DELIVERED
            && report.forged == 0
            && (report.sampled > 0 || report.expected == 0)
    }

    /// One line of progress.
    pub(crate) fn summary(&self) -> String {
        let report = &self.report;
        if report.joined < report.participants || report.join_error.is_some() {
            let error = report.join_error.as_deref().unwrap_or("no error");
            return format!("{} of {} joined ({error})", report.joined, report.participants);
        }
        format!(
            "{:.2} µs, {:.0} packets/s, {:.2} % arrived, {:.2} % paced, {} forged, server {:.0} %, \
             load {:.0} %, latency {}/{} µs, first frame {} ms{}",
            report.cost(),
            report.datagrams as f64 / report.seconds,
            100.0 * report.delivered_share(),
            100.0 * report.paced,
            report.forged,
            report.server_cpu_us / report.seconds / 10_000.0,
            report.load_cpu_us / report.seconds / 10_000.0,
            report.latency_p50_us,
            report.latency_p99_us,
            report.first_frame_p50_ms,
            if self.is_valid() { "" } else { " (does not count)" },
        )
    }

    /// Memory that each participant added, bytes.
    fn memory_each(&self) -> f64 {
        let grown = self.report.memory_after.saturating_sub(self.report.memory_before);
        grown as f64 / self.report.participants.max(1) as f64
    }
}

/// A cost and whether it counts.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Measurement {
    pub(crate) cost: f64,
    pub(crate) delivered: f64,
    pub(crate) is_valid: bool,
}

/// Several runs of the same.
#[derive(Debug, Clone)]
pub(crate) struct Runs<T>(Vec<T>);

impl<T> Default for Runs<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> Runs<T> {
    /// Adds one.
    pub(crate) fn add(&mut self, run: T) {
        self.0.push(run);
    }
}

impl Runs<Sample> {
    fn valid(&self) -> impl Iterator<Item = &Sample> {
        self.0.iter().filter(|sample| sample.is_valid())
    }

    /// Median of the runs that count.
    fn median(&self, value: impl Fn(&Sample) -> f64) -> Option<f64> {
        median(self.valid().map(value).collect())
    }

    fn cost(&self) -> Option<f64> {
        self.median(|sample| sample.report.cost())
    }

    /// The smallest share that arrived, in all runs.
    fn delivered(&self) -> Option<f64> {
        let shares = self.0.iter().map(|sample| sample.report.delivered_share());
        shares.min_by(f64::total_cmp)
    }
}

impl Runs<Measurement> {
    fn cost(&self) -> Option<f64> {
        median(self.0.iter().filter(|run| run.is_valid).map(|run| run.cost).collect())
    }

    fn delivered(&self) -> Option<f64> {
        self.0.iter().map(|run| run.delivered).min_by(f64::total_cmp)
    }
}

/// The middle value; the mean of the two in the middle of an even number.
fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let upper = values.len() / 2;
    let lower = values.len().checked_sub(1)? / 2;
    Some((values[lower] + values[upper]) / 2.0)
}

/// All runs of a workload.
#[derive(Debug, Clone)]
pub(crate) struct Comparison {
    workload: Workload,
    named: usize,
    /// The largest size that the peer sustains.
    pub(crate) peer_size: Option<usize>,
    pub(crate) peer: Runs<Sample>,
    pub(crate) ours_at_peer: Runs<Sample>,
    pub(crate) ours_at_named: Runs<Sample>,
    pub(crate) floor_at_peer: Runs<Measurement>,
    pub(crate) floor_at_named: Runs<Measurement>,
    pub(crate) half_load_ours: Option<LoadReport>,
    pub(crate) half_load_peer: Option<LoadReport>,
}

impl Comparison {
    /// Nothing measured yet.
    pub(crate) fn new(workload: &Workload, named: usize) -> Self {
        Self {
            workload: *workload,
            named,
            peer_size: None,
            peer: Runs::default(),
            ours_at_peer: Runs::default(),
            ours_at_named: Runs::default(),
            floor_at_peer: Runs::default(),
            floor_at_named: Runs::default(),
            half_load_ours: None,
            half_load_peer: None,
        }
    }

    /// Lines of JSON: one for the size that both sustain, one for the named size where it is
    /// another.
    pub(crate) fn json(&self) -> Vec<Value> {
        if self.workload.is_idle() {
            return vec![self.idle_json()];
        }
        let mut lines = Vec::new();
        if let Some(size) = self.peer_size {
            let floor = (self.floor_at_peer.cost(), self.floor_at_peer.delivered());
            lines.push(self.line(size, &self.ours_at_peer, floor, true));
        }
        if self.peer_size != Some(self.named) {
            let floor = (self.floor_at_named.cost(), self.floor_at_named.delivered());
            lines.push(self.line(self.named, &self.ours_at_named, floor, false));
        }
        lines
    }

    fn line(
        &self,
        size: usize,
        ours: &Runs<Sample>,
        (floor, floor_delivered): (Option<f64>, Option<f64>),
        with_peer: bool,
    ) -> Value {
        let peer = with_peer.then(|| self.peer.cost()).flatten();
        let cost = ours.cost();
        json!({
            "workload": self.workload.name,
            "size": size,
            "ours": cost,
            "peer": peer,
            "floor": floor,
            "unit": "µs of server CPU per media packet received",
            "ratio": ratio(peer, cost),
            "ratio_goal": with_peer.then_some(self.workload.goal_ratio).filter(|goal| *goal > 0),
            "of_floor": ratio(cost, floor),
            "of_floor_goal": FLOOR_GOAL,
            "delivered": ours.delivered(),
            "peer_delivered": with_peer.then(|| self.peer.delivered()).flatten(),
            "floor_delivered": floor_delivered,
            "runs": ours.valid().count(),
            "peer_runs": with_peer.then(|| self.peer.valid().count()),
            "packets_per_second": ours.median(|s| s.report.datagrams as f64 / s.report.seconds),
            "bytes_per_packet":
                ours.median(|s| s.report.bytes as f64 / s.report.datagrams.max(1) as f64),
            "extra_share":
                ours.median(|s| s.report.extra as f64 / s.report.datagrams.max(1) as f64),
            "latency_us": ours.median(|s| f64::from(s.report.latency_p50_us)),
            "latency_p99_us": ours.median(|s| f64::from(s.report.latency_p99_us)),
            "first_frame_ms": ours.median(|s| f64::from(s.report.first_frame_p50_ms)),
            "first_frame_p99_ms": ours.median(|s| f64::from(s.report.first_frame_p99_ms)),
            "peer_first_frame_ms":
                with_peer.then(|| self.peer.median(|s| f64::from(s.report.first_frame_p50_ms))),
            "half_load": self.half_load_ours.as_ref().map(half_load),
            "peer_half_load": self.half_load_peer.as_ref().map(half_load),
            "all": ours.0.iter().map(|s| s.report.cost()).collect::<Vec<_>>(),
            "peer_all": self.peer.0.iter().map(|s| s.report.cost()).collect::<Vec<_>>(),
        })
    }

    fn idle_json(&self) -> Value {
        let (ours, peer) =
            (self.ours_at_named.median(Sample::memory_each), self.peer.median(Sample::memory_each));
        json!({
            "workload": self.workload.name,
            "size": self.named,
            "ours": ours,
            "peer": peer,
            "floor": null,
            "unit": "bytes of memory per idle subscriber",
            "ratio": ratio(peer, ours),
            "delivered": null,
            "runs": self.ours_at_named.valid().count(),
        })
    }

    /// Whether ours was measured wherever it should have been.
    pub(crate) fn is_complete(&self) -> bool {
        let at_named = self.peer_size == Some(self.named) && !self.workload.is_idle();
        let at_peer = self.peer_size.is_none() || self.workload.is_idle();
        (at_named || self.ours_at_named.cost().is_some())
            && (at_peer || self.ours_at_peer.cost().is_some())
    }
}

fn half_load(report: &LoadReport) -> Value {
    json!({
        "participants": report.participants,
        "latency_us": report.latency_p50_us,
        "latency_p99_us": report.latency_p99_us,
    })
}

fn ratio(over: Option<f64>, under: Option<f64>) -> Option<f64> {
    Some(over? / under?)
}

/// The results as a table.
pub(crate) fn table(comparisons: &[Comparison]) -> String {
    let mut out = format!(
        "{:<14} {:>5} {:>10} {:>10} {:>7} {:>6} {:>10} {:>6} {:>9} {:>5}\n",
        "workload", "size", "ours", "peer", "ratio", "goal", "floor", "×floor", "delivered", "runs",
    );
    for line in comparisons.iter().flat_map(Comparison::json) {
        let number = |key: &str, digits: usize| match line[key].as_f64() {
            Some(value) => format!("{value:.digits$}"),
            None => "–".to_owned(),
        };
        let delivered = line["delivered"].as_f64();
        out += &format!(
            "{:<14} {:>5} {:>10} {:>10} {:>7} {:>6} {:>10} {:>6} {:>9} {:>5}\n",
            line["workload"].as_str().unwrap_or_default(),
            number("size", 0),
            number("ours", 2),
            number("peer", 2),
            number("ratio", 1),
            number("ratio_goal", 0),
            number("floor", 2),
            number("of_floor", 2),
            delivered.map_or_else(|| "–".to_owned(), |share| format!("{:.2} %", 100.0 * share)),
            number("runs", 0),
        );
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload;

    fn sample(cost: f64) -> Sample {
        let report = LoadReport {
            joined: 3,
            participants: 3,
            expected: 1000,
            delivered: 1000,
            paced: 1.0,
            datagrams: 1000,
            sampled: 10,
            seconds: 1.0,
            server_cpu_us: 1000.0 * cost,
            ..LoadReport::default()
        };
        Sample { report }
    }

    #[test]
    fn medians_of_odd_and_even_numbers() {
        assert_eq!(median(Vec::new()), None);
        assert_eq!(median(vec![3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(vec![4.0, 1.0]), Some(2.5));
    }

    #[test]
    fn only_runs_that_count_make_the_median() {
        let mut lossy = sample(1.0);
        lossy.report.delivered = 994;
        let mut forged = sample(1.0);
        forged.report.forged = 1;
        let mut slow = sample(1.0);
        slow.report.paced = 0.99;
        let mut unseen = sample(1.0);
        unseen.report.sampled = 0;
        let mut runs = Runs::default();
        for run in [lossy, forged, slow, unseen, sample(5.0)] {
            runs.add(run);
        }
        assert_eq!(runs.cost(), Some(5.0));
        assert_eq!(runs.delivered(), Some(0.994));
    }

    #[test]
    fn a_line_has_the_ratio_of_the_same_size() {
        let workload = workload::named("video-500").unwrap();
        let mut comparison = Comparison::new(workload, 500);
        comparison.peer_size = Some(60);
        comparison.peer.add(sample(30.0));
        comparison.ours_at_peer.add(sample(2.0));
        comparison.ours_at_named.add(sample(1.0));
        comparison.floor_at_named.add(Measurement { cost: 0.5, delivered: 1.0, is_valid: true });
        let lines = comparison.json();
        assert_eq!((lines[0]["size"].as_u64(), lines[0]["ratio"].as_f64()), (Some(60), Some(15.0)));
        assert_eq!((lines[1]["size"].as_u64(), lines[1]["peer"].as_f64()), (Some(500), None));
        assert_eq!(lines[1]["of_floor"].as_f64(), Some(2.0));
        assert!(comparison.is_complete());
        assert_eq!(table(&[comparison]).lines().count(), 3);
    }
}
