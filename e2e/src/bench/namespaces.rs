//! Two network namespaces joined by a veth pair: the server's and the load's.

use std::net::Ipv4Addr;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::artifact_cache::{self, Lock};
use crate::process::Run as _;

/// Open files of a program: a socket or two for each client.
const OPEN_FILES: &str = "20000";

/// Network of clients of which there are many: all its addresses are the load's.
pub const STRANGERS: Ipv4Addr = Ipv4Addr::new(10, 78, 0, 0);

/// One of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Where the server runs.
    Server,
    /// Where the clients run.
    Load,
}

impl Side {
    const BOTH: [Self; 2] = [Self::Server, Self::Load];

    fn namespace(self) -> &'static str {
        match self {
            Self::Server => "livecluster-bench-server",
            Self::Load => "livecluster-bench-load",
        }
    }

    fn link(self) -> &'static str {
        match self {
            Self::Server => "lcbench0",
            Self::Load => "lcbench1",
        }
    }

    /// Its address.
    pub fn address(self) -> Ipv4Addr {
        match self {
            Self::Server => Ipv4Addr::new(10, 77, 0, 1),
            Self::Load => Ipv4Addr::new(10, 77, 0, 2),
        }
    }
}

/// The namespaces, for as long as this lives. There is one pair on a machine at a
/// time, so that two benchmarks wait for each other.
pub struct Namespaces {
    _lock: Lock,
}

impl Namespaces {
    /// Makes them; what a run that was killed left behind goes first.
    pub fn create() -> Result<Self> {
        let lock = artifact_cache::lock(&artifact_cache::state_directory()?, "bench")?;
        remove();
        let namespaces = Self { _lock: lock };
        for side in Side::BOTH {
            ip(&["netns", "add", side.namespace()])
                .context("making a network namespace: the benchmark runs as root")?;
        }
        let [server, load] = Side::BOTH;
        ip(&[
            "-n",
            server.namespace(),
            "link",
            "add",
            server.link(),
            "type",
            "veth",
            "peer",
            "name",
            load.link(),
            "netns",
            load.namespace(),
        ])?;
        for side in Side::BOTH {
            let (namespace, link) = (side.namespace(), side.link());
            let address = format!("{}/24", side.address());
            ip(&["-n", namespace, "address", "add", &address, "dev", link])?;
            ip(&["-n", namespace, "link", "set", link, "up"])?;
            ip(&["-n", namespace, "link", "set", "lo", "up"])?;
        }
        let strangers = format!("{STRANGERS}/16");
        let way = load.address().to_string();
        ip(&["-n", load.namespace(), "route", "add", "local", &strangers, "dev", "lo"])?;
        ip(&["-n", server.namespace(), "route", "add", &strangers, "via", &way])?;
        Ok(namespaces)
    }

    /// A command in a namespace that ends when this program ends. The namespaces exist while `self`
    /// does.
    pub fn command(&self, side: Side, program: &std::path::Path) -> Command {
        let mut command = Command::new("ip");
        let files = format!("--nofile={OPEN_FILES}");
        command
            .args(["netns", "exec", side.namespace(), "prlimit", &files])
            .args(["setpriv", "--pdeathsig", "KILL"])
            .arg(program);
        command
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        remove();
    }
}

/// Ends what runs in the namespaces, which are only ever ours, and removes them.
fn remove() {
    for side in Side::BOTH {
        let Ok(pids) = Command::new("ip").args(["netns", "pids", side.namespace()]).read() else {
            continue;
        };
        for pid in pids.split_ascii_whitespace() {
            let _ended = Command::new("kill").args(["-KILL", pid]).succeeds();
        }
        // The veth pair goes with its namespace.
        let _removed = ip(&["netns", "delete", side.namespace()]);
    }
}

fn ip(arguments: &[&str]) -> Result<()> {
    Command::new("ip").args(arguments).run()
}
