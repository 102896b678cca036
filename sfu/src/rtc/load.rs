//! How loaded the workers are.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::WorkerCounters;
use super::spread::WorkerLoad;

/// A load is a mean over this time at least.
const INTERVAL: Duration = Duration::from_secs(1);

/// Loads of all workers, looked at when somebody asks.
pub(super) struct Loads {
    counters: Vec<Arc<WorkerCounters>>,
    last: Mutex<Sample>,
}

struct Sample {
    at: Instant,
    /// Busy time of each worker then, in microseconds.
    busy_micros: Vec<u64>,
    /// Busy shares in the interval before.
    busy: Vec<f64>,
}

impl Loads {
    pub(super) fn new(counters: impl Iterator<Item = Arc<WorkerCounters>>) -> Self {
        let counters: Vec<_> = counters.collect();
        let count = counters.len();
        let last =
            Sample { at: Instant::now(), busy_micros: vec![0; count], busy: vec![0.0; count] };
        Self { counters, last: Mutex::new(last) }
    }

    /// Busy share of the worker that is busiest, in thousandths.
    pub(super) fn busiest(&self) -> u64 {
        let busiest = self.latest().iter().fold(0.0, |most: f64, worker| most.max(worker.busy));
        // Clocks differ a little; a worker has no more than all of its time.
        (busiest * 1_000.0).min(1_000.0) as u64
    }

    /// The loads now: busy shares of the last whole interval.
    pub(super) fn latest(&self) -> Vec<WorkerLoad> {
        let mut last = self.last.lock();
        let elapsed = last.at.elapsed();
        if elapsed >= INTERVAL {
            let now: Vec<u64> = self
                .counters
                .iter()
                .map(|counters| counters.busy_micros.load(Ordering::Relaxed))
                .collect();
            let share =
                |(now, before): (&u64, &u64)| (now - before) as f64 / elapsed.as_micros() as f64;
            last.busy = now.iter().zip(&last.busy_micros).map(share).collect();
            (last.at, last.busy_micros) = (Instant::now(), now);
        }
        let senders = |counters: &Arc<WorkerCounters>| counters.senders.load(Ordering::Relaxed);
        last.busy
            .iter()
            .zip(&self.counters)
            .map(|(busy, counters)| WorkerLoad { busy: *busy, senders: senders(counters) })
            .collect()
    }
}
