//! A receiver that decodes packets strictly in the order of their numbers, as aiortc does: one
//! number that never comes holds up everything behind it, key frames too.

use std::collections::BTreeMap;

/// Packets behind a hole after which it is given up.
const CAPACITY: u64 = 512;

/// Packets that wait for those before them.
#[derive(Debug)]
pub(crate) struct InOrder<T> {
    next: Option<u64>,
    waiting: BTreeMap<u64, T>,
    /// Holes that were given up.
    pub(crate) given_up: u64,
}

impl<T> InOrder<T> {
    pub(crate) fn new() -> Self {
        Self { next: None, waiting: BTreeMap::new(), given_up: 0 }
    }

    /// The number that everything waits for.
    pub(crate) fn next(&self) -> Option<u64> {
        self.next
    }

    /// Takes a packet and returns those that are in order now.
    pub(crate) fn insert(&mut self, index: u64, packet: T) -> Vec<(u64, T)> {
        let next = self.next.get_or_insert(index);
        if index < *next {
            return Vec::new();
        }
        self.waiting.insert(index, packet);
        if index - *next >= CAPACITY
            && let Some(first) = self.waiting.keys().next()
        {
            *next = *first;
            self.given_up += 1;
        }
        let mut ready = Vec::new();
        while let Some(packet) = self.waiting.remove(next) {
            ready.push((*next, packet));
            *next += 1;
        }
        ready
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hole_holds_up_what_follows_until_it_is_filled_or_given_up() {
        let mut order = InOrder::new();
        let mut numbers = |index| -> Vec<u64> {
            order.insert(index, ()).into_iter().map(|(index, ())| index).collect()
        };
        assert_eq!(numbers(10), [10]);
        assert!(numbers(12).is_empty());
        assert!(numbers(13).is_empty());
        assert_eq!(numbers(11), [11, 12, 13]);
        assert!(numbers(11).is_empty());
        assert!(numbers(15).is_empty());
        assert_eq!(numbers(14 + CAPACITY), [15]);
        assert_eq!(order.given_up, 1);
    }
}
