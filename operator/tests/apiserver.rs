//! What a real API server makes of our manifests, and the operator of a real API server.
//!
//! Set `LIVECLUSTER_TEST_KUBECONFIG` to run these tests. They need no kubelet and no controllers: a
//! bare kube-apiserver will do, and a whole cluster too.
#![expect(clippy::unwrap_used, reason = "a test says no more when it fails")]

use std::io::Write as _;
use std::sync::Arc;

use crds::{LiveCluster, generated, names};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Node as Host, Pod, Secret, Service};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::ApiResource;
use kube::runtime::conditions::is_crd_established;
use kube::runtime::wait::await_condition;
use kube::{Api, Client, Config, Resource as _, ResourceExt as _};
use operator::cluster;
use operator::cluster::validate::Images;
use operator::controller::{Context, watch_hosts};
use operator::metrics::Metrics;
use serde_json::{Value, json};
use tokio::sync::OnceCell;

#[path = "apiserver/autoscaling.rs"]
mod autoscaling;
#[path = "apiserver/manifests.rs"]
mod manifests;
#[path = "apiserver/network.rs"]
mod network;
#[path = "apiserver/uninstall.rs"]
mod uninstall;

const KUBECONFIG: &str = "LIVECLUSTER_TEST_KUBECONFIG";
const DEFINITION: &str = "liveclusters.livecluster.dev";

/// Looks until something must have come to rest.
const MAX_LOOKS: usize = 50;

/// The definition is installed once for all tests of this file.
static DEFINED: OnceCell<()> = OnceCell::const_new();

/// A client of the cluster under test; `None` where none is configured.
async fn client() -> Option<Client> {
    let Some(path) = std::env::var_os(KUBECONFIG) else {
        assert!(
            std::env::var_os("LIVECLUSTER_E2E").is_none(),
            "{KUBECONFIG} must name a kubeconfig where LIVECLUSTER_E2E is set"
        );
        // Past the test harness, which would swallow it.
        let _ = writeln!(std::io::stderr(), "skipped: {KUBECONFIG} is not set");
        return None;
    };
    let kubeconfig = Kubeconfig::read_from(path).unwrap();
    let options = KubeConfigOptions::default();
    let config = Config::from_custom_kubeconfig(kubeconfig, &options).await.unwrap();
    let client = Client::try_from(config).unwrap();
    DEFINED.get_or_init(|| define(client.clone())).await;
    Some(client)
}

/// Installs the definition where Helm has not: as Helm would, so that it may take it over.
async fn define(client: Client) {
    let definitions: Api<CustomResourceDefinition> = Api::all(client);
    if definitions.get_opt(DEFINITION).await.unwrap().is_none() {
        let mut definition: Value =
            serde_saphyr::from_str(&generated::manifest().unwrap()).unwrap();
        definition["metadata"]["labels"]["app.kubernetes.io/managed-by"] = json!("Helm");
        let annotations = &mut definition["metadata"]["annotations"];
        annotations["meta.helm.sh/release-name"] = json!("livecluster");
        annotations["meta.helm.sh/release-namespace"] = json!("livecluster-system");
        let params = PatchParams::apply("helm");
        definitions.patch(DEFINITION, &params, &Patch::Apply(&definition)).await.unwrap();
    }
    await_condition(definitions, DEFINITION, is_crd_established()).await.unwrap();
}

fn manifest(name: &str, spec: &Value) -> DynamicObject {
    let object = json!({
        "apiVersion": "livecluster.dev/v1alpha1",
        "kind": "LiveCluster",
        "metadata": {"name": name},
        "spec": spec,
    });
    serde_json::from_value(object).unwrap()
}

/// A LiveCluster in a namespace of its own, whose pods no Kubernetes node will take.
struct Scene {
    client: Client,
    namespace: String,
    context: Context,
}

impl Scene {
    async fn new(client: Client, test: &str) -> Self {
        let namespace = format!("operator-test-{test}-{}", std::process::id());
        let labels = json!({"pod-security.kubernetes.io/enforce": "privileged"});
        let object = json!({"metadata": {"name": namespace, "labels": labels}});
        let namespaces: Api<Namespace> = Api::all(client.clone());
        let object = serde_json::from_value(object).unwrap();
        namespaces.create(&PostParams::default(), &object).await.unwrap();
        let scene = Self { context: context(&client), client, namespace };
        let spec = scene.spec(2, "example.invalid/sfu:1");
        let params = PatchParams::apply("operator-test");
        let api: Api<DynamicObject> = Api::namespaced_with(
            scene.client.clone(),
            &scene.namespace,
            &ApiResource::erase::<LiveCluster>(&()),
        );
        api.patch("c", &params, &Patch::Apply(&manifest("c", &spec))).await.unwrap();
        scene
    }

    /// Says everything, so that an operator with other defaults would do the same.
    fn spec(&self, nodes: u16, image: &str) -> Value {
        json!({
            "domain": "live.example.com",
            "nodes": nodes,
            "node": {
                "image": image,
                "scheduling": {"nodeSelector": {"livecluster.dev/test": "nowhere"}},
            },
            "redis": {"external": {"addresses": ["127.0.0.1:1"]}},
        })
    }

    async fn change(&self, nodes: u16, image: &str) {
        let patch = json!({"spec": self.spec(nodes, image)});
        let params = PatchParams::default();
        self.api::<LiveCluster>().patch("c", &params, &Patch::Merge(&patch)).await.unwrap();
    }

    fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    async fn reconcile(&self) -> LiveCluster {
        let cluster = Arc::new(self.api::<LiveCluster>().get("c").await.unwrap());
        cluster::reconcile(&cluster, &self.context).await.unwrap();
        self.api::<LiveCluster>().get("c").await.unwrap()
    }

    /// Reconciles until these are the media pods: where another operator is at work, or pods take
    /// their time to go, one look is not enough.
    async fn settles_to(&self, expected: &[(String, String)]) {
        let mut found = Vec::new();
        for _ in 0..MAX_LOOKS {
            let cluster = Arc::new(self.api::<LiveCluster>().get("c").await.unwrap());
            // What another operator was faster with is seen at the next look.
            let _ = cluster::reconcile(&cluster, &self.context).await;
            found = self.pods().await;
            if found == expected {
                return;
            }
        }
        panic!("after {MAX_LOOKS} looks the pods are {found:?}, not {expected:?}");
    }

    /// Names of the media pods that are not being deleted, with their images.
    async fn pods(&self) -> Vec<(String, String)> {
        let list = ListParams::default().labels(&names::node_selector("c"));
        let pods = self.api::<Pod>().list(&list).await.unwrap();
        let alive = pods.items.into_iter().filter(|pod| pod.meta().deletion_timestamp.is_none());
        let image = |pod: &Pod| pod.spec.as_ref()?.containers.first()?.image.clone();
        alive.map(|pod| (pod.name_any(), image(&pod).unwrap_or_default())).collect()
    }

    /// Without controllers nobody else would.
    async fn remove(self) {
        let params = DeleteParams::background();
        self.api::<LiveCluster>().delete("c", &params).await.unwrap();
        let now = DeleteParams::default().grace_period(0);
        self.api::<Pod>().delete_collection(&now, &ListParams::default()).await.unwrap();
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        namespaces.delete(&self.namespace, &params).await.unwrap();
    }
}

fn context(client: &Client) -> Context {
    let unused = || "unused".to_owned();
    let images = Images { sfu: unused(), turn: unused(), redis: unused() };
    let hosts = watch_hosts(client.clone());
    Context::new(client.clone(), images, hosts, Metrics::new().unwrap())
}

fn node(slot: u16, image: &str) -> (String, String) {
    (names::node("c", slot), image.to_owned())
}

#[tokio::test]
async fn a_livecluster_becomes_objects_that_come_back_and_belong_to_it() {
    let Some(client) = client().await else { return };
    let scene = Scene::new(client, "objects").await;
    let image = "example.invalid/sfu:1";
    scene.settles_to(&[node(0, image), node(1, image)]).await;
    let cluster = scene.reconcile().await;
    let status = cluster.status.clone().unwrap();
    assert_eq!(status.url.as_deref(), Some("http://live.example.com"));
    assert_eq!(status.observed_generation, cluster.meta().generation);
    assert!(status.conditions.iter().any(|c| c.type_ == "Ready" && c.status == "False"));

    let uid = cluster.uid();
    let keys = scene.api::<Secret>().get(&names::keys_secret("c")).await.unwrap();
    assert_eq!(keys.owner_references()[0].uid, uid.clone().unwrap());
    let nonces = scene.api::<Secret>().get(&names::turn("c")).await.unwrap();
    let map = scene.api::<ConfigMap>().get(&names::config_map("c")).await.unwrap();
    assert_eq!(map.owner_references()[0].uid, uid.unwrap());

    // A second look, by an operator that knows nothing: nothing changes, least of all secrets.
    let again = Scene { context: context(&scene.client), ..scene };
    again.reconcile().await;
    let same = again.api::<Secret>().get(&names::keys_secret("c")).await.unwrap();
    assert_eq!(same.data, keys.data);
    let same = again.api::<Secret>().get(&names::turn("c")).await.unwrap();
    assert_eq!(same.data, nonces.data);
    let same = again.api::<ConfigMap>().get(&names::config_map("c")).await.unwrap();
    assert_eq!(same.resource_version(), map.resource_version());

    // What somebody deletes comes back.
    let now = DeleteParams::default().grace_period(0);
    again.api::<ConfigMap>().delete(&names::config_map("c"), &now).await.unwrap();
    again.api::<Service>().delete(&names::signalling("c"), &now).await.unwrap();
    again.api::<Pod>().delete(&names::node("c", 0), &now).await.unwrap();
    let third = Scene { context: context(&again.client), ..again };
    third.settles_to(&[node(0, image), node(1, image)]).await;
    third.api::<ConfigMap>().get(&names::config_map("c")).await.unwrap();
    third.api::<Service>().get(&names::signalling("c")).await.unwrap();
    third.remove().await;
}

#[tokio::test]
async fn a_livecluster_scales_and_a_correction_replaces_pods_that_never_started() {
    let Some(client) = client().await else { return };
    let scene = Scene::new(client, "scale").await;
    let (first, second) = ("example.invalid/sfu:1", "example.invalid/sfu:2");
    scene.settles_to(&[node(0, first), node(1, first)]).await;
    scene.change(3, first).await;
    scene.settles_to(&[node(0, first), node(1, first), node(2, first)]).await;
    scene.change(1, first).await;
    scene.settles_to(&[node(0, first)]).await;
    scene.change(1, second).await;
    scene.settles_to(&[node(0, second)]).await;
    scene.remove().await;
}

/// Plays the kubelet: the pod of a slot runs and is ready on a Kubernetes node of the test. It never
/// answers for its rooms, so nobody may take it for empty.
async fn run_pod(scene: &Scene, host: &str, slot: u16) {
    let pods = scene.api::<Pod>();
    let name = names::node("c", slot);
    let bound = pods.get(&name).await.unwrap().spec.and_then(|spec| spec.node_name).is_some();
    if !bound {
        let binding = json!({"metadata": {"name": name}, "target": {"kind": "Node", "name": host}});
        let params = PostParams::default();
        let bound: Value =
            pods.create_subresource("binding", &name, &params, &binding).await.unwrap();
        assert_eq!(bound["status"], "Success");
    }
    let status = json!({"status": {
        "phase": "Running",
        "conditions": [{"type": "Ready", "status": "True"}],
        "containerStatuses": [{"name": "sfu", "image": "", "imageID": "", "ready": true,
            "restartCount": 0, "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}}}],
    }});
    pods.patch_status(&name, &PatchParams::default(), &Patch::Merge(&status)).await.unwrap();
}

#[tokio::test]
async fn a_node_that_may_have_rooms_is_cordoned_and_taken_back_not_deleted() {
    let Some(client) = client().await else { return };
    let scene = Scene::new(client, "cordon").await;
    let image = "example.invalid/sfu:1";
    scene.settles_to(&[node(0, image), node(1, image)]).await;
    let host = start_host(&scene).await;
    for slot in [0, 1] {
        run_pod(&scene, &host, slot).await;
    }
    let states = |expected: [&'static str; 2]| states_become(&scene, expected);
    states(["open", "open"]).await;
    scene.change(1, image).await;
    states(["open", "cordoned"]).await;
    let pod = scene.api::<Pod>().get(&names::node("c", 1)).await.unwrap();
    assert_eq!(pod.annotations()[names::PLACEMENT_REASON], "NodeScaledIn");
    let status = scene.reconcile().await.status.unwrap();
    assert_eq!((status.nodes, status.ready_nodes, status.draining_nodes), (1, 1, 1));
    // Another operator, which knows nothing, takes it back.
    scene.change(2, image).await;
    let again = Scene { context: context(&scene.client), ..scene };
    states_become(&again, ["open", "open"]).await;
    let same = again.api::<Pod>().get(&names::node("c", 1)).await.unwrap();
    assert_eq!(same.uid(), pod.uid());
    assert!(!same.annotations().contains_key(names::PLACEMENT_SINCE));
    remove_host(&again, &host).await;
    again.remove().await;
}

/// A Kubernetes node for the pods of a scene; its name.
async fn start_host(scene: &Scene) -> String {
    let hosts: Api<Host> = Api::all(scene.client.clone());
    let host = scene.namespace.clone();
    let object = serde_json::from_value(json!({"metadata": {"name": host}})).unwrap();
    hosts.create(&PostParams::default(), &object).await.unwrap();
    let status = json!({"status": {
        "addresses": [{"type": "InternalIP", "address": "192.0.2.7"}],
        "conditions": [{"type": "Ready", "status": "True"}],
    }});
    hosts.patch_status(&host, &PatchParams::default(), &Patch::Merge(&status)).await.unwrap();
    host
}

async fn remove_host(scene: &Scene, host: &str) {
    let hosts: Api<Host> = Api::all(scene.client.clone());
    let now = DeleteParams::default().grace_period(0);
    hosts.delete(host, &now).await.unwrap();
}

/// Reconciles until the pods of slot 0 and 1 are told these states, by label and by annotation.
async fn states_become(scene: &Scene, expected: [&str; 2]) {
    let mut found = Vec::new();
    for _ in 0..MAX_LOOKS {
        scene.reconcile().await;
        found.clear();
        for slot in [0, 1] {
            let pod = scene.api::<Pod>().get(&names::node("c", slot)).await.unwrap();
            let label = pod.labels().get(names::PLACEMENT).cloned();
            found.push((label, pod.annotations().get(names::STATE).cloned()));
        }
        let pairs = expected.map(|state| (Some(state.to_owned()), Some(state.to_owned())));
        if found == pairs {
            return;
        }
    }
    panic!("after {MAX_LOOKS} looks the states are {found:?}, not {expected:?}");
}
