//! A model of the scripts of `contract::redis`, on virtual time. `sfu/tests/node/scripts.rs` holds
//! it against the scripts themselves on a real Redis.

#![allow(dead_code)] // Each of the two tests uses its part.

use std::collections::BTreeMap;

use contract::redis::{
    CLAIM_LIFE, NODE_LEASE, NODE_MEMORY, NODE_MISSING, NodeLoad, NodeRecord, NodeState, POD_ROW,
    PULSE, RESERVATION, ROOM_ROW,
};

/// A room's row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) node: String,
    pub(crate) epoch: u64,
    pub(crate) sid: String,
    pub(crate) metadata: String,
    pub(crate) state: String,
}

/// What a script says of a room's home.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    Home(Box<Home>),
    Nobody,
    /// The candidate takes no more rooms.
    Full,
    Quiet,
    Late,
    Lost,
}

/// A room's home.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Home {
    pub(crate) row: Row,
    pub(crate) record: NodeRecord,
    /// Rooms that the node was given since its report.
    pub(crate) reserved: u64,
    /// The node that was the home until its lease ended; empty if none was.
    pub(crate) earlier: String,
}

/// What `keep_room.lua` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KeepAnswer {
    Here(u64),
    Gone,
    Again,
}

/// A process that renews.
#[derive(Debug, Clone)]
pub(crate) struct Renewer {
    pub(crate) record: NodeRecord,
    pub(crate) load: NodeLoad,
    pub(crate) is_first: bool,
    /// When it started.
    pub(crate) started: u64,
    /// Which of its renewals this is.
    pub(crate) number: u64,
    /// For how long it takes what was read of all nodes, in milliseconds for each of them.
    pub(crate) view_life: u64,
}

/// What `renew_node.lua` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Renewed {
    pub(crate) term: String,
    pub(crate) time: u64,
    pub(crate) follows: bool,
    pub(crate) quiet: u64,
    pub(crate) others: u64,
    pub(crate) nodes: View,
    pub(crate) gone: Vec<String>,
}

/// Who claims a room, and for whom.
#[derive(Debug, Clone)]
pub(crate) struct Claim {
    pub(crate) caller: String,
    pub(crate) candidate: String,
    pub(crate) sid: String,
    /// What the caller takes for the time.
    pub(crate) time: u64,
}

/// Who keeps a room.
#[derive(Debug, Clone)]
pub(crate) struct Keep {
    pub(crate) caller: String,
    pub(crate) epoch: u64,
    pub(crate) sid: String,
    pub(crate) asserts: bool,
    pub(crate) raises: bool,
    pub(crate) time: u64,
}

/// Known bugs, to see that the tests would find them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Bug {
    #[default]
    None,
    /// Writes and moves are taken from whoever sends them.
    EpochNotChecked,
    /// Claims do not count until the next report.
    NoReservation,
    /// A store that lost writes gives homes at once.
    NoQuietTime,
    /// A node that renews after its lease ended goes on as if nothing had been.
    RenewAfterExpiry,
    /// Who has pledged to begin no room does.
    PledgeNotKept,
    /// A claim counts whenever it comes.
    LateClaims,
    /// A room begins anew under the epoch that it ended under.
    SameEpochAgain,
    /// A node that does not answer is taken for dead.
    SilentIsDead,
    /// A node that is cut off is taken for one that left.
    LostIsGone,
    /// A node gets rooms for which it has no place.
    FullGetsRooms,
}

/// The living nodes: record, load, and rooms that each was given since.
pub(crate) type View = Vec<(NodeRecord, NodeLoad, u64)>;

/// A value that ends by itself.
type Mortal<T> = (T, u64);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Lease {
    record: NodeRecord,
    load: NodeLoad,
    term: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Pod {
    node: String,
    address: String,
    started: u64,
    follows: bool,
}

/// What Redis holds of one cluster.
#[derive(Debug, Clone, Default)]
pub(crate) struct Store {
    pub(crate) bug: Bug,
    now: u64,
    /// Which process of Redis this is, and when it started.
    pub(crate) run: u64,
    pub(crate) since: u64,
    nodes: BTreeMap<String, u64>,
    gone: BTreeMap<String, u64>,
    leases: BTreeMap<String, Mortal<Lease>>,
    /// What was read of all nodes, and when.
    view: Option<(u64, View)>,
    reserved: BTreeMap<String, Mortal<u64>>,
    rooms: BTreeMap<String, Mortal<Row>>,
    pods: BTreeMap<String, Mortal<Pod>>,
    pulse: Mortal<u64>,
    quiet_until: u64,
}

fn millis(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap()
}

impl Store {
    pub(crate) fn new(bug: Bug) -> Self {
        Self { bug, pulse: (u64::MAX, 0), ..Self::default() }
    }

    /// Lets time pass: what is mortal ends.
    pub(crate) fn advance(&mut self, now: u64) {
        self.now = now;
        self.leases.retain(|_, (_, until)| *until > now);
        self.reserved.retain(|_, (_, until)| *until > now);
        self.rooms.retain(|_, (_, until)| *until > now);
        self.pods.retain(|_, (_, until)| *until > now);
    }

    /// Another process of Redis, with what this one holds.
    pub(crate) fn take_over(&mut self, run: u64) {
        (self.run, self.since) = (run, self.now);
    }

    /// Another process of Redis, with nothing.
    pub(crate) fn forget(&mut self, run: u64) {
        *self = Self { now: self.now, ..Self::new(self.bug) };
        self.take_over(run);
    }

    /// Lets a lease grow old, as time would.
    pub(crate) fn age_lease(&mut self, node: &str) {
        if let Some((_, until)) = self.leases.get_mut(node) {
            *until = self.now + 2_000;
        }
    }

    /// Ends a lease, as time would.
    pub(crate) fn end_lease(&mut self, node: &str) {
        self.leases.remove(node);
    }

    /// Ends the pulse, as time would.
    pub(crate) fn end_pulse(&mut self) {
        self.pulse.1 = 0;
    }

    /// Ends the quiet time, as time would.
    pub(crate) fn end_quiet(&mut self) {
        self.quiet_until = 0;
    }

    pub(crate) fn row(&self, room: &str) -> Option<&Row> {
        self.rooms.get(room).map(|(row, _)| row)
    }

    fn lives(&self, node: &str) -> Option<&NodeRecord> {
        self.leases.get(node).map(|(lease, _)| &lease.record)
    }

    fn is_full(&self, node: &str) -> bool {
        let reserved = self.reserved.get(node).map_or(0, |(count, _)| *count);
        let load = self.leases.get(node).map(|(lease, _)| lease.load);
        load.is_some_and(|load| reserved >= load.free_rooms) && self.bug != Bug::FullGetsRooms
    }

    fn has_pulse(&self) -> bool {
        self.pulse.1 > self.now && self.pulse.0 == self.run
    }

    fn is_quiet(&self) -> bool {
        self.bug != Bug::NoQuietTime && (!self.has_pulse() || self.quiet_until > self.now)
    }

    fn is_late(&self, time: u64) -> bool {
        self.bug != Bug::LateClaims && self.now.abs_diff(time) > millis(CLAIM_LIFE)
    }

    /// `renew_node.lua`.
    pub(crate) fn renew(&mut self, renewer: &Renewer) -> Renewed {
        let (record, now, lease) = (&renewer.record, self.now, millis(NODE_LEASE));
        let id = record.id.to_string();
        if !self.has_pulse() {
            let up = if self.nodes.is_empty() {
                now.saturating_sub(self.since) / 1_000 * 1_000
            } else {
                0
            };
            if up < lease {
                self.quiet_until = now + lease - up;
            }
        }
        self.pulse = (self.run, now + millis(PULSE));
        let follows = self.renew_pod(renewer, &id);
        let is_of_run = |term: &String| term.starts_with(&format!("{}:", self.run));
        let before = self.leases.get(&id).map(|(lease, _)| lease.clone());
        let term = before.as_ref().map(|before| before.term.clone()).filter(is_of_run);
        let is_same = term.is_some() && before.is_some_and(|before| before.record == *record);
        let term = term.unwrap_or_else(|| format!("{}:{now}:{}", self.run, renewer.number));
        let made = Lease { record: record.clone(), load: renewer.load, term: term.clone() };
        self.leases.insert(id.clone(), (made, now + lease));
        self.reserved.remove(&id);
        self.gone.remove(&id);
        self.nodes.insert(id, now + lease);
        for nodes in [&mut self.nodes, &mut self.gone] {
            nodes.retain(|_, since| *since + millis(NODE_MEMORY) > now);
        }
        let nodes = self.look(if is_same { renewer.view_life } else { 0 });
        let counts = |id: &&String| self.bug != Bug::LostIsGone || self.lives(id).is_some();
        let others = self.nodes.keys().filter(counts).count() as u64 - 1;
        Renewed {
            term,
            time: now,
            follows,
            quiet: self.quiet_until.saturating_sub(now),
            others,
            nodes,
            gone: self.gone_nodes(),
        }
    }

    /// The living nodes, as they were read lately or as they are.
    fn look(&mut self, view_life: u64) -> View {
        let life = view_life * self.nodes.len() as u64;
        let view = self.view.take().filter(|(at, _)| *at <= self.now && self.now - at < life);
        let view = view.unwrap_or_else(|| {
            let nodes = self.nodes.keys().filter_map(|id| {
                let reserved = self.reserved.get(id).map_or(0, |(count, _)| *count);
                let (lease, _) = self.leases.get(id)?;
                Some((lease.record.clone(), lease.load, reserved))
            });
            (self.now, nodes.collect())
        });
        self.view.insert(view).1.clone()
    }

    fn gone_nodes(&self) -> Vec<String> {
        if self.bug == Bug::LostIsGone {
            return self.nodes.keys().filter(|id| self.lives(id).is_none()).cloned().collect();
        }
        self.gone.keys().cloned().collect()
    }

    /// Notes which process a pod has; whether it follows one that others knew.
    fn renew_pod(&mut self, renewer: &Renewer, id: &str) -> bool {
        let name = &renewer.record.name;
        let address = renewer.record.address.to_string();
        let known = self.pods.get(name).map(|(pod, _)| pod.clone());
        let is_other = known.as_ref().is_none_or(|pod| pod.node != id);
        let is_next = |pod: &Pod| pod.address != address || pod.started < renewer.started;
        if renewer.is_first && is_other && known.as_ref().is_none_or(is_next) {
            if let Some(earlier) = known.as_ref().filter(|pod| pod.address == address) {
                self.nodes.remove(&earlier.node);
                self.leases.remove(&earlier.node);
                self.gone.insert(earlier.node.clone(), self.now);
            }
            let follows = known.is_some() && !self.nodes.is_empty();
            let pod = Pod { node: id.to_owned(), address, started: renewer.started, follows };
            self.pods.insert(name.clone(), (pod, 0));
        }
        let Some((pod, until)) = self.pods.get_mut(name) else { return false };
        if pod.node != id {
            return false;
        }
        *until = self.now + millis(POD_ROW);
        pod.follows
    }

    /// `release_node.lua`.
    pub(crate) fn release_node(&mut self, node: &str) -> bool {
        self.nodes.remove(node);
        self.gone.insert(node.to_owned(), self.now);
        self.leases.remove(node).is_some()
    }

    /// `end_node.lua`.
    pub(crate) fn end_node(&mut self, node: &str) -> bool {
        let left = self.leases.get(node).map_or(0, |(_, until)| until.saturating_sub(self.now));
        if left > millis(NODE_LEASE - NODE_MISSING) && self.bug != Bug::SilentIsDead {
            return false;
        }
        self.nodes.remove(node);
        self.leases.remove(node);
        self.gone.insert(node.to_owned(), self.now);
        true
    }

    /// `claim_room.lua`.
    pub(crate) fn claim(&mut self, room: &str, claim: &Claim) -> Answer {
        let row = self.row(room).cloned();
        let home = row.as_ref().and_then(|row| self.lives(&row.node).cloned());
        if let (Some(row), Some(home)) = (&row, &home)
            && row.node != claim.caller
        {
            self.write(room, row.clone());
            let (row, record, earlier) = (row.clone(), home.clone(), String::new());
            return Answer::Home(Box::new(Home { row, record, reserved: 0, earlier }));
        }
        if self.is_quiet() {
            return Answer::Quiet;
        }
        let is_new = home.is_none();
        let candidate =
            || self.lives(&claim.candidate).filter(|record| record.state == NodeState::Open);
        let Some(record) = home.or_else(|| candidate().cloned()) else { return Answer::Nobody };
        if row.is_none() && self.is_full(&claim.candidate) {
            return Answer::Full;
        }
        if self.is_late(claim.time) {
            return Answer::Late;
        }
        let mut row = row.unwrap_or_else(|| Row {
            node: String::new(),
            epoch: 0,
            sid: claim.sid.clone(),
            metadata: String::new(),
            state: String::new(),
        });
        let (mut reserved, mut earlier) = (0, String::new());
        if is_new && row.node != claim.candidate {
            earlier.clone_from(&row.node);
        }
        if is_new {
            row.node.clone_from(&claim.candidate);
            reserved = self.reserve(&claim.candidate);
        }
        if is_new || self.bug != Bug::SameEpochAgain {
            row.epoch = (row.epoch + 1).max(self.now);
        }
        self.write(room, row.clone());
        Answer::Home(Box::new(Home { row, record, reserved, earlier }))
    }

    /// `keep_room.lua`.
    pub(crate) fn keep(&mut self, room: &str, keep: &Keep) -> KeepAnswer {
        if self.lives(&keep.caller).is_none() {
            return KeepAnswer::Again;
        }
        let row = self.row(room).cloned();
        let is_here = row.as_ref().is_some_and(|row| row.node == keep.caller);
        let stored = row.as_ref().map_or(0, |row| row.epoch);
        if !keep.asserts && (self.is_quiet() || self.is_late(keep.time)) {
            return KeepAnswer::Again;
        }
        let is_newer = row.is_some() && !is_here && stored >= keep.epoch;
        let is_same = is_here && stored == keep.epoch;
        if if keep.asserts { is_newer } else { row.is_some() && !is_same } {
            return KeepAnswer::Gone;
        }
        let (metadata, state) = row.map_or_else(Default::default, |row| (row.metadata, row.state));
        let epoch = if is_same && keep.asserts && !keep.raises {
            stored
        } else {
            (stored + 1).max(keep.epoch + 1).max(self.now)
        };
        let (node, sid) = (keep.caller.clone(), keep.sid.clone());
        self.write(room, Row { node, epoch, sid, metadata, state });
        KeepAnswer::Here(epoch)
    }

    /// `move_room.lua`.
    pub(crate) fn move_room(
        &mut self,
        room: &str,
        (node, epoch): (&str, u64),
        candidate: &str,
        (metadata, state): (&str, &str),
    ) -> Answer {
        let Some(mut row) = self.row(room).cloned() else { return Answer::Lost };
        if !self.is_home(&row, node, epoch) {
            return Answer::Lost;
        }
        if self.is_quiet() {
            return Answer::Quiet;
        }
        let record = self.lives(candidate).filter(|record| record.state == NodeState::Open);
        let Some(record) = record.cloned() else { return Answer::Nobody };
        row = Row {
            node: candidate.to_owned(),
            epoch: (row.epoch + 1).max(self.now),
            sid: row.sid,
            metadata: metadata.to_owned(),
            state: state.to_owned(),
        };
        self.write(room, row.clone());
        let (reserved, earlier) = (self.reserve(candidate), String::new());
        Answer::Home(Box::new(Home { row, record, reserved, earlier }))
    }

    /// `update_room.lua`.
    pub(crate) fn update(
        &mut self,
        room: &str,
        (node, epoch): (&str, u64),
        (metadata, state): (&str, &str),
    ) -> bool {
        let Some(mut row) = self.row(room).cloned() else { return false };
        if !self.is_home(&row, node, epoch) {
            return false;
        }
        metadata.clone_into(&mut row.metadata);
        state.clone_into(&mut row.state);
        if let Some((known, _)) = self.rooms.get_mut(room) {
            *known = row;
        }
        true
    }

    /// `release_room.lua`.
    pub(crate) fn release(&mut self, room: &str, (node, epoch): (&str, u64)) -> bool {
        let is_home = self.row(room).is_some_and(|row| self.is_home(row, node, epoch));
        is_home && self.rooms.remove(room).is_some()
    }

    fn is_home(&self, row: &Row, node: &str, epoch: u64) -> bool {
        self.bug == Bug::EpochNotChecked || (row.node == node && row.epoch == epoch)
    }

    fn write(&mut self, room: &str, row: Row) {
        self.rooms.insert(room.to_owned(), (row, self.now + millis(ROOM_ROW)));
    }

    fn reserve(&mut self, node: &str) -> u64 {
        if self.bug == Bug::NoReservation {
            return 0;
        }
        let count = 1 + self.reserved.get(node).map_or(0, |(count, _)| *count);
        self.reserved.insert(node.to_owned(), (count, self.now + millis(RESERVATION)));
        count
    }
}
