//! The task that owns one room: feeds messages, media events and time into it and turns what
//! it says into effects.

mod forwards;
mod home;

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use contract::access_token::{Claims, MoreClaims};
use contract::ids::{Identity, RoomName};
use livekit_protocol::{
    Job, RoomMovedResponse, RpcError, SignalRequest, SignalResponse, signal_response,
};
use sfu_core::media::MediaEvent;
use sfu_core::room::{
    AdministrationError, ForwardEnd, ForwardError, ForwardId, ForwardedParticipant, Room,
    RoomCloseReason, RoomOutput, RpcCall, RpcId, SessionId,
};
use sfu_core::signal::is_ping;
use sfu_core::signal::join::{JoinError, JoinParams};
use sfu_core::time::Now;
use std::collections::HashMap;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};

use crate::agents::Agents;
use crate::keys::Keys;
use crate::room_events::RoomEvents;
use crate::rooms::RoomGauges;
use crate::rtc::RoomMedia;
use crate::webhooks::RoomWebhooks;
pub use forwards::{Forwarding, Forwards};
pub use home::{ADOPT, RoomHome};

/// Inputs that wait for a room.
const INPUTS: usize = 1024;
/// Messages that wait for a client; one that takes none for so long is closed.
pub const OUTBOX: usize = 1024;

/// A message on its way to a client's WebSocket.
#[derive(Debug)]
pub enum Outgoing {
    /// A signal message.
    Response(Arc<SignalResponse>),
    /// Close with code 1000.
    Close,
}

type Call = Box<dyn FnOnce(&mut Room, Now) + Send>;
type RpcAnswer = Result<String, RpcError>;

enum Input {
    Join {
        params: Box<JoinParams>,
        outbox: mpsc::Sender<Outgoing>,
        answer: oneshot::Sender<Result<SessionId, JoinError>>,
    },
    Signal(SessionId, Box<SignalRequest>),
    Closed(SessionId),
    Call(Call),
    /// Give the room to another node; answers whether it went.
    Move(oneshot::Sender<bool>),
    /// Have the epoch of its home compared with the store's.
    Confirm,
    Rpc(RpcCall, oneshot::Sender<RpcAnswer>),
    Forward {
        id: ForwardId,
        identity: Identity,
        destination: RoomName,
        answer: oneshot::Sender<Result<Option<Forwarding>, AdministrationError>>,
    },
    StopForwarding(ForwardId),
    Show {
        id: ForwardId,
        epoch: u64,
        state: Box<ForwardedParticipant>,
        answer: oneshot::Sender<Result<oneshot::Receiver<ForwardEnd>, ForwardError>>,
    },
}

/// Reaches a room's task. All of it fails when the room has ended.
#[derive(Clone)]
pub struct RoomHandle {
    inputs: mpsc::Sender<Input>,
}

/// The room ended while it was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RoomEnded;

impl RoomHandle {
    /// Asks to join or to resume; messages come on `outbox`.
    pub async fn join(
        &self,
        params: JoinParams,
        outbox: mpsc::Sender<Outgoing>,
    ) -> Result<Result<SessionId, JoinError>, RoomEnded> {
        let (answer, answered) = oneshot::channel();
        self.send(Input::Join { params: Box::new(params), outbox, answer }).await?;
        answered.await.map_err(|_| RoomEnded)
    }

    /// Hands in a message of a client.
    pub async fn signal(
        &self,
        session: SessionId,
        request: SignalRequest,
    ) -> Result<(), RoomEnded> {
        self.send(Input::Signal(session, Box::new(request))).await
    }

    /// Tells that a client's WebSocket is gone.
    pub async fn closed(&self, session: SessionId) {
        // A room that ended knows.
        let _ended = self.send(Input::Closed(session)).await;
    }

    /// Asks the room something, or changes it.
    pub async fn call<T: Send + 'static>(
        &self,
        question: impl FnOnce(&mut Room, Now) -> T + Send + 'static,
    ) -> Result<T, RoomEnded> {
        let (answer, answered) = oneshot::channel();
        let call: Call = Box::new(move |room, now| {
            // The asker may have gone.
            let _unheard = answer.send(question(room, now));
        });
        self.send(Input::Call(call)).await?;
        answered.await.map_err(|_| RoomEnded)
    }

    /// Calls a participant and waits for its answer.
    pub async fn perform_rpc(&self, call: RpcCall) -> Result<Result<String, RpcError>, RoomEnded> {
        let (answer, answered) = oneshot::channel();
        self.send(Input::Rpc(call, answer)).await?;
        answered.await.map_err(|_| RoomEnded)
    }

    /// Forwards a participant to another room; `None` when it is already.
    pub async fn forward(
        &self,
        id: ForwardId,
        identity: Identity,
        destination: RoomName,
    ) -> Result<Result<Option<Forwarding>, AdministrationError>, RoomEnded> {
        let (answer, answered) = oneshot::channel();
        self.send(Input::Forward { id, identity, destination, answer }).await?;
        answered.await.map_err(|_| RoomEnded)
    }

    /// Ends what [`Self::forward`] began.
    pub async fn stop_forwarding(&self, id: ForwardId) {
        // A room that ended knows.
        let _ended = self.send(Input::StopForwarding(id)).await;
    }

    /// Shows a participant of another room, whose home is of this epoch. The receiver answers when it is not shown any more, and
    /// closes when the room's task is gone.
    pub async fn show(
        &self,
        id: ForwardId,
        epoch: u64,
        state: ForwardedParticipant,
    ) -> Result<Result<oneshot::Receiver<ForwardEnd>, ForwardError>, RoomEnded> {
        let (answer, answered) = oneshot::channel();
        self.send(Input::Show { id, epoch, state: Box::new(state), answer }).await?;
        answered.await.map_err(|_| RoomEnded)
    }

    /// Gives the room to another node; `false` when none takes it now.
    pub async fn hand_over(&self) -> Result<bool, RoomEnded> {
        let (answer, answered) = oneshot::channel();
        self.send(Input::Move(answer)).await?;
        answered.await.map_err(|_| RoomEnded)
    }

    /// Has the epoch of the room's home compared with the store's. Where the room has too much to do
    /// to be told, it learns it with the next write that is refused.
    pub(crate) fn confirm(&self) {
        let _full = self.inputs.try_send(Input::Confirm);
    }

    async fn send(&self, input: Input) -> Result<(), RoomEnded> {
        self.inputs.send(input).await.map_err(|_| RoomEnded)
    }
}

/// What a room's task needs beside the room.
pub struct RoomTask {
    /// The room.
    pub room: Room,
    /// Its home in the store.
    pub home: RoomHome,
    /// Its hold on a media worker.
    pub media: RoomMedia,
    /// What the worker reports.
    pub events: mpsc::Receiver<MediaEvent>,
    /// Signs refreshed tokens.
    pub keys: Arc<Keys>,
    /// Its part of the node's gauges.
    pub gauges: RoomGauges,
    /// Who is told what happens.
    pub webhooks: RoomWebhooks,
    /// The same for other programs, by Redis.
    pub room_events: RoomEvents,
    /// Calls of the server API that wait for a participant.
    pub rpcs: Rpcs,
    /// Finds workers for the room's jobs.
    pub agents: Arc<Agents>,
    /// Who follows the participants that this room forwards, or shows for another.
    pub forwards: Forwards,
}

/// Calls of the server API that wait for a participant; the room ends each in its time.
#[derive(Default)]
pub struct Rpcs {
    waiting: HashMap<RpcId, oneshot::Sender<RpcAnswer>>,
    last: u64,
}

/// Reads both clocks.
pub fn now() -> Now {
    let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Now { instant: Instant::now(), unix_ms: u64::try_from(unix.as_millis()).unwrap_or(u64::MAX) }
}

impl RoomTask {
    /// Starts the task. `ended` runs when the room is over and its home released.
    pub fn spawn(self, ended: impl FnOnce() + Send + 'static) -> RoomHandle {
        let (inputs, queue) = mpsc::channel(INPUTS);
        // Not a handle of its own: the room ends when all others are gone.
        let own = inputs.downgrade();
        tokio::spawn(async move {
            self.run(queue, own).await;
            ended();
        });
        RoomHandle { inputs }
    }

    async fn run(mut self, mut queue: mpsc::Receiver<Input>, own: mpsc::WeakSender<Input>) {
        let mut outboxes: HashMap<SessionId, mpsc::Sender<Outgoing>> = HashMap::new();
        tracing::info!(room = %self.home.name(), epoch = self.home.epoch(), "Room started");
        // One that moved here counts before anybody comes.
        self.gauges.set(self.room.counts());
        let mut participants_due = self.room.participants_due();
        loop {
            let wake_at = participants_due.into_iter().chain(self.room.rest_due()).min();
            // Neither who and what is here changes, nor what is due of participants.
            let mut stays = false;
            tokio::select! {
                input = queue.recv() => match input {
                    Some(Input::Move(answer)) => self.hand_over(answer).await,
                    Some(input) => {
                        stays = matches!(&input, Input::Signal(_, request) if is_ping(request));
                        self.take(input, &mut outboxes);
                    }
                    // Every handle is gone: the node ends.
                    None => self.room.close(RoomCloseReason::Drain, now()),
                },
                Some(event) = self.events.recv() => {
                    stays = event.is_measurement();
                    self.room.handle_media(event, now());
                }
                () = tokio::time::sleep_until(wake_at.unwrap_or_else(far_away).into()) => {
                    self.room.handle_timeout(now());
                }
                stored = self.home.next() => if let Some(stored) = stored
                    && self.home.stored(stored)
                {
                    self.room.close(RoomCloseReason::Drain, now());
                },
            }
            let sessions = outboxes.len();
            let is_over = self.drain(&mut outboxes, &own);
            // Who takes nothing that is sent has left, even on a ping.
            if !stays || outboxes.len() != sessions {
                self.gauges.set(self.room.counts());
                participants_due = self.room.participants_due();
            }
            if is_over {
                break;
            }
            self.home.go_on(&self.room);
        }
        self.home.release().await;
        tracing::info!(room = %self.home.name(), "Room ended");
    }

    /// Gives the room to another node. Whoever asks for something meanwhile waits: here nobody may
    /// be admitted any more, and there the room has not begun.
    async fn hand_over(&mut self, answer: oneshot::Sender<bool>) {
        let has_moved = self.home.hand_over(&self.room).await;
        if has_moved {
            self.room.close(RoomCloseReason::Drain, now());
        }
        // Who asked may have been told otherwise.
        let _unheard = answer.send(has_moved);
    }

    fn take(&mut self, input: Input, outboxes: &mut HashMap<SessionId, mpsc::Sender<Outgoing>>) {
        match input {
            // The asker finds out where the room is by now, and comes back or goes there.
            Input::Join { .. } if !self.home.may_admit() => {}
            Input::Join { params, outbox, answer } => {
                self.room.set_worker(self.media.preferred_worker());
                let joined = self.room.join(*params, now());
                if let Ok(session) = joined {
                    outboxes.insert(session, outbox);
                }
                if let Err(Ok(session)) = answer.send(joined) {
                    // The client left before it was answered.
                    self.room.handle_session_closed(session, now());
                }
            }
            Input::Signal(session, request) => self.room.handle_signal(session, *request, now()),
            Input::Closed(session) => {
                outboxes.remove(&session);
                self.room.handle_session_closed(session, now());
            }
            Input::Call(call) => call(&mut self.room, now()),
            // The loop takes it: it waits for the store.
            Input::Move(answer) => drop(answer),
            Input::Confirm => self.home.confirm(),
            Input::Rpc(call, answer) => {
                self.rpcs.last += 1;
                let id = RpcId(self.rpcs.last);
                self.rpcs.waiting.insert(id, answer);
                self.room.perform_rpc(id, call, now());
            }
            Input::Forward { id, identity, destination, answer } => {
                self.forward(id, &identity, destination, answer);
            }
            Input::Show { id, epoch, state, answer } => self.show((id, epoch), &state, answer),
            Input::StopForwarding(id) => self.stop_forwarding(id),
        }
    }

    /// Does what the room wants; `true` when it is over.
    fn drain(
        &mut self,
        outboxes: &mut HashMap<SessionId, mpsc::Sender<Outgoing>>,
        own: &mpsc::WeakSender<Input>,
    ) -> bool {
        let mut is_over = false;
        while let Some(output) = self.room.poll_output() {
            match output {
                RoomOutput::Signal { session, response } => {
                    self.deliver(outboxes, session, Outgoing::Response(response));
                }
                RoomOutput::CloseSession { session } => {
                    self.deliver(outboxes, session, Outgoing::Close);
                    outboxes.remove(&session);
                }
                RoomOutput::RefreshToken { session, claims, more_claims } => {
                    if let Some(token) = self.sign(*claims, &more_claims) {
                        let message = Some(signal_response::Message::RefreshToken(token));
                        let response = Arc::new(SignalResponse { message });
                        self.deliver(outboxes, session, Outgoing::Response(response));
                    }
                }
                RoomOutput::MoveToken { session, claims, more_claims, moved } => {
                    let token = self.sign(*claims, &more_claims);
                    self.send_elsewhere(outboxes, session, token, moved);
                }
                RoomOutput::RpcAnswer { id, answer } => {
                    if let Some(waiting) = self.rpcs.waiting.remove(&id) {
                        // The caller may have gone.
                        let _unheard = waiting.send(answer);
                    }
                }
                RoomOutput::RequestJob(job) => self.request_job(*job, own.clone()),
                RoomOutput::TerminateJob { job_id } => {
                    let agents = Arc::clone(&self.agents);
                    tokio::spawn(async move { agents.terminate(&job_id).await });
                }
                RoomOutput::Forwarded { id, news } => self.forwards.tell(id, news),
                RoomOutput::ForwardedLeft { id, end } => self.forwards.left(id, end),
                RoomOutput::ForwardAgain { identity, destination } => {
                    self.forwards.begin_again(identity, destination, own.clone());
                }
                RoomOutput::Event(event) => {
                    self.room_events.send(&event, self.home.node_id(), self.home.epoch());
                    self.webhooks.send(*event);
                }
                RoomOutput::Media(command) => self.media.send(command),
                RoomOutput::Ended => is_over = true,
            }
        }
        is_over
    }

    /// Has a worker found, which takes seconds, and tells the room.
    fn request_job(&self, job: Job, own: mpsc::WeakSender<Input>) {
        let agents = Arc::clone(&self.agents);
        tokio::spawn(async move {
            let Some(state) = agents.assign(&job).await else { return };
            let id = job.id.clone();
            let told = match own.upgrade() {
                Some(inputs) => {
                    let room = RoomHandle { inputs };
                    room.call(move |room, now| room.job_assigned(job, state, now)).await
                }
                None => Err(RoomEnded),
            };
            if told.is_err() {
                agents.terminate(&id).await;
            }
        });
    }

    /// Gives a client a token for another room, in the message that tells it where supported.
    fn send_elsewhere(
        &mut self,
        outboxes: &mut HashMap<SessionId, mpsc::Sender<Outgoing>>,
        session: SessionId,
        token: Option<String>,
        moved: Option<Box<RoomMovedResponse>>,
    ) {
        let Some(token) = token else { return };
        let message = match moved {
            Some(moved) => {
                signal_response::Message::RoomMoved(RoomMovedResponse { token, ..*moved })
            }
            None => signal_response::Message::RefreshToken(token),
        };
        let response = Arc::new(SignalResponse { message: Some(message) });
        self.deliver(outboxes, session, Outgoing::Response(response));
    }

    fn deliver(
        &mut self,
        outboxes: &mut HashMap<SessionId, mpsc::Sender<Outgoing>>,
        session: SessionId,
        message: Outgoing,
    ) {
        let Some(outbox) = outboxes.get(&session) else { return };
        if let Err(error) = outbox.try_send(message) {
            // Either the client closed its connection first, or it takes nothing: then dropping
            // the outbox closes the WebSocket, and the client comes back.
            if matches!(error, TrySendError::Full(_)) {
                tracing::info!(room = %self.home.name(), ?session, "Client is too slow");
            }
            outboxes.remove(&session);
            self.room.handle_session_closed(session, now());
        }
    }

    fn sign(&self, claims: Claims, more: &MoreClaims) -> Option<String> {
        match self.keys.sign_more(claims, more) {
            Ok(token) => Some(token),
            Err(error) => {
                tracing::warn!(%error, "Failed to refresh a token");
                None
            }
        }
    }
}

fn far_away() -> Instant {
    Instant::now() + Duration::from_secs(24 * 3600)
}
