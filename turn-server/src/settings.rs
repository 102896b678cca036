//! What this process is: the configuration file, or `--dev`.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use clap::Parser;
use contract::sfu_config::{LogConfig, LogFormat};
use contract::turn_config::{
    CredentialsConfig, ListenConfig, PeerRule, PeersConfig, ProxyProtocolConfig,
    RelayAddressConfig, RelayConfig, RelayPorts, TurnAdminConfig, TurnConfig, TurnLimits, env,
};
use thiserror::Error;

/// The user of `--dev`, and its password.
pub const DEV_USER: (&str, &str) = ("dev", "dev");

/// A TURN server.
#[derive(Debug, Clone, Parser)]
#[command(name = "turn-server", version)]
pub struct Args {
    /// Run on loopback with the user dev/dev; only loopback peers are allowed.
    #[arg(long, conflicts_with = "config", required_unless_present = "config")]
    pub dev: bool,
    /// Configuration file.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Port of UDP and TCP with --dev; 0 takes free ones.
    #[arg(long, default_value_t = 3478, value_name = "PORT")]
    pub port: u16,
    /// Seconds that allocations may go on after SIGTERM, in place of the file's.
    #[arg(long, value_name = "SECONDS")]
    pub drain_timeout: Option<u32>,
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
    /// An environment variable is no address.
    #[error("{name} is no IP address: {value}")]
    Variable {
        /// Its name.
        name: &'static str,
        /// What it is.
        value: String,
    },
}

/// Everything that is fixed for the life of the process.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The file, or its values with `--dev`.
    pub config: TurnConfig,
    /// Whether [`DEV_USER`] may allocate.
    pub dev: bool,
}

impl Settings {
    /// Reads the file.
    ///
    /// # Errors
    ///
    /// With what is wrong in it.
    pub fn load(args: &Args) -> Result<Self, SettingsError> {
        let mut settings = match &args.config {
            Some(path) => {
                let config = TurnConfig::from_yaml_in_pod(&read(path)?, pod_ip()?)
                    .map_err(|reason| SettingsError::Invalid { path: path.clone(), reason })?;
                Self { config, dev: false }
            }
            None => Self::dev(args.port),
        };
        if let Some(seconds) = args.drain_timeout {
            settings.config.drain_timeout_s = seconds;
        }
        Ok(settings)
    }

    /// Values of `--dev`.
    pub fn dev(port: u16) -> Self {
        let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let address = SocketAddr::new(loopback, port);
        let addresses = vec![RelayAddressConfig { bind: loopback, advertise: None }];
        let network = contract::turn_config::Network { address: loopback, prefix: 32 };
        let config = TurnConfig {
            realm: "dev".to_owned(),
            listen: ListenConfig {
                udp: vec![address],
                tcp: vec![address],
                tls: Vec::new(),
                dtls: Vec::new(),
            },
            tls: None,
            proxy_protocol: ProxyProtocolConfig::default(),
            // Above the ports that the kernel gives to peers on this machine.
            relay: RelayConfig { addresses, ports: RelayPorts { first: 61_000, last: 65_535 } },
            credentials: CredentialsConfig::default(),
            peers: PeersConfig {
                allow: vec![PeerRule { network, ports: None }],
                ..PeersConfig::default()
            },
            limits: TurnLimits::default(),
            workers: 1,
            alternate_server: None,
            alternate_domain: None,
            drain_timeout_s: 0,
            admin: TurnAdminConfig::default(),
            log: LogConfig { format: LogFormat::Text, ..LogConfig::default() },
        };
        Self { config, dev: true }
    }

    /// Number of worker threads.
    pub fn workers(&self) -> usize {
        match self.config.workers {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            workers => usize::from(workers),
        }
    }
}

/// The address of the pod; `None` outside of Kubernetes.
fn pod_ip() -> Result<Option<IpAddr>, SettingsError> {
    let Ok(value) = std::env::var(env::POD_IP) else { return Ok(None) };
    let parsed = value.parse();
    parsed.map(Some).map_err(|_| SettingsError::Variable { name: env::POD_IP, value })
}

/// Reads a file that must be there.
///
/// # Errors
///
/// When it cannot be read.
pub fn read(path: &Path) -> Result<String, SettingsError> {
    fs::read_to_string(path).map_err(|source| SettingsError::Read { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dev_is_a_valid_configuration_on_loopback() {
        let settings = Settings::dev(3478);
        settings.config.validate().unwrap();
        assert!(settings.config.listen.udp[0].ip().is_loopback());
        assert!(settings.config.admin.listen.ip().is_loopback());
    }

    #[test]
    fn the_command_line_wins_over_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("turn.yaml");
        fs::write(&path, "relay: {addresses: [{bind: 192.0.2.1}]}\ndrain_timeout_s: 7\n").unwrap();
        let args = |timeout: &[&str]| {
            let mut list = vec!["turn-server", "--config", path.to_str().unwrap()];
            list.extend(timeout);
            Settings::load(&Args::parse_from(list)).unwrap().config.drain_timeout_s
        };
        assert_eq!(args(&[]), 7);
        assert_eq!(args(&["--drain-timeout", "3"]), 3);
    }

    #[test]
    fn a_wrong_file_is_named_with_its_key() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("turn.yaml");
        fs::write(&path, "relais: {}\n").unwrap();
        let args = Args::parse_from(["turn-server", "--config", path.to_str().unwrap()]);
        let error = Settings::load(&args).unwrap_err().to_string();
        assert!(error.contains("turn.yaml") && error.contains("relais"), "{error}");
    }
}
