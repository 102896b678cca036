//! Data packets from participant to participant: messages, remote procedure calls, streams,
//! chat. Packets that clients encrypted pass as they are.

mod replay;

use bytes::Bytes;
use livekit_protocol::participant_info::Kind;
use livekit_protocol::{DataPacket, UserPacket, data_packet, data_stream};
use prost::Message as _;
use tracing::debug;

pub(super) use replay::Replay;

use super::Room;
use super::participant::{Participant, ParticipantKey};
use crate::media::{DataChannelKind, MediaCommand, TransportId};
use crate::time::Now;
use replay::Kept;

/// Most bytes of a packet that the server API sends (LiveKit's limit).
pub const MAX_DATA_BYTES: usize = 64_000;

/// A packet that the server API sends.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ServerData {
    /// What is sent.
    pub payload: Vec<u8>,
    /// Without order and retransmission.
    pub is_lossy: bool,
    /// Identities or sids; empty: everybody.
    pub destinations: Vec<String>,
    /// What it is about.
    pub topic: Option<String>,
    /// By which clients know a repetition.
    pub nonce: Vec<u8>,
}

impl Room {
    /// Takes a message of a data channel.
    pub(super) fn handle_data(
        &mut self,
        transport: TransportId,
        channel: DataChannelKind,
        payload: &[u8],
        now: Now,
    ) {
        let Some((key, _)) = self.transports.get(&transport).copied() else { return };
        match channel {
            DataChannelKind::Reliable => {
                self.forward_packet(key, data_packet::Kind::Reliable, payload, now);
            }
            DataChannelKind::Lossy => {
                self.forward_packet(key, data_packet::Kind::Lossy, payload, now);
            }
            DataChannelKind::DataTrack => self.forward_data_track(key, payload, now),
        }
    }

    /// Forwards a packet in the sender's own name, whatever it claims.
    fn forward_packet(
        &mut self,
        key: ParticipantKey,
        kind: data_packet::Kind,
        payload: &[u8],
        now: Now,
    ) {
        let Some(sender) = self.participants.get_mut(&key) else { return };
        let Ok(mut packet) = DataPacket::decode(payload) else {
            debug!(participant = %sender.sid, "Data packet cannot be read");
            return;
        };
        let sequence = if kind == data_packet::Kind::Reliable { packet.sequence } else { 0 };
        if sequence > 0 {
            // After a resume clients repeat what may have been lost.
            if sequence <= sender.last_sequence {
                return;
            }
            sender.last_sequence = sequence;
        }
        if !may_send(sender, &packet) || self.take_rpc_answer(key, &packet) {
            return;
        }
        let Some(sender) = self.participants.get(&key) else { return };
        let metrics = matches!(packet.value, Some(data_packet::Value::Metrics(_)));
        let destinations = sign(&mut packet, sender, kind);
        let publisher_sid = sender.sid.to_string();
        let payload = Bytes::from(packet.encode_to_vec());
        let receives = |other: &Participant| {
            is_destination(other, &destinations)
                && (!metrics || other.permission.can_subscribe_metrics)
        };
        let targets = self.data_targets(Some(key), receives);
        self.send_data(&targets, channel_of(kind), &payload);
        if sequence > 0 {
            let at = now.instant;
            let from = key;
            self.replay.push(Kept { at, from, publisher_sid, sequence, destinations, payload });
        }
    }

    /// Sends a packet in the name of nobody.
    pub fn send_server_data(&mut self, data: ServerData) {
        let ServerData { payload, is_lossy, destinations, topic, nonce } = data;
        let kind = if is_lossy { data_packet::Kind::Lossy } else { data_packet::Kind::Reliable };
        let user = UserPacket { payload, topic, nonce, ..UserPacket::default() };
        #[expect(deprecated, reason = "older clients read the kind here")]
        let packet = DataPacket {
            kind: kind.into(),
            destination_identities: destinations.clone(),
            value: Some(data_packet::Value::User(user)),
            ..DataPacket::default()
        };
        let payload = Bytes::from(packet.encode_to_vec());
        let targets = self.data_targets(None, |other| is_destination(other, &destinations));
        self.send_data(&targets, channel_of(kind), &payload);
    }

    fn data_targets(
        &self,
        except: Option<ParticipantKey>,
        receives: impl Fn(&Participant) -> bool,
    ) -> Vec<TransportId> {
        self.participants
            .iter()
            .filter(|(other, p)| Some(**other) != except && receives(p))
            .filter_map(|(_, p)| p.data_transport())
            .collect()
    }

    pub(super) fn send_data(
        &mut self,
        targets: &[TransportId],
        channel: DataChannelKind,
        payload: &Bytes,
    ) {
        for transport in targets {
            let payload = payload.clone();
            self.media(MediaCommand::SendData { transport: *transport, channel, payload });
        }
    }
}

impl Participant {
    /// Where data goes to; `None` before the client described that transport.
    pub(super) fn data_transport(&self) -> Option<TransportId> {
        let transport = self.sending_transport();
        transport.remote.is_some().then_some(transport.id)
    }
}

fn channel_of(kind: data_packet::Kind) -> DataChannelKind {
    match kind {
        data_packet::Kind::Reliable => DataChannelKind::Reliable,
        data_packet::Kind::Lossy => DataChannelKind::Lossy,
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
            | Value::EncryptedPacket(_)
            | Value::Metrics(_),
        ) => true,
        Some(Value::Transcription(_)) => sender.is_agent(),
        Some(Value::Speaker(_)) | None => false,
    }
}

/// Writes who sends; returns to whom, where nobody means everybody.
#[expect(deprecated, reason = "older clients address packets in these fields")]
fn sign(packet: &mut DataPacket, sender: &Participant, kind: data_packet::Kind) -> Vec<String> {
    packet.kind = kind.into();
    let speaks_for_another = speaks_for_another(packet, sender);
    // Nobody learns of a hidden participant.
    let (sid, identity) = if sender.permission.hidden {
        (String::new(), String::new())
    } else {
        (sender.sid.to_string(), sender.identity.to_string())
    };
    if !speaks_for_another {
        packet.participant_identity.clone_from(&identity);
    }
    packet.participant_sid.clone_from(&sid);
    let mut destinations = packet.destination_identities.clone();
    if let Some(data_packet::Value::User(UserPacket {
        participant_sid,
        participant_identity,
        destination_sids,
        destination_identities,
        ..
    })) = &mut packet.value
    {
        *participant_sid = sid;
        *participant_identity = identity;
        destinations.extend(destination_sids.iter().chain(&*destination_identities).cloned());
        if destination_identities.is_empty() {
            destination_identities.clone_from(&packet.destination_identities);
        }
    }
    destinations
}

/// An agent may write down what somebody else says; receivers see that it was generated.
fn speaks_for_another(packet: &mut DataPacket, sender: &Participant) -> bool {
    use data_packet::Value;
    let named = &packet.participant_identity;
    if !sender.is_agent() || named.is_empty() || named == sender.identity.as_str() {
        return false;
    }
    match &mut packet.value {
        Some(Value::ChatMessage(message)) => message.generated = true,
        Some(Value::StreamHeader(header)) => match &mut header.content_header {
            Some(data_stream::header::ContentHeader::TextHeader(text)) => text.generated = true,
            Some(data_stream::header::ContentHeader::ByteHeader(_)) | None => return false,
        },
        _ => return false,
    }
    true
}

pub(super) fn is_destination(participant: &Participant, destinations: &[String]) -> bool {
    destinations.is_empty()
        || destinations
            .iter()
            .any(|name| name == participant.identity.as_str() || name == participant.sid.as_str())
}

impl Participant {
    pub(super) fn is_agent(&self) -> bool {
        #[expect(deprecated, reason = "tokens of older agents say it so")]
        let permitted = self.permission.agent;
        permitted || self.kind == Kind::Agent
    }
}
