//! The addresses of a bare machine's cluster, and the link between its network and the
//! machine's, which exists as long as the engine's network namespace does.

use std::process::Command;

use anyhow::Result;

use super::engine::in_network;
use crate::process::Run as _;

/// Interface of the link on the engine's side; its namespace is its own.
const ENGINE_SIDE: &str = "machine";

/// The addresses of one cluster; clusters of other names get others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Addresses {
    /// Where the engine's name server listens.
    pub(super) resolver: String,
    /// Address and prefix of the engine's default bridge.
    pub(super) bridge: String,
    /// Networks of the nodes are cut out of this range.
    pub(super) nodes: String,
    /// The machine's end of the link.
    machine_end: String,
    /// The engine's end of the link.
    engine_end: String,
}

impl Addresses {
    /// Returns the addresses of the cluster of this name.
    pub(super) fn of(name: &str) -> Self {
        // 10.192–10.239: private, rarely used, and away from kind's pod and service ranges.
        let slot =
            name.bytes().fold(0_u8, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte)) % 48;
        let first = 192 + slot;
        Self {
            resolver: format!("10.{first}.1.53"),
            bridge: format!("10.{first}.0.1/24"),
            nodes: format!("10.{first}.128.0/17"),
            machine_end: format!("10.{first}.2.1"),
            engine_end: format!("10.{first}.2.2"),
        }
    }
}

/// Links the machine with the engine's network and routes the nodes' addresses through it.
pub(super) fn link(name: &str, engine_pid: u32) -> Result<()> {
    let addresses = Addresses::of(name);
    let pid = engine_pid.to_string();
    let ip = |arguments: &str| Command::new("ip").args(arguments.split(' ')).run();
    ip(&format!("link add {name} type veth peer name {ENGINE_SIDE} netns {pid}"))?;
    ip(&format!("addr add {}/30 dev {name}", addresses.machine_end))?;
    ip(&format!("link set {name} up"))?;
    let inside = |command: &str| {
        let mut words = command.split(' ');
        in_network(engine_pid, words.next().unwrap_or_default()).args(words).run()
    };
    inside(&format!("ip addr add {}/30 dev {ENGINE_SIDE}", addresses.engine_end))?;
    inside(&format!("ip link set {ENGINE_SIDE} up"))?;
    // The engine drops what it does not know; this is the chain that it leaves to its user.
    inside(&format!("iptables -I DOCKER-USER -i {ENGINE_SIDE} -j ACCEPT"))?;
    ip(&format!("route add {} via {}", addresses.nodes, addresses.engine_end))
}

/// Removes the machine's end of the link; with a dead engine it has gone by itself.
pub(super) fn unlink(name: &str) {
    let _ = Command::new("ip").args(["link", "del", name]).succeeds();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_stay_clear_of_pods_and_services() {
        for name in ["livecluster", "a", "b", "twelve-chars", "zzzz"] {
            let addresses = Addresses::of(name);
            let second: u8 = addresses.nodes.split('.').nth(1).unwrap().parse().unwrap();
            assert!((192..240).contains(&second), "{name}: {second}");
        }
        assert_ne!(Addresses::of("a"), Addresses::of("b"));
    }
}
