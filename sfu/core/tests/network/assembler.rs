//! From packets to decoded pictures as libwebrtc does it: a picture is complete when all numbers
//! from its start to its marker are there, and decodable when what it refers to was decoded (as
//! RFC 7741 section 4.2 tells it: picture id, `TL0PICIDX`, temporal layer, Y bit).

use std::collections::BTreeMap;

use crate::scalable::Form;
use crate::vp8::{Frame, Payload};

/// Packets that wait for the rest of their frame.
const MAX_PACKETS: usize = 2048;

/// A packet of a frame.
#[derive(Debug, Clone, Copy)]
struct Part {
    payload: Payload,
    marker: bool,
    timestamp: u32,
}

/// A picture that a decoder could show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Picture {
    pub(crate) frame: Frame,
    pub(crate) timestamp: u32,
}

/// What the decoder has.
#[derive(Debug, Clone, Copy)]
struct Decoded {
    /// Number of the last packet.
    last: u64,
    picture_id: u16,
    tl0: u8,
    /// A picture of temporal layer 1 since the last one of layer 0.
    has_layer_one: bool,
    /// Highest layer that pictures after the last key frame may have, where all are on one source.
    highest: u8,
}

/// Frames of one stream.
#[derive(Debug)]
pub(crate) struct Assembler {
    form: Form,
    /// Packets by extended number; `None` is padding, which has a number but no frame.
    parts: BTreeMap<u64, Option<Part>>,
    decoded: Option<Decoded>,
    /// Frames that were complete but older than what was shown.
    pub(crate) stale: u64,
    /// Pictures with a layer that has nothing to refer to.
    pub(crate) in_vain: u64,
}

impl Assembler {
    pub(crate) fn new(form: Form) -> Self {
        Self { form, parts: BTreeMap::new(), decoded: None, stale: 0, in_vain: 0 }
    }

    /// Takes a packet that was not there before and returns the pictures that can now be shown.
    pub(crate) fn insert(
        &mut self,
        index: u64,
        payload: Option<Payload>,
        marker: bool,
        timestamp: u32,
    ) -> Vec<Picture> {
        if self.decoded.is_some_and(|decoded| index <= decoded.last) {
            return Vec::new();
        }
        let part = payload.map(|payload| Part { payload, marker, timestamp });
        self.parts.insert(index, part);
        if self.parts.len() > MAX_PACKETS {
            self.parts.pop_first();
        }
        let mut pictures = Vec::new();
        while let Some(picture) = self.decode_next() {
            pictures.push(picture);
        }
        pictures
    }

    /// Decodes the first frame that can be, and forgets what is before it.
    fn decode_next(&mut self) -> Option<Picture> {
        let mut found = None;
        let mut start: Option<(u64, Part)> = None;
        let mut previous = None;
        for (&index, part) in &self.parts {
            let follows = previous == Some(index);
            previous = Some(index + 1);
            let Some(part) = part else { continue };
            if part.payload.starts && (!self.form.is_scalable() || part.payload.frame.layer == 0) {
                start = Some((index, *part));
            } else if !follows || start.is_some_and(|(_, first)| first.timestamp != part.timestamp)
            {
                start = None;
            }
            if let (Some((_, first)), true) = (start, part.marker)
                && self.can_decode(&first.payload.frame)
            {
                found = Some((index, first, part.payload.frame.layer));
                break;
            }
        }
        let (last, Part { payload, timestamp, .. }, top) = found?;
        self.parts = self.parts.split_off(&(last + 1));
        let mut frame = payload.frame;
        if self.is_stale(&frame) {
            self.stale += 1;
            return self.decode_next();
        }
        let before = self.decoded.is_some_and(|decoded| decoded.has_layer_one);
        // A layer refers to itself in an earlier picture.
        let highest = self.decoded.map(|decoded| decoded.highest).filter(|_| !frame.is_key);
        frame.layer = top.min(highest.unwrap_or(top));
        self.in_vain += u64::from(self.form.is_scalable() && top > frame.layer);
        self.decoded = Some(Decoded {
            last,
            picture_id: frame.picture_id,
            tl0: frame.tl0,
            has_layer_one: frame.temporal == 1 || (frame.temporal == 2 && before),
            highest: if self.form.is_scalable() { frame.layer } else { u8::MAX },
        });
        Some(Picture { frame, timestamp })
    }

    /// Whether its picture id is not newer than that of what was shown.
    fn is_stale(&self, frame: &Frame) -> bool {
        self.decoded.is_some_and(|decoded| {
            let step = frame.picture_id.wrapping_sub(decoded.picture_id) & 0x7FFF;
            step == 0 || step >= 0x4000
        })
    }

    fn can_decode(&self, frame: &Frame) -> bool {
        if frame.is_key {
            return true;
        }
        let Some(decoded) = self.decoded else { return false };
        if self.is_stale(frame) {
            // Taken out, or it would block what follows.
            return true;
        }
        match (frame.temporal, frame.is_sync) {
            (0, _) => frame.tl0 == decoded.tl0.wrapping_add(1),
            (_, true) => frame.tl0 == decoded.tl0,
            (_, false) => frame.tl0 == decoded.tl0 && decoded.has_layer_one,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The frame at `position` of a stream that starts with a key frame.
    fn frame(position: u16) -> Frame {
        let (temporal, is_sync) =
            [(0, false), (2, true), (1, true), (2, false)][usize::from(position % 4)];
        Frame {
            is_key: position == 0,
            picture_id: (0x7FFE + position) & 0x7FFF,
            tl0: (position / 4) as u8,
            temporal,
            is_sync,
            layer: 0,
            captured_ms: 0,
        }
    }

    /// Positions that are shown of frames of two packets each when packets arrive in `order`.
    fn shown(order: &[u64]) -> Vec<u16> {
        let mut assembler = Assembler::new(Form::Simulcast);
        let mut shown = Vec::new();
        for &index in order {
            let position = (index / 2) as u16;
            let payload = Payload { frame: frame(position), starts: index % 2 == 0, source: 0 };
            let pictures =
                assembler.insert(index, Some(payload), index % 2 == 1, u32::from(position));
            shown.extend(pictures.iter().map(|p| (p.frame.picture_id + 2) & 0x7FFF));
        }
        shown
    }

    #[test]
    fn frames_wait_for_their_packets_and_their_references() {
        let cases: [(&str, Vec<u64>, &[u16]); 5] = [
            ("in order", (0..10).collect(), &[0, 1, 2, 3, 4]),
            ("a packet late", vec![0, 2, 3, 4, 5, 1], &[0, 1, 2]),
            ("no key frame", (2..10).collect(), &[]),
            (
                "a high temporal layer lost",
                [0, 1].into_iter().chain(4..10).collect(),
                &[0, 2, 3, 4],
            ),
            ("a base frame lost", (0..8).chain(10..18).collect(), &[0, 1, 2, 3]),
        ];
        for (name, order, expected) in cases {
            assert_eq!(shown(&order), expected, "{name}");
        }
    }
}
