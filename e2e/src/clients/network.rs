//! Where clients run: in the network from which the cluster is reached, with addresses for
//! host names that no resolver knows.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::process::is_root;

/// The network of the clients.
#[derive(Debug, Clone, Default)]
pub struct Network {
    /// Program and arguments that run another program in the clients' network; empty is here.
    pub enter: Vec<String>,
    /// Addresses of host names.
    pub hosts: BTreeMap<String, IpAddr>,
}

impl Network {
    /// This machine with its own resolver.
    #[must_use]
    pub fn here() -> Self {
        Self::default()
    }

    /// The same network, where `name` is found at `address`.
    #[must_use]
    pub fn with_host(mut self, name: &str, address: IpAddr) -> Self {
        self.hosts.insert(name.to_owned(), address);
        self
    }

    /// A program in this network; it resolves names as the machine does.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let Some((enter, arguments)) = self.enter.split_first() else {
            return Command::new(program);
        };
        let mut command = Command::new(enter);
        command.args(arguments).arg(program);
        command
    }

    /// A program in this network that finds [`Self::hosts`] in a `/etc/hosts` of its own, which is
    /// written into `directory`. Linux only: it takes a mount namespace.
    pub fn command_with_hosts(
        &self,
        program: impl AsRef<OsStr>,
        directory: &Path,
    ) -> Result<Command> {
        if self.hosts.is_empty() {
            return Ok(self.command(program));
        }
        let file = directory.join("hosts");
        fs::write(&file, self.hosts_file()).context("writing a hosts file")?;
        let mut command = self.command("unshare");
        if !is_root() {
            command.args(["--user", "--map-root-user"]);
        }
        command
            .args(["--mount", "sh", "-c", r#"mount --bind "$0" /etc/hosts && exec "$@""#])
            .arg(file)
            .arg(program);
        Ok(command)
    }

    fn hosts_file(&self) -> String {
        let own = "127.0.0.1 localhost\n::1 localhost\n".to_owned();
        self.hosts.iter().fold(own, |file, (name, address)| file + &format!("{address} {name}\n"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::Run as _;

    #[test]
    fn hosts_are_added_to_the_machine_itself() {
        let network = Network::here().with_host("a.example.com", [10, 0, 0, 1].into());
        assert!(network.hosts_file().ends_with("::1 localhost\n10.0.0.1 a.example.com\n"));
    }

    #[test]
    fn programs_are_run_by_the_program_that_enters_the_network() {
        let network = Network { enter: vec!["env".into(), "-i".into()], ..Network::default() };
        assert_eq!(network.command("env").read().unwrap(), "");
    }
}
