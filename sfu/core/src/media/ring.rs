//! The last packets of a published stream, kept once for all subscribers: forwarding, answers to
//! NACK and retransmission read from here.

use std::sync::Arc;

use super::codec::PacketInfo;
use super::parameters::CodecKind;

/// Packets kept of a video stream: about two seconds of 2 Mbit/s.
pub const VIDEO_PACKETS: usize = 512;
/// Packets kept of an audio stream: over two seconds at 20 ms.
pub const AUDIO_PACKETS: usize = 128;
/// Most bytes of header extensions that are kept of a packet.
pub const MAX_EXTENSION_BYTES: usize = 128;
/// Packets that left the ring and wait until nobody holds them, to be written again.
const SPARE_PACKETS: usize = 64;

/// Extension values that travel from publisher to subscriber.
#[derive(Debug, Clone, Copy, Default)]
pub struct CarriedExtensions {
    /// Audio level and voice activity (RFC 6464), as received.
    pub audio_level: Option<u8>,
    /// Video orientation.
    pub video_orientation: Option<u8>,
    /// Playout delay limits, 3 bytes.
    pub playout_delay: Option<[u8; 3]>,
    /// Absolute capture time: 8 or 16 bytes in [`StoredPacket::extension_bytes`].
    pub abs_capture_time: u8,
    /// Dependency descriptor: bytes behind the capture time.
    pub dependency_descriptor: u8,
}

/// A published packet without its header.
#[derive(Debug)]
pub struct StoredPacket {
    /// Extended sequence number of the publisher.
    pub sequence: u64,
    /// RTP ticks of the publisher.
    pub timestamp: u32,
    /// Marker bit.
    pub marker: bool,
    /// Index into the receiver's codecs.
    pub codec: u8,
    /// What it is encoded with.
    pub kind: CodecKind,
    /// What it is within its stream.
    pub info: PacketInfo,
    /// Extension values that are passed on.
    pub extensions: CarriedExtensions,
    extension_bytes: [u8; MAX_EXTENSION_BYTES],
    /// Payload without padding.
    pub payload: Vec<u8>,
}

impl StoredPacket {
    /// Keeps what is known of a packet.
    pub fn new(new: &NewPacket<'_>) -> Self {
        let mut packet = Self::empty();
        packet.write(new);
        packet
    }

    fn empty() -> Self {
        Self {
            sequence: 0,
            timestamp: 0,
            marker: false,
            codec: 0,
            kind: CodecKind::Opus,
            info: PacketInfo::default(),
            extensions: CarriedExtensions::default(),
            extension_bytes: [0; MAX_EXTENSION_BYTES],
            payload: Vec::new(),
        }
    }

    /// The absolute capture time, where there is one.
    pub fn abs_capture_time(&self) -> Option<&[u8]> {
        let length = usize::from(self.extensions.abs_capture_time);
        (length > 0).then(|| &self.extension_bytes[..length])
    }

    /// The dependency descriptor, where there is one.
    pub fn dependency_descriptor(&self) -> Option<&[u8]> {
        let start = usize::from(self.extensions.abs_capture_time);
        let length = usize::from(self.extensions.dependency_descriptor);
        (length > 0).then(|| &self.extension_bytes[start..start + length])
    }

    fn write(&mut self, new: &NewPacket<'_>) {
        self.sequence = new.sequence;
        self.timestamp = new.timestamp;
        self.marker = new.marker;
        self.codec = new.codec;
        self.kind = new.kind;
        self.info = new.info;
        self.payload.clear();
        self.payload.extend_from_slice(new.payload);
        let mut used = 0;
        let mut keep = |value: Option<&[u8]>| {
            let value = value.unwrap_or_default();
            let Some(space) = self.extension_bytes.get_mut(used..used + value.len()) else {
                return 0;
            };
            space.copy_from_slice(value);
            used += value.len();
            value.len() as u8
        };
        self.extensions = CarriedExtensions {
            audio_level: new.audio_level,
            video_orientation: new.video_orientation,
            playout_delay: new.playout_delay,
            abs_capture_time: keep(new.abs_capture_time),
            dependency_descriptor: keep(new.dependency_descriptor),
        };
    }
}

/// What is known of a packet when it is stored.
#[derive(Debug, Clone, Copy)]
pub struct NewPacket<'a> {
    /// Extended sequence number.
    pub sequence: u64,
    /// RTP ticks.
    pub timestamp: u32,
    /// Marker bit.
    pub marker: bool,
    /// Index into the receiver's codecs.
    pub codec: u8,
    /// What it is encoded with.
    pub kind: CodecKind,
    /// What it is within its stream.
    pub info: PacketInfo,
    /// Audio level byte.
    pub audio_level: Option<u8>,
    /// Video orientation byte.
    pub video_orientation: Option<u8>,
    /// Playout delay limits.
    pub playout_delay: Option<[u8; 3]>,
    /// Absolute capture time.
    pub abs_capture_time: Option<&'a [u8]>,
    /// Dependency descriptor.
    pub dependency_descriptor: Option<&'a [u8]>,
    /// Payload without padding.
    pub payload: &'a [u8],
}

/// A ring of packets by sequence number. Packets that fell out are written again once no
/// subscriber's queue holds them, so that a running stream allocates nothing.
#[derive(Debug)]
pub struct PacketRing {
    slots: Vec<Option<Arc<StoredPacket>>>,
    spare: Vec<Arc<StoredPacket>>,
    capacity: usize,
}

impl PacketRing {
    /// A ring for the last `capacity` sequence numbers.
    pub fn new(capacity: usize) -> Self {
        Self { slots: Vec::new(), spare: Vec::new(), capacity }
    }

    /// Keeps a packet; `None` when it was kept before or is older than the ring.
    pub fn insert(&mut self, new: &NewPacket<'_>) -> Option<&Arc<StoredPacket>> {
        let at = self.free_slot(new.sequence)?;
        let mut packet = self.writable();
        if let Some(stored) = Arc::get_mut(&mut packet) {
            stored.write(new);
        }
        Some(self.slots[at].insert(packet))
    }

    /// Keeps a packet that another worker's ring holds too; `None` as in [`Self::insert`].
    pub fn insert_shared(&mut self, packet: Arc<StoredPacket>) -> Option<&Arc<StoredPacket>> {
        let at = self.free_slot(packet.sequence)?;
        Some(self.slots[at].insert(packet))
    }

    /// The packet with this extended sequence number.
    pub fn get(&self, sequence: u64) -> Option<&Arc<StoredPacket>> {
        let slot = self.slots.get((sequence % self.capacity as u64) as usize)?;
        slot.as_ref().filter(|kept| kept.sequence == sequence)
    }

    /// Empties the slot of a new sequence number.
    fn free_slot(&mut self, sequence: u64) -> Option<usize> {
        if self.slots.is_empty() {
            // The memory is taken when a track really sends.
            self.slots.resize_with(self.capacity, || None);
        }
        let at = (sequence % self.capacity as u64) as usize;
        if self.slots[at].as_ref().is_some_and(|kept| kept.sequence >= sequence) {
            return None;
        }
        if let Some(old) = self.slots[at].take()
            && self.spare.len() < SPARE_PACKETS
        {
            self.spare.push(old);
        }
        Some(at)
    }

    /// A packet that nobody else holds.
    fn writable(&mut self) -> Arc<StoredPacket> {
        // The newest spare is the likeliest to be held still: look from the oldest on.
        let free = self.spare.iter().position(|spare| Arc::strong_count(spare) == 1);
        if let Some(free) = free {
            let mut packet = self.spare.swap_remove(free);
            if Arc::get_mut(&mut packet).is_some() {
                return packet;
            }
        }
        Arc::new(StoredPacket::empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(sequence: u64, payload: &[u8]) -> NewPacket<'_> {
        NewPacket {
            sequence,
            timestamp: 0,
            marker: false,
            codec: 0,
            kind: CodecKind::Vp8,
            info: PacketInfo::default(),
            audio_level: None,
            video_orientation: None,
            playout_delay: None,
            abs_capture_time: Some(&[1; 8]),
            dependency_descriptor: Some(&[2; 121]),
            payload,
        }
    }

    #[test]
    fn a_packet_is_kept_once_and_until_the_ring_came_round() {
        let mut ring = PacketRing::new(4);
        assert!(ring.insert(&packet(10, b"a")).is_some());
        assert!(ring.insert(&packet(10, b"b")).is_none());
        assert_eq!(ring.get(10).unwrap().payload, b"a");
        assert!(ring.insert(&packet(14, b"c")).is_some());
        assert!(ring.get(10).is_none());
        assert!(ring.insert(&packet(10, b"late")).is_none());
        assert_eq!(ring.get(14).unwrap().payload, b"c");
    }

    #[test]
    fn a_packet_that_is_held_is_not_written_again() {
        let mut ring = PacketRing::new(2);
        let held = Arc::clone(ring.insert(&packet(0, b"held")).unwrap());
        for sequence in 1..20 {
            ring.insert(&packet(sequence, b"other")).unwrap();
        }
        assert_eq!(held.payload, b"held");
        let spare = ring.spare.len();
        drop(held);
        for sequence in 20..40 {
            ring.insert(&packet(sequence, b"other")).unwrap();
        }
        assert!(ring.spare.len() <= spare, "spare packets are used before new ones are made");
    }

    #[test]
    fn extensions_that_do_not_fit_are_left_out() {
        let mut ring = PacketRing::new(4);
        ring.insert(&packet(1, b"")).unwrap();
        let kept = ring.get(1).unwrap();
        assert_eq!(kept.abs_capture_time(), Some(&[1; 8][..]));
        assert_eq!(kept.dependency_descriptor(), None);
    }
}
