//! Prometheus metrics of the server; names are in `contract::turn_metrics`.

use contract::turn_metrics::{
    ALLOCATIONS, ALLOCATIONS_MADE, BINDINGS, BYTES, CODE, CONNECTIONS, CONNECTIONS_TOTAL,
    DIRECTION, DRAINING, DROPPED, ERRORS, GATHERING, HANDSHAKES, PACKETS, REASON, RESULT, coturn,
    stunner,
};
use prometheus::{Encoder as _, IntCounter, IntCounterVec, IntGauge, Opts, Registry, TextEncoder};
use turn_server_core::counters::{Counters, DropReason, ERROR_CODES};

use crate::worker::{ShellCounters, Snapshot};

/// Reason of what a full kernel buffer or a slow client cost; the core does not see it.
const NOT_TAKEN: &str = "not_taken";

/// The server's metrics.
pub(crate) struct Metrics {
    registry: Registry,
    gauges: Vec<(IntGauge, Value)>,
    counters: Vec<(IntCounter, Value)>,
    dropped: IntCounterVec,
    errors: IntCounterVec,
}

/// Sums over the workers.
#[derive(Debug, Clone, Default)]
struct Totals {
    core: Counters,
    shell: ShellCounters,
    connections: u64,
    handshakes: u64,
    is_draining: bool,
    gathering_micros: u64,
}

impl Totals {
    fn errors(&self, code: u16) -> u64 {
        let index = ERROR_CODES.iter().position(|known| *known == code);
        index.map_or(0, |index| self.core.errors[index])
    }

    fn dropped(&self) -> u64 {
        self.core.dropped.iter().sum::<u64>() + self.shell.dropped
    }
}

type Value = fn(&Totals) -> u64;

/// Gauges without labels.
const GAUGES: [(&str, &str, Value); 8] = [
    (ALLOCATIONS, "Allocations.", |t| t.core.allocations),
    (CONNECTIONS, "TCP and TLS connections.", |t| t.connections),
    (HANDSHAKES, "TLS handshakes under way.", |t| t.handshakes),
    (DRAINING, "1 while no allocations are made.", |t| t.is_draining.into()),
    (GATHERING, "Microseconds for which datagrams gather at a worker with much to send.", |t| {
        t.gathering_micros
    }),
    (coturn::TOTAL_ALLOCATIONS, "Allocations.", |t| t.core.allocations),
    (stunner::ALLOCATIONS_ACTIVE, "Allocations.", |t| t.core.allocations),
    (stunner::LISTENER_CONNECTIONS, "TCP and TLS connections.", |t| t.connections),
];

/// Counters without labels.
const COUNTERS: [(&str, &str, Value); 17] = [
    (ALLOCATIONS_MADE, "Allocations made.", |t| t.core.allocations_made),
    (BINDINGS, "Binding requests answered.", |t| t.core.bindings),
    (coturn::TOTAL_TRAFFIC_RCVP, "Packets from clients.", |t| t.core.to_peer_packets),
    (coturn::TOTAL_TRAFFIC_RCVB, "Bytes from clients.", |t| t.core.to_peer_bytes),
    (coturn::TOTAL_TRAFFIC_SENTP, "Packets to clients.", |t| t.core.to_client_packets),
    (coturn::TOTAL_TRAFFIC_SENTB, "Bytes to clients.", |t| t.core.to_client_bytes),
    (coturn::TOTAL_TRAFFIC_PEER_RCVP, "Packets from peers.", |t| t.core.to_client_packets),
    (coturn::TOTAL_TRAFFIC_PEER_RCVB, "Bytes from peers.", |t| t.core.to_client_bytes),
    (coturn::TOTAL_TRAFFIC_PEER_SENTP, "Packets to peers.", |t| t.core.to_peer_packets),
    (coturn::TOTAL_TRAFFIC_PEER_SENTB, "Bytes to peers.", |t| t.core.to_peer_bytes),
    (coturn::BINDING_REQUEST, "Binding requests.", |t| t.core.bindings),
    (coturn::BINDING_RESPONSE, "Binding answers.", |t| t.core.bindings),
    (coturn::UNAUTHENTICATED_RESPONSES, "Answers 401.", |t| t.errors(401)),
    (coturn::UNAUTHENTICATED_DROPPED, "Answers 401 that were kept back.", |t| {
        t.core.dropped_for(DropReason::ChallengeBudget)
    }),
    (coturn::PACKET_PROCESSED, "Packets relayed.", |t| {
        t.core.to_peer_packets + t.core.to_client_packets
    }),
    (coturn::PACKET_DROPPED, "Packets dropped.", Totals::dropped),
    (stunner::LISTENER_CONNECTIONS_TOTAL, "TCP and TLS connections.", |t| t.shell.accepted),
];

/// Counters with one label: name, help, label, values.
type Labelled = (&'static str, &'static str, &'static str, [(&'static str, Value); 2]);

const LABELLED: [Labelled; 6] = [
    (
        PACKETS,
        "Packets relayed.",
        DIRECTION,
        [("to_peer", |t| t.core.to_peer_packets), ("to_client", |t| t.core.to_client_packets)],
    ),
    (
        BYTES,
        "Bytes relayed, without headers.",
        DIRECTION,
        [("to_peer", |t| t.core.to_peer_bytes), ("to_client", |t| t.core.to_client_bytes)],
    ),
    (
        stunner::LISTENER_PACKETS_TOTAL,
        "Packets with clients.",
        DIRECTION,
        [("rx", |t| t.core.to_peer_packets), ("tx", |t| t.core.to_client_packets)],
    ),
    (
        stunner::LISTENER_BYTES_TOTAL,
        "Bytes with clients.",
        DIRECTION,
        [("rx", |t| t.core.to_peer_bytes), ("tx", |t| t.core.to_client_bytes)],
    ),
    (
        stunner::CLUSTER_PACKETS_TOTAL,
        "Packets with peers.",
        DIRECTION,
        [("rx", |t| t.core.to_client_packets), ("tx", |t| t.core.to_peer_packets)],
    ),
    (
        stunner::CLUSTER_BYTES_TOTAL,
        "Bytes with peers.",
        DIRECTION,
        [("rx", |t| t.core.to_client_bytes), ("tx", |t| t.core.to_peer_bytes)],
    ),
];

impl Metrics {
    /// Registers all metrics.
    pub(crate) fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let mut gauges = Vec::new();
        for (name, help, value) in GAUGES {
            let gauge = IntGauge::new(name, help)?;
            registry.register(Box::new(gauge.clone()))?;
            gauges.push((gauge, value));
        }
        let mut counters = Vec::new();
        for (name, help, value) in COUNTERS {
            let counter = IntCounter::new(name, help)?;
            registry.register(Box::new(counter.clone()))?;
            counters.push((counter, value));
        }
        let labelled = |name: &str, help: &str, label: &str| {
            let counter = IntCounterVec::new(Opts::new(name, help), &[label])?;
            registry.register(Box::new(counter.clone()))?;
            Ok::<_, prometheus::Error>(counter)
        };
        for (name, help, label, values) in LABELLED {
            let counter = labelled(name, help, label)?;
            for (of, value) in values {
                counters.push((counter.with_label_values(&[of]), value));
            }
        }
        let results: [(&str, Value); 3] = [
            ("accepted", |t| t.shell.accepted),
            ("refused", |t| t.shell.refused),
            ("failed", |t| t.shell.failed),
        ];
        let counter = labelled(CONNECTIONS_TOTAL, "TCP and TLS connections.", RESULT)?;
        for (result, value) in results {
            counters.push((counter.with_label_values(&[result]), value));
        }
        let dropped = labelled(DROPPED, "Packets not relayed.", REASON)?;
        let errors = labelled(ERRORS, "Error answers.", CODE)?;
        Ok(Self { registry, gauges, counters, dropped, errors })
    }

    /// All metrics in Prometheus' text form.
    pub(crate) fn render(
        &self,
        workers: &[Snapshot],
        (connections, handshakes): (usize, usize),
        is_draining: bool,
    ) -> String {
        let mut totals = Totals {
            connections: connections as u64,
            handshakes: handshakes as u64,
            is_draining,
            ..Totals::default()
        };
        for Snapshot { core, shell, is_draining: _, gathering } in workers {
            let micros = u64::try_from(gathering.as_micros()).unwrap_or(u64::MAX);
            totals.gathering_micros = totals.gathering_micros.max(micros);
            add_core(&mut totals.core, core);
            let ShellCounters { accepted, refused, failed, dropped } = shell;
            totals.shell.accepted += accepted;
            totals.shell.refused += refused;
            totals.shell.failed += failed;
            totals.shell.dropped += dropped;
        }
        for (gauge, value) in &self.gauges {
            gauge.set(i64::try_from(value(&totals)).unwrap_or(i64::MAX));
        }
        for (counter, value) in &self.counters {
            raise(counter, value(&totals));
        }
        for reason in DropReason::ALL {
            let counter = self.dropped.with_label_values(&[reason.as_str()]);
            raise(&counter, totals.core.dropped_for(reason));
        }
        raise(&self.dropped.with_label_values(&[NOT_TAKEN]), totals.shell.dropped);
        for code in ERROR_CODES {
            raise(&self.errors.with_label_values(&[&code.to_string()]), totals.errors(code));
        }
        let mut text = Vec::new();
        if let Err(error) = TextEncoder::new().encode(&self.registry.gather(), &mut text) {
            tracing::error!(%error, "Failed to write metrics");
        }
        String::from_utf8_lossy(&text).into_owned()
    }
}

fn add_core(sum: &mut Counters, of: &Counters) {
    let Counters {
        allocations,
        allocations_made,
        bindings,
        to_peer_packets,
        to_peer_bytes,
        to_client_packets,
        to_client_bytes,
        errors,
        dropped,
    } = of;
    sum.allocations += allocations;
    sum.allocations_made += allocations_made;
    sum.bindings += bindings;
    sum.to_peer_packets += to_peer_packets;
    sum.to_peer_bytes += to_peer_bytes;
    sum.to_client_packets += to_client_packets;
    sum.to_client_bytes += to_client_bytes;
    for (sum, of) in sum.errors.iter_mut().zip(errors) {
        *sum += of;
    }
    for (sum, of) in sum.dropped.iter_mut().zip(dropped) {
        *sum += of;
    }
}

/// Brings a counter to a value that the workers counted.
fn raise(counter: &IntCounter, value: u64) {
    counter.inc_by(value.saturating_sub(counter.get()));
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn workers_are_summed_under_every_name() {
        let metrics = Metrics::new().unwrap();
        let mut core = Counters { allocations: 2, to_peer_packets: 5, ..Counters::default() };
        core.errors[ERROR_CODES.iter().position(|code| *code == 401).unwrap()] = 3;
        core.dropped[DropReason::PeerDenied as usize] = 4;
        let shell = ShellCounters { refused: 6, ..Default::default() };
        let worker =
            Snapshot { core, shell, is_draining: true, gathering: Duration::from_millis(2) };
        let text = metrics.render(&[worker.clone(), worker], (7, 1), true);
        for line in [
            "livecluster_turn_allocations 4",
            "turn_total_allocations 4",
            "stunner_allocations_active 4",
            "livecluster_turn_packets_total{direction=\"to_peer\"} 10",
            "livecluster_turn_errors_total{code=\"401\"} 6",
            "turn_unauthenticated_401_responses 6",
            "livecluster_turn_dropped_total{reason=\"peer_denied\"} 8",
            "livecluster_turn_dropped_total{reason=\"not_taken\"} 0",
            "livecluster_turn_gathering_microseconds 2000",
            "livecluster_turn_connections_total{result=\"refused\"} 12",
            "livecluster_turn_connections 7",
            "livecluster_turn_draining 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in {text}");
        }
        for name in contract::turn_metrics::OF_TURN_SERVER {
            assert!(text.contains(&format!("\n{name}")), "{name} is missing in {text}");
        }
    }
}
