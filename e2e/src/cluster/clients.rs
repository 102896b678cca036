//! Runs clients where clients are: in a network from which the ingress and the media ports of
//! the nodes are reached, with the test's domains in their hosts file.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result};

use super::Cluster;
use super::choice::Kind;
use crate::process::is_root;

/// Puts the hosts file in place for one process tree, then becomes the program.
const WITH_HOSTS: &str = "mount --bind \"$0\" /etc/hosts && exec \"$@\"";

/// A domain and the address that clients must find under it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostMapping {
    /// Domain of a LiveCluster.
    pub domain: String,
    /// Address of the ingress.
    pub address: String,
}

impl HostMapping {
    /// Returns the rule in the form of Chromium's `--host-resolver-rules`.
    #[must_use]
    pub fn chromium_rule(&self) -> String {
        format!("MAP {} {}", self.domain, self.address)
    }
}

impl Cluster {
    /// Returns the mapping that lets a client open this domain.
    #[must_use]
    pub fn host_mapping(&self, domain: &str) -> HostMapping {
        HostMapping { domain: domain.to_owned(), address: self.ingress_address().to_owned() }
    }

    /// Returns the words that go before a command to run it in the clients' network; none
    /// where that is the machine's own.
    #[must_use]
    pub fn client_prefix(&self) -> Vec<String> {
        match (self.state.kind, &self.state.engine) {
            (Kind::Bare, Some(engine)) => {
                vec!["nsenter".to_owned(), format!("--net=/proc/{}/ns/net", engine.pid)]
            }
            (Kind::Bare | Kind::Kind | Kind::Existing, _) => Vec::new(),
        }
    }

    /// Starts a command in the clients' network.
    #[must_use]
    pub fn client_command(&self, program: &str) -> Command {
        let prefix = self.client_prefix();
        let mut words = prefix.iter().map(String::as_str).chain([program]);
        let mut command = Command::new(words.next().unwrap_or(program));
        command.args(words);
        command
    }

    /// Starts a command in the clients' network that also finds these domains.
    ///
    /// The hosts file is its own: that of the machine is not touched. Needs Linux.
    pub fn client_command_with_hosts(
        &self,
        program: &str,
        mappings: &[HostMapping],
    ) -> Result<Command> {
        let file = self.hosts_file(mappings)?;
        let mut command = self.client_command("unshare");
        if !is_root() {
            command.args(["--user", "--map-root-user"]);
        }
        command.args(["--mount", "sh", "-c", WITH_HOSTS]).arg(file).arg(program);
        Ok(command)
    }

    fn hosts_file(&self, mappings: &[HostMapping]) -> Result<PathBuf> {
        let text = hosts_text(mappings);
        let name = crate::artifact_cache::InputHash::new().with(&text).finish();
        let directory = super::state::directory(&self.state.name)?.join("hosts");
        fs::create_dir_all(&directory)?;
        let path = directory.join(name);
        fs::write(&path, text).context("writing the clients' hosts file")?;
        Ok(path)
    }
}

fn hosts_text(mappings: &[HostMapping]) -> String {
    let ours = mappings.iter().map(|map| format!("{} {}\n", map.address, map.domain));
    format!("127.0.0.1 localhost\n::1 localhost\n{}", ours.collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mapping_serves_browsers_and_resolvers() {
        let map = HostMapping { domain: "a.test".into(), address: "10.0.0.2".into() };
        assert_eq!(map.chromium_rule(), "MAP a.test 10.0.0.2");
        assert_eq!(hosts_text(&[map]), "127.0.0.1 localhost\n::1 localhost\n10.0.0.2 a.test\n");
    }
}
