//! Nodes in this process, a real Redis, and plain HTTP and WebSocket clients.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use contract::access_token::{ApiKeys, Claims, VideoGrants, claims};
use contract::sfu_config::{
    AdminConfig, CapacityConfig, CreateRoom, DrainConfig, HttpConfig, LogConfig, MediaConfig,
    PEER_NAME, PeerConfig, RedisConfig, RoomConfig, SfuConfig, WebhookConfig,
};
use futures::StreamExt as _;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper::{Method, Request};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use livekit_protocol::{SignalResponse, signal_response};
use prost::Message as _;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use sfu::program::Running;
use sfu::settings::{KeySource, Settings};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

pub(crate) const HOUR: Duration = Duration::from_secs(3600);
const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// Ports below those that the system gives away.
const PORTS: Range<u16> = 10_000..17_000;
/// Time until something that must happen has happened.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a server answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: hyper::HeaderMap,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }
}

pub(crate) async fn request(
    method: Method,
    url: &str,
    headers: &[(&str, &str)],
    body: impl Into<Bytes>,
) -> Answer {
    let client: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
    let mut request = Request::builder().method(method).uri(url);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = client.request(request.body(Full::new(body.into())).unwrap()).await.unwrap();
    let (parts, body) = response.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    Answer {
        status: parts.status.as_u16(),
        headers: parts.headers,
        body: String::from_utf8_lossy(&body).into_owned(),
    }
}

pub(crate) async fn get(url: &str) -> Answer {
    request(Method::GET, url, &[], "").await
}

pub(crate) async fn put(url: &str) -> Answer {
    request(Method::PUT, url, &[], "").await
}

/// Calls a method of `RoomService` with JSON.
pub(crate) async fn twirp(
    base: &str,
    method: &str,
    token: &str,
    body: serde_json::Value,
) -> Answer {
    let url = format!("{base}/twirp/livekit.RoomService/{method}");
    let bearer = format!("Bearer {token}");
    let headers = [("content-type", "application/json"), ("authorization", bearer.as_str())];
    request(Method::POST, &url, &headers, body.to_string()).await
}

pub(crate) fn keys() -> ApiKeys {
    [("devkey".to_owned(), "secret".to_owned())].into_iter().collect()
}

pub(crate) fn unix_time() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap()
}

pub(crate) fn sign(claims: Claims) -> String {
    keys().sign("devkey", claims).unwrap()
}

/// A token to join `room`.
pub(crate) fn join_token(room: &str, identity: &str) -> String {
    let mut claims = claims(identity, unix_time(), HOUR);
    claims.video = VideoGrants { room_join: true, room: room.to_owned(), ..VideoGrants::default() };
    sign(claims)
}

/// A token of a server that may do everything with `room`.
pub(crate) fn admin_token(room: &str) -> String {
    let mut claims = claims("server", unix_time(), HOUR);
    claims.video = VideoGrants {
        room_create: true,
        room_list: true,
        room_admin: true,
        room: room.to_owned(),
        ..VideoGrants::default()
    };
    sign(claims)
}

/// A client's signalling connection.
pub(crate) type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// Opens the WebSocket; the error is the HTTP status and body.
pub(crate) async fn open(base: &str, path: &str) -> Result<Socket, (u16, String)> {
    let url = format!("{}{path}", base.replace("http://", "ws://"));
    match tokio_tungstenite::connect_async(url).await {
        Ok((socket, _)) => Ok(socket),
        Err(tungstenite::Error::Http(response)) => {
            let body = response.body().clone().unwrap_or_default();
            Err((response.status().as_u16(), String::from_utf8_lossy(&body).into_owned()))
        }
        Err(error) => panic!("{error}"),
    }
}

/// Joins as `identity` on two peer connections, and gives the join response's id of the node.
pub(crate) async fn join(base: &str, room: &str, identity: &str) -> (Socket, String) {
    let token = join_token(room, identity);
    let path = format!("/rtc?access_token={token}&protocol=16&auto_subscribe=1&sdk=go");
    let mut socket = open(base, &path).await.unwrap_or_else(|refused| panic!("{refused:?}"));
    match next_message(&mut socket).await {
        signal_response::Message::Join(join) => {
            let node = join.server_info.unwrap_or_default().node_id;
            (socket, node)
        }
        other => panic!("expected join, not {other:?}"),
    }
}

/// The HTTP status and body by which a join is refused.
pub(crate) async fn request_error(base: &str, room: &str, identity: &str) -> (u16, String) {
    let token = join_token(room, identity);
    open(base, &format!("/rtc?access_token={token}")).await.unwrap_err()
}

pub(crate) async fn next_message(socket: &mut Socket) -> signal_response::Message {
    let next = async {
        loop {
            match socket.next().await.expect("the connection is open").unwrap() {
                tungstenite::Message::Binary(bytes) => {
                    return SignalResponse::decode(bytes).unwrap().message.unwrap();
                }
                tungstenite::Message::Ping(_) | tungstenite::Message::Pong(_) => {}
                other => panic!("unexpected {other:?}"),
            }
        }
    };
    tokio::time::timeout(PATIENCE, next).await.expect("a message comes in time")
}

/// Repeats `check` until it holds.
pub(crate) async fn eventually<F: Future<Output = bool>>(what: &str, mut check: impl FnMut() -> F) {
    let end = Instant::now() + PATIENCE;
    while !check().await {
        assert!(Instant::now() < end, "{what} did not happen in time");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A node as with `--dev`, on free ports.
pub(crate) async fn dev_node() -> (Running, String) {
    let running = Running::start(Settings::dev(None, 0)).await.unwrap();
    let base = format!("http://{}", running.public);
    (running, base)
}

/// A real Redis on a free port; ends with the test.
pub(crate) struct Redis {
    child: Child,
    pub(crate) port: u16,
    /// A replica writes there what it gets at first.
    _directory: TempDir,
}

impl Redis {
    pub(crate) async fn start() -> Self {
        Self::start_on(free_port()).await
    }

    /// Ends it and starts an empty one on the same port.
    pub(crate) async fn restart(&mut self) {
        self.stop();
        *self = Self::start_on(self.port).await;
    }

    async fn start_on(port: u16) -> Self {
        let directory = TempDir::new().unwrap();
        let child = Command::new("redis-server")
            .arg("--dir")
            .arg(directory.path())
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", ""])
            .args(["--appendonly", "no", "--daemonize", "no"])
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server is installed (Debian package redis-server)");
        let redis = Self { child, port, _directory: directory };
        eventually("Redis starts", || async {
            TcpStream::connect((LOCALHOST, port)).await.is_ok()
        })
        .await;
        redis
    }

    /// Makes it the replica of another, and waits until it has what that one holds.
    pub(crate) async fn follow(&self, master: u16) {
        let client = redis::Client::open(format!("redis://127.0.0.1:{}", self.port)).unwrap();
        let mut connection = client.get_multiplexed_async_connection().await.unwrap();
        let mut order = redis::cmd("REPLICAOF");
        order.arg("127.0.0.1").arg(master);
        let () = order.query_async(&mut connection).await.unwrap();
        eventually("the replica is in step", || {
            let mut connection = connection.clone();
            async move {
                let info: String = redis::cmd("INFO")
                    .arg("replication")
                    .query_async(&mut connection)
                    .await
                    .unwrap();
                info.contains("master_link_status:up")
            }
        })
        .await;
    }

    /// Has it answer nobody any more.
    pub(crate) fn freeze(&self) {
        let process = self.child.id().to_string();
        assert!(Command::new("kill").args(["-STOP", &process]).status().unwrap().success());
    }

    /// Ends it and waits until it is gone.
    pub(crate) fn stop(&mut self) {
        // It may have ended already.
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A port that nobody has, and that nobody gets who asks the system for any: it would be taken
/// before it is used.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Tests in other processes begin elsewhere.
    let [.., high, low] = std::process::id().to_be_bytes();
    let first = u16::from_be_bytes([high, low]).wrapping_mul(97);
    loop {
        let number = first.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        let port = PORTS.start + number % (PORTS.end - PORTS.start);
        if TcpListener::bind((LOCALHOST, port)).is_ok() {
            return port;
        }
    }
}

/// Files of a cluster: keys, authority, one certificate for all nodes.
pub(crate) struct Files {
    directory: TempDir,
}

impl Files {
    pub(crate) fn new() -> Self {
        let directory = TempDir::new().unwrap();
        let files = Self { directory };
        std::fs::write(files.path("keys.yaml"), "devkey: secret\n").unwrap();
        files.write_certificates(&files.path(""), "");
        files
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Writes an authority and a node's certificate, with `prefix` before the names.
    pub(crate) fn write_certificates(&self, directory: &Path, prefix: &str) {
        let authority_key = KeyPair::generate().unwrap();
        let mut authority = CertificateParams::new(Vec::new()).unwrap();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = authority.self_signed(&authority_key).unwrap();
        let issuer = Issuer::new(authority, authority_key);
        let key = KeyPair::generate().unwrap();
        let node = CertificateParams::new(vec![PEER_NAME.to_owned()])
            .unwrap()
            .signed_by(&key, &issuer)
            .unwrap();
        let write = |name: &str, pem: String| {
            std::fs::write(directory.join(format!("{prefix}{name}")), pem).unwrap();
        };
        write("ca.pem", certificate.pem());
        write("node.pem", node.pem());
        write("node.key", key.serialize_pem());
    }

    pub(crate) fn peer(&self, port: u16, prefix: &str) -> PeerConfig {
        PeerConfig {
            port,
            ca_file: self.path(&format!("{prefix}ca.pem")),
            certificate_file: self.path(&format!("{prefix}node.pem")),
            key_file: self.path(&format!("{prefix}node.key")),
        }
    }

    /// Settings of a node of the cluster `uid`.
    pub(crate) fn settings(&self, name: &str, uid: &str, redis: u16) -> Settings {
        let config = SfuConfig {
            cluster_uid: uid.to_owned(),
            public_url: "https://live.example.com".to_owned(),
            keys_file: self.path("keys.yaml"),
            http: HttpConfig {
                port: 0,
                create_room: CreateRoom::Disabled,
                ..HttpConfig::default()
            },
            admin: AdminConfig { port: 0 },
            redis: Some(RedisConfig {
                address: format!("127.0.0.1:{redis}"),
                ..RedisConfig::default()
            }),
            peer: Some(self.peer(free_port(), "")),
            drain: DrainConfig { wait_seconds: 0 },
            capacity: CapacityConfig::default(),
            media: MediaConfig::default(),
            turn: None,
            room: RoomConfig::default(),
            webhook: WebhookConfig::default(),
            log: LogConfig::default(),
        };
        Settings {
            keys: KeySource::File(config.keys_file.clone()),
            config,
            dev: false,
            bind: LOCALHOST,
            node_name: name.to_owned(),
            pod_ip: LOCALHOST,
            udp_ports: vec![0],
            tcp_port: Some(0),
            turn_port: None,
            turn_name: None,
            host_addresses: vec![LOCALHOST],
            ice_servers: Vec::new(),
            notes: Vec::new(),
        }
    }
}

/// A node of a cluster, known to its Redis.
pub(crate) struct ClusterNode {
    pub(crate) running: Running,
    pub(crate) base: String,
    pub(crate) admin: SocketAddr,
}

impl ClusterNode {
    pub(crate) async fn start(settings: Settings) -> Self {
        let running = Running::start(settings).await.unwrap();
        let base = format!("http://{}", running.public);
        let admin = running.admin;
        let ready = format!("http://{admin}/readyz");
        eventually("the node is ready", || async { get(&ready).await.status == 200 }).await;
        Self { running, base, admin }
    }

    pub(crate) fn id(&self) -> String {
        self.running.node.placement.node_id().to_string()
    }
}
