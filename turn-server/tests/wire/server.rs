//! The program under test, started with a configuration of its own.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use contract::sfu_config::LogFormat;
use contract::turn_config::{Network, PeerRule, TlsConfig, TurnConfig};
use tempfile::TempDir;
use turn_server::settings::Settings;

/// How long anything may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
pub(crate) const USER: &str = "alice";
pub(crate) const PASSWORD: &str = "wonder";

/// A running program; it ends with this value.
pub(crate) struct Server {
    child: Child,
    listeners: Vec<(String, SocketAddr)>,
    pub(crate) admin: SocketAddr,
    pub(crate) directory: TempDir,
    log: Arc<Mutex<Vec<String>>>,
}

/// A configuration on a loopback address of its own, where all of loopback may be a peer.
pub(crate) fn config(directory: &Path) -> TurnConfig {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let own = Ipv4Addr::new(127, 77, NEXT.fetch_add(1, Ordering::Relaxed), 1);
    let mut config = Settings::dev(0).config;
    let free = SocketAddr::new(IpAddr::V4(own), 0);
    config.realm = "test".to_owned();
    config.listen.udp = vec![free];
    config.listen.tcp = vec![free];
    config.relay.addresses[0].bind = own.into();
    config.admin.listen = (Ipv4Addr::LOCALHOST, 0).into();
    config.credentials.users_file = Some(directory.join("users"));
    let loopback = Network { address: Ipv4Addr::new(127, 0, 0, 0).into(), prefix: 8 };
    config.peers.allow = vec![PeerRule { network: loopback, ports: None }];
    config.limits.challenges_per_second = 1_000_000;
    config.limits.allocations_per_user = 10_000;
    config.log.format = LogFormat::Json;
    config.workers = 2;
    config
}

/// A self-signed certificate in the directory.
pub(crate) fn write_certificate(directory: &Path, name: &str) -> TlsConfig {
    let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
    let tls = TlsConfig {
        certificate_file: directory.join("tls.crt"),
        key_file: directory.join("tls.key"),
    };
    replace(&tls.key_file, &made.signing_key.serialize_pem());
    replace(&tls.certificate_file, &made.cert.pem());
    tls
}

/// Writes a file as whole as a Secret's: under another name first.
pub(crate) fn replace(path: &Path, text: &str) {
    let new: PathBuf = path.with_extension("new");
    fs::write(&new, text).unwrap();
    fs::rename(&new, path).unwrap();
}

impl Server {
    /// Starts the program with a changed configuration.
    pub(crate) fn start(change: impl FnOnce(&mut TurnConfig, &Path)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        replace(&directory.path().join("users"), &format!("{USER}: {PASSWORD}\nbob: builder\n"));
        let mut config = config(directory.path());
        change(&mut config, directory.path());
        Self::start_in(directory, &config)
    }

    pub(crate) fn plain() -> Self {
        Self::start(|_, _| {})
    }

    /// Starts with TLS and DTLS, too.
    pub(crate) fn secure(change: impl FnOnce(&mut TurnConfig, &Path)) -> Self {
        Self::start(|config, directory| {
            config.tls = Some(write_certificate(directory, "first.example"));
            config.listen.tls = config.listen.tcp.clone();
            config.listen.dtls = config.listen.udp.clone();
            change(config, directory);
        })
    }

    /// Starts a program that may have so many files and sockets open.
    pub(crate) fn with_descriptors(count: u32) -> Self {
        let directory = tempfile::tempdir().unwrap();
        replace(&directory.path().join("users"), &format!("{USER}: {PASSWORD}\n"));
        let config = config(directory.path());
        let mut command = Command::new("prlimit");
        command.arg(format!("--nofile={count}:{count}")).arg(env!("CARGO_BIN_EXE_turn-server"));
        Self::start_by(command, directory, &config)
    }

    pub(crate) fn start_in(directory: TempDir, config: &TurnConfig) -> Self {
        Self::start_by(Command::new(env!("CARGO_BIN_EXE_turn-server")), directory, config)
    }

    fn start_by(mut command: Command, directory: TempDir, config: &TurnConfig) -> Self {
        let file = directory.path().join("turn.yaml");
        fs::write(&file, config.to_yaml().unwrap()).unwrap();
        let mut child = command.arg("--config").arg(&file).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let started = lines
            .by_ref()
            .map(|line| serde_json::from_str::<serde_json::Value>(&line.unwrap()).unwrap())
            .find(|line| line["message"] == "TURN server started")
            .expect("the program says that it started");
        // Whoever logs must not wait for a reader.
        let log = Arc::<Mutex<Vec<String>>>::default();
        let said = Arc::clone(&log);
        std::thread::spawn(move || {
            lines.map_while(Result::ok).for_each(|line| said.lock().unwrap().push(line));
        });
        let listeners = started["addresses"].as_str().unwrap();
        let listeners = listeners
            .trim_matches(['[', ']'])
            .split("), ")
            .map(|pair| {
                let (transport, address) = pair.trim_matches(['(', ')']).split_once(", ").unwrap();
                (transport.to_owned(), address.parse().unwrap())
            })
            .collect();
        let admin = started["admin"].as_str().unwrap().parse().unwrap();
        Self { child, listeners, admin, directory, log }
    }

    fn listener(&self, transport: &str) -> SocketAddr {
        let found = self.listeners.iter().find(|(name, _)| name == transport);
        found.expect("a listener of this transport").1
    }

    pub(crate) fn udp(&self) -> SocketAddr {
        self.listener("Udp")
    }

    pub(crate) fn tcp(&self) -> SocketAddr {
        self.listener("Tcp")
    }

    pub(crate) fn tls(&self) -> SocketAddr {
        self.listener("Tls")
    }

    pub(crate) fn dtls(&self) -> SocketAddr {
        self.listener("Dtls")
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Asks the admin listener; status and body.
    pub(crate) fn http(&self, method: &str, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(self.admin).unwrap();
        write!(stream, "{method} {path} HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n")
            .unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let status = text.split(' ').nth(1).unwrap().parse().unwrap();
        (status, text.split_once("\r\n\r\n").unwrap().1.to_owned())
    }

    /// A metric with its labels, as Prometheus writes them.
    pub(crate) fn metric(&self, name: &str) -> u64 {
        let (_, text) = self.http("GET", "/metrics");
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("{name} in {text}")).parse().unwrap()
    }

    /// Waits until the log has a line with all of these.
    pub(crate) fn await_log(&self, words: &[&str]) {
        let is_it = |line: &String| words.iter().all(|word| line.contains(word));
        until(&format!("a line with {words:?}"), || self.log.lock().unwrap().iter().any(is_it));
    }

    /// Waits until a metric has a value.
    pub(crate) fn await_metric(&self, name: &str, is_good: impl Fn(u64) -> bool) {
        until(name, || is_good(self.metric(name)));
    }

    pub(crate) fn signal(&self, signal: i32) {
        // SAFETY: the child has not been waited for, so the number is still its own.
        assert_eq!(unsafe { libc::kill(self.child.id() as i32, signal) }, 0);
    }

    /// Waits for the end.
    pub(crate) fn ended(&mut self) -> ExitStatus {
        until("the program ends", || self.child.try_wait().unwrap().is_some());
        self.child.wait().unwrap()
    }

    /// Ends it at once, as a crash does; its directory stays.
    pub(crate) fn crash(mut self) -> TempDir {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        std::mem::replace(&mut self.directory, tempfile::tempdir().unwrap())
    }

    /// Resident memory in bytes.
    pub(crate) fn resident(&self) -> u64 {
        let text = fs::read_to_string(format!("/proc/{}/statm", self.child.id())).unwrap();
        text.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _ended = self.child.wait();
    }
}

/// Waits for a condition.
pub(crate) fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
