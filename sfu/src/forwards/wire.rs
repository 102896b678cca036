//! What two nodes say of a participant that one of them shows for the other, on one connection:
//!
//! ```text
//! length 4 | 0, JSON of a Control
//! length 4 | a message of a track (sfu_core::media::trunk), which never begins with 0
//! ```

use std::io;
use std::time::Instant;

use bytes::{Buf as _, BytesMut};
use contract::ids::RoomName;
use serde::{Deserialize, Serialize};
use sfu_core::media::engine::SiblingMessage;
use sfu_core::media::trunk;
use sfu_core::room::{ForwardEnd, ForwardError, ForwardedParticipant};
use tokio::io::{AsyncRead, AsyncReadExt as _};

/// Path by which a node asks another to show a participant; the connection becomes theirs.
pub const FORWARDS: &str = "/peer/forwards";
/// What the connection becomes (`Upgrade`).
pub const PROTOCOL: &str = "livecluster-forward-1";

/// Most bytes of a frame: a participant with hundreds of tracks.
const MAX_FRAME: usize = 4 * 1024 * 1024;
const LENGTH: usize = 4;
const CONTROL: u8 = 0;

/// Everything but media.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum Control {
    /// First: show this participant, whose room has its home under this epoch, in that room.
    Begin { destination: RoomName, epoch: u64, state: Box<ForwardedParticipant> },
    /// The answer: it is shown.
    Shown,
    /// The answer: it is not.
    Refused(Refusal),
    /// The participant is like this now.
    Changed(Box<ForwardedParticipant>),
    /// It left its room, for this reason of LiveKit's protocol.
    Ended(i32),
    /// It is not shown any more.
    Over(ForwardEnd),
    /// The connection lives.
    Alive,
}

/// Why a participant is not shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Refusal {
    /// The room refused.
    Room(ForwardError),
    /// The room does not live here.
    Elsewhere,
}

#[derive(Debug)]
pub(super) enum Frame {
    Control(Control),
    Media(SiblingMessage),
}

/// Appends a control frame.
pub(super) fn put_control(control: &Control, out: &mut Vec<u8>) {
    put(out, |out| {
        out.push(CONTROL);
        let json = serde_json::to_vec(control).expect("texts, numbers and lists are JSON");
        out.extend_from_slice(&json);
    });
}

/// Appends a message of a track.
pub(super) fn put_media(message: &SiblingMessage, now: Instant, out: &mut Vec<u8>) {
    put(out, |out| trunk::encode(message, now, out));
}

fn put(out: &mut Vec<u8>, content: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&[0; LENGTH]);
    content(out);
    let length = u32::try_from(out.len() - start - LENGTH).unwrap_or(u32::MAX);
    out[start..start + LENGTH].copy_from_slice(&length.to_be_bytes());
}

/// Reads frames.
pub(super) struct FrameReader<R> {
    io: R,
    buffer: BytesMut,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    pub(super) fn new(io: R) -> Self {
        Self { io, buffer: BytesMut::new() }
    }

    /// The frames that have come, at least one. Cancel-safe.
    ///
    /// # Errors
    ///
    /// When the connection ended, or is not in these words.
    pub(super) async fn next(&mut self) -> io::Result<Vec<Frame>> {
        let mut frames = Vec::new();
        loop {
            while let Some(frame) = self.take()? {
                frames.push(frame);
            }
            if !frames.is_empty() {
                return Ok(frames);
            }
            if self.io.read_buf(&mut self.buffer).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    fn take(&mut self) -> io::Result<Option<Frame>> {
        let Some(length) = self.buffer.first_chunk().copied() else { return Ok(None) };
        let length = u32::from_be_bytes(length) as usize;
        if length == 0 || length > MAX_FRAME {
            return Err(invalid("length of a frame"));
        }
        if self.buffer.len() < LENGTH + length {
            self.buffer.reserve(LENGTH + length - self.buffer.len());
            return Ok(None);
        }
        self.buffer.advance(LENGTH);
        let frame = self.buffer.split_to(length);
        match frame.split_first() {
            Some((&CONTROL, json)) => {
                serde_json::from_slice(json).map(Frame::Control).map_err(invalid)
            }
            _ => trunk::decode(&frame, Instant::now())
                .map(Frame::Media)
                .ok_or_else(|| invalid("not a message of a track")),
        }
        .map(Some)
    }
}

fn invalid(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

#[cfg(test)]
mod tests {
    use sfu_core::media::TrackKey;
    use sfu_core::media::engine::SiblingContent;
    use tokio::io::AsyncWriteExt as _;

    use super::*;

    #[tokio::test]
    async fn frames_come_whole_however_they_are_cut() {
        let mut bytes = Vec::new();
        put_control(&Control::Refused(Refusal::Room(ForwardError::Full)), &mut bytes);
        let content = SiblingContent::Padding(5);
        let message = SiblingMessage { track: TrackKey(3), layer: 1, content };
        put_media(&message, Instant::now(), &mut bytes);
        put_control(&Control::Over(ForwardEnd::RoomMoves), &mut bytes);
        let (mut writer, reader) = tokio::io::duplex(8);
        tokio::spawn(async move {
            for piece in bytes.chunks(3) {
                writer.write_all(piece).await.unwrap();
            }
        });
        let mut reader = FrameReader::new(reader);
        let mut seen = Vec::new();
        while let Ok(frames) = reader.next().await {
            seen.extend(frames.into_iter().map(|frame| format!("{frame:?}")));
        }
        assert_eq!(seen.len(), 3, "{seen:?}");
        assert!(seen[0].contains("Full") && seen[1].contains("Padding(5)"), "{seen:?}");
    }

    #[tokio::test]
    async fn a_frame_that_is_too_long_or_none_ends_the_connection() {
        for bytes in [&[0xFF, 0, 0, 0][..], &[0, 0, 0, 0], &[0, 0, 0, 2, 9, 9], &[0, 0, 0, 2, 0, 9]]
        {
            let mut reader = FrameReader::new(bytes);
            let kind = reader.next().await.unwrap_err().kind();
            assert_eq!(kind, io::ErrorKind::InvalidData, "{bytes:?}");
        }
    }
}
