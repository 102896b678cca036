//! Two operators as processes, one of which is stopped and wakes up when the other leads.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::jiff::Timestamp;
use operator::leader::LEASE;
use serde_json::{Value, json};

use super::plane::{self, until};
use super::world::World;

/// Writes that show an operator at work.
const AT_WORK: usize = 10;

/// The operator's program; it ends with this.
pub struct Operator {
    command: Command,
    process: Child,
}

impl Operator {
    /// Starts it for a namespace, with its metrics at this port; at any with 0.
    pub fn start(name: &str, namespace: &str, admin_port: u16) -> Self {
        let kubeconfig = plane::file(&format!("{name}.kubeconfig")).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_operator"));
        command
            .env("KUBECONFIG", kubeconfig)
            .envs([("POD_NAME", name), ("POD_NAMESPACE", namespace)])
            .envs([("WATCH_NAMESPACE", namespace), ("LOG_LEVEL", "warn")])
            .env("ADMIN_PORT", admin_port.to_string())
            .stdout(Stdio::null());
        let process = command.spawn().unwrap();
        Self { command, process }
    }

    /// Starts it again where it has ended, as a kubelet would: who cannot renew the Lease ends.
    pub fn revive(&mut self) {
        if self.has_ended() {
            self.process = self.command.spawn().unwrap();
        }
    }

    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    fn signal(&self, signal: &str) {
        let pid = self.process.id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }

    fn has_ended(&mut self) -> bool {
        self.process.try_wait().unwrap().is_some()
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What an operator asked of the API server about a namespace, as the audit log has it.
fn asked(user: &str, namespace: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(plane::file("audit.log").unwrap()).unwrap();
    // The last line may be written just now.
    let whole = text.rsplit_once('\n').map(|(whole, _)| whole).unwrap_or_default();
    let lines = whole.lines().filter(|line| line.contains(namespace) && line.contains(user));
    let entries = lines.map(|line| serde_json::from_str::<Value>(line).unwrap());
    let is_asked = |entry: &Value| {
        entry["user"]["username"] == user && entry["objectRef"]["namespace"] == namespace
    };
    entries.filter(is_asked).collect()
}

/// How many requests that was.
pub fn requests(user: &str, namespace: &str) -> usize {
    asked(user, namespace).len()
}

/// How many times all objects of a LiveCluster were written: one of them is a StatefulSet.
pub fn applications(user: &str, namespace: &str) -> usize {
    let is_written = |entry: &&Value| {
        entry["verb"] == "patch" && entry["objectRef"]["resource"] == "statefulsets"
    };
    asked(user, namespace).iter().filter(is_written).count()
}

/// When an operator's writes reached the API server; those of the Lease apart.
fn writes(user: &str, namespace: &str) -> Vec<Timestamp> {
    let reads = ["get", "list", "watch"];
    let is_write = |entry: &Value| {
        !reads.contains(&entry["verb"].as_str().unwrap())
            && entry["objectRef"]["resource"] != "leases"
    };
    let time = |entry: Value| entry["requestReceivedTimestamp"].as_str().unwrap().parse().unwrap();
    let mut times: Vec<_> = asked(user, namespace).into_iter().filter(is_write).map(time).collect();
    times.sort();
    times
}

async fn leads(world: &World, name: &str) -> bool {
    let lease = world.api::<Lease>().get_opt(LEASE).await.unwrap();
    lease.and_then(|lease| lease.spec?.holder_identity).is_some_and(|holder| holder == name)
}

/// Changes the specification for ever, so that the leader always has something to write.
async fn keep_busy(world: &World) {
    for level in ["info", "debug"].into_iter().cycle() {
        let spec = json!({"domain": "live.example.com", "nodes": 1, "log": {"level": level}});
        world.apply(&spec).await.unwrap();
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}

#[tokio::test]
async fn a_leader_that_was_stopped_writes_nothing_once_another_leads() {
    let Some(config) = plane::config().await else { return };
    let world = World::new(&config, "leaders").await;
    let namespace = world.namespace.clone();
    let count = |name: &str| writes(name, &namespace).len();
    let mut first = Operator::start("first", &namespace, 0);
    until("the first leads", async || leads(&world, "first").await).await;
    let second = Operator::start("second", &namespace, 0);
    let scene = async {
        until("the first is at work", async || count("first") >= AT_WORK).await;
        first.signal("-STOP");
        until("the second leads", async || leads(&world, "second").await).await;
        until("the second is at work", async || count("second") >= AT_WORK).await;
        first.signal("-CONT");
        until("the first has ended", async || first.has_ended()).await;
        let before = count("second");
        until("the second goes on", async || count("second") >= before + AT_WORK).await;
    };
    tokio::select! {
        () = scene => {}
        () = keep_busy(&world) => {}
    }
    drop(second);
    let (by_first, by_second) = (writes("first", &namespace), writes("second", &namespace));
    let taken_over = by_second[0];
    let late: Vec<_> = by_first.iter().filter(|time| **time >= taken_over).collect();
    assert!(late.is_empty(), "the second wrote from {taken_over}, the first still at {late:?}");
    world.remove().await;
}
