//! Clients behind a firewall: a network namespace of one test, from which everything is reached
//! that clients reach, but for the ports that the test blocks. Linux, as root.

use anyhow::{Result, ensure};
use contract::sfu_config::MediaConfig;

use crate::clients::Network;
use crate::private_network::Namespace;
use crate::process::{Run as _, is_root};
use crate::stage::say;

/// The firewall's end of the link, outside. Away from kind's ranges and those of clusters.
const OUTSIDE: &str = "10.189.0.1";
/// The clients' end.
const INSIDE: &str = "10.189.0.2";
const PREFIX: &str = "10.189.0.0/30";
/// Name of the link's end outside.
const OUTER_LINK: &str = "firewall";
/// Name of its end inside.
const INNER_LINK: &str = "wire";

/// A network behind a firewall; it ends with this value.
pub struct Firewall {
    outside: Network,
    /// Ends the link with itself.
    inside: Namespace,
}

impl Firewall {
    /// Puts a firewall in front of the clients' network; nothing is blocked yet.
    pub fn start(outside: &Network) -> Result<Self> {
        ensure!(is_root(), "a firewall before the clients' network takes root");
        let mut inside = Namespace::start(outside)?;
        inside.network.hosts.clone_from(&outside.hosts);
        let pid = inside.id().to_string();
        let firewall = Self { outside: outside.clone(), inside };
        firewall.outer(&format!(
            "ip link add {OUTER_LINK} type veth peer name {INNER_LINK} netns {pid}"
        ))?;
        firewall.outer(&format!("ip address add {OUTSIDE}/30 dev {OUTER_LINK}"))?;
        firewall.outer(&format!("ip link set {OUTER_LINK} up"))?;
        firewall.inner(&format!("ip address add {INSIDE}/30 dev {INNER_LINK}"))?;
        firewall.inner(&format!("ip link set {INNER_LINK} up"))?;
        firewall.inner("ip link set lo up")?;
        firewall.inner(&format!("ip route add default via {OUTSIDE}"))?;
        // Nobody outside answers the machine's resolver: who asks it, as browsers do for the name of a
        // relay whose address they were given, must not wait for that.
        for protocol in ["udp", "tcp"] {
            firewall.inner(&format!("iptables -A OUTPUT -p {protocol} --dport 53 -j REJECT"))?;
        }
        firewall.forwarding("-I")?;
        Ok(firewall)
    }

    /// Where the clients are.
    #[must_use]
    pub fn network(&self) -> &Network {
        &self.inside.network
    }

    /// Drops what goes to the media ports of the first `slots` media nodes, UDP and TCP.
    pub fn block_media(&self, media: &MediaConfig, slots: u16) -> Result<()> {
        for slot in 0..slots {
            let datagrams = (0..media.workers).filter_map(|worker| media.udp_port(slot, worker));
            let ports = datagrams.map(|port| ("udp", port));
            for (protocol, port) in ports.chain(media.tcp_port(slot).map(|port| ("tcp", port))) {
                self.inner(&format!("iptables -A OUTPUT -p {protocol} --dport {port} -j DROP"))?;
            }
        }
        Ok(())
    }

    /// How many packets were dropped.
    pub fn dropped(&self) -> Result<u64> {
        let mut list = self.network().command("iptables");
        let rules = list.args(["-nvxL", "OUTPUT"]).read()?;
        let drops = rules.lines().filter(|line| line.contains("DROP"));
        let packets = drops.filter_map(|line| line.split_whitespace().next()?.parse::<u64>().ok());
        Ok(packets.sum())
    }

    /// The engine's own rules drop what they do not know.
    fn forwarding(&self, action: &str) -> Result<()> {
        for side in ["-s", "-d"] {
            self.outer(&format!("iptables {action} FORWARD {side} {PREFIX} -j ACCEPT"))?;
        }
        Ok(())
    }

    fn outer(&self, words: &str) -> Result<()> {
        run(&self.outside, words)
    }

    fn inner(&self, words: &str) -> Result<()> {
        run(&self.inside.network, words)
    }
}

fn run(network: &Network, words: &str) -> Result<()> {
    let mut words = words.split(' ');
    network.command(words.next().unwrap_or_default()).args(words).run()
}

impl Drop for Firewall {
    fn drop(&mut self) {
        if let Err(error) = self.forwarding("-D") {
            say(&format!("rules of the firewall stay: {error:#}"));
        }
    }
}
