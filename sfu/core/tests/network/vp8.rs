//! VP8 payloads (RFC 7741) whose frame data says where it comes from: layer, source number and
//! capture time, so that a receiver can tell what it got.

/// Bytes of the descriptor: flags, extension flags, picture id, `TL0PICIDX`, temporal layer.
const DESCRIPTOR: usize = 6;
/// Bytes of frame data that carry [`Frame`] and the source number.
const DATA: usize = 11;
/// Fewest bytes of a payload.
pub(crate) const MIN_PAYLOAD: usize = DESCRIPTOR + DATA;

/// What all packets of a frame say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Frame {
    /// Can be decoded alone.
    pub(crate) is_key: bool,
    /// 15 bits, one more for each frame.
    pub(crate) picture_id: u16,
    /// One more for each frame of the lowest temporal layer.
    pub(crate) tl0: u8,
    /// Temporal layer.
    pub(crate) temporal: u8,
    /// Depends on the lowest temporal layer only.
    pub(crate) is_sync: bool,
    /// Simulcast layer in rising quality.
    pub(crate) layer: u8,
    /// Milliseconds from the start of the world to the frame's capture.
    pub(crate) captured_ms: u32,
}

/// A packet of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Payload {
    pub(crate) frame: Frame,
    /// First packet of the frame.
    pub(crate) starts: bool,
    /// Number of the packet at its publisher.
    pub(crate) source: u32,
}

/// Writes a payload of `size` bytes, at least [`MIN_PAYLOAD`].
pub(crate) fn write(payload: Payload, size: usize) -> Vec<u8> {
    let Payload { frame, starts, source } = payload;
    let mut out = vec![0x80 | u8::from(starts) << 4, 0xE0];
    out.extend_from_slice(&(0x8000 | frame.picture_id).to_be_bytes());
    out.push(frame.tl0);
    out.push(frame.temporal << 6 | u8::from(frame.is_sync) << 5);
    // The frame tag's lowest bit is the inverse key frame bit; only a first packet has it.
    out.push(u8::from(!frame.is_key));
    out.push(u8::from(frame.is_key));
    out.push(frame.layer);
    out.extend_from_slice(&source.to_be_bytes());
    out.extend_from_slice(&frame.captured_ms.to_be_bytes());
    out.resize(size.max(MIN_PAYLOAD), 0xA5);
    out
}

/// Reads what [`write()`] wrote.
pub(crate) fn parse(payload: &[u8]) -> Option<Payload> {
    let head = payload.first_chunk::<MIN_PAYLOAD>()?;
    if head[0] & 0xEF != 0x80 || head[1] != 0xE0 || head[2] & 0x80 == 0 {
        return None;
    }
    Some(Payload {
        frame: Frame {
            is_key: head[7] == 1,
            picture_id: u16::from_be_bytes([head[2] & 0x7F, head[3]]),
            tl0: head[4],
            temporal: head[5] >> 6,
            is_sync: head[5] & 0x20 != 0,
            layer: head[8],
            captured_ms: u32::from_be_bytes([head[13], head[14], head[15], head[16]]),
        },
        starts: head[0] & 0x10 != 0,
        source: u32::from_be_bytes([head[9], head[10], head[11], head[12]]),
    })
}

#[cfg(test)]
mod tests {
    use sfu_core::media::CodecKind;
    use sfu_core::media::codec::{PayloadReader, Vp8Descriptor};

    use super::*;

    #[test]
    fn what_is_written_is_read_and_is_vp8() {
        for (is_key, starts) in [(true, true), (true, false), (false, true), (false, false)] {
            let frame = Frame {
                is_key,
                picture_id: 0x1234,
                tl0: 9,
                temporal: 2,
                is_sync: true,
                layer: 1,
                captured_ms: 77,
            };
            let payload = Payload { frame, starts, source: 5 };
            let bytes = write(payload, 100);
            assert_eq!((bytes.len(), parse(&bytes)), (100, Some(payload)));
            let info = PayloadReader::default().read(CodecKind::Vp8, &bytes, None);
            assert_eq!((info.key_frame, info.temporal), (is_key && starts, 2));
            let descriptor = Vp8Descriptor::parse(&bytes).unwrap();
            assert_eq!(descriptor.picture_id, Some((0x1234, true)));
            assert_eq!((descriptor.tl0_index, descriptor.length), (Some(9), DESCRIPTOR));
        }
    }
}
