//! Do browsers and the Python SDK meet in a room of one node, without Kubernetes?

use anyhow::{Result, ensure};
use e2e::clients::{
    Browser, MEDIA_TIMEOUT, Network, Person, PythonClient, RoomClient, await_everybody_meets,
};
use e2e::dev_server::DevServer;
use e2e::wait::eventually;
use serde_json::json;

const PORT: u16 = 17_880;
const AIORTC_PORT: u16 = 18_170;

#[test]
fn two_tabs_and_the_python_sdk_see_and_hear_each_other() -> Result<()> {
    DevServer::run(PORT, everybody_meets)
}

#[test]
fn h264_is_forwarded_as_h264() -> Result<()> {
    DevServer::run(PORT + 1, |server| {
        let access = &server.access;
        let browser = Browser::start(&Network::here())?;
        let (anna, bob) = (browser.open(Person::anna())?, browser.open(Person::bob())?);
        let h264 = json!({ "videoCodec": "h264" });
        anna.join_with(&access.url, &access.token("anna", "h264")?, h264)?;
        bob.join(&access.url, &access.token("bob", "h264")?)?;
        await_everybody_meets(&[&anna, &bob], MEDIA_TIMEOUT)?;
        let report = bob.report()?;
        let track = report.participant("anna").and_then(|anna| anna.track("camera"));
        let codec = track.map(|track| track.codec.as_str());
        ensure!(codec == Some("video/H264"), "bob decodes {codec:?}");
        Ok(())
    })
}

#[test]
fn a_browser_and_aiortc_see_and_hear_each_other() -> Result<()> {
    DevServer::run(AIORTC_PORT, |server| {
        let network = Network::here();
        let browser = Browser::start(&network)?;
        let anna = browser.open(Person::anna())?;
        let bob = PythonClient::start_aiortc(&network, Person::bob())?;
        for client in [&bob as &dyn RoomClient, &anna] {
            let token = server.access.token(&client.person().identity, "aiortc")?;
            client.join(&server.access.url, &token)?;
        }
        await_everybody_meets(&[&anna, &bob], MEDIA_TIMEOUT)
    })
}

fn everybody_meets(server: &DevServer) -> Result<()> {
    let access = &server.access;
    let network = Network::here();
    let browser = Browser::start(&network)?;
    let anna = browser.open(Person::anna())?;
    let bob = browser.open(Person::bob())?;
    let clara = PythonClient::start(&network, Person::clara())?;
    let clients: [&dyn RoomClient; 3] = [&anna, &bob, &clara];

    // One on a single peer connection, one on two, and the native stack.
    anna.join(&access.url, &access.token("anna", "dev")?)?;
    let two_connections = json!({ "singlePeerConnection": false });
    bob.join_with(&access.url, &access.token("bob", "dev")?, two_connections)?;
    clara.join(&access.url, &access.token("clara", "dev")?)?;
    await_everybody_meets(&clients, MEDIA_TIMEOUT)?;

    anna.send("greeting", "hello")?;
    for receiver in [&bob as &dyn RoomClient, &clara] {
        eventually("the message arrives", MEDIA_TIMEOUT, || {
            let messages = receiver.report()?.messages;
            ensure!(
                messages
                    .iter()
                    .any(|m| m.from == "anna" && m.topic == "greeting" && m.text == "hello"),
                "messages are {messages:?}"
            );
            Ok(())
        })?;
    }

    anna.set_muted("camera", true)?;
    eventually("bob sees that anna is muted", MEDIA_TIMEOUT, || {
        let report = bob.report()?;
        let track = report.participant("anna").and_then(|anna| anna.track("camera").cloned());
        ensure!(track.as_ref().is_some_and(|track| track.muted), "the track is {track:?}");
        Ok(())
    })?;

    clara.leave()?;
    eventually("clara is gone", MEDIA_TIMEOUT, || {
        ensure!(anna.report()?.participant("clara").is_none(), "anna still sees clara");
        Ok(())
    })?;
    ensure!(anna.report()?.errors.is_empty(), "anna's page failed: {:?}", anna.report()?.errors);
    Ok(())
}
