//! Programs that tests need and no package of the machine has: built with the Go toolchain, one
//! module a tool. Those of the test cluster are in `e2e/cluster/tools`.

mod go;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::artifact_cache::{self, InputHash};
use crate::process::Run as _;
use crate::stage::{say, stage};

pub use go::Toolchain;

/// Version of Kubernetes; its module's version in `tools/k8s/go.mod` is the same.
pub const KUBERNETES: &str = "v1.36.3";
/// Version of the ingress controller, as in `tools/traefik/go.mod`.
pub const TRAEFIK: &str = "v3.6.12";
/// Version of kind, as in `tools/kind/go.mod`.
pub const KIND: &str = "v0.33.0";

/// Version of livekit-server that LiveCluster is compared with, as in `sfu/bench/peer/go.mod`.
pub const LIVEKIT: &str = "v1.13.5";

/// A Go module of ours and the programs that are built from it.
#[derive(Clone, Copy, Debug)]
pub struct Tool {
    /// Name, and folder of the module unless [`Self::folder`] says otherwise.
    pub name: &'static str,
    /// Folder of the module; by default the one of [`Self::name`] below `e2e/cluster/tools`.
    folder: Option<&'static str>,
    /// What is built: `program` or `program=package`.
    programs: &'static [&'static str],
    /// Path that goes before the name of a program to make its package.
    package_prefix: &'static str,
    tags: &'static str,
    /// Settings of string variables in the program.
    variables: &'static [(&'static str, &'static str)],
    cgo: bool,
    /// Measured on two idle cores with an empty build cache, in seconds.
    pub cold_seconds: u32,
}

const PLAIN: Tool = Tool {
    name: "",
    folder: None,
    programs: &[],
    package_prefix: "",
    tags: "",
    variables: &[],
    cgo: false,
    cold_seconds: 10,
};

/// Kubernetes itself.
pub const K8S: Tool = Tool {
    name: "k8s",
    package_prefix: "k8s.io/kubernetes/cmd/",
    programs: &[
        "kube-apiserver",
        "kube-controller-manager",
        "kube-scheduler",
        "kubelet",
        "kube-proxy",
        "kubeadm",
        "kubectl",
    ],
    variables: &[
        ("k8s.io/component-base/version.gitVersion", KUBERNETES),
        ("k8s.io/component-base/version.gitMajor", "1"),
        ("k8s.io/component-base/version.gitMinor", "36"),
        ("k8s.io/component-base/version.gitTreeState", "clean"),
        ("k8s.io/component-base/version.gitCommit", "unknown"),
        ("k8s.io/component-base/version.buildDate", "1970-01-01T00:00:00Z"),
        ("k8s.io/client-go/pkg/version.gitVersion", KUBERNETES),
        ("k8s.io/client-go/pkg/version.gitMajor", "1"),
        ("k8s.io/client-go/pkg/version.gitMinor", "36"),
    ],
    cold_seconds: 560,
    ..PLAIN
};
/// The command line of Kubernetes alone, for a machine whose nodes come as an image.
pub const KUBECTL: Tool = Tool { programs: &["kubectl"], cold_seconds: 120, ..K8S };
/// The store of the control plane.
pub const ETCD: Tool =
    Tool { name: "etcd", programs: &["etcd=go.etcd.io/etcd/server/v3"], cold_seconds: 40, ..PLAIN };
/// The container runtime of the nodes.
pub const CONTAINERD: Tool = Tool {
    name: "containerd",
    package_prefix: "github.com/containerd/containerd/v2/cmd/",
    programs: &["containerd", "containerd-shim-runc-v2", "ctr"],
    tags: "no_btrfs no_devmapper no_zfs no_aufs",
    variables: &[("github.com/containerd/containerd/v2/version.Version", "2.4.2")],
    cold_seconds: 100,
    ..PLAIN
};
/// Starts the containers; its first stage is C, and seccomp profiles come from a C library.
pub const RUNC: Tool = Tool {
    name: "runc",
    programs: &["runc=github.com/opencontainers/runc"],
    tags: "seccomp",
    variables: &[("main.version", "1.5.2")],
    cgo: true,
    cold_seconds: 15,
    ..PLAIN
};
/// Plugs pods into the node's network.
pub const CNI: Tool = Tool {
    name: "cni",
    package_prefix: "github.com/containernetworking/plugins/plugins/",
    programs: &[
        "host-local=ipam/host-local",
        "loopback=main/loopback",
        "ptp=main/ptp",
        "portmap=meta/portmap",
    ],
    ..PLAIN
};
/// The cluster's name server.
pub const COREDNS: Tool =
    Tool { name: "coredns", programs: &["coredns=."], cold_seconds: 60, ..PLAIN };
/// The process that holds a pod's namespaces.
pub const PAUSE: Tool = Tool { name: "pause", programs: &["pause=."], ..PLAIN };
/// The pod network.
pub const NODE_NETWORK: Tool =
    Tool { name: "node-network", programs: &["node-network=."], ..PLAIN };
/// Creates clusters of containers.
pub const KIND_TOOL: Tool = Tool { name: "kind", programs: &["kind=sigs.k8s.io/kind"], ..PLAIN };
/// Installs charts.
pub const HELM: Tool =
    Tool { name: "helm", programs: &["helm=helm.sh/helm/v4/cmd/helm"], cold_seconds: 160, ..PLAIN };
/// The ingress controller.
pub const TRAEFIK_TOOL: Tool = Tool {
    name: "traefik",
    programs: &["traefik=github.com/traefik/traefik/v3/cmd/traefik"],
    variables: &[("github.com/traefik/traefik/v3/pkg/version.Version", "3.6.12")],
    cold_seconds: 390,
    ..PLAIN
};

/// The server that LiveCluster is compared with.
pub const LIVEKIT_SERVER: Tool = Tool {
    name: "livekit-server",
    folder: Some("sfu/bench/peer"),
    programs: &["livekit-server=github.com/livekit/livekit-server/cmd/server"],
    cold_seconds: 150,
    ..PLAIN
};
/// The load tester of LiveKit's command line.
pub const LOAD_TESTER: Tool = Tool {
    name: "load-tester",
    folder: Some("e2e/clients/load"),
    programs: &["load-tester=."],
    cold_seconds: 70,
    ..PLAIN
};

/// A server of the custom metrics API, by the library that prometheus-adapter is made of.
pub const METRICS_ADAPTER: Tool = Tool {
    name: "metrics-adapter",
    programs: &["metrics-adapter=sigs.k8s.io/custom-metrics-apiserver/test-adapter"],
    cold_seconds: 120,
    ..PLAIN
};

/// A TURN client of the library in LiveKit and STUNner.
pub const TURN_CLIENT: Tool = Tool {
    name: "turn-client",
    folder: Some("e2e/clients/turn"),
    programs: &["turn-client=."],
    cold_seconds: 30,
    ..PLAIN
};

/// Where definitions of kinds are: a module of [`TRAEFIK_TOOL`], a folder, and how their names begin.
const ROUTE_DEFINITIONS: [[&str; 3]; 2] = [
    [
        "github.com/traefik/traefik/v3",
        "docs/content/reference/dynamic-configuration",
        "traefik.io_",
    ],
    // Only the experimental channel has TLSRoute.
    ["sigs.k8s.io/gateway-api", "config/crd/experimental", "gateway.networking.k8s.io_"],
];

/// Everything that a bare machine builds, in the order of building.
pub const BARE_MACHINE: [Tool; 11] =
    [K8S, ETCD, CONTAINERD, RUNC, CNI, COREDNS, PAUSE, NODE_NETWORK, KIND_TOOL, HELM, TRAEFIK_TOOL];

impl Tool {
    /// Returns the folder of the tool's module.
    #[must_use]
    pub fn module(&self) -> PathBuf {
        let repository = crate::repository();
        match self.folder {
            Some(folder) => repository.join(folder),
            None => repository.join("e2e/cluster/tools").join(self.name),
        }
    }

    /// Returns the directory with the tool's programs if they are built.
    pub fn built(&self, go: &Toolchain) -> Result<Option<PathBuf>> {
        let entry = cache_directory()?.join(format!("{}-{}", self.entry_name(), self.hash(go)?));
        Ok(entry.is_dir().then_some(entry))
    }

    /// Returns the directory with the tool's programs; builds them when they are not there.
    pub fn build(&self, go: &Toolchain) -> Result<PathBuf> {
        if let Some(built) = self.built(go)? {
            return Ok(built);
        }
        let label = format!("build {} (cold about {} s)", self.entry_name(), self.cold_seconds);
        stage(&label, || {
            let cache = cache_directory()?;
            artifact_cache::get_or_build(&cache, &self.entry_name(), &self.hash(go)?, |directory| {
                self.compile(go, directory)
            })
        })
    }

    /// A subset of a module's programs is another artifact than all of them.
    fn entry_name(&self) -> String {
        match self.programs {
            [only] if self.name == K8S.name => (*only).to_owned(),
            _ => self.name.to_owned(),
        }
    }

    fn hash(&self, go: &Toolchain) -> Result<String> {
        let hash = InputHash::new()
            .with(&go.version)
            .with(self.linker_flags())
            .with(self.tags)
            .with(self.programs.join(" "))
            .with_path(&self.module())?;
        Ok(hash.finish())
    }

    fn linker_flags(&self) -> String {
        let settings = self.variables.iter().map(|(name, value)| format!(" -X {name}={value}"));
        format!("-s -w{}", settings.collect::<String>())
    }

    fn compile(&self, go: &Toolchain, directory: &Path) -> Result<()> {
        for program in self.programs {
            let (program, package) = self.program(program);
            go.command()
                .current_dir(self.module())
                .env("CGO_ENABLED", if self.cgo { "1" } else { "0" })
                .args(["build", "-trimpath", "-buildvcs=false", "-tags", self.tags])
                .args(["-ldflags", &self.linker_flags(), "-o"])
                .arg(directory.join(program))
                .arg(package)
                .run()?;
            say(&format!("    {program}"));
        }
        Ok(())
    }

    fn program(&self, entry: &'static str) -> (&'static str, String) {
        let (program, package) = entry.split_once('=').unwrap_or((entry, entry));
        (program, format!("{}{package}", self.package_prefix))
    }
}

/// Returns the folder of kind's own module: the base files of its node image are in it.
pub fn kind_sources(go: &Toolchain) -> Result<PathBuf> {
    module_directory(go, &KIND_TOOL, "sigs.k8s.io/kind")
}

/// The folder of a module that a tool is built of.
fn module_directory(go: &Toolchain, tool: &Tool, module: &str) -> Result<PathBuf> {
    // A tool that was built elsewhere may be here without its sources.
    go.command().current_dir(tool.module()).args(["mod", "download", module]).run()?;
    let list = ["list", "-m", "-f", "{{.Dir}}", module];
    let path = go.command().current_dir(tool.module()).args(list).read()?;
    let path = PathBuf::from(path.trim());
    fs::metadata(&path).with_context(|| format!("{module}'s sources in {}", path.display()))?;
    Ok(path)
}

/// Returns a directory with the definitions of the kinds by which Traefik is told to pass TLS on: its
/// own, and those of the Gateway API, from the modules that it is built of.
pub fn route_definitions(go: &Toolchain) -> Result<PathBuf> {
    const NAME: &str = "route-definitions";
    let hash = InputHash::new().with(ROUTE_DEFINITIONS.concat().join(" "));
    let hash = hash.with_path(&TRAEFIK_TOOL.module())?;
    artifact_cache::get_or_build(&cache_directory()?, NAME, &hash.finish(), |directory| {
        for [module, folder, prefix] in ROUTE_DEFINITIONS {
            let sources = module_directory(go, &TRAEFIK_TOOL, module)?.join(folder);
            for file in fs::read_dir(&sources).with_context(|| sources.display().to_string())? {
                let file = file?;
                if file.file_name().to_string_lossy().starts_with(prefix) {
                    fs::copy(file.path(), directory.join(file.file_name()))?;
                }
            }
        }
        Ok(())
    })
}

fn cache_directory() -> Result<PathBuf> {
    Ok(artifact_cache::directory()?.join("tools"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_those_of_the_modules() {
        for (tool, module, version) in [
            (K8S, "k8s.io/kubernetes", KUBERNETES),
            (TRAEFIK_TOOL, "github.com/traefik/traefik/v3", TRAEFIK),
            (KIND_TOOL, "sigs.k8s.io/kind", KIND),
            (CONTAINERD, "github.com/containerd/containerd/v2", "v2.4.2"),
            (RUNC, "github.com/opencontainers/runc", "v1.5.2"),
            (LIVEKIT_SERVER, "github.com/livekit/livekit-server", LIVEKIT),
        ] {
            let text = fs::read_to_string(tool.module().join("go.mod")).unwrap();
            let wanted = format!("{module} {version}");
            assert!(text.lines().any(|line| line.contains(&wanted)), "{wanted}");
        }
    }

    #[test]
    fn every_tool_has_a_module() {
        for tool in BARE_MACHINE.into_iter().chain([LIVEKIT_SERVER, LOAD_TESTER, METRICS_ADAPTER]) {
            assert!(tool.module().join("go.mod").is_file(), "{}", tool.name);
        }
    }

    #[test]
    fn package_is_named_after_the_program_or_given() {
        assert_eq!(K8S.program("kubelet").1, "k8s.io/kubernetes/cmd/kubelet");
        let (program, package) = CNI.program("ptp=main/ptp");
        assert_eq!(program, "ptp");
        assert_eq!(package, "github.com/containernetworking/plugins/plugins/main/ptp");
        assert_eq!(COREDNS.program("coredns=."), ("coredns", ".".to_owned()));
    }

    #[test]
    fn linker_flags_carry_the_version() {
        assert_eq!(ETCD.linker_flags(), "-s -w");
        assert!(K8S.linker_flags().contains("version.gitVersion=v1.36.3"));
    }

    #[test]
    fn one_program_of_a_module_is_another_artifact() {
        let go = Toolchain { program: "go".into(), version: "go1.26.8".into() };
        assert_ne!(KUBECTL.entry_name(), K8S.entry_name());
        assert_ne!(KUBECTL.hash(&go).unwrap(), K8S.hash(&go).unwrap());
    }
}
