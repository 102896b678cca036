//! The servers that are compared: how each is configured and started.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use anyhow::{Context as _, Result};
use contract::sfu_config::env;
use e2e::tools::{LIVEKIT_SERVER, Toolchain};

use e2e::bench::{Namespaces, Side};

/// Signal port of both.
pub(super) const SIGNAL_PORT: u16 = 7880;
/// API key of both, and a secret that is long enough for both.
pub(super) const KEY: &str = "bench";
pub(super) const SECRET: &str = "a-secret-of-the-benchmark-0123456789";

/// Which server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Server {
    Ours,
    Peer,
}

/// Where the programs are.
pub(super) struct Programs {
    pub(super) ours: PathBuf,
    pub(super) peer: PathBuf,
    /// Media workers of ours.
    pub(super) workers: u16,
    /// Configurations and logs go here.
    pub(super) directory: PathBuf,
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
    /// Starts a server in its namespace.
    pub(super) fn start(&self, server: Server, namespaces: &Namespaces) -> Result<RunningServer> {
        let (program, name) = match server {
            Server::Ours => (&self.ours, "ours"),
            Server::Peer => (&self.peer, "peer"),
        };
        let config = self.directory.join(format!("{name}.yaml"));
        let text = match server {
            Server::Ours => our_config(&self.directory, self.workers)?,
            Server::Peer => peer_config(),
        };
        fs::write(&config, text)?;
        let log = File::create(self.directory.join(format!("{name}.log")))?;
        let mut command = namespaces.command(Side::Server, program);
        command.arg("--config").arg(&config);
        if server == Server::Ours {
            command.args(["--bind", &Side::Server.address().to_string()]);
        } else {
            command.args(["--node-ip", &Side::Server.address().to_string()]);
        }
        let child = command
            .env(env::HOST_IP, Side::Server.address().to_string())
            .env(env::SLOT, "0")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("starting {}", program.display()))?;
        Ok(RunningServer { child })
    }
}

fn our_config(directory: &Path, workers: u16) -> Result<String> {
    let keys_file = directory.join("keys.yaml");
    fs::write(&keys_file, format!("{KEY}: {SECRET}\n"))?;
    // Only what differs from the defaults, so that older programs can be measured, too.
    Ok(format!(
        "cluster_uid: bench\npublic_url: http://bench.invalid\nkeys_file: {}\n\
         http:\n  port: {SIGNAL_PORT}\nmedia:\n  workers: {workers}\n\
         log:\n  level: warn\n  format: text\n",
        keys_file.display()
    ))
}

/// One UDP port, as ours, and everything else as by default. A port for each client was measured
/// to cost it the same.
fn peer_config() -> String {
    format!(
        "port: {SIGNAL_PORT}\n\
         rtc:\n  udp_port: 7882\n  tcp_port: 7881\n  use_external_ip: false\n\
         keys:\n  {KEY}: {SECRET}\n\
         logging:\n  level: warn\n"
    )
}

/// Returns livekit-server, built from the pinned module when it is not there.
pub(super) fn build_peer() -> Result<PathBuf> {
    Ok(LIVEKIT_SERVER.build(&Toolchain::find()?)?.join(LIVEKIT_SERVER.name))
}

#[cfg(test)]
mod tests {
    use contract::sfu_config::SfuConfig;

    use super::*;

    #[test]
    fn our_configuration_is_one_that_the_program_reads() {
        let directory = std::env::temp_dir().join(format!("bench-config-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let config = SfuConfig::from_yaml(&our_config(&directory, 3).unwrap()).unwrap();
        fs::remove_dir_all(&directory).unwrap();
        assert_eq!(config.media.workers, 3);
        assert_eq!(config.http.port, SIGNAL_PORT);
    }
}
