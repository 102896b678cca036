//! How long a worker of a media node or of a TURN server lets datagrams gather before it reads them:
//! the more it sends, the longer. What leaves for one receiver at the same moment leaves in one
//! segmented send, and waking up is shared by more.

use std::time::{Duration, Instant};

/// How often the rate is looked at.
const LOOK: Duration = Duration::from_millis(100);
/// Share of a new look in the time: gathering may lower the rate that it follows from.
const SHARE: f64 = 0.3;

/// Within what a worker gathers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bounds {
    /// Sends a second up to which nothing waits.
    pub easy: f64,
    /// Sends a second from which datagrams gather for the longest time.
    pub hard: f64,
    /// Longest time to gather.
    pub longest: Duration,
}

/// How long datagrams gather.
#[derive(Debug)]
pub struct Gathering {
    bounds: Bounds,
    looked_at: Instant,
    sends: u64,
    seconds: f64,
}

impl Gathering {
    /// Nothing waits at first.
    pub fn new(bounds: Bounds, now: Instant) -> Self {
        Self { bounds, looked_at: now, sends: 0, seconds: 0.0 }
    }

    /// Counts sends; what gathers is a matter of their rate.
    pub fn note(&mut self, sends: u64, now: Instant) {
        self.sends += sends;
        let elapsed = now.saturating_duration_since(self.looked_at);
        if elapsed < LOOK {
            return;
        }
        let Bounds { easy, hard, longest } = self.bounds;
        let rate = self.sends as f64 / elapsed.as_secs_f64();
        let aim = longest.as_secs_f64() * ((rate - easy) / (hard - easy)).clamp(0.0, 1.0);
        self.seconds += SHARE * (aim - self.seconds);
        (self.looked_at, self.sends) = (now, 0);
    }

    /// How long to sleep after a round of this length before the next look at the sockets. Where
    /// the round left something unread, not at all: else no more than what one round reads would
    /// ever be read within the time to gather.
    pub fn rest(&self, round: Duration, is_drained: bool) -> Duration {
        match is_drained {
            true => self.time().saturating_sub(round),
            false => Duration::ZERO,
        }
    }

    /// How long datagrams gather now: the time between two looks at the sockets.
    pub fn time(&self) -> Duration {
        // Less is not worth a sleep.
        Some(Duration::from_secs_f64(self.seconds))
            .filter(|time| *time >= Duration::from_micros(100))
            .unwrap_or_default()
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a moment from which the tests count")]
mod tests {
    use super::*;

    const EASY: f64 = 20_000.0;
    const HARD: f64 = 60_000.0;
    const LONGEST: Duration = Duration::from_millis(10);
    const BOUNDS: Bounds = Bounds { easy: EASY, hard: HARD, longest: LONGEST };

    /// The time after two seconds, where so many datagrams a second make `sends` of the time
    /// that they gather.
    fn settled(sends: impl Fn(Duration) -> f64) -> Duration {
        let mut now = Instant::now();
        let mut gathering = Gathering::new(BOUNDS, now);
        for _ in 0..20 {
            now += LOOK;
            gathering.note((sends(gathering.time()) * LOOK.as_secs_f64()) as u64, now);
        }
        gathering.time()
    }

    #[test]
    fn nothing_waits_on_an_easy_worker() {
        assert_eq!(settled(|_| 0.0), Duration::ZERO);
        assert_eq!(settled(|_| EASY), Duration::ZERO);
    }

    #[test]
    fn a_worker_that_gathering_does_not_help_gathers_no_longer_than_the_longest() {
        let time = settled(|_| 1e6);
        assert!(time > LONGEST.mul_f64(0.99) && time <= LONGEST, "{time:?}");
    }

    #[test]
    fn a_balance_is_found_where_gathering_helps() {
        // 300 subscribers of ten speakers who speak at random times.
        let sends = |time: Duration| {
            let seconds = time.as_secs_f64().max(1e-4);
            300.0 / seconds * (1.0 - (-500.0 * seconds).exp())
        };
        let time = settled(sends);
        let aim = LONGEST.as_secs_f64() * ((sends(time) - EASY) / (HARD - EASY)).clamp(0.0, 1.0);
        assert!((time.as_secs_f64() - aim).abs() < 1e-3, "{time:?}, not {aim}");
    }

    #[test]
    fn who_has_left_something_unread_does_not_rest() {
        let mut now = Instant::now();
        let mut gathering = Gathering::new(BOUNDS, now);
        for _ in 0..100 {
            now += LOOK;
            gathering.note(100_000, now);
        }
        let round = Duration::from_millis(4);
        let rest = gathering.rest(round, true);
        assert!(rest > LONGEST.mul_f64(0.59) && rest <= LONGEST - round, "{rest:?}");
        assert_eq!(gathering.rest(round, false), Duration::ZERO);
        assert_eq!(gathering.rest(LONGEST, true), Duration::ZERO);
    }

    #[test]
    fn it_ends_with_the_load() {
        let start = Instant::now();
        let mut gathering = Gathering::new(BOUNDS, start);
        for tenth in 1..100_u32 {
            let sends = if tenth < 20 { 10_000 } else { 0 };
            gathering.note(sends, start + tenth * LOOK);
        }
        assert_eq!(gathering.time(), Duration::ZERO);
    }
}
