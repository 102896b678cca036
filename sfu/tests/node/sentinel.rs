//! A Redis with a replica and a Sentinel, one after the other in charge.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use contract::ids::RoomName;
use contract::sfu_config::SentinelConfig;
use tempfile::TempDir;

use crate::support::{ClusterNode, Files, Redis, eventually, free_port, join, join_token, open};

/// Time for a fail-over on a busy machine.
const FAIL_OVER_TIMEOUT: Duration = Duration::from_secs(60);

/// A Sentinel of one vote; ends with the test.
struct Sentinel {
    child: Child,
    port: u16,
    _directory: TempDir,
}

impl Sentinel {
    fn start(master: u16) -> Self {
        let (port, directory) = (free_port(), TempDir::new().unwrap());
        let config = directory.path().join("sentinel.conf");
        let text = format!(
            "port {port}\nbind 127.0.0.1\nsentinel monitor live 127.0.0.1 {master} 1\n\
             sentinel down-after-milliseconds live 1000\nsentinel failover-timeout live 5000\n"
        );
        std::fs::write(&config, text).unwrap();
        let child = Command::new("redis-server")
            .arg(&config)
            .arg("--sentinel")
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server is installed (Debian package redis-server)");
        Self { child, port, _directory: directory }
    }
}

impl Drop for Sentinel {
    fn drop(&mut self) {
        // It may have ended already.
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn living_rooms_go_on_and_new_ones_begin_when_a_replica_takes_over() {
    let (files, mut master) = (Files::new(), Redis::start().await);
    let replica = Redis::start().await;
    replica.follow(master.port).await;
    let sentinel = Sentinel::start(master.port);
    let mut settings = files.settings("a", "u1", 0);
    let redis = settings.config.redis.as_mut().unwrap();
    redis.address = String::new();
    let addresses = vec![format!("127.0.0.1:{}", sentinel.port)];
    redis.sentinel = Some(SentinelConfig { addresses, master: "live".to_owned() });
    let node = ClusterNode::start(settings).await;
    let (_anna, _) = join(&node.base, "living", "anna").await;
    let room = RoomName::new("living").unwrap();
    let before = node.running.node.placement.find(&room).await.unwrap().unwrap();
    // A Sentinel knows of replicas when it asked the master.
    eventually("the Sentinel knows the replica", || sentinel_knows_replica(sentinel.port)).await;
    master.stop();
    let end = Instant::now() + FAIL_OVER_TIMEOUT;
    let mut number = 0;
    loop {
        let (_guest, _) = join(&node.base, "living", &format!("guest-{number}")).await;
        number += 1;
        let token = join_token("new", "carl");
        if open(&node.base, &format!("/rtc?access_token={token}")).await.is_ok() {
            break;
        }
        assert!(Instant::now() < end, "no room begins at the new master");
    }
    eventually("the living room is known at the new master", || async {
        let found = node.running.node.placement.find(&room).await;
        found.is_ok_and(|found| found.is_some_and(|found| found.sid == before.sid))
    })
    .await;
}

async fn sentinel_knows_replica(port: u16) -> bool {
    let client = redis::Client::open(format!("redis://127.0.0.1:{port}")).unwrap();
    let Ok(mut connection) = client.get_multiplexed_async_connection().await else { return false };
    let mut question = redis::cmd("SENTINEL");
    question.arg("replicas").arg("live");
    let replicas: Vec<Vec<String>> =
        question.query_async(&mut connection).await.unwrap_or_default();
    !replicas.is_empty()
}
