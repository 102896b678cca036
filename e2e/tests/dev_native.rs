//! Does LiveKit's native stack, in its Python SDK, publish much, late, and come back?

use anyhow::{Context as _, Result, ensure};
use e2e::clients::person::Colour;
use e2e::clients::{
    Browser, MEDIA_TIMEOUT, Network, Person, PythonClient, RoomClient, await_everybody_meets,
    await_media,
};
use e2e::dev_server::DevServer;
use e2e::wait::eventually;
use serde_json::{Value, json};

const PORT: u16 = 18_120;
/// Pictures, and as many tones, of one participant.
const EACH: u8 = 10;
/// Largest difference of a tone's frequency after decoding, in hertz.
const TONE_TOLERANCE: f64 = 12.0;

#[test]
fn ten_pictures_and_ten_tones_of_one_client_are_seen_and_heard_by_all() -> Result<()> {
    DevServer::run(PORT, |server| {
        let network = Network::here();
        let browser = Browser::start(&network)?;
        let bob = browser.open(Person::bob())?;
        let anna = PythonClient::start(&network, Person::anna())?;
        let clara = PythonClient::start(&network, Person::clara())?;
        let enter = |client: &dyn RoomClient, single: bool| {
            let token = server.access.token(&client.person().identity, "native")?;
            let options =
                json!({ "url": server.access.url, "token": token, "singlePeerConnection": single });
            client.call("join", options).map(drop)
        };
        enter(&bob, true)?;
        enter(&anna, false)?;
        publish(&anna, 0..EACH)?;
        arrive(&bob, &anna)?;
        enter(&clara, false)?;
        arrive(&clara, &anna)?;
        // Late, on connections that carry others' tracks already.
        publish(&clara, EACH..EACH + 1)?;
        arrive(&bob, &clara)?;
        arrive(&anna, &clara)
    })
}

/// Publishes a picture and a tone for each number.
fn publish(client: &PythonClient, numbers: std::ops::Range<u8>) -> Result<()> {
    for number in numbers {
        let (colour, hertz) = (colour(number), tone(number));
        client.evaluate(&format!(
            "unknown = rtc.TrackSource.SOURCE_UNKNOWN
             small = Picture(width=160, height=90, framesPerSecond=5)
             await client.publish_colour(
                 '{colour}', name='v{number}', source=unknown, picture=small)
             await client.publish_tone({hertz}, name='a{number}', source=unknown)"
        ))?;
    }
    Ok(())
}

fn colour(number: u8) -> Colour {
    let level = |digit: u8| 32 + 96 * (digit % 3);
    Colour(level(number), level(number / 3), level(number / 9))
}

fn tone(number: u8) -> f64 {
    400.0 + 100.0 * f64::from(number)
}

/// Waits until `watcher` sees and hears each track of `publisher` as what it is.
fn arrive(watcher: &dyn RoomClient, publisher: &PythonClient) -> Result<()> {
    let sids = publisher.evaluate(
        "tracks = room.local_participant.track_publications.values()
         return {track.sid: track.name for track in tracks}",
    )?;
    let sids = sids.as_object().context("tracks")?;
    let (who, name) = (&watcher.person().identity, &publisher.person().identity);
    eventually(&format!("all tracks of {name} reach {who}"), MEDIA_TIMEOUT, || {
        let report = watcher.report()?;
        let participant = report.participant(name).context("is not there")?;
        ensure!(participant.tracks.len() == sids.len(), "{} tracks", participant.tracks.len());
        for track in &participant.tracks {
            let name = sids.get(&track.sid).and_then(Value::as_str).context("a strange track")?;
            let number: u8 = name[1..].parse().context("the number of a track")?;
            let is_right = match name.as_bytes()[0] {
                b'v' => track.frames_decoded > 10 && colour(number).is_like(track.colour),
                _ => (track.tone_hz - tone(number)).abs() <= TONE_TOLERANCE,
            };
            ensure!(is_right, "{name} is {track:?}");
        }
        Ok(())
    })
    .with_context(|| watcher.log().join("\n"))
}

#[test]
fn reconnections_one_after_another_leave_nothing_behind() -> Result<()> {
    DevServer::run(PORT + 1, |server| {
        for (first, second, begin) in [
            ("SIGNAL_RECONNECT", "SIGNAL_RECONNECT", "reconnecting"),
            // A client whose signalling closes while it publishes anew gives up its tracks.
            ("FULL_RECONNECT", "SIGNAL_RECONNECT", "reconnected"),
            ("SIGNAL_RECONNECT", "FULL_RECONNECT", "reconnecting"),
            ("FULL_RECONNECT", "NODE_FAILURE", "reconnected"),
            ("DISCONNECT_SIGNAL_ON_RESUME", "MIGRATION", "reconnected"),
        ] {
            // What begins in the middle of another reconnection becomes one with it, or does not:
            // only new clients have no end of an earlier one yet to come.
            let (anna, bob) = pair(server, &format!("{first}, {second}"))?;
            let least = if begin == "reconnected" { 2 } else { 1 };
            anna.evaluate(&format!(
                "begin = asyncio.Event()
                 room.once('{begin}', lambda *_: begin.set())
                 kind = rtc.SimulateScenarioKind
                 await room.simulate_scenario(kind.SIMULATE_{first})
                 await asyncio.wait_for(begin.wait(), 30)
                 await room.simulate_scenario(kind.SIMULATE_{second})"
            ))?;
            eventually(&format!("anna is back after {first}, {second}"), MEDIA_TIMEOUT, || {
                let report = anna.report()?;
                let is_back = report.count("reconnected") >= least;
                ensure!(is_back && report.state == "connected", "{:?}", report.events);
                Ok(())
            })?;
            await_everybody_meets(&[&anna, &bob], MEDIA_TIMEOUT)
                .with_context(|| format!("{first}, {second}"))?;
            eventually(&format!("nothing is left of {first}, {second}"), MEDIA_TIMEOUT, || {
                let tracks = bob.report()?.participant("anna").map(|anna| anna.tracks.len());
                ensure!(tracks == Some(2), "bob sees {tracks:?} tracks");
                Ok(())
            })?;
        }
        Ok(())
    })
}

#[test]
fn who_mutes_while_it_reconnects_is_muted_afterwards() -> Result<()> {
    DevServer::run(PORT + 2, |server| {
        let (anna, bob) = pair(server, "muted")?;
        for scenario in ["SIGNAL_RECONNECT", "FULL_RECONNECT", "NODE_FAILURE"] {
            for (method, muted) in [("mute", true), ("unmute", false)] {
                anna.evaluate(&change_while(scenario, method))?;
                let what = format!("anna's camera after {scenario}, {method}");
                eventually(&what, MEDIA_TIMEOUT, || {
                    let report = anna.report()?;
                    ensure!(report.state == "connected", "anna is {}", report.state);
                    let report = bob.report()?;
                    let anna = report.participant("anna").context("anna is not there")?;
                    let camera = anna.track("camera").context("anna has no camera")?;
                    ensure!(camera.muted == muted, "{camera:?}");
                    Ok(())
                })?;
            }
            await_everybody_meets(&[&anna, &bob], MEDIA_TIMEOUT)
                .with_context(|| format!("after {scenario}"))?;
        }
        Ok(())
    })
}

/// Mutes or unmutes the camera as soon as a reconnection has begun.
fn change_while(scenario: &str, method: &str) -> String {
    format!(
        "reconnecting = asyncio.Event()
         reconnected = asyncio.Event()
         room.once('reconnecting', lambda *_: reconnecting.set())
         room.once('reconnected', lambda *_: reconnected.set())
         kind = rtc.SimulateScenarioKind
         simulation = asyncio.create_task(room.simulate_scenario(kind.SIMULATE_{scenario}))
         await asyncio.wait_for(reconnecting.wait(), 30)
         for publication in room.local_participant.track_publications.values():
             if publication.source == rtc.TrackSource.SOURCE_CAMERA:
                 publication.track.{method}()
         await asyncio.wait_for(reconnected.wait(), 30)
         await simulation"
    )
}

#[test]
fn who_only_watches_resumes_and_may_publish_later() -> Result<()> {
    DevServer::run(PORT + 3, |server| {
        for single in [true, false] {
            let network = Network::here();
            let room = format!("watching {single}");
            let anna = PythonClient::start(&network, Person::anna())?;
            let bob = PythonClient::start(&network, Person::bob())?;
            let access = &server.access;
            anna.join(&access.url, &access.token("anna", &room)?)?;
            let options = json!({
                "url": access.url,
                "token": access.token("bob", &room)?,
                "singlePeerConnection": single,
            });
            bob.call("join", options)?;
            await_media(&bob, &[anna.person()], MEDIA_TIMEOUT)?;
            for _ in 0..2 {
                bob.evaluate(&change_while("SIGNAL_RECONNECT", "mute"))?;
                await_media(&bob, &[anna.person()], MEDIA_TIMEOUT)?;
            }
            let (colour, hertz) = (bob.person().colour, bob.person().tone_hz);
            bob.evaluate(&format!(
                "await client.publish_colour('{colour}')
                 await client.publish_tone({hertz})"
            ))?;
            await_media(&anna, &[bob.person()], MEDIA_TIMEOUT)?;
        }
        Ok(())
    })
}

#[test]
fn who_subscribes_again_at_once_gets_the_track_again() -> Result<()> {
    DevServer::run(PORT + 4, |server| {
        let (anna, bob) = pair(server, "again")?;
        for _ in 0..3 {
            let before = anna.report()?.count("trackSubscribed");
            anna.evaluate(
                "remotes = room.remote_participants.values()
                 for remote in remotes:
                     for publication in remote.track_publications.values():
                         client.subscribe_again(publication)",
            )?;
            eventually("anna subscribed to both tracks again", MEDIA_TIMEOUT, || {
                let subscribed = anna.report()?.count("trackSubscribed") - before;
                ensure!(subscribed >= 2, "to {subscribed}");
                Ok(())
            })?;
            await_media(&anna, &[bob.person()], MEDIA_TIMEOUT)?;
        }
        Ok(())
    })
}

/// Two clients that see and hear each other.
fn pair(server: &DevServer, room: &str) -> Result<(PythonClient, PythonClient)> {
    let network = Network::here();
    let anna = PythonClient::start(&network, Person::anna())?;
    let bob = PythonClient::start(&network, Person::bob())?;
    for client in [&anna, &bob] {
        let token = server.access.token(&client.person().identity, room)?;
        client.join(&server.access.url, &token)?;
    }
    await_everybody_meets(&[&anna, &bob], MEDIA_TIMEOUT)?;
    Ok((anna, bob))
}
