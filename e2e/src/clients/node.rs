//! Programs with LiveKit's server SDK for JavaScript.

use std::process::Command;

use anyhow::Result;

use super::prepare;

/// A program of `clients/server-node`; it ends by itself or with the returned child.
pub fn server_program(name: &str, arguments: &[&str]) -> Result<Command> {
    let mut command = Command::new("node");
    command.arg(prepare::node_programs("server-node")?.join(name)).args(arguments);
    Ok(command)
}
