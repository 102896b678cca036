//! What Kubernetes refuses, and what fails beside a media node.

use crds::{LiveCluster, names};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, ResourceQuota};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::storage::v1::StorageClass;
use kube::api::{DeleteParams, EvictParams, Patch, PatchParams, PostParams};
use kube::{Api, Resource as _, ResourceExt as _};
use operator::controller::Context;
use serde_json::{Value, json};

use super::faults::Faults;
use super::normal::{self, Objects};
use super::plane::{self, HOSTS, until};
use super::world::{World, running};

fn spec(nodes: u16) -> Value {
    json!({"domain": "live.example.com", "nodes": nodes})
}

/// Status, reason and message of a condition.
fn condition(status: &Value, kind: &str) -> [String; 3] {
    let conditions = status["conditions"].as_array().unwrap();
    let found = conditions.iter().find(|condition| condition["type"] == kind).unwrap();
    ["status", "reason", "message"].map(|field| found[field].as_str().unwrap().to_owned())
}

/// The status after some looks, of which each may fail, since something is refused.
async fn status_after(looks: u32, world: &World, operator: &Context) -> Value {
    for _ in 0..looks {
        let _ = world.look(operator).await;
    }
    let found = world.api::<LiveCluster>().get("c").await.unwrap();
    serde_json::to_value(found.status.unwrap()).unwrap()
}

#[tokio::test]
async fn a_quota_that_refuses_pods_is_told_and_what_fits_serves() {
    let Some(config) = plane::config().await else { return };
    let world = World::new(&config, "quota").await;
    let quotas = world.api::<ResourceQuota>();
    let limit = |pods: &str| json!({"metadata": {"name": "few"}, "spec": {"hard": {"pods": pods}}});
    let counted = async |pods: &str| {
        until("the quota is counted", async || {
            let quota = quotas.get("few").await.unwrap();
            let hard = quota.status.and_then(|status| status.hard).unwrap_or_default();
            hard.get("pods").is_some_and(|found| found.0 == pods)
        })
        .await;
    };
    let quota = serde_json::from_value(limit("1")).unwrap();
    quotas.create(&PostParams::default(), &quota).await.unwrap();
    counted("1").await;
    world.apply(&spec(2)).await.unwrap();
    let operator = world.operator(&Faults::none());
    status_after(2, &world, &operator).await;
    world.play_kubelet().await;
    let status = status_after(2, &world, &operator).await;
    let [ready, reason, _] = condition(&status, "Ready");
    assert_eq!((ready.as_str(), reason.as_str()), ("False", "PodsRefused"));
    let [degraded, _, message] = condition(&status, "Degraded");
    assert!(degraded == "True" && message.contains("exceeded quota: few"), "{message}");
    assert_eq!((&status["nodes"], &status["readyNodes"]), (&json!(1), &json!(1)));
    quotas.patch("few", &PatchParams::default(), &Patch::Merge(limit("2"))).await.unwrap();
    counted("2").await;
    let found = world.comes_to_rest().await;
    assert_eq!(found["LiveCluster c"]["status"]["readyNodes"], 2);
    assert_eq!(condition(&found["LiveCluster c"]["status"], "Degraded")[0], "False");
    world.remove().await;
}

/// Sizes of all objects but the LiveCluster, as the API server writes them.
fn largest(found: &Objects) -> usize {
    let others = found.iter().filter(|(name, _)| !name.starts_with("LiveCluster "));
    others.map(|(_, object)| object.to_string().len()).max().unwrap()
}

#[tokio::test]
async fn annotations_as_large_as_they_may_be_go_nowhere() {
    let Some(config) = plane::config().await else { return };
    let world = World::new(&config, "large").await;
    world.apply(&spec(1)).await.unwrap();
    let before = world.comes_to_rest().await;
    let clusters = world.api::<LiveCluster>();
    let annotate = async |length: usize| {
        let annotations = json!({"example.com/note": "x".repeat(length)});
        let patch = Patch::Merge(json!({"metadata": {"annotations": annotations}}));
        clusters.patch("c", &PatchParams::default(), &patch).await
    };
    // All of them together may have 256 KiB, their names included.
    let refused = annotate(1 << 20).await.unwrap_err();
    assert!(refused.to_string().contains("metadata.annotations: Too long"), "{refused}");
    annotate((256 << 10) - 64).await.unwrap();
    let found = world.comes_to_rest().await;
    assert_eq!(largest(&found), largest(&before));
    assert_eq!(found["LiveCluster c"]["status"], before["LiveCluster c"]["status"]);
    world.remove().await;
}

#[tokio::test]
async fn annotations_that_are_too_large_for_an_ingress_are_told() {
    let Some(config) = plane::config().await else { return };
    let world = World::new(&config, "refused").await;
    let mut large = spec(1);
    let note = "x".repeat(1 << 20);
    large["ingress"] = json!({"annotations": {"example.com/note": note}});
    world.apply(&large).await.unwrap();
    let operator = world.operator(&Faults::none());
    let status = status_after(2, &world, &operator).await;
    let [degraded, reason, message] = condition(&status, "Degraded");
    assert_eq!((degraded.as_str(), reason.as_str()), ("True", "ObjectRefused"));
    assert!(message.contains("Ingress c-signalling"), "{message}");
    assert!(message.len() < 1000, "{} characters", message.len());
    world.apply(&spec(1)).await.unwrap();
    let found = world.comes_to_rest().await;
    assert_eq!(condition(&found["LiveCluster c"]["status"], "Degraded")[0], "False");
    assert_eq!(found["LiveCluster c"]["status"]["readyNodes"], 1);
    world.remove().await;
}

#[tokio::test]
async fn a_turn_server_that_crashes_is_told_and_its_media_node_stays() {
    let Some(config) = plane::config().await else { return };
    let world = World::new(&config, "crash").await;
    world.set_rooms(0, 2);
    world.apply(&spec(2)).await.unwrap();
    let found = world.comes_to_rest().await;
    assert_eq!(condition(&found["LiveCluster c"]["status"], "TurnReady")[1], "Running");
    let before = world.pods().await;
    let again = json!({"waiting": {"reason": "CrashLoopBackOff",
        "message": "back-off 5m0s restarting failed container=turn"}});
    let crashed = json!({"name": "turn", "image": "", "imageID": "", "ready": false,
        "started": false, "restartCount": 9, "state": again});
    let told = |ready: &str, sidecar: Value| {
        json!({"conditions": [{"type": "Ready", "status": ready}],
            "initContainerStatuses": [sidecar]})
    };
    world.tell(0, &told("False", crashed)).await;
    // For ten minutes by the operator's clock: longer than it ever waits to replace a pod that ended.
    let operator = world.operator(&Faults::none());
    let status = status_after(40, &world, &operator).await;
    let [turn, reason, message] = condition(&status, "TurnReady");
    assert_eq!((turn.as_str(), reason.as_str()), ("False", "NotRunning"));
    assert!(message.contains("1 of 2"), "{message}");
    let [degraded, reason, message] = condition(&status, "Degraded");
    assert_eq!((degraded.as_str(), reason.as_str()), ("True", "CrashLoopBackOff"));
    assert!(message.contains("c-node-0") && message.contains("container=turn"), "{message}");
    assert_eq!((&status["nodes"], &status["readyNodes"]), (&json!(2), &json!(1)));
    assert_eq!(status["rooms"], 2, "its rooms go on");
    let uids = |pods: &[Pod]| pods.iter().map(|pod| pod.uid()).collect::<Vec<_>>();
    assert_eq!(uids(&world.pods().await), uids(&before));
    world.tell(0, &told("True", running("turn"))).await;
    let after = world.comes_to_rest().await;
    let differs = normal::difference(&found, &after);
    assert!(differs.is_empty(), "{differs:#?}");
    world.remove().await;
}

/// Whoever makes volumes says that there is one.
async fn bind_volume(world: &World) {
    let bound = json!({"status": {"phase": "Bound", "capacity": {"storage": "1Gi"}}});
    let (claims, params) = (world.api::<PersistentVolumeClaim>(), PatchParams::default());
    claims.patch_status("c-redis", &params, &Patch::Merge(&bound)).await.unwrap();
}

#[tokio::test]
async fn the_volume_of_redis_grows_where_it_may_and_where_not_that_is_told_until_taken_back() {
    let Some(config) = plane::config().await else { return };
    let world = World::new(&config, "volume").await;
    let stored = |class: &str, size: &str| {
        let mut spec = spec(1);
        let storage = json!({"size": size, "storageClassName": class});
        spec["redis"] = json!({"managed": {"storage": storage}});
        spec
    };
    // Nothing says that volumes of a class that there is not may grow.
    world.apply(&stored("none", "1Gi")).await.unwrap();
    let before = world.comes_to_rest().await;
    bind_volume(&world).await;
    let pods = world.pods().await;
    let refused = world.apply(&stored("other", "1Gi")).await.unwrap_err().to_string();
    assert!(refused.contains("storageClassName cannot be changed"), "{refused}");
    world.apply(&stored("none", "2Gi")).await.unwrap();
    let operator = world.operator(&Faults::none());
    let status = status_after(2, &world, &operator).await;
    let [degraded, reason, message] = condition(&status, "Degraded");
    assert_eq!((degraded.as_str(), reason.as_str()), ("True", "ObjectRefused"));
    assert!(message.contains("PersistentVolumeClaim c-redis"), "{message}");
    world.apply(&stored("none", "1Gi")).await.unwrap();
    let found = world.comes_to_rest().await;
    assert_eq!(found["LiveCluster c"]["status"], before["LiveCluster c"]["status"]);
    world.apply(&spec(1)).await.unwrap();
    let found = world.comes_to_rest().await;
    assert!(!found.contains_key("PersistentVolumeClaim c-redis"), "{:?}", found.keys());

    let class = world.namespace.as_str();
    let classes: Api<StorageClass> = Api::all(world.client.clone());
    let growing = json!({"metadata": {"name": class},
        "provisioner": "example.com/none", "allowVolumeExpansion": true});
    let growing = serde_json::from_value(growing).unwrap();
    classes.create(&PostParams::default(), &growing).await.unwrap();
    world.apply(&stored(class, "1Gi")).await.unwrap();
    world.comes_to_rest().await;
    bind_volume(&world).await;
    world.apply(&stored(class, "2Gi")).await.unwrap();
    let found = world.comes_to_rest().await;
    let spec = &found["PersistentVolumeClaim c-redis"]["spec"];
    assert_eq!(spec["resources"]["requests"]["storage"], "2Gi");
    let uids = |pods: &[Pod]| pods.iter().map(|pod| pod.uid()).collect::<Vec<_>>();
    assert_eq!(uids(&world.pods().await), uids(&pods), "media nodes have no part in it");
    classes.delete(class, &DeleteParams::default()).await.unwrap();
    world.remove().await;
}

/// The pod that the controller of StatefulSets would make, on a Kubernetes node.
async fn run_redis(world: &World) {
    let set = world.api::<StatefulSet>().get("c-redis").await.unwrap();
    let template = set.spec.clone().unwrap().template;
    let owner = set.controller_owner_ref(&()).unwrap();
    let pod = json!({
        "metadata": {"name": "c-redis-0", "labels": template.metadata.unwrap().labels,
            "ownerReferences": [owner]},
        "spec": template.spec,
    });
    let (pods, params) = (world.api::<Pod>(), PostParams::default());
    pods.create(&params, &serde_json::from_value(pod).unwrap()).await.unwrap();
    let target = json!({"kind": "Node", "name": HOSTS[0]});
    let binding = json!({"metadata": {"name": "c-redis-0"}, "target": target});
    let bound: Value =
        pods.create_subresource("binding", "c-redis-0", &params, &binding).await.unwrap();
    assert_eq!(bound["status"], "Success");
}

#[tokio::test]
async fn the_managed_redis_is_evicted_but_not_again_before_it_answers() {
    let Some(config) = plane::config().await else { return };
    let world = World::new(&config, "redis").await;
    world.apply(&spec(1)).await.unwrap();
    world.comes_to_rest().await;
    run_redis(&world).await;
    let pods = world.api::<Pod>();
    let runs = async |ready: &str| {
        let status = json!({"status": {"phase": "Running",
            "conditions": [{"type": "Ready", "status": ready}],
            "containerStatuses": [running("redis")]}});
        let patch = Patch::Merge(&status);
        pods.patch_status("c-redis-0", &PatchParams::default(), &patch).await.unwrap();
    };
    let evict = async || pods.evict("c-redis-0", &EvictParams::default()).await;
    runs("False").await;
    let budgets = world.api::<PodDisruptionBudget>();
    until("the pod is counted", async || {
        let budget = budgets.get(&names::redis("c")).await.unwrap();
        let counted = budget.status.as_ref().filter(|status| status.expected_pods == Some(1));
        counted.and_then(|status| status.observed_generation) == budget.meta().generation
    })
    .await;
    let refused = evict().await.unwrap_err();
    assert!(matches!(&refused, kube::Error::Api(status) if status.code == 429), "{refused}");
    runs("True").await;
    until("it may be evicted", async || evict().await.is_ok()).await;
    world.remove().await;
}
