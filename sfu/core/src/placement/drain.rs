//! How fast the rooms of a node move when it leaves.

use std::time::Duration;

use rand::{Rng, RngExt as _};

/// The wait until the next room moves: by chance between half and one and a half times what the
/// rate gives, so that the clients of several nodes that leave do not come in step.
pub fn pause_between_moves<R: Rng + ?Sized>(rooms_per_second: u16, rng: &mut R) -> Duration {
    Duration::from_secs(1).mul_f64(rng.random_range(0.5..1.5) / f64::from(rooms_per_second.max(1)))
}

/// Rooms to move per second by a node whose process ends: as many as it takes to move `rooms`
/// within `time`, and at least `least`.
pub fn closing_rate(rooms: usize, time: Duration, least: u16) -> u16 {
    let seconds = usize::try_from(time.as_secs().max(1)).unwrap_or(usize::MAX);
    u16::try_from(rooms.div_ceil(seconds)).unwrap_or(u16::MAX).max(least)
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;
    use rand::rngs::StdRng;

    use super::*;

    #[test]
    fn pauses_keep_the_rate_and_differ() {
        let mut rng = StdRng::seed_from_u64(1);
        let pauses: Vec<Duration> = (0..500).map(|_| pause_between_moves(5, &mut rng)).collect();
        let sum: Duration = pauses.iter().sum();
        assert!((95..=105).contains(&sum.as_secs()), "{sum:?} for 500 rooms at 5 per second");
        assert_ne!(pauses[0], pauses[1]);
    }

    #[test]
    fn a_process_that_ends_moves_all_its_rooms_in_time() {
        assert_eq!(closing_rate(0, Duration::from_secs(10), 5), 5);
        assert_eq!(closing_rate(1_000, Duration::from_secs(10), 5), 100);
        assert_eq!(closing_rate(1_001, Duration::from_secs(10), 5), 101);
        assert_eq!(closing_rate(usize::MAX, Duration::ZERO, 5), u16::MAX);
    }
}
