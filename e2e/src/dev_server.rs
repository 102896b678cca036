//! `sfu --dev`: one media node without Kubernetes and without Redis.

use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
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
/// Where the other ports of a configured node are, from its first.
const ADMIN: u16 = 1;
const MEDIA: u16 = 2;
/// Time until the server answers.
const START_TIMEOUT: Duration = Duration::from_secs(20);

/// A media node on this machine; dropping it ends it.
pub struct DevServer {
    /// How to enter its rooms.
    pub access: Access,
    process: Option<Process>,
    /// Where a configured node takes orders.
    admin: Option<String>,
}

struct Process {
    child: Child,
    log: PathBuf,
}

impl DevServer {
    /// Runs a test against a node on `port`; what the node wrote is shown if the test fails.
    pub fn run(port: u16, body: impl FnOnce(&Self) -> Result<()>) -> Result<()> {
        if let Ok(url) = env::var(URL_VARIABLE) {
            return body(&Self {
                access: Access::new(&url, KEY, SECRET),
                process: None,
                admin: None,
            });
        }
        Self::run_at(&Network::here(), "127.0.0.1", port, body)
    }

    /// Runs a test against a node at an address of a network.
    pub fn run_at(
        network: &Network,
        address: &str,
        port: u16,
        body: impl FnOnce(&Self) -> Result<()>,
    ) -> Result<()> {
        let server = Self::start(network, address, port)?;
        body(&server).with_context(|| format!("the node wrote:\n{}", server.log()))
    }

    /// Runs a test against a node with a configuration file, to which the test adds lines of YAML.
    /// It takes `port` and the three ports above it.
    pub fn run_configured(
        port: u16,
        more: &str,
        body: impl FnOnce(&Self) -> Result<()>,
    ) -> Result<()> {
        let directory =
            env::temp_dir().join(format!("livecluster-dev-{}-{port}", std::process::id()));
        fs::create_dir_all(&directory).context("making the directory of the node")?;
        let config = configuration(&directory, port, more)?;
        let network = Network::here();
        let result = Self::spawn(&network, port, |command| {
            command.env("HOST_IP", "127.0.0.1").args(["--bind", "127.0.0.1", "--config"]);
            command.arg(&config);
        })
        .and_then(|mut server| {
            let admin = format!("http://127.0.0.1:{}", port + ADMIN);
            server.await_answer(&network, &admin)?;
            server.admin = Some(admin);
            body(&server).with_context(|| format!("the node wrote:\n{}", server.log()))
        });
        fs::remove_dir_all(&directory).context("removing the directory of the node")?;
        result
    }

    /// Builds the node if need be, starts it and waits until it answers.
    fn start(network: &Network, address: &str, port: u16) -> Result<Self> {
        let mut server = Self::spawn(network, port, |command| {
            command.args(["--dev", "--bind", address, "--port", &port.to_string()]);
        })?;
        server.access = Access::new(&format!("http://{address}:{port}"), KEY, SECRET);
        server.await_answer(network, &server.access.url)?;
        Ok(server)
    }

    fn spawn(network: &Network, port: u16, configure: impl FnOnce(&mut Command)) -> Result<Self> {
        let program = stage("sfu", || release_program("sfu"))?;
        let log =
            env::temp_dir().join(format!("livecluster-dev-{}-{port}.log", std::process::id()));
        let output = File::create(&log).context("making the log of the node")?;
        let mut command = network.command(program);
        configure(&mut command);
        let child = command
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .context("starting the node")?;
        let access = Access::new(&format!("http://127.0.0.1:{port}"), KEY, SECRET);
        Ok(Self { access, process: Some(Process { child, log }), admin: None })
    }

    /// Stops the node in the middle of what it does, as a machine that hangs.
    pub fn freeze(&self) -> Result<()> {
        let process = self.process.as_ref().context("the node is not of this test")?;
        Command::new("kill").args(["-STOP", &process.child.id().to_string()]).run()
    }

    /// Puts a configured node into a state, such as `cordoned`.
    pub fn order(&self, state: &str) -> Result<()> {
        let admin = self.admin.as_ref().context("the node has no admin port of its own")?;
        let http = HttpClient::start(&Network::here())?;
        let answer = http.put(&format!("{admin}/drain?state={}", state.replace(' ', "%20")))?;
        ensure!(answer.status == 200, "{answer:?}");
        Ok(())
    }

    /// What the node wrote.
    #[must_use]
    pub fn log(&self) -> String {
        let log = self.process.as_ref().map(|process| fs::read_to_string(&process.log));
        log.and_then(Result::ok).unwrap_or_default()
    }

    fn await_answer(&self, network: &Network, url: &str) -> Result<()> {
        let http = HttpClient::start(network)?;
        let url = format!("{url}/healthz");
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

/// Writes the configuration of a node, and its keys.
fn configuration(directory: &Path, port: u16, more: &str) -> Result<PathBuf> {
    let keys = directory.join("keys.yaml");
    fs::write(&keys, format!("{KEY}: {SECRET}\n"))?;
    let config = directory.join("sfu.yaml");
    let text = format!(
        "cluster_uid: e2e\npublic_url: http://127.0.0.1:{port}\nkeys_file: {}\n\
         http:\n  port: {port}\nadmin:\n  port: {}\nmedia:\n  first_port: {}\n\
         log:\n  format: text\n{more}",
        keys.display(),
        port + ADMIN,
        port + MEDIA
    );
    fs::write(&config, text)?;
    Ok(config)
}

/// Returns one of our programs, built if need be: Cargo builds no binaries of other packages for a
/// test.
pub(crate) fn release_program(name: &str) -> Result<PathBuf> {
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
        .args(["build", "--release"])
        .args(["sfu", "operator", "turn-server"].map(|name| format!("--package={name}")))
        .current_dir(repository())
        .run()?;
    let target =
        env::var_os("CARGO_TARGET_DIR").map_or_else(|| repository().join("target"), PathBuf::from);
    Ok(target.join("release").join(name))
}
