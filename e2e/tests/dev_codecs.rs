//! Layers within one stream: does a browser get the picture that it asks for of VP9 and AV1?

use anyhow::{Result, ensure};
use e2e::clients::{Browser, MEDIA_TIMEOUT, Network, Person, RoomClient, Tab};
use e2e::dev_server::DevServer;
use e2e::wait::eventually;
use serde_json::json;

const PORT: u16 = 18_020;
/// Bob's view of anna's camera.
const ANNAS_CAMERA: &str =
    "window.client.room.remoteParticipants.get('anna').getTrackPublication('camera')";

#[test]
fn layers_of_vp9_are_left_out_and_taken_again() -> Result<()> {
    layers_follow_the_subscriber(PORT, "vp9", "video/VP9")
}

#[test]
fn layers_of_av1_are_left_out_and_taken_again() -> Result<()> {
    layers_follow_the_subscriber(PORT + 4, "av1", "video/AV1")
}

fn layers_follow_the_subscriber(port: u16, codec: &str, mime: &str) -> Result<()> {
    DevServer::run(port, |server| {
        let browser = Browser::start(&Network::here())?;
        let (anna, bob) = (browser.open(Person::anna())?, browser.open(Person::bob())?);
        let room = format!("layers-{codec}");
        let options = json!({ "videoCodec": codec });
        anna.join_with(&server.access.url, &server.access.token("anna", &room)?, options)?;
        bob.join(&server.access.url, &server.access.token("bob", &room)?)?;
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
