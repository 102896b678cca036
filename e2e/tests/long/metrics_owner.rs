//! A cluster has one owner of the custom metrics API. Does theirs keep working beside ours, do
//! namespaces stay deletable all the time, and does ours come back? `make test-full` runs this: it
//! takes the other API away from all other tests meanwhile.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Stdio};

use anyhow::{Context as _, Result, ensure};
use e2e::clients::{HttpClient, Network};
use e2e::cluster::Cluster;
use e2e::images::programs::{archive_directory, single_program};
use e2e::images::write_archive;
use e2e::live_cluster::{Addition, LiveCluster, READY_TIMEOUT, condition, condition_reason};
use e2e::namespace::Namespace;
use e2e::process::Run as _;
use e2e::stage::{say, stage};
use e2e::tools::{METRICS_ADAPTER, Toolchain};
use e2e::wait::eventually;
use serde_json::{Value, json};

const FIRST_PORT: u16 = 29_900;
/// Name of everything of theirs, and their namespace.
const ADAPTER: &str = "e2e-metrics-adapter";
const IMAGE: &str = "docker.io/livecluster/e2e-metrics-adapter:1";
const THEIRS: &str = "v1beta1.custom.metrics.k8s.io";
const OURS: &str = "v1beta2.custom.metrics.k8s.io";
/// An object with a metric of theirs.
const OBJECT: &str = "namespaces/default/services/kubernetes/waiting";

#[test]
fn the_metrics_api_of_others_keeps_working_and_ours_comes_back() -> Result<()> {
    let addition = Addition {
        spec: json!({ "autoscaling": { "mode": "HPA", "maxNodes": 2, "roomsPerNode": 9 } }),
        ..Addition::default()
    };
    LiveCluster::run_with("metrics-owner", 1, FIRST_PORT, &addition, |live_cluster| {
        let cluster = Cluster::attach()?;
        let case = Case { cluster: &cluster, live_cluster };
        stage("ours", || {
            case.ours_is("Registered", true)?;
            case.namespaces_can_be_deleted()
        })?;
        let adapter = stage("theirs comes", || Adapter::start(&cluster))?;
        stage("theirs stays", || {
            case.ours_is("OwnedByOther", false)?;
            adapter.answers()?;
            case.namespaces_can_be_deleted()
        })?;
        drop(adapter);
        stage("ours again", || {
            case.ours_is("Registered", true)?;
            case.namespaces_can_be_deleted()
        })
    })
}

struct Case<'a> {
    cluster: &'a Cluster,
    live_cluster: &'a LiveCluster,
}

impl Case<'_> {
    /// Waits until the LiveCluster gives this reason, and our registration is there or not.
    fn ours_is(&self, reason: &str, registered: bool) -> Result<()> {
        eventually(&format!("the metrics API is {reason}"), READY_TIMEOUT, || {
            let object = self.live_cluster.object()?;
            let told = condition_reason(&object, "MetricsAPIAvailable");
            ensure!(told.as_deref() == Some(reason), "it is {told:?}");
            let arguments = ["get", "apiservice", OURS, "--ignore-not-found", "-o", "name"];
            let found = self.cluster.kubectl().args(arguments).read()?;
            ensure!(registered != found.trim().is_empty(), "ours is registered or not");
            Ok(())
        })
    }

    /// Kubernetes deletes no namespace while a registered API does not answer.
    fn namespaces_can_be_deleted(&self) -> Result<()> {
        let namespace = Namespace::new(self.cluster, "e2e-metrics-owner-deleted");
        namespace.create()?;
        namespace.delete()
    }
}

/// The adapter of the library that prometheus-adapter is made of; it goes with this.
struct Adapter {
    cluster: Cluster,
    namespace: Namespace,
}

impl Adapter {
    fn start(cluster: &Cluster) -> Result<Self> {
        let program = METRICS_ADAPTER.build(&Toolchain::find()?)?.join(METRICS_ADAPTER.name);
        let archive = archive_directory().join("metrics-adapter.tar");
        write_archive(&single_program(IMAGE, &program, "/metrics-adapter", 65532), &archive)?;
        cluster.load(&archive)?;
        let adapter =
            Self { cluster: cluster.clone(), namespace: Namespace::new(cluster, ADAPTER) };
        adapter.namespace.create()?;
        for object in objects() {
            adapter
                .cluster
                .kubectl()
                .args(["apply", "-f", "-"])
                .read_with_input(object.to_string().as_bytes())?;
        }
        eventually("their API is available", READY_TIMEOUT, || {
            let object = adapter.namespace.get("apiservice", THEIRS)?;
            let available = condition(&object, "Available");
            ensure!(available.as_deref() == Some("True"), "{}", object["status"]);
            Ok(())
        })?;
        Ok(adapter)
    }

    /// What is written to it is what Kubernetes reads from it.
    fn answers(&self) -> Result<()> {
        let proxy = Proxy::start(&self.cluster)?;
        let services = format!("/api/v1/namespaces/{ADAPTER}/services");
        let url =
            format!("{}{services}/{ADAPTER}:write/proxy/write-metrics/{OBJECT}", proxy.address);
        let answer = HttpClient::start(&Network::here())?.post(&url, None, &json!("300m"))?;
        ensure!(answer.status == 200, "{answer:?}");
        let read = format!("/apis/custom.metrics.k8s.io/v1beta1/{OBJECT}");
        let text = self.cluster.kubectl().args(["get", "--raw", &read]).read()?;
        let list: Value = serde_json::from_str(&text)?;
        ensure!(list["items"][0]["value"] == "300m", "it answers {list}");
        Ok(())
    }

    fn remove(&self) -> Result<()> {
        for object in objects().iter().rev() {
            let mut command = self.cluster.kubectl();
            command.args(["delete", "--ignore-not-found", "--wait=false", "-f", "-"]);
            command.read_with_input(object.to_string().as_bytes())?;
        }
        self.namespace.abandon()
    }
}

impl Drop for Adapter {
    fn drop(&mut self) {
        if let Err(error) = self.remove() {
            say(&format!("{ADAPTER} stays: {error:#}"));
        }
    }
}

/// The API server on a port of this machine, for requests that `kubectl` cannot send; it ends with
/// this.
struct Proxy {
    child: Child,
    address: String,
}

impl Proxy {
    fn start(cluster: &Cluster) -> Result<Self> {
        let mut command = cluster.kubectl();
        let mut child = command.args(["proxy", "--port=0"]).stdout(Stdio::piped()).spawn()?;
        let output = child.stdout.take().context("kubectl proxy has no output")?;
        let mut proxy = Self { child, address: String::new() };
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line)?;
        let address = line.trim().rsplit(' ').next().unwrap_or_default();
        proxy.address = format!("http://{address}");
        Ok(proxy)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What the adapter needs, in the order of making; the registration comes last.
fn objects() -> Vec<Value> {
    let subjects = json!([{ "kind": "ServiceAccount", "name": ADAPTER, "namespace": ADAPTER }]);
    let bound = |name: &str, kind: &str, namespace: Option<&str>, role: (&str, &str)| {
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": kind,
            "metadata": { "name": format!("{ADAPTER}-{name}"), "namespace": namespace },
            "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": role.0, "name": role.1 },
            "subjects": subjects,
        })
    };
    let labels = json!({ "app": ADAPTER });
    let container = json!({
        "name": "adapter",
        "image": IMAGE,
        "imagePullPolicy": "Never",
        "args": ["--secure-port=6443", "--cert-dir=/tmp/certificate"],
    });
    let reader = ("Role", "extension-apiserver-authentication-reader");
    vec![
        in_namespace(json!({ "apiVersion": "v1", "kind": "ServiceAccount" })),
        bound("delegator", "ClusterRoleBinding", None, ("ClusterRole", "system:auth-delegator")),
        bound("view", "ClusterRoleBinding", None, ("ClusterRole", "view")),
        bound("reader", "RoleBinding", Some("kube-system"), reader),
        in_namespace(json!({
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "spec": {
                "selector": { "matchLabels": labels },
                "template": {
                    "metadata": { "labels": labels },
                    "spec": { "serviceAccountName": ADAPTER, "containers": [container] },
                },
            },
        })),
        in_namespace(json!({
            "apiVersion": "v1",
            "kind": "Service",
            "spec": {
                "selector": labels,
                "ports": [
                    { "name": "read", "port": 443, "targetPort": 6443 },
                    { "name": "write", "port": 80, "targetPort": 8080 },
                ],
            },
        })),
        json!({
            "apiVersion": "apiregistration.k8s.io/v1",
            "kind": "APIService",
            "metadata": { "name": THEIRS },
            "spec": {
                "group": "custom.metrics.k8s.io",
                "version": "v1beta1",
                "service": { "namespace": ADAPTER, "name": ADAPTER },
                "groupPriorityMinimum": 100,
                "versionPriority": 100,
                "insecureSkipTLSVerify": true,
            },
        }),
    ]
}

fn in_namespace(mut object: Value) -> Value {
    object["metadata"] = json!({ "name": ADAPTER, "namespace": ADAPTER });
    object
}
