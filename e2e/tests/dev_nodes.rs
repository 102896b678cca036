//! Two media nodes without Kubernetes: do rooms of one reach those of the other, wherever they move?

use std::time::Duration;

use anyhow::{Result, bail, ensure};
use e2e::clients::{
    Browser, HttpClient, MEDIA_TIMEOUT, Network, Person, RoomClient, Tab, await_media,
};
use e2e::dev_server::DevServer;
use e2e::node_pair;
use e2e::wait::eventually;
use serde_json::{Value, json};

const PORT: u16 = 18_210;
const MOVING_PORT: u16 = 18_240;
/// Time in which clients of a room that moved are back.
const RETURN_TIMEOUT: Duration = Duration::from_secs(120);
/// Rooms that are tried until one lives on the other node.
const MAX_ROOMS: usize = 40;

fn home(tab: &Tab) -> Result<Value> {
    tab.evaluate("window.client.room.serverInfo.nodeId")
}

/// Has `tab` join a room that does not live on the node `home_of_other`; gives its name.
fn join_elsewhere(tab: &Tab, server: &DevServer, home_of_other: &Value) -> Result<String> {
    let identity = &tab.person().identity;
    for number in 0..MAX_ROOMS {
        let room = format!("there {number}");
        tab.join(&server.access.url, &server.access.token(identity, &room)?)?;
        if home(tab)? != *home_of_other {
            return Ok(room);
        }
        tab.leave()?;
    }
    bail!("all rooms live on one node")
}

fn call(server: &DevServer, method: &str, destination: &str) -> Result<()> {
    let http = HttpClient::start(&Network::here())?;
    let token = server.access.mover_token("here", destination)?;
    let body = json!({ "room": "here", "identity": "anna", "destination_room": destination });
    let answer = http.post(&server.access.room_service_url(method), Some(&token), &body)?;
    ensure!(answer.status == 200, "{answer:?}");
    Ok(())
}

fn expect(tab: &Tab, expression: &str, expected: Value) -> Result<()> {
    eventually(&format!("{expression} is {expected}"), MEDIA_TIMEOUT, || {
        let found = tab.evaluate(expression)?;
        ensure!(found == expected, "it is {found}");
        Ok(())
    })
}

#[test]
fn a_participant_is_seen_and_heard_in_a_room_of_another_node_and_moves_there() -> Result<()> {
    node_pair::run(PORT, |first, second| {
        let browser = Browser::start(&Network::here())?;
        let (anna, clara) = (browser.open(Person::anna())?, browser.open(Person::clara())?);
        let simulcast = json!({ "simulcast": true });
        anna.join_with(&first.access.url, &first.access.token("anna", "here")?, simulcast)?;
        let there = join_elsewhere(&clara, second, &home(&anna)?)?;
        call(second, "ForwardParticipant", &there)?;
        await_media(&clara, &[&Person::anna()], MEDIA_TIMEOUT)?;
        // Layers and key frames: what clara asks for comes from the other node.
        let annas = "window.client.room.remoteParticipants.get('anna')";
        for (quality, width) in [(0, 320), (2, 640)] {
            let camera = format!("{annas}.getTrackPublication('camera')");
            clara.evaluate(&format!("({camera}.setVideoQuality({quality}), null)"))?;
            eventually("the layer arrives", MEDIA_TIMEOUT, || {
                let report = clara.report()?;
                let track = report.participant("anna").and_then(|anna| anna.track("camera"));
                let seen = track.map(|track| track.width);
                ensure!(seen == Some(width), "clara sees {seen:?}");
                Ok(())
            })?;
        }
        let microphone = "window.client.room.localParticipant.setMicrophoneEnabled";
        anna.evaluate(&format!("({microphone}(false), null)"))?;
        expect(&clara, &format!("{annas}.isMicrophoneEnabled"), json!(false))?;
        anna.evaluate(&format!("({microphone}(true), null)"))?;
        // The room's own participant takes the place of the one that is shown.
        call(first, "MoveParticipant", &there)?;
        expect(
            &anna,
            "[window.client.room.name, window.client.room.state]",
            json!([there, "connected"]),
        )?;
        // She hears clara, who was never in her first room.
        await_media(&anna, &[&Person::clara()], MEDIA_TIMEOUT)?;
        await_media(&clara, &[&Person::anna()], MEDIA_TIMEOUT)
    })
}

#[test]
fn a_forwarded_participant_is_seen_and_heard_again_wherever_either_room_moves() -> Result<()> {
    node_pair::run(MOVING_PORT, |first, second| {
        let browser = Browser::start(&Network::here())?;
        let (anna, clara) = (browser.open(Person::anna())?, browser.open(Person::clara())?);
        anna.join(&first.access.url, &first.access.token("anna", "here")?)?;
        let there = join_elsewhere(&clara, second, &home(&anna)?)?;
        call(second, "ForwardParticipant", &there)?;
        await_media(&clara, &[&Person::anna()], MEDIA_TIMEOUT)?;
        let returns = || -> Result<usize> {
            Ok(anna.report()?.count("reconnected") + clara.report()?.count("reconnected"))
        };
        // One of the two rooms moves to the node of the other, then both back.
        for (leaves, stays, rooms) in [(first, second, 1), (second, first, 2)] {
            stays.order("open")?;
            let before = returns()?;
            leaves.order("draining 50")?;
            eventually("who was in a room that moved is back", RETURN_TIMEOUT, || {
                let returns = returns()? - before;
                ensure!(returns >= rooms, "{returns} of {rooms}");
                Ok(())
            })?;
            await_media(&clara, &[&Person::anna()], MEDIA_TIMEOUT)?;
        }
        // It is the same forwarding: it follows her and ends with her.
        anna.set_muted("microphone", true)?;
        let annas = "window.client.room.remoteParticipants.get('anna')";
        expect(&clara, &format!("{annas}.isMicrophoneEnabled"), json!(false))?;
        anna.leave()?;
        expect(&clara, &format!("{annas} === undefined"), json!(true))
    })
}
