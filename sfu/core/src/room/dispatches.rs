//! Agents: which of them are dispatched to the room, and the jobs that follow from it.
//!
//! A dispatch names an agent. From it come jobs: one for the room, one for each participant, one
//! for each publisher; workers registered for one of these kinds, and a job for whose kind there
//! is no worker is forgotten. Finding workers is the shell's part.

use std::collections::{BTreeSet, VecDeque};

use contract::ids::generate_id;
use livekit_protocol::participant_info::State;
use livekit_protocol::{
    AgentDispatch, AgentDispatchState, Job, JobState, JobStatus, JobType, ParticipantInfo,
    RoomAgentDispatch,
};
use thiserror::Error;

use super::participant::{Participant, ParticipantKey};
use super::{Room, RoomOutput};
use crate::time::Now;

/// Most dispatches of a room.
const MAX_DISPATCHES: usize = 64;
/// Most jobs of a dispatch that are remembered; the oldest that ended are forgotten first.
const MAX_JOBS: usize = 1024;
/// Most early words of workers that are kept.
const MAX_EARLY: usize = 64;
/// Most times that a dispatch gets another worker for one that was lost.
const MAX_REPLACEMENTS: u32 = 10;

/// Why a dispatch was not made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("a room has at most {MAX_DISPATCHES} agent dispatches")]
pub struct TooManyDispatches;

/// Dispatches of a room.
#[derive(Debug, Default)]
pub(super) struct Dispatches {
    list: Vec<Dispatch>,
    /// Participants that got their publisher's jobs.
    publishers: BTreeSet<ParticipantKey>,
    /// What workers said of jobs before we heard that they have them.
    early: VecDeque<(String, JobStatus, String)>,
}

#[derive(Debug)]
struct Dispatch {
    info: AgentDispatch,
    jobs: Vec<Job>,
    replacements: u32,
    /// Jobs that began at the room's earlier home, for a participant who comes back: it gets no
    /// second one.
    carried: Vec<(i32, String)>,
}

impl Dispatch {
    fn info(&self) -> AgentDispatch {
        let mut info = self.info.clone();
        if let Some(state) = &mut info.state {
            state.jobs.clone_from(&self.jobs);
        }
        info
    }
}

fn is_running(job: &Job) -> bool {
    matches!(status(job), JobStatus::JsPending | JobStatus::JsRunning)
}

fn status(job: &Job) -> JobStatus {
    job.state.as_ref().map_or(JobStatus::JsPending, JobState::status)
}

fn nanoseconds(now: Now) -> i64 {
    i64::try_from(now.unix_ms.saturating_mul(1_000_000)).unwrap_or(i64::MAX)
}

impl Room {
    /// Dispatches an agent to the room, from now on.
    ///
    /// # Errors
    ///
    /// When there are too many.
    pub fn create_dispatch(
        &mut self,
        wish: RoomAgentDispatch,
        now: Now,
    ) -> Result<AgentDispatch, TooManyDispatches> {
        if self.dispatches.list.len() >= MAX_DISPATCHES {
            return Err(TooManyDispatches);
        }
        let RoomAgentDispatch { agent_name, metadata, restart_policy, deployment, attributes } =
            wish;
        let info = AgentDispatch {
            id: generate_id("AD_", &mut self.rng),
            agent_name,
            room: self.options.name.to_string(),
            metadata,
            state: Some(AgentDispatchState { created_at: nanoseconds(now), ..Default::default() }),
            restart_policy,
            deployment,
            attributes,
        };
        let index = self.dispatches.list.len();
        let dispatch =
            Dispatch { info: info.clone(), jobs: Vec::new(), replacements: 0, carried: Vec::new() };
        self.dispatches.list.push(dispatch);
        self.state_changed();
        self.request_job(index, JobType::JtRoom, None);
        let present: Vec<(bool, ParticipantInfo)> = self
            .participants
            .values()
            .filter(|p| serves(p) && p.state == State::Active)
            .map(|p| (p.is_publisher(), p.info()))
            .collect();
        for (is_publisher, info) in present {
            self.request_job(index, JobType::JtParticipant, Some(info.clone()));
            if is_publisher {
                self.request_job(index, JobType::JtPublisher, Some(info));
            }
        }
        Ok(info)
    }

    /// Ends a dispatch and its jobs; `None` when there is no such.
    pub fn delete_dispatch(&mut self, id: &str, now: Now) -> Option<AgentDispatch> {
        let index = self.dispatches.list.iter().position(|dispatch| dispatch.info.id == id)?;
        let mut dispatch = self.dispatches.list.remove(index);
        self.state_changed();
        if let Some(state) = &mut dispatch.info.state {
            state.deleted_at = nanoseconds(now);
        }
        self.terminate(&dispatch);
        Some(dispatch.info())
    }

    /// All dispatches.
    pub fn dispatches(&self) -> Vec<AgentDispatch> {
        self.dispatches.list.iter().map(Dispatch::info).collect()
    }

    /// The first participant comes: unless agents were named before, those of its token are
    /// dispatched, and where it names none, those without a name.
    pub(super) fn begin_dispatches(&mut self, named: Vec<RoomAgentDispatch>, now: Now) {
        if !self.dispatches.list.is_empty() {
            return;
        }
        let unnamed = || vec![RoomAgentDispatch::default()];
        let wishes = if named.is_empty() { unnamed() } else { named };
        for wish in wishes.into_iter().take(MAX_DISPATCHES) {
            // The list was empty and the wishes fit.
            let _made = self.create_dispatch(wish, now);
        }
    }

    pub(super) fn participant_joined_jobs(&mut self, key: ParticipantKey) {
        self.request_jobs(key, JobType::JtParticipant);
    }

    /// The first track of a participant.
    pub(super) fn participant_published_jobs(&mut self, key: ParticipantKey) {
        if self.dispatches.publishers.insert(key) {
            self.request_jobs(key, JobType::JtPublisher);
        }
    }

    fn request_jobs(&mut self, key: ParticipantKey, kind: JobType) {
        let Some(participant) = self.participants.get(&key).filter(|p| serves(p)) else { return };
        let info = participant.info();
        for index in 0..self.dispatches.list.len() {
            self.request_job(index, kind, Some(info.clone()));
        }
    }

    fn request_job(&mut self, index: usize, kind: JobType, participant: Option<ParticipantInfo>) {
        let room = Some(self.info());
        let Some(dispatch) = self.dispatches.list.get_mut(index) else { return };
        if let Some(participant) = &participant
            && let Some(carried) = dispatch.carried.iter().position(|(carried, identity)| {
                *carried == i32::from(kind) && *identity == participant.identity
            })
        {
            dispatch.carried.swap_remove(carried);
            return;
        }
        let job = Job {
            id: generate_id("AJ_", &mut self.rng),
            dispatch_id: dispatch.info.id.clone(),
            r#type: kind.into(),
            room,
            participant,
            metadata: dispatch.info.metadata.clone(),
            agent_name: dispatch.info.agent_name.clone(),
            state: Some(JobState::default()),
            deployment: dispatch.info.deployment.clone(),
            attributes: dispatch.info.attributes.clone(),
            ..Job::default()
        };
        self.output.push_back(RoomOutput::RequestJob(Box::new(job)));
    }

    /// A worker took a job of [`RoomOutput::RequestJob`].
    pub fn job_assigned(&mut self, mut job: Job, state: JobState, now: Now) {
        job.state = Some(state);
        self.state_changed();
        let job_id = job.id.clone();
        let dispatches = &mut self.dispatches.list;
        match dispatches.iter_mut().find(|dispatch| dispatch.info.id == job.dispatch_id) {
            Some(dispatch) => {
                remember(&mut dispatch.jobs, job.clone());
                if is_running(&job) {
                    self.emit_job("agent_job_started", job);
                }
            }
            // The dispatch was deleted while the worker thought.
            None => self.output.push_back(RoomOutput::TerminateJob { job_id: job.id }),
        }
        let early = &mut self.dispatches.early;
        if let Some(index) = early.iter().position(|(known, ..)| *known == job_id)
            && let Some((_, status, error)) = early.remove(index)
        {
            self.update_job(&job_id, status, &error, now);
        }
    }

    /// A worker says how a job is.
    pub fn update_job(&mut self, job_id: &str, status: JobStatus, error: &str, now: Now) {
        let at = nanoseconds(now);
        self.state_changed();
        let Dispatches { list, early, .. } = &mut self.dispatches;
        let mut jobs = list.iter_mut().flat_map(|dispatch| &mut dispatch.jobs);
        let Some(job) = jobs.find(|job| job.id == job_id) else {
            if early.len() == MAX_EARLY {
                early.pop_front();
            }
            early.push_back((job_id.to_owned(), status, error.to_owned()));
            return;
        };
        if !is_running(job) {
            return;
        }
        let state = job.state.get_or_insert_default();
        state.set_status(status);
        error.clone_into(&mut state.error);
        state.updated_at = at;
        if matches!(status, JobStatus::JsSuccess | JobStatus::JsFailed) {
            state.ended_at = at;
            let job = job.clone();
            self.emit_job("agent_job_ended", job);
        }
    }

    /// A worker is gone: jobs whose agent is not in the room go to another.
    pub fn worker_lost(&mut self, job_id: &str, now: Now) {
        let found = self.dispatches.list.iter().enumerate().find_map(|(index, dispatch)| {
            let job = dispatch.jobs.iter().find(|job| job.id == job_id && is_running(job))?;
            Some((index, job.clone()))
        });
        let Some((index, job)) = found else { return };
        let agent = job.state.as_ref().map(|state| state.participant_identity.clone());
        let is_here = self.identities.keys().any(|known| Some(known.as_str()) == agent.as_deref());
        if is_here {
            return;
        }
        self.update_job(job_id, JobStatus::JsFailed, "agent worker was lost", now);
        let Some(dispatch) = self.dispatches.list.get_mut(index) else { return };
        if dispatch.replacements < MAX_REPLACEMENTS {
            dispatch.replacements += 1;
            self.request_job(index, job.r#type(), job.participant);
        }
    }

    /// The agent of a job left the room: the job is over.
    pub(super) fn participant_left_jobs(&mut self, participant: &Participant, now: Now) {
        self.dispatches.publishers.remove(&participant.key);
        if !participant.is_agent() {
            return;
        }
        let identity = participant.identity.as_str();
        let jobs = self.dispatches.list.iter().flat_map(|dispatch| &dispatch.jobs);
        let left: Vec<String> = jobs
            .filter(|job| is_running(job))
            .filter(|job| job.state.as_ref().is_some_and(|s| s.participant_identity == identity))
            .map(|job| job.id.clone())
            .collect();
        for job_id in left {
            self.update_job(&job_id, JobStatus::JsFailed, "agent worker left the room", now);
            self.output.push_back(RoomOutput::TerminateJob { job_id });
        }
    }

    /// Goes on with the dispatches of the room's earlier home and their jobs.
    pub(super) fn restore_dispatches(&mut self, dispatches: Vec<AgentDispatch>) {
        let restore = |mut info: AgentDispatch| {
            let jobs = info.state.as_mut().map(|state| std::mem::take(&mut state.jobs));
            let jobs = jobs.unwrap_or_default();
            let running = jobs.iter().filter(|job| is_running(job));
            let carried = running
                .filter_map(|job| Some((job.r#type, job.participant.as_ref()?.identity.clone())))
                .collect();
            Dispatch { info, jobs, replacements: 0, carried }
        };
        self.dispatches.list = dispatches.into_iter().take(MAX_DISPATCHES).map(restore).collect();
    }

    /// The room goes on elsewhere, and its jobs with it.
    pub(super) fn forget_dispatches(&mut self) {
        self.dispatches.list.clear();
    }

    /// The room ends: so do its jobs.
    pub(super) fn end_dispatches(&mut self) {
        for dispatch in std::mem::take(&mut self.dispatches.list) {
            self.terminate(&dispatch);
        }
    }

    fn terminate(&mut self, dispatch: &Dispatch) {
        for job in dispatch.jobs.iter().filter(|job| is_running(job)) {
            self.output.push_back(RoomOutput::TerminateJob { job_id: job.id.clone() });
        }
    }
}

/// Whether agents are there for this participant: not for other agents and recorders.
fn serves(participant: &Participant) -> bool {
    !participant.is_dependent() && !participant.is_agent()
}

fn remember(jobs: &mut Vec<Job>, job: Job) {
    if jobs.len() >= MAX_JOBS {
        match jobs.iter().position(|job| !is_running(job)) {
            Some(ended) => drop(jobs.remove(ended)),
            None => drop(jobs.remove(0)),
        }
    }
    jobs.push(job);
}
