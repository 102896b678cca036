//! Does the load tester of LiveKit's command line find every track in a room of fifty?

use anyhow::{Context as _, Result, ensure};
use e2e::clients::{
    Browser, MEDIA_TIMEOUT, Network, Person, RoomClient, Tab, await_everybody_meets,
};
use e2e::dev_server::DevServer;
use e2e::process::Run as _;
use e2e::tools::{LOAD_TESTER, Toolchain};
use serde_json::json;

const PORT: u16 = 18_110;
const ROOM: &str = "load";
const SUBSCRIBERS: usize = 50;
/// Audio and video of two publishers.
const TRACKS: usize = 4;
/// Share of packets that may be missing: two busy cores run publishers, node and subscribers.
const LOSS_LIMIT: f64 = 0.01;

/// A row of the load tester's table "Track loading".
#[derive(Debug)]
struct TrackRow {
    kind: String,
    packets: u64,
    dropped: u64,
}

#[test]
fn fifty_subscribers_of_the_load_tester_receive_every_track() -> Result<()> {
    let program = LOAD_TESTER.build(&Toolchain::find()?)?.join(LOAD_TESTER.name);
    DevServer::run(PORT, |server| {
        let browser = Browser::start(&Network::here())?;
        let (anna, bob) = (browser.open(Person::anna())?, browser.open(Person::bob())?);
        for tab in [&anna, &bob] {
            join_with_h264(server, tab)?;
        }
        await_everybody_meets(&[&anna, &bob], MEDIA_TIMEOUT)?;
        let output = std::process::Command::new(&program)
            .args(["--url", &server.access.url.replacen("http", "ws", 1)])
            .args(["--api-key", "devkey", "--api-secret", "secret", "--room", ROOM])
            .args(["--subscribers", &SUBSCRIBERS.to_string(), "--duration", "10s"])
            .read()?;
        check(&output).with_context(|| format!("the load tester wrote:\n{output}"))
    })
}

/// The load tester looks into packets as those of H.264.
fn join_with_h264(server: &DevServer, tab: &Tab) -> Result<()> {
    let token = server.access.token(&tab.person().identity, ROOM)?;
    tab.join_with(&server.access.url, &token, json!({ "videoCodec": "h264" }))
}

fn check(output: &str) -> Result<()> {
    let rows = track_rows(output)?;
    for kind in ["audio", "video"] {
        let of_kind: Vec<&TrackRow> = rows.iter().filter(|row| row.kind == kind).collect();
        ensure!(of_kind.len() == SUBSCRIBERS * TRACKS / 2, "{} {kind} tracks", of_kind.len());
        ensure!(of_kind.iter().all(|row| row.packets > 0), "a {kind} track is silent");
    }
    let packets: u64 = rows.iter().map(|row| row.packets).sum();
    let dropped: u64 = rows.iter().map(|row| row.dropped).sum();
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52 packets")]
    let loss = dropped as f64 / (packets + dropped) as f64;
    ensure!(loss <= LOSS_LIMIT, "{dropped} of {packets} packets are lost");
    e2e::stage::say(&format!("{} tracks, {packets} packets, {dropped} lost", rows.len()));
    let mut rows = output.lines().map(|line| cells(line).collect::<Vec<_>>());
    let total = rows.find(|row| row[0] == "Total").context("no summary")?;
    ensure!(total[1].starts_with(&format!("{}/", SUBSCRIBERS * TRACKS)), "{total:?}");
    ensure!(total.last() == Some(&"0"), "there were errors: {total:?}");
    Ok(())
}

fn track_rows(output: &str) -> Result<Vec<TrackRow>> {
    let rows = output.lines().map(|line| cells(line).collect::<Vec<_>>());
    let of_tracks = rows.filter(|row| matches!(row.get(2), Some(&"audio" | &"video")));
    of_tracks
        .map(|row| {
            let [_, _, kind, packets, _, loss] = row[..] else {
                anyhow::bail!("unexpected row {row:?}")
            };
            // `12 (0.5%)`
            let dropped = loss.split_whitespace().next().context("a number of packets")?;
            Ok(TrackRow {
                kind: kind.to_owned(),
                packets: packets.parse().context("packets")?,
                dropped: dropped.parse().context("lost packets")?,
            })
        })
        .collect()
}

/// Cells of a row that is drawn with lines.
fn cells(line: &str) -> impl Iterator<Item = &str> {
    let inner = line.trim().trim_matches('│');
    inner.split('│').map(str::trim)
}
