//! NetworkPolicies and routes by name: made, written again, and taken away where nobody wants them.

use k8s_openapi::api::networking::v1::NetworkPolicy;
use operator::cluster::build;

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

/// A kind that the Kubernetes cluster of the test has, if the test makes it.
const TRAEFIK: &str = "ingressroutetcps.traefik.io";

/// Installs Traefik's definition, as far as a route needs it.
async fn define_traefik(client: &Client) {
    let definition = json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": TRAEFIK},
        "spec": {
            "group": "traefik.io",
            "names": {"kind": "IngressRouteTCP", "plural": "ingressroutetcps"},
            "scope": "Namespaced",
            "versions": [{"name": "v1alpha1", "served": true, "storage": true, "schema": {
                "openAPIV3Schema": {"type": "object", "properties": {"spec": {
                    "type": "object", "x-kubernetes-preserve-unknown-fields": true,
                }}},
            }}],
        },
    });
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    let params = PatchParams::apply("operator-test");
    definitions.patch(TRAEFIK, &params, &Patch::Apply(&definition)).await.unwrap();
    await_condition(definitions, TRAEFIK, is_crd_established()).await.unwrap();
}

/// Reconciles until something is so: another operator may be at work, too.
async fn until(scene: &Scene, what: &str, is_so: impl AsyncFn(LiveCluster) -> bool) {
    let api = scene.api::<LiveCluster>();
    for _ in 0..MAX_LOOKS {
        let cluster = Arc::new(api.get("c").await.unwrap());
        let _ = cluster::reconcile(&cluster, &scene.context).await;
        if is_so(api.get("c").await.unwrap()).await {
            return;
        }
    }
    panic!("after {MAX_LOOKS} looks still not: {what}");
}

/// Whether `TurnReady` says that the kind of route is missing.
fn is_told(cluster: &LiveCluster) -> bool {
    let conditions = cluster.status.iter().flat_map(|status| &status.conditions);
    conditions.into_iter().any(|c| c.type_ == "TurnReady" && c.reason == "RouteKindMissing")
}

/// Changes `spec.turn.tls.route` for an operator that knows nothing.
async fn with_route(scene: Scene, route: Value) -> Scene {
    let patch = json!({"spec": {"turn": {"tls": {
        "domain": "turn.example.com", "secretName": "turn-tls", "route": route,
    }}}});
    let api = scene.api::<LiveCluster>();
    api.patch("c", &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
    Scene { context: context(&scene.client), ..scene }
}

#[tokio::test]
async fn routes_are_made_where_their_kind_exists_and_told_where_not() {
    let Some(client) = client().await else { return };
    define_traefik(&client).await;
    let scene = Scene::new(client, "routes").await;
    let certificate = json!({"metadata": {"name": "turn-tls"}, "type": "kubernetes.io/tls",
        "stringData": {"tls.crt": "certificate", "tls.key": "key"}});
    let certificate = serde_json::from_value(certificate).unwrap();
    scene.api::<Secret>().create(&PostParams::default(), &certificate).await.unwrap();
    let resource = build::ForeignKind::IngressRouteTCP.resource("v1alpha1");
    let routes: Api<DynamicObject> =
        Api::namespaced_with(scene.client.clone(), &scene.namespace, &resource);
    let services = scene.api::<Service>();

    let by_traefik = json!({"kind": "IngressRouteTCP", "perNode": true});
    let scene = with_route(scene, by_traefik).await;
    until(&scene, "there is a route, and a Service for each slot", async |cluster| {
        let named = services.get_opt("c-turn-2").await.unwrap();
        let route = routes.get_opt("c-turn").await.unwrap();
        named.is_some() && route.is_some() && !is_told(&cluster)
    })
    .await;
    let route = routes.get("c-turn").await.unwrap();
    assert_eq!(route.data["spec"]["tls"]["passthrough"], true);
    assert_eq!(route.data["spec"]["routes"].as_array().unwrap().len(), 4);
    let uid = scene.api::<LiveCluster>().get("c").await.unwrap().uid().unwrap();
    assert_eq!(route.owner_references()[0].uid, uid);

    // A gateway that is not there, in place of it.
    let by_gateway = json!({"kind": "TLSRoute", "perNode": false, "parentRefs": [{"name": "g"}]});
    let scene = with_route(scene, by_gateway).await;
    until(&scene, "what is missing is told, and what was made is gone", async |cluster| {
        let named = services.get_opt("c-turn-2").await.unwrap();
        let route = routes.get_opt("c-turn").await.unwrap();
        named.is_none() && route.is_none() && is_told(&cluster)
    })
    .await;
    services.get("c-turn").await.unwrap();
    let scene = with_route(scene, Value::Null).await;
    until(&scene, "nothing is missing", async |cluster| !is_told(&cluster)).await;
    scene.remove().await;
}
