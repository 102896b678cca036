//! The sliding window against replayed packets (RFC 3711 section 3.3.2).

/// Packets behind the newest one that can still be told apart. Wider than the 64 of the RFC,
/// since video retransmitted on the same source comes late.
const WIDTH: u64 = 128;

/// Which of the last packet indices were seen.
#[derive(Debug, Default)]
pub(super) struct ReplayWindow {
    /// Highest index seen plus one; 0 when none was.
    end: u64,
    /// Bit `n` stands for index `end - 1 - n`.
    seen: u128,
}

impl ReplayWindow {
    /// Whether `index` was not seen and is young enough to know that.
    pub(super) fn is_new(&self, index: u64) -> bool {
        if index >= self.end {
            return true;
        }
        let age = self.end - 1 - index;
        age < WIDTH && self.seen >> age & 1 == 0
    }

    /// Remembers `index`.
    pub(super) fn insert(&mut self, index: u64) {
        if index >= self.end {
            let shift = index + 1 - self.end;
            self.seen = if shift < WIDTH { self.seen << shift } else { 0 };
            self.end = index + 1;
        }
        let age = self.end - 1 - index;
        if age < WIDTH {
            self.seen |= 1 << age;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn accepts_each_index_once(indices in prop::collection::vec(0u64..400, 1..500)) {
            let mut window = ReplayWindow::default();
            let mut seen = HashSet::new();
            let mut highest = 0;
            for index in indices {
                let is_new = window.is_new(index);
                if seen.contains(&index) {
                    prop_assert!(!is_new);
                } else {
                    prop_assert_eq!(is_new, index + WIDTH > highest);
                }
                if is_new {
                    window.insert(index);
                    seen.insert(index);
                    highest = highest.max(index);
                }
            }
        }
    }
}
