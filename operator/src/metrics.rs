//! The operator's own metrics.

use contract::metrics::{LEADER, RECONCILE_SECONDS, RECONCILES};
use prometheus::{
    Encoder as _, Histogram, HistogramOpts, IntCounterVec, IntGauge, Opts, Registry, TextEncoder,
};

/// How a reconcile ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The cluster was made what the LiveCluster says.
    Done,
    /// The LiveCluster cannot be acted upon.
    Invalid,
    /// A request failed; it is tried again.
    Failed,
}

impl Outcome {
    fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Invalid => "invalid",
            Self::Failed => "failed",
        }
    }
}

/// The operator's own metrics.
#[derive(Debug, Clone)]
pub struct Metrics {
    registry: Registry,
    reconciles: IntCounterVec,
    duration: Histogram,
    leader: IntGauge,
}

impl Metrics {
    /// Registers all metrics.
    pub fn new() -> Result<Self, prometheus::Error> {
        let metrics = Self {
            registry: Registry::new(),
            reconciles: IntCounterVec::new(
                Opts::new(RECONCILES, "Reconciles by result."),
                &["result"],
            )?,
            duration: Histogram::with_opts(HistogramOpts::new(
                RECONCILE_SECONDS,
                "Duration of a reconcile.",
            ))?,
            leader: IntGauge::new(LEADER, "1 while this operator leads, else 0.")?,
        };
        metrics.registry.register(Box::new(metrics.reconciles.clone()))?;
        metrics.registry.register(Box::new(metrics.duration.clone()))?;
        metrics.registry.register(Box::new(metrics.leader.clone()))?;
        Ok(metrics)
    }

    /// Counts a reconcile that took `seconds`.
    pub fn reconciled(&self, outcome: Outcome, seconds: f64) {
        self.reconciles.with_label_values(&[outcome.as_str()]).inc();
        self.duration.observe(seconds);
    }

    /// Says whether this operator leads.
    pub fn set_leader(&self, leads: bool) {
        self.leader.set(i64::from(leads));
    }

    /// All metrics in Prometheus's text format.
    pub fn text(&self) -> Result<Vec<u8>, prometheus::Error> {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reconcile_is_counted_by_its_result() {
        let metrics = Metrics::new().unwrap();
        metrics.reconciled(Outcome::Invalid, 0.5);
        metrics.set_leader(true);
        let text = String::from_utf8(metrics.text().unwrap()).unwrap();
        assert!(text.contains("livecluster_operator_reconciles_total{result=\"invalid\"} 1"));
        assert!(text.contains("livecluster_operator_leader 1"));
        for name in contract::metrics::OF_OPERATOR {
            assert!(text.contains(name), "{name} is missing");
        }
    }
}
