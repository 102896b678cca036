//! Many LiveClusters by an operator's process: how long its reconciles take, what it asks of the API
//! when nothing happens, and how much memory it takes. Pods are run by the test, and answer nothing.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use crds::{LiveCluster, names};
use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use kube::runtime::{WatchStreamExt as _, watcher};
use operator::cluster::{apply, looks};
use serde_json::{Value, json};

use super::super::leaders::{Operator, applications, requests};
use super::super::plane::{self, HOSTS};
use super::super::rest::APPLICATION;
use super::super::world::World;

/// LiveClusters, more and more of them.
const CLUSTERS: [usize; 3] = [50, 100, 200];
const NODES: usize = 10;
/// Pods that are started at the same time.
const CONCURRENCY: usize = 8;
/// Longest time until all of them run, on a machine that does much else.
const START: Duration = Duration::from_secs(1800);
/// Time at rest before requests are counted: what was begun ends.
const SETTLING: Duration = Duration::from_secs(30);
/// Time over which they are counted: each LiveCluster is read anew once in it.
const REST: Duration = looks::MAX_AGE;
/// Requests a second that a LiveCluster may cost at rest.
const MAX_RATE: f64 = 0.1;
/// How many times as much memory one of the most may take as one of the fewest: whatever grows faster
/// than their number would take four times as much.
const MAX_GROWTH: f64 = 1.5;

/// Places each pod and says that it is ready.
async fn run_pods(pods: Api<Pod>) {
    let config = watcher::Config::default().labels(names::CLUSTER);
    let started = watcher(pods.clone(), config).default_backoff().applied_objects();
    let starts = started.map(|pod| {
        let pods = pods.clone();
        async move {
            let pod = pod.unwrap();
            if pod.spec.as_ref().unwrap().node_name.is_none() {
                start(&pods, &pod).await;
            }
        }
    });
    starts.buffer_unordered(CONCURRENCY).collect::<()>().await;
}

async fn start(pods: &Api<Pod>, pod: &Pod) {
    let name = pod.metadata.name.as_deref().unwrap();
    let slot: usize = pod.metadata.labels.as_ref().unwrap()[names::SLOT].parse().unwrap();
    let host = HOSTS[slot % HOSTS.len()];
    let binding = json!({"metadata": {"name": name}, "target": {"kind": "Node", "name": host}});
    let params = PostParams::default();
    let bound: Result<Value, _> = pods.create_subresource("binding", name, &params, &binding).await;
    if bound.is_err() {
        // Seen twice.
        return;
    }
    let status = json!({"status": {"phase": "Running",
        "conditions": [{"type": "Ready", "status": "True"}]}});
    pods.patch_status(name, &PatchParams::default(), &Patch::Merge(&status)).await.unwrap();
}

/// How many LiveClusters have all their nodes.
async fn complete(world: &World) -> usize {
    let list = world.api::<LiveCluster>().list(&ListParams::default()).await.unwrap();
    let is_complete = |cluster: &&LiveCluster| {
        let ready = cluster.status.as_ref().map(|status| status.ready_nodes);
        ready == i32::try_from(NODES).ok()
    };
    list.items.iter().filter(is_complete).count()
}

/// Memory of a process, in KiB: as it is, and at most.
fn memory(pid: u32) -> [u64; 2] {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    ["VmRSS:", "VmHWM:"].map(|name| {
        let line = text.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    })
}

/// How many reconciles took at most how many seconds, since the operator's process started.
async fn reconciles(operator: &mut Operator, port: u16) -> Vec<(f64, f64)> {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let connect = || tokio::net::TcpStream::connect(("127.0.0.1", port));
    plane::until("the operator answers", async || {
        operator.revive();
        connect().await.is_ok()
    })
    .await;
    let mut connection = connect().await.unwrap();
    let request = "GET /metrics HTTP/1.1\r\nhost: operator\r\nconnection: close\r\n\r\n";
    connection.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    connection.read_to_string(&mut text).await.unwrap();
    let prefix = format!("{}_bucket{{le=\"", contract::metrics::RECONCILE_SECONDS);
    text.lines()
        .filter_map(|line| line.strip_prefix(&prefix)?.split_once("\"} "))
        .map(|(bound, count)| (bound.parse().unwrap(), count.parse().unwrap()))
        .collect()
}

/// The bound of the bucket in which the 99th percentile of the reconciles of a time is, in seconds.
fn slowest_percent(before: &[(f64, f64)], after: &[(f64, f64)]) -> f64 {
    // A process that was started anew counts anew.
    let is_same = before.last().is_some_and(|(_, all)| *all <= after.last().unwrap().1);
    let before = if is_same { before } else { &[] };
    let earlier = before.iter().map(|(_, count)| *count).chain(std::iter::repeat(0.0));
    let counts =
        after.iter().zip(earlier).map(|((bound, count), earlier)| (*bound, count - earlier));
    let counts: Vec<_> = counts.collect();
    let all = counts.last().unwrap().1;
    counts.iter().find(|(_, count)| *count >= 0.99 * all).unwrap().0
}

async fn create(world: &World, numbers: std::ops::Range<usize>) {
    for number in numbers {
        let cluster = json!({"apiVersion": "livecluster.dev/v1alpha1", "kind": "LiveCluster",
            "metadata": {"name": format!("crowd-{number}")},
            "spec": {"domain": format!("crowd-{number}.example.com"), "nodes": NODES}});
        let cluster = serde_json::from_value(cluster).unwrap();
        world.api::<LiveCluster>().create(&PostParams::default(), &cluster).await.unwrap();
    }
}

/// Adds LiveClusters until there are so many, and says how much memory one of them takes, in KiB.
async fn grow(
    world: &World,
    operator: &mut Operator,
    port: u16,
    from: usize,
    clusters: usize,
) -> f64 {
    let start = Instant::now();
    let first = if from == 0 { Vec::new() } else { reconciles(operator, port).await };
    create(world, from..clusters).await;
    loop {
        operator.revive();
        let complete = complete(world).await;
        if complete == clusters {
            break;
        }
        assert!(start.elapsed() < START, "{complete} of {clusters} have all their nodes");
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
    let installed = start.elapsed().as_secs();
    let busy = slowest_percent(&first, &reconciles(operator, port).await);
    let resting = reconciles(operator, port).await;
    tokio::time::sleep(SETTLING).await;
    let calm = slowest_percent(&resting, &reconciles(operator, port).await);
    let [now, most] = memory(operator.pid());
    plane::say(&format!(
        "{clusters} LiveClusters of {NODES} nodes, {} of them new in {installed} s; 99 % of reconciles in \
         at most {busy} s, at rest {calm} s; memory {now} KiB, at most {most} KiB",
        clusters - from
    ));
    now as f64 / clusters as f64
}

/// Requests a second that one of so many LiveClusters costs at rest. They were all made at about the same
/// time, and so are written again: what that costs is counted as if it came evenly.
async fn rate(world: &World, clusters: usize) -> f64 {
    let counts = || {
        let written = applications("second", &world.namespace);
        (requests("second", &world.namespace), written)
    };
    let before = counts();
    tokio::time::sleep(REST).await;
    let after = counts();
    let written = after.1 - before.1;
    let others = (after.0 - before.0).saturating_sub(written * APPLICATION);
    let rate = others as f64 / REST.as_secs_f64() / clusters as f64
        + APPLICATION as f64 / apply::MAX_AGE.as_secs_f64();
    plane::say(&format!("{rate:.3} requests/s for each at rest; {written} were written again"));
    rate
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_liveclusters_of_ten_nodes_cost_next_to_nothing_at_rest_each_as_much_as_of_fifty()
 {
    let Some(config) = plane::config().await else { return };
    let world = World::new(&config, "crowd").await;
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut operator = Operator::start("second", &world.namespace, port);
    let kubelet = tokio::spawn(run_pods(world.api()));
    let mut costs = Vec::new();
    let mut there = 0;
    for clusters in CLUSTERS {
        costs.push(grow(&world, &mut operator, port, there, clusters).await);
        there = clusters;
    }
    let rate = rate(&world, there).await;
    assert!(rate <= MAX_RATE, "{rate} requests a second for each of {there} LiveClusters");
    let growth = costs.last().unwrap() / costs[0];
    assert!(growth <= MAX_GROWTH, "memory of one in KiB: {costs:?}");
    kubelet.abort();
}
