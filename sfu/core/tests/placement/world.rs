//! The world of the simulation: virtual time, the network, Redis and its faults, and what must
//! always hold. Everything that happens is an event, and its time and order come from a seed.

use std::collections::BTreeMap;
use std::time::Duration;

use contract::ids::NodeId;
use contract::redis::{MediaAddresses, NodeRecord, NodeState, VIEW_LIFE};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use sfu_core::placement::{Lease, PledgeAnswer};

use crate::node::{Node, Request, Response};
use crate::store::{Answer, Bug, Store};

#[derive(Debug, Clone)]
pub(crate) enum Event {
    /// A process renews its lease.
    Tick(usize),
    /// A process looks whether it wants pledges.
    AskPeers(usize),
    /// A process is asked for a pledge.
    PledgeAsked { to: usize, from: usize, asked_at: Duration },
    /// A process hears of a pledge.
    PledgeHeard { to: usize, of: usize, asked_at: Duration, answer: PledgeAnswer },
    /// A request comes to Redis.
    Arrive { from: usize, id: u64, request: Request },
    /// An answer of Redis comes.
    Answer { to: usize, id: u64, response: Response },
    /// A process waits no longer for an answer.
    GiveUp { node: usize, id: u64 },
    /// A process asks again for a room that is not confirmed.
    KeepAgain { node: usize, room: String },
    /// Somebody wants to enter a room by any node.
    Join { room: String },
    /// A join that another node passed on.
    Forwarded { to: usize, room: String },
    /// A process gives its next room away if it drains.
    MoveRooms(usize),
    /// The last people leave a room.
    End { node: usize, room: String },
    /// A replica becomes Redis, with what was replicated.
    FailOver(Box<Store>),
    /// Another process starts in the pod of one that died.
    Start { earlier: usize },
}

/// A request that waits for its answer.
#[derive(Debug)]
pub(crate) struct Pending {
    pub(crate) node: usize,
    pub(crate) sent_at: u64,
    pub(crate) term: u64,
    pub(crate) request: Request,
}

/// The world.
pub(crate) struct World {
    pub(crate) rng: StdRng,
    pub(crate) now: u64,
    pub(crate) bug: Bug,
    pub(crate) store: Store,
    pub(crate) is_store_up: bool,
    /// Whether homes are compared after each event.
    pub(crate) is_checked: bool,
    /// For how long what was read of all nodes is told, in milliseconds for each of them.
    pub(crate) view_life: u64,
    /// Rooms of a process that gets no new ones any more; 0 is no limit.
    pub(crate) capacity: u32,
    /// By how many milliseconds the clock of Redis is off.
    pub(crate) store_ahead: u64,
    runs: u64,
    /// The number of the last pod.
    pods: u8,
    /// Share of messages that are lost, and the longest that others take, in milliseconds.
    pub(crate) loss: f64,
    pub(crate) latest: u64,
    pub(crate) nodes: Vec<Node>,
    events: BTreeMap<(u64, u64), Event>,
    pub(crate) pending: BTreeMap<u64, Pending>,
    next: u64,
    /// Id of each room when somebody entered first.
    sids: BTreeMap<String, String>,
    /// When somebody entered each room last.
    pub(crate) admitted: BTreeMap<String, u64>,
    /// When Redis lost what it held last.
    pub(crate) lost_at: Option<u64>,
}

impl World {
    pub(crate) fn new(seed: u64, nodes: u8, bug: Bug) -> Self {
        let mut world = Self {
            rng: StdRng::seed_from_u64(seed),
            now: 1_000_000,
            bug,
            store: Store::new(bug),
            is_store_up: true,
            is_checked: true,
            view_life: u64::try_from(VIEW_LIFE.as_millis()).unwrap(),
            capacity: 0,
            store_ahead: 100_000,
            runs: 0,
            pods: nodes,
            loss: 0.0,
            latest: 20,
            nodes: Vec::new(),
            events: BTreeMap::new(),
            pending: BTreeMap::new(),
            next: 0,
            sids: BTreeMap::new(),
            admitted: BTreeMap::new(),
            lost_at: None,
        };
        world.store.advance(world.now + world.store_ahead);
        world.store.forget(0);
        for pod in 0..nodes {
            world.start(pod);
        }
        world
    }

    /// Starts a process in a pod.
    pub(crate) fn start(&mut self, pod: u8) {
        let index = self.nodes.len();
        let record = NodeRecord {
            id: NodeId::from(format!("ND_{index}")),
            name: format!("pod-{pod}"),
            address: ([10, 0, 0, pod], 7890).into(),
            state: NodeState::Open,
            media: MediaAddresses::default(),
            region: String::new(),
        };
        // Clocks of machines begin when they will, and drift.
        let clock = (self.rng.random_range(0..1_000_000), self.rng.random_range(0.9995..1.0005));
        self.nodes.push(Node {
            record,
            started: self.now,
            clock,
            lease: Lease::default(),
            known: Vec::new(),
            rooms: BTreeMap::new(),
            ended: BTreeMap::new(),
            renewals: 0,
            frozen_until: 0,
            reaches_store: true,
            reaches_peers: true,
            reaches_clients: true,
            is_dead: false,
            has_left: false,
        });
        let offset = self.rng.random_range(0..1_000);
        self.at(offset, Event::Tick(index));
        self.at(offset, Event::AskPeers(index));
    }

    /// Nodes that live, frozen or not.
    pub(crate) fn living(&self) -> Vec<usize> {
        (0..self.nodes.len()).filter(|index| !self.nodes[*index].is_dead).collect()
    }

    /// Kills a process; another starts in its pod, in place, after so many milliseconds.
    pub(crate) fn restart(&mut self, index: usize, after: u64) {
        let Node { is_dead, rooms, .. } = &mut self.nodes[index];
        *is_dead = true;
        rooms.clear();
        self.at(after, Event::Start { earlier: index });
    }

    /// A process leaves in order, and a pod with another name and address takes its place.
    pub(crate) fn replace(&mut self, index: usize) {
        self.leave(index);
        self.pods += 1;
        self.start(self.pods);
    }

    /// The process that follows one that died.
    fn follow(&mut self, earlier: usize) {
        let Node { reaches_store, reaches_peers, record, .. } = &self.nodes[earlier];
        let (store, peers, pod) = (*reaches_store, *reaches_peers, record.address);
        let std::net::SocketAddr::V4(pod) = pod else { unreachable!("pods have IPv4") };
        self.start(pod.ip().octets()[3]);
        let node = self.nodes.last_mut().expect("one was started");
        (node.reaches_store, node.reaches_peers) = (store, peers);
    }

    pub(crate) fn set_state(&mut self, index: usize, state: NodeState) {
        self.nodes[index].record.state = state;
        if state == NodeState::Draining {
            self.at(0, Event::MoveRooms(index));
        }
    }

    /// Redis starts again with nothing.
    pub(crate) fn forget(&mut self) {
        self.runs += 1;
        self.store.forget(self.runs);
        self.lost_at = Some(self.now);
    }

    /// Redis starts again with what it had.
    pub(crate) fn restart_store(&mut self) {
        self.runs += 1;
        self.store.take_over(self.runs);
    }

    /// A replica takes over some time from now, without what is written until then.
    pub(crate) fn fail_over(&mut self) {
        let replica = Box::new(self.store.clone());
        let lost = self.rng.random_range(1..2_000);
        self.at(lost, Event::FailOver(replica));
    }

    /// Ends all faults.
    pub(crate) fn heal(&mut self) {
        (self.loss, self.latest, self.is_store_up) = (0.0, 20, true);
        for node in &mut self.nodes {
            node.frozen_until = 0;
            (node.reaches_store, node.reaches_peers, node.reaches_clients) = (true, true, true);
            node.record.state = NodeState::Open;
        }
    }

    pub(crate) fn join(&mut self, room: &str, after: u64) {
        self.at(after, Event::Join { room: room.to_owned() });
    }

    pub(crate) fn rooms_of(&self, index: usize) -> usize {
        self.nodes[index].rooms.len()
    }

    pub(crate) fn at(&mut self, after: u64, event: Event) {
        self.next += 1;
        self.events.insert((self.now + after, self.next), event);
    }

    /// A number that was not used before.
    pub(crate) fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// Runs until `end`; the error is the invariant that was broken.
    pub(crate) fn run_until(&mut self, end: u64) -> Result<(), String> {
        while let Some(entry) = self.events.first_entry()
            && entry.key().0 <= end
        {
            let ((time, _), event) = entry.remove_entry();
            self.now = self.now.max(time);
            if std::env::var_os("TRACE").is_some() {
                eprintln!("{} {event:?}", self.now);
            }
            self.happen(event)?;
            if self.is_checked {
                self.check()?;
            }
        }
        self.now = self.now.max(end);
        Ok(())
    }

    fn happen(&mut self, event: Event) -> Result<(), String> {
        // A frozen process sees everything when it wakes.
        if let Some(node) = receiver(&event) {
            let Node { is_dead, frozen_until, .. } = self.nodes[node];
            if is_dead {
                return Ok(());
            }
            if frozen_until > self.now {
                self.at(frozen_until - self.now, event);
                return Ok(());
            }
        }
        match event {
            Event::Tick(index) => self.tick(index),
            Event::AskPeers(index) => self.ask_peers(index),
            Event::PledgeAsked { to, from, asked_at } => self.pledge_asked(to, from, asked_at),
            Event::PledgeHeard { to, of, asked_at, answer } => {
                let (now, address) = (self.clock(to), self.nodes[of].record.address);
                self.nodes[to].lease.heard(address, asked_at, now, answer);
            }
            Event::Arrive { from, id, request } => self.arrive(from, id, request)?,
            Event::Answer { to: _, id, response } => {
                // What was given up is not heard any more.
                if let Some(pending) = self.pending.remove(&id) {
                    self.answered(pending, response)?;
                }
            }
            Event::GiveUp { node: _, id } => {
                if let Some(pending) = self.pending.remove(&id) {
                    self.gave_up(pending);
                }
            }
            Event::KeepAgain { node, room } => self.keep(node, &room),
            Event::Join { room } => self.somebody_joins(room)?,
            Event::Forwarded { to, room } => self.seek(to, room, true)?,
            Event::MoveRooms(index) => self.move_rooms(index),
            Event::End { node, room } => self.end_room(node, &room),
            Event::Start { earlier } => self.follow(earlier),
            Event::FailOver(replica) => {
                self.store = *replica;
                self.store.advance(self.now + self.store_ahead);
                self.restart_store();
                self.lost_at = Some(self.now);
            }
        }
        Ok(())
    }

    /// Whether a message gets lost.
    pub(crate) fn loses(&mut self) -> bool {
        self.loss > 0.0 && self.rng.random_bool(self.loss)
    }

    pub(crate) fn delay(&mut self) -> u64 {
        self.rng.random_range(1..=self.latest)
    }

    /// Sends a request to Redis; on their way requests may be lost, overtaken, and doubled.
    pub(crate) fn send(&mut self, from: usize, request: Request, limit: u64) {
        let id = self.number();
        let term = self.nodes[from].lease.term();
        let pending = Pending { node: from, sent_at: self.now, term, request: request.clone() };
        self.pending.insert(id, pending);
        self.at(limit, Event::GiveUp { node: from, id });
        let copies = if self.loss > 0.0 && self.rng.random_bool(self.loss / 2.0) { 2 } else { 1 };
        for _ in 0..copies {
            if !self.loses() {
                let delay = self.delay();
                self.at(delay, Event::Arrive { from, id, request: request.clone() });
            }
        }
    }

    fn arrive(&mut self, from: usize, id: u64, request: Request) -> Result<(), String> {
        let node = &self.nodes[from];
        if !self.is_store_up || !node.reaches_store {
            return Ok(());
        }
        let own = node.record.id.to_string();
        self.store.advance(self.now + self.store_ahead);
        let store = &mut self.store;
        let response = match request {
            Request::Renew(renewer) => Response::Renewed(Box::new(store.renew(&renewer))),
            Request::Claim { room, claim } => Response::Home(store.claim(&room, &claim)),
            Request::Keep { room, keep, .. } => Response::Kept(store.keep(&room, &keep)),
            Request::Move { room, epoch, candidate } => {
                let was_home = store.row(&room).is_some_and(|row| row.node == own);
                let answer = store.move_room(&room, (&own, epoch), &candidate, ("m", "s"));
                if matches!(answer, Answer::Home(..)) && !was_home {
                    return Err(format!("{own} gave {room} away, which was not its own"));
                }
                Response::Home(answer)
            }
            Request::Write { room, epoch } => {
                let was_home =
                    store.row(&room).is_some_and(|row| row.node == own && row.epoch == epoch);
                let is_written = store.update(&room, (&own, epoch), ("m", "s"));
                if is_written && !was_home {
                    return Err(format!("{own} wrote the state of {room}, which was not its own"));
                }
                Response::Written(is_written)
            }
            Request::Release { room, epoch } => {
                store.release(&room, (&own, epoch));
                Response::Written(true)
            }
            Request::EndNode { node, .. } => Response::Written(store.end_node(&node)),
            Request::Leave => Response::Written(store.release_node(&own)),
        };
        if !self.loses() {
            let delay = self.delay();
            self.at(delay, Event::Answer { to: from, id, response });
        }
        Ok(())
    }

    /// A room has ended: the next of its name has an id of its own.
    pub(crate) fn forget_sid(&mut self, room: &str) {
        self.sids.remove(room);
    }

    /// Somebody is in the room.
    pub(crate) fn entered(&mut self, room: &str, sid: &str) -> Result<(), String> {
        let first = self.sids.entry(room.to_owned()).or_insert_with(|| sid.to_owned());
        if first != sid && self.lost_at.is_none() {
            return Err(format!("{room} is {sid} and was {first}"));
        }
        self.admitted.insert(room.to_owned(), self.now);
        Ok(())
    }

    /// No room has two homes that would both let somebody in.
    fn check(&self) -> Result<(), String> {
        let mut homes: Vec<(&str, usize)> = Vec::with_capacity(16);
        for (index, node) in self.nodes.iter().enumerate() {
            if node.is_dead || node.frozen_until > self.now || !self.may_serve(index) {
                continue;
            }
            for (room, local) in &node.rooms {
                if !local.may_admit(node.lease.term()) {
                    continue;
                }
                if let Some((_, other)) = homes.iter().find(|(home_of, _)| home_of == room) {
                    let of_room = |node: &&Node| node.rooms.contains_key(room);
                    let states: Vec<_> = self.nodes.iter().filter(of_room).collect();
                    let what = format!("{room} is at home on {other} and {index}");
                    return Err(format!("{what} at {}: {states:#?}", self.now));
                }
                homes.push((room, index));
            }
        }
        Ok(())
    }
}

/// The process that an event happens to; none for what happens to Redis and to people.
fn receiver(event: &Event) -> Option<usize> {
    match event {
        Event::Tick(node)
        | Event::AskPeers(node)
        | Event::PledgeAsked { to: node, .. }
        | Event::PledgeHeard { to: node, .. }
        | Event::Answer { to: node, .. }
        | Event::GiveUp { node, .. }
        | Event::KeepAgain { node, .. }
        | Event::Forwarded { to: node, .. }
        | Event::End { node, .. }
        | Event::MoveRooms(node) => Some(*node),
        Event::Arrive { .. } | Event::Join { .. } | Event::FailOver(_) | Event::Start { .. } => {
            None
        }
    }
}
