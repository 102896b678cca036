//! Does LiveKit's server SDK for JavaScript, as npm has it, work with a node?

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Lines, Write as _};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e::clients::{
    Browser, HttpClient, MEDIA_TIMEOUT, Network, Person, RoomClient, Tab, await_everybody_meets,
    node::server_program,
};
use e2e::dev_server::DevServer;
use e2e::wait::eventually;
use serde::Deserialize;
use serde_json::json;

const PORT: u16 = 18_100;
/// `ROOM` and `OTHER_ROOM` of `clients/server-node/api.mjs`.
const ROOM: &str = "server-sdk-js";
const OTHER_ROOM: &str = "server-sdk-js-2";
/// Methods of the SDK's `RoomServiceClient` and `AgentDispatchClient`.
const METHODS: usize = 17;

/// One line of `clients/server-node/api.mjs`.
#[derive(Debug, Deserialize)]
struct Outcome {
    method: String,
    allowed: String,
    denied: String,
}

#[test]
fn every_method_works_with_its_grant_only() -> Result<()> {
    DevServer::run(PORT, |server| {
        let browser = Browser::start(&Network::here())?;
        let (anna, bob) = (browser.open(Person::anna())?, browser.open(Person::bob())?);
        for tab in [&anna, &bob] {
            tab.join(&server.access.url, &server.access.token(&tab.person().identity, ROOM)?)?;
        }
        create_room(server, OTHER_ROOM)?;
        await_everybody_meets(&[&anna, &bob], MEDIA_TIMEOUT)?;
        let microphone = microphone_of(&bob, "anna")?;

        let mut calls = Calls::start(&[&server.access.url, &microphone])?;
        let mut methods = 0;
        while let Some(Outcome { method, allowed, denied }) = calls.next()? {
            ensure!(allowed == "ok", "{method}: {allowed}");
            ensure!(denied == "unauthenticated", "{method} without its grant: {denied}");
            if method == "sendData" {
                // Before bob is moved, which ends the connection that brings it.
                eventually("bob gets the message", MEDIA_TIMEOUT, || {
                    let messages = bob.report()?.messages;
                    let got = messages.iter().any(|m| m.topic == "api" && m.text == "hello");
                    ensure!(got, "{messages:?}");
                    Ok(())
                })?;
            }
            methods += 1;
        }
        ensure!(methods == METHODS, "{methods} methods");
        // What the calls did to the participants.
        eventually("bob is moved", MEDIA_TIMEOUT, || {
            let room = bob.evaluate("window.client.room.name")?;
            ensure!(room == OTHER_ROOM, "bob is in {room}");
            Ok(())
        })?;
        eventually("anna is removed", MEDIA_TIMEOUT, || {
            let state = anna.report()?.state;
            ensure!(state == "disconnected", "anna is {state}");
            Ok(())
        })
    })
}

/// The program that calls one method after the other.
struct Calls {
    child: Child,
    outcomes: Lines<BufReader<ChildStdout>>,
}

impl Calls {
    fn start(arguments: &[&str]) -> Result<Self> {
        let mut command = server_program("api.mjs", arguments)?;
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let output = child.stdout.take().context("the child has a standard output")?;
        Ok(Self { child, outcomes: BufReader::new(output).lines() })
    }

    /// Lets it make one call; none after the last.
    fn next(&mut self) -> Result<Option<Outcome>> {
        let input = self.child.stdin.as_mut().context("the child has a standard input")?;
        // It reads no more after the last.
        let _ = input.write_all(b"\n");
        let Some(line) = self.outcomes.next() else {
            let status = self.child.wait()?;
            ensure!(status.success(), "the program ended with {status}");
            return Ok(None);
        };
        let line = line?;
        Ok(Some(serde_json::from_str(&line).with_context(|| line.clone())?))
    }
}

fn create_room(server: &DevServer, room: &str) -> Result<()> {
    let http = HttpClient::start(&Network::here())?;
    let token = server.access.admin_token(room)?;
    let url = server.access.room_service_url("CreateRoom");
    let answer = http.post(&url, Some(&token), &json!({ "name": room }))?;
    ensure!(answer.status == 200, "{answer:?}");
    Ok(())
}

fn microphone_of(watcher: &Tab, identity: &str) -> Result<String> {
    let report = watcher.report()?;
    let participant = report.participant(identity);
    let track = participant.and_then(|participant| participant.track("microphone"));
    Ok(track.with_context(|| format!("{identity} has no microphone"))?.sid.clone())
}

/// One line of `clients/server-node/webhook.mjs`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Event {
    event: String,
    id: String,
    room: String,
    participant: String,
    track: String,
    content_type: String,
    with_another_secret: String,
    with_another_body: String,
}

#[test]
fn the_webhook_receiver_verifies_every_event() -> Result<()> {
    const HOOK: &str = "hook";
    let receiver = WebhookReceiver::start()?;
    let webhook = format!("webhook:\n  urls: [http://127.0.0.1:{}]\n", receiver.port);
    DevServer::run_configured(PORT + 4, &webhook, |server| {
        let browser = Browser::start(&Network::here())?;
        let anna = browser.open(Person::anna())?;
        anna.join(&server.access.url, &server.access.token("anna", HOOK)?)?;
        anna.evaluate(
            "window.client.room.localParticipant.setMicrophoneEnabled(false).then(() =>
             window.client.room.localParticipant.unpublishTrack(
                 window.client.room.localParticipant.getTrackPublication('camera').track))
             .then(() => null)",
        )?;
        let sent = receiver.read_until("track_unpublished")?;
        anna.leave()?;
        let left = receiver.read_until("participant_left")?;
        delete_room(server, HOOK)?;
        let finished = receiver.read_until("room_finished")?;

        let events: Vec<Event> = [sent, left, finished].into_iter().flatten().collect();
        let happened: Vec<&str> = events.iter().map(|event| event.event.as_str()).collect();
        ensure!(happened[..2] == ["room_started", "participant_joined"], "{happened:?}");
        ensure!(count(&happened, "track_published") == 2, "{happened:?}");
        ensure!(count(&happened, "track_unpublished") == 2, "{happened:?}");
        let ids: BTreeSet<&str> = events.iter().map(|event| event.id.as_str()).collect();
        ensure!(ids.len() == events.len(), "ids are used twice: {events:?}");
        for event in &events {
            ensure!(event.room == HOOK, "{event:?}");
            ensure!(event.with_another_secret == "refused", "{event:?}");
            ensure!(event.with_another_body == "refused", "{event:?}");
            ensure!(event.content_type == "application/webhook+json", "{event:?}");
            let of_anna = event.event.starts_with("participant_");
            ensure!(!of_anna || event.participant == "anna", "{event:?}");
            let of_track = event.event.starts_with("track_");
            ensure!(of_track == event.track.starts_with("TR_"), "{event:?}");
        }
        Ok(())
    })
}

fn count(happened: &[&str], event: &str) -> usize {
    happened.iter().filter(|name| **name == event).count()
}

fn delete_room(server: &DevServer, room: &str) -> Result<()> {
    let http = HttpClient::start(&Network::here())?;
    let token = server.access.admin_token(room)?;
    let url = server.access.room_service_url("DeleteRoom");
    let answer = http.post(&url, Some(&token), &json!({ "room": room }))?;
    ensure!(answer.status == 200, "{answer:?}");
    Ok(())
}

/// The program that receives webhooks; ends with this value.
struct WebhookReceiver {
    child: Child,
    port: u16,
    lines: Receiver<String>,
}

impl WebhookReceiver {
    /// Time for an event to come.
    const TIMEOUT: Duration = Duration::from_secs(20);

    fn start() -> Result<Self> {
        let mut command: Command = server_program("webhook.mjs", &["devkey", "secret"])?;
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
        let output: ChildStdout = child.stdout.take().context("the child has a standard output")?;
        let (sender, lines) = channel();
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let mut receiver = Self { child, port: 0, lines };
        let line = receiver.lines.recv_timeout(Self::TIMEOUT).context("the receiver's port")?;
        let first: serde_json::Value = serde_json::from_str(&line)?;
        receiver.port = serde_json::from_value(first["port"].clone())?;
        Ok(receiver)
    }

    /// Returns the events up to this one.
    fn read_until(&self, last: &str) -> Result<Vec<Event>> {
        let mut events: Vec<Event> = Vec::new();
        while events.last().is_none_or(|event| event.event != last) {
            let line = self.lines.recv_timeout(Self::TIMEOUT);
            let line = line.with_context(|| format!("no {last} after {events:?}"))?;
            events.push(serde_json::from_str(&line).with_context(|| line.clone())?);
        }
        Ok(events)
    }
}

impl Drop for WebhookReceiver {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
