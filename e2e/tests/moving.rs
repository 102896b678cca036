//! Do rooms move to other media pods when theirs must go, with everybody in them?

use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::clients::{
    Browser, HttpClient, MEDIA_TIMEOUT, Person, PythonClient, RoomClient, await_everybody_meets,
};
use e2e::faults::{self, Effect};
use e2e::live_cluster::{Addition, LiveCluster, READY_TIMEOUT};
use e2e::livekit::Access;
use e2e::process::Run as _;
use e2e::wait::eventually;
use serde_json::json;

const ROOM: &str = "lobby";
/// Time in which a room leaves a pod: `spec.drain.timeout` below and the move itself, on a machine
/// that starts pods at the same time.
const MOVE_TIMEOUT: Duration = Duration::from_secs(60);

#[test]
fn rooms_move_whole_when_pods_are_replaced_or_deleted() -> Result<()> {
    let spec = json!({ "drain": { "timeout": "5s", "roomsPerSecond": 5 } });
    let addition = Addition { spec, ..Addition::default() };
    LiveCluster::run_with("moving", 2, 25_000, &addition, rooms_move)
}

fn rooms_move(live_cluster: &LiveCluster) -> Result<()> {
    let access = live_cluster.access()?;
    let network = live_cluster.network()?;
    let http = live_cluster.http()?;
    let browser = Browser::start(&network)?;
    let anna = browser.open(Person::anna())?;
    let bob = browser.open(Person::bob())?;
    let clara = PythonClient::start(&network, Person::clara())?;
    let clients: [&dyn RoomClient; 3] = [&anna, &bob, &clara];
    for client in clients {
        client.join(&access.url, &access.token(&client.person().identity, ROOM)?)?;
    }
    await_everybody_meets(&clients, MEDIA_TIMEOUT)?;
    let case = Case { live_cluster, access, http, clients, room_sid: anna.report()?.room_sid };
    // Both are measured, whatever becomes of the first.
    let deleted = case.delete_the_home();
    let replaced = case.replace_all_pods();
    match (deleted, replaced) {
        (Err(deleted), Err(replaced)) => Err(replaced.context(format!("{deleted:#}"))),
        (deleted, replaced) => deleted.and(replaced),
    }
}

/// A room with everybody in it.
struct Case<'a> {
    live_cluster: &'a LiveCluster,
    access: Access,
    http: HttpClient,
    clients: [&'a dyn RoomClient; 3],
    room_sid: String,
}

impl Case<'_> {
    fn delete_the_home(&self) -> Result<()> {
        let home = self.live_cluster.home_of(ROOM)?;
        self.observe("pod_deletion", || {
            let mut kubectl = self.live_cluster.namespace().kubectl();
            kubectl.args(["delete", "pod", &home.name, "--wait=false"]).run()?;
            self.await_other_pods(std::slice::from_ref(&home.uid))
        })
    }

    /// Another level of the log is another specification: one by one all pods are replaced.
    fn replace_all_pods(&self) -> Result<()> {
        let before: Vec<String> =
            self.live_cluster.pods()?.into_iter().map(|pod| pod.uid).collect();
        self.observe("rolling_change", || {
            self.live_cluster.patch(&json!({ "log": { "level": "debug" } }))?;
            self.await_other_pods(&before)
        })
    }

    /// Waits until two pods are ready and none is of `earlier`; people join meanwhile. Returns how
    /// many were refused.
    fn await_other_pods(&self, earlier: &[String]) -> Result<u32> {
        let (mut refused, mut guests) = (0, 0);
        eventually("other pods are there", READY_TIMEOUT, || {
            guests += 1;
            let token = self.access.token(&format!("guest-{guests}"), ROOM)?;
            refused += u32::from(self.http.upgrade(&self.access.join_url(&token))?.status != 101);
            let pods = self.live_cluster.pods()?;
            let all_other = pods.iter().all(|pod| pod.ready && !earlier.contains(&pod.uid));
            ensure!(all_other && pods.len() == 2, "the pods are {pods:?}");
            Ok(())
        })?;
        Ok(refused)
    }

    /// Measures what `fault` does to the clients; the room must have moved by then.
    fn observe(&self, case: &str, fault: impl FnOnce() -> Result<u32>) -> Result<()> {
        let home = self.live_cluster.home_of(ROOM)?;
        for client in self.clients {
            client.gaps()?;
        }
        let refused = fault()?;
        eventually("the room is elsewhere", MOVE_TIMEOUT, || {
            let other = self.live_cluster.home_of(ROOM)?;
            ensure!(other.uid != home.uid, "the room is still on {}", home.name);
            Ok(())
        })?;
        await_everybody_meets(&self.clients, MEDIA_TIMEOUT)?;
        let effects: Result<Vec<Effect>> =
            self.clients.iter().map(|client| Effect::on(*client, &self.room_sid)).collect();
        let effects = effects?;
        faults::record(case, &effects, refused)?;
        faults::check_move(&effects)?;
        ensure!(refused == 0, "{refused} joins were refused while the room moved");
        Ok(())
    }
}
