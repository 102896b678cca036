//! What a LiveCluster costs at which nothing happens.

use operator::cluster;
use operator::cluster::{apply, looks};
use std::sync::Arc;

use crds::LiveCluster;
use kube::runtime::reflector::ObjectRef;

use super::faults::{Faults, steps};
use super::plane;
use super::world::World;

/// Requests a second that a LiveCluster may cost.
const MAX_RATE: f64 = 0.1;

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
    let seconds = |age: std::time::Duration| age.as_secs_f64();
    let rate = (costs[0] - costs[1]) as f64 / seconds(apply::MAX_AGE)
        + costs[1] as f64 / seconds(looks::MAX_AGE);
    plane::say(&format!("requests of a look: {costs:?}; {rate:.3} a second at rest"));
    assert!(rate <= MAX_RATE, "{rate} requests a second: {costs:?}");
    world.remove().await;
}
