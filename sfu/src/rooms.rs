//! The rooms that have their home on this node.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use contract::ids::RoomName;
use parking_lot::Mutex;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use sfu_core::room::{Room, RoomCloseReason, RoomCounts, RoomOptions, RoomState};
use tokio::sync::mpsc;

use crate::agents::Agents;
use crate::keys::Keys;
use crate::node::Node;
use crate::peer::PeerClient;
use crate::placement::{Home, Placement};
use crate::room_events::RoomEvents;
use crate::rtc::MediaPlane;
use crate::session::{Forwards, RoomHandle, RoomHome, RoomTask, Rpcs, now};
use crate::settings::Settings;
use crate::turn::TurnAccess;
use crate::webhooks::Webhooks;

/// Media events that wait for a room.
const EVENTS: usize = 4096;

/// How long it is known that a room ended here: longer than a question about its home may take.
const ENDED: Duration = Duration::from_secs(10);

/// Counts of all rooms of the node.
type Counts = Arc<Mutex<HashMap<RoomName, RoomCounts>>>;

/// A room's part of the node's gauges; gone when dropped.
pub struct RoomGauges {
    room: RoomName,
    counts: Counts,
}

impl RoomGauges {
    /// Takes the room's numbers.
    pub fn set(&self, counts: RoomCounts) {
        self.counts.lock().insert(self.room.clone(), counts);
    }
}

impl Drop for RoomGauges {
    fn drop(&mut self) {
        self.counts.lock().remove(&self.room);
    }
}

/// Sums over the rooms of the node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct NodeCounts {
    /// Rooms.
    pub rooms: u64,
    /// Participants.
    pub participants: u64,
    /// Participants that receive at least one track.
    pub subscribers: u64,
    /// Tracks that go to somebody, counted a subscriber.
    pub subscriptions: u64,
}

/// Who is told what happens in rooms.
pub struct Listeners {
    /// The application.
    pub webhooks: Webhooks,
    /// Other programs, by Redis.
    pub room_events: RoomEvents,
}

/// The rooms of this node.
pub struct Rooms {
    settings: Arc<Settings>,
    keys: Arc<Keys>,
    placement: Arc<Placement>,
    media: Arc<MediaPlane>,
    listeners: Listeners,
    agents: Arc<Agents>,
    peers: Option<Arc<PeerClient>>,
    node: Weak<Node>,
    handles: Mutex<Handles>,
    counts: Counts,
}

/// What lives here, and when what ended did.
#[derive(Default)]
struct Handles {
    living: HashMap<RoomName, RoomHandle>,
    ended: HashMap<RoomName, Instant>,
}

impl Handles {
    fn end(&mut self, name: &RoomName) {
        let now = Instant::now();
        self.ended.retain(|_, ended| now.duration_since(*ended) < ENDED);
        self.ended.insert(name.clone(), now);
        self.living.remove(name);
    }
}

impl Rooms {
    /// A node without rooms.
    #[expect(clippy::too_many_arguments, reason = "each is another part of the node")]
    pub fn new(
        settings: Arc<Settings>,
        keys: Arc<Keys>,
        placement: Arc<Placement>,
        media: Arc<MediaPlane>,
        listeners: Listeners,
        agents: Arc<Agents>,
        peers: Option<Arc<PeerClient>>,
        node: Weak<Node>,
    ) -> Self {
        let (handles, counts) = (Mutex::default(), Counts::default());
        Self { settings, keys, placement, media, listeners, agents, peers, node, handles, counts }
    }

    /// The room, if it lives here.
    pub fn get(&self, name: &RoomName) -> Option<RoomHandle> {
        self.handles.lock().living.get(name).cloned()
    }

    /// All rooms that live here.
    pub fn all(&self) -> Vec<RoomHandle> {
        self.handles.lock().living.values().cloned().collect()
    }

    /// The names of all rooms that live here.
    pub fn names(&self) -> Vec<RoomName> {
        self.handles.lock().living.keys().cloned().collect()
    }

    /// The room, which begins here if it does not live yet; `None` when it ended here after its home
    /// was asked for, so that the answer may be outdated.
    ///
    /// `term` is the node's before the home was claimed at `asked_at`.
    pub fn get_or_start(
        self: &Arc<Self>,
        name: &RoomName,
        home: &Home,
        term: u64,
        asked_at: Instant,
    ) -> Option<RoomHandle> {
        let mut handles = self.handles.lock();
        if let Some(handle) = handles.living.get(name) {
            // It began by another question, and this one gave it another epoch.
            handle.confirm();
            return Some(handle.clone());
        }
        if handles.ended.get(name).is_some_and(|ended| *ended >= asked_at) {
            return None;
        }
        let handle = self.start(name, home, term);
        handles.living.insert(name.clone(), handle.clone());
        Some(handle)
    }

    fn start(self: &Arc<Self>, name: &RoomName, home: &Home, term: u64) -> RoomHandle {
        let (sender, events) = mpsc::channel(EVENTS);
        let loudest = self.settings.config.room.loudest_audio_tracks as usize;
        let audio_limit = (loudest > 0).then_some(loudest);
        let media = self.media.attach(sender, audio_limit);
        let options = RoomOptions {
            name: name.clone(),
            sid: home.sid.clone(),
            config: self.settings.config.room.clone(),
            metadata: home.metadata.clone(),
            candidates: media.candidates().to_vec(),
            fingerprint: self.media.fingerprint(),
            node_id: self.placement.node_id(),
            node_name: self.settings.node_name.clone(),
            ice_servers: Arc::new(TurnAccess {
                settings: Arc::clone(&self.settings),
                keys: Arc::clone(&self.keys),
            }),
            relay_only: !self.settings.config.media.direct,
        };
        let rng = StdRng::from_rng(&mut rand::rng());
        let room = match RoomState::from_json(&home.state) {
            Some(state) => Room::restore(options, state, rng, now()),
            None => Room::new(options, rng, now()),
        };
        let task = RoomTask {
            room,
            home: RoomHome::new(
                name.clone(),
                home,
                term,
                Arc::clone(&self.placement),
                self.peers.clone(),
                self.settings.node_name.clone(),
            ),
            media,
            events,
            keys: Arc::clone(&self.keys),
            gauges: RoomGauges { room: name.clone(), counts: Arc::clone(&self.counts) },
            webhooks: self.listeners.webhooks.of_room(name),
            room_events: self.listeners.room_events.clone(),
            rpcs: Rpcs::default(),
            agents: Arc::clone(&self.agents),
            forwards: Forwards::new(Weak::clone(&self.node)),
        };
        let (rooms, name) = (Arc::clone(self), name.clone());
        task.spawn(move || {
            rooms.handles.lock().end(&name);
        })
    }

    /// Sends every client away to another node; their rooms end here.
    pub async fn drain(&self) {
        for handle in self.all() {
            // A room that ended meanwhile has nobody to send away.
            let _ended = handle.call(|room, now| room.close(RoomCloseReason::Drain, now)).await;
        }
    }

    /// Sums over all rooms.
    pub fn counts(&self) -> NodeCounts {
        let counts = self.counts.lock();
        let mut sum = NodeCounts { rooms: counts.len() as u64, ..NodeCounts::default() };
        for room in counts.values() {
            sum.participants += u64::from(room.participants);
            sum.subscribers += u64::from(room.subscribers);
            sum.subscriptions += u64::from(room.subscriptions);
        }
        sum
    }
}
