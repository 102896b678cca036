//! Decides what kind of cluster is brought up.

use std::env;
use std::process::Command;
use std::str::FromStr;

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};

use crate::process::{Run as _, is_root};

/// Overrides the automatic choice: `kind`, `bare` or `existing`.
pub const VARIABLE: &str = "LIVECLUSTER_CLUSTER";

/// Where the Kubernetes cluster comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// kind with the user's own Docker and kind's usual node image.
    Kind,
    /// kind with an engine that is started here, and a node image that is assembled here.
    Bare,
    /// Somebody else's cluster, given by KUBECONFIG.
    Existing,
}

impl FromStr for Kind {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "kind" => Ok(Self::Kind),
            "bare" => Ok(Self::Bare),
            "existing" => Ok(Self::Existing),
            other => bail!("{VARIABLE} is \"{other}\": it may be kind, bare or existing"),
        }
    }
}

/// What the choice depends on.
#[derive(Clone, Copy, Debug)]
struct Facts {
    docker_answers: bool,
    linux: bool,
    root: bool,
}

/// Returns the kind of cluster for this machine.
pub fn choose() -> Result<Kind> {
    if let Ok(wanted) = env::var(VARIABLE)
        && !wanted.is_empty()
    {
        return wanted.parse();
    }
    decide(Facts {
        docker_answers: Command::new("docker")
            .args(["version", "-f", "{{.Server.Version}}"])
            .succeeds(),
        linux: cfg!(target_os = "linux"),
        root: is_root(),
    })
}

fn decide(facts: Facts) -> Result<Kind> {
    match facts {
        Facts { docker_answers: true, linux: _, root: _ } => Ok(Kind::Kind),
        Facts { docker_answers: false, linux: true, root: true } => Ok(Kind::Bare),
        Facts { docker_answers: false, linux: true, root: false } => bail!(
            "no Docker answers: start Docker, or run as root on Debian, or set \
             {VARIABLE}=existing and KUBECONFIG"
        ),
        Facts { docker_answers: false, linux: false, root: _ } => {
            bail!("no Docker answers: start Docker, or set {VARIABLE}=existing and KUBECONFIG")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn docker_is_used_wherever_it_answers() {
        for root in [false, true] {
            let facts = Facts { docker_answers: true, linux: true, root };
            assert_eq!(decide(facts).unwrap(), Kind::Kind);
        }
    }

    #[test]
    fn bare_machine_needs_linux_and_root() {
        let facts = |linux, root| Facts { docker_answers: false, linux, root };
        assert_eq!(decide(facts(true, true)).unwrap(), Kind::Bare);
        assert!(decide(facts(true, false)).unwrap_err().to_string().contains("as root"));
        assert!(decide(facts(false, true)).unwrap_err().to_string().contains("start Docker"));
    }

    #[test]
    fn unknown_kind_is_refused_with_the_allowed_ones() {
        let error = "minikube".parse::<Kind>().unwrap_err().to_string();
        assert!(error.contains("kind, bare or existing"), "{error}");
        assert_eq!("bare".parse::<Kind>().unwrap(), Kind::Bare);
    }
}
