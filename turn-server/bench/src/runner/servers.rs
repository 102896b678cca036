//! The servers that are compared: how each is configured and started.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use e2e::artifact_cache::{self, InputHash};
use e2e::process::{Run as _, is_installed};
use e2e::stage::stage;
use e2e::tools::Toolchain;

use crate::workload::{Transport, Workload};
use e2e::bench::{Namespaces, Side};

/// Port of UDP, and of TLS over TCP, of all servers.
pub(crate) const PORT: u16 = 3478;
pub(crate) const TLS_PORT: u16 = 5349;
/// The user of all servers.
pub(crate) const USER: &str = "bench";
pub(crate) const PASSWORD: &str = "bench-password";
const REALM: &str = "bench";
/// Time for a server to listen.
const START: Duration = Duration::from_secs(10);

/// Which server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Server {
    Ours,
    Coturn,
    Pion,
    Floor,
}

impl Server {
    pub(crate) const ALL: [Self; 4] = [Self::Ours, Self::Coturn, Self::Pion, Self::Floor];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ours => "ours",
            Self::Coturn => "coturn",
            Self::Pion => "pion",
            Self::Floor => "floor",
        }
    }
}

/// Where the programs and their files are.
pub(super) struct Programs {
    ours: PathBuf,
    pion: PathBuf,
    directory: PathBuf,
}

/// A running server; ends with this value.
pub(super) struct RunningServer {
    child: Child,
}

impl RunningServer {
    /// Its process id.
    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it has ended, by itself.
    pub(super) fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }
}

impl Drop for RunningServer {
    fn drop(&mut self) {
        // It may have ended already.
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}

impl Programs {
    /// Finds and builds what is needed, and makes a certificate.
    pub(super) fn new(ours: PathBuf, servers: &[Server], directory: PathBuf) -> Result<Self> {
        if servers.contains(&Server::Coturn) && !is_installed("turnserver") {
            bail!("turnserver is missing: install the package coturn");
        }
        let pion = if servers.contains(&Server::Pion) { build_pion()? } else { PathBuf::new() };
        let made = rcgen::generate_simple_self_signed(["turn.bench".to_owned()])?;
        fs::write(directory.join("turn.crt"), made.cert.pem())?;
        fs::write(directory.join("turn.key"), made.signing_key.serialize_pem())?;
        Ok(Self { ours, pion, directory })
    }

    fn file(&self, name: &str) -> String {
        self.directory.join(name).display().to_string()
    }

    /// Starts a server in its namespace and waits until it listens.
    pub(super) fn start(
        &self,
        server: Server,
        workload: &Workload,
        namespaces: &Namespaces,
    ) -> Result<RunningServer> {
        let mut command = self.command(server, workload, namespaces)?;
        let log = File::create(self.directory.join(format!("{}.log", server.name())))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("starting {}", server.name()))?;
        let mut running = RunningServer { child };
        let table = match workload.transport {
            Transport::Udp => ("udp", PORT),
            Transport::Tls => ("tcp", TLS_PORT),
        };
        let end = Instant::now() + START;
        while !listens(running.pid(), table) {
            if running.has_ended() || Instant::now() > end {
                bail!("{} does not listen; see its log in target/bench/run", server.name());
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(running)
    }

    fn command(
        &self,
        server: Server,
        workload: &Workload,
        namespaces: &Namespaces,
    ) -> Result<Command> {
        let address = Side::Server.address().to_string();
        let (certificate, key) = (self.file("turn.crt"), self.file("turn.key"));
        Ok(match server {
            Server::Ours => {
                let config = self.directory.join("ours.yaml");
                fs::write(&config, our_config(&self.directory, workload)?)?;
                let mut command = namespaces.command(Side::Server, &self.ours);
                command.arg("--config").arg(config);
                command
            }
            Server::Coturn => {
                let mut command = namespaces.command(Side::Server, Path::new("turnserver"));
                command
                    .args(["-n", "--no-cli", "--no-dtls", "--lt-cred-mech", "--fingerprint"])
                    .args(["--relay-threads", "1", "--listening-ip", &address])
                    .args(["--relay-ip", &address, "--realm", REALM])
                    .args(["--user", &format!("{USER}:{PASSWORD}")])
                    .args(["--cert", &certificate, "--pkey", &key])
                    .args(["--log-file", "stdout", "--pidfile", &self.file("coturn.pid")])
                    .args(["--userdb", &self.file("coturn.db")]);
                command
            }
            Server::Pion => {
                let mut command = namespaces.command(Side::Server, &self.pion);
                command
                    .args(["--address", &address, "--realm", REALM])
                    .args(["--user", USER, "--password", PASSWORD])
                    .args(["--certificate", &certificate, "--key", &key]);
                command
            }
            Server::Floor => {
                let mut command = namespaces.command(Side::Server, &std::env::current_exe()?);
                command
                    .args(["floor", "--address", &address])
                    .args(["--peer", &Side::Load.address().to_string()]);
                command
            }
        })
    }
}

/// One worker, no limits that a benchmark would reach unless it wants to, and only the peer allowed.
fn our_config(directory: &Path, workload: &Workload) -> Result<String> {
    let users = directory.join("users.yaml");
    fs::write(&users, format!("{USER}: {PASSWORD}\n"))?;
    let file = |name: &str| directory.join(name).display().to_string();
    Ok(format!(
        "realm: {REALM}\nworkers: 1\n\
         listen:\n  udp: ['{server}:{PORT}']\n  tcp: []\n  tls: ['{server}:{TLS_PORT}']\n\
         tls:\n  certificate_file: {}\n  key_file: {}\n\
         relay:\n  addresses: [{{bind: {server}}}]\n\
         credentials:\n  users_file: {}\n\
         peers:\n  allow: [{{network: {peer}/32}}]\n\
         limits:\n  allocations_per_user: 100000\n  allocations_per_address: 100000\n  \
         challenges_per_second: 100000\n  connections_per_address: 100000\n  \
         packets_per_second: {limit}\n\
         log:\n  level: warn\n  format: text\n",
        file("turn.crt"),
        file("turn.key"),
        users.display(),
        limit = workload.packets_per_second,
        server = Side::Server.address(),
        peer = Side::Load.address(),
    ))
}

/// Whether a process' namespace has a socket on a port.
fn listens(pid: u32, (table, port): (&str, u16)) -> bool {
    let wanted = format!(":{port:04X} ");
    fs::read_to_string(format!("/proc/{pid}/net/{table}"))
        .is_ok_and(|text| text.lines().skip(1).any(|line| line.contains(&wanted)))
}

/// Returns pion's server, built from the pinned module when it is not there.
fn build_pion() -> Result<PathBuf> {
    const NAME: &str = "pion-turn";
    let module = e2e::repository().join("turn-server/bench/peer");
    let go = Toolchain::find()?;
    let hash = InputHash::new().with(&go.version).with(NAME).with_path(&module)?.finish();
    let cache = artifact_cache::directory()?.join("tools");
    let entry = artifact_cache::get_or_build(&cache, NAME, &hash, |directory| {
        stage("build pion's TURN server (cold about 30 s)", || {
            go.command()
                .current_dir(&module)
                .env("CGO_ENABLED", "0")
                .args(["build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w", "-o"])
                .arg(directory.join(NAME))
                .arg(".")
                .run()
        })
    })?;
    Ok(entry.join(NAME))
}

#[cfg(test)]
mod tests {
    use contract::turn_config::TurnConfig;

    use super::*;
    use crate::workload::CROWD;

    #[test]
    fn our_configuration_is_one_that_the_program_reads() {
        let directory = std::env::temp_dir().join(format!("turn-bench-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let config = TurnConfig::from_yaml(&our_config(&directory, &CROWD).unwrap()).unwrap();
        fs::remove_dir_all(&directory).unwrap();
        assert_eq!(config.limits.packets_per_second, CROWD.packets_per_second);
        assert_eq!(config.workers, 1);
        assert_eq!(config.peers.allow.len(), 1, "nobody but the peer");
    }
}
