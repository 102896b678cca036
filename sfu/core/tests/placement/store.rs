//! A model of the scripts of `contract::redis`, on virtual time. `sfu/tests/node/scripts.rs` holds
//! it against the scripts themselves on a real Redis.

#![allow(dead_code)] // Each of the two tests uses its part.

use std::collections::BTreeMap;

use contract::redis::{NODE_LEASE, NodeRecord, NodeState, POD_ROW, PULSE, RESERVATION, ROOM_ROW};

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
    Home(Row, NodeRecord),
    Nobody,
    Quiet,
    Lost,
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
    /// A store that forgot everything gives homes at once.
    NoQuietTime,
    /// A node that renews after its lease ended goes on as if nothing had been.
    RenewAfterExpiry,
}

/// A value that ends by itself.
type Mortal<T> = (T, u64);

/// What Redis holds of one cluster.
#[derive(Debug, Clone, Default)]
pub(crate) struct Store {
    pub(crate) bug: Bug,
    now: u64,
    nodes: BTreeMap<String, u64>,
    leases: BTreeMap<String, Mortal<NodeRecord>>,
    reserved: BTreeMap<String, Mortal<u64>>,
    rooms: BTreeMap<String, Mortal<Row>>,
    pods: BTreeMap<String, Mortal<String>>,
    pulse_until: u64,
    quiet_until: u64,
}

fn millis(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap()
}

impl Store {
    pub(crate) fn new(bug: Bug) -> Self {
        Self { bug, ..Self::default() }
    }

    /// Lets time pass: what is mortal ends.
    pub(crate) fn advance(&mut self, now: u64) {
        self.now = now;
        self.leases.retain(|_, (_, until)| *until > now);
        self.reserved.retain(|_, (_, until)| *until > now);
        self.rooms.retain(|_, (_, until)| *until > now);
        self.pods.retain(|_, (_, until)| *until > now);
    }

    /// Forgets everything, as a Redis that restarts without persistence.
    pub(crate) fn forget(&mut self) {
        *self = Self { now: self.now, ..Self::new(self.bug) };
    }

    /// Ends a lease, as time would.
    pub(crate) fn end_lease(&mut self, node: &str) {
        self.leases.remove(node);
    }

    /// Ends the pulse, as time would.
    pub(crate) fn end_pulse(&mut self) {
        self.pulse_until = 0;
    }

    /// Ends the quiet time, as time would.
    pub(crate) fn end_quiet(&mut self) {
        self.quiet_until = 0;
    }

    pub(crate) fn row(&self, room: &str) -> Option<&Row> {
        self.rooms.get(room).map(|(row, _)| row)
    }

    /// `renew_node.lua`: whether the lease was there, and the living nodes with reservations.
    pub(crate) fn renew(
        &mut self,
        record: &NodeRecord,
        is_first: bool,
    ) -> (bool, Vec<(NodeRecord, u64)>) {
        let (id, now) = (record.id.to_string(), self.now);
        let was_known = self.leases.contains_key(&id);
        let of_pod = self.pods.get(&record.name).map(|(id, _)| id.clone());
        if is_first {
            if let Some(earlier) = of_pod.filter(|earlier| *earlier != id) {
                self.nodes.remove(&earlier);
                self.leases.remove(&earlier);
            }
            self.pods.insert(record.name.clone(), (id.clone(), now + millis(POD_ROW)));
        } else if of_pod.as_deref() == Some(&id) {
            self.pods.insert(record.name.clone(), (id.clone(), now + millis(POD_ROW)));
        }
        if self.pulse_until <= now && self.bug != Bug::NoQuietTime {
            self.quiet_until = now + millis(NODE_LEASE);
        }
        self.pulse_until = now + millis(PULSE);
        self.leases.insert(id.clone(), (record.clone(), now + millis(NODE_LEASE)));
        self.nodes.insert(id, now + millis(NODE_LEASE));
        self.nodes.retain(|_, until| *until > now);
        let living = self.nodes.keys().filter_map(|id| {
            let (record, _) = self.leases.get(id)?;
            Some((record.clone(), self.reserved.get(id).map_or(0, |(count, _)| *count)))
        });
        (was_known, living.collect())
    }

    /// `release_node.lua`.
    pub(crate) fn release_node(&mut self, node: &str) -> bool {
        self.nodes.remove(node);
        self.leases.remove(node).is_some()
    }

    /// `claim_room.lua`.
    pub(crate) fn claim(&mut self, room: &str, candidate: &str, sid: &str, keeps: bool) -> Answer {
        let row = self.row(room).cloned();
        if let Some(row) = &row
            && let Some((record, _)) = self.leases.get(&row.node)
        {
            let answer = Answer::Home(row.clone(), record.clone());
            self.write(room, row.clone());
            return answer;
        }
        if !keeps && self.quiet_until > self.now {
            return Answer::Quiet;
        }
        let Some((record, _)) = self.leases.get(candidate).cloned() else { return Answer::Nobody };
        if !keeps && record.state != NodeState::Open {
            return Answer::Nobody;
        }
        let mut row = row.unwrap_or_else(|| Row {
            node: String::new(),
            epoch: 0,
            sid: sid.to_owned(),
            metadata: String::new(),
            state: String::new(),
        });
        row.epoch = (row.epoch + 1).max(self.now);
        candidate.clone_into(&mut row.node);
        self.write(room, row.clone());
        self.reserve(candidate);
        Answer::Home(row, record)
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
        let record = self.leases.get(candidate).map(|(record, _)| record.clone());
        let Some(record) = record.filter(|record| record.state == NodeState::Open) else {
            return Answer::Nobody;
        };
        row = Row {
            node: candidate.to_owned(),
            epoch: (row.epoch + 1).max(self.now),
            sid: row.sid,
            metadata: metadata.to_owned(),
            state: state.to_owned(),
        };
        self.write(room, row.clone());
        self.reserve(candidate);
        Answer::Home(row, record)
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

    fn reserve(&mut self, node: &str) {
        if self.bug != Bug::NoReservation {
            let count = self.reserved.get(node).map_or(0, |(count, _)| *count);
            self.reserved.insert(node.to_owned(), (count + 1, self.now + millis(RESERVATION)));
        }
    }
}
