//! Does a node say the same as livekit-server to the same clients?
//!
//! Scripted participants play the same script against both; what they are told is compared field
//! by field. livekit-server's side is recorded, and differences that are meant to be are the table
//! in `docs/differences-from-livekit.md`, where it says how to record anew.

mod compare;
mod connection;
mod http;
mod mask;
mod pace;
mod participant;
mod reference;
mod script;
mod sdp;

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use compare::{Allowed, compare};
use e2e::dev_server::DevServer;
use e2e::repository;
use pace::Pace;
use participant::Mode;
use script::Step;

const PORT: u16 = 18_120;
/// Set to record livekit-server anew.
const RECORD_VARIABLE: &str = "LIVECLUSTER_RECORD_GOLDEN";
const PAGE: &str = "docs/differences-from-livekit.md";

#[test]
fn clients_are_told_what_livekit_tells_but_for_the_listed_differences() -> Result<()> {
    let mut found = Vec::new();
    for (mode, port) in [(Mode::Dual, PORT), (Mode::Single, PORT + 1)] {
        if std::env::var_os(RECORD_VARIABLE).is_some() {
            record(mode)?;
        }
        found.extend(differences(mode, port)?);
    }
    let allowed = allowed()?;
    let unlisted = found.iter().filter(|one| !allowed.iter().any(|row| row.allows(one)));
    let unlisted: BTreeSet<String> = unlisted.map(ToString::to_string).collect();
    let unused = allowed.iter().filter(|row| !found.iter().any(|one| row.allows(one)));
    let unused: Vec<String> = unused.map(ToString::to_string).collect();
    ensure!(
        unlisted.is_empty() && unused.is_empty(),
        "differences that {PAGE} does not list:\n{}\nlisted, but no difference:\n{}",
        unlisted.into_iter().collect::<Vec<_>>().join("\n"),
        unused.join("\n")
    );
    Ok(())
}

/// Plays against a node and compares.
fn differences(mode: Mode, port: u16) -> Result<Vec<compare::Difference>> {
    let recorded: Vec<Step> = serde_json::from_str(&fs::read_to_string(recording(mode))?)?;
    let allowed = allowed()?;
    let pace = Pace::Recording(&recorded, &allowed);
    let mut found = Vec::new();
    DevServer::run(port, |server| {
        let played = runtime()?.block_on(script::play(&server.access.url, mode, &pace))?;
        found = compare(&recorded, &mask::mask(&played));
        Ok(())
    })?;
    Ok(found)
}

/// Records livekit-server, if it says the same twice.
fn record(mode: Mode) -> Result<()> {
    let runtime = runtime()?;
    let reference = runtime.block_on(reference::Reference::start())?;
    let once = || -> Result<Vec<Step>> {
        let played = runtime.block_on(script::play(&reference.url, mode, &Pace::Silence));
        Ok(mask::mask(&played.with_context(|| reference.log())?))
    };
    let (first, second) = (once()?, once()?);
    fs::write(recording(mode), serde_json::to_string_pretty(&first)? + "\n")?;
    let chance = compare(&first, &second);
    let lines: Vec<String> = chance.iter().map(ToString::to_string).collect();
    ensure!(chance.is_empty(), "livekit-server says one thing or another:\n{}", lines.join("\n"));
    Ok(())
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?)
}

fn allowed() -> Result<Vec<Allowed>> {
    let page = fs::read_to_string(repository().join(PAGE)).context(PAGE)?;
    Allowed::read(&page)
}

fn recording(mode: Mode) -> PathBuf {
    let name = match mode {
        Mode::Dual => "two-connections.json",
        Mode::Single => "one-connection.json",
    };
    repository().join("e2e/tests/golden").join(name)
}
