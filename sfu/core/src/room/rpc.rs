//! Remote procedure calls that the server API makes to a participant.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use contract::ids::Identity;
use livekit_protocol::{DataPacket, RpcError, RpcRequest, data_packet, rpc_response};
use prost::Message as _;

use super::participant::ParticipantKey;
use super::{Room, RoomOutput};
use crate::media::DataChannelKind;
use crate::time::Now;

/// The participant must confirm so soon that it takes the call (LiveKit's figure).
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(7);
/// Time for an answer unless the caller says another.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);
/// Longest time that a caller may say.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(300);
/// Most bytes of a call's payload.
const MAX_PAYLOAD_BYTES: usize = 15 * 1024;
/// Most calls of a room that wait for an answer.
const MAX_CALLS: usize = 256;

/// A call of the server API, chosen by the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RpcId(pub u64);

/// What a call asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RpcCall {
    /// Who is asked.
    pub destination: Identity,
    /// Name of the procedure.
    pub method: String,
    /// Its argument.
    pub payload: String,
    /// Time for the answer, milliseconds; 0 is the default of 15 s.
    pub response_timeout_ms: u32,
}

/// Calls that wait, by the id that stands in the packets.
#[derive(Debug, Default)]
pub(super) struct Rpcs(BTreeMap<String, Waiting>);

#[derive(Debug)]
struct Waiting {
    id: RpcId,
    destination: ParticipantKey,
    /// `None` once confirmed.
    confirm_by: Option<Instant>,
    answer_by: Instant,
}

impl Rpcs {
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.0
            .values()
            .map(|call| call.confirm_by.map_or(call.answer_by, |by| by.min(call.answer_by)))
            .min()
    }
}

/// LiveKit's own errors of a call, which its SDKs know by code.
fn error(code: u32, message: &str) -> RpcError {
    RpcError { code, message: message.to_owned(), data: String::new() }
}

impl Room {
    /// Calls a participant; the answer comes as [`RoomOutput::RpcAnswer`].
    pub fn perform_rpc(&mut self, id: RpcId, call: RpcCall, now: Now) {
        let target = self
            .identities
            .get(&call.destination)
            .and_then(|key| Some((*key, self.participants.get(key)?.data_transport()?)));
        let Some((destination, transport)) = target else {
            return self.answer_rpc(id, Err(error(1401, "Recipient not found")));
        };
        if call.payload.len() > MAX_PAYLOAD_BYTES {
            return self.answer_rpc(id, Err(error(1402, "Request payload too large")));
        }
        if self.rpcs.0.len() >= MAX_CALLS {
            return self.answer_rpc(id, Err(error(1503, "Failed to send")));
        }
        let timeout = match call.response_timeout_ms {
            0 => ANSWER_TIMEOUT,
            millis => Duration::from_millis(millis.into()).min(LONGEST_TIMEOUT),
        };
        let request_id = contract::ids::generate_id("RPC_", &mut self.rng);
        let packet = DataPacket {
            // To whom the participant addresses its answer.
            participant_identity: request_id.clone(),
            destination_identities: vec![call.destination.to_string()],
            value: Some(data_packet::Value::RpcRequest(RpcRequest {
                id: request_id.clone(),
                method: call.method,
                payload: call.payload,
                response_timeout_ms: u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX),
                version: 1,
                compressed_payload: Vec::new(),
            })),
            ..DataPacket::default()
        };
        let waiting = Waiting {
            id,
            destination,
            confirm_by: Some(now.instant + CONFIRM_TIMEOUT),
            answer_by: now.instant + timeout,
        };
        self.rpcs.0.insert(request_id, waiting);
        let payload = Bytes::from(packet.encode_to_vec());
        self.send_data(&[transport], DataChannelKind::Reliable, &payload);
    }

    /// Takes what answers a call of the server; `false` for packets to other participants.
    pub(super) fn take_rpc_answer(&mut self, from: ParticipantKey, packet: &DataPacket) -> bool {
        use data_packet::Value;
        let request_id = match &packet.value {
            Some(Value::RpcAck(ack)) => &ack.request_id,
            Some(Value::RpcResponse(response)) => &response.request_id,
            _ => return false,
        };
        let Some(call) = self.rpcs.0.get_mut(request_id).filter(|c| c.destination == from) else {
            return false;
        };
        let Some(Value::RpcResponse(response)) = &packet.value else {
            call.confirm_by = None;
            return true;
        };
        let (id, request_id) = (call.id, request_id.clone());
        self.rpcs.0.remove(&request_id);
        let answer = match response.value.clone() {
            Some(rpc_response::Value::Payload(payload)) => Ok(payload),
            Some(rpc_response::Value::Error(error)) => Err(error),
            // We did not say that we read compressed ones.
            Some(rpc_response::Value::CompressedPayload(_)) | None => {
                Err(error(1500, "Application error in method handler"))
            }
        };
        self.answer_rpc(id, answer);
        true
    }

    pub(super) fn time_out_rpcs(&mut self, now: Now) {
        let late = |call: &Waiting| {
            if call.confirm_by.is_some_and(|by| by <= now.instant) {
                Some(error(1501, "Connection timeout"))
            } else if call.answer_by <= now.instant {
                Some(error(1502, "Response timeout"))
            } else {
                None
            }
        };
        self.fail_rpcs(late);
    }

    /// Nobody answers for somebody who left.
    pub(super) fn participant_left_rpcs(&mut self, key: ParticipantKey) {
        self.fail_rpcs(|call| {
            (call.destination == key).then(|| error(1503, "Recipient disconnected"))
        });
    }

    fn fail_rpcs(&mut self, failed: impl Fn(&Waiting) -> Option<RpcError>) {
        let calls = std::mem::take(&mut self.rpcs.0);
        for (request_id, call) in calls {
            match failed(&call) {
                Some(error) => self.answer_rpc(call.id, Err(error)),
                None => drop(self.rpcs.0.insert(request_id, call)),
            }
        }
    }

    fn answer_rpc(&mut self, id: RpcId, answer: Result<String, RpcError>) {
        self.output.push_back(RoomOutput::RpcAnswer { id, answer });
    }
}
