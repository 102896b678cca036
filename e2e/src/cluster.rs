//! A Kubernetes cluster to test on, whatever it is made of.
//!
//! [`Cluster::up`] brings it up and leaves a state file; [`Cluster::attach`] finds it again,
//! from a test or another command; [`Cluster::down`] takes it down, from whatever state a
//! crash left it in.

pub mod choice;
pub mod clients;
pub mod engine;
pub mod forward;
mod kind;
mod leftovers;
mod network;
mod node_image;
mod node_images;
pub mod oci_runtime;
mod root_filesystem;
mod start;
pub mod state;

use std::collections::BTreeMap;
use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

pub use self::choice::Kind;
pub use self::clients::HostMapping;
use self::state::State;
use crate::artifact_cache;
use crate::process::{ProcessIdentity, Run as _};
use crate::stage::{say, stage};

/// How an image gets into a cluster of somebody else's: a shell command that finds the
/// archive in `$1`, for example `minikube image load "$1"`.
const LOAD_VARIABLE: &str = "LIVECLUSTER_LOAD";
/// Address of the ingress of a cluster of somebody else's.
const INGRESS_VARIABLE: &str = "LIVECLUSTER_INGRESS";

/// A cluster that is up.
#[derive(Clone, Debug)]
pub struct Cluster {
    state: State,
}

impl Cluster {
    /// Brings the cluster up, or returns the one that is up.
    pub fn up() -> Result<Self> {
        let name = state::selected_name()?;
        let _lock = artifact_cache::lock(&artifact_cache::state_directory()?, &name)?;
        if let Some(state) = State::load(&name)? {
            let cluster = Self { state };
            if cluster.state.ready && cluster.answers() {
                return Ok(cluster);
            }
            take_down(&cluster.state)?;
        }
        let state = start::start(&name, choice::choose()?)?;
        Ok(Self { state })
    }

    /// Returns the cluster that was brought up before.
    pub fn attach() -> Result<Self> {
        let name = state::selected_name()?;
        let state = State::load(&name)?.filter(|state| state.ready);
        let cluster = Self { state: state.context("no cluster is up: run `make cluster-up`")? };
        if !cluster.answers() {
            bail!("the cluster {name} does not answer: run `make cluster-up`");
        }
        Ok(cluster)
    }

    /// Takes the cluster down with everything that was started for it; without one, nothing
    /// happens.
    pub fn down() -> Result<()> {
        let name = state::selected_name()?;
        let _lock = artifact_cache::lock(&artifact_cache::state_directory()?, &name)?;
        State::load(&name)?.map_or(Ok(()), |state| take_down(&state))
    }

    /// Says what the cluster is made of.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        self.state.kind
    }

    /// Returns the file with the cluster's credentials.
    #[must_use]
    pub fn kubeconfig(&self) -> &Path {
        &self.state.kubeconfig
    }

    /// Starts a `kubectl` command for the cluster.
    #[must_use]
    pub fn kubectl(&self) -> Command {
        let mut command = Command::new(&self.state.programs.kubectl);
        command.env("KUBECONFIG", self.kubeconfig());
        command
    }

    /// Starts a `helm` command for the cluster.
    #[must_use]
    pub fn helm(&self) -> Command {
        let mut command = Command::new(&self.state.programs.helm);
        command.env("KUBECONFIG", self.kubeconfig());
        command
    }

    /// Returns the addresses of the nodes by name, as clients reach them.
    #[must_use]
    pub const fn nodes(&self) -> &BTreeMap<String, String> {
        &self.state.nodes
    }

    /// Returns the address at which clients reach the ingress, on ports 80 and 443 or, where
    /// it is 127.0.0.1, on [`Self::loopback_ports`].
    #[must_use]
    pub fn ingress_address(&self) -> &str {
        &self.state.ingress
    }

    /// Returns the ports of the ingress on 127.0.0.1 of this machine: HTTP and HTTPS.
    #[must_use]
    pub const fn loopback_ports(&self) -> (u16, u16) {
        self.state.loopback_ports
    }

    /// Loads an image archive into every node.
    pub fn load(&self, archive: &Path) -> Result<()> {
        match self.state.kind {
            Kind::Kind | Kind::Bare => kind::load(&self.state, archive),
            Kind::Existing => {
                let command = env::var(LOAD_VARIABLE).with_context(|| {
                    format!("{LOAD_VARIABLE} must say how an image gets into this cluster")
                })?;
                Command::new("sh").args(["-ec", &command, "sh"]).arg(archive).run()
            }
        }
    }

    /// Kills a node as a power cut would.
    pub fn stop_node(&self, node: &str) -> Result<()> {
        self.own_node(node)?;
        kind::stop_node(&self.state, node)
    }

    /// Starts a killed node again.
    pub fn start_node(&self, node: &str) -> Result<()> {
        self.own_node(node)?;
        kind::start_node(&self.state, node)
    }

    /// Starts a command on a node, as its root.
    pub fn on_node(&self, node: &str) -> Result<Command> {
        self.own_node(node)?;
        kind::on_node(&self.state, node)
    }

    /// Returns what a shell needs to work with the cluster, by variable.
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        let (http, https) = self.state.loopback_ports;
        let nodes = self.state.nodes.iter().map(|(name, address)| format!("{name}={address}"));
        vec![
            ("KUBECONFIG", self.kubeconfig().display().to_string()),
            ("KUBECTL", self.state.programs.kubectl.display().to_string()),
            ("HELM", self.state.programs.helm.display().to_string()),
            ("LIVECLUSTER_INGRESS", self.ingress_address().to_owned()),
            ("LIVECLUSTER_NODES", nodes.collect::<Vec<_>>().join(",")),
            ("LIVECLUSTER_LOOPBACK_PORTS", format!("{http},{https}")),
            ("LIVECLUSTER_CLIENT_PREFIX", self.client_prefix().join(" ")),
        ]
    }

    fn own_node(&self, node: &str) -> Result<()> {
        match self.state.kind {
            Kind::Existing => bail!("nodes of an existing cluster are not ours to touch"),
            Kind::Kind | Kind::Bare if self.state.nodes.contains_key(node) => Ok(()),
            Kind::Kind | Kind::Bare => bail!("the cluster has no node {node}"),
        }
    }

    fn answers(&self) -> bool {
        self.kubectl().args(["get", "--raw", "/readyz", "--request-timeout=5s"]).succeeds()
    }
}

fn take_down(state: &State) -> Result<()> {
    stage(&format!("take down cluster {}", state.name), || {
        if let Some(forwarder) = &state.forwarder {
            forwarder.kill()?;
        }
        match state.kind {
            Kind::Existing => {}
            Kind::Kind => kind::delete(state)?,
            Kind::Bare => {
                // Containers of a dead or broken engine are deleted when it starts again.
                if state.engine.as_ref().is_some_and(ProcessIdentity::is_alive)
                    && let Err(error) = kind::delete(state)
                {
                    say(&format!("    the engine is killed with its containers: {error:#}"));
                }
                engine::stop(state)?;
            }
        }
        state.remove()
    })
}

/// Returns the credentials that an existing cluster is reached with.
fn given_kubeconfig() -> Result<PathBuf> {
    let path =
        env::var_os("KUBECONFIG").context("KUBECONFIG must name the cluster's credentials")?;
    Ok(PathBuf::from(path))
}

/// Returns the address of an existing cluster's ingress.
fn given_ingress() -> Result<String> {
    env::var(INGRESS_VARIABLE)
        .with_context(|| format!("{INGRESS_VARIABLE} must be the address of the ingress"))
}
