//! Do clients come back by themselves from a network that is away for a while?

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use e2e::clients::{
    Browser, MEDIA_TIMEOUT, Person, PythonClient, Report, RoomClient, await_everybody_meets,
};
use e2e::dev_server::DevServer;
use e2e::private_network::{PrivateNetwork, SERVER};
use e2e::wait::eventually;
use serde_json::json;

const PORT: u16 = 18_100;
/// Shorter than the ping timeout: nobody begins anew. TCP may send so late again that a client's
/// signalling resumes.
const SHORT: Duration = Duration::from_secs(3);
/// Longer than the ping timeout of 6 s.
const LONG: Duration = Duration::from_secs(10);

/// Two intervals in which the quality of connections is measured, and some.
const NOTICED: Duration = Duration::from_secs(12);

/// On one connection, on two, the native stack; and somebody whose network stays.
const ONE: &str = "anna";
const TWO: &str = "bob";
const NATIVE: &str = "clara";

#[test]
fn everybody_comes_back_from_a_short_and_a_long_outage() -> Result<()> {
    let network = PrivateNetwork::start()?;
    DevServer::run_at(network.server(), SERVER, PORT, |server| {
        let browser = Browser::start(network.clients())?;
        let (one, two) = (browser.open(Person::anna())?, browser.open(Person::bob())?);
        let native = PythonClient::start(network.clients(), Person::clara())?;
        let witness = PythonClient::start(network.server(), Person::dora())?;
        let clients: [&dyn RoomClient; 4] = [&one, &two, &native, &witness];
        for client in clients {
            let person = client.person();
            let token = server.access.token(&person.identity, "outage")?;
            let options = json!({ "singlePeerConnection": person.identity != TWO });
            client.join_with(&server.access.url, &token, options)?;
        }
        await_everybody_meets(&clients, MEDIA_TIMEOUT)?;

        let before = witness.report()?;
        let fault = network.outage()?;
        thread::sleep(SHORT);
        drop(fault);
        all_are_back(&clients)?;
        for name in [ONE, TWO, NATIVE] {
            let (earlier, now) = (sids(&before, name)?, sids(&witness.report()?, name)?);
            ensure!(earlier == now, "{name} had to begin anew: {earlier:?}, {now:?}");
        }

        let fault = network.outage()?;
        let begin = Instant::now();
        witness.evaluate(&mute("mute"))?;
        witness.send("news", "missed by who is away")?;
        for name in [ONE, TWO, NATIVE] {
            eventually(&format!("{name}'s connection is bad"), NOTICED, || {
                let quality = witness.evaluate(&quality(name))?;
                ensure!(quality == "QUALITY_POOR" || quality == "QUALITY_LOST", "{quality}");
                Ok(())
            })?;
        }
        thread::sleep(LONG.saturating_sub(begin.elapsed()));
        ensure!(witness.report()?.participants.len() == 3, "somebody was given up");
        drop(fault);
        for client in [&one as &dyn RoomClient, &two, &native] {
            catches_up(client, &witness, &before)?;
        }
        witness.evaluate(&mute("unmute"))?;
        all_are_back(&clients)
    })
}

/// Waits until everybody sees and hears each other one, once.
fn all_are_back(clients: &[&dyn RoomClient]) -> Result<()> {
    await_everybody_meets(clients, MEDIA_TIMEOUT)?;
    for client in clients {
        let who = &client.person().identity;
        eventually(&format!("{who} is connected to each other once"), MEDIA_TIMEOUT, || {
            let report = client.report()?;
            ensure!(report.state == "connected", "{}", report.state);
            let others = report.participants.len();
            ensure!(others + 1 == clients.len(), "it sees {others} others");
            for other in &report.participants {
                ensure!(other.tracks.len() == 2, "{} has {:?}", other.identity, other.tracks);
            }
            Ok(())
        })?;
    }
    Ok(())
}

/// Waits until a client that was away knows what the witness did meanwhile.
fn catches_up(client: &dyn RoomClient, witness: &PythonClient, before: &Report) -> Result<()> {
    let (who, name) = (&client.person().identity, &witness.person().identity);
    eventually(&format!("{who} catches up"), MEDIA_TIMEOUT, || {
        let report = client.report()?;
        ensure!(report.state == "connected", "{who} is {}", report.state);
        let track = report.participant(name).and_then(|other| other.track("microphone"));
        ensure!(track.is_some_and(|track| track.muted), "{name} is not muted: {track:?}");
        let news = report.messages.iter().filter(|message| message.topic == "news").count();
        // The native client begins anew when its first attempt to resume fails; messages are
        // kept for who resumes.
        let has_resumed = sids(before, who)? == sids(&witness.report()?, who)?;
        ensure!(has_resumed || who == NATIVE, "{who} had to begin anew");
        ensure!(news == usize::from(has_resumed), "the news came {news} times");
        Ok(())
    })
}

/// Mutes or unmutes the microphone.
fn mute(method: &str) -> String {
    format!(
        "
        for publication in room.local_participant.track_publications.values():
            if publication.source == rtc.TrackSource.SOURCE_MICROPHONE:
                publication.track.{method}()"
    )
}

/// The quality of somebody's connection.
fn quality(name: &str) -> String {
    format!("return room.remote_participants['{name}'].connection_quality.name")
}

/// Sids of a participant and of what it publishes.
fn sids(report: &Report, identity: &str) -> Result<Vec<String>> {
    let participant = report.participant(identity).context("is not there")?;
    let tracks = participant.tracks.iter().map(|track| track.sid.clone());
    let mut sids: Vec<String> = tracks.chain([participant.sid.clone()]).collect();
    sids.sort();
    Ok(sids)
}
