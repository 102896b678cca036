//! Chromium with livekit-client: one browser, a tab a participant.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::driver::Driver;
use super::network::Network;
use super::person::Person;
use super::{RoomClient, prepare};

/// A headless browser; its tabs keep it alive.
pub struct Browser {
    driver: Arc<Driver>,
}

impl Browser {
    /// Starts a browser in the clients' network.
    pub fn start(network: &Network) -> Result<Self> {
        Self::start_trusting(network, &[])
    }

    /// Starts a browser that takes certificates with these public keys, whoever issued them: each
    /// is the SHA-256 hash of a SubjectPublicKeyInfo, in base64.
    pub fn start_trusting(network: &Network, keys: &[String]) -> Result<Self> {
        let driver = start_driver(network)?;
        let executable = prepare::chromium()?;
        let options =
            json!({ "executable": executable, "hosts": network.hosts, "trustedKeys": keys });
        driver.call("launch", options)?;
        Ok(Self { driver: Arc::new(driver) })
    }

    /// Opens a tab for a participant.
    pub fn open(&self, person: Person) -> Result<Tab> {
        let tab = Tab { driver: Arc::clone(&self.driver), person };
        tab.call("open", json!({}))?;
        Ok(tab)
    }

    /// Opens a tab at an address, in the name of a person.
    pub fn open_at(&self, person: Person, url: &str) -> Result<Tab> {
        let tab = Tab { driver: Arc::clone(&self.driver), person };
        tab.call("open", json!({ "url": url }))?;
        Ok(tab)
    }
}

/// A tab of a browser: a client of a room, or any page.
pub struct Tab {
    driver: Arc<Driver>,
    person: Person,
}

impl Tab {
    /// Types into a field.
    pub fn fill(&self, selector: &str, value: &str) -> Result<()> {
        self.call("fill", json!({ "selector": selector, "value": value })).map(drop)
    }

    /// Clicks on an element.
    pub fn click(&self, selector: &str) -> Result<()> {
        self.call("click", json!({ "selector": selector })).map(drop)
    }

    /// Returns the value of a JavaScript expression.
    pub fn evaluate(&self, expression: &str) -> Result<Value> {
        self.call("evaluate", json!({ "expression": expression }))
    }

    /// The selected path of each peer connection that is up, such as `relay tls`.
    pub fn paths(&self) -> Result<Vec<String>> {
        let paths = self.evaluate("window.client.paths()")?;
        serde_json::from_value(paths).context("unexpected form of paths")
    }

    /// Mutes or unmutes what this tab publishes from a source.
    pub fn set_muted(&self, source: &str, muted: bool) -> Result<()> {
        self.call("setMuted", json!({ "source": source, "muted": muted })).map(drop)
    }

    /// Writes a picture of the page as PNG.
    pub fn screenshot(&self, path: &Path) -> Result<()> {
        self.call("screenshot", json!({ "path": path })).map(drop)
    }

    /// Closes the tab without a word to the server.
    pub fn close(self) -> Result<()> {
        self.call("close", json!({})).map(drop)
    }
}

impl RoomClient for Tab {
    fn call(&self, command: &str, mut options: Value) -> Result<Value> {
        if let Value::Object(options) = &mut options {
            options.insert("page".to_owned(), json!(self.person.identity));
        }
        self.driver.call(command, options)
    }

    fn person(&self) -> &Person {
        &self.person
    }

    fn log(&self) -> Vec<String> {
        let console = self.call("log", json!({}));
        console.ok().and_then(|log| serde_json::from_value(log).ok()).unwrap_or_default()
    }
}

/// Starts the driver without a browser.
pub(super) fn start_driver(network: &Network) -> Result<Driver> {
    let mut command = network.command("node");
    command.arg(prepare::browser_client()?.join("dist/driver.mjs"));
    Driver::start("the browser driver", command)
}
