//! The latest reliable packets of a room, for clients that resume.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;
use livekit_protocol::DataChannelReceiveState;

use super::is_destination;
use crate::media::{DataChannelKind, MediaCommand};
use crate::room::Room;
use crate::room::participant::ParticipantKey;

/// Packets are kept so long.
const AGE: Duration = Duration::from_secs(10);
/// Most packets that are kept.
const PACKETS: usize = 256;
/// Most bytes that are kept.
const BYTES: usize = 1024 * 1024;

/// Packets in the order in which they came.
#[derive(Debug, Default)]
pub(in crate::room) struct Replay {
    packets: VecDeque<Kept>,
    bytes: usize,
}

#[derive(Debug, Clone)]
pub(super) struct Kept {
    pub(super) at: Instant,
    pub(super) from: ParticipantKey,
    pub(super) publisher_sid: String,
    pub(super) sequence: u32,
    pub(super) destinations: Vec<String>,
    pub(super) payload: Bytes,
}

impl Replay {
    pub(super) fn push(&mut self, kept: Kept) {
        let now = kept.at;
        self.bytes += kept.payload.len();
        self.packets.push_back(kept);
        while self.packets.front().is_some_and(|oldest| {
            self.packets.len() > PACKETS
                || self.bytes > BYTES
                || now.duration_since(oldest.at) > AGE
        }) {
            self.bytes -= self.packets.pop_front().map_or(0, |oldest| oldest.payload.len());
        }
    }
}

impl Room {
    /// Sends again what a client that resumed has not seen.
    pub(in crate::room) fn replay_data(
        &mut self,
        key: ParticipantKey,
        seen: &[DataChannelReceiveState],
    ) {
        let Some(participant) = self.participants.get(&key) else { return };
        let transport = participant.sending_transport().id;
        let missing: Vec<Bytes> = self
            .replay
            .packets
            .iter()
            .filter(|kept| kept.from != key && is_destination(participant, &kept.destinations))
            .filter(|kept| {
                seen.iter()
                    .find(|state| state.publisher_sid == kept.publisher_sid)
                    .is_some_and(|state| kept.sequence > state.last_seq)
            })
            .map(|kept| kept.payload.clone())
            .collect();
        for payload in missing {
            let channel = DataChannelKind::Reliable;
            self.media(MediaCommand::SendData { transport, channel, payload });
        }
    }
}
