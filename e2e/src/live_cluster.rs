//! One LiveCluster that a test makes, in a namespace of its own.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail, ensure};
use contract::ids::{NodeId, RoomName};
use contract::redis::{Keys, NodeRecord};
use crds::names;
use serde_json::{Value, json};

use crate::artifact_cache;
use crate::clients::{HttpClient, Network};
use crate::cluster::Cluster;
use crate::livekit::Access;
use crate::namespace::Namespace;
use crate::pod_host::PodHost;
use crate::process::Run as _;
use crate::release;
use crate::stage::{say, stage};
use crate::wait::eventually;

/// Name of the LiveCluster in its namespace.
pub const NAME: &str = "demo";
/// Time until a LiveCluster is ready: Redis, then media pods, on a busy machine.
pub const READY_TIMEOUT: Duration = Duration::from_secs(180);
/// Media ports of a LiveCluster.
pub const PORTS: u16 = 100;
/// Port of a media pod's probes and metrics.
const ADMIN_PORT: u16 = 9600;
/// The same of its TURN server.
const TURN_ADMIN_PORT: u16 = 9601;

/// A LiveCluster; dropping it deletes its namespace.
pub struct LiveCluster {
    cluster: Cluster,
    namespace: Namespace,
    domain: String,
}

/// What a LiveCluster has beyond the usual.
#[derive(Clone, Debug, Default)]
pub struct Addition {
    /// Fields of the specification.
    pub spec: Value,
    /// Objects that must be there before it.
    pub objects: Vec<Value>,
}

/// A media pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MediaPod {
    /// Its name.
    pub name: String,
    /// Tells it from an earlier pod of the same name.
    pub uid: String,
    /// Whether Kubernetes sends it traffic.
    pub ready: bool,
}

impl LiveCluster {
    /// Makes a LiveCluster for the test of this name and runs the test once it is ready.
    ///
    /// `first_port` begins its range of media ports: every test has a range of its own, because
    /// the pods of the one before may still be ending.
    pub fn run(
        test: &str,
        nodes: u32,
        first_port: u16,
        body: impl FnOnce(&Self) -> Result<()>,
    ) -> Result<()> {
        Self::run_with(test, nodes, first_port, &Addition::default(), body)
    }

    /// The same with more in the specification, and objects that it names.
    pub fn run_with(
        test: &str,
        nodes: u32,
        first_port: u16,
        addition: &Addition,
        body: impl FnOnce(&Self) -> Result<()>,
    ) -> Result<()> {
        let cluster = release::install()?;
        let namespace = Namespace::new(&cluster, &format!("e2e-{test}"));
        // Another run of the same test would take the namespace away.
        let _lock = artifact_cache::lock(&artifact_cache::state_directory()?, namespace.name())?;
        namespace.create()?;
        let live_cluster = Self { cluster, namespace, domain: format!("{test}.example.com") };
        let result =
            live_cluster.start(nodes, first_port, addition).and_then(|()| body(&live_cluster));
        if result.is_err() {
            say(&live_cluster.namespace.diagnosis());
        }
        result
    }

    fn start(&self, nodes: u32, first_port: u16, addition: &Addition) -> Result<()> {
        for object in &addition.objects {
            self.namespace.apply(object)?;
        }
        let mut spec = json!({
            "domain": self.domain,
            "nodes": nodes,
            "media": { "ports": { "first": first_port, "count": PORTS } },
            "http": { "createRoom": "Open" },
        });
        if let (Value::Object(spec), Value::Object(more)) = (&mut spec, &addition.spec) {
            spec.extend(more.clone());
        }
        stage("LiveCluster becomes ready", || {
            self.apply(&spec)?;
            self.await_ready(nodes)
        })
    }

    /// Applies another specification.
    pub fn apply(&self, spec: &Value) -> Result<()> {
        self.namespace.apply(&json!({
            "apiVersion": "livecluster.dev/v1alpha1",
            "kind": "LiveCluster",
            "metadata": { "name": NAME },
            "spec": spec,
        }))
    }

    /// Changes fields of the specification and leaves the others.
    pub fn patch(&self, spec: &Value) -> Result<()> {
        let patch = json!({ "spec": spec }).to_string();
        let mut command = self.namespace.kubectl();
        command.args(["patch", "livecluster", NAME, "--type=merge", "--patch", &patch]);
        command.run()
    }

    /// Waits until the condition `Ready` holds for this many media nodes.
    pub fn await_ready(&self, nodes: u32) -> Result<()> {
        eventually("the LiveCluster is ready", READY_TIMEOUT, || {
            let object = self.object()?;
            ensure!(
                condition(&object, "Ready").as_deref() == Some("True")
                    && object["status"]["readyNodes"] == nodes,
                "its status is {}",
                object["status"]
            );
            Ok(())
        })
    }

    /// Where it is.
    #[must_use]
    pub const fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// A pod of it as its Kubernetes node has it.
    pub fn host_of(&self, pod: &str) -> Result<PodHost> {
        PodHost::find(&self.cluster, &self.namespace, pod)
    }

    /// The name of its Redis's pod.
    #[must_use]
    pub fn redis_pod() -> String {
        format!("{}-0", names::redis(NAME))
    }

    /// The domain that clients know.
    #[must_use]
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// The object itself.
    pub fn object(&self) -> Result<Value> {
        self.namespace.get("livecluster", NAME)
    }

    /// The network of its clients, in which the domain leads to the ingress.
    pub fn network(&self) -> Result<Network> {
        let here = Network { enter: self.cluster.client_prefix(), hosts: BTreeMap::new() };
        Ok(here.with_host(&self.domain, self.ingress_address()?))
    }

    /// Where its domain leads: the ingress.
    pub fn ingress_address(&self) -> Result<IpAddr> {
        let address = self.cluster.ingress_address();
        address.parse().with_context(|| format!("ingress address {address}"))
    }

    /// The address of a Kubernetes node, as clients reach it.
    pub fn node_address(&self) -> Result<IpAddr> {
        let address = self.cluster.nodes().values().next().context("the cluster has no node")?;
        address.parse().with_context(|| format!("node address {address}"))
    }

    /// Lets the kubelet look at the files of all media pods now: by itself it takes a minute to
    /// notice a changed Secret.
    pub fn refresh_files(&self) -> Result<()> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis();
        let mut annotate = self.namespace.kubectl();
        annotate.args(["annotate", "pods", "--overwrite", "--selector"]);
        annotate.arg(names::node_selector(NAME)).arg(format!("e2e/refreshed={now}")).run()
    }

    /// A client of its HTTP interface, once the ingress knows the domain: it learns of new routes a
    /// moment after the nodes are ready.
    pub fn http(&self) -> Result<HttpClient> {
        let http = HttpClient::start(&self.network()?)?;
        let url = format!("http://{}/rtc/validate", self.domain);
        eventually("the ingress knows the domain", READY_TIMEOUT, || {
            let answer = http.get(&url)?;
            ensure!(answer.status != 404, "{answer:?}");
            Ok(())
        })?;
        Ok(http)
    }

    /// How to enter its rooms: by the URL in its status, with the key that the operator made.
    pub fn access(&self) -> Result<Access> {
        let object = self.object()?;
        let url = object["status"]["url"].as_str().context("status.url is empty")?;
        let keys = self.secret(&names::keys_secret(NAME), "keys.yaml")?;
        let (key, secret) = keys.trim().split_once(": ").context("keys.yaml holds no key")?;
        Ok(Access::new(url, key, secret))
    }

    /// Its media pods by name.
    pub fn pods(&self) -> Result<Vec<MediaPod>> {
        let pods = self.namespace.list("pods", &names::node_selector(NAME))?;
        pods.iter().map(media_pod).collect()
    }

    /// The sum of a metric's samples of one pod whose labels contain `label`.
    pub fn metric(&self, pod: &str, name: &str, label: &str) -> Result<f64> {
        let page = self.namespace.page(pod, ADMIN_PORT, "/metrics")?;
        Ok(sum_of_samples(&page, name, label))
    }

    /// The sum of a metric's samples of one pod's TURN server.
    pub fn turn_metric(&self, pod: &str, name: &str) -> Result<f64> {
        let page = self.namespace.page(pod, TURN_ADMIN_PORT, "/metrics")?;
        Ok(sum_of_samples(&page, name, ""))
    }

    /// How many joins have come in by this pod.
    pub fn joins_through(&self, pod: &MediaPod) -> Result<f64> {
        self.metric(&pod.name, contract::metrics::FRONT_DOOR_JOINS, "")
    }

    /// The pod that is the home of a room, as Redis has it.
    pub fn home_of(&self, room: &str) -> Result<MediaPod> {
        let keys = self.keys()?;
        let node = self.redis(&["HGET", &keys.room(&RoomName::new(room)?), "node"])?;
        let lease = self.redis(&["HGET", &keys.node(&NodeId::from(node)), "record"])?;
        let record: NodeRecord = serde_json::from_str(&lease)
            .with_context(|| format!("the home of {room} has the lease {lease:?}"))?;
        let pod = self.pods()?.into_iter().find(|pod| pod.name == record.name);
        pod.with_context(|| format!("the home of {room} is {}, which is no pod", record.name))
    }

    /// How many room events of a kind other programs find in its Redis.
    pub fn room_events(&self, event: &str) -> Result<usize> {
        let entries = self.redis(&["XRANGE", &self.keys()?.events(), "-", "+"])?;
        Ok(entries.lines().filter(|line| *line == event).count())
    }

    /// Names of what it has in Redis.
    fn keys(&self) -> Result<Keys> {
        let object = self.object()?;
        let uid = object["metadata"]["uid"].as_str().context("the LiveCluster has no uid")?;
        Ok(Keys::new(uid))
    }

    /// Runs `redis-cli` in its Redis and returns what it prints.
    pub fn redis(&self, arguments: &[&str]) -> Result<String> {
        let password = self.secret(&names::redis_secret(NAME), "password")?;
        let pod = Self::redis_pod();
        let mut command = self.namespace.kubectl();
        // The image has no shell; a password that lives as long as the test may be seen.
        command.args(["exec", &pod, "--", "redis-cli", "--no-auth-warning", "-a", &password]);
        let text = command.arg("--raw").args(arguments).read()?;
        Ok(text.trim().to_owned())
    }

    fn secret(&self, name: &str, key: &str) -> Result<String> {
        let path = format!("-o=go-template={{{{index .data \"{key}\" | base64decode}}}}");
        self.namespace.kubectl().args(["get", "secret", name, &path]).read()
    }
}

impl Drop for LiveCluster {
    fn drop(&mut self) {
        if let Err(error) = self.namespace.abandon() {
            say(&format!("namespace {} stays: {error:#}", self.namespace.name()));
        }
    }
}

fn media_pod(object: &Value) -> Result<MediaPod> {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
    let (Some(name), Some(uid)) = (text("/metadata/name"), text("/metadata/uid")) else {
        bail!("a pod without a name: {object}");
    };
    let deleted = object["metadata"].get("deletionTimestamp").is_some();
    let ready = condition(object, "Ready").as_deref() == Some("True") && !deleted;
    Ok(MediaPod { name, uid, ready })
}

/// The status of a condition of an object.
#[must_use]
pub fn condition(object: &Value, kind: &str) -> Option<String> {
    condition_field(object, kind, "status")
}

/// Why a condition of an object is as it is.
#[must_use]
pub fn condition_reason(object: &Value, kind: &str) -> Option<String> {
    condition_field(object, kind, "reason")
}

fn condition_field(object: &Value, kind: &str, field: &str) -> Option<String> {
    let conditions = object["status"]["conditions"].as_array()?;
    let found = conditions.iter().find(|condition| condition["type"] == kind)?;
    found[field].as_str().map(str::to_owned)
}

/// Adds up the samples of a metric in Prometheus's text format.
fn sum_of_samples(page: &str, name: &str, label: &str) -> f64 {
    let samples = page.lines().filter_map(|line| {
        let (series, value) = line.rsplit_once(' ')?;
        let (found, labels) = series.split_once('{').unwrap_or((series, ""));
        (found == name && labels.contains(label)).then(|| value.parse::<f64>().ok()).flatten()
    });
    samples.sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_of_one_metric_and_label_are_added_up() {
        let page = "# TYPE a counter\na{b=\"x\",c=\"1\"} 2\na{b=\"x\",c=\"2\"} 3.5\na{b=\"y\"} 9\naa 7\nd 4\n";
        assert_eq!(sum_of_samples(page, "a", "b=\"x\""), 5.5);
        assert_eq!(sum_of_samples(page, "d", ""), 4.0);
        assert_eq!(sum_of_samples(page, "absent", ""), 0.0);
    }

    #[test]
    fn a_pod_that_is_being_deleted_is_not_ready() {
        let pod = |deletion: Value| {
            json!({
                "metadata": { "name": "n", "uid": "u", "deletionTimestamp": deletion },
                "status": { "conditions": [{ "type": "Ready", "status": "True" }] },
            })
        };
        let mut alive = pod(Value::Null);
        alive["metadata"].as_object_mut().unwrap().remove("deletionTimestamp");
        assert!(media_pod(&alive).unwrap().ready);
        assert!(!media_pod(&pod(json!("2026-01-01T00:00:00Z"))).unwrap().ready);
    }
}
