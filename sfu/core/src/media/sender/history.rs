//! What was sent under which number, so that a subscriber's NACK is answered from the
//! publisher's ring.

use std::time::{Duration, Instant};

use super::Outgoing;

/// A packet is sent again once in this time: several NACKs for it are on the way at once.
const REPEAT: Duration = Duration::from_millis(15);
/// Not sent again yet.
const NEVER: u16 = u16::MAX;

/// Sixteen bytes a packet, since every subscriber of every track has a history.
#[derive(Debug, Clone, Copy)]
struct Entry {
    timestamp: u32,
    source: u32,
    sequence: u16,
    picture_id: u16,
    tl0_index: u8,
    /// Stream in the low bits; marker, VP8, use and emptiness in the high ones.
    flags: u8,
    /// Milliseconds since the epoch, modulo [`NEVER`], of the last time it was sent again.
    repeated: u16,
}

const USED: u8 = 0x80;
const MARKER: u8 = 0x40;
const VP8: u8 = 0x20;
const NOTHING: u8 = 0x10;
/// How far back a number that carries nothing looks for a packet to share the time of.
const NEIGHBOURS: u64 = 16;
const STREAM: u8 = 0x0F;

const EMPTY: Entry = Entry {
    timestamp: 0,
    source: 0,
    sequence: 0,
    picture_id: 0,
    tl0_index: 0,
    flags: 0,
    repeated: NEVER,
};

/// The last packets sent.
#[derive(Debug)]
pub(super) struct History {
    entries: Vec<Entry>,
    epoch: Instant,
}

/// A packet that was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) struct Sent {
    /// Its numbers.
    pub(in super::super) outgoing: Outgoing,
    /// The publisher's stream.
    pub(in super::super) stream: u8,
    /// Low bits of the publisher's extended sequence number.
    pub(in super::super) source: u32,
}

/// What is known of a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lookup {
    /// What was sent under it.
    Sent(Sent),
    /// It was sent again a moment ago.
    TooSoon,
    /// It carried nothing.
    Nothing,
    /// No packet of the publisher had it.
    Unknown,
}

impl History {
    /// Packets that can be sent again to a subscriber; as many as the publisher's ring holds.
    pub(super) const LENGTH: u64 = 512;

    pub(super) fn new(now: Instant) -> Self {
        Self { entries: Vec::new(), epoch: now }
    }

    pub(super) fn push(&mut self, sent: Sent) {
        // Sound is not kept.
        let Outgoing { sequence, timestamp, marker, vp8, primary_only: _ } = sent.outgoing;
        let (picture_id, tl0_index) = vp8.unwrap_or_default();
        let flag = |is_set: bool, flag: u8| if is_set { flag } else { 0 };
        let flags = sent.stream & STREAM | flag(marker, MARKER) | flag(vp8.is_some(), VP8);
        let entry = Entry { timestamp, source: sent.source, picture_id, tl0_index, ..EMPTY };
        self.put(sequence, Entry { flags, ..entry });
    }

    /// Notes that a number carries nothing.
    pub(super) fn push_nothing(&mut self, sequence: u64) {
        self.put(sequence, Entry { flags: NOTHING, ..EMPTY });
    }

    fn put(&mut self, sequence: u64, entry: Entry) {
        if self.entries.is_empty() {
            self.entries.resize(Self::LENGTH as usize, EMPTY);
        }
        let flags = entry.flags | USED;
        self.entries[(sequence % Self::LENGTH) as usize] =
            Entry { sequence: sequence as u16, flags, ..entry };
    }

    /// RTP time of what was sent under this number or shortly before it.
    pub(super) fn time_at(&self, sequence: u64) -> Option<u32> {
        let entry = |back: u64| {
            let sequence = sequence.checked_sub(back)?;
            let entry = self.entries.get((sequence % Self::LENGTH) as usize)?;
            (entry.flags & (USED | NOTHING) == USED && entry.sequence == sequence as u16)
                .then_some(entry.timestamp)
        };
        (0..=NEIGHBOURS).find_map(entry)
    }

    /// The packet with this extended number, unless it was sent again a moment ago.
    pub(super) fn take_for_repeat(&mut self, sequence: u64, now: Instant) -> Lookup {
        let Some(entry) = self.entries.get_mut((sequence % Self::LENGTH) as usize) else {
            return Lookup::Unknown;
        };
        if entry.flags & USED == 0 || entry.sequence != sequence as u16 {
            return Lookup::Unknown;
        }
        if entry.flags & NOTHING != 0 {
            return Lookup::Nothing;
        }
        let millis = now.saturating_duration_since(self.epoch).as_millis() % u128::from(NEVER);
        let millis = millis as u16;
        let since =
            (u32::from(millis) + u32::from(NEVER) - u32::from(entry.repeated)) % u32::from(NEVER);
        if entry.repeated != NEVER && u128::from(since) < REPEAT.as_millis() {
            return Lookup::TooSoon;
        }
        entry.repeated = millis;
        let vp8 = (entry.flags & VP8 != 0).then_some((entry.picture_id, entry.tl0_index));
        let marker = entry.flags & MARKER != 0;
        let timestamp = entry.timestamp;
        let outgoing = Outgoing { sequence, timestamp, marker, vp8, primary_only: false };
        Lookup::Sent(Sent { outgoing, stream: entry.flags & STREAM, source: entry.source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_is_found_once_in_a_while_and_until_its_place_is_taken() {
        let now = Instant::now();
        let mut history = History::new(now);
        let sent = |sequence: u64| Sent {
            outgoing: Outgoing {
                sequence,
                timestamp: 7,
                marker: true,
                vp8: Some((0x7FFF, 255)),
                primary_only: false,
            },
            stream: 2,
            source: 99,
        };
        history.push(sent(5));
        let found = Lookup::Sent(sent(5));
        assert_eq!(history.take_for_repeat(5, now), found);
        assert_eq!(history.take_for_repeat(5, now + REPEAT / 2), Lookup::TooSoon);
        assert_eq!(history.take_for_repeat(5, now + REPEAT), found);
        let later = now + Duration::from_secs(1000);
        assert_eq!(history.take_for_repeat(5, later), found);
        history.push(sent(5 + History::LENGTH));
        assert_eq!(history.take_for_repeat(5, later), Lookup::Unknown);
        history.push_nothing(6);
        assert_eq!(history.take_for_repeat(6, later), Lookup::Nothing);
        assert_eq!(history.take_for_repeat(6, later), Lookup::Nothing, "it costs little");
        let newest = 5 + History::LENGTH;
        history.push_nothing(newest + 1);
        let times = [newest, newest + 1, newest + NEIGHBOURS, newest + NEIGHBOURS + 1];
        let times = times.map(|sequence| history.time_at(sequence));
        assert_eq!(times, [Some(7), Some(7), Some(7), None]);
    }

    #[test]
    fn an_entry_is_sixteen_bytes() {
        assert_eq!(size_of::<Entry>(), 16);
    }
}
