//! What an operator needs to be allowed: the rules that the chart gives it, in one namespace.

use crds::names;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::api::rbac::v1::{ClusterRole, Role, RoleBinding};
use kube::api::{ListParams, PostParams};
use kube::{Api, Client, ResourceExt as _};
use operator::cluster::nodes::Hosts;
use operator::manifests;
use serde_json::{Value, json};

use super::faults::Faults;
use super::plane::{self, until};
use super::world::{World, host_address};

const OPERATOR: &str = "livecluster-operator";

/// The rules of an operator, which are the same in a Role as in the ClusterRole.
fn rules() -> Value {
    let documents = manifests::OPERATOR.split("\n---\n");
    let mut documents = documents.map(|text| serde_saphyr::from_str::<Value>(text).unwrap());
    let role = documents
        .find(|object| object["kind"] == "ClusterRole" && object["metadata"]["name"] == OPERATOR);
    let role: ClusterRole = serde_json::from_value(role.unwrap()).unwrap();
    json!(role.rules.unwrap())
}

/// Gives a user the rules in the namespace of a world, and nothing else.
async fn allow(world: &World, user: &str) {
    let params = PostParams::default();
    let role = json!({"metadata": {"name": OPERATOR}, "rules": rules()});
    let role: Role = serde_json::from_value(role).unwrap();
    world.api::<Role>().create(&params, &role).await.unwrap();
    let group = "rbac.authorization.k8s.io";
    let binding = json!({
        "metadata": {"name": OPERATOR},
        "roleRef": {"apiGroup": group, "kind": "Role", "name": OPERATOR},
        "subjects": [{"apiGroup": group, "kind": "User", "name": user}],
    });
    let binding: RoleBinding = serde_json::from_value(binding).unwrap();
    world.api::<RoleBinding>().create(&params, &binding).await.unwrap();
}

#[tokio::test]
async fn an_operator_without_rights_over_the_cluster_takes_what_pods_say_of_kubernetes_nodes() {
    let Some(config) = plane::config().await else { return };
    let mut world = World::new(&config, "rights").await;
    let user = world.namespace.clone();
    allow(&world, &user).await;
    let mut limited = config.clone();
    limited.auth_info.impersonate = Some(user.clone());
    let limited = Client::try_from(limited).unwrap();
    let pods: Api<Pod> = Api::namespaced(limited.clone(), &world.namespace);
    until("the API server knows the rules", async || {
        pods.list(&ListParams::default()).await.is_ok()
    })
    .await;
    let nodes: Api<Node> = Api::all(limited);
    let refused = nodes.list(&ListParams::default()).await.unwrap_err();
    assert!(matches!(&refused, kube::Error::Api(status) if status.code == 403), "{refused}");

    world.act_as(&user);
    let faults = Faults::none();
    let mut operator = world.operator(&faults);
    operator.hosts = Hosts::Unseen;
    let spec = |nodes: u16, redis: Value| {
        let redis = json!({"managed": redis});
        json!({"domain": "live.example.com", "nodes": nodes, "redis": redis})
    };
    world.set_rooms(1, 3);
    world.apply(&spec(2, json!({"storage": {}}))).await.unwrap();
    let found = world.comes_to_rest_by(&operator, &faults).await;
    assert_eq!(found["LiveCluster c"]["status"]["readyNodes"], 2);
    assert!(found.contains_key("PersistentVolumeClaim c-redis"), "{:?}", found.keys());
    for (slot, pod) in [0, 1].into_iter().zip(world.pods().await) {
        assert_eq!(pod.annotations()[names::ADVERTISE_ADDRESSES], host_address(slot));
    }
    // What is taken away, and the node that is too many, which is empty.
    world.apply(&spec(1, json!({}))).await.unwrap();
    let found = world.comes_to_rest_by(&operator, &faults).await;
    assert!(!found.contains_key("PersistentVolumeClaim c-redis"), "{:?}", found.keys());
    assert_eq!(found.keys().filter(|name| name.starts_with("Pod ")).count(), 1);
    world.remove().await;
}
