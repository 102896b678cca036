//! `sfu --dev`: one media node without Kubernetes and without Redis.

use std::env;
use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::clients::{HttpClient, Network};
use crate::livekit::Access;
use crate::process::Run as _;
use crate::repository;
use crate::stage::stage;
use crate::wait::eventually;

/// Names a server that runs already, instead of one that the test starts.
const URL_VARIABLE: &str = "LIVECLUSTER_DEV_URL";
/// The key pair of `--dev`.
const KEY: &str = "devkey";
const SECRET: &str = "secret";
/// Time until the server answers.
const START_TIMEOUT: Duration = Duration::from_secs(20);

/// A media node on this machine; dropping it ends it.
pub struct DevServer {
    /// How to enter its rooms.
    pub access: Access,
    process: Option<Process>,
}

struct Process {
    child: Child,
    log: PathBuf,
}

impl DevServer {
    /// Runs a test against a node on `port`; what the node wrote is shown if the test fails.
    pub fn run(port: u16, body: impl FnOnce(&Self) -> Result<()>) -> Result<()> {
        let server = Self::start(port)?;
        body(&server).with_context(|| format!("the node wrote:\n{}", server.log()))
    }

    /// Builds the node if need be, starts it and waits until it answers.
    fn start(port: u16) -> Result<Self> {
        if let Ok(url) = env::var(URL_VARIABLE) {
            return Ok(Self { access: Access::new(&url, KEY, SECRET), process: None });
        }
        let program = stage("sfu", build)?;
        let log =
            env::temp_dir().join(format!("livecluster-dev-{}-{port}.log", std::process::id()));
        let output = File::create(&log).context("making the log of the node")?;
        let child = Command::new(program)
            .args(["--dev", "--port", &port.to_string()])
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .context("starting the node")?;
        let access = Access::new(&format!("http://127.0.0.1:{port}"), KEY, SECRET);
        let server = Self { access, process: Some(Process { child, log }) };
        server.await_answer()?;
        Ok(server)
    }

    /// What the node wrote.
    #[must_use]
    pub fn log(&self) -> String {
        let log = self.process.as_ref().map(|process| fs::read_to_string(&process.log));
        log.and_then(Result::ok).unwrap_or_default()
    }

    fn await_answer(&self) -> Result<()> {
        let http = HttpClient::start(&Network::here())?;
        let url = format!("{}/healthz", self.access.url);
        eventually("the node answers", START_TIMEOUT, || {
            let answer = http.get(&url)?;
            ensure!(answer.status == 200, "status {}", answer.status);
            Ok(())
        })
        .with_context(|| self.log())
    }
}

impl Drop for DevServer {
    fn drop(&mut self) {
        if let Some(Process { mut child, log }) = self.process.take() {
            // It may have ended by itself, which the test has noticed.
            let _ = child.kill();
            let _ = child.wait();
            let _ = fs::remove_file(&log);
        }
    }
}

/// Cargo builds no binaries of other packages for a test.
fn build() -> Result<PathBuf> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut build = Command::new(cargo);
    // What Cargo tells this test of its own package would look to build scripts as if their
    // environment had changed, and build half of the dependencies once more.
    for (name, _) in env::vars_os() {
        let of_package = ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_"];
        if name.to_str().is_some_and(|name| of_package.iter().any(|of| name.starts_with(of))) {
            build.env_remove(name);
        }
    }
    build
        // The packages that the images are made of: another choice would build their
        // dependencies once more, with other features.
        .args(["build", "--release", "--package", "sfu", "--package", "operator"])
        .current_dir(repository())
        .run()?;
    let target =
        env::var_os("CARGO_TARGET_DIR").map_or_else(|| repository().join("target"), PathBuf::from);
    Ok(target.join("release/sfu"))
}
