//! What breaks beneath a room, one function each. Nobody and no room may be lost in any of them;
//! what else must hold is in the function.

use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use crds::names;
use serde_json::json;

use super::room::{Joins, ROOM, WatchedRoom};
use crate::clients::HttpAnswer;
use crate::live_cluster::{LiveCluster, MediaPod, NAME, READY_TIMEOUT};
use crate::pod_host;
use crate::process::Run as _;
use crate::wait::eventually;

/// Time in which a room leaves its home: `spec.drain.timeout` or the end of a lease, on a machine
/// that starts pods at the same time.
const MOVE_TIMEOUT: Duration = Duration::from_secs(120);
/// How long Redis, or the way of clients, is away: more than two lives of a lease, and less than
/// clients try for.
const OUTAGE: Duration = Duration::from_secs(10);
/// Port of Redis.
const REDIS_PORT: u16 = 6379;
/// Port of signalling in a media pod.
const SIGNALLING_PORT: u16 = 7880;

/// Nothing breaks: other programs learn from Redis that the room began, who joined it and what they
/// publish.
pub fn room_events(room: &WatchedRoom<'_>) -> Result<()> {
    let expected = [("room_started", 1), ("participant_joined", 3), ("track_published", 6)];
    eventually("the room's events are in Redis", MOVE_TIMEOUT, || {
        for (event, count) in expected {
            let found = room.live_cluster.room_events(event)?;
            ensure!(found == count, "{event}: {found} instead of {count}");
        }
        Ok(())
    })
}

/// The home's pod is deleted: the room moves, and who comes meanwhile is let in.
pub fn pod_deletion(room: &WatchedRoom<'_>) -> Result<()> {
    let home = room.home()?;
    let joins = room.observe("pod_deletion", || {
        let mut kubectl = room.live_cluster.namespace().kubectl();
        kubectl.args(["delete", "pod", &home.name, "--wait=false"]).run()?;
        await_other_pods(room, std::slice::from_ref(&home))
    })?;
    nobody_was_refused(joins)
}

/// Another level of the log is another specification: one by one all pods are replaced.
pub fn rolling_change(room: &WatchedRoom<'_>) -> Result<()> {
    let before = room.live_cluster.pods()?;
    let joins = room.observe("rolling_change", || {
        room.live_cluster.patch(&json!({ "log": { "level": "debug" } }))?;
        await_other_pods(room, &before)
    })?;
    nobody_was_refused(joins)
}

/// `kubectl drain` of the home's Kubernetes node, which may not evict the pod before the operator
/// has replaced it and the room has moved.
pub fn node_drain(room: &WatchedRoom<'_>) -> Result<()> {
    let home = room.home()?;
    let node = room.live_cluster.host_of(&home.name)?.node;
    let joins = room.observe("node_drain", || {
        let mut drain = Drain::start(room.live_cluster, &node)?;
        let mut joins = Joins::default();
        while !drain.has_ended()? {
            room.try_join(&mut joins)?;
        }
        let others = await_other_pods(room, std::slice::from_ref(&home))?;
        for pod in room.live_cluster.pods()? {
            let host = room.live_cluster.host_of(&pod.name)?;
            ensure!(host.node != node, "{} is on {node}, which is drained", pod.name);
        }
        Ok(Joins {
            admitted: joins.admitted + others.admitted,
            refused: joins.refused + others.refused,
        })
    })?;
    nobody_was_refused(joins)
}

/// The home's process is killed and starts again in its pod.
pub fn process_kill(room: &WatchedRoom<'_>) -> Result<()> {
    let home = room.home()?;
    let before = restarts(room.live_cluster, &home)?;
    room.observe("process_kill", || {
        room.live_cluster.host_of(&home.name)?.kill("sfu")?;
        let mut joins = Joins::default();
        eventually("the process runs again", READY_TIMEOUT, || {
            room.try_join(&mut joins)?;
            let pods = room.live_cluster.pods()?;
            ensure!(pods.len() == 2 && pods.iter().all(|pod| pod.ready), "the pods are {pods:?}");
            ensure!(restarts(room.live_cluster, &home)? > before, "it has not started again");
            Ok(())
        })?;
        Ok(joins)
    })
    .map(drop)
}

/// Clients do not reach the home, which everybody else does: it stays the home.
pub fn cut_from_clients(room: &WatchedRoom<'_>, first_port: u16, ports: u16) -> Result<()> {
    let home = room.home()?;
    let host = room.live_cluster.host_of(&home.name)?;
    room.observe("cut_from_clients", || {
        let media = (first_port, first_port + ports - 1);
        let _cut = host.cut(pod_host::clients(SIGNALLING_PORT, media))?;
        // Who joins would wait for the ingress, which tries the pod for longer than this.
        thread::sleep(OUTAGE);
        Ok(Joins::default())
    })?;
    ensure!(room.home()?.uid == home.uid, "the room has left {}", home.name);
    Ok(())
}

/// The home is cut from everything until the room has another; then it finds out.
pub fn cut_from_everything(room: &WatchedRoom<'_>) -> Result<()> {
    let home = room.home()?;
    let host = room.live_cluster.host_of(&home.name)?;
    room.observe("cut_from_everything", || {
        let _cut = host.cut(pod_host::everything())?;
        await_other_home(room, &home)
    })
    .map(drop)
}

/// The home, and nobody else, is cut from Redis: the room has another as soon as somebody comes.
pub fn cut_from_redis(room: &WatchedRoom<'_>) -> Result<()> {
    let home = room.home()?;
    let host = room.live_cluster.host_of(&home.name)?;
    room.observe("cut_from_redis", || {
        let _cut = host.cut(pod_host::servers(REDIS_PORT))?;
        await_other_home(room, &home)
    })
    .map(drop)
}

/// Redis is killed and not there for a while: nobody in the room notices, others join it, and new
/// rooms have to wait.
pub fn redis_outage(room: &WatchedRoom<'_>) -> Result<()> {
    let before = room.reconnections()?;
    let redis = room.live_cluster.host_of(&LiveCluster::redis_pod())?;
    let joins = room.observe("redis_outage", || {
        let _cut = redis.cut(pod_host::everything())?;
        redis.kill("redis")?;
        let mut joins = Joins::default();
        let end = Instant::now() + OUTAGE;
        while Instant::now() < end {
            room.try_join(&mut joins)?;
        }
        must_wait(&room.visit("new in the outage")?)?;
        Ok(joins)
    })?;
    ensure!(joins.admitted > 0, "nobody could join the living room");
    let after = room.reconnections()?;
    ensure!(after == before, "clients connected anew: {after:?} times, before {before:?}");
    let new = "new after the outage";
    eventually("a new room begins", READY_TIMEOUT, || {
        let answer = room.visit(new)?;
        ensure!(answer.status == 101, "{answer:?}");
        Ok(())
    })?;
    room.delete(new)
}

fn must_wait(answer: &HttpAnswer) -> Result<()> {
    let wait = answer.headers.get("retry-after").and_then(|value| value.parse::<u32>().ok());
    ensure!(
        answer.status == 503 && wait.is_some_and(|seconds| seconds > 0),
        "a new room without Redis: {answer:?}"
    );
    Ok(())
}

fn nobody_was_refused(joins: Joins) -> Result<()> {
    ensure!(joins.refused == 0, "{} joins were refused while the room moved", joins.refused);
    Ok(())
}

/// Waits until two pods are ready and none is of `earlier`, and the room is elsewhere; people join
/// meanwhile.
fn await_other_pods(room: &WatchedRoom<'_>, earlier: &[MediaPod]) -> Result<Joins> {
    let mut joins = Joins::default();
    eventually("other pods are there", READY_TIMEOUT, || {
        room.try_join(&mut joins)?;
        let pods = room.live_cluster.pods()?;
        let is_other = |pod: &MediaPod| earlier.iter().all(|other| other.uid != pod.uid);
        let all_other = pods.iter().all(|pod| pod.ready && is_other(pod));
        ensure!(all_other && pods.len() == 2, "the pods are {pods:?}");
        Ok(())
    })?;
    // Pods that are gone are nobody's home.
    eventually("the room is elsewhere", MOVE_TIMEOUT, || room.home().map(drop))?;
    Ok(joins)
}

/// Waits until the room has another home; people join meanwhile.
fn await_other_home(room: &WatchedRoom<'_>, home: &MediaPod) -> Result<Joins> {
    let mut joins = Joins::default();
    eventually("the room is elsewhere", MOVE_TIMEOUT, || {
        room.try_join(&mut joins)?;
        let now = room.home()?;
        ensure!(now.uid != home.uid, "{ROOM} is still on {}", now.name);
        Ok(())
    })?;
    Ok(joins)
}

/// How often the media node's process in a pod has been started again.
fn restarts(live_cluster: &LiveCluster, pod: &MediaPod) -> Result<u64> {
    let object = live_cluster.namespace().get("pod", &pod.name)?;
    let containers = object["status"]["containerStatuses"].as_array();
    let sfu = containers.into_iter().flatten().find(|container| container["name"] == "sfu");
    sfu.and_then(|sfu| sfu["restartCount"].as_u64()).context("the pod has no container sfu")
}

/// `kubectl drain`; the node takes pods again when this is dropped.
struct Drain<'a> {
    live_cluster: &'a LiveCluster,
    node: &'a str,
    kubectl: Child,
}

impl<'a> Drain<'a> {
    fn start(live_cluster: &'a LiveCluster, node: &'a str) -> Result<Self> {
        let mut command = live_cluster.namespace().kubectl();
        command.args(["drain", node, "--ignore-daemonsets", "--delete-emptydir-data"]);
        command.arg(format!("--pod-selector={}", names::node_selector(NAME)));
        command.arg(format!("--timeout={}s", READY_TIMEOUT.as_secs()));
        let kubectl = command.stdout(Stdio::null()).spawn().context("starting kubectl drain")?;
        Ok(Self { live_cluster, node, kubectl })
    }

    fn has_ended(&mut self) -> Result<bool> {
        let status = self.kubectl.try_wait().context("waiting for kubectl drain")?;
        ensure!(status.is_none_or(|status| status.success()), "kubectl drain: {status:?}");
        Ok(status.is_some())
    }
}

impl Drop for Drain<'_> {
    fn drop(&mut self) {
        // It may have ended; then there is nothing to kill.
        let _ended = self.kubectl.kill();
        let _status = self.kubectl.wait();
        let mut uncordon = self.live_cluster.namespace().kubectl();
        if let Err(error) = uncordon.args(["uncordon", self.node]).run() {
            crate::stage::say(&format!("{} stays cordoned: {error:#}", self.node));
        }
    }
}
