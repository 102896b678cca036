//! Do livekit-client's own scenarios of broken connections end with everybody connected?

use anyhow::{Result, ensure};
use e2e::clients::{
    Browser, MEDIA_TIMEOUT, Network, Person, RoomClient, Tab, await_everybody_meets, await_media,
};
use e2e::dev_server::DevServer;
use e2e::wait::eventually;
use serde_json::json;

const PORT: u16 = 17_900;

/// What a client comes back from by itself.
const SCENARIOS: [&str; 8] = [
    "signal-reconnect",
    "resume-reconnect",
    "disconnect-signal-on-resume",
    "disconnect-signal-on-resume-no-messages",
    "full-reconnect",
    "node-failure",
    "migration",
    "leave-full-reconnect",
];

#[test]
fn a_client_of_one_connection_comes_back_from_every_scenario() -> Result<()> {
    DevServer::run(PORT, |server| comes_back(server, true))
}

#[test]
fn a_client_of_two_connections_comes_back_from_every_scenario() -> Result<()> {
    DevServer::run(PORT + 1, |server| comes_back(server, false))
}

fn comes_back(server: &DevServer, single: bool) -> Result<()> {
    let room = format!("scenarios {single}");
    let browser = Browser::start(&Network::here())?;
    let (anna, bob) = (browser.open(Person::anna())?, browser.open(Person::bob())?);
    for tab in [&anna, &bob] {
        let token = server.access.token(&tab.person().identity, &room)?;
        tab.join_with(&server.access.url, &token, json!({ "singlePeerConnection": single }))?;
    }
    await_everybody_meets(&[&anna, &bob], MEDIA_TIMEOUT)?;
    for scenario in SCENARIOS {
        let before = anna.report()?.count("reconnected");
        simulate(&anna, scenario)?;
        eventually(&format!("anna is back after {scenario}"), MEDIA_TIMEOUT, || {
            let report = anna.report()?;
            ensure!(
                report.count("reconnected") > before && report.state == "connected",
                "{}: {:?}",
                report.state,
                report.events
            );
            Ok(())
        })?;
        await_media(&anna, &[bob.person()], MEDIA_TIMEOUT)?;
        await_media(&bob, &[anna.person()], MEDIA_TIMEOUT)?;
    }
    Ok(())
}

#[test]
fn who_asks_for_tcp_gets_tcp() -> Result<()> {
    DevServer::run(PORT + 2, |server| {
        let browser = Browser::start(&Network::here())?;
        let (anna, bob) = (browser.open(Person::anna())?, browser.open(Person::bob())?);
        for tab in [&anna, &bob] {
            tab.join(&server.access.url, &server.access.token(&tab.person().identity, "tcp")?)?;
        }
        await_everybody_meets(&[&anna, &bob], MEDIA_TIMEOUT)?;
        simulate(&anna, "force-tcp")?;
        eventually("anna receives over TCP", MEDIA_TIMEOUT, || {
            let report = anna.report()?;
            let track = report.participant("bob").and_then(|bob| bob.track("camera").cloned());
            ensure!(track.as_ref().is_some_and(|t| t.remote.starts_with("tcp ")), "{track:?}");
            Ok(())
        })?;
        await_media(&anna, &[bob.person()], MEDIA_TIMEOUT)
    })
}

#[test]
fn a_leave_of_the_server_is_final() -> Result<()> {
    DevServer::run(PORT + 3, |server| {
        let browser = Browser::start(&Network::here())?;
        let anna = browser.open(Person::anna())?;
        anna.join(&server.access.url, &server.access.token("anna", "left")?)?;
        simulate(&anna, "server-leave")?;
        eventually("anna is disconnected", MEDIA_TIMEOUT, || {
            let report = anna.report()?;
            ensure!(report.state == "disconnected", "{}", report.state);
            Ok(())
        })?;
        ensure!(anna.report()?.count("reconnected") == 0);
        Ok(())
    })
}

fn simulate(tab: &Tab, scenario: &str) -> Result<()> {
    tab.evaluate(&format!("window.client.room.simulateScenario('{scenario}')")).map(drop)
}
