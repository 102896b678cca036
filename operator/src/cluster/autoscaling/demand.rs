//! What the media nodes do, added up over the LiveCluster.
//!
//! Nodes that leave count as well: what they have moves to the others, and counting it less would
//! send away one node after the other while the first still drains.

use std::collections::HashMap;
use std::time::Duration;

use crds::live_cluster::NodeCapacity;

use crate::cluster::nodes::{HostState, NodePhase, NodePod, Occupancy};
use crate::cluster::poll::Reading;

/// Thousandths of a node whose media workers are always busy, or that is at its capacity.
pub const WHOLE_NODE: u64 = 1000;

/// A sum over nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sum {
    /// What the nodes told.
    pub value: u64,
    /// Every node that may do anything told it; else the truth may be more.
    pub complete: bool,
}

impl Sum {
    /// Nobody does anything.
    pub const NOTHING: Self = Self { value: 0, complete: true };

    fn add(&mut self, value: Option<u64>) {
        match value {
            Some(value) => self.value = self.value.saturating_add(value),
            None => self.complete = false,
        }
    }
}

/// What the media nodes do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Demand {
    /// Rooms.
    pub rooms: Sum,
    /// Participants that subscribe to at least one track.
    pub subscribers: Sum,
    /// Busy media workers, or what there is of that for which nodes have a capacity where that is
    /// more, in thousandths of a node.
    pub load: Sum,
    /// Age of the oldest answer in it.
    pub age: Duration,
}

impl Demand {
    /// Adds up what the pods were found to do; `workers` are those of each node, `capacity` is what each
    /// takes.
    #[must_use]
    pub fn of(
        pods: &[NodePod],
        readings: &HashMap<String, Reading>,
        workers: u16,
        capacity: NodeCapacity,
    ) -> Self {
        let mut demand = Self {
            rooms: Sum::NOTHING,
            subscribers: Sum::NOTHING,
            load: Sum::NOTHING,
            age: Duration::ZERO,
        };
        for pod in pods.iter().filter(|pod| counts(pod)) {
            let reading = readings.get(&pod.uid);
            let (rooms, subscribers) = match pod.occupancy {
                Occupancy::Known { rooms, subscribers } => (Some(rooms), Some(subscribers)),
                Occupancy::Unknown => (None, None),
            };
            let whole = |count: i64| u64::try_from(count).unwrap_or_default();
            demand.rooms.add(rooms.map(whole));
            demand.subscribers.add(subscribers.map(whole));
            let told = rooms.is_some();
            let reached = rooms.zip(subscribers).map_or(0, |(rooms, subscribers)| {
                of_capacity(whole(rooms), whole(subscribers), capacity)
            });
            let share = |millis: u32| (u64::from(millis) / u64::from(workers.max(1))).max(reached);
            demand.load.add(match reading {
                Some(reading) if told => reading.busy_millis.map(share),
                // It was never asked, because it cannot do anything yet.
                None if told => Some(0),
                Some(_) | None => None,
            });
            if let Some(reading) = reading.filter(|_| told) {
                demand.age = demand.age.max(reading.age);
            }
        }
        demand
    }
}

/// How much of its capacity a node has, in thousandths, of that of which it has most. What goes out to
/// clients is not asked for: it follows the subscribers.
fn of_capacity(rooms: u64, subscribers: u64, capacity: NodeCapacity) -> u64 {
    let NodeCapacity { rooms: most_rooms, subscribers: most_subscribers, egress_mbps: _ } =
        capacity;
    let share = |used: u64, most: u32| (used * WHOLE_NODE).checked_div(most.into()).unwrap_or(0);
    share(rooms, most_rooms).max(share(subscribers, most_subscribers))
}

/// A pod that ended does nothing more. One that is being deleted hands its rooms over and may stop
/// to answer while it does so; one on a Kubernetes node that nobody hears of has lost its rooms to
/// others, or will.
fn counts(pod: &NodePod) -> bool {
    match pod.phase {
        NodePhase::Starting | NodePhase::Ready => pod.host_state != HostState::Lost,
        NodePhase::Terminating => pod.occupancy != Occupancy::Unknown,
        NodePhase::Ended => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::poll::Counts;

    fn pod(slot: u16, occupancy: Occupancy) -> NodePod {
        NodePod { occupancy, ..NodePod::open(slot) }
    }

    fn known(rooms: i64) -> Occupancy {
        Occupancy::Known { rooms, subscribers: 10 * rooms }
    }

    fn reading(slot: u16, busy_millis: Option<u32>) -> (String, Reading) {
        let age = Duration::from_secs(slot.into());
        (format!("uid-{slot}"), Reading { counts: Counts::default(), busy_millis, age })
    }

    /// Rooms, subscribers and load; a sum that may be more has a plus.
    fn summary(pods: &[NodePod], readings: &[(String, Reading)]) -> String {
        let readings = readings.iter().cloned().collect();
        let demand = Demand::of(pods, &readings, 2, NodeCapacity::default());
        let text = |sum: Sum| format!("{}{}", sum.value, if sum.complete { "" } else { "+" });
        [demand.rooms, demand.subscribers, demand.load].map(text).join(" ")
    }

    #[test]
    fn silence_is_not_emptiness() {
        use Occupancy::Unknown;
        let lost = NodePod { host_state: HostState::Lost, ..pod(1, Unknown) };
        let ended = NodePod { phase: NodePhase::Ended, ..pod(1, Unknown) };
        let silent_end = NodePod { phase: NodePhase::Terminating, ..pod(1, Unknown) };
        let end = NodePod { phase: NodePhase::Terminating, ..pod(1, known(5)) };
        let one = pod(0, known(3));
        let busy = |slot| reading(slot, Some(500));
        let cases = [
            (vec![], vec![], "0 0 0"),
            (vec![one.clone()], vec![busy(0)], "3 30 250"),
            (vec![one.clone()], vec![reading(0, None)], "3 30 0+"),
            (vec![one.clone(), pod(1, Occupancy::EMPTY)], vec![busy(0)], "3 30 250"),
            (vec![one.clone(), pod(1, Unknown)], vec![busy(0), busy(1)], "3+ 30+ 250+"),
            (vec![one.clone(), lost], vec![busy(0)], "3 30 250"),
            (vec![one.clone(), ended], vec![busy(0)], "3 30 250"),
            (vec![one.clone(), silent_end], vec![busy(0)], "3 30 250"),
            (vec![one, end], vec![busy(0), busy(1)], "8 80 500"),
        ];
        for (pods, readings, expected) in cases {
            assert_eq!(summary(&pods, &readings), expected, "{pods:?}");
        }
    }

    #[test]
    fn load_is_what_is_nearest_to_its_end() {
        let pods = [pod(0, known(30)), pod(1, known(5))];
        let readings = [reading(0, Some(500)), reading(1, Some(1600))].into_iter().collect();
        let load = |rooms, subscribers| {
            let capacity = NodeCapacity { rooms, subscribers, egress_mbps: 1 };
            Demand::of(&pods, &readings, 2, capacity).load.value
        };
        assert_eq!(load(0, 0), 250 + 800, "workers alone");
        assert_eq!(load(40, 0), 750 + 800, "the first has more of its rooms");
        assert_eq!(load(40, 320), 937 + 800, "and still more of its subscribers");
        assert_eq!(load(20, 0), 1500 + 800, "more than it takes");
    }

    #[test]
    fn the_age_is_that_of_the_oldest_answer() {
        let pods = [pod(1, known(1)), pod(3, known(1)), pod(9, Occupancy::Unknown)];
        let readings = [reading(1, None), reading(3, None), reading(9, None)];
        let readings = readings.into_iter().collect();
        let demand = Demand::of(&pods, &readings, 1, NodeCapacity::default());
        assert_eq!(demand.age, Duration::from_secs(3));
    }
}
