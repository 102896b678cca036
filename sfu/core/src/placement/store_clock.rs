//! What a node knows of the clock of Redis, which ends leases by it.

use std::time::Duration;

/// By how much two good clocks may drift apart between two renewals, in milliseconds.
const DRIFT: i64 = 1;

/// By how many milliseconds the clock of Redis is ahead of the node's own: at least, and at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct StoreClock {
    least: i64,
    most: i64,
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

impl StoreClock {
    /// Redis read `store_time` between these times of the node's own clock.
    pub(super) fn new(sent_at: Duration, received_at: Duration, store_time: u64) -> Self {
        let store_time = i64::try_from(store_time).unwrap_or(i64::MAX);
        // Fractions of milliseconds are cut off on both sides.
        let least = store_time - millis(received_at) - 1;
        Self { least, most: store_time - millis(sent_at) + 1 }
    }

    /// Takes what a renewal tells; `true` when the clock of Redis has jumped.
    pub(super) fn learn(&mut self, seen: Self) -> bool {
        let least = (self.least - DRIFT).max(seen.least);
        let most = (self.most + DRIFT).min(seen.most);
        let has_jumped = least > most;
        *self = if has_jumped { seen } else { Self { least, most } };
        has_jumped
    }

    /// The least that Redis may read now.
    pub(super) fn at(self, now: Duration) -> u64 {
        u64::try_from(millis(now).saturating_add(self.least)).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(sent_at: u64, received_at: u64, store_time: u64) -> StoreClock {
        let millis = Duration::from_millis;
        StoreClock::new(millis(sent_at), millis(received_at), store_time)
    }

    #[test]
    fn quick_answers_tell_the_time_and_slow_ones_do_not_unlearn_it() {
        let mut clock = seen(100, 104, 50_102);
        assert!(!clock.learn(seen(1_100, 1_900, 51_100)));
        let now = clock.at(Duration::from_millis(2_000));
        assert!((51_990..=52_000).contains(&now), "{now}");
    }

    #[test]
    fn jumps_are_seen_either_way_and_drift_is_none() {
        for (store_time, jumps) in [(51_402, true), (50_902, true), (51_103, false)] {
            let mut clock = seen(100, 104, 50_102);
            assert_eq!(clock.learn(seen(1_100, 1_104, store_time)), jumps, "{store_time}");
            let now = clock.at(Duration::from_millis(1_104));
            assert!(now.abs_diff(store_time) < 10, "{now} for {store_time}");
        }
    }
}
