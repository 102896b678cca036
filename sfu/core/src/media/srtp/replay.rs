//! The sliding window against replayed packets (RFC 3711 section 3.3.2).

/// Packets behind the newest one that can still be told apart. Wider than the 64 of the RFC,
/// since video that is sent again on the same source comes late: a second of 8 Mbit/s.
const WIDTH: u64 = 1024;
const WORD: u64 = u64::BITS as u64;

/// Which of the last packet indices were seen.
#[derive(Debug)]
pub(in super::super) struct ReplayWindow {
    /// Highest index seen plus one; 0 when none was.
    end: u64,
    /// A bit for each index, in a ring.
    seen: [u64; (WIDTH / WORD) as usize],
}

impl Default for ReplayWindow {
    fn default() -> Self {
        Self { end: 0, seen: [0; (WIDTH / WORD) as usize] }
    }
}

/// Word and bit of an index.
fn place(index: u64) -> (usize, u64) {
    ((index % WIDTH / WORD) as usize, 1 << (index % WORD))
}

impl ReplayWindow {
    /// A window in which `index` and all before it were seen.
    pub(in super::super) fn seen_to(index: u64) -> Self {
        Self { end: index + 1, seen: [u64::MAX; (WIDTH / WORD) as usize] }
    }

    /// Whether `index` was not seen and is young enough to know that.
    pub(in super::super) fn is_new(&self, index: u64) -> bool {
        if index >= self.end {
            return true;
        }
        let (word, bit) = place(index);
        index + WIDTH >= self.end && self.seen[word] & bit == 0
    }

    /// Remembers `index`, which is new.
    pub(in super::super) fn insert(&mut self, index: u64) {
        for skipped in self.end.max((index + 1).saturating_sub(WIDTH))..=index {
            let (word, bit) = place(skipped);
            self.seen[word] &= !bit;
        }
        self.end = self.end.max(index + 1);
        if index + WIDTH >= self.end {
            let (word, bit) = place(index);
            self.seen[word] |= bit;
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
        fn accepts_each_index_once(indices in prop::collection::vec(0u64..4000, 1..2000)) {
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
