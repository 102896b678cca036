//! Splits a client's byte stream into messages (RFC 8656 section 3.6 and 12.5): STUN messages,
//! and channel data padded to four bytes. Whatever is split off is complete; the framer never
//! holds more than one message.

use thiserror::Error;

/// Longest message from a client: channel data with 65,535 bytes and its padding.
const MAX_FRAME: usize = 4 + 65_536;

/// The bytes are neither STUN nor channel data: nothing after them can be understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the stream is not framed as TURN")]
pub struct FrameError;

/// What waits for the rest of its message.
#[derive(Debug, Default)]
pub struct StreamFramer {
    partial: Vec<u8>,
}

impl StreamFramer {
    /// Takes bytes as they came, of any length, and hands every complete message to `on_frame`.
    /// Messages that lie whole in `bytes` are not copied.
    ///
    /// # Errors
    ///
    /// When the stream is not framed as TURN; close it then.
    pub fn push(
        &mut self,
        mut bytes: &[u8],
        mut on_frame: impl FnMut(&[u8]),
    ) -> Result<(), FrameError> {
        while !self.partial.is_empty() && !bytes.is_empty() {
            let wanted = match self.partial.first_chunk::<4>() {
                Some(head) => frame_length(*head)?,
                None => 4,
            };
            let (now, later) = bytes.split_at((wanted - self.partial.len()).min(bytes.len()));
            self.partial.extend_from_slice(now);
            bytes = later;
            if let Some(head) = self.partial.first_chunk::<4>()
                && self.partial.len() == frame_length(*head)?
            {
                on_frame(&self.partial);
                self.partial.clear();
            }
        }
        while let Some(head) = bytes.first_chunk::<4>() {
            let Some((frame, rest)) = bytes.split_at_checked(frame_length(*head)?) else { break };
            on_frame(frame);
            bytes = rest;
        }
        if let Some(first) = bytes.first()
            && !matches!(first, 0x00..=0x4f)
        {
            return Err(FrameError);
        }
        self.partial.extend_from_slice(bytes);
        Ok(())
    }

    /// Bytes that wait for the rest of their message.
    pub fn pending(&self) -> usize {
        self.partial.len()
    }
}

/// Length of the message that begins so, with its padding.
fn frame_length(head: [u8; 4]) -> Result<usize, FrameError> {
    let length = usize::from(u16::from_be_bytes([head[2], head[3]]));
    let total = match head[0] {
        0x00..=0x3f if length % 4 == 0 => crate::stun::HEADER + length,
        0x40..=0x4f => 4 + length.next_multiple_of(4),
        _ => return Err(FrameError),
    };
    if total <= MAX_FRAME { Ok(total) } else { Err(FrameError) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream() -> (Vec<u8>, Vec<Vec<u8>>) {
        let binding = crate::stun::Writer::new(
            crate::stun::Class::Request,
            crate::stun::Method::Binding,
            [7; 12],
        )
        .finish(None, true);
        let frames = vec![
            binding.clone(),
            vec![0x40, 1, 0, 3, 1, 2, 3, 0],
            vec![0x40, 1, 0, 0],
            vec![0x4f, 0xff, 0, 4, 9, 9, 9, 9],
            binding,
        ];
        (frames.concat(), frames)
    }

    #[test]
    fn a_stream_split_anywhere_gives_the_same_frames() {
        let (bytes, expected) = stream();
        for first in 0..bytes.len() {
            for second in first..bytes.len() {
                let (mut framer, mut frames) = (StreamFramer::default(), Vec::new());
                for part in [&bytes[..first], &bytes[first..second], &bytes[second..]] {
                    framer.push(part, |frame| frames.push(frame.to_vec())).unwrap();
                }
                assert_eq!(frames, expected, "split at {first} and {second}");
                assert_eq!(framer.pending(), 0);
            }
        }
    }

    #[test]
    fn what_is_not_turn_ends_the_stream() {
        for bytes in [&b"SSH-2.0-x"[..], &[0x16, 3, 1, 2], &[0, 1, 0, 5], &[0x50, 0, 0, 0]] {
            assert_eq!(StreamFramer::default().push(bytes, |_| {}), Err(FrameError), "{bytes:?}");
        }
    }

    #[test]
    fn the_longest_channel_data_fits() {
        let mut bytes = vec![0; 4 + 65_536];
        bytes[..4].copy_from_slice(&[0x40, 0, 0xff, 0xff]);
        let mut seen = 0;
        let mut framer = StreamFramer::default();
        for chunk in bytes.chunks(1000) {
            framer.push(chunk, |frame| seen += frame.len()).unwrap();
        }
        assert_eq!(seen, bytes.len());
    }
}
