//! Rooms that move: by order, by the end of a process, and back.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use contract::ids::RoomName;
use contract::node_state::NodeState;
use livekit_protocol::{leave_request, signal_response};
use serde_json::json;
use sfu::peer::{FORWARDED_BY, PeerClient};
use sfu::placement::{Placement, RedisStore};

use crate::cluster::two_nodes;
use crate::support::{
    ClusterNode, Files, Redis, Socket, admin_token, eventually, get, join, next_message, put,
    request_error, twirp,
};

const DRAINING: NodeState = NodeState::Draining { rooms_per_second: 50 };

/// A room with a home on one of two nodes and Anna in it: home, other, sid.
async fn room_with_anna(
    nodes: [ClusterNode; 2],
    room: &str,
) -> (ClusterNode, ClusterNode, String, Socket) {
    let [first, second] = nodes;
    let body = json!({"name": room, "metadata": "kept", "max_participants": 7});
    let created = twirp(&first.base, "CreateRoom", &admin_token(room), body).await.json();
    let (anna, home) = join(&first.base, room, "anna").await;
    let (home, other) = if first.id() == home { (first, second) } else { (second, first) };
    (home, other, created["sid"].as_str().unwrap().to_owned(), anna)
}

/// Reads on until the client is told to connect anew.
async fn await_leave(socket: &mut Socket) {
    loop {
        if let signal_response::Message::Leave(leave) = next_message(socket).await {
            assert_eq!(leave.action(), leave_request::Action::Reconnect);
            return;
        }
    }
}

async fn assert_room_is_at(node: &ClusterNode, room: &str, sid: &str) {
    assert!(node.running.node.rooms.get(&RoomName::new(room).unwrap()).is_some());
    let rooms =
        twirp(&node.base, "ListRooms", &admin_token(room), json!({"names": [room]})).await.json();
    assert_eq!(rooms["rooms"][0]["sid"], sid, "{rooms}");
    assert_eq!(rooms["rooms"][0]["metadata"], "kept");
    assert_eq!(rooms["rooms"][0]["max_participants"], 7);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_draining_node_gives_its_rooms_whole_to_others_and_takes_none() {
    let (files, redis) = (Files::new(), Redis::start().await);
    let nodes = two_nodes(&files, &redis).await;
    let (home, other, sid, mut anna) = room_with_anna(nodes, "moves").await;
    assert!(home.running.node.drain.order(DRAINING));
    await_leave(&mut anna).await;
    // Before anybody comes back, so that an empty room is not lost either.
    assert_room_is_at(&other, "moves", &sid).await;
    let (_anna, at) = join(&home.base, "moves", "anna").await;
    assert_eq!(at, other.id(), "the old home is still a front door");
    for number in 0..10 {
        let (_guest, at) = join(&home.base, &format!("new {number}"), "guest").await;
        assert_eq!(at, other.id());
    }
    let ready = get(&format!("http://{}/readyz", home.admin)).await;
    assert_eq!(ready.status, 200, "a drain is no matter of readiness");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cordoned_node_keeps_its_rooms_and_admits_to_them() {
    let (files, redis) = (Files::new(), Redis::start().await);
    let nodes = two_nodes(&files, &redis).await;
    let (home, other, _, _anna) = room_with_anna(nodes, "stays").await;
    home.running.node.drain.order(NodeState::Cordoned);
    eventually("others know", || async {
        let known = other.running.node.placement.nodes();
        known.iter().any(|node| node.record.state == contract::redis::NodeState::Cordoned)
    })
    .await;
    let (_bob, at) = join(&other.base, "stays", "bob").await;
    assert_eq!(at, home.id());
    for number in 0..10 {
        let (_guest, at) = join(&home.base, &format!("new {number}"), "guest").await;
        assert_eq!(at, other.id());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_is_taken_back_at_any_point() {
    let (files, redis) = (Files::new(), Redis::start().await);
    let nodes = two_nodes(&files, &redis).await;
    let (home, other, sid, mut anna) = room_with_anna(nodes, "returns").await;
    home.running.node.drain.order(DRAINING);
    await_leave(&mut anna).await;
    home.running.node.drain.order(NodeState::Open);
    // The room comes back when the other one drains in turn.
    other.running.node.drain.order(DRAINING);
    eventually("the room is back", || async {
        home.running.node.rooms.get(&RoomName::new("returns").unwrap()).is_some()
    })
    .await;
    assert_room_is_at(&home, "returns", &sid).await;
    // Nobody takes it now, so it stays and people enter.
    home.running.node.drain.order(DRAINING);
    let (_bob, at) = join(&other.base, "returns", "bob").await;
    assert_eq!(at, home.id());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_operators_file_and_orders_by_hand_set_the_state() {
    let (files, redis) = (Files::new(), Redis::start().await);
    let mut settings = files.settings("a", "u1", redis.port);
    settings.config.media.state_file = Some(files.path("state"));
    std::fs::write(files.path("state"), "cordoned\n").unwrap();
    let node = ClusterNode::start(settings).await;
    let url = format!("http://{}/drain", node.admin);
    let becomes = |state: &'static str| {
        let url = url.clone();
        async move {
            eventually(state, || async { get(&url).await.body.trim() == state }).await;
        }
    };
    becomes("cordoned").await;
    std::fs::write(files.path("state"), "something newer").unwrap();
    tokio::time::sleep(Duration::from_millis(1500)).await;
    becomes("cordoned").await;
    assert_eq!(put(&format!("{url}?state=open")).await.status, 200);
    becomes("open").await;
    assert_eq!(put(&format!("{url}?state=shut")).await.status, 400);
    std::fs::write(files.path("state"), "draining 5").unwrap();
    becomes("draining 5").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_ends_moves_its_rooms_first() {
    let (files, redis) = (Files::new(), Redis::start().await);
    let nodes = two_nodes(&files, &redis).await;
    let (home, other, sid, mut anna) = room_with_anna(nodes, "survives").await;
    let ended = tokio::spawn(home.running.stop());
    await_leave(&mut anna).await;
    drop(anna);
    ended.await.unwrap();
    assert_room_is_at(&other, "survives", &sid).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_old_home_passes_late_requests_on_to_the_new_one_but_not_for_ever() {
    let (files, redis) = (Files::new(), Redis::start().await);
    let nodes = two_nodes(&files, &redis).await;
    let (home, _other, _, mut anna) = room_with_anna(nodes, "late").await;
    home.running.node.drain.order(DRAINING);
    await_leave(&mut anna).await;
    let port = home.running.node.settings.config.peer.as_ref().unwrap().port;
    let client = PeerClient::new(&files.peer(port, "")).unwrap();
    let ask = |hops: &str| {
        let request = Request::post("/twirp/livekit.RoomService/ListParticipants")
            .header("content-type", "application/json")
            .header("authorization", format!("Bearer {}", admin_token("late")))
            .header(FORWARDED_BY, "front")
            .header("x-livecluster-hops", hops)
            .body(Body::from(json!({"room": "late"}).to_string()))
            .unwrap();
        client.forward(([127, 0, 0, 1], port).into(), "front", request)
    };
    assert_eq!(ask("1").await.unwrap().status(), 200);
    let refused = ask("2").await.unwrap();
    assert_eq!(refused.status(), 503);
    assert!(refused.headers().contains_key("retry-after"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_restarts_in_place_ends_the_lease_of_the_one_before() {
    let (files, redis) = (Files::new(), Redis::start().await);
    let [first, second] = two_nodes(&files, &redis).await;
    let settings = &first.running.node.settings;
    let redis_config = settings.config.redis.as_ref().unwrap();
    let address = (settings.pod_ip, settings.config.peer.as_ref().unwrap().port).into();
    // The same pod at the same address; the first still renews in this test, as no dead one does.
    let again = Arc::new(RedisStore::new(redis_config, "u1", "a", address).unwrap());
    let renewing = Arc::clone(&again);
    let renews = tokio::spawn(async move { renewing.run(Default::default).await });
    eventually("the earlier process noticed that its lease was ended", || async {
        first.running.node.placement.term() == 1
    })
    .await;
    assert_eq!(second.running.node.placement.term(), 0);
    renews.abort();
}

/// Leaves of a node nothing but its lease and its room, as `kill -9` does.
async fn leave_a_dead_home(files: &Files, redis: &Redis, room: &str) {
    let settings = files.settings("killed", "u1", redis.port);
    let redis_config = settings.config.redis.as_ref().unwrap();
    // Nobody listens there.
    let address = (settings.pod_ip, settings.config.peer.as_ref().unwrap().port).into();
    let store = RedisStore::new(redis_config, "u1", "killed", address).unwrap();
    let placement = Arc::new(Placement::Redis(Box::new(store)));
    let renewing = Arc::clone(&placement);
    let renews = tokio::spawn(async move {
        if let Placement::Redis(store) = &*renewing {
            store.run(Default::default).await;
        }
    });
    let room = RoomName::new(room).unwrap();
    eventually("the room begins", || async { placement.claim_here(&room).await.is_ok() }).await;
    renews.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_to_a_room_whose_home_was_killed_waits_until_it_has_another() {
    let (files, redis) = (Files::new(), Redis::start().await);
    let node = ClusterNode::start(files.settings("a", "u1", redis.port)).await;
    leave_a_dead_home(&files, &redis, "orphan").await;
    let (_anna, at) = join(&node.base, "orphan", "anna").await;
    assert_eq!(at, node.id());
    eventually("nobody waits for the dead node", || async {
        node.running.node.placement.nodes().len() == 1
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_left_does_not_keep_the_others_from_serving_without_redis() {
    let (files, mut redis) = (Files::new(), Redis::start().await);
    let [first, second] = two_nodes(&files, &redis).await;
    let (_anna, home) = join(&first.base, "living", "anna").await;
    let (home, other) = if first.id() == home { (first, second) } else { (second, first) };
    other.running.stop().await;
    eventually("the node is known to have left", || async {
        home.running.node.placement.nodes().len() == 1
    })
    .await;
    redis.stop();
    // Longer than a lease: nobody is there who could pledge.
    tokio::time::sleep(2 * contract::redis::NODE_LEASE).await;
    let (_bob, at) = join(&home.base, "living", "bob").await;
    assert_eq!(at, home.id());
}

#[tokio::test(flavor = "multi_thread")]
async fn without_another_node_rooms_stay_until_the_end() {
    let (files, redis) = (Files::new(), Redis::start().await);
    let node = ClusterNode::start(files.settings("a", "u1", redis.port)).await;
    let (_anna, _) = join(&node.base, "alone", "anna").await;
    node.running.node.drain.order(DRAINING);
    tokio::time::sleep(Duration::from_secs(2)).await;
    let (_bob, at) = join(&node.base, "alone", "bob").await;
    assert_eq!(at, node.id());
    let refused = request_error(&node.base, "another", "bob").await;
    assert_eq!(refused.0, 503);
}
