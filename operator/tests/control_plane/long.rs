//! What takes minutes: `make test-full` runs it.

use futures::StreamExt as _;

use super::faults::{Fault, delete_at, steps, strike_everywhere};
use super::plane;

mod crowd;
mod walk;

/// Deletions at the same time.
const CONCURRENCY: usize = 6;

#[tokio::test]
async fn each_fault_at_each_write_of_each_step_ends_as_if_nothing_had_been() {
    let Some(config) = plane::config().await else { return };
    for step in steps() {
        let all = |_| vec![Fault::Lost, Fault::Unanswered, Fault::Broken];
        let writes = strike_everywhere(&config, &step, all).await;
        plane::say(&format!("{}: {writes} writes", step.name));
        assert!(writes >= 4, "{} is {writes} writes", step.name);
    }
}

#[tokio::test]
async fn a_livecluster_deleted_at_any_write_of_its_installation_leaves_nothing() {
    let Some(config) = plane::config().await else { return };
    let runs = futures::stream::iter(1..).map(|at| {
        let config = &config;
        async move { (at, delete_at(config, at).await) }
    });
    let mut runs = std::pin::pin!(runs.buffered(CONCURRENCY));
    while let Some((at, struck)) = runs.next().await {
        if !struck {
            assert!(at > 15, "the installation is {at} writes");
            return;
        }
    }
}
