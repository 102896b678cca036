//! Do stacks other than libwebrtc send and receive, on a network that loses packets as well?

use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::clients::webrtc::{Stack, WebRtcClient};
use e2e::clients::{Browser, MEDIA_TIMEOUT, Person, RoomClient};
use e2e::dev_server::DevServer;
use e2e::private_network::{PrivateNetwork, SERVER};
use e2e::wait::eventually;

const PORT: u16 = 18_140;
const ROOM: &str = "stacks";
/// Share of datagrams that are lost, each way.
const LOSS: f64 = 0.05;
/// How long is watched.
const WATCHED: Duration = Duration::from_secs(15);
/// Longest time without a new picture.
const LONGEST_FREEZE: Duration = Duration::from_secs(1);

#[test]
fn aiortc_and_gstreamer_meet_a_browser_on_a_lossy_network() -> Result<()> {
    let network = PrivateNetwork::start()?;
    DevServer::run_at(network.server(), SERVER, PORT, |server| {
        let clients = network.clients();
        let browser = Browser::start(clients)?;
        let anna = browser.open(Person::anna())?;
        let stacks = [(Stack::Aiortc, "aiortc"), (Stack::Gstreamer, "gstreamer")];
        let peers = stacks
            .map(|(stack, name)| WebRtcClient::start(clients, stack).map(|peer| (name, peer)))
            .into_iter()
            .collect::<Result<Vec<_>>>()?;
        anna.join(&server.access.url, &server.access.token("anna", ROOM)?)?;
        for (name, peer) in &peers {
            peer.join(&server.access.url, &server.access.token(name, ROOM)?)?;
        }
        eventually("media go both ways", MEDIA_TIMEOUT, || {
            for (name, peer) in &peers {
                let received = peer.received()?;
                ensure!(
                    received.video.count > 0 && received.audio.count > 0,
                    "{name}: {received:?}"
                );
                ensure!(pictures(&anna, name)? > 0, "anna sees nothing of {name}");
            }
            Ok(())
        })?;
        let fault = network.loss(LOSS)?;
        let before =
            peers.iter().map(|(name, _)| pictures(&anna, name)).collect::<Result<Vec<_>>>()?;
        for (_, peer) in &peers {
            peer.reset()?;
        }
        thread::sleep(WATCHED);
        for ((name, peer), before) in peers.iter().zip(before) {
            let received = peer.received()?;
            e2e::stage::say(&format!(
                "{name}: {received:?}, {} seen",
                pictures(&anna, name)? - before
            ));
            let freeze = received.video.longest_pause();
            ensure!(freeze < LONGEST_FREEZE, "{name} saw nothing for {} ms", freeze.as_millis());
            ensure!(pictures(&anna, name)? > before + 100, "anna sees too little of {name}");
        }
        ensure!(fault.lost()? > 0, "nothing was lost");
        Ok(())
    })
}

/// Pictures of somebody that a browser has decoded.
fn pictures(tab: &impl RoomClient, identity: &str) -> Result<u64> {
    let report = tab.report()?;
    let participant = report.participant(identity);
    Ok(participant.and_then(|other| other.track("camera")).map_or(0, |track| track.frames_decoded))
}
