//! One worker: what it said of itself, its jobs, and how it is asked.

use std::collections::HashMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use contract::access_token::claims;
use contract::ids::RoomName;
use livekit_protocol::server_message::Message;
use livekit_protocol::{
    AvailabilityRequest, AvailabilityResponse, Job, JobAssignment, JobState, JobStatus,
    JobTermination, JobType, ParticipantPermission, ServerMessage, UpdateWorkerStatus,
    WorkerStatus,
};
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};

use crate::keys::Keys;

/// Time a worker has to say whether it takes a job (LiveKit's figure).
const AVAILABILITY_TIMEOUT: Duration = Duration::from_secs(10);
/// Lifetime of the token with which an agent enters the room.
const TOKEN_LIFETIME: Duration = Duration::from_secs(3600);
/// Attribute by which others know an agent.
const AGENT_NAME_ATTRIBUTE: &str = "lk.agent_name";

/// What a worker registered for.
#[derive(Debug, Clone, Default)]
pub struct Registration {
    /// `AW_…`.
    pub id: String,
    /// Which agent it runs; empty: dispatched to every room.
    pub agent_name: String,
    /// Jobs of which kind.
    pub job_type: JobType,
    /// Older way to tell groups of workers apart.
    pub namespace: String,
    /// Which version of the agent.
    pub deployment: String,
    /// Rights of its participants.
    pub permissions: ParticipantPermission,
    /// Key of the token with which it registered; signs its jobs' tokens.
    pub api_key: String,
}

/// A worker with an open connection.
pub struct Worker {
    registration: Registration,
    messages: mpsc::Sender<ServerMessage>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    load: f32,
    is_full: bool,
    is_draining: bool,
    is_closed: bool,
    /// Jobs that it was asked to take.
    asked: HashMap<String, oneshot::Sender<AvailabilityResponse>>,
    /// Jobs that it has, with their rooms.
    jobs: HashMap<String, RoomName>,
}

impl Worker {
    /// A worker that is told what to do on `messages`.
    pub fn new(registration: Registration, messages: mpsc::Sender<ServerMessage>) -> Self {
        Self { registration, messages, state: Mutex::default() }
    }

    /// Its id.
    pub fn id(&self) -> &str {
        &self.registration.id
    }

    pub(super) fn takes(&self, job: &Job) -> bool {
        #[expect(deprecated, reason = "workers may still register with a namespace")]
        let namespace = &job.namespace;
        let Registration { agent_name, job_type, deployment, .. } = &self.registration;
        *agent_name == job.agent_name
            && *job_type == job.r#type()
            && *deployment == job.deployment
            && self.registration.namespace == *namespace
    }

    /// Free share of the worker; `None` when it takes nothing.
    pub(super) fn capacity(&self) -> Option<f32> {
        let state = self.state.lock();
        let takes = !state.is_full && !state.is_draining && !state.is_closed;
        let capacity = (1.0 - state.load).max(0.0);
        (takes && capacity > 0.0).then_some(capacity)
    }

    /// Takes what the worker says of its load.
    pub fn update(&self, update: &UpdateWorkerStatus) {
        let mut state = self.state.lock();
        // A load that is no number must not upset the choice.
        state.load = if update.load.is_finite() { update.load.clamp(0.0, 1.0) } else { 1.0 };
        state.is_draining = update.draining;
        if update.status.is_some() {
            state.is_full = update.status() == WorkerStatus::WsFull;
        }
    }

    /// Takes the worker's answer to a job that it was asked to take.
    pub fn answer(&self, answer: AvailabilityResponse) {
        if let Some(waiting) = self.state.lock().asked.remove(&answer.job_id) {
            // Whoever asked may have given up.
            let _late = waiting.send(answer);
        }
    }

    /// Asks the worker to take a job; `None` when it does not.
    pub(super) async fn assign(&self, job: &Job, keys: &Keys) -> Option<JobState> {
        let (answer, answered) = oneshot::channel();
        self.state.lock().asked.insert(job.id.clone(), answer);
        let mut job = job.clone();
        let now = unix_time();
        let nanoseconds = i64::try_from(now.as_nanos()).unwrap_or(i64::MAX);
        let mut state = JobState {
            worker_id: self.id().to_owned(),
            started_at: nanoseconds,
            updated_at: nanoseconds,
            ..JobState::default()
        };
        state.set_status(JobStatus::JsRunning);
        job.state = Some(state.clone());
        let request = AvailabilityRequest { job: Some(job.clone()), resuming: false };
        let answer = if self.tell(Message::Availability(request)) {
            tokio::time::timeout(AVAILABILITY_TIMEOUT, answered).await
        } else {
            Ok(answered.await)
        };
        self.state.lock().asked.remove(&job.id);
        let answer = answer.ok()?.ok()?;
        if answer.terminate {
            // Nothing is to be done.
            state.set_status(JobStatus::JsSuccess);
            state.ended_at = nanoseconds;
            return Some(state);
        }
        if !answer.available {
            return None;
        }
        state.participant_identity.clone_from(&answer.participant_identity);
        let room = RoomName::new(job.room.as_ref()?.name.clone()).ok()?;
        let token = self.token(&room, answer, now, keys)?;
        job.state = Some(state.clone());
        self.state.lock().jobs.insert(job.id.clone(), room);
        let id = job.id.clone();
        let assignment = JobAssignment { job: Some(job), url: None, token };
        if !self.tell(Message::Assignment(assignment)) {
            self.state.lock().jobs.remove(&id);
            return None;
        }
        Some(state)
    }

    fn token(
        &self,
        room: &RoomName,
        answer: AvailabilityResponse,
        now: Duration,
        keys: &Keys,
    ) -> Option<String> {
        let permissions = &self.registration.permissions;
        let mut claims = claims(&answer.participant_identity, now, TOKEN_LIFETIME);
        claims.name = answer.participant_name;
        claims.metadata = answer.participant_metadata;
        claims.attributes = answer.participant_attributes;
        let name = self.registration.agent_name.clone();
        claims.attributes.insert(AGENT_NAME_ATTRIBUTE.to_owned(), name);
        "agent".clone_into(&mut claims.kind);
        claims.iss.clone_from(&self.registration.api_key);
        let video = &mut claims.video;
        video.room_join = true;
        video.agent = true;
        video.room = room.to_string();
        video.can_subscribe = Some(permissions.can_subscribe);
        video.can_publish = Some(permissions.can_publish);
        video.can_publish_data = Some(permissions.can_publish_data);
        video.can_update_own_metadata = Some(permissions.can_update_metadata);
        video.hidden = permissions.hidden;
        match keys.sign(claims) {
            Ok(token) => Some(token),
            Err(error) => {
                tracing::warn!(%error, "Failed to sign an agent's token");
                None
            }
        }
    }

    /// Ends a job; `false` when the worker does not have it.
    pub(super) fn terminate(&self, job_id: &str) -> bool {
        if self.state.lock().jobs.remove(job_id).is_none() {
            return false;
        }
        self.tell(Message::Termination(JobTermination { job_id: job_id.to_owned() }));
        true
    }

    /// The room of a job of the worker; an ended one is forgotten.
    pub fn room_of(&self, job_id: &str, has_ended: bool) -> Option<RoomName> {
        let mut state = self.state.lock();
        if has_ended { state.jobs.remove(job_id) } else { state.jobs.get(job_id).cloned() }
    }

    /// Sends the worker a message; `false` when it takes none.
    pub fn tell(&self, message: Message) -> bool {
        self.messages.try_send(ServerMessage { message: Some(message) }).is_ok()
    }

    /// The connection ended: whoever waits for an answer gets none.
    pub(super) fn close(&self) -> Vec<(String, RoomName)> {
        let mut state = self.state.lock();
        state.is_closed = true;
        state.asked.clear();
        state.jobs.drain().collect()
    }
}

fn unix_time() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}
