//! Drives kind: creates and deletes the cluster, loads images, stops and starts nodes.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};

use super::choice::Kind;
use super::engine;
use super::state::State;
use crate::process::Run as _;

/// How long the control plane may take; it takes 15 s on an idle machine.
const CREATE_TIMEOUT: &str = "240s";
/// Port of the API server inside its node.
const API_PORT: u16 = 6443;

/// Starts a `kind` or `docker` command that talks to the engine of this cluster.
pub(super) fn command(state: &State, program: &Path) -> Result<Command> {
    match (state.kind, &state.engine) {
        (Kind::Bare, Some(engine)) => {
            // In the engine's network: kind looks there for a free port.
            let mut command = engine::in_network(engine.pid, &program.to_string_lossy());
            command.env("DOCKER_HOST", engine::docker_host(&state.name)?);
            Ok(command)
        }
        (Kind::Bare | Kind::Kind | Kind::Existing, _) => Ok(Command::new(program)),
    }
}

/// Creates the cluster and writes its credentials to `state.kubeconfig`.
pub(super) fn create(state: &State, image: Option<&str>) -> Result<()> {
    let template = fs::read_to_string(crate::repository().join("e2e/cluster/kind.yaml"))?;
    let configuration = configuration(&template, state.loopback_ports);
    let mut create = command(state, &state.programs.kind)?;
    create.args(["create", "cluster", "--config=-", "--wait", CREATE_TIMEOUT]);
    create.args(["--name", &state.name, "--kubeconfig"]).arg(&state.kubeconfig);
    if let Some(image) = image {
        create.args(["--image", image]);
    }
    create.read_with_input(configuration.as_bytes())?;
    Ok(())
}

fn configuration(template: &str, (http, https): (u16, u16)) -> String {
    template.replace("@HTTP_PORT@", &http.to_string()).replace("@HTTPS_PORT@", &https.to_string())
}

/// Deletes the cluster if there is one.
pub(super) fn delete(state: &State) -> Result<()> {
    let mut delete = command(state, &state.programs.kind)?;
    delete.args(["delete", "cluster", "--name", &state.name, "--kubeconfig"]);
    delete.arg(&state.kubeconfig).run()
}

/// Loads an image archive into all nodes.
pub(super) fn load(state: &State, archive: &Path) -> Result<()> {
    let mut load = command(state, &state.programs.kind)?;
    load.args(["load", "image-archive", "--name", &state.name]).arg(archive).run()
}

/// Kills a node as a power cut would.
pub(super) fn stop_node(state: &State, node: &str) -> Result<()> {
    command(state, Path::new("docker"))?.args(["kill", node]).run()
}

/// Starts a node again.
pub(super) fn start_node(state: &State, node: &str) -> Result<()> {
    command(state, Path::new("docker"))?.args(["start", node]).run()
}

/// Starts a command on a node.
pub(super) fn on_node(state: &State, node: &str) -> Result<Command> {
    let mut command = command(state, Path::new("docker"))?;
    command.args(["exec", node]);
    Ok(command)
}

/// Returns the nodes' addresses by name.
pub(super) fn node_addresses(state: &State) -> Result<BTreeMap<String, String>> {
    let names = command(state, &state.programs.kind)?
        .args(["get", "nodes", "--name", &state.name])
        .read()?;
    let mut nodes = BTreeMap::new();
    for name in names.lines().map(str::trim).filter(|name| !name.is_empty()) {
        let form = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}";
        let address =
            command(state, Path::new("docker"))?.args(["inspect", "-f", form, name]).read()?;
        nodes.insert(name.to_owned(), address.trim().to_owned());
    }
    Ok(nodes)
}

/// Returns the name of the node with the control plane, where the ingress controller runs.
pub(super) fn control_plane(name: &str) -> String {
    format!("{name}-control-plane")
}

/// Makes the credentials name the API server by its node's address, which is reached from the
/// machine and from the clients' network alike; kind's loopback port is the engine's.
pub(super) fn point_at_node(kubeconfig: &Path, address: &str) -> Result<()> {
    let text = fs::read_to_string(kubeconfig).context("reading the credentials")?;
    fs::write(kubeconfig, with_server(&text, &format!("https://{address}:{API_PORT}")))?;
    Ok(())
}

fn with_server(kubeconfig: &str, server: &str) -> String {
    let lines = kubeconfig.lines().map(|line| match line.split_once("server: ") {
        Some((indent, _)) if indent.trim().is_empty() => format!("{indent}server: {server}\n"),
        Some(_) | None => format!("{line}\n"),
    });
    lines.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_server_is_replaced() {
        let text = "clusters:\n- cluster:\n    server: https://127.0.0.1:4711\n  name: x\n";
        assert_eq!(
            with_server(text, "https://10.0.0.2:6443"),
            "clusters:\n- cluster:\n    server: https://10.0.0.2:6443\n  name: x\n"
        );
    }

    #[test]
    fn template_has_both_ports_and_no_other_gap() {
        let text = configuration(include_str!("../../cluster/kind.yaml"), (8080, 8443));
        assert!(text.contains("hostPort: 8080,") && text.contains("hostPort: 8443,"));
        let settings = text.lines().filter(|line| !line.trim_start().starts_with('#'));
        assert!(!settings.collect::<String>().contains('@'));
    }
}
