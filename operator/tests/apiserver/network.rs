//! NetworkPolicies: made, and taken away where nobody wants them.

use k8s_openapi::api::networking::v1::NetworkPolicy;

use super::*;

/// Names of the policies that are there.
async fn policies(scene: &Scene) -> Vec<String> {
    let list = scene.api::<NetworkPolicy>().list(&ListParams::default()).await.unwrap();
    list.items.iter().map(|policy| policy.name_any()).collect()
}

/// Changes the spec and looks until these are the policies: another operator may be at work, and
/// what is seen of the specification may be a moment old.
async fn settle(scene: &Scene, spec: Value, expected: &[&str]) {
    let patch = json!({"spec": spec});
    let api = scene.api::<LiveCluster>();
    api.patch("c", &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
    let mut found = Vec::new();
    for _ in 0..MAX_LOOKS {
        let cluster = Arc::new(api.get("c").await.unwrap());
        let _ = cluster::reconcile(&cluster, &scene.context).await;
        found = policies(scene).await;
        if found == expected {
            return;
        }
    }
    panic!("after {MAX_LOOKS} looks the policies are {found:?}, not {expected:?}");
}

#[tokio::test]
async fn policies_come_with_what_they_are_about_and_go_where_nobody_wants_them() {
    let Some(client) = client().await else { return };
    let scene = Scene::new(client, "network").await;
    // One of somebody else, of the same labels, stays whatever happens.
    let labels = json!({names::MANAGED_BY: names::MANAGER, names::CLUSTER: "c"});
    let foreign = json!({"metadata": {"name": "theirs", "labels": labels},
        "spec": {"podSelector": {}}});
    let foreign = serde_json::from_value(foreign).unwrap();
    let api = scene.api::<NetworkPolicy>();
    api.create(&PostParams::default(), &foreign).await.unwrap();

    settle(&scene, json!({"redis": {"external": null}}), &["c-node", "c-redis", "theirs"]).await;
    let uid = scene.api::<LiveCluster>().get("c").await.unwrap().uid().unwrap();
    for name in ["c-node", "c-redis"] {
        let policy = api.get(name).await.unwrap();
        assert_eq!(policy.owner_references()[0].uid, uid);
        // The API server took every rule as it was meant.
        let spec = policy.spec.unwrap();
        assert_eq!(spec.policy_types.unwrap(), ["Ingress", "Egress"], "{name}");
        let rules = spec.ingress.unwrap();
        assert!(rules.iter().all(|rule| !rule.ports.as_ref().unwrap().is_empty()), "{rules:?}");
    }
    let external = json!({"redis": {"external": {"addresses": ["127.0.0.1:1"]}}});
    settle(&scene, external, &["c-node", "theirs"]).await;
    settle(&scene, json!({"networkPolicy": {"enabled": false}}), &["theirs"]).await;
    settle(&scene, json!({"networkPolicy": null}), &["c-node", "theirs"]).await;
    scene.remove().await;
}
