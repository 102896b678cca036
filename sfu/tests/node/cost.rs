//! What a join and a heartbeat cost a real Redis: the same however many rooms there are. The numbers
//! are in `docs/operations.md`.

use std::time::Duration;

use contract::ids::{NodeId, RoomName};
use contract::redis::{
    CLAIM_ROOM, Keys, MediaAddresses, NODE_RENEWAL, NodeLoad, NodeRecord, NodeState, RENEW_NODE,
    VIEW_LIFE,
};
use redis::aio::MultiplexedConnection;
use redis::{AsyncCommands as _, Pipeline, Script};

use crate::scripts::{Renewal, millis, renewal};
use crate::support::{HOUR, Redis, unix_time};

/// Rooms that are written at once.
const BATCH: usize = 1_000;

/// A Redis with nodes and rooms. Nothing ends while it is measured, however slow the machine.
struct Scene {
    connection: MultiplexedConnection,
    keys: Keys,
    /// Version of the nodes' records that all callers have.
    version: String,
}

impl Scene {
    async fn new(redis: &Redis, nodes: u16, rooms: usize) -> Self {
        let client = redis::Client::open(format!("redis://127.0.0.1:{}", redis.port)).unwrap();
        let connection = client.get_multiplexed_async_connection().await.unwrap();
        let mut scene = Self { connection, keys: Keys::new("u1"), version: String::new() };
        let () = redis::cmd("FLUSHALL").query_async(&mut scene.connection).await.unwrap();
        for number in 0..nodes {
            scene.renew(number, "first", HOUR).await;
        }
        // A Redis that has just started lets no room begin for a while.
        let () = scene.connection.del(scene.keys.quiet()).await.unwrap();
        for batch in (0..rooms).collect::<Vec<_>>().chunks(BATCH) {
            let mut pipeline = Pipeline::new();
            for number in batch {
                let key = scene.keys.room(&RoomName::new(format!("room {number}")).unwrap());
                let row = [("node", "ND_1"), ("epoch", "1"), ("sid", "RM_1")];
                pipeline.hset_multiple(key, &row).ignore();
            }
            let () = pipeline.query_async(&mut scene.connection).await.unwrap();
        }
        scene
    }

    async fn renew(&mut self, number: u16, which: &str, view_life: Duration) {
        let [high, low] = number.to_be_bytes();
        let record = NodeRecord {
            id: NodeId::from(format!("ND_{number}")),
            name: format!("pod-{number}"),
            address: ([10, 0, high, low], 7890).into(),
            state: NodeState::Open,
            media: MediaAddresses::default(),
            region: String::new(),
        };
        let script = Script::new(RENEW_NODE);
        let mut call = renewal(&script, &self.keys, &record, which, [HOUR; 4], [1, 1]);
        let load = NodeLoad::from([1_000, 20_000, 1_000_000, 999, 1_000_000]);
        call.arg(load.report()).arg(&self.version).arg(millis(view_life));
        let renewed: Renewal = call.invoke_async(&mut self.connection).await.unwrap();
        self.version = renewed.6;
    }

    /// Asks for a room's home in the name of the first node.
    async fn claim(&mut self, room: &str) {
        let (keys, script) = (&self.keys, Script::new(CLAIM_ROOM));
        let mut call = script.prepare_invoke();
        call.key(keys.room(&RoomName::new(room).unwrap()))
            .key(keys.pulse())
            .key(keys.quiet())
            .arg(keys.node_prefix())
            .arg(keys.reservation_prefix())
            .arg("ND_0")
            .arg("ND_1")
            .arg("RM_2")
            .arg(millis(HOUR))
            .arg(millis(HOUR))
            .arg(millis(unix_time()))
            .arg(millis(HOUR));
        let home: Vec<String> = call.invoke_async(&mut self.connection).await.unwrap();
        assert_eq!(home[0], "ND_1");
    }

    /// Has Redis count from now.
    async fn reset(&mut self) {
        let mut reset = redis::cmd("CONFIG");
        let () = reset.arg("RESETSTAT").query_async(&mut self.connection).await.unwrap();
    }

    /// How many commands Redis has carried out, those in scripts among them.
    async fn commands(&mut self) -> u64 {
        let mut ask = redis::cmd("INFO");
        let info: String = ask.arg("commandstats").query_async(&mut self.connection).await.unwrap();
        let calls = info.lines().filter_map(|line| {
            let (command, numbers) = line.strip_prefix("cmdstat_")?.split_once(':')?;
            let is_own = command.starts_with("config") || command.starts_with("script");
            let calls = numbers.strip_prefix("calls=")?.split(',').next()?;
            (!is_own).then(|| calls.parse::<u64>().unwrap())
        });
        calls.sum()
    }

    /// A number that Redis has counted.
    async fn counted(&mut self, section: &str, name: &str) -> f64 {
        let mut ask = redis::cmd("INFO");
        let info: String = ask.arg(section).query_async(&mut self.connection).await.unwrap();
        let line = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.unwrap().trim().parse().unwrap()
    }

    /// Commands of a join to a new room, of one to a living room, of a heartbeat that is told what
    /// another one read of all nodes, and of one that reads it.
    async fn costs(&mut self) -> [u64; 4] {
        // The scripts are known from then on.
        self.claim("room 0").await;
        self.reset().await;
        self.claim("new").await;
        let new = self.commands().await;
        self.reset().await;
        self.claim("room 0").await;
        let living = self.commands().await;
        self.renew(0, "next", HOUR).await;
        self.reset().await;
        self.renew(0, "next", HOUR).await;
        let told = self.commands().await;
        self.reset().await;
        self.renew(0, "next", Duration::ZERO).await;
        [new, living, told, self.commands().await]
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_join_and_a_heartbeat_cost_the_same_however_many_rooms_there_are() {
    let redis = Redis::start().await;
    let few = Scene::new(&redis, 3, 1).await.costs().await;
    let many = Scene::new(&redis, 3, 50_000).await.costs().await;
    assert_eq!(few, many);
    // A join asks nothing of the other nodes, nor does a heartbeat, but for one now and then.
    let nodes = Scene::new(&redis, 103, 1).await.costs().await;
    assert_eq!(nodes[..3], few[..3]);
    assert_eq!(nodes[3], few[3] + 2 * 100);
    assert_eq!(few, [12, 4, 20, 24 + 2 * 3], "as documented");
}

/// One second of a thousand nodes; what it takes of Redis is shown by `--nocapture`.
#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_nodes_are_read_once_a_second() {
    let redis = Redis::start().await;
    let nodes = 1_000;
    let mut scene = Scene::new(&redis, nodes, 1).await;
    scene.renew(0, "next", HOUR).await;
    scene.reset().await;
    let (user, system) = ("used_cpu_user", "used_cpu_sys");
    let before = scene.counted("cpu", user).await + scene.counted("cpu", system).await;
    for number in 0..nodes {
        // The first reads; the others come within the second after.
        let view_life = if number == 0 { Duration::ZERO } else { HOUR };
        scene.renew(number, "next", view_life).await;
    }
    let after = scene.counted("cpu", user).await + scene.counted("cpu", system).await;
    let commands = scene.commands().await;
    let sent = scene.counted("stats", "total_net_output_bytes").await / 1e6;
    #[allow(clippy::print_stdout)] // For docs/operations.md.
    {
        println!("{commands} commands, {:.3} s of CPU, {sent:.1} MB sent", after - before);
    }
    assert!(commands < 23 * u64::from(nodes), "{commands} commands");
    assert_eq!(VIEW_LIFE * nodes.into(), NODE_RENEWAL, "they are read once in a renewal");
}
