//! The images that are inside a bare machine's node image: the control plane, the pod
//! network and the ingress controller.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::images::files::FileTree;
use crate::images::programs::single_program;
use crate::images::{Image, write_archive};
use crate::process::Run as _;
use crate::tools::{
    CNI, CONTAINERD, COREDNS, ETCD, K8S, KUBERNETES, NODE_NETWORK, PAUSE, RUNC, TRAEFIK,
    TRAEFIK_TOOL, Toolchain,
};

/// As the manifest of the pod network names it.
const NODE_NETWORK_IMAGE: &str = "localhost/node-network:1";
/// Owner of processes that need rights on the node.
const ROOT: u32 = 0;

/// Directories with the built programs of a node.
pub(super) struct NodePrograms {
    pub(super) k8s: PathBuf,
    pub(super) containerd: PathBuf,
    pub(super) runc: PathBuf,
    pub(super) cni: PathBuf,
    pub(super) coredns: PathBuf,
    etcd: PathBuf,
    pause: PathBuf,
    node_network: PathBuf,
    traefik: PathBuf,
}

impl NodePrograms {
    /// Returns the built programs; builds those that are missing.
    pub(super) fn build(go: &Toolchain) -> Result<Self> {
        Ok(Self {
            k8s: K8S.build(go)?,
            etcd: ETCD.build(go)?,
            containerd: CONTAINERD.build(go)?,
            runc: RUNC.build(go)?,
            cni: CNI.build(go)?,
            coredns: COREDNS.build(go)?,
            pause: PAUSE.build(go)?,
            node_network: NODE_NETWORK.build(go)?,
            traefik: TRAEFIK_TOOL.build(go)?,
        })
    }

    /// Lists all directories; their names carry the hashes of what is in them.
    pub(super) fn directories(&self) -> [&Path; 9] {
        let Self { k8s, containerd, runc, cni, coredns, etcd, pause, node_network, traefik } = self;
        [k8s, containerd, runc, cni, coredns, etcd, pause, node_network, traefik]
            .map(PathBuf::as_path)
    }

    /// Returns the name under which Kubernetes wants the image of the pause program.
    pub(super) fn pause_image(&self) -> Result<String> {
        self.wanted_images()?
            .into_iter()
            .find(|image| program_of(image) == Some("pause"))
            .context("kubeadm names no pause image")
    }

    /// Asks kubeadm for the names of the control plane's images.
    fn wanted_images(&self) -> Result<Vec<String>> {
        let list = Command::new(self.k8s.join("kubeadm"))
            .args(["config", "images", "list", "--kubernetes-version", KUBERNETES])
            .read()?;
        Ok(list.lines().map(ToOwned::to_owned).collect())
    }
}

/// Writes all archives into `directory` and returns their paths. `root` is the nodes' system.
pub(super) fn write(
    programs: &NodePrograms,
    root: &Path,
    directory: &Path,
) -> Result<Vec<PathBuf>> {
    let mut images = Vec::new();
    for reference in programs.wanted_images()? {
        images.push(control_plane_image(&reference, programs, root)?);
    }
    let network = programs.node_network.join("node-network");
    images.push(single_program(NODE_NETWORK_IMAGE, &network, "/node-network", ROOT));
    let traefik = format!("docker.io/library/traefik:{TRAEFIK}");
    let program = programs.traefik.join("traefik");
    images.push(single_program(&traefik, &program, "/usr/local/bin/traefik", ROOT));
    let mut paths = Vec::new();
    for (number, image) in images.iter().enumerate() {
        let path = directory.join(format!("{number}.tar"));
        write_archive(image, &path)?;
        paths.push(path);
    }
    Ok(paths)
}

fn control_plane_image(reference: &str, programs: &NodePrograms, root: &Path) -> Result<Image> {
    let program = program_of(reference).context("an image has a name")?;
    let source = match program {
        "etcd" => programs.etcd.join("etcd"),
        "coredns" => programs.coredns.join("coredns"),
        "pause" => programs.pause.join("pause"),
        "kube-proxy" => return kube_proxy_image(reference, programs, root),
        other => programs.k8s.join(other),
    };
    // CoreDNS is started by its path, the others by their names.
    let inside = match program {
        "coredns" | "pause" => format!("/{program}"),
        other => format!("/usr/local/bin/{other}"),
    };
    Ok(single_program(reference, &source, &inside, ROOT))
}

/// kube-proxy calls `nft`, which comes with its libraries from the nodes' own system.
fn kube_proxy_image(reference: &str, programs: &NodePrograms, root: &Path) -> Result<Image> {
    let program = programs.k8s.join("kube-proxy");
    let mut image = single_program(reference, &program, "/usr/local/bin/kube-proxy", ROOT);
    let mut nft = FileTree::new();
    nft.put_libraries(root, Path::new("/usr/sbin/nft"))?;
    nft.put_program("/usr/sbin/nft", root.join("usr/sbin/nft"));
    for (path, content) in nft.entries() {
        image.files.put(path, content.clone());
    }
    Ok(image)
}

/// Returns the last part of an image's name: `registry/a/coredns:v1` is `coredns`.
fn program_of(reference: &str) -> Option<&str> {
    reference.rsplit('/').next()?.split(':').next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn program_is_the_last_part_of_the_name() {
        assert_eq!(program_of("registry.test/coredns/coredns:v1.14.2"), Some("coredns"));
        assert_eq!(program_of("registry.test/kube-proxy:v1.36.3"), Some("kube-proxy"));
    }
}
