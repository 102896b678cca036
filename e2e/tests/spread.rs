//! Are rooms spread over the pods, while clients only ever see the domain?

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::clients::{Browser, HttpClient, MEDIA_TIMEOUT, Person, RoomClient, await_everybody_meets};
use e2e::live_cluster::LiveCluster;
use e2e::wait::eventually;
use serde_json::{Value, json};

/// A lease is renewed each second.
const NEIGHBOUR_TIMEOUT: Duration = Duration::from_secs(30);
/// With two nodes and a choice by load, this many rooms cannot all land on one by chance.
const ROOMS: usize = 6;

#[test]
fn rooms_are_spread_over_pods_and_urls_are_the_domain() -> Result<()> {
    LiveCluster::run("spread", 2, 24_000, rooms_are_spread)
}

fn rooms_are_spread(live_cluster: &LiveCluster) -> Result<()> {
    let network = live_cluster.network()?;
    let http = live_cluster.http()?;
    let access = live_cluster.access()?;
    let domain_url = format!("http://{}", live_cluster.domain());
    ensure!(access.url == domain_url, "the status says {}", access.url);

    // A pod that has just started is known to the others after their next renewal of a lease.
    for pod in live_cluster.pods()? {
        eventually(&format!("{} knows both pods", pod.name), NEIGHBOUR_TIMEOUT, || {
            let known = live_cluster.metric(&pod.name, contract::metrics::KNOWN_NODES, "")?;
            ensure!(known == 2.0, "it knows {known}");
            Ok(())
        })?;
    }
    let mut homes = BTreeMap::new();
    for number in 1..=ROOMS {
        let room = format!("room-{number}");
        let token = create_room(&http, &domain_url, &room)?;
        let joined = http.upgrade(&access.join_url(&token))?;
        ensure!(joined.status == 101, "joining {room}: {joined:?}");
        homes.insert(live_cluster.home_of(&room)?.name, room);
    }
    ensure!(homes.len() == 2, "{ROOMS} rooms are all at home on {homes:?}");

    // Both homes carry calls, and media comes from each of them.
    let browser = Browser::start(&network)?;
    for room in homes.values() {
        let anna = browser.open(Person::anna())?;
        let bob = browser.open(Person::bob())?;
        anna.join(&domain_url, &access.token("anna", room)?)?;
        bob.join(&domain_url, &access.token("bob", room)?)?;
        await_everybody_meets(&[&anna, &bob], MEDIA_TIMEOUT)?;
        anna.close()?;
        bob.close()?;
    }
    Ok(())
}

/// Creates a room as a web front end does and returns the token.
fn create_room(http: &HttpClient, domain_url: &str, room: &str) -> Result<String> {
    let body = json!({ "room_name": room, "user_name": "Anna" });
    let answer = http.post(&format!("{domain_url}/api/create-room"), None, &body)?;
    ensure!(answer.status == 200, "{answer:?}");
    let fields: Value = serde_json::from_str(&answer.body)?;
    let names: Vec<&str> =
        fields.as_object().into_iter().flatten().map(|(name, _)| name.as_str()).collect();
    ensure!(names == ["room_name", "server_url", "token", "url"], "the fields are {names:?}");
    ensure!(fields["room_name"] == room, "{fields}");
    for url in ["url", "server_url"] {
        ensure!(fields[url] == domain_url, "{url} is {}", fields[url]);
    }
    Ok(fields["token"].as_str().unwrap_or_default().to_owned())
}
