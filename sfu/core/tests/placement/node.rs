//! What a process does, as the shell does it, with the decisions of `sfu_core::placement`.

use std::collections::BTreeMap;
use std::time::Duration;

use contract::ids::NodeId;
use contract::redis::{NODE_RENEWAL, NodeLoad, NodeRecord, NodeState};
use contract::sfu_config::CapacityConfig;
use rand::seq::IndexedRandom as _;
use sfu_core::placement::{
    Candidate, Hold, Kept, Lease, PledgeAnswer, Question, Renewal, Used, Verdict, choose_home,
    count_reservation, free_rooms,
};

use crate::store::{Answer, Bug, Claim, Home, Keep, KeepAnswer, Renewed, Renewer, Row};
use crate::world::{Event, Pending, World};

/// How long a node waits for Redis, as the shell does.
const ANSWER_TIMEOUT: u64 = 1_500;
const CLAIM_TIMEOUT: u64 = 3_000;
/// How often a node looks whether it wants pledges.
const PEERS_INTERVAL: u64 = 250;
/// Wait before an unconfirmed room is asked for again.
const KEEP_PAUSE: u64 = 1_000;
/// Wait before the home of a room that refused is looked for again, as in the shell.
const REACH_PAUSE: u64 = 100;
/// When who was refused comes again.
const RETRY: u64 = 500;

/// A room on a node.
#[derive(Debug)]
pub(crate) struct LocalRoom {
    hold: Hold,
    sid: String,
    asks: bool,
    /// It is being given away: whoever comes waits, as the room's task does.
    moves: bool,
}

impl LocalRoom {
    pub(crate) fn may_admit(&self, term: u64) -> bool {
        self.hold.may_admit(term) && !self.moves
    }

    fn epoch(&self) -> u64 {
        self.hold.epoch().parse().expect("epochs are numbers")
    }
}

/// A process.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) record: NodeRecord,
    pub(crate) started: u64,
    /// What its clock showed at first, and its rate.
    pub(crate) clock: (u64, f64),
    pub(crate) lease: Lease,
    pub(crate) known: Vec<Candidate>,
    pub(crate) rooms: BTreeMap<String, LocalRoom>,
    /// When rooms ended here last.
    pub(crate) ended: BTreeMap<String, u64>,
    pub(crate) renewals: u64,
    /// Frozen until then, as by SIGSTOP; what happens to it waits.
    pub(crate) frozen_until: u64,
    pub(crate) reaches_store: bool,
    pub(crate) reaches_peers: bool,
    pub(crate) reaches_clients: bool,
    pub(crate) is_dead: bool,
    /// It ended in order, and its pod with it: nothing is at its address any more.
    pub(crate) has_left: bool,
}

#[derive(Debug, Clone)]
pub(crate) enum Request {
    Renew(Box<Renewer>),
    Claim {
        room: String,
        claim: Claim,
    },
    Keep {
        room: String,
        keep: Keep,
        question: Question,
    },
    Move {
        room: String,
        epoch: u64,
        candidate: String,
    },
    Write {
        room: String,
        epoch: u64,
    },
    Release {
        room: String,
        epoch: u64,
    },
    /// A node's process is gone, as somebody saw who wants to join a room there.
    EndNode {
        node: String,
        room: String,
    },
    /// This node leaves.
    Leave,
}

#[derive(Debug, Clone)]
pub(crate) enum Response {
    Renewed(Box<Renewed>),
    Home(Answer),
    Kept(KeepAnswer),
    Written(bool),
}

impl World {
    /// What a process's own clock shows.
    #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    pub(crate) fn clock(&self, index: usize) -> Duration {
        let (first, rate) = self.nodes[index].clock;
        Duration::from_millis(first + (self.now as f64 * rate) as u64)
    }

    pub(crate) fn may_serve(&self, index: usize) -> bool {
        self.nodes[index].lease.may_serve(self.clock(index))
    }

    /// A process leaves for good: it gives its lease back.
    pub(crate) fn leave(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        node.lease.leave();
        node.rooms.clear();
        self.send(index, Request::Leave, ANSWER_TIMEOUT);
        (self.nodes[index].is_dead, self.nodes[index].has_left) = (true, true);
    }

    fn is_awake(&self, index: usize) -> bool {
        !self.nodes[index].is_dead && self.nodes[index].frozen_until <= self.now
    }

    pub(crate) fn tick(&mut self, index: usize) {
        self.at(u64::try_from(NODE_RENEWAL.as_millis()).unwrap(), Event::Tick(index));
        let now = self.clock(index);
        let node = &mut self.nodes[index];
        node.renewals += 1;
        let mut record = node.record.clone();
        if record.state == NodeState::Open && node.lease.is_bound(now) {
            record.state = NodeState::Settling;
        }
        let (started, is_first) = (node.started, !node.lease.was_held());
        let rooms = node.rooms.len() as u64;
        let capacity = CapacityConfig { rooms: self.capacity, ..CapacityConfig::default() };
        let free_rooms = free_rooms(capacity, Used { rooms, ..Used::default() });
        let load = NodeLoad { rooms, free_rooms, ..NodeLoad::default() };
        let number = node.renewals;
        let view_life = self.view_life;
        let renewer = Renewer { record, load, is_first, started, number, view_life };
        self.send(index, Request::Renew(Box::new(renewer)), ANSWER_TIMEOUT);
    }

    pub(crate) fn ask_peers(&mut self, index: usize) {
        self.at(PEERS_INTERVAL, Event::AskPeers(index));
        let asked_at = self.clock(index);
        for address in self.nodes[index].lease.wants_pledges(asked_at) {
            let at_address = self.nodes.iter().rposition(|node| node.record.address == address);
            let Some(to) = at_address else { continue };
            if self.refuses(index, to) {
                let (now, gone) = (self.clock(index), PledgeAnswer::Gone);
                self.nodes[index].lease.heard(address, asked_at, now, gone);
                continue;
            }
            if self.nodes[index].reaches_peers && self.nodes[to].reaches_peers && !self.loses() {
                let delay = self.delay();
                self.at(delay, Event::PledgeAsked { to, from: index, asked_at });
            }
        }
    }

    /// Whether a process that is asked by another refuses the connection: it is dead, and the
    /// machine that it was on says so.
    fn refuses(&self, from: usize, to: usize) -> bool {
        let (from, to) = (&self.nodes[from], &self.nodes[to]);
        let is_seen = from.reaches_peers && to.reaches_peers && !to.has_left;
        let is_silent = to.is_dead || self.bug == Bug::SilentIsDead && to.frozen_until > self.now;
        is_seen && is_silent
    }

    pub(crate) fn pledge_asked(&mut self, index: usize, from: usize, asked_at: Duration) {
        let now = self.clock(index);
        let lease = &mut self.nodes[index].lease;
        let is_kept = self.bug != Bug::PledgeNotKept;
        let gives = if is_kept { lease.pledge(now) } else { lease.clone().pledge(now) };
        let answer = if gives { PledgeAnswer::Pledged } else { PledgeAnswer::Refused };
        if !self.loses() {
            let delay = self.delay();
            self.at(delay, Event::PledgeHeard { to: from, of: index, asked_at, answer });
        }
    }

    pub(crate) fn answered(&mut self, pending: Pending, response: Response) -> Result<(), String> {
        let Pending { node: index, sent_at, term, request } = pending;
        match (request, response) {
            (Request::Renew(_), Response::Renewed(renewed)) => {
                self.renewed(index, sent_at, *renewed);
            }
            (Request::Claim { room, claim }, Response::Home(answer)) => {
                self.claimed(index, (term, sent_at), room, &claim, answer)?;
            }
            (Request::Keep { room, question, .. }, Response::Kept(answer)) => {
                self.kept(index, question, &room, Some(answer));
            }
            (Request::Move { room, .. }, Response::Home(answer)) => {
                self.moved(index, &room, &answer);
            }
            (Request::Write { room, epoch }, Response::Written(is_written)) => {
                let local = self.nodes[index].rooms.get(&room);
                if !is_written && local.is_some_and(|local| local.epoch() == epoch) {
                    self.keep(index, &room);
                }
            }
            (Request::EndNode { room, .. }, Response::Written(_)) => self.join(&room, REACH_PAUSE),
            (Request::Release { .. } | Request::Leave, Response::Written(_)) => {}
            (request, response) => unreachable!("{response:?} to {request:?}"),
        }
        Ok(())
    }

    fn renewed(&mut self, index: usize, sent_at: u64, renewed: Renewed) {
        let now = self.clock(index);
        let sent_at = now.saturating_sub(Duration::from_millis(self.now - sent_at));
        let bug = self.bug;
        let node = &mut self.nodes[index];
        let Renewed { term, time, follows, quiet, others, nodes, gone } = renewed;
        let own = node.record.address;
        let others_there = nodes.iter().filter(|(record, ..)| record.address != own);
        let renewal = Renewal {
            term: if bug == Bug::RenewAfterExpiry { String::new() } else { term },
            store_time: time,
            follows,
            quiet: Duration::from_millis(quiet),
            others,
            living: others_there.map(|(record, ..)| (record.id.clone(), record.address)).collect(),
            gone: gone.into_iter().map(NodeId::from).collect(),
        };
        let candidate = |(record, load, reservations)| Candidate { record, load, reservations };
        node.known = nodes.into_iter().map(candidate).collect();
        if node.lease.renewed(sent_at, now, &renewal) {
            let rooms: Vec<String> = node.rooms.keys().cloned().collect();
            for room in rooms {
                self.keep(index, &room);
            }
        }
    }

    pub(crate) fn gave_up(&mut self, pending: Pending) {
        let index = pending.node;
        match pending.request {
            Request::Renew(_) => {
                self.nodes[index].lease.missed();
            }
            Request::Keep { room, question, .. } => self.kept(index, question, &room, None),
            // It may have moved all the same.
            Request::Move { room, .. } => self.doubt(index, &room),
            Request::Claim { room, .. } | Request::EndNode { room, .. } => self.join(&room, RETRY),
            Request::Write { .. } | Request::Release { .. } | Request::Leave => {}
        }
    }

    pub(crate) fn keep(&mut self, index: usize, room: &str) {
        let now = self.clock(index);
        let node = &mut self.nodes[index];
        let (term, fenced_term) = (node.lease.term(), node.lease.fenced_term());
        let time = node.lease.may_begin(now);
        let Some(local) = node.rooms.get_mut(room) else { return };
        if std::mem::replace(&mut local.asks, true) {
            return;
        }
        let question = local.hold.question(term, fenced_term);
        let keep = Keep {
            caller: node.record.id.to_string(),
            epoch: local.epoch(),
            sid: local.sid.clone(),
            asserts: question.asserts,
            raises: question.raises,
            time: time.unwrap_or_default(),
        };
        self.send(index, Request::Keep { room: room.to_owned(), keep, question }, CLAIM_TIMEOUT);
    }

    fn kept(&mut self, index: usize, question: Question, room: &str, answer: Option<KeepAnswer>) {
        let current = self.nodes[index].lease.term();
        let Some(local) = self.nodes[index].rooms.get_mut(room) else { return };
        local.asks = false;
        let kept = match answer {
            Some(KeepAnswer::Here(epoch)) => Kept::Here(epoch.to_string()),
            Some(KeepAnswer::Gone) => Kept::Gone,
            Some(KeepAnswer::Again) | None => Kept::Unknown,
        };
        match local.hold.kept(question, kept) {
            Verdict::Stays | Verdict::Rewrite if !local.hold.may_admit(current) => {
                // A further term began while the question was under way.
                self.keep(index, room);
            }
            Verdict::Stays | Verdict::Rewrite => {
                let (room, epoch) = (room.to_owned(), local.epoch());
                self.send(index, Request::Write { room, epoch }, ANSWER_TIMEOUT);
            }
            Verdict::AskAgain => {
                self.at(KEEP_PAUSE, Event::KeepAgain { node: index, room: room.to_owned() });
            }
            Verdict::Gone => {
                self.remove(index, room);
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

    fn remove(&mut self, index: usize, room: &str) -> Option<LocalRoom> {
        let now = self.now;
        let node = &mut self.nodes[index];
        let local = node.rooms.remove(room)?;
        node.ended.insert(room.to_owned(), now);
        Some(local)
    }

    pub(crate) fn end_room(&mut self, index: usize, room: &str) {
        if self.nodes[index].rooms.get(room).is_none_or(|local| local.moves) {
            return;
        }
        if let Some(local) = self.remove(index, room) {
            self.forget_sid(room);
            let (room, epoch) = (room.to_owned(), local.epoch());
            self.send(index, Request::Release { room, epoch }, ANSWER_TIMEOUT);
        }
    }

    /// Somebody wants to enter by any front door; who is refused comes again.
    pub(crate) fn somebody_joins(&mut self, room: String) -> Result<(), String> {
        let opens = |index: &usize| self.is_awake(*index) && self.nodes[*index].reaches_clients;
        let doors: Vec<usize> = self.living().into_iter().filter(opens).collect();
        match doors.choose(&mut self.rng).copied() {
            Some(index) => self.seek(index, room, false),
            None => {
                self.join(&room, RETRY);
                Ok(())
            }
        }
    }

    /// A node looks for the home of a room.
    pub(crate) fn seek(
        &mut self,
        index: usize,
        room: String,
        is_forwarded: bool,
    ) -> Result<(), String> {
        if self.nodes[index].rooms.contains_key(&room) {
            return self.enter(index, &room);
        }
        let time = self.nodes[index].lease.may_begin(self.clock(index));
        let candidate = time.and_then(|_| choose_home(&self.nodes[index].known, "", &mut self.rng));
        let candidate =
            candidate.map_or_else(|| "none".to_owned(), |node| node.record.id.to_string());
        let sid = format!("RM_{}", self.number());
        let node = &self.nodes[index];
        let caller = node.record.id.to_string();
        // Who was sent here already is not sent on.
        let candidate = if is_forwarded { caller.clone() } else { candidate };
        let claim = Claim { caller, candidate, sid, time: time.unwrap_or_default() };
        self.send(index, Request::Claim { room, claim }, CLAIM_TIMEOUT);
        Ok(())
    }

    /// A node was told where a room is at home, and passes the join on.
    fn claimed(
        &mut self,
        index: usize,
        (term, sent_at): (u64, u64),
        room: String,
        claim: &Claim,
        answer: Answer,
    ) -> Result<(), String> {
        let Answer::Home(home) = answer else {
            self.join(&room, RETRY);
            return Ok(());
        };
        let Home { row, record, reserved, earlier: _ } = *home;
        count_reservation(&mut self.nodes[index].known, &record.id, reserved);
        if row.node == claim.caller {
            return self.begin(index, (term, sent_at), &room, &row);
        }
        let home = self.nodes.iter().position(|node| node.record.id.as_str() == row.node);
        if home.is_some_and(|home| self.refuses(index, home)) {
            self.send(index, Request::EndNode { node: row.node, room }, ANSWER_TIMEOUT);
            return Ok(());
        }
        let Some(home) = home.filter(|home| self.is_awake(*home)) else {
            self.join(&room, RETRY);
            return Ok(());
        };
        if self.nodes[index].reaches_peers && self.nodes[home].reaches_peers && !self.loses() {
            let delay = self.delay();
            self.at(delay, Event::Forwarded { to: home, room });
        } else {
            self.join(&room, RETRY);
        }
        Ok(())
    }

    /// The room begins here, unless it ended here after the question was asked.
    fn begin(
        &mut self,
        index: usize,
        (term, asked_at): (u64, u64),
        room: &str,
        row: &Row,
    ) -> Result<(), String> {
        let node = &mut self.nodes[index];
        if node.ended.get(room).is_some_and(|ended| *ended >= asked_at) {
            self.join(room, RETRY);
            return Ok(());
        }
        let is_current = term == node.lease.term();
        let local = node.rooms.entry(room.to_owned()).or_insert_with(|| LocalRoom {
            hold: Hold::new(row.epoch.to_string(), term),
            sid: row.sid.clone(),
            asks: false,
            moves: false,
        });
        // Another question may have given it a later epoch.
        if !is_current || local.epoch() != row.epoch {
            self.keep(index, room);
        }
        self.enter(index, room)
    }

    fn enter(&mut self, index: usize, room: &str) -> Result<(), String> {
        let term = self.nodes[index].lease.term();
        let local = &self.nodes[index].rooms[room];
        if !(self.may_serve(index) && local.may_admit(term)) {
            self.join(room, RETRY);
            return Ok(());
        }
        let sid = local.sid.clone();
        self.entered(room, &sid)
    }

    pub(crate) fn move_rooms(&mut self, index: usize) {
        if self.nodes[index].record.state != NodeState::Draining {
            return;
        }
        self.at(200, Event::MoveRooms(index));
        let node = &mut self.nodes[index];
        let term = node.lease.term();
        let others = node.known.iter().filter(|other| other.record.id != node.record.id);
        let others: Vec<Candidate> = others.cloned().collect();
        let next = node.rooms.iter_mut().find(|(_, local)| local.may_admit(term));
        if let Some((room, local)) = next
            && let Some(candidate) = choose_home(&others, "", &mut self.rng)
        {
            local.moves = true;
            let (room, epoch) = (room.clone(), local.epoch());
            let candidate = candidate.record.id.to_string();
            self.send(index, Request::Move { room, epoch, candidate }, CLAIM_TIMEOUT);
        }
    }

    fn moved(&mut self, index: usize, room: &str, answer: &Answer) {
        match answer {
            Answer::Home(_) => {
                self.remove(index, room);
                // Everybody comes back at once.
                self.join(room, 100);
            }
            Answer::Lost => self.doubt(index, room),
            Answer::Nobody | Answer::Full | Answer::Quiet | Answer::Late => {
                if let Some(local) = self.nodes[index].rooms.get_mut(room) {
                    local.moves = false;
                }
            }
        }
    }
}
