use std::collections::HashMap;

use crds::live_cluster::NodeCapacity;
use proptest::prelude::*;

use super::*;

const MINUTE: u64 = 60;

fn policy() -> Policy {
    let spec: AutoscalingSpec = serde_json::from_value(serde_json::json!({
        "mode": "BuiltIn", "roomsPerNode": 10, "subscribersPerNode": 100, "maxNodes": 20,
    }))
    .unwrap();
    Policy::of(&spec).unwrap()
}

fn told(value: u64) -> Sum {
    Sum { value, complete: true }
}

fn rooms(rooms: u64) -> Demand {
    Demand { rooms: told(rooms), ..nothing() }
}

fn nothing() -> Demand {
    Demand::of(&[], &HashMap::new(), 1, NodeCapacity::default())
}

/// The same, where a node was silent.
fn at_least(demand: Demand) -> Demand {
    Demand { rooms: Sum { complete: false, ..demand.rooms }, ..demand }
}

/// Plays the reconcile: asks every ten seconds, and does what is decided.
struct Clock {
    policy: Policy,
    history: History,
    start: Instant,
    second: u64,
    nodes: u16,
}

impl Clock {
    fn new(policy: Policy, nodes: u16) -> Self {
        Self { policy, history: History::default(), start: Instant::now(), second: 0, nodes }
    }

    fn look(&mut self, demand: &Demand) -> Decision {
        let now = self.start + Duration::from_secs(self.second);
        let decision = self.history.decide(&self.policy, demand, self.nodes, now);
        if decision.nodes != self.nodes {
            self.history.changed(self.nodes, decision.nodes, now);
            self.nodes = decision.nodes;
        }
        self.second += 10;
        decision
    }

    /// Looks until the second, and returns the seconds at which the number of nodes changed.
    fn until(&mut self, second: u64, demand: &Demand) -> Vec<(u64, u16)> {
        let mut changes = Vec::new();
        while self.second <= second {
            let (at, before) = (self.second, self.nodes);
            if self.look(demand).nodes != before {
                changes.push((at, self.nodes));
            }
        }
        changes
    }
}

#[test]
fn the_target_that_needs_the_most_nodes_wins() {
    let free = Policy { free_slots: 5, ..policy() };
    let load = |load| Demand { load: told(load), ..nothing() };
    let subscribers = |count| Demand { subscribers: told(count), ..rooms(11) };
    let cases = [
        (policy(), nothing(), 1, "0 nodes for 0 rooms"),
        (policy(), rooms(10), 1, "1 nodes for 10 rooms"),
        (policy(), rooms(11), 2, "2 nodes for 11 rooms"),
        (policy(), rooms(9_999), 20, "1000 nodes for 9999 rooms"),
        (policy(), subscribers(301), 4, "4 nodes for 301 subscribers"),
        (policy(), load(1_401), 3, "3 nodes for a load of about 150% of a node"),
        (free.clone(), rooms(15), 2, "2 nodes for 15 rooms and 5 free slots"),
        (free, rooms(16), 3, "3 nodes for 16 rooms and 5 free slots"),
        (policy(), at_least(rooms(11)), 2, "2 nodes for at least 11 rooms"),
    ];
    for (policy, demand, needed, text) in cases {
        let decision = Clock::new(policy, 1).look(&demand);
        assert_eq!(decision.needed, needed, "{demand:?}");
        assert_eq!(decision.need.unwrap().to_string(), text);
    }
}

#[test]
fn nodes_come_at_once_but_no_faster_than_the_pace() {
    let mut clock = Clock::new(policy(), 1);
    // Four at once, then as many as there were: once a period of 15 s.
    assert_eq!(clock.until(60, &rooms(195)), [(0, 5), (20, 10), (40, 20)]);
}

#[test]
fn nodes_go_when_nobody_needed_them_for_the_window() {
    let mut clock = Clock::new(policy(), 4);
    clock.until(100, &rooms(40));
    // The window of ten minutes begins with the last look that needed them.
    let changes = clock.until(20 * MINUTE, &rooms(5));
    assert_eq!(changes, [(710, 3), (770, 2), (830, 1)]);
}

#[test]
fn a_peak_within_the_window_keeps_the_nodes() {
    let mut clock = Clock::new(policy(), 4);
    for _ in 0..6 {
        assert_eq!(clock.until(clock.second + 9 * MINUTE, &rooms(5)), []);
        clock.look(&rooms(40));
    }
}

#[test]
fn who_has_just_started_does_not_send_anybody_away() {
    let mut clock = Clock::new(policy(), 4);
    assert_eq!(clock.until(10 * MINUTE, &nothing()), []);
    assert_eq!(clock.look(&nothing()).nodes, 3);
}

#[test]
fn a_window_for_coming_nodes_waits_too() {
    let scale_out = Pace { window: Duration::from_secs(30), ..policy().scale_out };
    let mut clock = Clock::new(Policy { scale_out, ..policy() }, 1);
    assert_eq!(clock.until(50, &rooms(30)), [(40, 3)]);
    clock.until(100, &rooms(30));
    assert_eq!(clock.look(&rooms(90)).nodes, 3);
    assert_eq!(clock.look(&rooms(30)).nodes, 3, "a short peak needs nobody");
}

#[test]
fn bounds_are_an_order() {
    let mut clock = Clock::new(policy(), 8);
    clock.look(&rooms(80));
    clock.policy.max = 5;
    assert_eq!(clock.look(&rooms(80)).nodes, 5);
    clock.policy.min = 5;
    clock.policy.max = 9;
    assert_eq!(clock.look(&nothing()).nodes, 5);
    clock.policy.min = 7;
    assert_eq!(clock.look(&nothing()).nodes, 7);
}

#[test]
fn silence_holds_what_there_is_and_never_sends_away() {
    let mut clock = Clock::new(policy(), 4);
    assert_eq!(clock.until(60 * MINUTE, &at_least(nothing())), []);
    let decision = clock.look(&at_least(rooms(55)));
    assert_eq!((decision.nodes, decision.silent), (6, true), "more is more, whoever is silent");
}

#[test]
fn a_load_that_takes_a_second_look_is_no_silence_and_sends_nobody_away() {
    let mut clock = Clock::new(policy(), 4);
    let unknown = Demand { load: Sum { value: 0, complete: false }, ..nothing() };
    assert_eq!(clock.until(60 * MINUTE, &unknown), []);
    assert!(!clock.look(&unknown).silent);
}

#[test]
fn what_is_remembered_is_bounded() {
    let scale_in = Pace { window: Duration::from_secs(3600), ..policy().scale_in };
    let mut clock = Clock::new(Policy { scale_in, ..policy() }, 4);
    for step in 0..5_000_u64 {
        clock.look(&rooms(step % 90));
        clock.history.changed(1, 2, clock.start);
    }
    let history = &clock.history;
    assert!(history.most.parts.len() <= PARTS as usize + 2, "{}", history.most.parts.len());
    assert!(history.fewest.parts.len() <= PARTS as usize + 2);
    assert_eq!(history.changes.len(), MAX_CHANGES);
}

prop_compose! {
    /// What nodes may tell: rooms, and whether one of them was silent.
    fn looks()(looks in prop::collection::vec((0_u64..400, prop::bool::weighted(0.8)), 1..120))
        -> Vec<Demand>
    {
        let look = |(count, complete)| {
            let demand = rooms(count);
            if complete { demand } else { at_least(demand) }
        };
        looks.into_iter().map(look).collect()
    }
}

proptest! {
    #[test]
    fn whatever_happens_the_rules_hold(looks in looks(), first in 1_u16..=20) {
        let mut clock = Clock::new(policy(), first);
        let mut asked = vec![first];
        let mut steps: Vec<(u64, i32)> = Vec::new();
        for demand in looks {
            let (second, before) = (clock.second, clock.nodes);
            let decision = clock.look(&demand);
            let (policy, after) = (&clock.policy, decision.nodes);
            prop_assert!((policy.min..=policy.max).contains(&after));
            if !demand.rooms.complete {
                prop_assert!(after >= before, "silence sent a node away");
            }
            prop_assert!(after <= before || after <= decision.needed, "more than anybody needs");
            let complete = !decision.silent;
            asked.push(if complete { decision.needed } else { decision.needed.max(before) });
            // Looks are ten seconds apart.
            let window = &asked[asked.len().saturating_sub(60)..];
            if after < before {
                prop_assert!(window.iter().all(|nodes| *nodes <= after));
            }
            steps.push((second, i32::from(after) - i32::from(before)));
            let recent = steps.iter().filter(|(at, _)| second - at < MINUTE);
            let gone: i32 = recent.map(|(_, step)| (-step).max(0)).sum();
            prop_assert!(gone <= 1, "{gone} nodes went in a minute");
        }
    }

    #[test]
    fn a_load_that_stays_is_served_and_nothing_more(count in 0_u64..300, first in 1_u16..=20) {
        let mut clock = Clock::new(policy(), first);
        let mut decision = clock.look(&rooms(count));
        for _ in 0..300 {
            decision = clock.look(&rooms(count));
        }
        prop_assert_eq!(clock.nodes, decision.needed);
    }
}
