//! Which node becomes the home of a room, and whether this one may be a home at the moment.

mod drain;
mod hold;
mod lease;
mod store_clock;

use contract::ids::NodeId;
use contract::redis::{NodeLoad, NodeRecord, NodeState};
use rand::{Rng, RngExt as _};

pub use drain::{closing_rate, pause_between_moves};
pub use hold::{Hold, Kept, Question, Verdict};
pub use lease::{Lease, PledgeAnswer, Renewal};

/// Forwarded packets a second that weigh as much as one room: a room of three with video.
const PACKETS_A_ROOM: u64 = 1000;
/// Subscriptions that weigh as much as one room.
const SUBSCRIPTIONS_A_ROOM: u64 = 12;

/// A node as a claimer sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Who it is.
    pub record: NodeRecord,
    /// Its last report.
    pub load: NodeLoad,
    /// Rooms claimed for it since, which the report does not show yet.
    pub reservations: u64,
}

impl Candidate {
    /// Load in rooms. What a node forwards counts most, but a room that was claimed a moment
    /// ago counts before it forwards anything, so that a burst does not pile onto one node.
    fn weight(&self) -> u64 {
        let load = self.load;
        let media = (load.packets_per_second / PACKETS_A_ROOM)
            .max(load.subscriptions / SUBSCRIPTIONS_A_ROOM);
        load.rooms + self.reservations + media
    }
}

/// Chooses the less loaded of two different random open nodes; `None` when no node is open. Two
/// choices spread almost as well as the best of all, without a herd onto it when reports are old.
pub fn choose_home<'a, R: Rng + ?Sized>(
    nodes: &'a [Candidate],
    rng: &mut R,
) -> Option<&'a Candidate> {
    let is_open = |node: &&Candidate| node.record.state == NodeState::Open;
    // Mostly all are open: then nobody looks at all of them.
    if let Some([first, second]) = two_of(nodes, rng).filter(|two| two.iter().all(is_open)) {
        return Some(lighter(first, second));
    }
    let open: Vec<&Candidate> = nodes.iter().filter(is_open).collect();
    match two_of(&open, rng) {
        Some([&first, &second]) => Some(lighter(first, second)),
        None => open.first().copied(),
    }
}

/// Two different ones by chance; `None` when there are fewer.
fn two_of<'a, T, R: Rng + ?Sized>(all: &'a [T], rng: &mut R) -> Option<[&'a T; 2]> {
    if all.len() < 2 {
        return None;
    }
    let first = rng.random_range(0..all.len());
    let second = (first + rng.random_range(1..all.len())) % all.len();
    Some([&all[first], &all[second]])
}

fn lighter<'a>(first: &'a Candidate, second: &'a Candidate) -> &'a Candidate {
    if second.weight() < first.weight() { second } else { first }
}

/// Counts a room that was given to `home`, which has so many now that its report does not show.
pub fn count_reservation(nodes: &mut [Candidate], home: &NodeId, reservations: u64) {
    if let Some(node) = nodes.iter_mut().find(|node| node.record.id == *home) {
        node.reservations = node.reservations.max(reservations);
    }
}

/// The node with this id among the living.
pub fn find<'a>(nodes: &'a [Candidate], id: &NodeId) -> Option<&'a Candidate> {
    nodes.iter().find(|node| node.record.id == *id)
}

#[cfg(test)]
mod tests {
    use contract::redis::MediaAddresses;
    use rand::SeedableRng as _;
    use rand::rngs::StdRng;

    use super::*;

    fn node(id: usize, state: NodeState, rooms: u64) -> Candidate {
        Candidate {
            record: NodeRecord {
                id: NodeId::from(format!("ND_{id}")),
                name: format!("node-{id}"),
                address: ([10, 0, 0, 1], 7890).into(),
                state,
                media: MediaAddresses::default(),
            },
            load: NodeLoad { rooms, ..NodeLoad::default() },
            reservations: 0,
        }
    }

    #[test]
    fn only_open_nodes_get_rooms() {
        let mut rng = StdRng::seed_from_u64(1);
        let nodes = [
            node(0, NodeState::Cordoned, 0),
            node(1, NodeState::Draining, 0),
            node(2, NodeState::Open, 900),
        ];
        for _ in 0..50 {
            let home = choose_home(&nodes, &mut rng).unwrap();
            assert_eq!(home.record.id.as_str(), "ND_2");
        }
        assert_eq!(choose_home(&nodes[..2], &mut rng), None);
        assert_eq!(choose_home(&[], &mut rng), None);
    }

    #[test]
    fn a_burst_of_claims_spreads_by_reservations() {
        let mut rng = StdRng::seed_from_u64(2);
        let mut nodes: Vec<Candidate> = (0..10).map(|id| node(id, NodeState::Open, 0)).collect();
        for _ in 0..1000 {
            let id = choose_home(&nodes, &mut rng).unwrap().record.id.clone();
            nodes.iter_mut().find(|node| node.record.id == id).unwrap().reservations += 1;
        }
        let most = nodes.iter().map(|node| node.reservations).max().unwrap();
        assert!(most <= 130, "{most} of 1000 on one of ten nodes");
    }

    #[test]
    fn forwarding_weighs_more_than_quiet_rooms() {
        let mut busy = node(0, NodeState::Open, 1);
        busy.load.packets_per_second = 50_000;
        assert!(busy.weight() > node(1, NodeState::Open, 20).weight());
    }
}
