//! Do ten pictures and ten sounds of one client reach others, published early or late?

use anyhow::{Result, ensure};
use e2e::clients::{Browser, MEDIA_TIMEOUT, Network, Person, PythonClient, RoomClient, Tab};
use e2e::dev_server::DevServer;
use e2e::wait::eventually;
use serde_json::json;

const PORT: u16 = 17_950;
const TRACKS: usize = 20;

/// Publishes ten small pictures and ten tones, one after another.
const PUBLISH: &str = "(async () => {
    const { localParticipant } = window.client.room;
    const audio = new AudioContext();
    for (let number = 0; number < 10; number += 1) {
        const canvas = Object.assign(document.createElement('canvas'), { width: 160, height: 90 });
        const context = canvas.getContext('2d');
        setInterval(() => {
            context.fillStyle = `hsl(${Date.now() % 360} 90% 50%)`;
            context.fillRect(0, 0, 160, 90);
        }, 200);
        const [picture] = canvas.captureStream(5).getVideoTracks();
        await localParticipant.publishTrack(picture, { name: `v${number}`, simulcast: false });
        const tone = audio.createOscillator();
        const output = audio.createMediaStreamDestination();
        tone.connect(output);
        tone.start();
        const [sound] = output.stream.getAudioTracks();
        await localParticipant.publishTrack(sound, { name: `a${number}`, dtx: false });
    }
    return null;
})()";

#[test]
fn twenty_tracks_reach_every_kind_of_client() -> Result<()> {
    DevServer::run(PORT, |server| {
        let network = Network::here();
        let browser = Browser::start(&network)?;
        let (anna, bob) = (browser.open(Person::anna())?, browser.open(Person::bob())?);
        let clara = PythonClient::start(&network, Person::clara())?;
        let enter = |client: &dyn RoomClient, single: bool| {
            let token = server.access.token(&client.person().identity, "many")?;
            let options =
                json!({ "url": server.access.url, "token": token, "singlePeerConnection": single });
            client.call("join", options)
        };
        // Bob is there before the tracks, clara comes when they are there, and once more.
        enter(&anna, true)?;
        enter(&bob, true)?;
        publish(&anna)?;
        arrive(&bob)?;
        enter(&clara, true)?;
        arrive(&clara)?;
        bob.leave()?;
        enter(&bob, false)?;
        arrive(&bob)
    })
}

fn publish(tab: &Tab) -> Result<()> {
    tab.evaluate(PUBLISH).map(drop)
}

/// Waits until packets of each track of anna come.
fn arrive(client: &dyn RoomClient) -> Result<()> {
    let name = &client.person().identity;
    eventually(&format!("all tracks reach {name}"), MEDIA_TIMEOUT, || {
        let report = client.report()?;
        let tracks = report.participant("anna").map(|anna| anna.tracks.as_slice());
        let tracks = tracks.unwrap_or_default();
        let arrived = tracks.iter().filter(|track| track.packets_received > 0).count();
        ensure!(arrived == TRACKS, "{arrived} of {} tracks", tracks.len());
        Ok(())
    })
}
