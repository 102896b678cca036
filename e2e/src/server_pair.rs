//! Two media nodes on this machine that share a Redis, ours or livekit-server's, to break them in the
//! same ways. Clients come by a proxy, as by an ingress that tries the next server when one refuses.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use contract::metrics;
use contract::sfu_config::PEER_NAME;

use crate::certificate::Certificate;
use crate::clients::{HttpClient, Network};
use crate::dev_server::release_program;
use crate::livekit::Access;
use crate::node_pair::Redis;
use crate::process::Run as _;
use crate::stage::stage;
use crate::tcp_proxy::TcpProxy;
use crate::tools::{LIVEKIT_SERVER, Toolchain};
use crate::wait::eventually;

/// The key pair of both.
const KEY: &str = "devkey";
const SECRET: &str = "a-secret-of-both-servers-0123456789abcdef";
/// Where the ports of the two nodes begin, from the first of the pair; each takes ten.
const NODES: [u16; 2] = [10, 20];
/// Metrics, and media, from the first of a node.
const METRICS: u16 = 1;
const MEDIA: u16 = 2;
/// The node's port for the other one, from its first.
const PEER: u16 = 8;
/// The node's way to Redis, from its first.
const WAY: u16 = 9;
/// Redis, from the first of the pair.
const REDIS: u16 = 30;
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// Whose media nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Ours.
    LiveCluster,
    /// livekit-server.
    LiveKit,
}

impl Kind {
    /// For people to read.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::LiveCluster => "livecluster",
            Self::LiveKit => "livekit-server",
        }
    }

    /// The gauge of rooms at home on a node.
    fn rooms(self) -> &'static str {
        match self {
            Self::LiveCluster => metrics::ROOMS,
            Self::LiveKit => "livekit_room_total",
        }
    }

    fn program(self) -> Result<PathBuf> {
        match self {
            Self::LiveCluster => stage("sfu", || release_program("sfu")),
            Self::LiveKit => stage("livekit-server", || {
                Ok(LIVEKIT_SERVER.build(&Toolchain::find()?)?.join(LIVEKIT_SERVER.name))
            }),
        }
    }
}

/// The pair; dropping it ends everything.
pub struct ServerPair {
    kind: Kind,
    program: PathBuf,
    directory: PathBuf,
    port: u16,
    http: HttpClient,
    /// How to enter rooms, by the proxy.
    pub access: Access,
    nodes: [Option<Child>; 2],
    redis: Option<Redis>,
    ways: [TcpProxy; 2],
    _front: TcpProxy,
}

impl ServerPair {
    /// Starts both on the ports `port` to `port + 30`, and waits until they answer.
    pub fn start(kind: Kind, port: u16) -> Result<Self> {
        let directory =
            std::env::temp_dir().join(format!("server-pair-{}-{port}", std::process::id()));
        fs::create_dir_all(&directory).context("making the directory of the pair")?;
        let certificate = Certificate::new(PEER_NAME)?;
        fs::write(directory.join("node.pem"), certificate.pem())?;
        fs::write(directory.join("node.key"), certificate.key_pem())?;
        fs::write(directory.join("keys.yaml"), format!("{KEY}: {SECRET}\n"))?;
        let way = |node: u16| TcpProxy::start(port + node + WAY, vec![local(port + REDIS)]);
        let mut pair = Self {
            kind,
            program: kind.program()?,
            redis: Some(Redis::start(&directory, port + REDIS)?),
            directory,
            port,
            http: HttpClient::start(&Network::here())?,
            access: Access::new(&format!("http://127.0.0.1:{port}"), KEY, SECRET),
            nodes: [None, None],
            ways: [way(NODES[0])?, way(NODES[1])?],
            _front: TcpProxy::start(port, NODES.map(|node| local(port + node)).to_vec())?,
        };
        for number in 0..NODES.len() {
            pair.start_node(number)?;
        }
        Ok(pair)
    }

    /// Starts a node that is not there, and waits until it answers.
    pub fn start_node(&mut self, number: usize) -> Result<()> {
        let first = self.port + NODES[number];
        let config = self.directory.join(format!("{number}.yaml"));
        fs::write(&config, self.configuration(first))?;
        let log = self.log_file(number);
        let output = File::options().create(true).append(true).open(log)?;
        let mut command = Command::new(&self.program);
        match self.kind {
            Kind::LiveCluster => command.env("HOST_IP", "127.0.0.1").args(["--bind", "127.0.0.1"]),
            Kind::LiveKit => command.args(["--node-ip", "127.0.0.1"]),
        };
        command.arg("--config").arg(config).stdin(Stdio::null());
        command.stdout(output.try_clone()?).stderr(output);
        self.nodes[number] = Some(command.spawn().context("starting a node")?);
        eventually("the node answers", START_TIMEOUT, || self.rooms(number).map(drop))
            .with_context(|| self.log(number))
    }

    fn configuration(&self, first: u16) -> String {
        let redis = first + WAY;
        match self.kind {
            Kind::LiveCluster => {
                let file = |name: &str| self.directory.join(name).display().to_string();
                format!(
                    "cluster_uid: pair\npublic_url: {url}\nkeys_file: {keys}\nhttp:\n  \
                     port: {first}\nadmin:\n  port: {admin}\nmedia:\n  first_port: {media}\nlog:\n  \
                     format: text\n  level: info,sfu=debug\nredis:\n  address: 127.0.0.1:{redis}\n\
                     peer:\n  port: {peer}\n  ca_file: {pem}\n  certificate_file: {pem}\n  \
                     key_file: {key}\n",
                    url = self.access.url,
                    keys = file("keys.yaml"),
                    admin = first + METRICS,
                    media = first + MEDIA,
                    peer = first + PEER,
                    pem = file("node.pem"),
                    key = file("node.key"),
                )
            }
            Kind::LiveKit => format!(
                "port: {first}\nbind_addresses: [127.0.0.1]\nprometheus:\n  port: {}\nrtc:\n  \
                 udp_port: {}\n  tcp_port: {}\n  use_external_ip: false\n  \
                 enable_loopback_candidate: true\nredis:\n  address: 127.0.0.1:{redis}\nkeys:\n  \
                 {KEY}: {SECRET}\n",
                first + METRICS,
                first + MEDIA,
                first + MEDIA + 1,
            ),
        }
    }

    /// Rooms at home on a node.
    fn rooms(&self, number: usize) -> Result<f64> {
        let url = format!("http://127.0.0.1:{}/metrics", self.port + NODES[number] + METRICS);
        let answer = self.http.get(&url)?;
        ensure!(answer.status == 200, "status {}", answer.status);
        let lines = answer.body.lines().filter(|line| line.starts_with(self.kind.rooms()));
        Ok(lines.filter_map(|line| line.split(' ').next_back()?.parse::<f64>().ok()).sum())
    }

    /// The node that is home of the only room.
    pub fn home(&self) -> Result<usize> {
        let has_room = |number: &usize| self.rooms(*number).is_ok_and(|rooms| rooms > 0.0);
        (0..NODES.len()).find(has_room).context("no node has a room")
    }

    /// Ends a node's process, which is not asked.
    pub fn kill(&mut self, number: usize) {
        if let Some(mut node) = self.nodes[number].take() {
            // It may have ended by itself.
            let _ = node.kill();
            let _ = node.wait();
        }
    }

    /// Tells a node's process to end.
    pub fn terminate(&self, number: usize) -> Result<()> {
        let node = self.nodes[number].as_ref().context("the node does not run")?;
        Command::new("kill").args(["-TERM", &node.id().to_string()]).run()
    }

    /// Whether a node's process has ended.
    pub fn has_ended(&mut self, number: usize) -> Result<bool> {
        let Some(node) = &mut self.nodes[number] else { return Ok(true) };
        Ok(node.try_wait().context("asking for the node's end")?.is_some())
    }

    /// A node's way to Redis.
    #[must_use]
    pub fn way(&self, number: usize) -> &TcpProxy {
        &self.ways[number]
    }

    /// Ends Redis, which forgets everything.
    pub fn kill_redis(&mut self) {
        self.redis = None;
    }

    /// Starts Redis again.
    pub fn start_redis(&mut self) -> Result<()> {
        self.redis = Some(Redis::start(&self.directory, self.port + REDIS)?);
        Ok(())
    }

    /// What a node wrote.
    #[must_use]
    pub fn log(&self, number: usize) -> String {
        fs::read_to_string(self.log_file(number)).unwrap_or_default()
    }

    fn log_file(&self, number: usize) -> PathBuf {
        self.directory.join(format!("{number}.log"))
    }
}

impl Drop for ServerPair {
    fn drop(&mut self) {
        for number in 0..NODES.len() {
            self.kill(number);
        }
        self.redis = None;
        // What is left harms nobody.
        let _ = fs::remove_dir_all(&self.directory);
    }
}

fn local(port: u16) -> SocketAddr {
    ([127, 0, 0, 1], port).into()
}
