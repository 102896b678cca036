//! Do pictures and sound go on when the network loses packets?

use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::clients::{
    Browser, MEDIA_TIMEOUT, Network, Person, PythonClient, RoomClient, await_everybody_meets,
    longest_freeze,
};
use e2e::live_cluster::LiveCluster;
use e2e::process::Run as _;
use e2e::stage::say;

/// First media port of this test's LiveCluster, and the last of its range.
const PORTS: (u16, u16) = (25_000, 25_099);
/// Share of datagrams that are lost, each way.
const LOSS: &str = "0.05";
/// How long pictures are watched.
const WATCHED: Duration = Duration::from_secs(20);
/// Longest time without a new picture. A look at the client takes a part of it.
const LONGEST_FREEZE: Duration = Duration::from_millis(1200);

#[test]
fn five_percent_loss_freezes_nobody_for_long() -> Result<()> {
    LiveCluster::run("loss", 1, PORTS.0, nobody_freezes)
}

fn nobody_freezes(live_cluster: &LiveCluster) -> Result<()> {
    let (access, network) = (live_cluster.access()?, live_cluster.network()?);
    if network.enter.is_empty() {
        say("clients share the machine's network here: no packet of it is dropped");
        return Ok(());
    }
    let browser = Browser::start(&network)?;
    let anna = browser.open(Person::anna())?;
    let bob = browser.open(Person::bob())?;
    let clara = PythonClient::start(&network, Person::clara())?;
    let clients: [&dyn RoomClient; 3] = [&anna, &bob, &clara];
    let _lossy = LossyNetwork::begin(&network)?;
    for (client, name) in clients.iter().zip(["anna", "bob", "clara"]) {
        client.join(&access.url, &access.token(name, "lossy")?)?;
    }
    await_everybody_meets(&clients, MEDIA_TIMEOUT)?;
    for (client, others) in
        [(&bob as &dyn RoomClient, ["anna", "clara"]), (&clara, ["anna", "bob"])]
    {
        let name = client.report()?.identity;
        let (of, freeze) = longest_freeze(client, &others, WATCHED)?;
        let millis = freeze.as_millis();
        ensure!(freeze < LONGEST_FREEZE, "{name} had no new picture of {of} for {millis} ms");
    }
    let mut retransmitted = 0.0;
    for pod in live_cluster.pods()? {
        retransmitted += live_cluster.metric(&pod.name, contract::metrics::RETRANSMITTED, "")?;
    }
    ensure!(retransmitted > 0.0, "nothing was sent again: was anything lost?");
    Ok(())
}

/// Media loses packets in the clients' network as long as this lives.
struct LossyNetwork(Network);

impl LossyNetwork {
    fn begin(network: &Network) -> Result<Self> {
        let lossy = Self(network.clone());
        lossy.rules("-I")?;
        Ok(lossy)
    }

    /// Adds or deletes the rules: only datagrams of this test's media ports.
    fn rules(&self, action: &str) -> Result<()> {
        let ports = format!("{}:{}", PORTS.0, PORTS.1);
        for (chain, side) in [("INPUT", "--sport"), ("OUTPUT", "--dport")] {
            let mut command = self.0.command("iptables");
            command.args([action, chain, "-p", "udp", side, &ports, "-m", "statistic"]);
            command.args(["--mode", "random", "--probability", LOSS, "-j", "DROP"]).read()?;
        }
        Ok(())
    }
}

impl Drop for LossyNetwork {
    fn drop(&mut self) {
        if let Err(error) = self.rules("-D") {
            say(&format!("the rules that drop packets stay: {error:#}"));
        }
    }
}
