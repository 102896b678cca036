//! Prometheus metrics of the node; names are in `contract::metrics`.

use contract::metrics::{
    BUSY, BYTES, DIRECTION, DROPPED, DROPPED_ROOM_EVENTS, FRONT_DOOR_JOINS, GATHERING, KNOWN_NODES,
    PACKETS, PARTICIPANTS, REASON, RETRANSMITTED, ROOMS, ROUTE, SUBSCRIBERS, SUBSCRIPTIONS,
    UNPLACED_ROOMS,
};
use prometheus::{Encoder as _, IntCounter, IntCounterVec, IntGauge, Opts, Registry, TextEncoder};

use crate::placement::PlacementError;
use crate::rooms::NodeCounts;
use crate::rtc::MediaCounters;

/// The node's metrics.
pub struct Metrics {
    registry: Registry,
    rooms: IntGauge,
    participants: IntGauge,
    subscribers: IntGauge,
    subscriptions: IntGauge,
    known_nodes: IntGauge,
    packets: IntCounterVec,
    bytes: IntCounterVec,
    retransmitted: IntCounter,
    dropped: IntCounter,
    busy: IntCounter,
    gathering: IntGauge,
    front_door_joins: IntCounterVec,
    unplaced_rooms: IntCounterVec,
    dropped_room_events: IntCounter,
}

impl Metrics {
    /// Registers all metrics.
    ///
    /// # Errors
    ///
    /// When a name is registered twice.
    pub fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let gauge = |name: &str, help: &str| -> Result<IntGauge, prometheus::Error> {
            let gauge = IntGauge::new(name, help)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok(gauge)
        };
        let counter = |name: &str, help: &str, label: &str| {
            let counter = IntCounterVec::new(Opts::new(name, help), &[label])?;
            registry.register(Box::new(counter.clone()))?;
            Ok::<_, prometheus::Error>(counter)
        };
        let plain = |name: &str, help: &str| -> Result<IntCounter, prometheus::Error> {
            let counter = IntCounter::new(name, help)?;
            registry.register(Box::new(counter.clone()))?;
            Ok(counter)
        };
        Ok(Self {
            rooms: gauge(ROOMS, "Rooms that have their home on this node.")?,
            participants: gauge(PARTICIPANTS, "Participants in rooms of this node.")?,
            subscribers: gauge(SUBSCRIBERS, "Participants that receive at least one track.")?,
            subscriptions: gauge(SUBSCRIPTIONS, "Tracks forwarded, one for each subscriber.")?,
            known_nodes: gauge(KNOWN_NODES, "Living nodes that this one knows.")?,
            packets: counter(PACKETS, "Media datagrams.", DIRECTION)?,
            bytes: counter(BYTES, "Bytes of media datagrams.", DIRECTION)?,
            retransmitted: plain(RETRANSMITTED, "Media packets that were sent again on request.")?,
            dropped: plain(DROPPED, "Datagrams that were not taken, and packets without room.")?,
            busy: plain(BUSY, "Microseconds that media workers were not waiting.")?,
            gathering: gauge(GATHERING, "Microseconds for which datagrams gather.")?,
            dropped_room_events: plain(
                DROPPED_ROOM_EVENTS,
                "Room events that did not get to the stream in Redis.",
            )?,
            front_door_joins: counter(
                FRONT_DOOR_JOINS,
                "Joins that this node took in, by route.",
                ROUTE,
            )?,
            unplaced_rooms: counter(UNPLACED_ROOMS, "Rooms that got no home.", REASON)?,
            registry,
        })
    }

    /// Counts a join that came in here.
    pub fn count_join(&self, is_local: bool) {
        let route = if is_local { "local" } else { "proxied" };
        self.front_door_joins.with_label_values(&[route]).inc();
    }

    /// Counts a room that was asked for here and got no home.
    pub fn count_unplaced(&self, error: &PlacementError) {
        self.unplaced_rooms.with_label_values(&[error.reason()]).inc();
    }

    /// Notes how many living nodes this one knows.
    pub fn set_known_nodes(&self, nodes: usize) {
        self.known_nodes.set(i64::try_from(nodes).unwrap_or(i64::MAX));
    }

    /// All metrics in Prometheus' text form.
    pub fn render(
        &self,
        rooms: NodeCounts,
        media: MediaCounters,
        dropped_room_events: u64,
    ) -> String {
        let set =
            |gauge: &IntGauge, value: u64| gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        set(&self.rooms, rooms.rooms);
        set(&self.participants, rooms.participants);
        set(&self.subscribers, rooms.subscribers);
        set(&self.subscriptions, rooms.subscriptions);
        for (direction, packets, bytes) in
            [("in", media.packets_in, media.bytes_in), ("out", media.packets_out, media.bytes_out)]
        {
            raise(&self.packets.with_label_values(&[direction]), packets);
            raise(&self.bytes.with_label_values(&[direction]), bytes);
        }
        raise(&self.retransmitted, media.retransmitted);
        raise(&self.dropped, media.dropped);
        raise(&self.busy, media.busy_micros);
        set(&self.gathering, media.gathering_micros);
        raise(&self.dropped_room_events, dropped_room_events);
        let mut text = Vec::new();
        if let Err(error) = TextEncoder::new().encode(&self.registry.gather(), &mut text) {
            tracing::error!(%error, "Failed to write metrics");
        }
        String::from_utf8_lossy(&text).into_owned()
    }
}

/// Brings a counter to a value that the workers counted.
fn raise(counter: &IntCounter, value: u64) {
    counter.inc_by(value.saturating_sub(counter.get()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_of_the_contract_is_written() {
        let metrics = Metrics::new().unwrap();
        metrics.count_join(true);
        metrics.count_unplaced(&PlacementError::Full);
        let rooms = NodeCounts { rooms: 2, ..NodeCounts::default() };
        let text = metrics.render(rooms, MediaCounters::default(), 3);
        for name in contract::metrics::OF_MEDIA_NODE {
            assert!(text.contains(name), "{name} is missing");
        }
        assert!(text.contains("livecluster_rooms 2"));
        assert!(text.contains(r#"livecluster_unplaced_rooms_total{reason="full"} 1"#));
        assert!(text.contains("livecluster_dropped_room_events_total 3"));
    }
}
