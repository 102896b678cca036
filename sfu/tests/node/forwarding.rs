//! `ForwardParticipant` and `MoveParticipant` between rooms of different nodes.

use contract::access_token::{VideoGrants, claims};
use contract::ids::RoomName;
use contract::node_state::NodeState;
use livekit_protocol::signal_response;
use serde_json::json;

use crate::cluster::two_nodes;
use crate::support::{
    Answer, ClusterNode, Files, HOUR, Redis, Socket, admin_token, eventually, join, next_message,
    open, sign, twirp, unix_time,
};

const DRAINING: NodeState = NodeState::Draining { rooms_per_second: 50 };

/// A token that may act on `room` and send its participants to `destination`.
fn mover(room: &str, destination: &str) -> String {
    let mut mover = claims("server", unix_time(), HOUR);
    mover.video = VideoGrants {
        room_admin: true,
        room: room.to_owned(),
        destination_room: destination.to_owned(),
        ..VideoGrants::default()
    };
    sign(mover)
}

async fn forward(base: &str, room: &str, identity: &str, destination: &str) -> Answer {
    let body = json!({"room": room, "identity": identity, "destination_room": destination});
    twirp(base, "ForwardParticipant", &mover(room, destination), body).await
}

async fn look(base: &str, room: &str, identity: &str) -> Answer {
    let who = json!({"room": room, "identity": identity});
    twirp(base, "GetParticipant", &admin_token(room), who).await
}

/// Anna in `here`, and Ben in a room whose home is the other node: the home of each, then the room
/// of Ben.
async fn anna_and_ben(nodes: [ClusterNode; 2]) -> (ClusterNode, ClusterNode, String, [Socket; 2]) {
    let (anna, home) = join(&nodes[0].base, "here", "anna").await;
    let [first, second] = nodes;
    let (here, there) = if first.id() == home { (first, second) } else { (second, first) };
    for number in 0.. {
        let room = format!("room {number}");
        let (ben, at) = join(&here.base, &room, "ben").await;
        if at == there.id() {
            return (here, there, room, [anna, ben]);
        }
    }
    unreachable!("rooms are spread over both nodes")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_participant_is_forwarded_to_a_room_of_another_node_and_followed() {
    let (files, redis) = (Files::new(), Redis::start().await);
    let (here, there, room, [_anna, mut ben]) = anna_and_ben(two_nodes(&files, &redis).await).await;
    assert_eq!(forward(&there.base, "here", "nobody", &room).await.json()["code"], "not_found");
    for front_door in [&here, &there] {
        let forwarded = forward(&front_door.base, "here", "anna", &room).await;
        assert_eq!(forwarded.status, 200, "again is no error: {forwarded:?}");
    }
    let shown = loop {
        if let signal_response::Message::Update(update) = next_message(&mut ben).await
            && let Some(anna) = update.participants.into_iter().find(|p| p.identity == "anna")
        {
            break anna;
        }
    };
    assert_eq!(shown.kind_details, [1], "FORWARDED");
    let rename = json!({"room": "here", "identity": "anna", "name": "Anna", "metadata": "m"});
    twirp(&there.base, "UpdateParticipant", &admin_token("here"), rename).await;
    eventually("the other room follows", || async {
        let seen = look(&here.base, &room, "anna").await.json();
        seen["name"] == "Anna" && seen["metadata"] == "m"
    })
    .await;
    // Removed there, it stays here, and may come again.
    let who = json!({"room": room, "identity": "anna"});
    twirp(&here.base, "RemoveParticipant", &admin_token(&room), who).await;
    assert_eq!(look(&here.base, &room, "anna").await.status, 404);
    assert_eq!(look(&here.base, "here", "anna").await.status, 200);
    eventually("it is forwarded again", || async {
        assert_eq!(forward(&here.base, "here", "anna", &room).await.status, 200);
        look(&here.base, &room, "anna").await.status == 200
    })
    .await;
    // It goes when it leaves its own room.
    let who = json!({"room": "here", "identity": "anna"});
    twirp(&there.base, "RemoveParticipant", &admin_token("here"), who).await;
    eventually("the other room follows", || async {
        look(&here.base, &room, "anna").await.status == 404
    })
    .await;
    assert_eq!(look(&here.base, &room, "ben").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_room_of_another_node_refuses_as_one_of_this_does() {
    let (files, redis) = (Files::new(), Redis::start().await);
    let (here, there, room, _sockets) = anna_and_ben(two_nodes(&files, &redis).await).await;
    let (_ben, _) = join(&here.base, "here", "ben").await;
    let taken = forward(&here.base, "here", "ben", &room).await;
    assert_eq!(taken.json()["code"], "already_exists", "{taken:?}");
    let full = json!({"name": room, "max_participants": 1});
    twirp(&there.base, "CreateRoom", &admin_token(&room), full).await;
    let full = forward(&here.base, "here", "anna", &room).await;
    assert_eq!(full.json()["code"], "resource_exhausted", "{full:?}");
    // What was refused is not remembered as forwarded.
    let free = json!({"name": room, "max_participants": 9});
    twirp(&there.base, "CreateRoom", &admin_token(&room), free).await;
    assert_eq!(forward(&here.base, "here", "anna", &room).await.status, 200);
    assert_eq!(look(&here.base, &room, "anna").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_room_that_does_not_exist_begins_where_the_participant_is_or_elsewhere() {
    let (files, redis) = (Files::new(), Redis::start().await);
    let (here, there, _, _sockets) = anna_and_ben(two_nodes(&files, &redis).await).await;
    assert_eq!(forward(&there.base, "here", "anna", "new").await.status, 200);
    let lives_at = |node: &ClusterNode, room: &str| {
        node.running.node.rooms.get(&RoomName::new(room).unwrap()).is_some()
    };
    assert!(lives_at(&here, "new") && !lives_at(&there, "new"));
    here.running.node.drain.order(NodeState::Cordoned);
    eventually("it takes no new rooms", || async {
        let body = forward(&there.base, "here", "anna", "newer").await;
        body.status == 200
    })
    .await;
    assert_eq!(look(&here.base, "newer", "anna").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn both_sides_end_when_a_room_does() {
    let (files, redis) = (Files::new(), Redis::start().await);
    let (here, there, room, [_anna, ben]) = anna_and_ben(two_nodes(&files, &redis).await).await;
    assert_eq!(forward(&here.base, "here", "anna", &room).await.status, 200);
    let delete = |base: String, room: String| async move {
        let body = json!({"room": room});
        assert_eq!(twirp(&base, "DeleteRoom", &admin_token(&room), body).await.status, 200);
    };
    drop(ben);
    delete(here.base.clone(), room.clone()).await;
    // A room of the same name is another: anna is forwarded anew.
    let (_ben, _) = join(&here.base, &room, "ben").await;
    assert_eq!(look(&here.base, &room, "anna").await.status, 404);
    eventually("it is forwarded again", || async {
        assert_eq!(forward(&here.base, "here", "anna", &room).await.status, 200);
        look(&here.base, &room, "anna").await.status == 200
    })
    .await;
    delete(there.base.clone(), "here".to_owned()).await;
    eventually("the other room follows", || async {
        look(&here.base, &room, "anna").await.status == 404
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forwarding_outlives_the_move_of_either_room() {
    let (files, redis) = (Files::new(), Redis::start().await);
    let (here, there, room, [anna, _ben]) = anna_and_ben(two_nodes(&files, &redis).await).await;
    assert_eq!(forward(&here.base, "here", "anna", &room).await.status, 200);
    let lives_at = |node: &ClusterNode, room: &str| {
        node.running.node.rooms.get(&RoomName::new(room).unwrap()).is_some()
    };
    let is_shown = async |metadata: &str| {
        let shown = look(&here.base, &room, "anna").await;
        shown.status == 200 && shown.json()["metadata"] == metadata
    };
    // The room that shows her comes to her own node.
    there.running.node.drain.order(DRAINING);
    eventually("the other room moves, and shows her again", async || {
        lives_at(&here, &room) && is_shown("").await
    })
    .await;
    // Both move; she is shown when she is back.
    there.running.node.drain.order(NodeState::Open);
    here.running.node.drain.order(DRAINING);
    eventually("both rooms move", async || lives_at(&there, "here") && lives_at(&there, &room))
        .await;
    drop(anna);
    let (anna, _) = join(&here.base, "here", "anna").await;
    eventually("she is shown again", async || is_shown("").await).await;
    // Her own room leaves the one that shows her behind.
    let name = RoomName::new("here").unwrap();
    here.running.node.drain.order(NodeState::Open);
    eventually("her room moves alone", async || {
        let Some(handle) = there.running.node.rooms.get(&name) else { return true };
        handle.hand_over().await == Ok(true)
    })
    .await;
    drop(anna);
    let (_anna, _) = join(&there.base, "here", "anna").await;
    eventually("she is shown again", async || is_shown("").await).await;
    assert!(lives_at(&here, "here") && lives_at(&there, &room));
    // It is the same forwarding still: it follows her, and ends with her.
    let change = json!({"room": "here", "identity": "anna", "metadata": "back"});
    twirp(&there.base, "UpdateParticipant", &admin_token("here"), change).await;
    eventually("the other room follows", async || is_shown("back").await).await;
    let who = json!({"room": "here", "identity": "anna"});
    twirp(&here.base, "RemoveParticipant", &admin_token("here"), who).await;
    eventually("it ends with her", async || look(&here.base, &room, "anna").await.status == 404)
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_participant_moves_to_a_room_of_another_node() {
    let (files, redis) = (Files::new(), Redis::start().await);
    let (here, there, room, [mut anna, _ben]) = anna_and_ben(two_nodes(&files, &redis).await).await;
    let body = json!({"room": "here", "identity": "anna", "destination_room": room});
    let answer = twirp(&there.base, "MoveParticipant", &mover("here", &room), body).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let moved = loop {
        if let signal_response::Message::RoomMoved(moved) = next_message(&mut anna).await {
            break moved;
        }
    };
    // It comes back through whichever node.
    let path = format!("/rtc?access_token={}&protocol=16", moved.token);
    let mut socket = open(&here.base, &path).await.unwrap();
    let signal_response::Message::Join(join) = next_message(&mut socket).await else {
        panic!("it joins")
    };
    assert_eq!(join.server_info.unwrap().node_id, there.id());
    assert_eq!(join.room.unwrap().name, room);
    assert!(join.other_participants.iter().any(|other| other.identity == "ben"));
    assert_eq!(look(&here.base, "here", "anna").await.status, 404);
}
