//! Tracks between nodes: which of a worker's tracks have a part at another node, and the way there.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustc_hash::FxHashMap;
use sfu_core::media::TrackKey;
use sfu_core::media::engine::{Engine, SiblingMessage, WorkerIndex};
use tokio::sync::mpsc;

use super::worker::{Command, Link};
use super::{MediaPlane, WorkerCounters};

/// One connection to another node; unique in the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TrunkId(u64);

/// A worker's ways to other nodes.
#[derive(Default)]
pub(super) struct Trunks(FxHashMap<TrackKey, Vec<(TrunkId, mpsc::Sender<SiblingMessage>)>>);

impl Trunks {
    pub(super) fn open(
        &mut self,
        trunk: TrunkId,
        track: TrackKey,
        to: mpsc::Sender<SiblingMessage>,
        engine: &mut Engine,
    ) {
        self.0.entry(track).or_default().push((trunk, to));
        engine.set_trunk(track, true);
    }

    pub(super) fn close(&mut self, trunk: TrunkId, track: TrackKey, engine: &mut Engine) {
        let Some(ways) = self.0.get_mut(&track) else { return };
        ways.retain(|(known, _)| *known != trunk);
        if ways.is_empty() {
            self.0.remove(&track);
            engine.set_trunk(track, false);
        }
    }

    /// Hands out what the engine says to other nodes. Returns how many messages were lost: a
    /// connection that does not keep up loses media, as a network does.
    pub(super) fn send(&mut self, engine: &mut Engine) -> u64 {
        let mut lost = 0;
        while let Some(message) = engine.poll_trunk() {
            for (_, way) in self.0.get(&message.track).into_iter().flatten() {
                lost += u64::from(way.try_send(message.clone()).is_err());
            }
        }
        lost
    }
}

/// One connection to another node, as the workers know it. Dropping it ends it there.
pub struct Trunk {
    id: TrunkId,
    links: Arc<Vec<Arc<Link>>>,
    worker: WorkerIndex,
    tracks: BTreeSet<TrackKey>,
    to: mpsc::Sender<SiblingMessage>,
}

impl MediaPlane {
    /// Begins a connection to another node; what is said on its tracks comes on `to`, for which
    /// no worker waits.
    pub fn trunk(&self, to: mpsc::Sender<SiblingMessage>) -> Trunk {
        static LAST: AtomicU64 = AtomicU64::new(0);
        let id = TrunkId(LAST.fetch_add(1, Ordering::Relaxed));
        let links = Arc::clone(&self.links);
        Trunk { id, links, worker: 0, tracks: BTreeSet::new(), to }
    }

    /// The worker with the fewest forwarded tracks, then rooms.
    pub fn least_loaded(&self) -> WorkerIndex {
        let load = |counters: &WorkerCounters| {
            let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
            (read(&counters.senders), read(&counters.rooms))
        };
        let workers = 0..self.links.len();
        workers.min_by_key(|&index| load(&self.links[index].counters)).unwrap_or_default()
    }
}

impl Trunk {
    /// The tracks of the connection, whole, and their worker.
    pub fn set_tracks(&mut self, worker: WorkerIndex, tracks: BTreeSet<TrackKey>) {
        let mut known = std::mem::take(&mut self.tracks);
        if worker != self.worker {
            self.close(&std::mem::take(&mut known));
            self.worker = worker;
        }
        self.close(&known.difference(&tracks).copied().collect());
        for track in tracks.difference(&known) {
            self.send(Command::OpenTrunk { trunk: self.id, track: *track, to: self.to.clone() });
        }
        self.tracks = tracks;
    }

    /// Hands in what the other node said.
    pub fn hand_in(&self, messages: Vec<SiblingMessage>) {
        if !messages.is_empty() {
            self.send(Command::Trunk(messages));
        }
    }

    fn close(&self, tracks: &BTreeSet<TrackKey>) {
        for track in tracks {
            self.send(Command::CloseTrunk { trunk: self.id, track: *track });
        }
    }

    fn send(&self, command: Command) {
        if let Some(link) = self.links.get(self.worker) {
            link.send(command);
        }
    }
}

impl Drop for Trunk {
    fn drop(&mut self) {
        self.close(&self.tracks);
    }
}
