//! A network that a test may break: the server's side and the clients' side, two network
//! namespaces of this test alone, joined by a link. Linux only.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, ensure};

use crate::clients::Network;
use crate::process::{Run as _, is_root};
use crate::stage::say;

/// Address of the server's end of the link. Nothing outside sees it.
pub const SERVER: &str = "10.191.0.1";
/// Address of the clients' end.
const CLIENTS: &str = "10.191.0.2";
/// Name of either end of the link.
const LINK: &str = "wire";

/// Two network namespaces and their link; they end with it.
pub struct PrivateNetwork {
    /// Ends first, and its end of the link with it.
    clients: Namespace,
    server: Namespace,
}

impl PrivateNetwork {
    /// Makes both sides and joins them.
    pub fn start() -> Result<Self> {
        let server = Namespace::start(&Network::here())?;
        let clients = Namespace::start(&server.network)?;
        let peer = clients.child.id().to_string();
        let words = ["link", "add", LINK, "type", "veth", "peer", "name", LINK, "netns", &peer];
        server.run("ip", &words)?;
        for (side, address) in [(&server, SERVER), (&clients, CLIENTS)] {
            side.run("ip", &["address", "add", &format!("{address}/24"), "dev", LINK])?;
            side.run("ip", &["link", "set", LINK, "up"])?;
            side.run("ip", &["link", "set", "lo", "up"])?;
        }
        // Without a way out a browser believes that it is offline.
        clients.run("ip", &["route", "add", "default", "via", SERVER])?;
        server.run("ip", &["route", "add", "default", "via", CLIENTS])?;
        Ok(Self { clients, server })
    }

    /// Where the server runs, and clients that are not touched by what happens to the link.
    #[must_use]
    pub fn server(&self) -> &Network {
        &self.server.network
    }

    /// The far side of the link.
    #[must_use]
    pub fn clients(&self) -> &Network {
        &self.clients.network
    }

    /// Lets nothing pass the link as long as the result lives.
    pub fn outage(&self) -> Result<Fault<'_>> {
        Fault::begin(self, &[])
    }

    /// Loses this share of datagrams, each way, as long as the result lives.
    pub fn loss(&self, share: f64) -> Result<Fault<'_>> {
        let share = share.to_string();
        let options =
            ["-p", "udp", "-m", "statistic", "--mode", "random", "--probability", share.as_str()];
        Fault::begin(self, &options)
    }
}

/// What is wrong with the link; it is well again when this is dropped.
pub struct Fault<'a> {
    network: &'a PrivateNetwork,
    options: Vec<String>,
}

impl<'a> Fault<'a> {
    fn begin(network: &'a PrivateNetwork, options: &[&str]) -> Result<Self> {
        let options = options.iter().map(|&option| option.to_owned()).collect();
        let fault = Self { network, options };
        fault.rules("-I")?;
        Ok(fault)
    }

    /// How many packets the link has lost by this fault.
    pub fn lost(&self) -> Result<u64> {
        let mut lost = 0;
        for chain in ["INPUT", "OUTPUT"] {
            let mut list = self.network.clients.network.command("iptables");
            let rules = list.args(["-nvxL", chain]).read()?;
            let rule = rules.lines().find(|line| line.contains("DROP")).context("no rule")?;
            let packets = rule.split_whitespace().next().context("an empty line")?;
            lost += packets.parse::<u64>().with_context(|| format!("reading {rule}"))?;
        }
        Ok(lost)
    }

    fn rules(&self, action: &str) -> Result<()> {
        for (chain, side) in [("INPUT", "-i"), ("OUTPUT", "-o")] {
            let mut command = self.network.clients.network.command("iptables");
            command.args([action, chain, side, LINK]).args(&self.options);
            command.args(["-j", "DROP"]).run()?;
        }
        Ok(())
    }
}

impl Drop for Fault<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.rules("-D") {
            say(&format!("the link stays broken: {error:#}"));
        }
    }
}

/// A network namespace, held by a process that ends when its input does: with this process.
pub(crate) struct Namespace {
    child: Child,
    pub(crate) network: Network,
}

impl Namespace {
    /// Makes a namespace; `outer` says where to make it.
    pub(crate) fn start(outer: &Network) -> Result<Self> {
        // Who is not root becomes root of a user namespace, which also holds what is made in it.
        let fresh_user = outer.enter.is_empty() && !is_root();
        let mut command = outer.command("unshare");
        if fresh_user {
            command.args(["--user", "--map-root-user"]);
        }
        let mut child = command
            .args(["--net", "sh", "-c", "echo made && exec cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("starting unshare")?;
        let output = child.stdout.take().context("the child has a standard output")?;
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line).context("waiting for the namespace")?;
        let id = child.id();
        let mut enter = vec!["nsenter".to_owned(), format!("--net=/proc/{id}/ns/net")];
        if fresh_user || outer.enter.iter().any(|word| word.starts_with("--user")) {
            enter.extend([format!("--user=/proc/{id}/ns/user"), "--preserve-credentials".into()]);
        }
        let network = Network { enter, ..Network::default() };
        let namespace = Self { child, network };
        ensure!(line.trim() == "made", "no network namespace can be made");
        Ok(namespace)
    }

    /// The process that holds it.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    fn run(&self, program: &str, arguments: &[&str]) -> Result<()> {
        let mut command: Command = self.network.command(program);
        command.args(arguments).run()
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        // It reads the end of its input and ends.
        let _ = self.child.wait();
    }
}
