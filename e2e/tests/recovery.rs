//! Does a deleted media pod come back, and are its clients in the room again by themselves?

use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::clients::{
    Browser, MEDIA_TIMEOUT, Person, PythonClient, RoomClient, await_everybody_meets,
};
use e2e::live_cluster::{LiveCluster, READY_TIMEOUT};
use e2e::process::Run as _;
use e2e::wait::eventually;

/// Time in which every client must be back with media on another node.
const RETURN_TIMEOUT: Duration = Duration::from_secs(60);

#[test]
fn clients_return_by_themselves_when_the_home_of_their_room_is_deleted() -> Result<()> {
    LiveCluster::run("recovery", 2, 23_000, clients_return)
}

fn clients_return(live_cluster: &LiveCluster) -> Result<()> {
    let access = live_cluster.access()?;
    let network = live_cluster.network()?;
    let browser = Browser::start(&network)?;
    let anna = browser.open(Person::anna())?;
    let bob = browser.open(Person::bob())?;
    let clara = PythonClient::start(&network, Person::clara())?;
    let clients: [&dyn RoomClient; 3] = [&anna, &bob, &clara];
    for client in clients {
        client.join(&access.url, &access.token(&client.person().identity, "lobby")?)?;
    }
    await_everybody_meets(&clients, MEDIA_TIMEOUT)?;
    let room_sid = anna.report()?.room_sid;

    let home = live_cluster.home_of("lobby")?;
    live_cluster.namespace().kubectl().args(["delete", "pod", &home.name, "--wait=false"]).run()?;

    eventually("the clients notice", RETURN_TIMEOUT, || {
        for client in clients {
            let report = client.report()?;
            ensure!(report.count("reconnected") > 0, "{} saw {:?}", report.identity, report.events);
        }
        Ok(())
    })?;
    await_everybody_meets(&clients, RETURN_TIMEOUT)?;
    let report = anna.report()?;
    ensure!(report.count("disconnected") == 0, "anna was thrown out: {:?}", report.events);
    ensure!(report.room_sid == room_sid, "the room is another one");

    eventually("a pod has taken its place", READY_TIMEOUT, || {
        let pods = live_cluster.pods()?;
        let ready = pods.iter().filter(|pod| pod.ready && pod.uid != home.uid).count();
        ensure!(ready == 2 && pods.len() == 2, "the pods are {pods:?}");
        Ok(())
    })?;
    live_cluster.await_ready(2)
}
