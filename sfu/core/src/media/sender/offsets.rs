//! Sequence numbers of one source stream on their way to a subscriber.

use std::collections::VecDeque;

/// Output minus source numbers of the current stream, by the source number from which they
/// hold. Packets that are left out begin a new one, while a packet from before them that comes
/// late keeps the old: an output number must never mean two packets, since it is SRTP's nonce.
#[derive(Debug, Default)]
pub(super) struct SequenceOffsets(VecDeque<(u64, i64)>);

impl SequenceOffsets {
    /// Most offsets that are remembered: two seconds of pictures with layers left out. Packets
    /// older than those are not sent.
    const BOUND: usize = 64;

    /// Begins another source stream: its number `source` becomes `output`.
    pub(super) fn restart(&mut self, source: u64, output: u64) {
        self.0.clear();
        self.0.push_back((source, output as i64 - source as i64));
    }

    /// Leaves out `source`, beyond which nothing was mapped yet.
    pub(super) fn close_up(&mut self, source: u64) {
        let Some(&(from, offset)) = self.0.back() else { return };
        let next = (source + 1, offset - 1);
        // Of a run that is left out only its end matters, if it began the last range.
        if from == source && self.0.len() > 1 {
            self.0.pop_back();
        } else if self.0.len() == Self::BOUND {
            self.0.pop_front();
        }
        self.0.push_back(next);
    }

    /// The output number; `None` for what is older than the stream's first packet.
    pub(super) fn map(&self, source: u64) -> Option<u64> {
        let (_, offset) = self.0.iter().rev().find(|(from, _)| *from <= source)?;
        source.checked_add_signed(*offset)
    }

    /// The source number that has this output number.
    pub(super) fn source_of(&self, output: u64) -> Option<u64> {
        let source = |offset: i64| output.checked_add_signed(-offset);
        let begins = |(from, offset): &&(u64, i64)| source(*offset) >= Some(*from);
        self.0.iter().rev().find(begins).and_then(|(_, offset)| source(*offset))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_that_are_left_out_take_one_entry_and_late_packets_keep_their_numbers() {
        let mut offsets = SequenceOffsets::default();
        offsets.restart(1000, 10);
        assert_eq!((offsets.map(1000), offsets.map(999)), (Some(10), None));
        for left_out in 1002..1010 {
            offsets.close_up(left_out);
        }
        assert_eq!(offsets.0.len(), 2);
        assert_eq!((offsets.map(1001), offsets.map(1010)), (Some(11), Some(12)));
        let sources = [9, 10, 11, 12, 13].map(|output| offsets.source_of(output));
        assert_eq!(sources, [None, Some(1000), Some(1001), Some(1010), Some(1011)]);
    }

    #[test]
    fn the_number_of_entries_is_bounded() {
        let mut offsets = SequenceOffsets::default();
        offsets.restart(0, 0);
        for left_out in (1..1000).step_by(2) {
            offsets.close_up(left_out);
        }
        assert_eq!(offsets.0.len(), SequenceOffsets::BOUND);
        assert_eq!(offsets.map(1000), Some(500));
        assert_eq!(offsets.map(10), None);
    }
}
