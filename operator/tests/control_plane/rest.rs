//! What a LiveCluster costs at which nothing happens.

use std::sync::Arc;

use crds::LiveCluster;
use k8s_openapi::api::core::v1::Secret;
use kube::api::PostParams;
use kube::runtime::reflector::ObjectRef;
use operator::cluster;
use operator::cluster::{apply, looks};
use serde_json::json;

use super::faults::{Faults, steps};
use super::normal::versions;
use super::plane;
use super::world::World;

/// Requests a second that a LiveCluster may cost.
const MAX_RATE: f64 = 0.1;
/// Requests that write all objects of a LiveCluster, at least.
pub const APPLICATION: usize = 28;

#[tokio::test]
async fn a_livecluster_at_rest_costs_a_request_in_ten_seconds() {
    let Some(config) = plane::config().await else { return };
    let [install, ..] = steps();
    let world = World::new(&config, "rest").await;
    world.apply(&install.after).await.unwrap();
    world.comes_to_rest().await;
    let faults = Faults::none();
    let operator = world.operator(&faults);
    let object = Arc::new(world.api::<LiveCluster>().get("c").await.unwrap());
    let reference = ObjectRef::from_obj(&*object);
    let mut costs = Vec::new();
    // An operator that knows nothing; one that reads anew; and one at which nothing was touched.
    for forgets in [true, true, false] {
        if forgets {
            operator.looks.forget(&reference);
        }
        let before = faults.requests();
        let report = cluster::reconcile(&object, &operator).await.unwrap();
        assert!(report.at_rest || costs.is_empty(), "{report:?}");
        costs.push(faults.requests() - before);
    }
    assert_eq!(costs[2], 0, "{costs:?}");
    // What a busy machine has the first look find out late comes on top.
    assert!(costs[0] - costs[1] >= APPLICATION, "{costs:?}");
    let seconds = |age: std::time::Duration| age.as_secs_f64();
    let rate = (costs[0] - costs[1]) as f64 / seconds(apply::MAX_AGE)
        + costs[1] as f64 / seconds(looks::MAX_AGE);
    plane::say(&format!("requests of a look: {costs:?}; {rate:.3} a second at rest"));
    assert!(rate <= MAX_RATE, "{rate} requests a second: {costs:?}");
    world.remove().await;
}

#[tokio::test]
async fn what_is_written_again_changes_nothing() {
    let Some(config) = plane::config().await else { return };
    let domain = "live.example.com";
    let tls = json!({"domain": "turn.example.com", "secretName": "certificate"});
    let annotations = json!({"annotations": {"a.example.com/b": "c"}});
    let specs = [
        json!({"domain": domain}),
        json!({"domain": domain, "redis": {"external": {"addresses": ["127.0.0.1:1"]}},
            "webhooks": {"urls": ["https://a.example.com"]}, "turn": {"udp": false}}),
        json!({"domain": domain, "media": {"exposure": "LoadBalancer", "service": annotations},
            "ingress": {"className": "nginx", "tls": {"secretName": "certificate"}}}),
        json!({"domain": domain, "media": {"exposure": "TurnOnly"}, "turn": {"tls": tls}}),
        json!({"domain": domain, "media": {"exposure": "HostNetwork"}, "turn": {"enabled": false}}),
    ];
    let world = World::new(&config, "again").await;
    let certificate = json!({"metadata": {"name": "certificate"},
        "stringData": {"tls.crt": "a certificate", "tls.key": "a key"}});
    let certificate: Secret = serde_json::from_value(certificate).unwrap();
    world.api::<Secret>().create(&PostParams::default(), &certificate).await.unwrap();
    for spec in specs {
        world.apply(&spec).await.unwrap();
        world.comes_to_rest().await;
        // An operator that knows nothing writes everything. Secrets, which are created and not
        // applied at first, have another manager the first time.
        let mut before = Default::default();
        for _ in 0..2 {
            before = versions(&world.client, &world.namespace).await;
            world.look(&world.operator(&Faults::none())).await.unwrap();
        }
        assert_eq!(versions(&world.client, &world.namespace).await, before, "{spec}");
    }
    world.remove().await;
}
