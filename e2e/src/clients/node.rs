//! Programs with LiveKit's packages for JavaScript.

use std::process::Command;

use anyhow::Result;

use super::prepare;
use crate::process::Run as _;

/// A program of `clients/server-node`; it ends by itself or with the returned child.
pub fn server_program(name: &str, arguments: &[&str]) -> Result<Command> {
    let mut command = Command::new("node");
    command.arg(prepare::node_programs("server-node")?.join(name)).args(arguments);
    Ok(command)
}

/// What a script prints that may import the packages of the browser client.
pub fn evaluate(script: &str) -> Result<String> {
    let mut command = Command::new("node");
    command.current_dir(prepare::browser_client()?);
    command.args(["--input-type=module", "--eval", script]).read()
}
