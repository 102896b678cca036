//! Do WebRTC stacks of every kind go on through a network that loses packets?

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use e2e::clients::{
    Browser, MEDIA_TIMEOUT, Person, PythonClient, RoomClient, await_everybody_meets, longest_freeze,
};
use e2e::dev_server::DevServer;
use e2e::private_network::{PrivateNetwork, SERVER};
use e2e::process::Run as _;
use e2e::tools::{LOAD_TESTER, Toolchain};
use e2e::wait::eventually;
use serde_json::json;

const PORT: u16 = 18_160;
/// Share of datagrams that are lost, each way.
const LOSS: f64 = 0.05;
/// Participants with pion.
const SUBSCRIBERS: usize = 8;
/// Audio and video of two publishers.
const TRACKS: usize = 4;
/// How often aiortc must decode so many further pictures: more than between two key frames.
const ROUNDS: usize = 4;
const PICTURES: u64 = 100;
const PATIENCE: Duration = Duration::from_secs(120);
/// How long pictures are watched.
const WATCHED: Duration = Duration::from_secs(10);
/// Most such whiles: a machine without time for the clients stops pictures too, now and then.
const WATCHES: usize = 3;
/// Longest time without a new picture, with a look at the client.
const LONGEST_FREEZE: Duration = Duration::from_millis(1200);

#[test]
fn browsers_and_the_native_stack_see_each_other_without_a_long_freeze() -> Result<()> {
    let network = PrivateNetwork::start()?;
    DevServer::run_at(network.server(), SERVER, PORT, |server| {
        let browser = Browser::start(network.clients())?;
        let (anna, dora) = (browser.open(Person::anna())?, browser.open(Person::dora())?);
        let bob = PythonClient::start(network.clients(), Person::bob())?;
        let clients: [&dyn RoomClient; 3] = [&anna, &dora, &bob];
        let fault = network.loss(LOSS)?;
        for client in clients {
            let name = &client.person().identity;
            let options = json!({ "singlePeerConnection": name != "dora" });
            client.join_with(&server.access.url, &server.access.token(name, "loss")?, options)?;
        }
        await_everybody_meets(&clients, MEDIA_TIMEOUT)?;
        for client in clients {
            let name = &client.person().identity;
            let others: Vec<&str> = clients
                .iter()
                .map(|other| other.person().identity.as_str())
                .filter(|other| other != name)
                .collect();
            watch(client, &others)?;
        }
        ensure!(fault.lost()? > 100, "{} packets were lost", fault.lost()?);
        Ok(())
    })
}

/// Watches the others' pictures until there was no long freeze for a while.
fn watch(client: &dyn RoomClient, others: &[&str]) -> Result<()> {
    let mut freezes = Vec::new();
    for _ in 0..WATCHES {
        let (of, freeze) = longest_freeze(client, others, WATCHED)?;
        if freeze < LONGEST_FREEZE {
            return Ok(());
        }
        freezes.push((of, freeze));
    }
    bail!("{} had no new pictures of others: {freezes:?}", client.person().identity)
}

#[test]
fn aiortc_which_asks_once_for_what_it_misses_goes_on() -> Result<()> {
    let network = PrivateNetwork::start()?;
    DevServer::run_at(network.server(), SERVER, PORT + 2, |server| {
        // The browser is beside the server: only aiortc's network loses packets.
        let browser = Browser::start(network.server())?;
        let anna = browser.open(Person::anna())?;
        let bob = PythonClient::start_aiortc(network.clients(), Person::bob())?;
        for client in [&anna as &dyn RoomClient, &bob] {
            let token = server.access.token(&client.person().identity, "aiortc")?;
            client.join(&server.access.url, &token)?;
        }
        await_everybody_meets(&[&anna, &bob], MEDIA_TIMEOUT)?;
        let fault = network.loss(LOSS)?;
        // A packet that it asked for in vain stops its decoder until the next key frame; it must
        // not stay stopped.
        for _ in 0..ROUNDS {
            let before = pictures(&bob, "anna")?;
            eventually("aiortc decodes further pictures", PATIENCE, || {
                let decoded = pictures(&bob, "anna")? - before;
                ensure!(decoded >= PICTURES, "{decoded} pictures");
                Ok(())
            })?;
        }
        await_everybody_meets(&[&anna, &bob], MEDIA_TIMEOUT)?;
        ensure!(fault.lost()? > 100, "{} packets were lost", fault.lost()?);
        Ok(())
    })
}

/// Pictures of another participant that a client has decoded.
fn pictures(client: &dyn RoomClient, identity: &str) -> Result<u64> {
    let report = client.report()?;
    let track = report.participant(identity).and_then(|other| other.track("camera"));
    let track = track.with_context(|| format!("the camera of {identity} is gone"))?;
    Ok(track.frames_decoded)
}

#[test]
fn subscribers_with_pion_receive_every_track() -> Result<()> {
    let program = LOAD_TESTER.build(&Toolchain::find()?)?.join(LOAD_TESTER.name);
    let network = PrivateNetwork::start()?;
    DevServer::run_at(network.server(), SERVER, PORT + 1, |server| {
        let browser = Browser::start(network.server())?;
        let (anna, bob) = (browser.open(Person::anna())?, browser.open(Person::bob())?);
        for tab in [&anna, &bob] {
            let token = server.access.token(&tab.person().identity, "pion")?;
            // The load tester looks into packets as those of H.264.
            tab.join_with(&server.access.url, &token, json!({ "videoCodec": "h264" }))?;
        }
        await_everybody_meets(&[&anna, &bob], MEDIA_TIMEOUT)?;
        let fault = network.loss(LOSS)?;
        let output = network
            .clients()
            .command(&program)
            .args(["--url", &server.access.url.replacen("http", "ws", 1)])
            .args(["--api-key", "devkey", "--api-secret", "secret", "--room", "pion"])
            .args(["--subscribers", &SUBSCRIBERS.to_string(), "--duration", "10s"])
            .read()?;
        ensure!(fault.lost()? > 100, "{} packets were lost", fault.lost()?);
        check(&output).with_context(|| format!("the load tester wrote:\n{output}"))
    })
}

/// Checks the load tester's table of tracks: subscriber, sid, kind, packets, bitrate, loss.
fn check(output: &str) -> Result<()> {
    let mut packets: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
    for line in output.lines() {
        let cells: Vec<&str> = line.split('│').map(str::trim).collect();
        if let [_, _, sid, "audio" | "video", count, ..] = cells[..] {
            packets.entry(sid).or_default().push(count.parse().context("packets")?);
        }
    }
    ensure!(packets.len() == TRACKS, "{} tracks", packets.len());
    for (sid, counts) in packets {
        let (least, most) = (counts.iter().min(), counts.iter().max());
        let (Some(least), Some(most)) = (least, most) else { continue };
        ensure!(counts.len() == SUBSCRIBERS, "{sid} reached {} subscribers", counts.len());
        // Lost sound is not sent again, and the last subscriber begins seconds after the first.
        ensure!(*least > 0 && least * 2 >= *most, "{sid}: {counts:?} packets");
    }
    Ok(())
}
