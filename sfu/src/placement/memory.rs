//! The store of a node that is alone: every room lives here.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};

use contract::ids::{NodeId, RoomName, RoomSid};
use contract::redis::{MediaAddresses, NodeLoad, NodeRecord, NodeState};
use parking_lot::Mutex;
use sfu_core::placement::Candidate;
use tokio::sync::watch;

use super::Home;

/// Room ids of this process.
pub struct MemoryStore {
    record: NodeRecord,
    rooms: Mutex<HashMap<RoomName, RoomSid>>,
    /// Memory never goes away, so this never says that it came back.
    returned: watch::Sender<()>,
    has_left: AtomicBool,
}

impl MemoryStore {
    /// A store for the node `name`.
    pub fn new(name: &str) -> Self {
        let record = NodeRecord {
            id: NodeId::generate(&mut rand::rng()),
            name: name.to_owned(),
            address: ([127, 0, 0, 1], 0).into(),
            state: NodeState::Open,
            media: MediaAddresses::default(),
            region: String::new(),
        };
        let (returned, has_left) = (watch::channel(()).0, AtomicBool::new(false));
        Self { record, rooms: Mutex::default(), returned, has_left }
    }

    /// `None` once the node left.
    pub(super) fn claim(&self, room: &RoomName) -> Option<Home> {
        if self.has_left.load(Ordering::Relaxed) {
            return None;
        }
        let sid = self
            .rooms
            .lock()
            .entry(room.clone())
            .or_insert_with(|| RoomSid::generate(&mut rand::rng()))
            .clone();
        let (metadata, state) = (String::new(), String::new());
        let (node, epoch) = (self.record.clone(), "1".to_owned());
        Some(Home { node, epoch, sid, metadata, state, earlier: None })
    }

    pub(super) fn leave(&self) {
        self.has_left.store(true, Ordering::Relaxed);
    }

    pub(super) fn release(&self, room: &RoomName) {
        self.rooms.lock().remove(room);
    }

    pub(super) fn returns(&self) -> watch::Receiver<()> {
        self.returned.subscribe()
    }

    pub(super) fn node(&self) -> Candidate {
        Candidate { record: self.record.clone(), load: NodeLoad::default(), reservations: 0 }
    }
}
