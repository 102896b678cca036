//! The workers of this node, and which of them gets a job.

use std::collections::BTreeMap;
use std::sync::Arc;

use livekit_protocol::Job;
use parking_lot::Mutex;
use rand::{Rng, RngExt as _};

use super::Worker;

/// Workers by id.
#[derive(Default)]
pub(super) struct Registry(Mutex<BTreeMap<String, Arc<Worker>>>);

impl Registry {
    pub(super) fn insert(&self, worker: Arc<Worker>) {
        self.0.lock().insert(worker.id().to_owned(), worker);
    }

    pub(super) fn remove(&self, id: &str) {
        self.0.lock().remove(id);
    }

    pub(super) fn all(&self) -> Vec<Arc<Worker>> {
        self.0.lock().values().cloned().collect()
    }

    /// Whether any worker is registered for the job's agent and kind, busy or not.
    pub(super) fn has_agent(&self, job: &Job) -> bool {
        self.0.lock().values().any(|worker| worker.takes(job))
    }

    /// A worker for `job` that was not asked yet: by chance, where free ones are more likely.
    pub(super) fn choose<R: Rng + ?Sized>(
        &self,
        job: &Job,
        asked: &[String],
        rng: &mut R,
    ) -> Option<Arc<Worker>> {
        let candidates: Vec<(Arc<Worker>, f32)> = self
            .all()
            .into_iter()
            .filter(|worker| worker.takes(job) && !asked.iter().any(|id| id == worker.id()))
            .filter_map(|worker| worker.capacity().map(|capacity| (worker, capacity)))
            .collect();
        let total: f32 = candidates.iter().map(|(_, capacity)| capacity).sum();
        let mut point = rng.random_range(0.0..=total);
        let chosen = candidates.iter().position(|(_, capacity)| {
            point -= capacity;
            point <= 0.0
        });
        // Rounding may leave a rest behind the last one.
        let index = chosen.or_else(|| candidates.len().checked_sub(1))?;
        candidates.get(index).map(|(worker, _)| Arc::clone(worker))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agents::Registration;
    use livekit_protocol::{JobType, UpdateWorkerStatus, WorkerStatus};
    use rand::{SeedableRng as _, rngs::StdRng};

    fn worker(registry: &Registry, id: &str, agent: &str, load: f32) -> Arc<Worker> {
        let registration = Registration {
            id: id.to_owned(),
            agent_name: agent.to_owned(),
            job_type: JobType::JtRoom,
            ..Registration::default()
        };
        let (messages, _) = tokio::sync::mpsc::channel(1);
        let worker = Arc::new(Worker::new(registration, messages));
        worker.update(&UpdateWorkerStatus { load, ..UpdateWorkerStatus::default() });
        registry.insert(Arc::clone(&worker));
        worker
    }

    fn job(agent: &str, kind: JobType) -> Job {
        Job { agent_name: agent.to_owned(), r#type: kind.into(), ..Job::default() }
    }

    #[test]
    fn only_workers_of_the_agent_and_kind_are_chosen() {
        let registry = Registry::default();
        worker(&registry, "1", "scribe", 0.0);
        let mut rng = StdRng::seed_from_u64(1);
        let mut choose = |agent, kind| registry.choose(&job(agent, kind), &[], &mut rng).is_some();
        assert!(choose("scribe", JobType::JtRoom));
        assert!(!choose("", JobType::JtRoom));
        assert!(!choose("scribe", JobType::JtParticipant));
    }

    #[test]
    fn free_workers_are_chosen_more_often_and_full_ones_never() {
        let registry = Registry::default();
        worker(&registry, "busy", "", 0.9);
        worker(&registry, "free", "", 0.1);
        let full = worker(&registry, "full", "", 0.0);
        full.update(&UpdateWorkerStatus {
            status: Some(WorkerStatus::WsFull.into()),
            ..UpdateWorkerStatus::default()
        });
        let mut rng = StdRng::seed_from_u64(1);
        let mut count = BTreeMap::new();
        for _ in 0..1000 {
            let chosen = registry.choose(&job("", JobType::JtRoom), &[], &mut rng).unwrap();
            *count.entry(chosen.id().to_owned()).or_insert(0) += 1;
        }
        assert!(!count.contains_key("full"));
        assert!((850..950).contains(&count["free"]), "{count:?}");
        let asked = ["free".to_owned(), "busy".to_owned()];
        assert!(registry.choose(&job("", JobType::JtRoom), &asked, &mut rng).is_none());
    }
}
