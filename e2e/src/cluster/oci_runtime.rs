//! Stands between the engine and runc on a machine that lacks some capabilities.
//!
//! The engine asks for every capability when a container is privileged; runc refuses to start
//! one with a capability that the machine itself does not have. So these are taken out of the
//! container's description, and everything else goes to runc unchanged.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use serde_json::Value;

/// Names of the capabilities by their number (`linux/capability.h`).
const NAMES: [&str; 41] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

/// Runs runc with these arguments, in place of this process; returns only if that fails.
pub fn run(arguments: &[OsString]) -> Result<()> {
    if let Some((path, pointer)) = described_process(arguments) {
        let available = available(&fs::read_to_string("/proc/self/status")?)
            .context("/proc/self/status names no bounding set")?;
        reduce_file(&path, pointer, &available)
            .with_context(|| format!("reducing capabilities in {}", path.display()))?;
    }
    Err(Command::new("runc").args(arguments).exec()).context("starting runc")
}

/// Returns the file that describes the process to start, and where in it the process is.
fn described_process(arguments: &[OsString]) -> Option<(PathBuf, &'static str)> {
    let has = |word: &str| arguments.iter().any(|argument| argument == word);
    let value = |flag: &str| {
        let at = arguments.iter().position(|argument| argument == flag)?;
        arguments.get(at + 1).map(PathBuf::from)
    };
    if has("create") || has("run") {
        let bundle = value("--bundle").unwrap_or_else(|| PathBuf::from("."));
        return Some((bundle.join("config.json"), "/process/capabilities"));
    }
    has("exec").then(|| value("--process")).flatten().map(|file| (file, "/capabilities"))
}

fn available(status: &str) -> Option<HashSet<&'static str>> {
    let line = status.lines().find_map(|line| line.strip_prefix("CapBnd:"))?;
    let bits = u64::from_str_radix(line.trim(), 16).ok()?;
    Some((0..).zip(NAMES).filter(|(bit, _)| bits >> bit & 1 == 1).map(|(_, name)| name).collect())
}

fn reduce_file(path: &Path, pointer: &str, available: &HashSet<&str>) -> Result<()> {
    let mut description: Value = serde_json::from_slice(&fs::read(path)?)?;
    if let Some(Value::Object(sets)) = description.pointer_mut(pointer) {
        for set in sets.values_mut().filter_map(Value::as_array_mut) {
            set.retain(|name| name.as_str().is_some_and(|name| available.contains(name)));
        }
    }
    fs::write(path, description.to_string())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<OsString> {
        text.split(' ').map(OsString::from).collect()
    }

    #[test]
    fn process_is_found_for_create_and_exec_and_for_nothing_else() {
        assert_eq!(
            described_process(&words("--root /r create --bundle /b --pid-file p id")),
            Some(("/b/config.json".into(), "/process/capabilities"))
        );
        assert_eq!(
            described_process(&words("exec --process /p.json -d id")),
            Some(("/p.json".into(), "/capabilities"))
        );
        assert_eq!(described_process(&words("--root /r delete id")), None);
    }

    #[test]
    fn missing_bit_is_a_missing_name() {
        let found = available("Name:\tx\nCapBnd:\t000001fffeffffff\n").unwrap();
        assert!(!found.contains("CAP_SYS_RESOURCE"));
        assert_eq!(found.len(), NAMES.len() - 1);
    }

    #[test]
    fn only_unavailable_capabilities_go() {
        let path = std::env::temp_dir().join(format!("e2e-oci-{}.json", std::process::id()));
        let text =
            r#"{"process":{"args":["x"],"capabilities":{"bounding":["CAP_KILL","CAP_BPF"]}}}"#;
        fs::write(&path, text).unwrap();
        reduce_file(&path, "/process/capabilities", &HashSet::from(["CAP_KILL"])).unwrap();
        let left = fs::read_to_string(&path).unwrap();
        fs::remove_file(&path).unwrap();
        assert_eq!(left, r#"{"process":{"args":["x"],"capabilities":{"bounding":["CAP_KILL"]}}}"#);
    }
}
