//! Frames of the signalling WebSocket: binary protobuf, or protojson in text frames. A client
//! is answered in the form of its last frame.

use prost::Message as _;
use thiserror::Error;

use super::{SignalRequest, SignalResponse};

/// Most bytes of a frame that is read.
pub const MAX_FRAME_BYTES: usize = 2 * 1024 * 1024;

/// Form of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FrameFormat {
    /// Protobuf.
    #[default]
    Binary,
    /// Protojson with camelCase names.
    Text,
}

/// A frame to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// Goes out as a binary frame.
    Binary(Vec<u8>),
    /// Goes out as a text frame.
    Text(String),
}

/// Why a frame was not understood or not made.
#[derive(Debug, Error)]
pub enum CodecError {
    /// Larger than [`MAX_FRAME_BYTES`].
    #[error("the frame is {0} bytes long, at most {MAX_FRAME_BYTES} are allowed")]
    TooLong(usize),
    /// Not a protobuf `SignalRequest`.
    #[error("invalid protobuf signal message")]
    Protobuf(#[from] prost::DecodeError),
    /// Not a protojson message, or one that cannot be written as such.
    #[error("invalid JSON signal message")]
    Json(#[from] serde_json::Error),
}

/// Reads a binary frame.
pub fn decode_binary(frame: &[u8]) -> Result<SignalRequest, CodecError> {
    check_length(frame.len())?;
    Ok(SignalRequest::decode(frame)?)
}

/// Reads a text frame.
pub fn decode_text(frame: &str) -> Result<SignalRequest, CodecError> {
    check_length(frame.len())?;
    Ok(serde_json::from_str(frame)?)
}

/// Writes a message in `format`.
pub fn encode(response: &SignalResponse, format: FrameFormat) -> Result<Frame, CodecError> {
    match format {
        FrameFormat::Binary => Ok(Frame::Binary(response.encode_to_vec())),
        FrameFormat::Text => Ok(Frame::Text(serde_json::to_string(response)?)),
    }
}

fn check_length(length: usize) -> Result<(), CodecError> {
    if length > MAX_FRAME_BYTES { Err(CodecError::TooLong(length)) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::super::{signal_request, signal_response};
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn both_forms_carry_the_same_request() {
        let request = SignalRequest {
            message: Some(signal_request::Message::Mute(livekit_protocol::MuteTrackRequest {
                sid: "TR_x".to_owned(),
                muted: true,
            })),
        };
        assert_eq!(decode_binary(&request.encode_to_vec()).unwrap(), request);
        let text = r#"{"mute":{"sid":"TR_x","muted":true},"unknown":1}"#;
        assert_eq!(decode_text(text).unwrap(), request);
    }

    #[test]
    fn text_answers_have_camel_case_names() {
        let response = SignalResponse {
            message: Some(signal_response::Message::PongResp(livekit_protocol::Pong {
                last_ping_timestamp: 5,
                timestamp: 6,
            })),
        };
        let Frame::Text(text) = encode(&response, FrameFormat::Text).unwrap() else {
            panic!("a text frame was asked for");
        };
        assert!(text.contains("\"pongResp\"") && text.contains("\"lastPingTimestamp\""), "{text}");
    }

    #[test]
    fn frames_are_refused_above_the_bound() {
        let frame = vec![0; MAX_FRAME_BYTES + 1];
        assert!(matches!(decode_binary(&frame), Err(CodecError::TooLong(_))));
    }

    proptest! {
        #[test]
        fn random_frames_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), text in ".*") {
            let _ = decode_binary(&bytes);
            let _ = decode_text(&text);
        }
    }
}
