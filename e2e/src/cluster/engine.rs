//! Debian's container engine, started here in network, mount and process namespaces of its
//! own: nothing of it appears on the machine, and killing one process ends all of it.

use std::env;
use std::fs::{self, File};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::json;

use super::leftovers::{self, MODULES};
use super::network::{self, Addresses};
use super::state::{self, State};
use crate::artifact_cache;
use crate::process::{ProcessIdentity, Run as _};

/// It takes half a second on an idle machine.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// Lines of the engine's log that the error repeats.
const LOG_LINES: usize = 30;
/// Subcommand of this program that stands in for runc ([`super::oci_runtime`]).
pub const OCI_RUNTIME_COMMAND: &str = "oci-runtime";
/// Subcommand of this program that becomes the engine inside its namespaces.
pub const INIT_COMMAND: &str = "engine-init";

/// Starts the engine and links its network with the machine's.
pub(super) fn start(state: &mut State, resolver_program: &Path) -> Result<()> {
    let directory = state::directory(&state.name)?;
    fs::create_dir_all(&directory)?;
    let addresses = Addresses::of(&state.name);
    // A copy: a later build of this program must not disturb a running cluster.
    let helper = directory.join("helper");
    fs::copy(env::current_exe()?, &helper)?;
    fs::copy(resolver_program, directory.join("resolver"))?;
    let settings = daemon_settings(&state.name, &directory, &data_root(&state.name)?, &helper);
    fs::write(directory.join("daemon.json"), settings.to_string())?;
    let names = include_str!("../../cluster/node/Corefile");
    fs::write(directory.join("Corefile"), names.replace("@ADDRESS@", &addresses.resolver))?;

    state.settings = leftovers::read_settings();
    state.no_modules_before = !Path::new(MODULES).exists();
    let log = File::create(directory.join("engine.log"))?;
    let child = Command::new("setsid")
        .args(["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child=KILL"])
        .arg("--mount-proc")
        .arg(&helper)
        .args([INIT_COMMAND, "--address", &addresses.resolver, "--directory"])
        .arg(&directory)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .context("starting the engine")?;
    let engine = ProcessIdentity::of(child.id())?;
    state.engine = Some(engine.clone());
    state.save()?;
    wait_until_it_answers(state, &engine, &directory)?;
    network::link(&state.name, engine.pid)
}

/// Ends the engine with all containers, and removes what outlives its processes.
pub(super) fn stop(state: &State) -> Result<()> {
    if let Some(engine) = &state.engine {
        engine.kill()?;
    }
    network::unlink(&state.name);
    leftovers::remove_control_groups(&state.name)?;
    leftovers::restore_settings(&state.settings)?;
    if state.no_modules_before {
        // Removed only if it is still empty.
        let _ = fs::remove_dir(MODULES);
    }
    Ok(())
}

/// Becomes the engine; runs as the first process of its namespaces.
pub fn init(directory: &Path, address: &str) -> Result<()> {
    // The machine's own /run holds the sockets of its own services.
    Command::new("mount").args(["-t", "tmpfs", "tmpfs", "/run"]).run()?;
    Command::new("ip").args(["link", "set", "lo", "up"]).run()?;
    Command::new("ip").args(["addr", "add", &format!("{address}/32"), "dev", "lo"]).run()?;
    Command::new(directory.join("resolver"))
        .arg("-conf")
        .arg(directory.join("Corefile"))
        .stdin(Stdio::null())
        .spawn()
        .context("starting the name server")?;
    let settings = directory.join("daemon.json");
    Err(Command::new("dockerd").arg("--config-file").arg(settings).exec())
        .context("starting dockerd")
}

/// Starts a command in the network of the engine.
pub(super) fn in_network(engine_pid: u32, program: &str) -> Command {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net=/proc/{engine_pid}/ns/net")).arg("--").arg(program);
    command
}

/// Returns the value of DOCKER_HOST for the engine of a cluster.
pub(super) fn docker_host(name: &str) -> Result<String> {
    Ok(format!("unix://{}", state::directory(name)?.join("docker.sock").display()))
}

/// Images stay here when the cluster is taken down; containers do not.
pub(super) fn data_root(name: &str) -> Result<PathBuf> {
    Ok(artifact_cache::directory()?.join(format!("engine-{name}")))
}

fn daemon_settings(
    name: &str,
    directory: &Path,
    data_root: &Path,
    helper: &Path,
) -> serde_json::Value {
    let addresses = Addresses::of(name);
    json!({
        "data-root": data_root,
        "exec-root": "/run/engine",
        "pidfile": "/run/engine.pid",
        "deprecated-key-path": data_root.join("key.json"),
        "hosts": [format!("unix://{}", directory.join("docker.sock").display())],
        "storage-driver": "overlay2",
        "cgroup-parent": format!("/{}", leftovers::control_group(name)),
        "bip": addresses.bridge,
        "default-address-pools": [{"base": addresses.nodes, "size": 24}],
        "dns": [addresses.resolver],
        "default-runtime": "reduced",
        "runtimes": {"reduced": {"path": helper, "runtimeArgs": [OCI_RUNTIME_COMMAND]}},
    })
}

fn wait_until_it_answers(state: &State, engine: &ProcessIdentity, directory: &Path) -> Result<()> {
    let started = Instant::now();
    let host = docker_host(&state.name)?;
    while !Command::new("docker").env("DOCKER_HOST", &host).arg("version").succeeds() {
        if !engine.is_alive() || started.elapsed() > START_TIMEOUT {
            let log = fs::read_to_string(directory.join("engine.log")).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            let tail = lines[lines.len().saturating_sub(LOG_LINES)..].join("\n");
            bail!("the engine does not answer; its log ends with\n{tail}");
        }
        thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn engine_keeps_to_its_own_places() {
        let settings =
            daemon_settings("lc", Path::new("/s"), Path::new("/d"), Path::new("/s/helper"));
        assert_eq!(settings["hosts"][0], "unix:///s/docker.sock");
        assert_eq!(settings["cgroup-parent"], "/livecluster-lc");
        assert_eq!(settings["runtimes"]["reduced"]["path"], "/s/helper");
        let addresses = Addresses::of("lc");
        assert_eq!(settings["default-address-pools"][0]["base"], addresses.nodes);
        assert_eq!(settings["dns"][0], addresses.resolver);
    }

    #[test]
    fn command_enters_the_network_only() {
        let command = in_network(42, "ip");
        let words: Vec<_> = command.get_args().map(|word| word.to_string_lossy()).collect();
        assert_eq!(words, ["--net=/proc/42/ns/net", "--", "ip"]);
    }
}
