//! Do rooms survive what happens beneath them, with everybody in them: pods that are replaced or
//! deleted, a process that is killed, a home that is cut from Redis, and Redis itself?

use anyhow::Result;
use e2e::faults::{WatchedRoom, cases};
use e2e::live_cluster::{Addition, LiveCluster};
use serde_json::json;

#[test]
fn rooms_survive_what_happens_beneath_them() -> Result<()> {
    let spec = json!({ "drain": { "timeout": "5s", "roomsPerSecond": 5 } });
    let addition = Addition { spec, ..Addition::default() };
    LiveCluster::run_with("moving", 2, 25_000, &addition, |live_cluster| {
        let room = WatchedRoom::start(live_cluster)?;
        cases::room_events(&room)?;
        cases::pod_deletion(&room)?;
        // Right after: the pod that left is not waited for.
        cases::redis_outage(&room)?;
        cases::process_kill(&room)?;
        cases::cut_from_redis(&room)?;
        cases::rolling_change(&room)
    })
}
