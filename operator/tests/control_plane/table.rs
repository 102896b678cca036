//! What `kubectl get livecluster` shows.

use hyper::Request;
use k8s_openapi::api::apps::v1::StatefulSet;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use super::plane;
use super::world::World;

/// The form in which kubectl asks for lists (Kubernetes API concepts, "Receiving resources as Tables").
const AS_TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io";

/// The row of the LiveCluster, each cell with the title of its column; without its age.
async fn row(world: &World) -> Vec<(String, String)> {
    let path =
        format!("/apis/livecluster.dev/v1alpha1/namespaces/{}/liveclusters", world.namespace);
    let request = Request::get(path).header("accept", AS_TABLE).body(Vec::new()).unwrap();
    let table: Value = world.client.request(request).await.unwrap();
    let of = |list: &Value| list.as_array().unwrap().clone();
    let titles = of(&table["columnDefinitions"]).into_iter();
    let titles = titles.map(|column| column["name"].as_str().unwrap().to_uppercase());
    let cells = of(&table["rows"][0]["cells"]).into_iter().map(|cell| match cell {
        Value::String(text) => text,
        cell => cell.to_string(),
    });
    let mut row: Vec<_> = titles.zip(cells).collect();
    assert_eq!(row.pop().unwrap().0, "AGE");
    row
}

fn line(row: &[(String, String)]) -> String {
    row.iter().map(|(_, cell)| cell.as_str()).collect::<Vec<_>>().join(" ")
}

#[tokio::test]
async fn a_row_tells_how_many_nodes_serve_and_leave_and_of_which_versions() {
    let Some(config) = plane::config().await else { return };
    let world = World::new(&config, "table").await;
    let spec = |image: &str| {
        let image = format!("registry.example.invalid:5000/live/sfu:{image}");
        json!({"domain": "live.example.com", "nodes": 2, "node": {"image": image}})
    };
    world.set_rooms(0, 3);
    world.set_rooms(1, 1);
    world.apply(&spec("1.0")).await.unwrap();
    world.comes_to_rest().await;
    // Nobody else runs Redis here.
    let redis = json!({"status": {"replicas": 1, "readyReplicas": 1}});
    let (sets, params) = (world.api::<StatefulSet>(), PatchParams::default());
    sets.patch_status("c-redis", &params, &Patch::Merge(&redis)).await.unwrap();
    world.comes_to_rest().await;
    let found = row(&world).await;
    let titles: Vec<_> = found.iter().map(|(title, _)| title.as_str()).collect();
    let expected = "NAME URL NODES READY DRAINING ROOMS SUBSCRIBERS STATUS VERSION";
    assert_eq!(titles.join(" "), expected);
    assert_eq!(line(&found), "c http://live.example.com 2 2 0 4 4 Ready 1.0");
    // Nodes of before stay as long as they have rooms.
    world.apply(&spec("1.1")).await.unwrap();
    world.comes_to_rest().await;
    let found = row(&world).await;
    assert_eq!(line(&found), "c http://live.example.com 2 2 2 4 4 Ready 1.0,1.1");
    world.remove().await;
}
