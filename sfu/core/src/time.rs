//! The present, as a shell tells it to a core.

use std::time::{Duration, Instant};

/// One moment on both clocks; cores never read a clock themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// Monotonic clock: for deadlines.
    pub instant: Instant,
    /// Milliseconds since 1970: for what clients see.
    pub unix_ms: u64,
}

impl Now {
    /// The moment that lies `duration` later on both clocks.
    #[must_use]
    pub fn after(self, duration: Duration) -> Self {
        let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        Self { instant: self.instant + duration, unix_ms: self.unix_ms.saturating_add(millis) }
    }

    /// Seconds since 1970.
    pub fn unix_seconds(self) -> u64 {
        self.unix_ms / 1000
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "the beginning of virtual time")]
    fn both_clocks_move_together() {
        let now = Now { instant: Instant::now(), unix_ms: 1_500 };
        let later = now.after(Duration::from_millis(700));
        assert_eq!(later.instant - now.instant, Duration::from_millis(700));
        assert_eq!((later.unix_ms, later.unix_seconds()), (2_200, 2));
    }
}
