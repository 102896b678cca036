//! Does a room outlive upgrade, rollback and the absence of the operator, and does uninstalling
//! leave nothing? `make test-full` runs this: it takes minutes.

use std::collections::BTreeSet;
use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use e2e::clients::{Browser, MEDIA_TIMEOUT, Person, RoomClient, await_everybody_meets};
use e2e::cluster::Cluster;
use e2e::live_cluster::{LiveCluster, MediaPod, NAME, READY_TIMEOUT};
use e2e::process::Run as _;
use e2e::release;
use e2e::repository;
use e2e::stage::stage;
use e2e::wait::eventually;
use serde_json::{Value, json};

const FIRST_PORT: u16 = 29_600;
const ROOM: &str = "lobby";
const DEFINITION: &str = "liveclusters.livecluster.dev";
/// A field that the definition of the earlier chart does not know.
const NEW_FIELD: &str = "eventStreamLength";
const TIMEOUT: &str = "5m";
/// Kinds of what the chart, and the operator for itself, may leave in the release's namespace.
const KINDS: &str = "deployments,replicasets,pods,jobs,services,secrets,configmaps,leases,\
    serviceaccounts,roles,rolebindings,networkpolicies";
/// What Kubernetes itself puts into every namespace.
const OF_KUBERNETES: [&str; 2] = ["configmap/kube-root-ca.crt", "serviceaccount/default"];

#[test]
fn a_room_outlives_upgrade_rollback_and_a_new_installation() -> Result<()> {
    let result = LiveCluster::run("upgrade", 1, FIRST_PORT, |live_cluster| {
        let cluster = Cluster::attach()?;
        let network = live_cluster.network()?;
        let browser = Browser::start(&network)?;
        let (anna, bob) = (browser.open(Person::anna())?, browser.open(Person::bob())?);
        let case = Case {
            cluster: &cluster,
            live_cluster,
            people: [&anna, &bob],
            pods: live_cluster.pods()?,
            room_sid: String::new(),
        };
        case.enter()?.run()
    });
    // Whatever happened, other tests find a release, and no LiveCluster of this one.
    let result = result.and_then(|()| nothing_is_left());
    release::install()?;
    result
}

/// A chart of an earlier time: its definition knows less.
fn earlier_chart() -> PathBuf {
    repository().join("e2e/tests/long/earlier-chart")
}

struct Case<'a> {
    cluster: &'a Cluster,
    live_cluster: &'a LiveCluster,
    people: [&'a dyn RoomClient; 2],
    pods: Vec<MediaPod>,
    room_sid: String,
}

impl Case<'_> {
    fn enter(mut self) -> Result<Self> {
        // The ingress knows the domain then.
        self.live_cluster.http()?;
        let access = self.live_cluster.access()?;
        for client in self.people {
            client.join(&access.url, &access.token(&client.person().identity, ROOM)?)?;
        }
        await_everybody_meets(&self.people, MEDIA_TIMEOUT)?;
        self.room_sid = self.people[0].report()?.room_sid;
        Ok(self)
    }

    fn run(&self) -> Result<()> {
        stage("uninstalling is refused", || self.is_refused())?;
        stage("the operator is away", || {
            helm(self.cluster, &["uninstall", release::NAME, "--no-hooks", "--wait"])?;
            leaves_nothing(self.cluster)?;
            self.room_lives()
        })?;
        stage("an earlier chart", || {
            release::deploy(self.cluster, &earlier_chart(), "")?;
            self.is_ready(false)
        })?;
        stage("upgrade", || {
            let values = format!(
                "test.liveCluster={NAME},test.namespace={}",
                self.live_cluster.namespace().name()
            );
            release::deploy(self.cluster, &release::chart(), &values)?;
            self.is_ready(true)?;
            release::test(self.cluster)?;
            self.room_lives()
        })?;
        stage("rollback", || {
            helm(self.cluster, &["rollback", release::NAME, "--wait", "--force-conflicts"])?;
            self.is_ready(false)
        })?;
        stage("upgrade again", || {
            release::deploy(self.cluster, &release::chart(), "")?;
            self.is_ready(true)
        })
    }

    /// Helm says which LiveCluster is in the way, and the release can be had back.
    fn is_refused(&self) -> Result<()> {
        let output = self
            .cluster
            .helm()
            .args(["uninstall", release::NAME, "--namespace", release::NAMESPACE, "--wait"])
            .output()
            .context("running helm")?;
        let told = [output.stdout, output.stderr].concat();
        let told = String::from_utf8_lossy(&told);
        let name = format!("{}/{NAME}", self.live_cluster.namespace().name());
        ensure!(!output.status.success() && told.contains(&name), "helm says:\n{told}");
        let status = helm(self.cluster, &["status", release::NAME, "--output", "json"])?;
        let status: Value = serde_json::from_str(&status)?;
        let revision = status["version"].to_string();
        let back = ["rollback", release::NAME, &revision, "--wait", "--force-conflicts"];
        helm(self.cluster, &back)?;
        self.is_ready(true)
    }

    /// The operator of the release cares for the LiveCluster, whose definition is as new as this.
    fn is_ready(&self, knows_new_field: bool) -> Result<()> {
        let arguments = ["get", "crd", DEFINITION, "-o", "json"];
        let definition = self.cluster.kubectl().args(arguments).read()?;
        let knows = definition.contains(NEW_FIELD);
        ensure!(knows == knows_new_field, "the definition knows {NEW_FIELD}: {knows}");
        // A change that leaves the pods as they are is seen by an operator that works.
        let weight = i32::from(knows_new_field) + 5;
        self.live_cluster.patch(&json!({ "drain": { "roomsPerSecond": weight } }))?;
        eventually("the operator has seen the LiveCluster", READY_TIMEOUT, || {
            let object = self.live_cluster.object()?;
            let seen = &object["status"]["observedGeneration"];
            ensure!(*seen == object["metadata"]["generation"], "{}", object["status"]);
            Ok(())
        })?;
        self.live_cluster.await_ready(1)?;
        self.room_lives()
    }

    /// Everybody is in the same room, on the same pod.
    fn room_lives(&self) -> Result<()> {
        await_everybody_meets(&self.people, MEDIA_TIMEOUT)?;
        for client in self.people {
            let report = client.report()?;
            let name = &client.person().identity;
            ensure!(report.room_sid == self.room_sid, "{name} is in another room");
            ensure!(report.count("disconnected") == 0, "{name}: {:?}", report.events);
        }
        let pods = self.live_cluster.pods()?;
        ensure!(pods == self.pods, "the media pods are {pods:?}, and were {:?}", self.pods);
        Ok(())
    }
}

fn helm(cluster: &Cluster, arguments: &[&str]) -> Result<String> {
    cluster.helm().args(arguments).args(["--namespace", release::NAMESPACE]).read()
}

/// Without LiveClusters the release goes by itself.
fn nothing_is_left() -> Result<()> {
    let cluster = Cluster::attach()?;
    eventually("no LiveCluster is left", READY_TIMEOUT, || {
        let arguments = ["get", "livecluster", "--all-namespaces", "-o", "name"];
        let left = cluster.kubectl().args(arguments).read()?;
        ensure!(left.trim().is_empty(), "these are in the way:\n{left}");
        Ok(())
    })?;
    stage("uninstall", || {
        helm(&cluster, &["uninstall", release::NAME, "--wait", "--timeout", TIMEOUT])?;
        leaves_nothing(&cluster)
    })
}

/// The definition stays; everything else of the release is gone, and what the operator made for
/// itself.
fn leaves_nothing(cluster: &Cluster) -> Result<()> {
    let of_release = format!("app.kubernetes.io/instance={}", release::NAME);
    eventually("nothing of the release is left", READY_TIMEOUT, || {
        let read = |arguments: &[&str]| -> Result<BTreeSet<String>> {
            let text = cluster.kubectl().args(arguments).args(["-o", "name"]).read()?;
            Ok(text.lines().map(str::to_owned).collect())
        };
        let kinds = "clusterroles,clusterrolebindings";
        let mut left = read(&["get", kinds, "--selector", &of_release])?;
        let apart = ["get", "rolebindings", "--all-namespaces", "--selector", &of_release];
        left.extend(read(&apart)?);
        let api = ["get", "apiservice", "v1beta2.custom.metrics.k8s.io", "--ignore-not-found"];
        left.extend(read(&api)?);
        left.extend(read(&["get", KINDS, "--namespace", release::NAMESPACE])?);
        for expected in OF_KUBERNETES {
            left.remove(expected);
        }
        ensure!(left.is_empty(), "left are {left:?}");
        Ok(())
    })?;
    cluster.kubectl().args(["get", "crd", DEFINITION]).run().context("the definition is kept")
}
