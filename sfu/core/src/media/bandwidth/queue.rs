//! How long packets wait on the path: their one-way delay above the shortest of late. A trend
//! needs many pictures to show and says nothing of a queue that is full; this says both at once.

/// For how long the shortest delay holds, microseconds: once to twice this.
const WINDOW: i64 = 10_000_000;
/// A wait that is not jitter any more, microseconds.
const LONG: i64 = 200_000;

/// Follows one-way delays. Both clocks may begin anywhere.
#[derive(Debug, Default)]
pub(super) struct QueueDelay {
    /// Shortest delays of this window and of the one before.
    shortest: Option<(i64, i64)>,
    window_start: i64,
    latest: i64,
}

impl QueueDelay {
    /// Notes a packet by its times in microseconds, each on its own clock.
    pub(super) fn add(&mut self, sent: i64, arrival: i64) {
        let delay = arrival - sent;
        self.latest = delay;
        let (current, before) = self.shortest.unwrap_or((delay, delay));
        if sent - self.window_start > WINDOW {
            self.window_start = sent;
            self.shortest = Some((delay, current));
        } else {
            self.shortest = Some((current.min(delay), before));
        }
    }

    /// Whether packets wait for long.
    pub(super) fn is_long(&self) -> bool {
        self.shortest.is_some_and(|(current, before)| self.latest - current.min(before) > LONG)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_counts_from_the_shortest_delay_of_late() {
        let mut queue = QueueDelay::default();
        let mut at = 0;
        let mut wait = |queue: &mut QueueDelay, delay: i64, count: i64| {
            for _ in 0..count {
                at += 100_000;
                queue.add(at, at - 7_000_000 + delay);
            }
            queue.is_long()
        };
        assert!(!wait(&mut queue, 50_000, 10));
        assert!(!wait(&mut queue, 240_000, 10));
        assert!(wait(&mut queue, 260_000, 10));
        assert!(!wait(&mut queue, 100_000, 1));
        // A longer path is no queue for ever.
        assert!(!wait(&mut queue, 400_000, 300));
    }
}
