//! Agents: workers that registered on this node, and the way from a room's job to a worker,
//! here or on another node. Which jobs there are is decided by rooms (`sfu_core::room`).

mod registry;
mod worker;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Bytes;
use contract::ids::RoomName;
use contract::redis::NodeRecord;
use livekit_protocol::{Job, JobState, JobStatus};
use parking_lot::Mutex;
use prost::Message as _;
use tokio::sync::Semaphore;

use crate::keys::Keys;
use crate::peer::PeerClient;
use crate::placement::Placement;
use crate::session::RoomHandle;
use registry::Registry;
pub use worker::{Registration, Worker};

/// Path by which a node asks another for a worker; the body is the job.
pub const ASSIGN: &str = "/peer/agents/assign";
/// Path by which a room's node ends a job; the body is the job's id.
pub const TERMINATE: &str = "/peer/agents/terminate";
/// Path by which a worker's node tells a room's node of a job; the body is the job.
pub const REPORT: &str = "/peer/agents/report";

/// A worker has 10 s to answer, and several may be asked.
const ASSIGN_TIMEOUT: Duration = Duration::from_secs(35);
const TELL_TIMEOUT: Duration = Duration::from_secs(3);
/// For so long nodes are not asked again for an agent that none of them had.
const ABSENT: Duration = Duration::from_secs(5);
/// Most agents that are remembered as absent.
const MAX_ABSENT: usize = 1024;
/// A job whose workers are all busy is offered so often, with [`BUSY_PAUSE`] between.
const BUSY_TRIES: u32 = 30;
const BUSY_PAUSE: Duration = Duration::from_secs(2);
/// Most jobs that look for a worker at a time.
const MAX_SEARCHES: usize = 256;

/// What became of a job, for its room.
#[derive(Debug, Clone, PartialEq)]
pub enum JobReport {
    /// The worker says how it is.
    Status(JobStatus, String),
    /// The worker is gone.
    Lost,
}

/// Agents of this node and the way to those of others.
pub struct Agents {
    registry: Registry,
    keys: Arc<Keys>,
    placement: Arc<Placement>,
    peers: Option<Arc<PeerClient>>,
    node_name: String,
    absent: Mutex<HashMap<(String, i32), Instant>>,
    /// Jobs that look for a worker at a time.
    searches: Semaphore,
}

impl Agents {
    /// A node without workers.
    pub fn new(
        keys: Arc<Keys>,
        placement: Arc<Placement>,
        peers: Option<Arc<PeerClient>>,
        node_name: String,
    ) -> Self {
        let (registry, absent) = (Registry::default(), Mutex::default());
        let searches = Semaphore::new(MAX_SEARCHES);
        Self { registry, keys, placement, peers, node_name, absent, searches }
    }

    /// Adds a worker that registered.
    pub fn register(&self, worker: Arc<Worker>) {
        self.registry.insert(worker);
    }

    /// Takes a worker out whose connection ended; returns its jobs and their rooms.
    pub fn unregister(&self, worker: &Worker) -> Vec<(String, RoomName)> {
        self.registry.remove(worker.id());
        worker.close()
    }

    /// Finds a worker for a job and assigns it. Workers that are busy are asked again for a
    /// while; where none is registered for the agent, there is nothing to wait for.
    pub async fn assign(&self, job: &Job) -> Option<JobState> {
        let _permit = self.searches.acquire().await.ok()?;
        for _ in 0..BUSY_TRIES {
            if let Some(state) = self.assign_once(job).await {
                return Some(state);
            }
            if !self.registry.has_agent(job) {
                return None;
            }
            tokio::time::sleep(BUSY_PAUSE).await;
        }
        None
    }

    /// Asks the workers of this node, then other nodes.
    async fn assign_once(&self, job: &Job) -> Option<JobState> {
        if let Some(state) = self.assign_here(job).await {
            return Some(state);
        }
        let peers = self.peers.as_ref()?;
        let agent = (job.agent_name.clone(), job.r#type);
        if self.absent.lock().get(&agent).is_some_and(|since| since.elapsed() < ABSENT) {
            return None;
        }
        for other in self.others() {
            let body = job.encode_to_vec().into();
            let answer = self.ask(peers, &other, ASSIGN, body, ASSIGN_TIMEOUT).await;
            if let Some(state) = answer.and_then(|bytes| JobState::decode(bytes).ok()) {
                return Some(state);
            }
        }
        let mut absent = self.absent.lock();
        if absent.len() >= MAX_ABSENT {
            absent.retain(|_, since| since.elapsed() < ABSENT);
        }
        absent.insert(agent, Instant::now());
        None
    }

    /// Assigns a job to a worker of this node.
    pub async fn assign_here(&self, job: &Job) -> Option<JobState> {
        let mut asked = Vec::new();
        while let Some(worker) = self.next_worker(job, &asked) {
            if let Some(state) = worker.assign(job, &self.keys).await {
                return Some(state);
            }
            asked.push(worker.id().to_owned());
        }
        None
    }

    fn next_worker(&self, job: &Job, asked: &[String]) -> Option<Arc<Worker>> {
        self.registry.choose(job, asked, &mut rand::rng())
    }

    /// Tells the worker of a job that it is over.
    pub async fn terminate(&self, job_id: &str) {
        if self.terminate_here(job_id) {
            return;
        }
        let Some(peers) = &self.peers else { return };
        for other in self.others() {
            let body = Bytes::from(job_id.to_owned());
            if self.ask(peers, &other, TERMINATE, body, TELL_TIMEOUT).await.is_some() {
                return;
            }
        }
    }

    /// The same on this node; `false` when no worker has the job.
    pub fn terminate_here(&self, job_id: &str) -> bool {
        self.registry.all().iter().any(|worker| worker.terminate(job_id))
    }

    /// Tells the home of a room that is not here what became of a job.
    pub async fn report_elsewhere(&self, home: &NodeRecord, job: Job) {
        if let Some(peers) = &self.peers {
            let body = job.encode_to_vec().into();
            // A home that does not answer has lost the room, and its jobs with it.
            let _lost = self.ask(peers, home, REPORT, body, TELL_TIMEOUT).await;
        }
    }

    fn others(&self) -> Vec<NodeRecord> {
        let own = self.placement.node_id();
        let nodes = self.placement.nodes().into_iter().map(|node| node.record);
        nodes.filter(|record| record.id != own).collect()
    }

    async fn ask(
        &self,
        peers: &PeerClient,
        other: &NodeRecord,
        path: &str,
        body: Bytes,
        timeout: Duration,
    ) -> Option<Bytes> {
        peers.post(other.address, &self.node_name, path, body, timeout).await
    }
}

/// Tells a room of this node what became of a job.
pub async fn report_here(handle: &RoomHandle, job_id: String, report: JobReport) {
    let told = handle.call(move |room, now| match report {
        JobReport::Status(status, error) => room.update_job(&job_id, status, &error, now),
        JobReport::Lost => room.worker_lost(&job_id, now),
    });
    // A room that ended has no jobs.
    let _ended = told.await;
}
