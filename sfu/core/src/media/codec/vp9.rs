//! The VP9 payload descriptor (RFC 9628 section 4.2), as far as forwarding reads it.

/// What a VP9 packet says of its layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Vp9Descriptor {
    /// `P`: inter-picture predicted.
    pub is_predicted: bool,
    /// `B`: first packet of a frame.
    pub begins_frame: bool,
    /// `E`: last packet of a frame.
    pub ends_frame: bool,
    /// `TID`, 0 without layers.
    pub temporal: u8,
    /// `U`: a receiver can switch up to this temporal layer here.
    pub switching_up: bool,
    /// `SID`, 0 without layers.
    pub spatial: u8,
    /// `D`: refers to the spatial layer below in the same picture.
    pub depends_on_lower: bool,
}

impl Vp9Descriptor {
    /// Reads the descriptor at the start of `payload`.
    pub fn parse(payload: &[u8]) -> Option<Self> {
        let flags = *payload.first()?;
        let mut at = 1;
        if flags & 0x80 != 0 {
            at += if payload.get(1)? & 0x80 != 0 { 2 } else { 1 };
        }
        let layers = if flags & 0x20 != 0 { *payload.get(at)? } else { 0 };
        Some(Self {
            is_predicted: flags & 0x40 != 0,
            begins_frame: flags & 0x08 != 0,
            ends_frame: flags & 0x04 != 0,
            temporal: layers >> 5,
            switching_up: layers & 0x10 != 0,
            spatial: layers >> 1 & 0x07,
            depends_on_lower: layers & 0x01 != 0,
        })
    }
}
