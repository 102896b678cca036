//! Packets that were sent under transport-wide numbers and not told of yet.

/// Packets that are remembered: over half a second at 1,500 packets/s.
const LENGTH: usize = 1024;

/// Eight bytes, since every subscriber has a history.
#[derive(Debug, Clone, Copy, Default)]
struct Entry {
    /// Microseconds since the epoch, modulo 2³².
    sent_at: u32,
    /// 0 once it was told of.
    bytes: u16,
    /// Probe cluster; 0 for none.
    cluster: u8,
    /// Told as lost; it may still come.
    was_lost: bool,
}

/// A packet that was told of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SentPacket {
    /// Microseconds since the epoch.
    pub(super) sent_at: i64,
    /// Size on the wire, without the headers of IP and UDP.
    pub(super) bytes: usize,
    /// The probe that it was part of.
    pub(super) cluster: Option<u8>,
}

/// The last packets sent.
#[derive(Debug, Default)]
pub(super) struct SendHistory {
    entries: Vec<Entry>,
    /// Packets sent so far.
    count: u64,
    newest: i64,
}

impl SendHistory {
    /// The number of the next packet.
    pub(super) fn next_sequence(&self) -> u16 {
        self.count as u16
    }

    /// Notes a packet under [`Self::next_sequence`].
    pub(super) fn push(&mut self, micros: i64, bytes: usize, cluster: Option<u8>) {
        if self.entries.is_empty() {
            self.entries.resize(LENGTH, Entry::default());
        }
        self.entries[(self.count % LENGTH as u64) as usize] = Entry {
            sent_at: micros as u32,
            bytes: u16::try_from(bytes).unwrap_or(u16::MAX),
            cluster: cluster.unwrap_or(0),
            was_lost: false,
        };
        self.count += 1;
        self.newest = micros;
    }

    /// The packet with this number, the first time that it is told as lost or as arrived.
    pub(super) fn take(&mut self, sequence: u16, has_arrived: bool) -> Option<SentPacket> {
        let behind = (self.count as u16).wrapping_sub(sequence);
        let index = self.count.checked_sub(u64::from(behind))?;
        if behind == 0 || usize::from(behind) > LENGTH {
            return None;
        }
        let entry = &mut self.entries[(index % LENGTH as u64) as usize];
        if entry.bytes == 0 || (entry.was_lost && !has_arrived) {
            return None;
        }
        let age = (self.newest as u32).wrapping_sub(entry.sent_at);
        let packet = SentPacket {
            sent_at: self.newest - i64::from(age),
            bytes: usize::from(entry.bytes),
            cluster: (entry.cluster != 0).then_some(entry.cluster),
        };
        if has_arrived {
            entry.bytes = 0;
        }
        entry.was_lost = true;
        Some(packet)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_is_told_of_once_unless_it_was_only_late() {
        let mut history = SendHistory::default();
        history.push(5_000_000_000, 1200, Some(3));
        assert_eq!(history.next_sequence(), 1);
        history.push(5_000_000_100, 100, None);
        let packet = SentPacket { sent_at: 5_000_000_000, bytes: 1200, cluster: Some(3) };
        assert_eq!(history.take(0, false), Some(packet));
        assert_eq!(history.take(0, false), None);
        assert_eq!(history.take(0, true), Some(packet));
        assert_eq!(history.take(0, true), None);
        assert_eq!(history.take(2, true), None, "not sent yet");
        for _ in 0..LENGTH {
            history.push(5_000_000_200, 1, None);
        }
        assert_eq!(history.take(1, true), None, "too old");
        assert_eq!(size_of::<Entry>(), 8);
    }
}
