//! Which node becomes the home of a new room: one with a place, in the region where it is asked for.

use contract::node_state::NodeState;
use contract::redis::NO_LIMIT;
use serde_json::json;
use sfu::settings::Settings;

use crate::support::{ClusterNode, Files, Redis, admin_token, eventually, get, join, twirp};

/// Nodes with these settings, which know each other.
async fn nodes<const N: usize>(settings: [Settings; N]) -> Vec<ClusterNode> {
    let mut nodes = Vec::new();
    for settings in settings {
        nodes.push(ClusterNode::start(settings).await);
    }
    for node in &nodes {
        let placement = &node.running.node.placement;
        eventually("the nodes know each other", || async { placement.nodes().len() == N }).await;
    }
    nodes
}

#[tokio::test(flavor = "multi_thread")]
async fn full_nodes_get_no_new_rooms_and_keep_those_that_they_have() {
    let (files, redis) = (Files::new(), Redis::start().await);
    let of_two = |name| {
        let mut settings = files.settings(name, "u1", redis.port);
        settings.config.capacity.rooms = 2;
        settings
    };
    let nodes = nodes([of_two("a"), of_two("b")]).await;
    let create = async |node: &ClusterNode, room: &str| {
        twirp(&node.base, "CreateRoom", &admin_token(room), json!({"name": room})).await
    };
    for number in 0..4 {
        let created = create(&nodes[number % 2], &format!("room {number}")).await;
        assert_eq!(created.status, 200, "{created:?}");
        eventually("the room is in the report of its home", || async {
            let known = nodes[0].running.node.placement.nodes();
            nodes.iter().all(|node| {
                let rooms = node.running.node.rooms.counts().rooms;
                let mut known = known.iter().filter(|known| known.record.id.as_str() == node.id());
                known.any(|known| known.load.rooms == rooms && known.reservations == 0)
            })
        })
        .await;
    }
    for node in &nodes {
        assert_eq!(node.running.node.rooms.counts().rooms, 2);
    }
    let refused = create(&nodes[0], "fifth").await;
    assert_eq!(refused.status, 503, "{refused:?}");
    assert!(refused.headers.contains_key("retry-after"), "{refused:?}");
    assert!(refused.body.contains("full"), "{refused:?}");
    let metrics = get(&format!("http://{}/metrics", nodes[0].admin)).await.body;
    assert!(metrics.contains(r#"livecluster_unplaced_rooms_total{reason="full"} 1"#), "{metrics}");
    // Rooms that must go are not lost, however full the others are.
    nodes[0].running.node.drain.order(NodeState::Draining { rooms_per_second: 50 });
    eventually("the rooms have moved", || async {
        nodes[1].running.node.rooms.counts().rooms == 4
    })
    .await;
    let (_bob, at) = join(&nodes[0].base, "room 0", "bob").await;
    assert_eq!(at, nodes[1].id(), "who comes to a living room is let in");
}

#[tokio::test(flavor = "multi_thread")]
async fn rooms_begin_in_the_region_where_they_are_asked_for() {
    let (files, redis) = (Files::new(), Redis::start().await);
    let in_region = |name: &str, region: &str| {
        let mut settings = files.settings(name, "u1", redis.port);
        let file = files.path(&format!("region-{name}"));
        std::fs::write(&file, format!("{region}\n")).unwrap();
        settings.config.media.region_file = Some(file);
        settings
    };
    let nodes = nodes([in_region("a", "north"), in_region("b", "south")]).await;
    assert!(nodes[0].running.node.placement.nodes().iter().all(|n| n.load.free_rooms == NO_LIMIT));
    for number in 0..6 {
        for node in &nodes {
            let room = format!("{number} at {}", node.id());
            let (_anna, at) = join(&node.base, &room, "anna").await;
            assert_eq!(at, node.id(), "{room}");
        }
    }
    nodes[1].running.node.drain.order(NodeState::Cordoned);
    let (_anna, at) = join(&nodes[1].base, "elsewhere", "anna").await;
    assert_eq!(at, nodes[0].id(), "better far than nowhere");
}
