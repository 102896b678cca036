//! Layers: does a browser get the picture that it asks for of VP9 and AV1, and of what is encrypted
//! end to end?

use anyhow::{Result, ensure};
use e2e::clients::{Browser, MEDIA_TIMEOUT, Network, Person, RoomClient, Tab};
use e2e::dev_server::DevServer;
use e2e::wait::eventually;
use serde_json::{Value, json};

const PORT: u16 = 18_020;
/// Bob's view of anna's camera.
const ANNAS_CAMERA: &str =
    "window.client.room.remoteParticipants.get('anna').getTrackPublication('camera')";

#[test]
fn layers_of_vp9_are_left_out_and_taken_again() -> Result<()> {
    layers_follow_the_subscriber(PORT, "video/VP9", json!({ "videoCodec": "vp9" }), json!({}))
}

#[test]
fn layers_of_av1_are_left_out_and_taken_again() -> Result<()> {
    layers_follow_the_subscriber(PORT + 4, "video/AV1", json!({ "videoCodec": "av1" }), json!({}))
}

#[test]
fn layers_of_encrypted_vp9_are_left_out_and_taken_again() -> Result<()> {
    let options = json!({ "videoCodec": "vp9", "key": "shared" });
    layers_follow_the_subscriber(PORT + 8, "video/VP9", options, json!({ "key": "shared" }))
}

#[test]
fn encrypted_streams_of_simulcast_are_switched() -> Result<()> {
    let options = json!({ "videoCodec": "vp8", "simulcast": true, "key": "shared" });
    layers_follow_the_subscriber(PORT + 12, "video/VP8", options, json!({ "key": "shared" }))
}

fn layers_follow_the_subscriber(
    port: u16,
    mime: &str,
    annas_options: Value,
    bobs_options: Value,
) -> Result<()> {
    DevServer::run(port, |server| {
        let browser = Browser::start(&Network::here())?;
        let (anna, bob) = (browser.open(Person::anna())?, browser.open(Person::bob())?);
        let url = &server.access.url;
        anna.join_with(url, &server.access.token("anna", "layers")?, annas_options)?;
        bob.join_with(url, &server.access.token("bob", "layers")?, bobs_options)?;
        let full = width(&bob, mime, |width| width > 0)?;
        bob.evaluate(&format!("({ANNAS_CAMERA}.setVideoQuality(0), null)"))?;
        let low = width(&bob, mime, |width| width < full)?;
        bob.evaluate(&format!("({ANNAS_CAMERA}.setVideoQuality(2), null)"))?;
        width(&bob, mime, |width| width == full)?;
        ensure!(2 * low <= full, "the low layer is {low} wide, the full picture {full}");
        e2e::clients::await_media(&bob, &[&Person::anna()], MEDIA_TIMEOUT)
    })
}

/// Waits until bob decodes anna's camera at such a width, and goes on decoding.
fn width(bob: &Tab, mime: &str, fits: impl Fn(u32) -> bool) -> Result<u32> {
    let look = || -> Result<(u32, u64)> {
        let report = bob.report()?;
        let track = report.participant("anna").and_then(|anna| anna.track("camera")).cloned();
        let Some(track) = track else { anyhow::bail!("bob has no camera of anna") };
        ensure!(track.codec == mime, "bob gets {}", track.codec);
        ensure!(fits(track.width), "the picture is {} wide", track.width);
        Ok((track.width, track.frames_decoded))
    };
    let (_, frames) = eventually("a picture of this width", MEDIA_TIMEOUT, look)?;
    let (width, _) = eventually("pictures go on", MEDIA_TIMEOUT, || {
        let (width, now) = look()?;
        ensure!(now > frames + 10, "{} more pictures", now - frames);
        Ok((width, now))
    })?;
    Ok(width)
}
