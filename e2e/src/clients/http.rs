//! HTTP from the clients' network, by the browser driver without its browser.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use serde::Deserialize;
use serde_json::{Value, json};

use super::browser::start_driver;
use super::driver::Driver;
use super::network::Network;

/// Plain HTTP from the clients' network.
pub struct HttpClient {
    driver: Driver,
}

/// What a server answered.
#[derive(Debug, Clone, Deserialize)]
pub struct HttpAnswer {
    /// Status code.
    pub status: u16,
    /// Headers by their names in lower case.
    pub headers: BTreeMap<String, String>,
    /// The body as text.
    pub body: String,
}

impl HttpClient {
    /// Starts a client in the clients' network.
    pub fn start(network: &Network) -> Result<Self> {
        let driver = start_driver(network)?;
        driver.call("setHosts", json!({ "hosts": network.hosts }))?;
        Ok(Self { driver })
    }

    /// Asks for a resource.
    pub fn get(&self, url: &str) -> Result<HttpAnswer> {
        self.request(json!({ "method": "GET", "url": url }))
    }

    /// Puts nothing to an address that says it all.
    pub fn put(&self, url: &str) -> Result<HttpAnswer> {
        self.request(json!({ "method": "PUT", "url": url }))
    }

    /// Sends a JSON body.
    pub fn post(&self, url: &str, token: Option<&str>, body: &Value) -> Result<HttpAnswer> {
        let mut headers = json!({ "Content-Type": "application/json" });
        if let Some(token) = token {
            headers["Authorization"] = json!(format!("Bearer {token}"));
        }
        let body = body.to_string();
        self.request(json!({ "method": "POST", "url": url, "headers": headers, "body": body }))
    }

    /// Asks for a WebSocket and closes it at once; 101 is success.
    pub fn upgrade(&self, url: &str) -> Result<HttpAnswer> {
        self.request(json!({ "method": "GET", "url": url, "upgrade": true }))
    }

    /// The SHA-256 fingerprint of the certificate that a server shows, as hexadecimal digits.
    pub fn certificate(&self, name: &str, port: u16) -> Result<String> {
        let shown = self.driver.call("certificate", json!({ "name": name, "port": port }))?;
        shown.as_str().map(str::to_owned).context("a fingerprint is text")
    }

    fn request(&self, options: Value) -> Result<HttpAnswer> {
        let answer = self.driver.call("request", options)?;
        serde_json::from_value(answer).context("unexpected form of an HTTP answer")
    }
}
