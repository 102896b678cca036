//! What may a release do that has no right beyond one namespace? And does Redis keep on a volume what
//! it was told? `make test-full` runs this: it takes the release of all other tests away meanwhile.

use anyhow::{Context as _, Result, ensure};
use e2e::clients::{Browser, MEDIA_TIMEOUT, Person, RoomClient, await_everybody_meets};
use e2e::cluster::Cluster;
use e2e::live_cluster::{Addition, LiveCluster, NAME, READY_TIMEOUT};
use e2e::process::Run as _;
use e2e::release;
use e2e::stage::{say, stage};
use e2e::wait::eventually;
use serde_json::{Value, json};

const FIRST_PORT: u16 = 29_800;
const ROOM: &str = "lobby";
/// An entry of Redis that nobody but this test writes.
const ENTRY: &str = "e2e:kept";
/// Name of the volume and its class.
const VOLUME: &str = "e2e-redis";
/// Where the volume is on its Kubernetes node.
const DIRECTORY: &str = "/var/lib/livecluster-e2e-redis";

#[test]
fn a_release_for_one_namespace_runs_calls_and_keeps_redis_on_a_volume() -> Result<()> {
    let volume = Volume::on_some_node(&Cluster::attach()?)?;
    let addition = Addition {
        spec: json!({ "redis": { "managed": { "storage": {
            "size": "64Mi", "storageClassName": VOLUME,
        }}}}),
        objects: volume.objects(),
    };
    let result = LiveCluster::run_with("namespaced", 1, FIRST_PORT, &addition, |live_cluster| {
        let browser = Browser::start(&live_cluster.network()?)?;
        let (anna, bob) = (browser.open(Person::anna())?, browser.open(Person::bob())?);
        let case = Case { cluster: &volume.cluster, live_cluster, people: [&anna, &bob] };
        case.enter()?;
        stage("Redis starts anew on its volume", || case.keeps_its_data())?;
        stage("a release for one namespace", || case.loses_rights())?;
        stage("it starts a media node", || case.grows())?;
        stage("it takes the volume away", || case.gives_up_the_volume())?;
        stage("it cleans up", || case.is_deleted())
    });
    // Other tests find the usual release.
    release::install()?;
    result
}

/// A volume on the disk of one Kubernetes node; it goes with this.
struct Volume {
    cluster: Cluster,
    node: String,
}

impl Volume {
    fn on_some_node(cluster: &Cluster) -> Result<Self> {
        let node = cluster.nodes().keys().next_back().context("the cluster has no node")?;
        cluster.on_node(node)?.args(["mkdir", "--parents", DIRECTORY]).run()?;
        Ok(Self { cluster: cluster.clone(), node: node.clone() })
    }

    fn objects(&self) -> Vec<Value> {
        let on_node = json!({ "matchExpressions": [
            { "key": "kubernetes.io/hostname", "operator": "In", "values": [self.node] },
        ]});
        vec![
            json!({
                "apiVersion": "storage.k8s.io/v1",
                "kind": "StorageClass",
                "metadata": { "name": VOLUME },
                "provisioner": "kubernetes.io/no-provisioner",
                "volumeBindingMode": "WaitForFirstConsumer",
            }),
            json!({
                "apiVersion": "v1",
                "kind": "PersistentVolume",
                "metadata": { "name": VOLUME },
                "spec": {
                    "capacity": { "storage": "64Mi" },
                    "accessModes": ["ReadWriteOnce"],
                    "persistentVolumeReclaimPolicy": "Retain",
                    "storageClassName": VOLUME,
                    "local": { "path": DIRECTORY },
                    "nodeAffinity": { "required": { "nodeSelectorTerms": [on_node] } },
                },
            }),
        ]
    }

    fn remove(&self) -> Result<()> {
        for kind in ["persistentvolume", "storageclass"] {
            let arguments = ["delete", kind, VOLUME, "--ignore-not-found", "--timeout=1m"];
            self.cluster.kubectl().args(arguments).run()?;
        }
        self.cluster.on_node(&self.node)?.args(["rm", "--recursive", "--force", DIRECTORY]).run()
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        if let Err(error) = self.remove() {
            say(&format!("{DIRECTORY} stays: {error:#}"));
        }
    }
}

struct Case<'a> {
    cluster: &'a Cluster,
    live_cluster: &'a LiveCluster,
    people: [&'a dyn RoomClient; 2],
}

impl Case<'_> {
    fn enter(&self) -> Result<()> {
        // The ingress knows the domain then.
        self.live_cluster.http()?;
        let access = self.live_cluster.access()?;
        for client in self.people {
            client.join(&access.url, &access.token(&client.person().identity, ROOM)?)?;
        }
        self.call_goes_on()
    }

    fn call_goes_on(&self) -> Result<()> {
        await_everybody_meets(&self.people, MEDIA_TIMEOUT)?;
        for client in self.people {
            let report = client.report()?;
            let name = &client.person().identity;
            ensure!(report.count("disconnected") == 0, "{name}: {:?}", report.events);
        }
        Ok(())
    }

    /// What was written last is there in a new pod.
    fn keeps_its_data(&self) -> Result<()> {
        let bound = self.kubectl(&["get", "pvc", "-o", "jsonpath={.items[*].status.phase}"])?;
        ensure!(bound == "Bound", "the claim is {bound}");
        self.live_cluster.redis(&["SET", ENTRY, "yes"])?;
        self.kubectl(&["delete", "pod", &LiveCluster::redis_pod()])?;
        self.redis_holds("yes")?;
        self.call_goes_on()
    }

    fn redis_holds(&self, expected: &str) -> Result<()> {
        eventually("Redis answers", READY_TIMEOUT, || {
            let found = self.live_cluster.redis(&["GET", ENTRY])?;
            ensure!(found == expected, "{ENTRY} is {found:?}");
            Ok(())
        })
    }

    /// The same release without any right over the cluster.
    fn loses_rights(&self) -> Result<()> {
        let namespace = self.live_cluster.namespace().name();
        let values = format!("watchNamespace={namespace},metricsAPI.enabled=false");
        release::deploy(self.cluster, &release::chart(), &values)?;
        let of_release = format!("app.kubernetes.io/instance={}", release::NAME);
        let kinds = "clusterroles,clusterrolebindings";
        let left = ["get", kinds, "--selector", &of_release, "-o", "name"];
        let left = self.cluster.kubectl().args(left).read()?;
        ensure!(left.trim().is_empty(), "it has rights over the cluster: {left}");
        let account = "-o=jsonpath={.items[0].spec.template.spec.serviceAccountName}";
        let find = ["get", "deployments", "--namespace", release::NAMESPACE, account];
        let account = self.cluster.kubectl().args(find).read()?;
        let operator = format!("--as=system:serviceaccount:{}:{account}", release::NAMESPACE);
        let may = |words: &[&str]| -> Result<bool> {
            let mut ask = self.cluster.kubectl();
            let answer = ask.args(["auth", "can-i"]).args(words).arg(&operator).output()?;
            Ok(answer.status.success())
        };
        ensure!(may(&["list", "pods", "--namespace", namespace])?, "it may not list its own pods");
        for words in [["list", "nodes"], ["list", "namespaces"]] {
            ensure!(!may(&words)?, "it may {words:?}");
        }
        ensure!(!may(&["get", "secrets", "--namespace", "default"])?, "it may read other Secrets");
        Ok(())
    }

    fn grows(&self) -> Result<()> {
        self.live_cluster.patch(&json!({ "nodes": 2 }))?;
        self.live_cluster.await_ready(2)?;
        self.call_goes_on()
    }

    /// Redis is empty then, and media nodes announce their rooms again.
    fn gives_up_the_volume(&self) -> Result<()> {
        self.live_cluster.patch(&json!({ "redis": { "managed": { "storage": null } } }))?;
        eventually("the claim is gone", READY_TIMEOUT, || {
            let left = self.kubectl(&["get", "pvc", "-o", "name"])?;
            ensure!(left.is_empty(), "{left}");
            Ok(())
        })?;
        self.redis_holds("")?;
        eventually("the room is announced again", READY_TIMEOUT, || {
            self.live_cluster.home_of(ROOM).map(drop)
        })?;
        self.call_goes_on()
    }

    /// The operator's finalizer needs no other right either.
    fn is_deleted(&self) -> Result<()> {
        self.kubectl(&["delete", "livecluster", NAME, "--timeout=2m"])?;
        eventually("nothing of the LiveCluster is left", READY_TIMEOUT, || {
            let kinds = "pods,statefulsets,services,ingresses,networkpolicies,pdb,pvc";
            let left = self.kubectl(&["get", kinds, "-o", "name"])?;
            ensure!(left.is_empty(), "{left}");
            Ok(())
        })
    }

    fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        let text = self.live_cluster.namespace().kubectl().args(arguments).read()?;
        Ok(text.trim().to_owned())
    }
}
