//! What is known of a running cluster, on disk, so that any later command can use it or take
//! it down, also after the one that started it crashed.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};

use super::choice::Kind;
use crate::artifact_cache;
use crate::process::ProcessIdentity;

/// Names the cluster, so that one machine can hold several.
pub const NAME_VARIABLE: &str = "LIVECLUSTER_NAME";
const DEFAULT_NAME: &str = "livecluster";
/// Network interfaces and control groups are named after the cluster; Linux allows an
/// interface 15 characters.
const MAX_NAME: usize = 12;

/// The programs that talk to the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Programs {
    /// `kubectl`.
    pub kubectl: PathBuf,
    /// `helm`.
    pub helm: PathBuf,
    /// `kind`; unused with an existing cluster.
    pub kind: PathBuf,
}

/// A cluster and all that was started for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// Name of the cluster.
    pub name: String,
    /// Where it comes from.
    pub kind: Kind,
    /// Set when it is up; until then the state only serves to take it down.
    pub ready: bool,
    /// The programs that talk to it.
    pub programs: Programs,
    /// Its credentials.
    pub kubeconfig: PathBuf,
    /// The engine that was started for it.
    pub engine: Option<ProcessIdentity>,
    /// The process that passes ports of this machine's loopback on to the ingress.
    pub forwarder: Option<ProcessIdentity>,
    /// Addresses of the nodes by name, the control plane's first in order of name.
    pub nodes: BTreeMap<String, String>,
    /// The address at which clients reach the ingress.
    pub ingress: String,
    /// Ports of the ingress on 127.0.0.1 of this machine: HTTP and HTTPS.
    pub loopback_ports: (u16, u16),
    /// Machine-wide settings as they were before.
    pub settings: BTreeMap<String, String>,
    /// Whether `/lib/modules` was absent before.
    pub no_modules_before: bool,
}

impl State {
    /// Starts the state of a cluster that is not up yet.
    #[must_use]
    pub fn new(name: &str, kind: Kind, loopback_ports: (u16, u16)) -> Self {
        Self {
            name: name.to_owned(),
            kind,
            ready: false,
            programs: Programs::default(),
            kubeconfig: PathBuf::new(),
            engine: None,
            forwarder: None,
            nodes: BTreeMap::new(),
            ingress: String::new(),
            loopback_ports,
            settings: BTreeMap::new(),
            no_modules_before: false,
        }
    }

    /// Reads the state of the cluster of this name, if there is any.
    pub fn load(name: &str) -> Result<Option<Self>> {
        let path = directory(name)?.join("state.json");
        match fs::read(&path) {
            Ok(text) => Ok(Some(
                serde_json::from_slice(&text).with_context(|| format!("in {}", path.display()))?,
            )),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("reading {}", path.display())),
        }
    }

    /// Writes the state; a reader sees the old one or the new one.
    pub fn save(&self) -> Result<()> {
        let directory = directory(&self.name)?;
        fs::create_dir_all(&directory)?;
        let partial = directory.join("state.partial");
        fs::write(&partial, serde_json::to_vec_pretty(self)?)?;
        fs::rename(&partial, directory.join("state.json")).context("saving the cluster's state")
    }

    /// Removes the state and all files beside it.
    pub fn remove(&self) -> Result<()> {
        artifact_cache::remove_directory(&directory(&self.name)?)
    }
}

/// Returns the directory of a cluster's state.
pub fn directory(name: &str) -> Result<PathBuf> {
    Ok(artifact_cache::state_directory()?.join(name))
}

/// Returns the name of the cluster that commands act on.
pub fn selected_name() -> Result<String> {
    let name = env::var(NAME_VARIABLE).ok().filter(|name| !name.is_empty());
    let name = name.unwrap_or_else(|| DEFAULT_NAME.to_owned());
    ensure!(
        is_valid_name(&name),
        "{NAME_VARIABLE} is \"{name}\": at most {MAX_NAME} lower-case letters, digits and dashes"
    );
    Ok(name)
}

fn is_valid_name(name: &str) -> bool {
    name.len() <= MAX_NAME
        && name.starts_with(|first: char| first.is_ascii_lowercase())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
}

/// Returns where the credentials of a cluster of ours are kept.
pub fn kubeconfig_path(directory: &Path) -> PathBuf {
    directory.join("kubeconfig")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_interfaces_and_paths() {
        for (name, valid) in [
            ("livecluster", true),
            ("a", true),
            ("twelve-chars", true),
            ("thirteen-char", false),
            ("Upper", false),
            ("1st", false),
            ("../x", false),
            ("", false),
        ] {
            assert_eq!(is_valid_name(name), valid, "{name}");
        }
    }

    #[test]
    fn state_survives_the_disk() {
        let mut state = State::new("x", Kind::Bare, (80, 443));
        state.nodes.insert("x-worker".into(), "10.0.0.1".into());
        state.engine = ProcessIdentity::of(std::process::id()).ok();
        let text = serde_json::to_string(&state).unwrap();
        assert_eq!(serde_json::from_str::<State>(&text).unwrap(), state);
    }
}
