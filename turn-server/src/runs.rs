//! Groups the datagrams of one receive batch by where they go, so that each group leaves with
//! one system call. The order of datagrams with the same destination is kept.

use crate::udp::{Destination, MAX_RUN, MAX_SEGMENTS, Segment};

/// Runs that are open at the same time: as many as a batch has senders.
const MAX_OPEN: usize = 32;

/// Open runs. `K` tells the socket that sends.
pub(crate) struct Runs<K> {
    /// The first `open` are in use; the others keep their memory.
    runs: Vec<Run<K>>,
    open: usize,
    oldest: usize,
}

/// Datagrams to one destination, all of the first one's size but the last, which may be shorter.
pub(crate) struct Run<K> {
    /// The socket.
    pub(crate) key: K,
    /// Where they go.
    pub(crate) destination: Destination,
    /// The datagrams; never empty.
    pub(crate) segments: Vec<Segment>,
    bytes: usize,
}

impl<K> Run<K> {
    fn takes(&self, length: usize) -> bool {
        let first = self.segments.first().map_or(length, Segment::length);
        let last = self.segments.last().map_or(length, Segment::length);
        last == first
            && length <= first
            && self.segments.len() < MAX_SEGMENTS
            && self.bytes + length <= MAX_RUN
    }
}

impl<K: Copy + PartialEq> Runs<K> {
    /// Makes an empty group.
    pub(crate) fn new() -> Self {
        Self { runs: Vec::with_capacity(MAX_OPEN), open: 0, oldest: 0 }
    }

    /// Adds a datagram; `flush` gets runs that must go first.
    pub(crate) fn push(
        &mut self,
        key: K,
        destination: Destination,
        segment: Segment,
        mut flush: impl FnMut(&Run<K>),
    ) {
        let length = segment.length();
        let found = self.runs[..self.open]
            .iter()
            .position(|run| run.key == key && run.destination == destination);
        let index = match found {
            Some(index) => {
                if !self.runs[index].takes(length) {
                    flush(&self.runs[index]);
                    self.runs[index].segments.clear();
                    self.runs[index].bytes = 0;
                }
                index
            }
            None => self.start(key, destination, &mut flush),
        };
        let run = &mut self.runs[index];
        run.segments.push(segment);
        run.bytes += length;
    }

    /// Hands out all runs.
    pub(crate) fn flush(&mut self, mut flush: impl FnMut(&Run<K>)) {
        for run in &mut self.runs[..self.open] {
            flush(run);
            run.segments.clear();
            run.bytes = 0;
        }
        (self.open, self.oldest) = (0, 0);
    }

    fn start(
        &mut self,
        key: K,
        destination: Destination,
        flush: &mut impl FnMut(&Run<K>),
    ) -> usize {
        let index = if self.open < MAX_OPEN {
            self.open += 1;
            self.open - 1
        } else {
            let oldest = self.oldest;
            self.oldest = (oldest + 1) % MAX_OPEN;
            flush(&self.runs[oldest]);
            oldest
        };
        match self.runs.get_mut(index) {
            Some(run) => {
                (run.key, run.destination, run.bytes) = (key, destination, 0);
                run.segments.clear();
            }
            None => {
                let segments = Vec::with_capacity(MAX_SEGMENTS);
                self.runs.push(Run { key, destination, segments, bytes: 0 });
            }
        }
        index
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn destination(port: u16) -> Destination {
        Destination { to: ([192, 0, 2, 1], port).into(), from: None, tos: 0 }
    }

    fn segment(length: usize) -> Segment {
        Segment::plain(0..length)
    }

    /// Pushes datagrams of `(socket, port, length)`; gives the lengths of each run that left.
    fn runs(datagrams: &[(u32, u16, usize)]) -> Vec<(u32, u16, Vec<usize>)> {
        let mut left = Vec::new();
        let mut note = |run: &Run<u32>| {
            let lengths = run.segments.iter().map(Segment::length).collect();
            assert_eq!(run.bytes, run.segments.iter().map(Segment::length).sum::<usize>());
            left.push((run.key, run.destination.to.port(), lengths));
        };
        let mut runs = Runs::new();
        for &(socket, port, length) in datagrams {
            runs.push(socket, destination(port), segment(length), &mut note);
        }
        runs.flush(&mut note);
        left
    }

    #[test]
    fn equal_datagrams_and_a_shorter_last_one_leave_together() {
        let left = runs(&[(1, 1, 10), (1, 1, 10), (1, 1, 4), (1, 1, 4), (1, 1, 10)]);
        assert_eq!(left, [(1, 1, vec![10, 10, 4]), (1, 1, vec![4]), (1, 1, vec![10])]);
    }

    #[test]
    fn interleaved_destinations_are_sorted_out() {
        let left = runs(&[(1, 1, 9), (2, 1, 9), (1, 2, 9), (1, 1, 9), (2, 1, 9)]);
        assert_eq!(left, [(1, 1, vec![9, 9]), (2, 1, vec![9, 9]), (1, 2, vec![9])]);
    }

    #[test]
    fn runs_are_bounded_and_nothing_is_lost() {
        let many: Vec<_> = (0..10 * MAX_OPEN as u16).map(|port| (1, port, 5)).collect();
        assert_eq!(runs(&many).len(), many.len());
        let long = vec![(1, 1, 1200); 3 * MAX_SEGMENTS];
        let left = runs(&long);
        assert!(left.iter().all(|(_, _, lengths)| lengths.len() * 1200 <= MAX_RUN));
        assert_eq!(left.iter().map(|(_, _, lengths)| lengths.len()).sum::<usize>(), long.len());
    }

    #[test]
    fn empty_datagrams_are_datagrams() {
        assert_eq!(runs(&[(1, 1, 0), (1, 1, 0), (1, 1, 3)])[0].2, vec![0, 0]);
    }
}
