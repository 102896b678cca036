//! LiveKit's Python SDK, which holds the native Rust SDK and libwebrtc, and aiortc, which is
//! another WebRTC stack: a process a participant.

use std::env;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::driver::Driver;
use super::network::Network;
use super::person::Person;
use super::{RoomClient, prepare};
use crate::artifact_cache::remove_directory;
use crate::repository;

/// A program of `clients/server` with LiveKit's server SDK and agents framework; it ends by
/// itself or with the returned child.
pub fn server_program(name: &str, arguments: &[&str]) -> Result<Command> {
    let mut command = Command::new(prepare::python("server")?);
    command.arg(repository().join("e2e/clients/server").join(name)).args(arguments);
    command.env("PYTHONDONTWRITEBYTECODE", "1");
    Ok(command)
}

/// Lets an interpreter run `clients/<name>/client.py`.
pub(super) fn client_program(interpreter: &mut Command, name: &str) {
    let clients = repository().join("e2e/clients");
    interpreter.arg(clients.join(name).join("client.py"));
    interpreter.env("PYTHONPATH", clients.join("shared"));
    // The tree stays free of compiled files.
    interpreter.env("PYTHONDONTWRITEBYTECODE", "1");
}

/// The TURN client of aioice, which comes with aiortc; it ends by itself.
pub fn aioice_program() -> Result<Command> {
    let mut command = Command::new(prepare::python("aiortc")?);
    command.arg(repository().join("e2e/clients/aiortc/relay.py"));
    command.env("PYTHONDONTWRITEBYTECODE", "1");
    Ok(command)
}

/// A participant with the Python SDK or with aiortc.
pub struct PythonClient {
    driver: Driver,
    person: Person,
    /// Holds the client's `/etc/hosts`.
    directory: PathBuf,
}

impl PythonClient {
    /// Starts a client with the Python SDK in the clients' network.
    pub fn start(network: &Network, person: Person) -> Result<Self> {
        Self::start_program(network, person, "python")
    }

    /// Starts a client with aiortc; it can join, report and leave.
    pub fn start_aiortc(network: &Network, person: Person) -> Result<Self> {
        Self::start_program(network, person, "aiortc")
    }

    fn start_program(network: &Network, person: Person, name: &str) -> Result<Self> {
        let directory = format!("livecluster-{}-{}", person.identity, std::process::id());
        let directory = env::temp_dir().join(directory);
        fs::create_dir_all(&directory).context("making the Python client's directory")?;
        let mut command = network.command_with_hosts(prepare::python(name)?, &directory)?;
        client_program(&mut command, name);
        let driver = Driver::start("the Python client", command)?;
        Ok(Self { driver, person, directory })
    }

    /// Runs the body of an asynchronous Python function and returns what it returns. Besides
    /// `room`, `rtc` and what else `evaluate` of `clients/python/client.py` names, it has `kept`,
    /// a dictionary that outlives it.
    pub fn evaluate(&self, body: &str) -> Result<Value> {
        self.call("evaluate", json!({ "body": body }))
    }
}

impl RoomClient for PythonClient {
    fn call(&self, command: &str, options: Value) -> Result<Value> {
        self.driver.call(command, options)
    }

    fn person(&self) -> &Person {
        &self.person
    }

    fn log(&self) -> Vec<String> {
        self.driver.log()
    }
}

impl Drop for PythonClient {
    fn drop(&mut self) {
        // What stays in the system's directory for temporary files harms nobody.
        let _ = remove_directory(&self.directory);
    }
}
