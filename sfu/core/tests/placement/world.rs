//! Nodes, their Redis and people who join, on virtual time: everything that happens is an event,
//! and its time and order come from a seed.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::time::Duration;

use contract::ids::NodeId;
use contract::redis::{NODE_RENEWAL, NodeLoad, NodeRecord, NodeState};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use sfu_core::placement::{Candidate, Hold, Kept, Lease, Peers, Verdict, choose_home};

use crate::store::{Answer, Bug, Row, Store};

/// How long a node waits for Redis, as the shell does.
const ANSWER_TIMEOUT: u64 = 1_500;
const CLAIM_TIMEOUT: u64 = 3_000;
/// How often the others are asked while Redis does not answer, and for how long.
const PEERS_INTERVAL: u64 = 500;
const PEERS_TIMEOUT: u64 = 400;
/// Wait before an unconfirmed room is asked for again.
const KEEP_PAUSE: u64 = 1_000;

/// A room on a node.
#[derive(Debug)]
struct LocalRoom {
    hold: Hold,
    sid: String,
    asks: bool,
    /// It is being given away: whoever comes waits, as the room's task does.
    moves: bool,
}

impl LocalRoom {
    fn may_admit(&self, term: u64) -> bool {
        self.hold.may_admit(term) && !self.moves
    }
}

/// A process.
#[derive(Debug)]
struct Node {
    record: NodeRecord,
    lease: Lease,
    known: Vec<Candidate>,
    rooms: BTreeMap<String, LocalRoom>,
    /// Frozen until then, as by SIGSTOP; what happens to it waits.
    frozen_until: u64,
    reaches_store: bool,
    reaches_peers: bool,
    is_dead: bool,
    /// What it sends arrives in order, as on a connection.
    last_arrival: u64,
}

#[derive(Debug, Clone)]
enum Request {
    Renew { is_first: bool, record: Box<NodeRecord> },
    Claim { room: String, candidate: String, sid: String },
    Keep { room: String, sid: String, asserts: bool },
    Move { room: String, epoch: String, candidate: String },
    Write { room: String, epoch: String },
}

#[derive(Debug, Clone)]
enum Response {
    Renewed(bool, Vec<(NodeRecord, u64)>),
    Home(Answer),
    Written,
}

#[derive(Debug, Clone)]
enum Event {
    Tick(usize),
    AskPeers(usize),
    HeardPeers(usize, Peers),
    Arrive { from: usize, id: u64, request: Request },
    Answer { to: usize, id: u64, response: Response },
    GiveUp { node: usize, id: u64 },
    KeepAgain { node: usize, room: String },
    Join { room: String },
    MoveRooms(usize),
}

/// What an unanswered request was for.
#[derive(Debug)]
struct Pending {
    node: usize,
    sent_at: u64,
    term: u64,
    request: Request,
}

/// The world.
pub(crate) struct World {
    pub(crate) rng: StdRng,
    pub(crate) now: u64,
    pub(crate) store: Store,
    pub(crate) is_store_up: bool,
    /// Share of messages that are lost, and the longest that others take, in milliseconds.
    pub(crate) loss: f64,
    pub(crate) latest: u64,
    bug: Bug,
    nodes: Vec<Node>,
    events: BinaryHeap<Reverse<(u64, u64)>>,
    bodies: BTreeMap<u64, Event>,
    pending: BTreeMap<u64, Pending>,
    next: u64,
    /// Id of each room when somebody entered first.
    sids: BTreeMap<String, String>,
    /// When somebody entered each room last.
    pub(crate) admitted: BTreeMap<String, u64>,
    /// Redis forgot rooms: their ids may be lost with their home.
    pub(crate) has_forgotten: bool,
}

impl World {
    pub(crate) fn new(seed: u64, nodes: usize, bug: Bug) -> Self {
        let mut world = Self {
            rng: StdRng::seed_from_u64(seed),
            now: 1_000_000,
            store: Store::new(bug),
            is_store_up: true,
            loss: 0.0,
            latest: 20,
            bug,
            nodes: Vec::new(),
            events: BinaryHeap::new(),
            bodies: BTreeMap::new(),
            pending: BTreeMap::new(),
            next: 0,
            sids: BTreeMap::new(),
            admitted: BTreeMap::new(),
            has_forgotten: false,
        };
        for number in 0..nodes {
            world.start(format!("pod-{number}"));
        }
        world
    }

    /// Starts a process in a pod.
    pub(crate) fn start(&mut self, pod: String) -> usize {
        let index = self.nodes.len();
        let record = NodeRecord {
            id: NodeId::from(format!("ND_{index}")),
            name: pod,
            address: ([10, 0, 0, 1], 7890).into(),
            state: NodeState::Open,
            load: NodeLoad::default(),
        };
        self.nodes.push(Node {
            record,
            lease: Lease::default(),
            known: Vec::new(),
            rooms: BTreeMap::new(),
            frozen_until: 0,
            reaches_store: true,
            reaches_peers: true,
            is_dead: false,
            last_arrival: 0,
        });
        let offset = self.rng.random_range(0..1_000);
        self.at(offset, Event::Tick(index));
        self.at(offset, Event::AskPeers(index));
        index
    }

    pub(crate) fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Nodes that live, frozen or not.
    pub(crate) fn living(&self) -> Vec<usize> {
        (0..self.nodes.len()).filter(|index| !self.nodes[*index].is_dead).collect()
    }

    /// Kills a process and starts another in its pod, in place.
    pub(crate) fn restart(&mut self, index: usize) {
        self.kill(index);
        let pod = self.nodes[index].record.name.clone();
        self.start(pod);
    }

    pub(crate) fn kill(&mut self, index: usize) {
        self.nodes[index].is_dead = true;
        self.nodes[index].rooms.clear();
    }

    pub(crate) fn freeze(&mut self, index: usize, millis: u64) {
        self.nodes[index].frozen_until = self.now + millis;
    }

    pub(crate) fn cut(&mut self, index: usize, from_store: bool, from_peers: bool) {
        self.nodes[index].reaches_store = !from_store;
        self.nodes[index].reaches_peers = !from_peers;
    }

    pub(crate) fn set_state(&mut self, index: usize, state: NodeState) {
        self.nodes[index].record.state = state;
        if state == NodeState::Draining {
            self.at(0, Event::MoveRooms(index));
        }
    }

    pub(crate) fn state(&self, index: usize) -> NodeState {
        self.nodes[index].record.state
    }

    /// Redis starts again with nothing.
    pub(crate) fn forget(&mut self) {
        self.store.forget();
        self.has_forgotten = true;
    }

    /// Whether every process runs and reaches Redis and the others.
    pub(crate) fn is_whole(&self) -> bool {
        let is_whole =
            |node: &Node| node.frozen_until <= self.now && node.reaches_store && node.reaches_peers;
        self.is_store_up && self.nodes.iter().all(|node| node.is_dead || is_whole(node))
    }

    /// Ends all faults.
    pub(crate) fn heal(&mut self) {
        (self.loss, self.latest, self.is_store_up) = (0.0, 20, true);
        for node in &mut self.nodes {
            node.frozen_until = 0;
            node.reaches_store = true;
            node.reaches_peers = true;
            node.record.state = NodeState::Open;
        }
    }

    pub(crate) fn join(&mut self, room: &str, after: u64) {
        self.at(after, Event::Join { room: room.to_owned() });
    }

    pub(crate) fn rooms_of(&self, index: usize) -> usize {
        self.nodes[index].rooms.len()
    }

    fn at(&mut self, after: u64, event: Event) {
        self.next += 1;
        self.events.push(Reverse((self.now + after, self.next)));
        self.bodies.insert(self.next, event);
    }

    /// Runs until `end`; the error is the invariant that was broken.
    pub(crate) fn run_until(&mut self, end: u64) -> Result<(), String> {
        while let Some(Reverse((time, id))) = self.events.peek().copied()
            && time <= end
        {
            self.events.pop();
            self.now = self.now.max(time);
            self.store.advance(self.now);
            let event = self.bodies.remove(&id).expect("every event has a body");
            self.happen(event)?;
            self.check()?;
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
            Event::HeardPeers(index, peers) => {
                let now = Duration::from_millis(self.now);
                self.nodes[index].lease.heard(peers, now);
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
            Event::MoveRooms(index) => self.move_rooms(index),
        }
        Ok(())
    }

    fn tick(&mut self, index: usize) {
        let is_first = !self.nodes[index].lease.was_held();
        let node = &mut self.nodes[index];
        node.record.load.rooms = node.rooms.len() as u64;
        let record = Box::new(node.record.clone());
        self.send(index, Request::Renew { is_first, record }, ANSWER_TIMEOUT);
        self.at(u64::try_from(NODE_RENEWAL.as_millis()).unwrap(), Event::Tick(index));
    }

    fn ask_peers(&mut self, index: usize) {
        self.at(PEERS_INTERVAL, Event::AskPeers(index));
        let now = Duration::from_millis(self.now);
        if !self.nodes[index].lease.standing(now).wants_peers() {
            return;
        }
        let known: BTreeSet<&str> =
            self.nodes[index].known.iter().map(|node| node.record.id.as_str()).collect();
        let others = |(other, node): &(usize, &Node)| {
            *other != index && known.contains(node.record.id.as_str())
        };
        let others: Vec<&Node> =
            self.nodes.iter().enumerate().filter(others).map(|(_, node)| node).collect();
        let reachable = |node: &&&Node| {
            let is_awake = !node.is_dead && node.frozen_until <= self.now;
            is_awake && node.reaches_peers && self.nodes[index].reaches_peers
        };
        let renewals = others.iter().filter(reachable);
        let youngest = renewals.filter_map(|node| node.lease.standing(now).since_renewal).min();
        let peers = match youngest {
            Some(youngest_renewal) => Peers::Answered { youngest_renewal },
            None if others.is_empty() => Peers::None,
            None => Peers::Silent,
        };
        let delay = self.rng.random_range(1..=PEERS_TIMEOUT);
        self.at(delay, Event::HeardPeers(index, peers));
    }

    fn send(&mut self, from: usize, request: Request, limit: u64) {
        self.next += 1;
        let id = self.next;
        let term = self.nodes[from].lease.term();
        let pending = Pending { node: from, sent_at: self.now, term, request: request.clone() };
        self.pending.insert(id, pending);
        self.at(limit, Event::GiveUp { node: from, id });
        // What may be repeated arrives twice at times; a move is never sent again.
        let repeats = !matches!(request, Request::Move { .. });
        let copies = if repeats && self.rng.random_bool(self.loss / 4.0) { 2 } else { 1 };
        for _ in 0..copies {
            if !self.rng.random_bool(self.loss) {
                let delay = self.rng.random_range(1..=self.latest);
                let arrival = (self.now + delay).max(self.nodes[from].last_arrival);
                self.nodes[from].last_arrival = arrival;
                self.at(arrival - self.now, Event::Arrive { from, id, request: request.clone() });
            }
        }
    }

    fn arrive(&mut self, from: usize, id: u64, request: Request) -> Result<(), String> {
        let node = &self.nodes[from];
        if !self.is_store_up || !node.reaches_store {
            return Ok(());
        }
        let own = node.record.id.to_string();
        let number = |epoch: &str| epoch.parse::<u64>().expect("epochs are numbers");
        let store = &mut self.store;
        let response = match request {
            Request::Renew { is_first, record } => {
                let (was_known, nodes) = store.renew(&record, is_first);
                Response::Renewed(was_known, nodes)
            }
            Request::Claim { room, candidate, sid } => {
                Response::Home(store.claim(&room, &candidate, &sid, false))
            }
            Request::Keep { room, sid, asserts } => {
                let candidate = if asserts { &own } else { "none" };
                Response::Home(store.claim(&room, candidate, &sid, true))
            }
            Request::Move { room, epoch, candidate } => {
                let was_home = store.row(&room).is_some_and(|row| row.node == own);
                let answer = store.move_room(&room, (&own, number(&epoch)), &candidate, ("m", "s"));
                if matches!(answer, Answer::Home(..)) && !was_home {
                    return Err(format!("{own} gave {room} away, which was not its own"));
                }
                Response::Home(answer)
            }
            Request::Write { room, epoch } => {
                let before = store.row(&room).cloned();
                let is_written = store.update(&room, (&own, number(&epoch)), ("m", "s"));
                let is_home =
                    before.is_some_and(|row| row.node == own && row.epoch == number(&epoch));
                if is_written && !is_home {
                    return Err(format!("{own} wrote the state of {room}, which was not its own"));
                }
                Response::Written
            }
        };
        if !self.rng.random_bool(self.loss) {
            let delay = self.rng.random_range(1..=self.latest);
            self.at(delay, Event::Answer { to: from, id, response });
        }
        Ok(())
    }

    fn answered(&mut self, pending: Pending, response: Response) -> Result<(), String> {
        let Pending { node: index, sent_at, term, request } = pending;
        match (request, response) {
            (Request::Renew { .. }, Response::Renewed(was_known, nodes)) => {
                self.renewed(index, sent_at, was_known, nodes);
            }
            (Request::Claim { room, .. }, Response::Home(answer)) => {
                self.claimed(index, term, &room, answer)?;
            }
            (Request::Keep { room, asserts, .. }, Response::Home(answer)) => {
                self.kept(index, (term, asserts), &room, Some(answer));
            }
            (Request::Move { room, .. }, Response::Home(answer)) => match answer {
                Answer::Home(..) => {
                    self.nodes[index].rooms.remove(&room);
                    // Everybody comes back at once.
                    self.join(&room, 100);
                }
                Answer::Lost => self.doubt(index, &room),
                Answer::Nobody | Answer::Quiet => {
                    if let Some(local) = self.nodes[index].rooms.get_mut(&room) {
                        local.moves = false;
                    }
                }
            },
            (Request::Write { .. }, Response::Written) => {}
            (request, response) => unreachable!("{response:?} to {request:?}"),
        }
        Ok(())
    }

    fn renewed(
        &mut self,
        index: usize,
        sent_at: u64,
        was_known: bool,
        nodes: Vec<(NodeRecord, u64)>,
    ) {
        let was_known = was_known || self.bug == Bug::RenewAfterExpiry;
        let node = &mut self.nodes[index];
        let candidate = |(record, reservations)| Candidate { record, reservations };
        node.known = nodes.into_iter().map(candidate).collect();
        let is_alone = node.known.len() <= 1;
        let (sent_at, now) = (Duration::from_millis(sent_at), Duration::from_millis(self.now));
        if node.lease.renewed(sent_at, now, was_known, is_alone) {
            let rooms: Vec<String> = node.rooms.keys().cloned().collect();
            for room in rooms {
                self.keep(index, &room);
            }
        }
    }

    fn gave_up(&mut self, pending: Pending) {
        let index = pending.node;
        match pending.request {
            Request::Renew { .. } => {
                let now = Duration::from_millis(self.now);
                self.nodes[index].lease.missed(now);
            }
            Request::Keep { room, asserts, .. } => {
                self.kept(index, (pending.term, asserts), &room, None);
            }
            // It may have moved all the same.
            Request::Move { room, .. } => self.doubt(index, &room),
            Request::Claim { room, .. } => self.join(&room, 500),
            Request::Write { .. } => {}
        }
    }

    fn keep(&mut self, index: usize, room: &str) {
        let fenced_term = self.nodes[index].lease.fenced_term();
        let Some(local) = self.nodes[index].rooms.get_mut(room) else { return };
        if !std::mem::replace(&mut local.asks, true) {
            let asserts = local.hold.may_assert(fenced_term);
            let request = Request::Keep { room: room.to_owned(), sid: local.sid.clone(), asserts };
            self.send(index, request, CLAIM_TIMEOUT);
        }
    }

    fn kept(
        &mut self,
        index: usize,
        (term, asserted): (u64, bool),
        room: &str,
        answer: Option<Answer>,
    ) {
        let own = self.nodes[index].record.id.to_string();
        let current = self.nodes[index].lease.term();
        let Some(local) = self.nodes[index].rooms.get_mut(room) else { return };
        local.asks = false;
        let kept = match answer {
            Some(Answer::Home(row, _)) if row.node == own => Kept::Here(row.epoch.to_string()),
            Some(Answer::Home(..)) => Kept::Elsewhere,
            Some(Answer::Nobody | Answer::Quiet | Answer::Lost) => Kept::Nowhere,
            None => Kept::Unknown,
        };
        match local.hold.kept(term, asserted, kept) {
            Verdict::Stays | Verdict::Rewrite if !local.hold.may_admit(current) => {
                // A further term began while the question was under way.
                self.keep(index, room);
            }
            Verdict::Stays | Verdict::Rewrite => {
                let (room, epoch) = (room.to_owned(), local.hold.epoch().to_owned());
                self.send(index, Request::Write { room, epoch }, ANSWER_TIMEOUT);
            }
            Verdict::AskAgain => {
                self.at(KEEP_PAUSE, Event::KeepAgain { node: index, room: room.to_owned() });
            }
            Verdict::Gone => {
                self.nodes[index].rooms.remove(room);
                self.join(room, 100);
            }
        }
    }

    fn doubt(&mut self, index: usize, room: &str) {
        if let Some(local) = self.nodes[index].rooms.get_mut(room) {
            local.moves = false;
            local.hold.doubt();
            self.keep(index, room);
        }
    }

    /// Somebody wants to enter by any front door; who is refused comes again.
    fn somebody_joins(&mut self, room: String) -> Result<(), String> {
        let awake = |index: &usize| self.nodes[*index].frozen_until <= self.now;
        let doors: Vec<usize> = self.living().into_iter().filter(awake).collect();
        let Some(index) = doors.choose(&mut self.rng).copied() else {
            self.join(&room, 500);
            return Ok(());
        };
        if self.nodes[index].rooms.contains_key(&room) && self.may_serve(index) {
            return self.enter(index, &room);
        }
        let now = Duration::from_millis(self.now);
        if !self.nodes[index].lease.standing(now).may_claim() {
            self.join(&room, 500);
            return Ok(());
        }
        let candidate = choose_home(&self.nodes[index].known, &mut self.rng);
        let candidate = candidate.map_or("none".to_owned(), |node| node.record.id.to_string());
        self.next += 1;
        let sid = format!("RM_{}", self.next);
        self.send(index, Request::Claim { room, candidate, sid }, CLAIM_TIMEOUT);
        Ok(())
    }

    /// A front door was told where a room is at home, and passes the join on.
    fn claimed(
        &mut self,
        index: usize,
        term: u64,
        room: &str,
        answer: Answer,
    ) -> Result<(), String> {
        let Answer::Home(row, _) = answer else {
            self.join(room, 500);
            return Ok(());
        };
        // As the shell: what this node placed counts before the next renewal shows it.
        let home = |node: &&mut Candidate| node.record.id.as_str() == row.node;
        if self.bug != Bug::NoReservation
            && let Some(node) = self.nodes[index].known.iter_mut().find(home)
        {
            node.reservations += 1;
        }
        let own = self.nodes[index].record.id.to_string();
        if row.node == own {
            return self.enter_new(index, term, room, &row);
        }
        // The home asks for itself: what a front door was told may be old by then.
        let awake = |node: &Node| !node.is_dead && node.frozen_until <= self.now;
        let home = self.nodes.iter().position(|node| node.record.id.as_str() == row.node);
        let Some(home) = home.filter(|home| awake(&self.nodes[*home])) else {
            self.join(room, 500);
            return Ok(());
        };
        if self.nodes[home].rooms.contains_key(room) && self.may_serve(home) {
            return self.enter(home, room);
        }
        let request = Request::Claim { room: room.to_owned(), candidate: own, sid: row.sid };
        self.send(home, request, CLAIM_TIMEOUT);
        Ok(())
    }

    fn enter_new(&mut self, index: usize, term: u64, room: &str, row: &Row) -> Result<(), String> {
        let hold = Hold::new(row.epoch.to_string(), term);
        let local = LocalRoom { hold, sid: row.sid.clone(), asks: false, moves: false };
        self.nodes[index].rooms.entry(room.to_owned()).or_insert(local);
        self.enter(index, room)
    }

    fn enter(&mut self, index: usize, room: &str) -> Result<(), String> {
        let term = self.nodes[index].lease.term();
        let local = &self.nodes[index].rooms[room];
        if !(self.may_serve(index) && local.may_admit(term)) {
            self.join(room, 500);
            return Ok(());
        }
        let sid = local.sid.clone();
        let first = self.sids.entry(room.to_owned()).or_insert_with(|| sid.clone());
        if *first != sid && !self.has_forgotten {
            return Err(format!("{room} is {sid} and was {first}"));
        }
        self.admitted.insert(room.to_owned(), self.now);
        Ok(())
    }

    fn move_rooms(&mut self, index: usize) {
        if self.nodes[index].record.state != NodeState::Draining {
            return;
        }
        let node = &self.nodes[index];
        let others: Vec<Candidate> =
            node.known.iter().filter(|other| other.record.id != node.record.id).cloned().collect();
        let next = node.rooms.iter().find(|(_, local)| local.may_admit(node.lease.term()));
        if let Some((room, local)) = next
            && let Some(candidate) = choose_home(&others, &mut self.rng)
        {
            let candidate = candidate.record.id.to_string();
            let (room, epoch) = (room.clone(), local.hold.epoch().to_owned());
            if let Some(local) = self.nodes[index].rooms.get_mut(&room) {
                local.moves = true;
            }
            self.send(index, Request::Move { room, epoch, candidate }, CLAIM_TIMEOUT);
        }
        self.at(200, Event::MoveRooms(index));
    }

    fn may_serve(&self, index: usize) -> bool {
        self.nodes[index].lease.standing(Duration::from_millis(self.now)).may_serve()
    }

    /// No room has two homes that would both let somebody in.
    fn check(&self) -> Result<(), String> {
        let mut homes: BTreeMap<&str, &str> = BTreeMap::new();
        for (index, node) in self.nodes.iter().enumerate() {
            if node.is_dead || node.frozen_until > self.now || !self.may_serve(index) {
                continue;
            }
            for (room, local) in &node.rooms {
                if local.may_admit(node.lease.term())
                    && let Some(other) = homes.insert(room, node.record.id.as_str())
                {
                    let id = &node.record.id;
                    let what = format!("{room} is at home on {other} and {id} at {}", self.now);
                    let of_room = |node: &&Node| node.rooms.contains_key(room);
                    let states: Vec<_> = self.nodes.iter().filter(of_room).collect();
                    return Err(format!("{what}: {states:#?}"));
                }
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
        | Event::HeardPeers(node, _)
        | Event::Answer { to: node, .. }
        | Event::GiveUp { node, .. }
        | Event::KeepAgain { node, .. }
        | Event::MoveRooms(node) => Some(*node),
        Event::Arrive { .. } | Event::Join { .. } => None,
    }
}
