//! Bounds in time: how fast an allocation may relay, how many challenges a source may cause.

use std::hash::BuildHasher as _;
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

use rand::Rng;
use rustc_hash::FxSeededState;

/// A bucket that fills with `rate` tokens a second and holds one second of them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bucket {
    /// When the bucket would be full, had nothing been taken since: the later, the emptier.
    full_at: Instant,
}

impl Bucket {
    pub(crate) const fn new(now: Instant) -> Self {
        Self { full_at: now }
    }

    /// Whether `amount` can be taken at a rate; 0 is no limit.
    pub(crate) fn has(&self, amount: u64, rate: u64, now: Instant) -> bool {
        let Some(cost) = cost(amount, rate) else { return true };
        // One burst larger than the bucket may go when it is full: else it never could.
        let ahead = self.full_at.saturating_duration_since(now);
        ahead.is_zero() || ahead + cost <= Duration::from_secs(1)
    }

    /// Takes what [`Self::has`] allowed.
    pub(crate) fn take(&mut self, amount: u64, rate: u64, now: Instant) {
        if let Some(cost) = cost(amount, rate) {
            self.full_at = self.full_at.max(now) + cost;
        }
    }

    /// Takes if there is enough.
    pub(crate) fn try_take(&mut self, amount: u64, rate: u64, now: Instant) -> bool {
        let has = self.has(amount, rate, now);
        if has {
            self.take(amount, rate, now);
        }
        has
    }
}

fn cost(amount: u64, rate: u64) -> Option<Duration> {
    let nanos = amount.saturating_mul(1_000_000_000).checked_div(rate)?;
    Some(Duration::from_nanos(nanos))
}

/// Whom an address is counted for: a host has all of its IPv6 /64.
pub(crate) fn source(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(_) => ip,
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from(u128::from(v6) >> 64 << 64)),
    }
}

/// Sources that are counted at a time; of two that share a slot the later starts afresh, so that
/// memory is fixed and nobody can use up another's budget.
const SOURCES: usize = 4096;

/// How many challenges (401, 438) each source may cause a second: an answer is longer than its
/// request, and the request's source may be forged.
pub(crate) struct ChallengeBudget {
    hasher: FxSeededState,
    slots: Box<[(u64, Bucket)]>,
}

impl std::fmt::Debug for ChallengeBudget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ChallengeBudget")
    }
}

impl ChallengeBudget {
    pub(crate) fn new(rng: &mut impl Rng, now: Instant) -> Self {
        let slots = vec![(0, Bucket::new(now)); SOURCES].into();
        Self { hasher: FxSeededState::with_seed(rng.next_u64() as usize), slots }
    }

    pub(crate) fn try_take(&mut self, client: IpAddr, rate: u32, now: Instant) -> bool {
        let hash = self.hasher.hash_one(source(client));
        let (tag, bucket) = &mut self.slots[hash as usize % SOURCES];
        if *tag != hash {
            *tag = hash;
            *bucket = Bucket::new(now);
        }
        bucket.try_take(1, rate.into(), now)
    }
}
