//! Do rooms survive the loss of a Kubernetes node by order, and of a pod's network? `make test-full`
//! runs this: it takes minutes.

use anyhow::Result;
use e2e::faults::{WatchedRoom, cases};
use e2e::live_cluster::{Addition, LiveCluster, PORTS};
use serde_json::json;

const FIRST_PORT: u16 = 19_000;

#[test]
fn rooms_survive_drained_nodes_and_cut_networks() -> Result<()> {
    let spec = json!({ "drain": { "timeout": "5s", "roomsPerSecond": 5 } });
    let addition = Addition { spec, ..Addition::default() };
    LiveCluster::run_with("faults", 2, FIRST_PORT, &addition, |live_cluster| {
        let room = WatchedRoom::start(live_cluster)?;
        cases::cut_from_clients(&room, FIRST_PORT, PORTS)?;
        cases::cut_from_everything(&room)?;
        cases::node_drain(&room)
    })
}
