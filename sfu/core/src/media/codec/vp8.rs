//! VP8 payload descriptors (RFC 7741 section 4.2), read and rewritten.

/// The VP8 payload descriptor (RFC 7741 section 4.2), as far as forwarding changes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Vp8Descriptor {
    /// Bytes before the frame's data.
    pub length: usize,
    /// First packet of partition 0.
    pub starts_frame: bool,
    /// Picture id, and whether it has 15 bits.
    pub picture_id: Option<(u16, bool)>,
    /// `TL0PICIDX`.
    pub tl0_index: Option<u8>,
    /// Temporal layer, 0 without.
    pub temporal: u8,
    /// `Y`: depends on the base layer only, so that a receiver can begin this layer here.
    pub layer_sync: bool,
    picture_id_at: usize,
    tl0_at: usize,
}

impl Vp8Descriptor {
    /// Reads the descriptor at the start of `payload`.
    pub fn parse(payload: &[u8]) -> Option<Self> {
        let first = *payload.first()?;
        let mut at = 1;
        let flags = if first & 0x80 != 0 {
            at += 1;
            *payload.get(1)?
        } else {
            0
        };
        let picture_id_at = at;
        let mut picture_id = None;
        if flags & 0x80 != 0 {
            let byte = *payload.get(at)?;
            if byte & 0x80 != 0 {
                let low = *payload.get(at + 1)?;
                picture_id = Some((u16::from(byte & 0x7F) << 8 | u16::from(low), true));
                at += 2;
            } else {
                picture_id = Some((u16::from(byte), false));
                at += 1;
            }
        }
        let tl0_at = at;
        let mut tl0_index = None;
        if flags & 0x40 != 0 {
            tl0_index = Some(*payload.get(at)?);
            at += 1;
        }
        let (mut temporal, mut layer_sync) = (0, false);
        if flags & 0x30 != 0 {
            let byte = *payload.get(at)?;
            if flags & 0x20 != 0 {
                temporal = byte >> 6;
                layer_sync = byte & 0x20 != 0;
            }
            at += 1;
        }
        let starts_frame = first & 0x10 != 0 && first & 0x07 == 0;
        Some(Self {
            length: at,
            starts_frame,
            picture_id,
            tl0_index,
            temporal,
            layer_sync,
            picture_id_at,
            tl0_at,
        })
    }

    /// Whether the frame that starts here is a key frame: its inverse key frame bit is clear.
    pub fn is_key_frame(&self, payload: &[u8]) -> bool {
        self.starts_frame && payload.get(self.length).is_some_and(|frame| frame & 0x01 == 0)
    }

    /// Writes other values into `payload`, where this descriptor was read.
    pub fn rewrite(&self, payload: &mut [u8], picture_id: u16, tl0_index: u8) {
        match self.picture_id {
            Some((_, true)) => {
                let bytes = (picture_id | 0x8000).to_be_bytes();
                payload[self.picture_id_at..self.picture_id_at + 2].copy_from_slice(&bytes);
            }
            Some((_, false)) => payload[self.picture_id_at] = (picture_id & 0x7F) as u8,
            None => {}
        }
        if self.tl0_index.is_some() {
            payload[self.tl0_at] = tl0_index;
        }
    }
}

/// Keeps VP8 picture ids continuous over switches between layers.
#[derive(Debug, Default, Clone, Copy)]
pub struct Vp8Continuity {
    picture_id_offset: u16,
    tl0_offset: u8,
    last: Option<(u16, u8)>,
    /// Picture id of the newest source picture that was left out.
    skipped: Option<u16>,
}

impl Vp8Continuity {
    /// Begins another layer with this packet: its numbers follow the last ones sent.
    pub fn switch(&mut self, descriptor: &Vp8Descriptor) {
        let Some((last_id, last_tl0)) = self.last else { return };
        if let Some((id, _)) = descriptor.picture_id {
            self.picture_id_offset = last_id.wrapping_add(1).wrapping_sub(id);
        }
        if let Some(tl0) = descriptor.tl0_index {
            self.tl0_offset = last_tl0.wrapping_add(1).wrapping_sub(tl0);
        }
    }

    /// Leaves out the picture of this packet: the ids after it close up, since a receiver takes
    /// a gap for loss.
    pub fn skip(&mut self, descriptor: &Vp8Descriptor) {
        let Some((id, _)) = descriptor.picture_id else { return };
        let mapped = id.wrapping_add(self.picture_id_offset) & 0x7FFF;
        let is_next = self.last.is_some_and(|(last, _)| mapped.wrapping_sub(last) & 0x7FFF == 1);
        if is_next && self.skipped != Some(id) {
            self.skipped = Some(id);
            self.picture_id_offset = self.picture_id_offset.wrapping_sub(1);
        }
    }

    /// The numbers to send for a packet of the current layer.
    pub fn map(&mut self, descriptor: &Vp8Descriptor) -> (u16, u8) {
        let id = descriptor.picture_id.map_or(0, |(id, _)| id);
        let mapped_id = id.wrapping_add(self.picture_id_offset) & 0x7FFF;
        let mapped_tl0 = descriptor.tl0_index.unwrap_or(0).wrapping_add(self.tl0_offset);
        let is_newer =
            self.last.is_none_or(|(last, _)| mapped_id.wrapping_sub(last) & 0x7FFF < 0x4000);
        if is_newer {
            self.last = Some((mapped_id, mapped_tl0));
        }
        (mapped_id, mapped_tl0)
    }
}
