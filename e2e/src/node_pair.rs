//! Two media nodes on this machine that know each other, with a Redis of their own: what takes more
//! than one node and no Kubernetes.

use std::env;
use std::fs;
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result};
use contract::sfu_config::PEER_NAME;

use crate::certificate::Certificate;
use crate::dev_server::DevServer;
use crate::wait::eventually;

/// Where the second node's ports begin, from the first's.
const SECOND: u16 = 10;
/// Where Redis and the nodes' ports for each other are, from the first.
const REDIS: u16 = 20;
const PEERS: u16 = 21;
const START_TIMEOUT: Duration = Duration::from_secs(45);

/// Runs a test against two nodes; they take ports up to `port + 22`.
pub fn run(port: u16, body: impl FnOnce(&DevServer, &DevServer) -> Result<()>) -> Result<()> {
    let directory = env::temp_dir().join(format!("livecluster-pair-{}-{port}", std::process::id()));
    fs::create_dir_all(&directory).context("making the directory of the nodes")?;
    let result = run_in(&directory, port, body);
    fs::remove_dir_all(&directory).context("removing the directory of the nodes")?;
    result
}

fn run_in(
    directory: &Path,
    port: u16,
    body: impl FnOnce(&DevServer, &DevServer) -> Result<()>,
) -> Result<()> {
    // It vouches for itself.
    let certificate = Certificate::new(PEER_NAME)?;
    fs::write(directory.join("node.pem"), certificate.pem())?;
    fs::write(directory.join("node.key"), certificate.key_pem())?;
    let _redis = Redis::start(directory, port + REDIS)?;
    let more = |number: u16| {
        let file = |name: &str| directory.join(name).display().to_string();
        format!(
            "redis:\n  address: 127.0.0.1:{}\n\
             peer:\n  port: {}\n  ca_file: {pem}\n  certificate_file: {pem}\n  key_file: {}\n",
            port + REDIS,
            port + PEERS + number,
            file("node.key"),
            pem = file("node.pem"),
        )
    };
    DevServer::run_configured(port, &more(0), |first| {
        DevServer::run_configured(port + SECOND, &more(1), |second| body(first, second))
    })
}

/// A Redis of a test; dropping it ends it.
pub(crate) struct Redis(Child);

impl Redis {
    pub(crate) fn start(directory: &Path, port: u16) -> Result<Self> {
        let child = Command::new("redis-server")
            .arg("--dir")
            .arg(directory)
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", ""])
            .stdout(Stdio::null())
            .spawn()
            .context("starting redis-server")?;
        let redis = Self(child);
        eventually("Redis answers", START_TIMEOUT, || {
            TcpStream::connect(("127.0.0.1", port)).map(drop).context("connecting")
        })?;
        Ok(redis)
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        // It may have ended by itself, which the test has noticed.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
