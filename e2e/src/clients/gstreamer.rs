//! A participant whose media go through GStreamer's webrtcbin with libnice, whose certificates
//! have RSA keys: `clients/gstreamer`.

use std::time::Duration;

use anyhow::{Context as _, Result};
use serde::Deserialize;
use serde_json::{Value, json};

use super::driver::Driver;
use super::network::Network;
use super::prepare;
use crate::repository;

/// What has arrived of a kind of media since the last reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Arrivals {
    /// Decoded pictures, or blocks of sound.
    pub count: u64,
    longest_pause_ms: u64,
}

impl Arrivals {
    /// The longest time in which nothing was decoded.
    #[must_use]
    pub fn longest_pause(&self) -> Duration {
        Duration::from_millis(self.longest_pause_ms)
    }
}

/// What has arrived of everybody's media together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Received {
    /// Sound.
    pub audio: Arrivals,
    /// Pictures.
    pub video: Arrivals,
}

/// A participant with two peer connections.
pub struct GStreamerClient {
    driver: Driver,
}

impl GStreamerClient {
    /// Starts a client in the clients' network.
    pub fn start(network: &Network) -> Result<Self> {
        let mut command = network.command(prepare::python("gstreamer")?);
        command.arg(repository().join("e2e/clients/gstreamer/client.py"));
        // The tree stays free of compiled files.
        command.env("PYTHONDONTWRITEBYTECODE", "1");
        Ok(Self { driver: Driver::start("GStreamer", command)? })
    }

    /// Joins and publishes a picture and a tone.
    pub fn join(&self, url: &str, token: &str) -> Result<()> {
        self.call("join", json!({ "url": url, "token": token }))?;
        self.call("publish", json!({})).map(drop)
    }

    /// Counts anew.
    pub fn reset(&self) -> Result<()> {
        self.call("reset", json!({})).map(drop)
    }

    /// What has arrived.
    pub fn received(&self) -> Result<Received> {
        let value = self.call("report", json!({}))?;
        serde_json::from_value(value).context("unexpected form of a report")
    }

    fn call(&self, command: &str, options: Value) -> Result<Value> {
        let result = self.driver.call(command, options);
        result.with_context(|| self.driver.log().join("\n"))
    }
}
