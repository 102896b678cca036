//! Several nodes with a real Redis: one home a room, whichever node is asked.

use std::collections::HashSet;

use crate::support::{
    ClusterNode, Files, Redis, admin_token, eventually, get, join, join_token, open, twirp,
};
use contract::ids::RoomName;
use serde_json::json;
use sfu::peer::PeerClient;

/// Two nodes that know each other.
pub(crate) async fn two_nodes(files: &Files, redis: &Redis) -> [ClusterNode; 2] {
    let nodes = [
        ClusterNode::start(files.settings("a", "u1", redis.port)).await,
        ClusterNode::start(files.settings("b", "u1", redis.port)).await,
    ];
    for node in &nodes {
        eventually("the nodes know each other", || async {
            node.running.node.placement.nodes().len() == 2
        })
        .await;
    }
    nodes
}

#[tokio::test(flavor = "multi_thread")]
async fn everybody_meets_on_one_node_whichever_was_asked() {
    let (files, redis) = (Files::new(), Redis::start().await);
    let nodes = two_nodes(&files, &redis).await;
    let mut homes = HashSet::new();
    for number in 0..8 {
        let room = format!("room {number}");
        let (_anna, by_first) = join(&nodes[0].base, &room, "anna").await;
        let (_bob, by_second) = join(&nodes[1].base, &room, "bob").await;
        assert_eq!(by_first, by_second, "{room}");
        let token = admin_token(&room);
        for node in &nodes {
            let people =
                twirp(&node.base, "ListParticipants", &token, json!({"room": room})).await.json();
            assert_eq!(people["participants"].as_array().unwrap().len(), 2, "{people}");
            let rooms =
                twirp(&node.base, "ListRooms", &token, json!({"names": [room]})).await.json();
            assert_eq!(rooms["rooms"].as_array().unwrap().len(), 1, "{rooms}");
        }
        homes.insert(by_first);
    }
    let ids: HashSet<String> = nodes.iter().map(ClusterNode::id).collect();
    assert_eq!(homes, ids, "both nodes are homes");
    let metrics = get(&format!("http://{}/metrics", nodes[0].admin)).await.body;
    assert!(metrics.contains("livecluster_front_door_joins_total"), "{metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_just_when_redis_stops_to_answer_finds_the_living_room() {
    let (files, redis) = (Files::new(), Redis::start().await);
    let nodes = two_nodes(&files, &redis).await;
    let (_anna, home) = join(&nodes[0].base, "living", "anna").await;
    redis.freeze();
    for (node, guest) in nodes.iter().zip(["bob", "clara"]) {
        let (_guest, at) = join(&node.base, "living", guest).await;
        assert_eq!(at, home, "{guest}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn racing_claims_agree() {
    let (files, redis) = (Files::new(), Redis::start().await);
    let nodes = two_nodes(&files, &redis).await;
    let rooms: Vec<RoomName> =
        (0..5_000).map(|number| RoomName::new(format!("race {number}")).unwrap()).collect();
    let claim_all = |node: usize| {
        let placement = std::sync::Arc::clone(&nodes[node].running.node.placement);
        let rooms = rooms.clone();
        tokio::spawn(async move {
            let mut homes = Vec::new();
            for room in &rooms {
                let home = placement.claim(room).await.unwrap();
                homes.push((home.node.id, home.sid));
            }
            homes
        })
    };
    let (first, second) = tokio::join!(claim_all(0), claim_all(1));
    assert_eq!(first.unwrap(), second.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_room_whose_node_left_moves_and_keeps_its_id_and_metadata() {
    let (files, redis) = (Files::new(), Redis::start().await);
    let [first, second] = two_nodes(&files, &redis).await;
    let room = RoomName::new("moving").unwrap();
    let token = admin_token("moving");
    let body = json!({"name": "moving", "metadata": "kept"});
    let before = twirp(&first.base, "CreateRoom", &token, body).await.json();
    let placement = &first.running.node.placement;
    eventually("the room's state is kept", || async {
        placement.find(&room).await.unwrap().is_some_and(|home| home.metadata == "kept")
    })
    .await;
    let home = placement.find(&room).await.unwrap().unwrap();
    let (home_node, other) =
        if home.node.id.as_str() == first.id() { (first, second) } else { (second, first) };
    // The lease ends while the row of the room stays, as when a node is gone.
    let dead = home_node.id();
    home_node.running.node.placement.leave().await;
    let after = twirp(&other.base, "CreateRoom", &token, json!({"name": "moving"})).await;
    assert_eq!(after.status, 200, "{after:?}");
    assert_eq!(after.json()["sid"], before["sid"]);
    assert_eq!(after.json()["metadata"], "kept");
    let moved = other.running.node.placement.find(&room).await.unwrap().unwrap();
    assert_ne!(moved.node.id.as_str(), dead);
    let number = |epoch: &str| epoch.parse::<u64>().unwrap();
    assert!(number(&moved.epoch) > number(&home.epoch));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_redis_living_rooms_go_on_and_new_ones_wait() {
    let (files, mut redis) = (Files::new(), Redis::start().await);
    let node = ClusterNode::start(files.settings("a", "u1", redis.port)).await;
    let (_anna, _) = join(&node.base, "living", "anna").await;
    redis.stop();
    // Longer than a lease: the node must know that Redis is away, not that it lost its rooms.
    tokio::time::sleep(contract::redis::NODE_LEASE).await;
    let (_bob, _) = join(&node.base, "living", "bob").await;
    let token = join_token("new", "carl");
    let refused = open(&node.base, &format!("/rtc?access_token={token}")).await.unwrap_err();
    assert_eq!(refused.0, 503, "{refused:?}");
    let ready = get(&format!("http://{}/readyz", node.admin)).await;
    assert_eq!(ready.status, 200, "readiness does not depend on Redis");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_redis_nodes_trust_each_other_and_find_each_others_rooms() {
    let (files, mut redis) = (Files::new(), Redis::start().await);
    let nodes = two_nodes(&files, &redis).await;
    let (_anna, home) = join(&nodes[0].base, "living", "anna").await;
    redis.stop();
    // Longer than a lease: both must know that Redis is away, not that they are.
    tokio::time::sleep(2 * contract::redis::NODE_LEASE).await;
    for (node, name) in nodes.iter().zip(["bob", "carl"]) {
        let (_guest, at) = join(&node.base, "living", name).await;
        assert_eq!(at, home);
        let people = json!({"room": "living"});
        let people = twirp(&node.base, "ListParticipants", &admin_token("living"), people).await;
        assert_eq!(people.status, 200, "{people:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn living_rooms_assert_themselves_when_redis_comes_back_empty() {
    let (files, mut redis) = (Files::new(), Redis::start().await);
    let [first, second] = two_nodes(&files, &redis).await;
    let room = RoomName::new("living").unwrap();
    let (_anna, home) = join(&first.base, "living", "anna").await;
    let sid = first.running.node.placement.find(&room).await.unwrap().unwrap().sid;
    redis.restart().await;
    for node in [&first, &second] {
        eventually("the room is found at its home", || async {
            let found = node.running.node.placement.find(&room).await;
            found.is_ok_and(|found| {
                found.is_some_and(|found| found.node.id.as_str() == home && found.sid == sid)
            })
        })
        .await;
        let (_bob, at) = join(&node.base, "living", "bob").await;
        assert_eq!(at, home);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_was_passed_on_is_not_passed_on_again() {
    let (files, redis) = (Files::new(), Redis::start().await);
    let [first, second] = two_nodes(&files, &redis).await;
    let (_anna, home) = join(&first.base, "loop", "anna").await;
    let other = if first.id() == home { &second } else { &first };
    let port = other.running.node.settings.config.peer.as_ref().unwrap().port;
    let request = axum::extract::Request::post("/twirp/livekit.RoomService/ListParticipants")
        .header("content-type", "application/json")
        .header("authorization", format!("Bearer {}", admin_token("loop")))
        .body(axum::body::Body::from(json!({"room": "loop"}).to_string()))
        .unwrap();
    let client = PeerClient::new(&files.peer(port, "")).unwrap();
    let answer = client.forward(([127, 0, 0, 1], port).into(), "test", request).await.unwrap();
    assert_eq!(answer.status(), 503);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_nodes_of_the_cluster_are_served() {
    let (files, redis) = (Files::new(), Redis::start().await);
    let node = ClusterNode::start(files.settings("a", "u1", redis.port)).await;
    files.write_certificates(&files.path(""), "stranger-");
    let port = node.running.node.settings.config.peer.as_ref().unwrap().port;
    let address = ([127, 0, 0, 1], port).into();
    let ask = |prefix: &str| {
        let client = PeerClient::new(&files.peer(port, prefix)).unwrap();
        async move {
            let request = axum::extract::Request::get("/").body(axum::body::Body::empty()).unwrap();
            client.forward(address, "test", request).await
        }
    };
    assert_eq!(ask("").await.unwrap().status(), 200);
    assert!(ask("stranger-").await.is_err());
}
