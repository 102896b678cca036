//! Does media come by the network of a Kubernetes node and by node ports, and does a call live on
//! when a LiveCluster goes from one to the other? `make test-full` runs this.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;

use anyhow::{Context as _, Result, ensure};
use e2e::clients::{Browser, MEDIA_TIMEOUT, Person, RoomClient, await_everybody_meets};
use e2e::faults::{self, Effect, Outcome};
use e2e::live_cluster::{Addition, LiveCluster, MediaPod, READY_TIMEOUT};
use e2e::stage::stage;
use e2e::wait::eventually;
use serde_json::{Value, json};

const ROOM: &str = "lobby";
/// Ports of media in the network of the Kubernetes node.
const HOST_PORTS: Range<u16> = 29_800..29_900;
/// Those of node ports that Kubernetes gives to nobody who does not ask for one.
const NODE_PORTS: Range<u16> = 30_000..30_080;

#[test]
fn a_call_goes_from_the_network_of_its_node_to_node_ports() -> Result<()> {
    let spec = json!({
        "media": media("HostNetwork", &HOST_PORTS),
        "drain": { "timeout": "5s", "roomsPerSecond": 5 },
    });
    let addition = Addition { spec, ..Addition::default() };
    LiveCluster::run_with("exposures", 1, HOST_PORTS.start, &addition, |live_cluster| {
        // The ingress knows the domain then.
        live_cluster.http()?;
        let network = live_cluster.network()?;
        let browser = Browser::start(&network)?;
        let (anna, bob) = (browser.open(Person::anna())?, browser.open(Person::bob())?);
        let access = live_cluster.access()?;
        for tab in [&anna, &bob] {
            tab.join(&access.url, &access.token(&tab.person().identity, ROOM)?)?;
        }
        let case = Case { live_cluster, people: [&anna, &bob] };
        stage("HostNetwork", || case.media_comes_by(&HOST_PORTS))?;
        stage("NodePort", || case.exposure_becomes("NodePort", &NODE_PORTS))?;
        stage("HostNetwork again", || case.exposure_becomes("HostNetwork", &HOST_PORTS))
    })
}

fn media(exposure: &str, ports: &Range<u16>) -> Value {
    json!({ "exposure": exposure, "ports": { "first": ports.start, "count": ports.len() } })
}

struct Case<'a> {
    live_cluster: &'a LiveCluster,
    people: [&'a dyn RoomClient; 2],
}

impl Case<'_> {
    /// The room moves to a media node that is reached otherwise.
    fn exposure_becomes(&self, exposure: &str, ports: &Range<u16>) -> Result<()> {
        let before = self.live_cluster.pods()?;
        let room_sid = self.people[0].report()?.room_sid;
        for client in self.people {
            client.gaps()?;
        }
        self.live_cluster.patch(&json!({ "media": media(exposure, ports) }))?;
        eventually("another media node is there alone", READY_TIMEOUT, || {
            let pods = self.live_cluster.pods()?;
            let is_another = |pod: &MediaPod| before.iter().all(|old| old.uid != pod.uid);
            let done = pods.len() == 1 && pods.iter().all(|pod| pod.ready && is_another(pod));
            ensure!(done, "the pods are {pods:?}");
            Ok(())
        })?;
        self.live_cluster.await_ready(1)?;
        self.media_comes_by(ports)?;
        let effects = self.people.iter().map(|client| Effect::on(*client, &room_sid));
        let effects: Vec<Effect> = effects.collect::<Result<_>>()?;
        faults::record(&format!("exposure_{exposure}"), &effects, &Outcome::default())?;
        faults::check_move(&effects)
    }

    /// Everybody sees everybody, by these ports of the media node's Kubernetes node.
    fn media_comes_by(&self, ports: &Range<u16>) -> Result<()> {
        await_everybody_meets(&self.people, MEDIA_TIMEOUT)?;
        let pods = self.live_cluster.pods()?;
        let name = &pods.first().context("there is no media node")?.name;
        let pod = self.live_cluster.namespace().get("pod", name)?;
        let address = pod["status"]["hostIP"].as_str().context("status.hostIP")?;
        let address: IpAddr = address.parse().context("status.hostIP")?;
        for client in self.people {
            eventually("media comes from the Kubernetes node", MEDIA_TIMEOUT, || {
                let report = client.report()?;
                let tracks = report.participants.iter().flat_map(|other| &other.tracks);
                let remotes: BTreeSet<&str> = tracks.map(|track| track.remote.as_str()).collect();
                let is_expected = |remote: &&str| {
                    socket_of(remote)
                        .is_some_and(|s| s.ip() == address && ports.contains(&s.port()))
                };
                let are_expected = !remotes.is_empty() && remotes.iter().all(is_expected);
                ensure!(are_expected, "it comes from {remotes:?}, not from {address} {ports:?}");
                Ok(())
            })?;
        }
        Ok(())
    }
}

/// The socket in `udp 10.0.0.1:20001`.
fn socket_of(remote: &str) -> Option<SocketAddr> {
    remote.strip_prefix("udp ")?.parse().ok()
}
