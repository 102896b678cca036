//! A real Redis that refuses, answers late, or is not reached by one node: who is in a room, or comes
//! to one that lives, never notices; new rooms wait; readiness stays.

use std::sync::Arc;
use std::time::Duration;

use contract::ids::RoomName;
use contract::redis::{Keys, NODE_LEASE};
use redis::AsyncCommands as _;
use redis::aio::MultiplexedConnection;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::cluster::two_nodes;
use crate::support::{
    ClusterNode, Files, Redis, admin_token, eventually, get, join, request_error, twirp,
};

/// What a way to Redis does with its answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Open,
    /// They come so late.
    Slow(Duration),
    /// Nothing comes, neither there nor back.
    Cut,
}

/// A way to Redis that a test can change.
struct Proxy {
    port: u16,
    way: Arc<watch::Sender<Way>>,
}

impl Proxy {
    async fn start(redis: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let way = Arc::new(watch::channel(Way::Open).0);
        let ways = Arc::clone(&way);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = TcpStream::connect(("127.0.0.1", redis)).await.unwrap();
                let (from_client, to_client) = client.into_split();
                let (from_server, to_server) = server.into_split();
                tokio::spawn(carry(from_client, to_server, ways.subscribe(), false));
                tokio::spawn(carry(from_server, to_client, ways.subscribe(), true));
            }
        });
        Self { port, way }
    }

    fn set(&self, way: Way) {
        self.way.send_replace(way);
    }
}

/// Carries bytes one way until either end closes.
async fn carry(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut way: watch::Receiver<Way>,
    are_answers: bool,
) {
    let mut buffer = vec![0; 65_536];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        if way.wait_for(|way| *way != Way::Cut).await.is_err() {
            return;
        }
        let current = *way.borrow();
        if let Way::Slow(delay) = current
            && are_answers
        {
            // Until then, or until the way is open again.
            let _opened = tokio::time::timeout(delay, way.wait_for(|way| *way == Way::Open)).await;
        }
        if to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
}

async fn connect(redis: &Redis) -> MultiplexedConnection {
    let client = redis::Client::open(format!("redis://127.0.0.1:{}", redis.port)).unwrap();
    client.get_multiplexed_async_connection().await.unwrap()
}

/// Has the fault last for longer than leases live, and sees that nobody in a room notices.
async fn is_not_noticed(
    nodes: &[ClusterNode; 2],
    begin: impl AsyncFnOnce(),
    end: impl AsyncFnOnce(),
) {
    let sid = create_lasting(&nodes[0], "living").await;
    let (_anna, home) = join(&nodes[0].base, "living", "anna").await;
    begin().await;
    for node in nodes {
        let placement = &node.running.node.placement;
        eventually("the node does without Redis", || async { placement.is_away() }).await;
    }
    tokio::time::sleep(NODE_LEASE).await;
    for (node, guest) in nodes.iter().zip(["bob", "clara"]) {
        let (_guest, at) = join(&node.base, "living", guest).await;
        assert_eq!(at, home, "{guest}");
        let people = json!({"room": "living"});
        let people = twirp(&node.base, "ListParticipants", &admin_token("living"), people).await;
        let people = people.json()["participants"].to_string();
        assert!(people.contains(guest), "{people}");
        let ready = get(&format!("http://{}/readyz", node.admin)).await;
        assert_eq!(ready.status, 200, "readiness does not depend on Redis: {ready:?}");
    }
    let refused = nodes.each_ref().map(|node| async {
        let new = json!({"name": "new"});
        let refused = twirp(&node.base, "CreateRoom", &admin_token("new"), new).await;
        assert_eq!(refused.status, 503, "{refused:?}");
        assert!(refused.headers.contains_key("retry-after"), "{refused:?}");
    });
    futures::future::join_all(refused).await;
    end().await;
    for node in nodes {
        eventually("rooms begin again", || async {
            let new = json!({"name": "new"});
            twirp(&node.base, "CreateRoom", &admin_token("new"), new).await.status == 200
        })
        .await;
        assert_eq!(sid_of(node).await, sid, "the room is the same");
    }
}

/// Makes a room that lives on without people: those of this test send no pings, and are thrown out
/// when the machine is slow.
async fn create_lasting(node: &ClusterNode, room: &str) -> serde_json::Value {
    let lasting = json!({"name": room, "empty_timeout": 3600, "departure_timeout": 3600});
    let created = twirp(&node.base, "CreateRoom", &admin_token(room), lasting).await;
    assert_eq!(created.status, 200, "{created:?}");
    created.json()["sid"].clone()
}

async fn sid_of(node: &ClusterNode) -> serde_json::Value {
    let asked = json!({"names": ["living"]});
    let rooms = twirp(&node.base, "ListRooms", &admin_token("living"), asked).await.json();
    rooms["rooms"][0]["sid"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_in_a_room_notices_that_redis_has_no_memory_left() {
    let (files, redis) = (Files::new(), Redis::start().await);
    let nodes = two_nodes(&files, &redis).await;
    let connection = connect(&redis).await;
    let set = async |most: &str| {
        let mut order = redis::cmd("CONFIG");
        order.arg("SET").arg("maxmemory").arg(most).arg("maxmemory-policy").arg("noeviction");
        let () = order.query_async(&mut connection.clone()).await.unwrap();
    };
    is_not_noticed(&nodes, async || set("1").await, async || set("0").await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_in_a_room_notices_that_a_key_has_another_type() {
    let (files, redis) = (Files::new(), Redis::start().await);
    let nodes = two_nodes(&files, &redis).await;
    let (connection, key) = (connect(&redis).await, Keys::new("u1").nodes());
    let spoil = async || {
        let () = connection.clone().set(&key, "somebody else's").await.unwrap();
    };
    let mend = async || {
        let () = connection.clone().del(&key).await.unwrap();
    };
    is_not_noticed(&nodes, spoil, mend).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_in_a_room_notices_that_redis_answers_too_late() {
    let (files, redis) = (Files::new(), Redis::start().await);
    let proxy = Proxy::start(redis.port).await;
    let nodes = [
        ClusterNode::start(files.settings("a", "u1", proxy.port)).await,
        ClusterNode::start(files.settings("b", "u1", proxy.port)).await,
    ];
    for node in &nodes {
        let placement = &node.running.node.placement;
        eventually("the nodes know each other", || async { placement.nodes().len() == 2 }).await;
    }
    let slow = Way::Slow(Duration::from_secs(5));
    is_not_noticed(&nodes, async || proxy.set(slow), async || proxy.set(Way::Open)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_of_another_type_is_a_matter_of_its_room_alone() {
    let (files, redis) = (Files::new(), Redis::start().await);
    let nodes = two_nodes(&files, &redis).await;
    create_lasting(&nodes[0], "living").await;
    let (_anna, home) = join(&nodes[0].base, "living", "anna").await;
    let (mut connection, keys) = (connect(&redis).await, Keys::new("u1"));
    for room in ["living", "spoiled"] {
        let key = keys.room(&RoomName::new(room).unwrap());
        let _was_there: u64 = connection.del(&key).await.unwrap();
        let () = connection.lpush(&key, "somebody else's").await.unwrap();
    }
    for (node, guest) in nodes.iter().zip(["bob", "clara"]) {
        let (_guest, at) = join(&node.base, "living", guest).await;
        assert_eq!(at, home, "{guest}");
        assert_eq!(request_error(&node.base, "spoiled", guest).await.0, 503);
        let _other = join(&node.base, "another", guest).await;
    }
    let () = connection.del(keys.room(&RoomName::new("spoiled").unwrap())).await.unwrap();
    let _mended = join(&nodes[0].base, "spoiled", "bob").await;
}

/// The room has no home there any more: who was in it was sent away.
async fn ends_at(node: &ClusterNode, room: &str) {
    let room = RoomName::new(room).unwrap();
    eventually("the room ends at its earlier home", || async {
        node.running.node.rooms.get(&room).is_none()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_comes_to_a_node_that_is_cut_off_from_redis_gets_in_by_another() {
    let (files, redis) = (Files::new(), Redis::start().await);
    let proxy = Proxy::start(redis.port).await;
    let cut = ClusterNode::start(files.settings("cut", "u1", proxy.port)).await;
    // Nobody else is there to be their home.
    for room in ["living", "told"] {
        create_lasting(&cut, room).await;
    }
    let other = ClusterNode::start(files.settings("other", "u1", redis.port)).await;
    for node in [&cut, &other] {
        let placement = &node.running.node.placement;
        eventually("the nodes know each other", || async { placement.nodes().len() == 2 }).await;
    }
    let (_anna, at) = join(&other.base, "living", "anna").await;
    assert_eq!(at, cut.id());
    proxy.set(Way::Cut);
    let placement = &cut.running.node.placement;
    eventually("the home must not admit anybody", || async { !placement.may_admit() }).await;
    // Its lease may stand yet.
    let (_bob, at) = join(&cut.base, "living", "bob").await;
    assert_eq!(at, other.id());
    ends_at(&cut, "living").await;
    let (_clara, at) = join(&cut.base, "new", "clara").await;
    assert_eq!(at, other.id(), "new rooms begin where Redis is reached");
    // Nobody comes to the cut node for that room, which hears of its new home all the same.
    let (_emil, at) = join(&other.base, "told", "emil").await;
    assert_eq!(at, other.id());
    ends_at(&cut, "told").await;
    proxy.set(Way::Open);
    eventually("Redis is reached again", || async { placement.may_admit() }).await;
    let (_dora, at) = join(&cut.base, "living", "dora").await;
    assert_eq!(at, other.id());
}
