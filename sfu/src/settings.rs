//! What this process is: the configuration file or `--dev`, and what the pod says of itself.

use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::{Parser, Subcommand};
use contract::access_token::ApiKeys;
use contract::sfu_config::{
    AdminConfig, CapacityConfig, CreateRoom, DrainConfig, HttpConfig, LogConfig, LogFormat,
    MediaConfig, RoomConfig, SfuConfig, WebhookConfig, env,
};
use livekit_protocol::IceServer;
use sfu_core::room::is_known_codec;
use thiserror::Error;

use crate::call::CallArgs;

/// The key pair of `--dev`.
pub(crate) const DEV_KEY: (&str, &str) = ("devkey", "secret");

/// A media node of LiveCluster.
#[derive(Debug, Parser)]
#[command(
    name = "sfu",
    version,
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true
)]
pub struct Args {
    /// Run alone, without Kubernetes and Redis: keys devkey/secret, port 7880, open to everybody
    /// who reaches it.
    #[arg(long, conflicts_with = "config", required_unless_present = "config")]
    pub dev: bool,
    /// Another way to start.
    #[command(subcommand)]
    pub mode: Option<Mode>,
    /// Configuration file that the operator writes.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Address to listen on [default: 127.0.0.1 with --dev, else all].
    #[arg(long, value_name = "ADDRESS")]
    pub bind: Option<IpAddr>,
    /// Port of HTTP and WebSocket with --dev.
    #[arg(long, default_value_t = 7880, value_name = "PORT")]
    pub port: u16,
}

/// Another way to start.
#[derive(Debug, Subcommand)]
pub enum Mode {
    /// As livekit-server does: with its configuration file, flags and environment variables.
    Livekit {
        /// Flags of livekit-server, such as `--config livekit.yaml`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "FLAGS")]
        flags: Vec<String>,
    },
    /// Not a media node: two participants that call each other through a LiveCluster and say
    /// whether it works.
    Call(CallArgs),
}

/// Where the API keys are.
#[derive(Debug, Clone)]
pub enum KeySource {
    /// In a file, which may change.
    File(PathBuf),
    /// Given at the start.
    Fixed(ApiKeys),
}

/// Why the process cannot start.
#[derive(Debug, Error)]
pub enum SettingsError {
    /// A file cannot be read.
    #[error("failed to read {path}")]
    Read {
        /// Which one.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A file does not say what it should.
    #[error("{path}: {reason}")]
    Invalid {
        /// Which one.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// An environment variable does not say what it should.
    #[error("{name} must be {expected}, not {value:?}")]
    Variable {
        /// Which one.
        name: &'static str,
        /// What it may be.
        expected: &'static str,
        /// What it is.
        value: String,
    },
    /// The slot's ports lie above 65535.
    #[error("slot {slot} has no ports in media.first_port and above")]
    NoPorts {
        /// Which slot.
        slot: u16,
    },
}

/// Everything that is fixed for the life of the process.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The file, or its values with `--dev`.
    pub config: SfuConfig,
    /// Run alone: probes and metrics are served on the public port too.
    pub dev: bool,
    /// Address to listen on.
    pub bind: IpAddr,
    /// Readable name of the node.
    pub node_name: String,
    /// Where siblings reach this pod.
    pub pod_ip: IpAddr,
    /// UDP port of each worker.
    pub udp_ports: Vec<u16>,
    /// Port of ICE over TCP; `None` turns it off.
    pub tcp_port: Option<u16>,
    /// Port of the TURN server beside this node, where clients reach it directly.
    pub turn_port: Option<u16>,
    /// Name of the TURN server beside this node by TLS; `None` where all have one.
    pub turn_name: Option<String>,
    /// Advertised when no file says better.
    pub host_addresses: Vec<IpAddr>,
    /// API keys.
    pub keys: KeySource,
    /// STUN and TURN servers for clients, besides the one that belongs to this node.
    pub ice_servers: Vec<IceServer>,
    /// What the log shall say of the configuration.
    pub notes: Vec<String>,
}

impl Settings {
    /// Reads the file and the environment.
    ///
    /// # Errors
    ///
    /// With what is wrong and what is allowed.
    pub fn load(args: &Args) -> Result<Self, SettingsError> {
        match &args.config {
            Some(path) => Self::from_file(path, args.bind),
            None => Ok(Self::dev(args.bind, args.port)),
        }
    }

    fn from_file(path: &Path, bind: Option<IpAddr>) -> Result<Self, SettingsError> {
        let config = SfuConfig::from_yaml(&read(path)?)
            .and_then(|config| check_codecs(&config).map(|()| config))
            .map_err(|reason| SettingsError::Invalid { path: path.to_owned(), reason })?;
        let slot: u16 = variable(env::SLOT, "a number")?.unwrap_or_default();
        let udp_ports = (0..config.media.workers.max(1))
            .map(|worker| config.media.udp_port(slot, worker))
            .collect::<Option<_>>()
            .ok_or(SettingsError::NoPorts { slot })?;
        let tcp_port = config.media.tcp_port(slot).filter(|_| config.media.tcp);
        let turn = config.turn.as_ref();
        let turn_tls = turn.and_then(|turn| turn.tls.as_ref()).filter(|tls| tls.per_node);
        let turn_name = turn_tls.map(|tls| tls.node_domain(slot));
        let turn_port = turn.and_then(|turn| turn.port.or_else(|| config.media.turn_port(slot)));
        let pod_ip = variable(env::POD_IP, "an IP address")?;
        let host_ip: Option<IpAddr> = variable(env::HOST_IP, "an IP address")?;
        let keys_file = config.keys_file.clone();
        Ok(Self {
            config,
            dev: false,
            bind: bind.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
            node_name: std::env::var(env::POD_NAME).unwrap_or_else(|_| "sfu".to_owned()),
            pod_ip: pod_ip.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)),
            udp_ports,
            tcp_port,
            turn_port,
            turn_name,
            host_addresses: host_ip.or(pod_ip).into_iter().collect(),
            keys: KeySource::File(keys_file),
            ice_servers: Vec::new(),
            notes: Vec::new(),
        })
    }

    /// The settings of `--dev`; port 0 takes free ones.
    pub fn dev(bind: Option<IpAddr>, port: u16) -> Self {
        let bind = bind.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
        let config = SfuConfig {
            cluster_uid: "dev".to_owned(),
            public_url: format!("http://localhost:{port}"),
            keys_file: PathBuf::new(),
            http: HttpConfig { port, create_room: CreateRoom::Open, ..HttpConfig::default() },
            admin: AdminConfig::default(),
            redis: None,
            peer: None,
            drain: DrainConfig::default(),
            capacity: CapacityConfig::default(),
            media: MediaConfig::default(),
            turn: None,
            room: RoomConfig::default(),
            webhook: WebhookConfig::default(),
            log: LogConfig { format: LogFormat::Text, ..LogConfig::default() },
        };
        let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let mut host_addresses = vec![if bind.is_unspecified() { loopback } else { bind }];
        if bind.is_unspecified() {
            host_addresses.extend(outward_address());
        }
        Self {
            config,
            dev: true,
            bind,
            node_name: "dev".to_owned(),
            pod_ip: loopback,
            udp_ports: vec![0],
            tcp_port: Some(0),
            turn_port: None,
            turn_name: None,
            host_addresses,
            keys: KeySource::Fixed([DEV_KEY].into_iter().map(owned).collect()),
            ice_servers: Vec::new(),
            notes: Vec::new(),
        }
    }

    /// Reads the API keys.
    ///
    /// # Errors
    ///
    /// When the file cannot be read or holds no key.
    pub fn load_keys(&self) -> Result<ApiKeys, SettingsError> {
        match &self.keys {
            KeySource::Fixed(keys) => Ok(keys.clone()),
            KeySource::File(path) => ApiKeys::from_yaml(&read(path)?)
                .map_err(|reason| SettingsError::Invalid { path: path.clone(), reason }),
        }
    }

    /// The addresses of this node's candidates at this moment.
    pub fn advertised(&self) -> Vec<IpAddr> {
        if self.config.media.direct { self.public_addresses() } else { vec![self.pod_ip] }
    }

    /// The region that this node is in; empty if nobody says.
    pub fn region(&self) -> String {
        let file = self.config.media.region_file.as_ref();
        let written = file.and_then(|path| std::fs::read_to_string(path).ok()).unwrap_or_default();
        written.trim().to_owned()
    }

    /// The addresses at which clients reach this machine: what the operator found, else the
    /// host's.
    pub fn public_addresses(&self) -> Vec<IpAddr> {
        let written = self
            .config
            .media
            .advertise_file
            .as_ref()
            .and_then(|path| std::fs::read_to_string(path).ok())
            .unwrap_or_default();
        let found: Vec<IpAddr> =
            written.split([',', '\n']).filter_map(|text| text.trim().parse().ok()).collect();
        if found.is_empty() { self.host_addresses.clone() } else { found }
    }
}

/// Codecs that the configuration names must be known: a wrong name would leave one out.
fn check_codecs(config: &SfuConfig) -> Result<(), String> {
    match config.room.enabled_codecs.iter().find(|mime| !is_known_codec(mime)) {
        Some(mime) => Err(format!("room.enabled_codecs: {mime} is no codec that is forwarded")),
        None => Ok(()),
    }
}

fn owned((key, secret): (&str, &str)) -> (String, String) {
    (key.to_owned(), secret.to_owned())
}

/// Reads a file that must be there.
///
/// # Errors
///
/// When it cannot be read.
pub fn read(path: &Path) -> Result<String, SettingsError> {
    std::fs::read_to_string(path)
        .map_err(|source| SettingsError::Read { path: path.to_owned(), source })
}

fn variable<T: FromStr>(
    name: &'static str,
    expected: &'static str,
) -> Result<Option<T>, SettingsError> {
    let Ok(value) = std::env::var(name) else { return Ok(None) };
    let parsed = value.parse().map_err(|_| SettingsError::Variable { name, expected, value })?;
    Ok(Some(parsed))
}

/// The address from which this machine reaches others. Nothing is sent.
pub(crate) fn outward_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9)).ok()?;
    socket.local_addr().ok().map(|address| address.ip()).filter(|ip| !ip.is_unspecified())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_key_in_the_file_is_named() {
        let path = std::env::temp_dir().join(format!("sfu-settings-{}.yaml", std::process::id()));
        std::fs::write(&path, "cluster_uid: u\npublic_url: http://x\nkeys_file: k\nkey: 1\n")
            .unwrap();
        let error = Settings::from_file(&path, None).unwrap_err().to_string();
        std::fs::remove_file(&path).unwrap();
        assert!(error.contains("key"), "{error}");
    }

    #[test]
    fn dev_listens_on_loopback_and_advertises_it() {
        let settings = Settings::dev(None, 7880);
        assert!(settings.bind.is_loopback());
        assert_eq!(settings.advertised(), [IpAddr::V4(Ipv4Addr::LOCALHOST)]);
        assert!(settings.load_keys().unwrap().secret("devkey").is_some());
    }
}
