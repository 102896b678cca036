//! Relayed ports of a worker on one address.

use std::ops::RangeInclusive;

use rand::{Rng, RngExt as _};

/// Which ports are taken.
#[derive(Debug)]
pub(crate) struct Ports {
    first: u16,
    taken: Box<[bool]>,
}

impl Ports {
    pub(crate) fn new(range: &RangeInclusive<u16>) -> Self {
        Self { first: *range.start(), taken: vec![false; range.len()].into() }
    }

    /// Takes a random free port: hard to guess for who is not the client (RFC 8656 section 7.2).
    /// With `even`, an even one; with `even == Some(true)` the next one, too.
    pub(crate) fn take(&mut self, even: Option<bool>, rng: &mut impl Rng) -> Option<u16> {
        let count = self.taken.len();
        if count == 0 {
            return None;
        }
        let start = rng.random_range(0..count);
        let index = (start..count).chain(0..start).find(|index| {
            let is_even = (usize::from(self.first) + index) % 2 == 0;
            let next_is_free = self.taken.get(index + 1) == Some(&false);
            !self.taken[*index]
                && (even.is_none() || is_even)
                && (even != Some(true) || next_is_free)
        })?;
        self.taken[index] = true;
        if even == Some(true) {
            self.taken[index + 1] = true;
        }
        Some(self.first + index as u16)
    }

    pub(crate) fn release(&mut self, port: u16) {
        let index = usize::from(port.wrapping_sub(self.first));
        if let Some(taken) = self.taken.get_mut(index) {
            *taken = false;
        }
    }
}
