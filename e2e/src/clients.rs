//! Clients of rooms: Chromium with livekit-client and LiveKit's Python SDK, each a program that
//! takes commands as JSON lines (`e2e/clients`).
//!
//! Every client publishes a colour and a tone of its own, because fake devices look and sound
//! alike: [`Person::seen_in`] checks whose media has arrived.

pub mod browser;
mod driver;
mod freeze;
pub mod gstreamer;
pub mod http;
pub mod load;
pub mod network;
pub mod node;
pub mod person;
mod prepare;
pub mod python;
pub mod report;

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

pub use browser::{Browser, Tab};
pub use freeze::longest_freeze;
pub use http::{HttpAnswer, HttpClient};
pub use load::Load;
pub use network::Network;
pub use person::Person;
pub use python::PythonClient;
pub use report::Report;

use crate::wait::eventually;

/// Time in which media must have arrived: joining, negotiation, a key frame and a second of
/// sound, with room for a machine that runs a whole cluster on two cores.
pub const MEDIA_TIMEOUT: Duration = Duration::from_secs(45);

/// A participant that a test drives.
pub trait RoomClient {
    /// Sends a command and waits for its result.
    fn call(&self, command: &str, options: Value) -> Result<Value>;

    /// Who this is.
    fn person(&self) -> &Person;

    /// What the client's program wrote for people to read.
    fn log(&self) -> Vec<String>;

    /// Joins and publishes the person's colour and tone.
    fn join(&self, url: &str, token: &str) -> Result<()> {
        self.join_with(url, token, json!({}))
    }

    /// Joins with further options of `JoinOptions` in `clients/browser/src/protocol.ts`.
    fn join_with(&self, url: &str, token: &str, options: Value) -> Result<()> {
        let person = self.person();
        let mut all = json!({
            "url": url,
            "token": token,
            "colour": person.colour.to_string(),
            "toneHz": person.tone_hz,
        });
        if let (Value::Object(all), Value::Object(options)) = (&mut all, options) {
            all.extend(options);
        }
        self.call("join", all)
            .map(drop)
            .with_context(|| format!("{} failed to join", person.identity))
    }

    /// What the client sees.
    fn report(&self) -> Result<Report> {
        let value = self.call("report", json!({}))?;
        let report = serde_json::from_value(value).context("unexpected form of a report")?;
        Ok(report)
    }

    /// The longest time without a new picture of each publisher since this was asked last, in
    /// milliseconds.
    fn gaps(&self) -> Result<BTreeMap<String, f64>> {
        let value = self.call("gaps", json!({}))?;
        serde_json::from_value(value).context("unexpected form of gaps")
    }

    /// Sends a reliable data message to everybody.
    fn send(&self, topic: &str, text: &str) -> Result<()> {
        self.call("send", json!({ "topic": topic, "text": text })).map(drop)
    }

    /// Leaves the room.
    fn leave(&self) -> Result<()> {
        self.call("leave", json!({})).map(drop)
    }
}

/// Waits until each client receives picture and sound of each other one.
pub fn await_everybody_meets(clients: &[&dyn RoomClient], timeout: Duration) -> Result<()> {
    for watcher in clients {
        let others: Vec<&Person> = clients
            .iter()
            .map(|client| client.person())
            .filter(|person| person.identity != watcher.person().identity)
            .collect();
        await_media(*watcher, &others, timeout)?;
    }
    Ok(())
}

/// Waits until `watcher` receives new pictures and sound of all of `people`.
pub fn await_media(watcher: &dyn RoomClient, people: &[&Person], timeout: Duration) -> Result<()> {
    let start = watcher.report()?;
    let name = &watcher.person().identity;
    eventually(&format!("{name} receives everybody's media"), timeout, || {
        let report = watcher.report()?;
        for person in people {
            person.seen_in(&report, &start)?;
        }
        Ok(())
    })
    .with_context(|| format!("{name} wrote:\n{}", watcher.log().join("\n")))
}
