//! Nodes on a Redis Cluster, and on a Redis with TLS and an authority of its own.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use contract::ids::RoomName;
use contract::sfu_config::RedisConfig;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tempfile::TempDir;

use crate::support::{ClusterNode, Files, eventually, free_port, join};

/// Time in which three servers agree on who has what, on a busy machine.
const AGREEMENT_TIMEOUT: Duration = Duration::from_secs(60);
/// Rooms that both nodes claim at once.
const RACES: usize = 2_000;

/// A server with options of its own; ends with the test.
struct Server {
    child: Child,
    port: u16,
    _directory: TempDir,
}

impl Server {
    fn start(port: u16, directory: TempDir, options: &[&str]) -> Self {
        let child = Command::new("redis-server")
            .arg("--dir")
            .arg(directory.path())
            .args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
            .args(options)
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server is installed (Debian package redis-server)");
        Self { child, port, _directory: directory }
    }

    async fn connect(&self) -> redis::aio::MultiplexedConnection {
        let client = redis::Client::open(format!("redis://127.0.0.1:{}", self.port)).unwrap();
        let end = Instant::now() + AGREEMENT_TIMEOUT;
        loop {
            match client.get_multiplexed_async_connection().await {
                Ok(connection) => return connection,
                Err(error) => assert!(Instant::now() < end, "{error}"),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// Three servers, each with a third of the slots.
async fn cluster() -> [Server; 3] {
    let start = |_| {
        let (port, bus) = (free_port(), free_port());
        let (port_text, bus_text) = (port.to_string(), bus.to_string());
        let options =
            ["--cluster-enabled", "yes", "--port", &port_text, "--cluster-port", &bus_text];
        (Server::start(port, TempDir::new().unwrap(), &options), bus)
    };
    let servers = [0, 1, 2].map(start);
    let mut connections = Vec::new();
    for (number, (server, _)) in servers.iter().enumerate() {
        let mut connection = server.connect().await;
        let first = 5_462 * number;
        let mut add = redis::cmd("CLUSTER");
        add.arg("ADDSLOTSRANGE").arg(first).arg((first + 5_461).min(16_383));
        let () = add.query_async(&mut connection).await.unwrap();
        connections.push(connection);
    }
    for (server, bus) in &servers[1..] {
        let mut meet = redis::cmd("CLUSTER");
        meet.arg("MEET").arg("127.0.0.1").arg(server.port).arg(bus);
        let () = meet.query_async(&mut connections[0]).await.unwrap();
    }
    let end = Instant::now() + AGREEMENT_TIMEOUT;
    for connection in &mut connections {
        loop {
            let mut ask = redis::cmd("CLUSTER");
            let info: String = ask.arg("INFO").query_async(connection).await.unwrap();
            if info.contains("cluster_state:ok") && info.contains("cluster_known_nodes:3") {
                break;
            }
            assert!(Instant::now() < end, "{info}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    servers.map(|(server, _)| server)
}

async fn node(files: &Files, name: &str, redis: RedisConfig) -> ClusterNode {
    let mut settings = files.settings(name, "u1", 0);
    settings.config.redis = Some(redis);
    ClusterNode::start(settings).await
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_on_a_redis_cluster_agree_on_the_home_of_each_room() {
    let (files, servers) = (Files::new(), cluster().await);
    let redis = |server: usize| RedisConfig {
        // One server is enough to find the others.
        cluster: vec![format!("127.0.0.1:{}", servers[server].port)],
        room_events: 100,
        ..RedisConfig::default()
    };
    let nodes = [node(&files, "a", redis(0)).await, node(&files, "b", redis(1)).await];
    eventually("the nodes know each other", || async {
        nodes.iter().all(|node| node.running.node.placement.nodes().len() == 2)
    })
    .await;
    let (_anna, first) = join(&nodes[0].base, "lobby", "anna").await;
    let (_bob, second) = join(&nodes[1].base, "lobby", "bob").await;
    assert_eq!(first, second, "one home");
    let claim_all = |node: usize| {
        let placement = std::sync::Arc::clone(&nodes[node].running.node.placement);
        tokio::spawn(async move {
            let mut homes = Vec::new();
            for number in 0..RACES {
                let room = RoomName::new(format!("race {number}")).unwrap();
                let home = placement.claim(&room).await.unwrap();
                homes.push((home.node.id, home.sid));
            }
            homes
        })
    };
    let (first, second) = tokio::join!(claim_all(0), claim_all(1));
    assert_eq!(first.unwrap(), second.unwrap());
    // All of it is at one of the three.
    let mut sizes = Vec::new();
    for server in &servers {
        let mut connection = server.connect().await;
        let size: usize = redis::cmd("DBSIZE").query_async(&mut connection).await.unwrap();
        sizes.push(size);
    }
    assert_eq!(sizes.iter().filter(|size| **size > RACES).count(), 1, "{sizes:?}");
    assert_eq!(sizes.iter().filter(|size| **size == 0).count(), 2, "{sizes:?}");
}

/// An authority and a server's certificate by it; returns the authority in PEM.
fn write_certificate(directory: &TempDir) -> String {
    let authority_key = KeyPair::generate().unwrap();
    let mut authority = CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let pem = authority.self_signed(&authority_key).unwrap().pem();
    let issuer = Issuer::new(authority, authority_key);
    let key = KeyPair::generate().unwrap();
    let names = vec!["localhost".to_owned()];
    let certificate = CertificateParams::new(names).unwrap().signed_by(&key, &issuer).unwrap();
    std::fs::write(directory.path().join("redis.pem"), certificate.pem()).unwrap();
    std::fs::write(directory.path().join("redis.key"), key.serialize_pem()).unwrap();
    pem
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_with_an_authority_of_its_own_is_trusted_when_that_is_given() {
    let (files, directory, port) = (Files::new(), TempDir::new().unwrap(), free_port());
    let ca_file = files.path("redis-ca.pem");
    std::fs::write(&ca_file, write_certificate(&directory)).unwrap();
    let tls_port = port.to_string();
    let options = [
        "--port",
        "0",
        "--tls-port",
        &tls_port,
        "--tls-cert-file",
        "redis.pem",
        "--tls-key-file",
        "redis.key",
        "--tls-auth-clients",
        "no",
        "--tls-ca-cert-file",
        "redis.pem",
    ];
    let server = Server::start(port, directory, &options);
    let redis = |ca_file| RedisConfig {
        address: format!("localhost:{}", server.port),
        tls: true,
        ca_file,
        ..RedisConfig::default()
    };
    let trusting = node(&files, "a", redis(Some(ca_file))).await;
    let (_anna, _) = join(&trusting.base, "lobby", "anna").await;
    let mut settings = files.settings("b", "u1", 0);
    settings.config.redis = Some(redis(None));
    let doubting = sfu::program::Running::start(settings).await.unwrap();
    let placement = &doubting.node.placement;
    eventually("the certificate is refused", || async { placement.is_away() }).await;
    assert!(!placement.has_settled());
}
