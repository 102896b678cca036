//! What other programs read on the stream of room events, on a real Redis.

use std::collections::HashMap;

use contract::redis::Keys;
use livekit_protocol::WebhookEvent;
use serde_json::json;

use crate::support::{ClusterNode, Files, Redis, admin_token, eventually, twirp};

const CLUSTER: &str = "u1";

type Entry = HashMap<String, String>;

async fn connect(redis: &Redis) -> redis::aio::MultiplexedConnection {
    let client = redis::Client::open(format!("redis://127.0.0.1:{}", redis.port)).unwrap();
    client.get_multiplexed_async_connection().await.unwrap()
}

/// All entries of the stream.
async fn read(redis: &Redis) -> Vec<Entry> {
    let mut connection = connect(redis).await;
    let mut range = redis::cmd("XRANGE");
    range.arg(Keys::new(CLUSTER).events()).arg("-").arg("+");
    let entries: Vec<(String, Entry)> = range.query_async(&mut connection).await.unwrap();
    entries.into_iter().map(|(_, entry)| entry).collect()
}

async fn node(redis: &Redis, files: &Files, length: u32) -> ClusterNode {
    let mut settings = files.settings("a", CLUSTER, redis.port);
    settings.config.redis.as_mut().unwrap().room_events = length;
    ClusterNode::start(settings).await
}

async fn call(node: &ClusterNode, method: &str, room: &str) {
    let field = if method == "CreateRoom" { "name" } else { "room" };
    let answer = twirp(&node.base, method, &admin_token(room), json!({ field: room })).await;
    assert_eq!(answer.status, 200, "{answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_room_is_told_from_its_beginning_to_its_end() {
    let (redis, files) = (Redis::start().await, Files::new());
    let node = node(&redis, &files, 1000).await;
    call(&node, "CreateRoom", "lobby").await;
    call(&node, "DeleteRoom", "lobby").await;
    eventually("both entries are there", || async { read(&redis).await.len() == 2 }).await;
    let entries = read(&redis).await;
    let field = |entry: &Entry, name: &str| entry[name].clone();
    for (entry, event) in entries.iter().zip(["room_started", "room_finished"]) {
        assert_eq!(field(entry, "event"), event);
        assert_eq!(field(entry, "id"), format!("{event}:{}", entry["room_sid"]));
        assert_eq!(field(entry, "room"), "lobby");
        assert_eq!(field(entry, "node"), node.id());
        assert!(entry["room_sid"].starts_with("RM_") && entry["epoch"].parse::<u64>().is_ok());
    }
    assert_eq!(entries[0]["epoch"], entries[1]["epoch"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_stream_keeps_about_as_many_entries_as_it_is_told_to() {
    let (redis, files) = (Redis::start().await, Files::new());
    let node = node(&redis, &files, 10).await;
    let (events, id) = (&node.running.node.room_events, node.running.node.placement.node_id());
    let room = livekit_protocol::Room { name: "lobby".to_owned(), ..Default::default() };
    for _ in 0..1000 {
        let (event, room) = ("room_started".to_owned(), Some(room.clone()));
        events.send(&WebhookEvent { event, room, ..WebhookEvent::default() }, &id, "1");
    }
    let mut connection = connect(&redis).await;
    eventually("all are written", || {
        let mut connection = connection.clone();
        async move {
            let mut info = redis::cmd("XINFO");
            info.arg("STREAM").arg(Keys::new(CLUSTER).events());
            let info: Result<HashMap<String, redis::Value>, _> =
                info.query_async(&mut connection).await;
            let added = info.ok().and_then(|mut info| info.remove("entries-added"));
            added.is_some_and(|added| redis::from_redis_value::<u64>(added).unwrap() == 1000)
        }
    })
    .await;
    let mut length = redis::cmd("XLEN");
    length.arg(Keys::new(CLUSTER).events());
    let length: u64 = length.query_async(&mut connection).await.unwrap();
    // A block of the stream holds 100 entries.
    assert!((10..=200).contains(&length), "{length}");
    assert_eq!(events.dropped(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_happens_while_redis_is_away_is_told_when_it_is_back() {
    let (mut redis, files) = (Redis::start().await, Files::new());
    let node = node(&redis, &files, 1000).await;
    call(&node, "CreateRoom", "lobby").await;
    redis.stop();
    call(&node, "DeleteRoom", "lobby").await;
    redis.restart().await;
    eventually("the end of the room is told", || async {
        read(&redis).await.iter().any(|entry| entry["event"] == "room_finished")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_of_another_type_costs_the_events_and_nothing_else() {
    let (redis, files) = (Redis::start().await, Files::new());
    let mut connection = connect(&redis).await;
    let mut set = redis::cmd("SET");
    set.arg(Keys::new(CLUSTER).events()).arg("somebody else's");
    let () = set.query_async(&mut connection).await.unwrap();
    let node = node(&redis, &files, 1000).await;
    call(&node, "CreateRoom", "lobby").await;
    let events = &node.running.node.room_events;
    eventually("the loss is counted", || async { events.dropped() == 1 }).await;
    call(&node, "DeleteRoom", "lobby").await;
    eventually("and the next", || async { events.dropped() == 2 }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_length_there_is_no_stream() {
    let (redis, files) = (Redis::start().await, Files::new());
    let node = node(&redis, &files, 0).await;
    call(&node, "CreateRoom", "lobby").await;
    node.running.node.room_events.flush().await;
    assert!(read(&redis).await.is_empty());
}
