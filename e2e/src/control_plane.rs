//! A control plane alone, for tests of the operator: etcd, kube-apiserver and a few controllers,
//! as processes of this machine. No kubelet, no scheduler: the tests play them.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rcgen::KeyPair;
use serde_json::json;

use crate::process::Run as _;
use crate::tools::{ETCD, K8S, Toolchain};
use crate::wait::eventually;

/// Tells the tests the directory with the kubeconfigs and the audit log.
pub const DIRECTORY: &str = "LIVECLUSTER_CONTROL_PLANE";
/// Users with all rights; each has a kubeconfig of this name. The audit log tells them apart.
const USERS: [&str; 3] = ["admin", "first", "second"];
/// Those that remove what belongs to what is gone, that count what may be evicted and what a quota has
/// left, and that keep volumes as long as pods use them.
const CONTROLLERS: [&str; 5] = [
    "disruption-controller",
    "garbage-collector-controller",
    "namespace-controller",
    "persistentvolumeclaim-protection-controller",
    "resourcequota-controller",
];
/// Time in which everything is up, on a machine that does much else.
const START: Duration = Duration::from_secs(180);

/// What is written down: what the users that play operators ask for, and when.
const AUDIT_POLICY: &str = "\
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived, ResponseStarted]
rules:
  - level: Metadata
    users: [first, second]
  - level: None
";

/// The processes; they end with it.
struct ControlPlane {
    directory: PathBuf,
    processes: Vec<Child>,
}

/// Starts a control plane, runs a command that finds it by [`DIRECTORY`], and ends everything.
pub fn run(command: &mut Command) -> Result<ExitStatus> {
    let go = Toolchain::find()?;
    let (etcd, kubernetes) = (ETCD.build(&go)?, K8S.build(&go)?);
    let plane = ControlPlane::start(&etcd, &kubernetes)?;
    let status = command.env(DIRECTORY, &plane.directory).status();
    status.context("starting the command")
}

impl ControlPlane {
    fn start(etcd: &Path, kubernetes: &Path) -> Result<Self> {
        let name = format!("livecluster-control-plane-{}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        fs::create_dir(&directory).context("making the directory of the control plane")?;
        let mut plane = Self { directory, processes: Vec::new() };
        let (store, server) = (free_port()?, free_port()?);
        plane.write_files(server)?;
        plane.spawn(plane.etcd(etcd, store))?;
        plane.spawn(plane.server(kubernetes, store, server))?;
        plane.wait_until_ready(kubernetes)?;
        plane.spawn(plane.controllers(kubernetes))?;
        Ok(plane)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    fn write_files(&self, server: u16) -> Result<()> {
        let write = |name: &str, text: &str| {
            fs::write(self.file(name), text).with_context(|| format!("writing {name}"))
        };
        write("audit-policy.yaml", AUDIT_POLICY)?;
        let key = KeyPair::generate()?;
        write("accounts.key", &key.serialize_pem())?;
        write("accounts.pub", &key.public_key_pem())?;
        let tokens = USERS.map(|user| format!("{user}-token,{user},{user},\"system:masters\"\n"));
        write("tokens.csv", &tokens.concat())?;
        for user in USERS {
            write(&format!("{user}.kubeconfig"), &kubeconfig(user, server).to_string())?;
        }
        Ok(())
    }

    fn etcd(&self, programs: &Path, port: u16) -> Command {
        let url = format!("http://127.0.0.1:{port}");
        let mut command = Command::new(programs.join("etcd"));
        command.arg("--data-dir").arg(self.file("etcd"));
        // What is lost with the machine is not needed after it.
        command.args(["--unsafe-no-fsync", "--log-level=error"]);
        command.args(["--listen-peer-urls=http://127.0.0.1:0", "--listen-client-urls", &url]);
        command.args(["--advertise-client-urls", &url]);
        command
    }

    fn server(&self, programs: &Path, store: u16, port: u16) -> Command {
        let mut command = Command::new(programs.join("kube-apiserver"));
        let path = |flag: &str, name: &str| format!("{flag}={}", self.file(name).display());
        command.args([
            &format!("--etcd-servers=http://127.0.0.1:{store}"),
            &format!("--secure-port={port}"),
            &path("--cert-dir", "certificates"),
            &path("--token-auth-file", "tokens.csv"),
            &path("--service-account-key-file", "accounts.pub"),
            &path("--service-account-signing-key-file", "accounts.key"),
            &path("--audit-policy-file", "audit-policy.yaml"),
            &path("--audit-log-path", "audit.log"),
        ]);
        command.args([
            "--bind-address=127.0.0.1",
            "--advertise-address=127.0.0.1",
            "--endpoint-reconciler-type=none",
            "--service-account-issuer=https://kubernetes.default.svc",
            "--service-cluster-ip-range=10.96.0.0/16",
            "--authorization-mode=RBAC",
            // Nobody makes the accounts that pods would have.
            "--disable-admission-plugins=ServiceAccount",
        ]);
        command
    }

    /// Starts [`CONTROLLERS`].
    fn controllers(&self, programs: &Path) -> Command {
        let mut command = Command::new(programs.join("kube-controller-manager"));
        command.arg("--kubeconfig").arg(self.file("admin.kubeconfig"));
        command.args([
            &format!("--controllers={}", CONTROLLERS.join(",")),
            "--leader-elect=false",
            "--secure-port=0",
        ]);
        command
    }

    fn spawn(&mut self, mut command: Command) -> Result<()> {
        let program = PathBuf::from(command.get_program());
        let name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let log = fs::File::create(self.file(&format!("{name}.log")))?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = command.spawn().with_context(|| format!("starting {name}"))?;
        self.processes.push(child);
        Ok(())
    }

    fn wait_until_ready(&mut self, programs: &Path) -> Result<()> {
        let kubeconfig = self.file("admin.kubeconfig");
        let (directory, processes) = (&self.directory, &mut self.processes);
        eventually("the API server is ready", START, || {
            for process in processes.iter_mut() {
                let ended = process.try_wait()?;
                ensure!(ended.is_none(), "a process ended; see {}", directory.display());
            }
            let mut kubectl = Command::new(programs.join("kubectl"));
            kubectl.arg("--kubeconfig").arg(&kubeconfig).args(["get", "--raw", "/readyz"]).run()
        })
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        // The last that was started first: nobody misses the others then.
        for process in self.processes.iter_mut().rev() {
            // One that has ended is what is wanted.
            let _ = process.kill();
            let _ = process.wait();
        }
        let _ = fs::remove_dir_all(&self.directory);
    }
}

fn kubeconfig(user: &str, port: u16) -> serde_json::Value {
    let token = format!("{user}-token");
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": user,
        "clusters": [{"name": "test", "cluster": {
            "server": format!("https://127.0.0.1:{port}"), "insecure-skip-tls-verify": true,
        }}],
        "contexts": [{"name": user, "context": {"cluster": "test", "user": user}}],
        "users": [{"name": user, "user": {"token": token}}],
    })
}

/// A port that was free a moment ago.
fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}
