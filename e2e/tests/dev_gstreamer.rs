//! Does a stack that is not libwebrtc send and receive, on a network that loses packets as well?

use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::clients::gstreamer::GStreamerClient;
use e2e::clients::{Browser, MEDIA_TIMEOUT, Person, RoomClient};
use e2e::dev_server::DevServer;
use e2e::private_network::{PrivateNetwork, SERVER};
use e2e::wait::eventually;

const PORT: u16 = 18_170;
const ROOM: &str = "stacks";
/// Share of datagrams that are lost, each way.
const LOSS: f64 = 0.05;
/// How long is watched.
const WATCHED: Duration = Duration::from_secs(15);
/// Longest time without a new picture.
const LONGEST_FREEZE: Duration = Duration::from_secs(1);
/// Pictures of 300 that somebody else must decode, on a busy machine.
const SEEN: u64 = 100;

#[test]
fn gstreamer_meets_a_browser_on_a_lossy_network() -> Result<()> {
    let network = PrivateNetwork::start()?;
    DevServer::run_at(network.server(), SERVER, PORT, |server| {
        let browser = Browser::start(network.clients())?;
        let anna = browser.open(Person::anna())?;
        let peer = GStreamerClient::start(network.clients())?;
        anna.join(&server.access.url, &server.access.token("anna", ROOM)?)?;
        peer.join(&server.access.url, &server.access.token("gstreamer", ROOM)?)?;
        eventually("media go both ways", MEDIA_TIMEOUT, || {
            let received = peer.received()?;
            ensure!(received.video.count > 0 && received.audio.count > 0, "{received:?}");
            ensure!(pictures(&anna)? > 0, "anna sees nothing");
            Ok(())
        })?;
        let fault = network.loss(LOSS)?;
        let before = pictures(&anna)?;
        peer.reset()?;
        thread::sleep(WATCHED);
        let (received, seen) = (peer.received()?, pictures(&anna)? - before);
        let freeze = received.video.longest_pause();
        ensure!(freeze < LONGEST_FREEZE, "nothing new for {} ms", freeze.as_millis());
        ensure!(seen >= SEEN, "anna saw {seen} pictures");
        ensure!(fault.lost()? > 0, "nothing was lost");
        Ok(())
    })
}

/// Pictures of the other participant that a browser has decoded.
fn pictures(tab: &impl RoomClient) -> Result<u64> {
    let report = tab.report()?;
    let participant = report.participant("gstreamer");
    Ok(participant.and_then(|other| other.track("camera")).map_or(0, |track| track.frames_decoded))
}
