//! Which node becomes the home of a room, and whether this one may be a home at the moment.

mod capacity;
mod drain;
mod hold;
mod lease;
mod store_clock;

use contract::ids::NodeId;
use contract::redis::{NodeLoad, NodeRecord, NodeState};
use rand::{Rng, RngExt as _};

pub use capacity::{Used, free_rooms};
pub use drain::{closing_rate, pause_between_moves};
pub use hold::{Hold, Kept, Question, Verdict};
pub use lease::{Lease, PledgeAnswer, Renewal};

/// Forwarded packets a second that weigh as much as one room: a room of three with video.
const PACKETS_A_ROOM: u64 = 1000;
/// Subscriptions that weigh as much as one room.
const SUBSCRIPTIONS_A_ROOM: u64 = 12;
/// Thousandths of its time that a media worker is busy without being short of it. Each one above
/// weighs as much as a room: a worker that is always busy forwards what about 500 rooms weigh, so one
/// that does less by then, on a slower machine or beside other programs, is not given as much.
const AT_EASE: u64 = 500;

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
        load.rooms + self.reservations + media + load.busy.saturating_sub(AT_EASE)
    }

    /// Whether it has as many rooms as it takes.
    pub fn is_full(&self) -> bool {
        self.reservations >= self.load.free_rooms
    }

    /// How well it suits a room that is asked for in `region`; `None` when it takes none.
    fn fit(&self, region: &str) -> Option<Fit> {
        let is_near = region.is_empty() || self.record.region == region;
        let is_open = self.record.state == NodeState::Open;
        is_open.then(|| Fit { has_place: !self.is_full(), is_near })
    }
}

/// How well a node suits a room; what matters more comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Fit {
    has_place: bool,
    is_near: bool,
}

impl Fit {
    const BEST: Option<Self> = Some(Self { has_place: true, is_near: true });
}

/// Chooses a home for a room that is asked for in `region`, which is empty where nobody knows it: the
/// less loaded of two different random open nodes, of those there if any of them has a place, else of
/// those anywhere that have, else of those that are full. `None` when no node is open. Two choices
/// spread almost as well as the best of all, without a herd onto it when reports are old.
pub fn choose_home<'a, R: Rng + ?Sized>(
    nodes: &'a [Candidate],
    region: &str,
    rng: &mut R,
) -> Option<&'a Candidate> {
    // Mostly all suit: then nobody looks at all of them.
    let is_best = |node: &&Candidate| node.fit(region) == Fit::BEST;
    if let Some([first, second]) = two_of(nodes, rng).filter(|two| two.iter().all(is_best)) {
        return Some(lighter(first, second));
    }
    let best = nodes.iter().filter_map(|node| node.fit(region)).max()?;
    let best: Vec<_> = nodes.iter().filter(|node| node.fit(region) == Some(best)).collect();
    match two_of(&best, rng) {
        Some([&first, &second]) => Some(lighter(first, second)),
        None => best.first().copied(),
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
                region: String::new(),
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
            let home = choose_home(&nodes, "", &mut rng).unwrap();
            assert_eq!(home.record.id.as_str(), "ND_2");
        }
        assert_eq!(choose_home(&nodes[..2], "", &mut rng), None);
        assert_eq!(choose_home(&[], "", &mut rng), None);
    }

    /// State, region, and free rooms of a node, of which two are reserved.
    type Known = (NodeState, &'static str, u64);

    fn nodes_of(all: &[Known]) -> Vec<Candidate> {
        let node = |(id, (state, region, free_rooms)): (usize, &Known)| {
            let mut node = node(id, *state, 0);
            node.record.region = (*region).to_owned();
            (node.load.free_rooms, node.reservations) = (*free_rooms, 2);
            node
        };
        all.iter().enumerate().map(node).collect()
    }

    #[test]
    fn rooms_go_where_there_is_a_place_and_first_of_all_near() {
        use NodeState::{Cordoned, Open};
        let (place, full) = (3, 2);
        let near_full = [(Open, "b", full), (Open, "a", place), (Open, "a", full)];
        let cases: [(&str, &[Known], &[usize]); 9] = [
            ("near", &[(Open, "a", place), (Open, "b", place), (Open, "b", place)], &[1, 2]),
            ("nobody else is near", &[(Open, "a", place), (Open, "b", place)], &[1]),
            ("the near one is full", &near_full, &[1]),
            ("the near one is not open", &[(Cordoned, "b", place), (Open, "a", place)], &[1]),
            ("nobody is near", &[(Open, "a", place), (Open, "", place)], &[0, 1]),
            ("all are full", &[(Open, "a", full), (Open, "b", full)], &[1]),
            ("all near and far are full", &[(Open, "a", full), (Cordoned, "b", place)], &[0]),
            ("more are reserved than free", &[(Open, "b", 1), (Open, "a", place)], &[1]),
            ("none is open", &[(Cordoned, "b", place)], &[]),
        ];
        let mut rng = StdRng::seed_from_u64(3);
        for (case, nodes, expected) in cases {
            let nodes = nodes_of(nodes);
            let mut chosen: Vec<usize> = (0..100)
                .filter_map(|_| choose_home(&nodes, "b", &mut rng))
                .map(|home| nodes.iter().position(|node| node == home).unwrap())
                .collect();
            chosen.sort_unstable();
            chosen.dedup();
            assert_eq!(chosen, expected, "{case}");
        }
    }

    #[test]
    fn who_knows_no_region_asks_for_none() {
        let mut rng = StdRng::seed_from_u64(4);
        let nodes = nodes_of(&[(NodeState::Open, "a", 9), (NodeState::Open, "", 9)]);
        let mut choose = || choose_home(&nodes, "", &mut rng).unwrap().record.region.clone();
        let chosen: std::collections::BTreeSet<_> = (0..100).map(|_| choose()).collect();
        assert_eq!(chosen.len(), 2, "of equals both are chosen: {chosen:?}");
    }

    #[test]
    fn a_burst_of_claims_spreads_by_reservations() {
        let mut rng = StdRng::seed_from_u64(2);
        let mut nodes: Vec<Candidate> = (0..10).map(|id| node(id, NodeState::Open, 0)).collect();
        for _ in 0..1000 {
            let id = choose_home(&nodes, "", &mut rng).unwrap().record.id.clone();
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

    #[test]
    fn a_worker_that_is_short_of_time_weighs_more_the_less_it_has() {
        let weight = |busy| {
            let mut node = node(0, NodeState::Open, 10);
            (node.load.packets_per_second, node.load.busy) = (100_000, busy);
            node.weight()
        };
        let weights = [0, 300, 500, 501, 800, 1_000].map(weight);
        assert_eq!(weights, [110, 110, 110, 111, 410, 610]);
    }
}
