//! Do clients that come in by different pods meet in one room through the ingress?

use anyhow::{Result, ensure};
use e2e::clients::{
    Browser, MEDIA_TIMEOUT, Person, PythonClient, RoomClient, await_everybody_meets,
};
use e2e::live_cluster::LiveCluster;
use serde_json::json;

#[test]
fn two_tabs_and_the_python_sdk_meet_on_one_home_by_two_front_doors() -> Result<()> {
    LiveCluster::run("call", 2, 21_000, everybody_meets)
}

fn everybody_meets(live_cluster: &LiveCluster) -> Result<()> {
    let access = live_cluster.access()?;
    ensure!(access.url == format!("http://{}", live_cluster.domain()), "{}", access.url);
    let network = live_cluster.network()?;
    let browser = Browser::start(&network)?;
    let anna = browser.open(Person::anna())?;
    let bob = browser.open(Person::bob())?;
    let clara = PythonClient::start(&network, Person::clara())?;
    let clients: [&dyn RoomClient; 3] = [&anna, &bob, &clara];

    anna.join(&access.url, &access.token("anna", "lobby")?)?;
    let two_connections = json!({ "singlePeerConnection": false });
    bob.join_with(&access.url, &access.token("bob", "lobby")?, two_connections)?;
    clara.join(&access.url, &access.token("clara", "lobby")?)?;
    await_everybody_meets(&clients, MEDIA_TIMEOUT)?;

    two_front_doors_were_used(live_cluster)?;
    one_pod_is_the_home(live_cluster, &clients)
}

fn two_front_doors_were_used(live_cluster: &LiveCluster) -> Result<()> {
    let mut doors = Vec::new();
    for pod in live_cluster.pods()? {
        if live_cluster.joins_through(&pod)? > 0.0 {
            doors.push(pod.name);
        }
    }
    ensure!(doors.len() == 2, "the joins came in through {doors:?} only");
    Ok(())
}

fn one_pod_is_the_home(live_cluster: &LiveCluster, clients: &[&dyn RoomClient]) -> Result<()> {
    let home = live_cluster.home_of("lobby")?;
    for pod in live_cluster.pods()? {
        let rooms = live_cluster.metric(&pod.name, contract::metrics::ROOMS, "")?;
        let participants = live_cluster.metric(&pod.name, contract::metrics::PARTICIPANTS, "")?;
        let expected = if pod == home { (1.0, 3.0) } else { (0.0, 0.0) };
        ensure!((rooms, participants) == expected, "{} has {rooms} rooms", pod.name);
    }
    for client in clients {
        let sid = client.report()?.room_sid;
        ensure!(sid == clients[0].report()?.room_sid, "{sid} is another room");
    }
    Ok(())
}
