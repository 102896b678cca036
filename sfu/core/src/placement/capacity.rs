//! How many rooms a node takes beside those that it has.

use contract::redis::NO_LIMIT;
use contract::sfu_config::CapacityConfig;

/// What a node has of that of which it may have no more than its capacity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Used {
    /// Rooms that have their home there.
    pub rooms: u64,
    /// Participants that receive at least one track.
    pub subscribers: u64,
    /// Megabits a second that were sent lately.
    pub egress_mbps: u64,
}

/// New rooms that a node takes; [`NO_LIMIT`] where its capacity limits none. Nobody knows how large a
/// room becomes: as long as there is any of the rest left, it counts for as many rooms as there may be.
pub fn free_rooms(capacity: CapacityConfig, used: Used) -> u64 {
    let CapacityConfig { rooms, subscribers, egress_mbps } = capacity;
    let is_reached = |used: u64, most: u32| most > 0 && used >= u64::from(most);
    if is_reached(used.subscribers, subscribers) || is_reached(used.egress_mbps, egress_mbps) {
        0
    } else if rooms > 0 {
        u64::from(rooms).saturating_sub(used.rooms)
    } else {
        NO_LIMIT
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_is_reached_first_makes_a_node_full() {
        let cases = [
            // Capacity and use: rooms, subscribers, megabits; free rooms.
            ([0, 0, 0], [9_999, 9_999, 9_999], NO_LIMIT),
            ([10, 0, 0], [0, 9_999, 9_999], 10),
            ([10, 0, 0], [9, 0, 0], 1),
            ([10, 0, 0], [10, 0, 0], 0),
            ([10, 0, 0], [12, 0, 0], 0),
            ([0, 500, 0], [9_999, 499, 0], NO_LIMIT),
            ([0, 500, 0], [1, 500, 0], 0),
            ([0, 0, 900], [1, 9_999, 899], NO_LIMIT),
            ([0, 0, 900], [1, 0, 900], 0),
            ([10, 500, 900], [3, 499, 899], 7),
            ([10, 500, 900], [3, 499, 901], 0),
        ];
        for ([rooms, subscribers, egress_mbps], used, free) in cases {
            let capacity = CapacityConfig { rooms, subscribers, egress_mbps };
            let [rooms, subscribers, egress_mbps] = used;
            let used = Used { rooms, subscribers, egress_mbps };
            assert_eq!(free_rooms(capacity, used), free, "{used:?} of {capacity:?}");
        }
    }
}
