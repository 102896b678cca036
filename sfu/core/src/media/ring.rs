//! The last packets of a published layer, kept once for all subscribers: forwarding, answers to
//! NACK and retransmission read from here.

use super::parameters::CodecKind;

/// Packets kept of a video layer: about two seconds of 2 Mbit/s.
pub const VIDEO_PACKETS: usize = 512;
/// Packets kept of an audio track: over two seconds at 20 ms.
pub const AUDIO_PACKETS: usize = 128;
/// Most bytes of header extensions that are kept of a packet.
pub const MAX_EXTENSION_BYTES: usize = 64;

/// Extension values that travel from publisher to subscriber.
#[derive(Debug, Clone, Copy, Default)]
pub struct CarriedExtensions {
    /// Audio level and voice activity (RFC 6464), as received.
    pub audio_level: Option<u8>,
    /// Video orientation.
    pub video_orientation: Option<u8>,
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
    /// Begins a key frame.
    pub key_frame: bool,
    /// Extension values that are passed on.
    pub extensions: CarriedExtensions,
    extension_bytes: [u8; MAX_EXTENSION_BYTES],
    /// Payload without padding.
    pub payload: Vec<u8>,
}

impl StoredPacket {
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
    /// Begins a key frame.
    pub key_frame: bool,
    /// Audio level byte.
    pub audio_level: Option<u8>,
    /// Video orientation byte.
    pub video_orientation: Option<u8>,
    /// Absolute capture time.
    pub abs_capture_time: Option<&'a [u8]>,
    /// Dependency descriptor.
    pub dependency_descriptor: Option<&'a [u8]>,
    /// Payload without padding.
    pub payload: &'a [u8],
}

/// A ring of packets by sequence number. Slots and their buffers are reused.
#[derive(Debug)]
pub struct PacketRing {
    slots: Vec<Option<StoredPacket>>,
    capacity: usize,
}

impl PacketRing {
    /// A ring for the last `capacity` sequence numbers.
    pub fn new(capacity: usize) -> Self {
        Self { slots: Vec::new(), capacity }
    }

    /// Keeps a packet; `false` when it was kept before or is older than the ring.
    pub fn insert(&mut self, new: NewPacket<'_>) -> bool {
        if self.slots.is_empty() {
            // The memory is taken when a track really sends.
            self.slots.resize_with(self.capacity, || None);
        }
        let slot = &mut self.slots[(new.sequence % self.capacity as u64) as usize];
        if slot.as_ref().is_some_and(|kept| kept.sequence >= new.sequence) {
            return false;
        }
        let mut payload = slot.take().map(|old| old.payload).unwrap_or_default();
        payload.clear();
        payload.extend_from_slice(new.payload);
        let mut extension_bytes = [0; MAX_EXTENSION_BYTES];
        let mut used = 0;
        let mut keep = |value: Option<&[u8]>| {
            let value = value.unwrap_or_default();
            let Some(space) = extension_bytes.get_mut(used..used + value.len()) else { return 0 };
            space.copy_from_slice(value);
            used += value.len();
            value.len() as u8
        };
        let extensions = CarriedExtensions {
            audio_level: new.audio_level,
            video_orientation: new.video_orientation,
            abs_capture_time: keep(new.abs_capture_time),
            dependency_descriptor: keep(new.dependency_descriptor),
        };
        *slot = Some(StoredPacket {
            sequence: new.sequence,
            timestamp: new.timestamp,
            marker: new.marker,
            codec: new.codec,
            kind: new.kind,
            key_frame: new.key_frame,
            extensions,
            extension_bytes,
            payload,
        });
        true
    }

    /// The packet with this extended sequence number.
    pub fn get(&self, sequence: u64) -> Option<&StoredPacket> {
        let slot = self.slots.get((sequence % self.capacity as u64) as usize)?;
        slot.as_ref().filter(|kept| kept.sequence == sequence)
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
            key_frame: false,
            audio_level: None,
            video_orientation: None,
            abs_capture_time: Some(&[1; 8]),
            dependency_descriptor: Some(&[2; 60]),
            payload,
        }
    }

    #[test]
    fn a_packet_is_kept_once_and_until_the_ring_came_round() {
        let mut ring = PacketRing::new(4);
        assert!(ring.insert(packet(10, b"a")));
        assert!(!ring.insert(packet(10, b"b")));
        assert_eq!(ring.get(10).unwrap().payload, b"a");
        assert!(ring.insert(packet(14, b"c")));
        assert!(ring.get(10).is_none());
        assert!(!ring.insert(packet(10, b"late")));
        assert_eq!(ring.get(14).unwrap().payload, b"c");
    }

    #[test]
    fn extensions_that_do_not_fit_are_left_out() {
        let mut ring = PacketRing::new(4);
        ring.insert(packet(1, b""));
        let kept = ring.get(1).unwrap();
        assert_eq!(kept.abs_capture_time(), Some(&[1; 8][..]));
        assert_eq!(kept.dependency_descriptor(), None);
    }
}
