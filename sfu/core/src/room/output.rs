//! What a room wants done.

use std::sync::Arc;

use contract::access_token::{Claims, MoreClaims};
use contract::ids::{Identity, RoomName};
use livekit_protocol::{self as proto, SignalResponse};

use super::{ForwardEnd, ForwardId, ForwardNews, RpcId, SessionId};
use crate::media::MediaCommand;

/// What the shell shall do.
#[derive(Debug, Clone, PartialEq)]
pub enum RoomOutput {
    /// Send a message.
    Signal {
        /// To which connection.
        session: SessionId,
        /// The message; one for all that get the same.
        response: Arc<SignalResponse>,
    },
    /// Close a connection with code 1000, after what was sent before.
    CloseSession {
        /// Which one.
        session: SessionId,
    },
    /// Sign these claims and send them as `refresh_token`.
    RefreshToken {
        /// To which connection.
        session: SessionId,
        /// What the new token says.
        claims: Box<Claims>,
        /// And what else.
        more_claims: MoreClaims,
    },
    /// Sign these claims, which are for another room, and send them: in the message where there
    /// is one, else as `refresh_token`.
    MoveToken {
        /// To which connection.
        session: SessionId,
        /// What the token says.
        claims: Box<Claims>,
        /// And what else.
        more_claims: MoreClaims,
        /// The message that lacks the token.
        moved: Option<Box<proto::RoomMovedResponse>>,
    },
    /// A call of [`super::Room::perform_rpc`] is over.
    RpcAnswer {
        /// Which one.
        id: RpcId,
        /// What the participant answered.
        answer: Result<String, proto::RpcError>,
    },
    /// Tell the room to which a participant is forwarded.
    Forwarded {
        /// Which forwarding.
        id: ForwardId,
        /// What changed.
        news: ForwardNews,
    },
    /// A participant of another room is not shown any more: tell that room.
    ForwardedLeft {
        /// Which forwarding.
        id: ForwardId,
        /// Whether that is all.
        end: ForwardEnd,
    },
    /// A participant is back that this room forwarded at its earlier home: call
    /// [`super::Room::forward_participant`] and have it shown.
    ForwardAgain {
        /// Who.
        identity: Identity,
        /// Where it is shown.
        destination: RoomName,
    },
    /// Find a worker for a job; when one took it, call [`super::Room::job_assigned`].
    RequestJob(Box<proto::Job>),
    /// Tell the worker of a job that it is over.
    TerminateJob {
        /// Which one.
        job_id: String,
    },
    /// Something that webhooks are told; without id and time.
    Event(Box<proto::WebhookEvent>),
    /// For the media engine.
    Media(MediaCommand),
    /// The room is over: drop it and release its home.
    Ended,
}
