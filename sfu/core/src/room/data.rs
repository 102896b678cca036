//! Data packets from participant to participant.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;
use livekit_protocol::participant_info::Kind;
use livekit_protocol::{DataChannelReceiveState, DataPacket, UserPacket, data_packet};
use prost::Message as _;
use tracing::debug;

use super::Room;
use super::participant::{Participant, ParticipantKey};
use crate::media::{DataChannelKind, MediaCommand, TransportId};
use crate::time::Now;

/// Reliable packets are kept so long for clients that resume.
const REPLAY_AGE: Duration = Duration::from_secs(10);
/// Most packets that are kept.
const REPLAY_PACKETS: usize = 256;
/// Most bytes that are kept.
const REPLAY_BYTES: usize = 1024 * 1024;

/// The latest reliable packets of a room.
#[derive(Debug, Default)]
pub(super) struct Replay {
    packets: VecDeque<Kept>,
    bytes: usize,
}

#[derive(Debug, Clone)]
struct Kept {
    at: Instant,
    from: ParticipantKey,
    publisher_sid: String,
    sequence: u32,
    destinations: Vec<String>,
    payload: Bytes,
}

impl Replay {
    fn push(&mut self, kept: Kept) {
        let now = kept.at;
        self.bytes += kept.payload.len();
        self.packets.push_back(kept);
        while self.packets.front().is_some_and(|oldest| {
            self.packets.len() > REPLAY_PACKETS
                || self.bytes > REPLAY_BYTES
                || now.duration_since(oldest.at) > REPLAY_AGE
        }) {
            self.bytes -= self.packets.pop_front().map_or(0, |oldest| oldest.payload.len());
        }
    }
}

impl Room {
    /// Forwards a packet in the sender's own name, whatever it claims.
    pub(super) fn forward_data(
        &mut self,
        transport: TransportId,
        channel: DataChannelKind,
        payload: &[u8],
        now: Now,
    ) {
        let Some((key, _)) = self.transports.get(&transport).copied() else { return };
        let Some(sender) = self.participants.get_mut(&key) else { return };
        let kind = match channel {
            DataChannelKind::Reliable => data_packet::Kind::Reliable,
            DataChannelKind::Lossy => data_packet::Kind::Lossy,
            DataChannelKind::DataTrack => {
                debug!("Data tracks are not supported");
                return;
            }
        };
        let Ok(mut packet) = DataPacket::decode(payload) else {
            debug!(participant = %sender.sid, "Data packet cannot be read");
            return;
        };
        if !may_send(sender, &packet) {
            return;
        }
        let sequence = packet.sequence;
        if channel == DataChannelKind::Reliable && sequence > 0 {
            // After a resume clients repeat what may have been lost.
            if sequence <= sender.last_sequence {
                return;
            }
            sender.last_sequence = sequence;
        }
        let destinations = sign(&mut packet, sender, kind);
        let publisher_sid = sender.sid.to_string();
        let payload = Bytes::from(packet.encode_to_vec());
        let targets: Vec<TransportId> = self
            .participants
            .iter()
            .filter(|(other, p)| **other != key && is_destination(p, &destinations))
            .map(|(_, p)| p.sending_transport())
            .filter(|transport| transport.remote.is_some())
            .map(|transport| transport.id)
            .collect();
        for transport in targets {
            self.media(MediaCommand::SendData { transport, channel, payload: payload.clone() });
        }
        if channel == DataChannelKind::Reliable && sequence > 0 {
            let at = now.instant;
            self.replay.push(Kept {
                at,
                from: key,
                publisher_sid,
                sequence,
                destinations,
                payload,
            });
        }
    }

    /// Sends again what a client that resumed has not seen.
    pub(super) fn replay_data(&mut self, key: ParticipantKey, seen: &[DataChannelReceiveState]) {
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

/// What clients may send to each other; the rest only servers and agents.
#[expect(deprecated, reason = "a client may still send it")]
fn may_send(sender: &Participant, packet: &DataPacket) -> bool {
    use data_packet::Value;
    if !sender.permission.can_publish_data {
        return false;
    }
    match &packet.value {
        Some(
            Value::User(_)
            | Value::SipDtmf(_)
            | Value::ChatMessage(_)
            | Value::RpcRequest(_)
            | Value::RpcAck(_)
            | Value::RpcResponse(_)
            | Value::StreamHeader(_)
            | Value::StreamChunk(_)
            | Value::StreamTrailer(_)
            | Value::EncryptedPacket(_),
        ) => true,
        Some(Value::Transcription(_)) => sender.kind == Kind::Agent,
        Some(Value::Speaker(_) | Value::Metrics(_)) | None => false,
    }
}

/// Writes who sends; returns to whom, where nobody means everybody.
#[expect(deprecated, reason = "older clients address packets in these fields")]
fn sign(packet: &mut DataPacket, sender: &Participant, kind: data_packet::Kind) -> Vec<String> {
    packet.kind = kind.into();
    packet.participant_sid = sender.sid.to_string();
    packet.participant_identity = sender.identity.to_string();
    let mut destinations = packet.destination_identities.clone();
    if let Some(data_packet::Value::User(UserPacket {
        participant_sid,
        participant_identity,
        destination_sids,
        destination_identities,
        ..
    })) = &mut packet.value
    {
        *participant_sid = sender.sid.to_string();
        *participant_identity = sender.identity.to_string();
        destinations.extend(destination_sids.iter().chain(&*destination_identities).cloned());
    }
    destinations
}

fn is_destination(participant: &Participant, destinations: &[String]) -> bool {
    destinations.is_empty()
        || destinations
            .iter()
            .any(|name| name == participant.identity.as_str() || name == participant.sid.as_str())
}
