//! What a cluster could leave behind on the machine although its processes are gone:
//! control groups, machine-wide settings, an empty directory.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::stage::say;

/// Settings that the parts of Kubernetes or the engine are known to change for all.
const SETTINGS: [&str; 9] = [
    "vm/overcommit_memory",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
    "fs/protected_fifos",
    "fs/protected_regular",
    "net/ipv4/ip_forward",
    "net/ipv4/conf/all/forwarding",
];
const CGROUPS: &str = "/sys/fs/cgroup";
/// Directory that engines bind into containers, and create for that.
pub(super) const MODULES: &str = "/lib/modules";
/// The kernel frees control groups a moment after their last process.
const CGROUP_WAIT: Duration = Duration::from_secs(10);

/// Reads the machine-wide settings.
pub(super) fn read_settings() -> BTreeMap<String, String> {
    let read = |name: &str| {
        let value = fs::read_to_string(setting_path(name)).ok()?;
        Some((name.to_owned(), value.trim().to_owned()))
    };
    SETTINGS.into_iter().filter_map(read).collect()
}

/// Sets back what differs from `before`.
pub(super) fn restore_settings(before: &BTreeMap<String, String>) -> Result<()> {
    let now = read_settings();
    for (name, value) in before.iter().filter(|(name, value)| now.get(*name) != Some(*value)) {
        say(&format!("    {name} is set back to {value}"));
        fs::write(setting_path(name), value).with_context(|| format!("setting {name}"))?;
    }
    Ok(())
}

fn setting_path(name: &str) -> PathBuf {
    Path::new("/proc/sys").join(name)
}

/// Returns the control group below which all containers of a cluster are.
pub(super) fn control_group(name: &str) -> String {
    format!("livecluster-{name}")
}

/// Removes the control groups of a cluster in every hierarchy.
pub(super) fn remove_control_groups(name: &str) -> Result<()> {
    let group = control_group(name);
    let started = Instant::now();
    loop {
        let left: Vec<PathBuf> = hierarchies()
            .into_iter()
            .map(|hierarchy| hierarchy.join(&group))
            .filter(|path| path.is_dir())
            .filter(|path| !remove_tree_of_groups(path))
            .collect();
        match left.first() {
            None => return Ok(()),
            Some(path) if started.elapsed() > CGROUP_WAIT => {
                bail!("control group {} is still in use", path.display())
            }
            Some(_) => thread::sleep(Duration::from_millis(100)),
        }
    }
}

/// The unified hierarchy itself, and those of version 1 below it.
fn hierarchies() -> Vec<PathBuf> {
    let root = PathBuf::from(CGROUPS);
    let children = fs::read_dir(&root).into_iter().flatten().flatten();
    let directories = children.filter(|entry| entry.file_type().is_ok_and(|t| t.is_dir()));
    std::iter::once(root.clone()).chain(directories.map(|entry| entry.path())).collect()
}

/// Control groups hold files that cannot be removed: only directories go, innermost first.
fn remove_tree_of_groups(path: &Path) -> bool {
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree_of_groups(&entry.path());
        }
    }
    fs::remove_dir(path).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tree_of_directories_goes_innermost_first() {
        let root = std::env::temp_dir().join(format!("e2e-groups-{}", std::process::id()));
        fs::create_dir_all(root.join("a/b")).unwrap();
        fs::create_dir_all(root.join("c")).unwrap();
        assert!(remove_tree_of_groups(&root));
        assert!(!root.exists());
    }

    #[test]
    fn unchanged_settings_are_not_written() {
        let before = read_settings();
        assert!(before.contains_key("kernel/panic"));
        restore_settings(&before).unwrap();
        assert_eq!(read_settings(), before);
    }
}
