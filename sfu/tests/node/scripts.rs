//! The scripts on a real Redis do what their model does, step by step and for many seeds; the
//! simulation of placement (`sfu/core/tests/placement`) rests on the model.

#[path = "../../core/tests/placement/store.rs"]
mod store;

use std::collections::BTreeMap;
use std::time::Duration;

use contract::ids::{NodeId, RoomName};
use contract::redis::{
    CLAIM_LIFE, CLAIM_ROOM, END_NODE, KEEP_ROOM, Keys, MOVE_ROOM, MediaAddresses, NO_LIMIT,
    NODE_LEASE, NODE_MEMORY, NodeLoad, NodeRecord, NodeState, POD_ROW, PULSE, RELEASE_NODE,
    RELEASE_ROOM, RENEW_NODE, RESERVATION, ROOM_ROW, UPDATE_ROOM,
};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use redis::aio::MultiplexedConnection;
use redis::{AsyncCommands as _, Script, ScriptInvocation};
use store::{Answer, Bug, Claim, Keep, KeepAnswer, Renewer, Row, Store, View};

use crate::support::{HOUR, Redis, unix_time};

const SEEDS: u64 = 300;
const STEPS: usize = 40;
const NODES: u8 = 4;
const ROOMS: u8 = 3;

/// The model and the real one, side by side. Epochs differ, since they come from the time; what
/// must agree is which node has which room, and when an epoch changes.
struct Pair {
    model: Store,
    connection: MultiplexedConnection,
    keys: Keys,
    rng: StdRng,
    renewals: u64,
    /// The names that the real one and the model gave the leases of nodes last.
    terms: BTreeMap<String, (String, String)>,
    /// The nodes' records that the real one told last, with their version.
    known: (String, Vec<NodeRecord>),
}

/// What `renew_node.lua` says.
pub(crate) type Renewal = (String, u64, u64, u64, u64, Vec<String>, String, String, String);

/// How long a lease lives on, in milliseconds, whose node has missed a renewal in this test: shorter
/// than any other, however slow the machine.
const MISSED: i64 = 500;

/// The time of the model, which stands still.
const NOW: u64 = 1_000_000;

pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap()
}

/// A node's first or next renewal of its lease: how long the lease, its pod's row, the pulse and
/// the memory of the node live, and the numbers of its start and of the renewal.
pub(crate) fn renewal<'script>(
    script: &'script Script,
    keys: &Keys,
    record: &NodeRecord,
    which: &str,
    [lease, pod, pulse, memory]: [Duration; 4],
    [started, number]: [u64; 2],
) -> ScriptInvocation<'script> {
    let mut call = script.prepare_invoke();
    call.key(keys.nodes())
        .key(keys.node(&record.id))
        .key(keys.pod(&record.name))
        .key(keys.pulse())
        .key(keys.quiet())
        .key(keys.gone())
        .key(keys.view())
        .arg(record.id.as_str())
        .arg(serde_json::to_string(record).unwrap())
        .arg(millis(lease))
        .arg(keys.node_prefix())
        .arg(keys.reservation_prefix())
        .arg(which)
        .arg(millis(pod))
        .arg(millis(pulse))
        .arg(millis(memory))
        .arg(record.address.to_string())
        .arg(started)
        .arg(number);
    call
}

impl Pair {
    fn record(&mut self) -> NodeRecord {
        let number = self.rng.random_range(0..NODES);
        let states = [NodeState::Open, NodeState::Open, NodeState::Cordoned, NodeState::Draining];
        NodeRecord {
            id: NodeId::from(format!("ND_{number}")),
            // Two processes of a pod.
            name: format!("pod-{}", number / 2),
            // At its own address, or where the pod's other process was.
            address: ([10, 0, 0, number / self.rng.random_range(1..=2)], 7890).into(),
            state: states[self.rng.random_range(0..states.len())],
            media: MediaAddresses::default(),
            region: ["", "north"][usize::from(number % 2)].to_owned(),
        }
    }

    fn node(&mut self) -> String {
        format!("ND_{}", self.rng.random_range(0..NODES))
    }

    fn room(&mut self) -> (String, String) {
        let name = format!("room-{}", self.rng.random_range(0..ROOMS));
        let key = self.keys.room(&RoomName::new(name.clone()).unwrap());
        (name, key)
    }

    /// The epoch that Redis has for a room, and the model's: both right, or both wrong.
    async fn epochs(&mut self, name: &str, key: &str) -> (String, u64) {
        let real: Option<String> = self.connection.hget(key, "epoch").await.unwrap();
        let (mut real, mut model) = (
            real.unwrap_or_else(|| "1".to_owned()),
            self.model.row(name).map_or(1, |row| row.epoch),
        );
        match self.rng.random_range(0..8) {
            0 => {
                real.push('9');
                model += 7;
            }
            1 => (real, model) = ("1".to_owned(), 1),
            _ => {}
        }
        (real, model)
    }

    /// What a caller takes for the time: right, or wrong. The real one's and the model's.
    fn times(&mut self) -> (u64, u64) {
        let off = if self.rng.random_bool(0.2) { 2 * millis(CLAIM_LIFE) } else { 0 };
        (millis(unix_time()) - off, NOW - off)
    }

    /// For how many seconds Redis has been up.
    async fn uptime(&mut self) -> u64 {
        let info: String =
            redis::cmd("INFO").arg("server").query_async(&mut self.connection).await.unwrap();
        let line = info.lines().find_map(|line| line.strip_prefix("uptime_in_seconds:"));
        line.unwrap().parse().unwrap()
    }

    async fn step(&mut self) {
        match self.rng.random_range(0..13) {
            0..=2 => self.renew().await,
            3..=5 => self.claim().await,
            6 | 7 => self.keep().await,
            8 => self.give_away().await,
            9 => self.write().await,
            10 => self.release().await,
            _ => self.pass_time().await,
        }
    }

    async fn renew(&mut self) {
        self.renewals += 1;
        let free_rooms = [0, 1, 2, NO_LIMIT][self.rng.random_range(0..4)];
        let load = NodeLoad::from([self.renewals, 1, 2, 3, free_rooms]);
        // What was read of the nodes is not told any more, or as long as nothing changes.
        let view_life = if self.rng.random_bool(0.5) { 0 } else { HOUR.as_millis() as u64 };
        let renewer = Renewer {
            record: self.record(),
            load,
            view_life,
            is_first: self.rng.random_bool(0.3),
            started: self.rng.random_range(1..4),
            number: self.renewals,
        };
        let Renewer { record, is_first, started, number, .. } = &renewer;
        let up = self.uptime().await;
        let keys = &self.keys;
        let script = Script::new(RENEW_NODE);
        let which = if *is_first { "first" } else { "next" };
        let lives = [NODE_LEASE, POD_ROW, PULSE, NODE_MEMORY];
        let mut call = renewal(&script, keys, record, which, lives, [*started, *number]);
        let known = if self.rng.random_bool(0.8) { self.known.0.as_str() } else { "" };
        call.arg(load.report()).arg(known).arg(view_life);
        let said: Renewal = call.invoke_async(&mut self.connection).await.unwrap();
        let (term, time, follows, quiet, others, mut gone, version, records, loads) = said;
        assert!(time.abs_diff(millis(unix_time())) < 1_000);
        assert_eq!(records.is_empty(), known == version);
        if !records.is_empty() {
            self.known = (version, serde_json::from_str(&records).unwrap());
        }
        let loads: Vec<[u64; 6]> = serde_json::from_str(&loads).unwrap();
        assert_eq!(loads.len(), self.known.1.len());
        let real: View = std::iter::zip(self.known.1.clone(), loads)
            .map(|(record, [reported @ .., reserved])| (record, reported.into(), reserved))
            .collect();
        // Which second it was when the script ran is seen by the quiet time that it began.
        let was_next = quiet > 0 && quiet + (up + 1) * 1_000 <= millis(NODE_LEASE);
        let was_last = quiet == 0 && (up + 1) * 1_000 == millis(NODE_LEASE);
        self.model.since = NOW - (up + u64::from(was_next || was_last)) * 1_000;
        let model = self.model.renew(&renewer);
        assert_eq!((follows == 1, others, real), (model.follows, model.others, model.nodes));
        gone.sort();
        assert_eq!(gone, model.gone);
        assert_eq!(quiet > 0, model.quiet > 0, "{quiet} after {up} s, {}", model.quiet);
        let before = self.terms.insert(record.id.to_string(), (term.clone(), model.term.clone()));
        let (real, modelled) = before.unwrap_or_default();
        assert_eq!(real == term, modelled == model.term);
    }

    async fn claim(&mut self) {
        let ((name, key), candidate, caller) = (self.room(), self.node(), self.node());
        let sid = format!("RM_{}", self.rng.random::<u32>());
        let (time, model_time) = self.times();
        let script = Script::new(CLAIM_ROOM);
        let mut call = script.prepare_invoke();
        call.key(&key)
            .key(self.keys.pulse())
            .key(self.keys.quiet())
            .arg(self.keys.node_prefix())
            .arg(self.keys.reservation_prefix())
            .arg(&caller)
            .arg(&candidate)
            .arg(&sid)
            .arg(millis(ROOM_ROW))
            .arg(millis(RESERVATION))
            .arg(time)
            .arg(millis(CLAIM_LIFE));
        let before = self.model.row(&name).cloned();
        let claim = Claim { caller, candidate, sid, time: model_time };
        let model = self.model.claim(&name, &claim);
        self.compare(&key, before, model, &call).await;
    }

    async fn keep(&mut self) {
        let ((name, key), caller) = (self.room(), self.node());
        let (epoch, model_epoch) = self.epochs(&name, &key).await;
        let (time, model_time) = self.times();
        let (asserts, raises) = (self.rng.random_bool(0.6), self.rng.random_bool(0.3));
        let sid = self.model.row(&name).map_or_else(|| "RM_kept".to_owned(), |row| row.sid.clone());
        let script = Script::new(KEEP_ROOM);
        let mut call = script.prepare_invoke();
        call.key(&key)
            .key(self.keys.pulse())
            .key(self.keys.quiet())
            .arg(self.keys.node_prefix())
            .arg(&caller)
            .arg(&epoch)
            .arg(&sid)
            .arg(millis(ROOM_ROW))
            .arg(if asserts { "assert" } else { "resume" })
            .arg(if raises { "raise" } else { "same" })
            .arg(time)
            .arg(millis(CLAIM_LIFE));
        let real: Vec<String> = call.invoke_async(&mut self.connection).await.unwrap();
        let keep = Keep { caller, epoch: model_epoch, sid, asserts, raises, time: model_time };
        let model = self.model.keep(&name, &keep);
        let number = |epoch: &str| epoch.parse::<u64>().unwrap();
        match (real.iter().map(String::as_str).collect::<Vec<_>>().as_slice(), model) {
            (["again"], KeepAnswer::Again) | (["gone"], KeepAnswer::Gone) => {}
            (["here", now], KeepAnswer::Here(model)) => {
                assert_eq!(number(now) > number(&epoch), model > model_epoch, "{keep:?}");
            }
            (real, model) => panic!("{real:?} and {model:?} to {keep:?}"),
        }
    }

    async fn give_away(&mut self) {
        let ((name, key), node, candidate) = (self.room(), self.node(), self.node());
        let (epoch, model_epoch) = self.epochs(&name, &key).await;
        let script = Script::new(MOVE_ROOM);
        let mut call = script.prepare_invoke();
        call.key(&key)
            .key(self.keys.pulse())
            .key(self.keys.quiet())
            .arg(&node)
            .arg(&epoch)
            .arg(&candidate)
            .arg("moved")
            .arg("state")
            .arg(self.keys.node_prefix())
            .arg(self.keys.reservation_prefix())
            .arg(millis(ROOM_ROW))
            .arg(millis(RESERVATION));
        let before = self.model.row(&name).cloned();
        let content = ("moved", "state");
        let model = self.model.move_room(&name, (&node, model_epoch), &candidate, content);
        self.compare(&key, before, model, &call).await;
    }

    /// Compares what a script answers with what the model did.
    async fn compare(
        &mut self,
        key: &str,
        before: Option<Row>,
        model: Answer,
        call: &ScriptInvocation<'_>,
    ) {
        let old: Option<String> = self.connection.hget(key, "epoch").await.unwrap();
        let real: Vec<String> = call.invoke_async(&mut self.connection).await.unwrap();
        let expected = match &model {
            Answer::Home(home) => {
                let row = &home.row;
                let rises = before.is_none_or(|before| before.epoch < row.epoch);
                let number = |epoch: &str| epoch.parse::<u64>().unwrap();
                let old = old.as_deref().map_or(0, number);
                assert_eq!(number(&real[1]) > old, rises, "{real:?} after {old}, {model:?}");
                let record = serde_json::to_string(&home.record).unwrap();
                let Row { node, epoch: _, sid, metadata, state } = row.clone();
                let (reserved, earlier) = (home.reserved.to_string(), home.earlier.clone());
                vec![node, real[1].clone(), sid, metadata, state, record, reserved, earlier]
            }
            Answer::Nobody => Vec::new(),
            Answer::Full => vec!["full".to_owned()],
            Answer::Quiet => vec!["quiet".to_owned()],
            Answer::Late => vec!["late".to_owned()],
            Answer::Lost => vec!["lost".to_owned()],
        };
        assert_eq!(real, expected);
    }

    async fn write(&mut self) {
        let ((name, key), node) = (self.room(), self.node());
        let (epoch, model_epoch) = self.epochs(&name, &key).await;
        let script = Script::new(UPDATE_ROOM);
        let mut call = script.prepare_invoke();
        call.key(&key).arg(&node).arg(&epoch).arg("metadata").arg("written");
        let real: u64 = call.invoke_async(&mut self.connection).await.unwrap();
        let model = self.model.update(&name, (&node, model_epoch), ("metadata", "written"));
        assert_eq!(real == 1, model);
    }

    async fn release(&mut self) {
        let ((name, key), node) = (self.room(), self.node());
        if self.rng.random_bool(0.5) {
            self.end_node(&node).await;
            return;
        }
        let (epoch, model_epoch) = self.epochs(&name, &key).await;
        let script = Script::new(RELEASE_ROOM);
        let mut call = script.prepare_invoke();
        call.key(&key).arg(&node).arg(&epoch);
        let real: u64 = call.invoke_async(&mut self.connection).await.unwrap();
        assert_eq!(real == 1, self.model.release(&name, (&node, model_epoch)));
    }

    /// A node leaves, or is found to be gone.
    async fn end_node(&mut self, node: &str) {
        let leaves = self.rng.random_bool(0.5);
        let has_missed = !leaves && self.rng.random_bool(0.5);
        let key = self.keys.node(&NodeId::from(node.to_owned()));
        if has_missed {
            self.model.age_lease(node);
            let _old: u64 = self.connection.pexpire(&key, MISSED).await.unwrap();
        }
        let script = Script::new(if leaves { RELEASE_NODE } else { END_NODE });
        let mut call = script.prepare_invoke();
        call.key(self.keys.nodes()).key(key).key(self.keys.gone()).arg(node).arg(MISSED);
        let real: u64 = call.invoke_async(&mut self.connection).await.unwrap();
        let model = if leaves { self.model.release_node(node) } else { self.model.end_node(node) };
        assert_eq!(real == 1, model);
    }

    /// Something ends by itself; the real one is told so, since nobody waits for it.
    async fn pass_time(&mut self) {
        let node = self.node();
        let key = match self.rng.random_range(0..8) {
            0 => {
                self.model.end_pulse();
                self.keys.pulse()
            }
            1 => {
                // As if another process of Redis had taken over.
                self.model.take_over(self.model.run + 1);
                for number in 0..NODES {
                    let key = self.keys.node(&NodeId::from(format!("ND_{number}")));
                    if self.connection.exists(&key).await.unwrap() {
                        let _same: u64 = self.connection.hset(&key, "term", "old").await.unwrap();
                    }
                }
                self.keys.pulse()
            }
            2 | 3 => {
                self.model.end_lease(&node);
                self.keys.node(&NodeId::from(node))
            }
            _ => {
                self.model.end_quiet();
                self.keys.quiet()
            }
        };
        let _gone: u64 = self.connection.del(key).await.unwrap();
    }
}

#[tokio::test]
async fn scripts_and_their_model_agree() {
    let redis = Redis::start().await;
    let client = redis::Client::open(format!("redis://127.0.0.1:{}", redis.port)).unwrap();
    let connection = client.get_multiplexed_async_connection().await.unwrap();
    for seed in 0..SEEDS {
        let mut model = Store::new(Bug::None);
        model.advance(NOW);
        let (keys, rng) = (Keys::new(&format!("seed-{seed}")), StdRng::seed_from_u64(seed));
        let (renewals, terms) = (0, BTreeMap::new());
        let connection = connection.clone();
        let known = (String::new(), Vec::new());
        let mut pair = Pair { model, connection, keys, rng, renewals, terms, known };
        let steps = tokio::spawn(async move {
            for _ in 0..STEPS {
                pair.step().await;
            }
        });
        assert!(steps.await.is_ok(), "seed {seed}");
    }
}
