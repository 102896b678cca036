//! The scripts on a real Redis do what their model does, step by step and for many seeds; the
//! simulation of placement (`sfu/core/tests/placement`) rests on the model.

#[path = "../../core/tests/placement/store.rs"]
mod store;

use contract::ids::{NodeId, RoomName};
use contract::redis::{
    CLAIM_ROOM, Keys, MOVE_ROOM, NODE_LEASE, NodeLoad, NodeRecord, NodeState, POD_ROW, PULSE,
    RELEASE_NODE, RELEASE_ROOM, RENEW_NODE, RESERVATION, ROOM_ROW, UPDATE_ROOM,
};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use redis::aio::MultiplexedConnection;
use redis::{AsyncCommands as _, Script, ScriptInvocation};
use store::{Answer, Bug, Row, Store};

use crate::support::Redis;

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
}

fn millis(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap()
}

impl Pair {
    fn record(&mut self) -> NodeRecord {
        let number = self.rng.random_range(0..NODES);
        let states = [NodeState::Open, NodeState::Open, NodeState::Cordoned, NodeState::Draining];
        NodeRecord {
            id: NodeId::from(format!("ND_{number}")),
            // Two processes of a pod.
            name: format!("pod-{}", number / 2),
            address: ([10, 0, 0, number], 7890).into(),
            state: states[self.rng.random_range(0..states.len())],
            load: NodeLoad { rooms: u64::from(number), ..NodeLoad::default() },
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
        if self.rng.random_bool(0.2) {
            real.push('9');
            model += 7;
        }
        (real, model)
    }

    async fn step(&mut self) {
        match self.rng.random_range(0..10) {
            0..=2 => self.renew().await,
            3..=5 => self.claim().await,
            6 => self.give_away().await,
            7 => self.write().await,
            8 => self.release().await,
            _ => self.pass_time().await,
        }
    }

    async fn renew(&mut self) {
        let (record, is_first) = (self.record(), self.rng.random_bool(0.3));
        let keys = &self.keys;
        let script = Script::new(RENEW_NODE);
        let mut call = script.prepare_invoke();
        call.key(keys.nodes())
            .key(keys.node(&record.id))
            .key(keys.pod(&record.name))
            .key(keys.pulse())
            .key(keys.quiet())
            .arg(record.id.as_str())
            .arg(serde_json::to_string(&record).unwrap())
            .arg(millis(NODE_LEASE))
            .arg(keys.node_prefix())
            .arg(keys.reservation_prefix())
            .arg(if is_first { "first" } else { "next" })
            .arg(millis(POD_ROW))
            .arg(millis(PULSE));
        let (was_known, nodes): (u64, Vec<(String, u64)>) =
            call.invoke_async(&mut self.connection).await.unwrap();
        let mut real: Vec<(NodeRecord, u64)> = nodes
            .into_iter()
            .map(|(record, reserved)| (serde_json::from_str(&record).unwrap(), reserved))
            .collect();
        real.sort_by(|(a, _), (b, _)| a.id.as_str().cmp(b.id.as_str()));
        assert_eq!((was_known == 1, real), self.model.renew(&record, is_first));
    }

    async fn claim(&mut self) {
        let ((name, key), candidate) = (self.room(), self.node());
        let (keeps, sid) = (self.rng.random_bool(0.3), format!("RM_{}", self.rng.random::<u32>()));
        let script = Script::new(CLAIM_ROOM);
        let mut call = script.prepare_invoke();
        call.key(&key)
            .key(self.keys.quiet())
            .arg(self.keys.node_prefix())
            .arg(self.keys.reservation_prefix())
            .arg(&candidate)
            .arg(&sid)
            .arg(millis(ROOM_ROW))
            .arg(millis(RESERVATION))
            .arg(if keeps { "keep" } else { "claim" });
        let before = self.model.row(&name).cloned();
        let model = self.model.claim(&name, &candidate, &sid, keeps);
        self.compare(&key, before, model, &call).await;
    }

    async fn give_away(&mut self) {
        let ((name, key), node, candidate) = (self.room(), self.node(), self.node());
        let (epoch, model_epoch) = self.epochs(&name, &key).await;
        let script = Script::new(MOVE_ROOM);
        let mut call = script.prepare_invoke();
        call.key(&key)
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
            Answer::Home(row, record) => {
                let rises = before.is_none_or(|before| before.epoch < row.epoch);
                let number = |epoch: &str| epoch.parse::<u64>().unwrap();
                let old = old.as_deref().map_or(0, number);
                assert_eq!(number(&real[1]) > old, rises, "{real:?} after {old}, {model:?}");
                let record = serde_json::to_string(record).unwrap();
                let Row { node, epoch: _, sid, metadata, state } = row.clone();
                vec![node, real[1].clone(), sid, metadata, state, record]
            }
            Answer::Nobody => Vec::new(),
            Answer::Quiet => vec!["quiet".to_owned()],
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
        if self.rng.random_bool(0.3) {
            let script = Script::new(RELEASE_NODE);
            let mut call = script.prepare_invoke();
            call.key(self.keys.nodes()).key(self.keys.node(&NodeId::from(node.clone()))).arg(&node);
            let real: u64 = call.invoke_async(&mut self.connection).await.unwrap();
            assert_eq!(real == 1, self.model.release_node(&node));
            return;
        }
        let (epoch, model_epoch) = self.epochs(&name, &key).await;
        let script = Script::new(RELEASE_ROOM);
        let mut call = script.prepare_invoke();
        call.key(&key).arg(&node).arg(&epoch);
        let real: u64 = call.invoke_async(&mut self.connection).await.unwrap();
        assert_eq!(real == 1, self.model.release(&name, (&node, model_epoch)));
    }

    /// Something ends by itself; the real one is told so, since nobody waits for it.
    async fn pass_time(&mut self) {
        let node = self.node();
        let key = match self.rng.random_range(0..5) {
            0 => {
                self.model.end_pulse();
                self.keys.pulse()
            }
            1 | 2 => {
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
        model.advance(1_000);
        let (keys, rng) = (Keys::new(&format!("seed-{seed}")), StdRng::seed_from_u64(seed));
        let mut pair = Pair { model, connection: connection.clone(), keys, rng };
        for step in 0..STEPS {
            // In the output of a test that fails the last of these names the place.
            println!("seed {seed}, step {step}");
            pair.step().await;
        }
    }
}
