//! A pod as its Kubernetes node has it: processes that can be killed, and a network that can be
//! cut. Linux, on clusters that the tests have made.

use std::process::Command;

use anyhow::{Context as _, Result};

use crate::cluster::Cluster;
use crate::namespace::Namespace;
use crate::process::Run as _;
use crate::stage::say;

/// The label of containers with the unique id of their pod.
const POD_UID: &str = "io.kubernetes.pod.uid";

/// A pod on its node.
pub struct PodHost {
    cluster: Cluster,
    /// The Kubernetes node.
    pub node: String,
    uid: String,
}

/// What is dropped at a pod, in both directions: matches of iptables, for each the one of what comes
/// in and of what goes out.
pub type Traffic = Vec<(String, String)>;

impl PodHost {
    /// Finds a pod on its node.
    pub fn find(cluster: &Cluster, namespace: &Namespace, pod: &str) -> Result<Self> {
        let object = namespace.get("pod", pod)?;
        let text = |pointer: &str| {
            let value = object.pointer(pointer).and_then(serde_json::Value::as_str);
            value.map(str::to_owned).with_context(|| format!("{pod} has no {pointer}"))
        };
        Ok(Self {
            cluster: cluster.clone(),
            node: text("/spec/nodeName")?,
            uid: text("/metadata/uid")?,
        })
    }

    /// Kills the first process of a container, which is not asked.
    pub fn kill(&self, container: &str) -> Result<()> {
        let process = self.process(&format!("\"io.kubernetes.container.name\"=={container}"))?;
        self.command("kill")?.args(["-9", &process]).run()
    }

    /// Drops traffic at the pod for as long as the result lives.
    pub fn cut(&self, traffic: Traffic) -> Result<Cut<'_>> {
        // It holds the pod's network as long as the pod lives.
        let sandbox = self.process("\"io.cri-containerd.kind\"==sandbox")?;
        let cut = Cut { host: self, network: format!("--net=/proc/{sandbox}/ns/net"), traffic };
        cut.rules("-I")?;
        Ok(cut)
    }

    /// The number on the node of the process that runs in the pod's container with this label.
    fn process(&self, label: &str) -> Result<String> {
        let filter = format!("labels.\"{POD_UID}\"=={},labels.{label}", self.uid);
        let found = self.containers(&["containers", "list", "--quiet", &filter])?;
        let tasks = self.containers(&["tasks", "list"])?;
        let process = tasks.lines().find_map(|task| {
            let [id, process, state] = task.split_whitespace().collect::<Vec<_>>()[..] else {
                return None;
            };
            (state == "RUNNING" && found.lines().any(|one| one == id)).then(|| process.to_owned())
        });
        process.with_context(|| format!("nothing runs with {filter} on {}", self.node))
    }

    fn containers(&self, words: &[&str]) -> Result<String> {
        self.command("ctr")?.args(["--namespace", "k8s.io"]).args(words).read()
    }

    fn command(&self, program: &str) -> Result<Command> {
        let mut command = self.cluster.on_node(&self.node)?;
        command.arg(program);
        Ok(command)
    }
}

/// Everything that the pod says and hears, but for itself.
#[must_use]
pub fn everything() -> Traffic {
    vec![("! -i lo".to_owned(), "! -o lo".to_owned())]
}

/// What clients say and hear: signalling, by way of the ingress, and media.
#[must_use]
pub fn clients(signalling: u16, media: (u16, u16)) -> Traffic {
    let (first, last) = media;
    let ports = [("tcp", signalling.to_string()), ("tcp", format!("{first}:{last}"))];
    let streams = ports.into_iter().chain([("udp", format!("{first}:{last}"))]);
    let both = |(protocol, ports): (&str, String)| {
        (format!("-p {protocol} --dport {ports}"), format!("-p {protocol} --sport {ports}"))
    };
    streams.map(both).collect()
}

/// What is said to and heard from servers on this port; here they have the addresses of their
/// Services.
#[must_use]
pub fn servers(port: u16) -> Traffic {
    vec![(format!("-p tcp --sport {port}"), format!("-p tcp --dport {port}"))]
}

/// Traffic that is dropped; it flows again when this is dropped.
pub struct Cut<'a> {
    host: &'a PodHost,
    /// Names the pod's network for `nsenter`.
    network: String,
    traffic: Traffic,
}

impl Cut<'_> {
    fn rules(&self, action: &str) -> Result<()> {
        for (incoming, outgoing) in &self.traffic {
            for (chain, matches) in [("INPUT", incoming), ("OUTPUT", outgoing)] {
                let mut command = self.host.command("nsenter")?;
                command.args([&self.network, "iptables", "-w", action, chain]);
                command.args(matches.split(' ')).args(["-j", "DROP"]).run()?;
            }
        }
        Ok(())
    }
}

impl Drop for Cut<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.rules("-D") {
            say(&format!("the network of pod {} stays cut: {error:#}", self.host.uid));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_direction_of_a_cut_has_its_own_match() {
        let (incoming, outgoing) = &clients(7880, (20_000, 20_099))[2];
        assert_eq!(incoming, "-p udp --dport 20000:20099");
        assert_eq!(outgoing, "-p udp --sport 20000:20099");
        let (incoming, outgoing) = &servers(6379)[0];
        assert_eq!(
            (incoming.as_str(), outgoing.as_str()),
            ("-p tcp --sport 6379", "-p tcp --dport 6379")
        );
    }
}
