//! The Debian system inside a bare machine's nodes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::artifact_cache::{self, InputHash};
use crate::process::Run as _;
use crate::stage::stage;

/// The last release whose systemd runs on cgroup v1 without a switch.
const RELEASE: &str = "bookworm";
/// systemd, what Kubernetes' own programs call, and what kind itself calls in a node.
const PACKAGES: [&str; 17] = [
    "systemd",
    "systemd-sysv",
    "bash",
    "ca-certificates",
    "conntrack",
    "curl",
    "e2fsprogs",
    "ethtool",
    "iproute2",
    "iptables",
    "jq",
    "kmod",
    "libseccomp2",
    "mount",
    "nftables",
    "procps",
    "util-linux",
];
/// Measured: the download dominates.
const COLD_SECONDS: u32 = 90;

/// Returns the directory of the root file system; makes it when it is not there.
pub(super) fn get_or_build() -> Result<PathBuf> {
    let hash = InputHash::new().with(RELEASE).with(PACKAGES.join(",")).finish();
    let cache = artifact_cache::directory()?;
    let entry = cache.join(format!("rootfs-{hash}"));
    if entry.is_dir() {
        return Ok(entry);
    }
    stage(&format!("Debian root for the nodes (cold about {COLD_SECONDS} s)"), || {
        artifact_cache::get_or_build(&cache, "rootfs", &hash, debootstrap)
    })
}

fn debootstrap(directory: &Path) -> Result<()> {
    // In a mount namespace, so that a crash leaves no /proc mounted in the cache.
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "debootstrap", "--variant=minbase"])
        .arg(format!("--include={}", PACKAGES.join(",")))
        .arg(RELEASE)
        .arg(directory);
    if let Some(mirror) = mirror() {
        command.arg(mirror);
    }
    command.run()?;
    for unused in
        ["var/cache/apt/archives", "var/lib/apt/lists", "usr/share/doc", "usr/share/locale"]
    {
        artifact_cache::remove_directory(&directory.join(unused))?;
    }
    // kind's Dockerfile does the same: settings of the kernel are the machine's affair.
    remove_files(&directory.join("usr/lib/sysctl.d"))
}

/// Takes the mirror that the machine's own packages come from; debootstrap knows another.
fn mirror() -> Option<String> {
    let targets = Command::new("apt-get")
        .args(["indextargets", "--format", "$(REPO_URI) $(CODENAME) $(COMPONENT)"])
        .read()
        .ok()?;
    mirror_in(&targets)
}

fn mirror_in(targets: &str) -> Option<String> {
    let wanted = format!(" {RELEASE} main");
    targets.lines().find_map(|line| line.strip_suffix(&wanted)).map(ToOwned::to_owned)
}

/// Removes the files of a directory, but not the directory.
pub(super) fn remove_files(directory: &Path) -> Result<()> {
    for entry in fs::read_dir(directory).into_iter().flatten() {
        let path = entry?.path();
        fs::remove_file(&path).with_context(|| format!("removing {}", path.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mirror_is_that_of_the_release() {
        let targets = "http://mirror.test/node nodistro main\n\
            http://mirror.test/debian-security bookworm-security main\n\
            http://mirror.test/debian bookworm main\n";
        assert_eq!(mirror_in(targets), Some("http://mirror.test/debian".to_owned()));
        assert_eq!(mirror_in(""), None);
    }
}
