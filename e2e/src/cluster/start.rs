//! The way up, step by step, for each kind of cluster.

use std::collections::BTreeMap;
use std::env;
use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use super::choice::Kind;
use super::forward;
use super::node_image::{self, Inputs};
use super::node_images::NodePrograms;
use super::state::{self, Programs, State};
use super::{Cluster, engine, given_ingress, given_kubeconfig, kind, root_filesystem};
use crate::doctor;
use crate::process::{ProcessIdentity, Run as _, is_installed};
use crate::stage::{say, stage};
use crate::tools::{HELM, KIND_TOOL, KUBECTL, Tool, Toolchain, kind_sources, route_definitions};

/// Ports of the ingress on 127.0.0.1: `80,443` unless given.
const PORTS_VARIABLE: &str = "LIVECLUSTER_PORTS";
/// Another node image than kind's own.
const NODE_IMAGE_VARIABLE: &str = "LIVECLUSTER_NODE_IMAGE";
/// How long the parts in the cluster may take to be ready; they take 15 s.
const READY_TIMEOUT: &str = "--timeout=240s";
/// Names and addresses of nodes, a line each.
const NODE_ADDRESSES: &str = "jsonpath={range .items[*]}{.metadata.name} \
    {.status.addresses[?(@.type==\"InternalIP\")].address}{\"\\n\"}{end}";
/// A forwarder that cannot bind ends at once.
const FORWARDER_GRACE: Duration = Duration::from_millis(300);

/// Brings up a cluster of this kind.
pub(super) fn start(name: &str, chosen: Kind) -> Result<State> {
    say(&format!("cluster {name}: {chosen:?}"));
    match chosen {
        Kind::Existing => start_existing(name),
        Kind::Kind => start_with_docker(name),
        Kind::Bare => start_bare(name),
    }
}

fn start_existing(name: &str) -> Result<State> {
    let mut state = State::new(name, Kind::Existing, loopback_ports()?);
    state.kubeconfig = given_kubeconfig()?;
    state.ingress = given_ingress()?;
    state.programs.kubectl = installed_or_built("kubectl", KUBECTL)?;
    state.programs.helm = installed_or_built("helm", HELM)?;
    let cluster = Cluster { state };
    if !cluster.answers() {
        bail!("the cluster of {} does not answer", cluster.kubeconfig().display());
    }
    let list = cluster.kubectl().args(["get", "nodes", "-o", NODE_ADDRESSES]).read()?;
    let mut state = cluster.state;
    state.nodes = parse_nodes(&list);
    state.ready = true;
    state.save()?;
    Ok(state)
}

fn parse_nodes(list: &str) -> BTreeMap<String, String> {
    let pairs = list.lines().filter_map(|line| line.split_once(' '));
    pairs.map(|(name, address)| (name.to_owned(), address.to_owned())).collect()
}

fn start_with_docker(name: &str) -> Result<State> {
    let mut state = State::new(name, Kind::Kind, loopback_ports()?);
    state.programs = Programs {
        kubectl: installed_or_built("kubectl", KUBECTL)?,
        helm: installed_or_built("helm", HELM)?,
        kind: installed_or_built("kind", KIND_TOOL)?,
    };
    state.kubeconfig = state::kubeconfig_path(&state::directory(name)?);
    state.save()?;
    let image = env::var(NODE_IMAGE_VARIABLE).ok().filter(|image| !image.is_empty());
    stage("kind create cluster", || kind::create(&state, image.as_deref()))?;
    state.nodes = kind::node_addresses(&state)?;
    // Docker's networks are reached from the machine itself on Linux only.
    state.ingress = if cfg!(target_os = "linux") {
        control_plane_address(&state)?
    } else {
        Ipv4Addr::LOCALHOST.to_string()
    };
    finish(state)
}

fn start_bare(name: &str) -> Result<State> {
    doctor::install(doctor::BARE_MACHINE)?;
    let go = Toolchain::find()?;
    let inputs = Inputs {
        programs: NodePrograms::build(&go)?,
        kind_sources: kind_sources(&go)?,
        root: root_filesystem::get_or_build()?,
    };
    let mut state = State::new(name, Kind::Bare, loopback_ports()?);
    state.programs = Programs {
        kubectl: inputs.programs.k8s.join("kubectl"),
        helm: HELM.build(&go)?.join("helm"),
        kind: KIND_TOOL.build(&go)?.join("kind"),
    };
    state.kubeconfig = state::kubeconfig_path(&state::directory(name)?);
    stage("container engine", || {
        engine::start(&mut state, &inputs.programs.coredns.join("coredns"))?;
        // A crash may have left containers of the engine's last run.
        kind::delete(&state)
    })?;
    let image = node_image::get_or_build(&engine::docker_host(name)?, &inputs)?;
    stage("kind create cluster", || kind::create(&state, Some(&image)))?;
    state.nodes = kind::node_addresses(&state)?;
    state.ingress = control_plane_address(&state)?;
    kind::point_at_node(&state.kubeconfig, &state.ingress)?;
    state.save()?;
    let mut state = finish(state)?;
    state.forwarder = start_forwarder(&state)?;
    state.save()?;
    Ok(state)
}

fn finish(state: State) -> Result<State> {
    let cluster = Cluster { state };
    let definitions = route_definitions(&Toolchain::find()?)?;
    stage("ingress controller, nodes and name server ready", || {
        let wait = |words: &[&str]| cluster.kubectl().args(words).arg(READY_TIMEOUT).run();
        // They are longer than what a client-side apply can note beside them.
        cluster.kubectl().args(["apply", "--server-side", "-f"]).arg(definitions).run()?;
        wait(&["wait", "--for=condition=Established", "crd", "--all"])?;
        let manifest = crate::repository().join("e2e/cluster/manifests/traefik.yaml");
        cluster.kubectl().args(["apply", "-f"]).arg(manifest).run()?;
        wait(&["wait", "--for=condition=Ready", "nodes", "--all"])?;
        wait(&["rollout", "status", "-n", "kube-system", "deployment/coredns"])?;
        wait(&["rollout", "status", "-n", "ingress", "deployment/traefik"])
    })?;
    let mut state = cluster.state;
    state.ready = true;
    state.save()?;
    Ok(state)
}

fn control_plane_address(state: &State) -> Result<String> {
    let name = kind::control_plane(&state.name);
    state.nodes.get(&name).cloned().with_context(|| format!("the cluster has no node {name}"))
}

fn installed_or_built(program: &str, tool: Tool) -> Result<PathBuf> {
    if is_installed(program) {
        return Ok(PathBuf::from(program));
    }
    let go = Toolchain::find().with_context(|| format!("{program} is not installed"))?;
    Ok(tool.build(&go)?.join(program))
}

/// Starts the process that serves the ingress on 127.0.0.1. Tests do without it, so a port
/// that is taken is no failure.
fn start_forwarder(state: &State) -> Result<Option<ProcessIdentity>> {
    let (http, https) = state.loopback_ports;
    for port in [http, https] {
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_err() {
            say(&format!(
                "    127.0.0.1:{port} is taken: no ingress there (choose with {PORTS_VARIABLE})"
            ));
            return Ok(None);
        }
    }
    let directory = state::directory(&state.name)?;
    let log = File::create(directory.join("forward.log"))?;
    let mut child = Command::new("setsid")
        .arg(directory.join("helper"))
        .arg(forward::COMMAND)
        .arg(format!("{http}={}:80", state.ingress))
        .arg(format!("{https}={}:443", state.ingress))
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .context("starting the forwarder")?;
    thread::sleep(FORWARDER_GRACE);
    if child.try_wait()?.is_some() {
        bail!("the forwarder ended: {}", read(&directory.join("forward.log")));
    }
    ProcessIdentity::of(child.id()).map(Some)
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn loopback_ports() -> Result<(u16, u16)> {
    let given = env::var(PORTS_VARIABLE).ok().filter(|ports| !ports.is_empty());
    given.map_or(Ok((80, 443)), |ports| parse_ports(&ports))
}

fn parse_ports(text: &str) -> Result<(u16, u16)> {
    let ports = text
        .split_once(',')
        .and_then(|(http, https)| Some((http.trim().parse().ok()?, https.trim().parse().ok()?)));
    ports.with_context(|| format!("{PORTS_VARIABLE} is \"{text}\": two ports, as in 8080,8443"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_are_read_a_line_each() {
        let nodes = parse_nodes("a 10.0.0.1\nb 10.0.0.2\n\n");
        assert_eq!(nodes.len(), 2);
        assert_eq!(nodes["b"], "10.0.0.2");
    }

    #[test]
    fn ports_are_two_numbers() {
        assert_eq!(parse_ports("8080, 8443").unwrap(), (8080, 8443));
        for wrong in ["", "80", "80,x", "80,443,1", "99999,1"] {
            let error = parse_ports(wrong).unwrap_err().to_string();
            assert!(error.contains("8080,8443"), "{error}");
        }
    }
}
