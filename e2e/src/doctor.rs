//! Says what a machine has, what it lacks and how long a cold start will take; installs what
//! is missing where that is possible: on Debian, as root.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail};

use crate::artifact_cache;
use crate::cluster::{Kind, choice};
use crate::process::{Run as _, is_installed, is_root};
use crate::stage::{say, stage};
use crate::tools::{BARE_MACHINE as BARE_TOOLS, Toolchain};

/// Something the machine must have.
#[derive(Clone, Copy, Debug)]
pub struct Requirement {
    /// A program on the search path; a file if it begins with a slash (Linux only, since others
    /// keep their files elsewhere); a module of Python if it begins with `python3:`.
    pub has: &'static str,
    /// The Debian package with it.
    pub package: &'static str,
    /// Why it is wanted.
    pub why: &'static str,
}

const fn need(has: &'static str, package: &'static str, why: &'static str) -> Requirement {
    Requirement { has, package, why }
}

/// What a bare machine needs for its cluster.
pub const BARE_MACHINE: &[Requirement] = &[
    need("dockerd", "docker.io", "container engine"),
    need("debootstrap", "debootstrap", "system of the nodes"),
    need("ip", "iproute2", "network of the cluster"),
    need("iptables", "iptables", "network of the cluster"),
    need("nsenter", "util-linux", "network of the cluster"),
    need("go", "golang-go", "fetches the right Go, which builds Kubernetes"),
    need("gcc", "gcc", "builds runc"),
    need("pkg-config", "pkg-config", "builds runc"),
    need("/usr/include/seccomp.h", "libseccomp-dev", "builds runc"),
];
/// What the assembly of images needs.
pub const IMAGES: &[Requirement] = &[
    need("redis-server", "redis-server", "image of Redis"),
    need("ldd", "libc-bin", "libraries of the programs"),
    need("/etc/ssl/certs/ca-certificates.crt", "ca-certificates", "certificates in the images"),
];
/// What the compiler needs besides Rust.
const BUILD: &[Requirement] = &[
    need("cc", "gcc", "compiles C parts and links"),
    need("pkg-config", "pkg-config", "finds OpenSSL"),
    need("/usr/include/openssl/ssl.h", "libssl-dev", "DTLS of the media node"),
];
/// What the bundling of the web page needs.
const WEB: &[Requirement] =
    &[need("node", "nodejs", "bundles the page"), need("npm", "npm", "fetches its packages")];
/// What the tests need: clients, networks to break, and a Redis.
const TESTS: &[Requirement] = &[
    need("chromium", "chromium", "browsers of the tests"),
    need("node", "nodejs", "drives the browsers"),
    need("npm", "npm", "fetches packages of the clients"),
    need("go", "golang-go", "builds LiveKit's load tester"),
    need("python3", "python3", "client with the Python SDK"),
    need("python3:ensurepip", "python3-venv", "keeps the Python SDK apart"),
    need("python3:gi", "python3-gi", "client with GStreamer"),
    need("/usr/share/doc/gir1.2-gst-plugins-bad-1.0", "gir1.2-gst-plugins-bad-1.0", "its bindings"),
    need("/usr/share/doc/gstreamer1.0-plugins-base", "gstreamer1.0-plugins-base", "its codecs"),
    need(
        "/usr/share/doc/gstreamer1.0-plugins-good",
        "gstreamer1.0-plugins-good",
        "its RTP and VP8",
    ),
    need("/usr/share/doc/gstreamer1.0-plugins-bad", "gstreamer1.0-plugins-bad", "its webrtcbin"),
    need("/usr/share/doc/gstreamer1.0-nice", "gstreamer1.0-nice", "its ICE"),
    need("ip", "iproute2", "networks of the tests"),
    need("iptables", "iptables", "loses packets in them"),
    need("nsenter", "util-linux", "networks of the tests"),
    need("redis-server", "redis-server", "tests against a real Redis"),
    need("turnutils_uclient", "coturn", "TURN clients that are not ours"),
];

/// A part of the work with needs of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Part {
    /// Compiling the programs.
    Build,
    /// Bundling the web page.
    Web,
    /// Running the tests.
    Tests,
}

impl Part {
    /// Returns what the part needs.
    #[must_use]
    pub const fn requirements(self) -> &'static [Requirement] {
        match self {
            Self::Build => BUILD,
            Self::Web => WEB,
            Self::Tests => TESTS,
        }
    }
}

/// Disk that the caches and a running cluster take, in GB.
const DISK_GB: u64 = 25;
/// Memory that the cluster, two browsers and the compiler take, in GB.
const MEMORY_GB: u64 = 6;
/// The workspace itself, cold, on two cores, in seconds.
const CARGO_SECONDS: u32 = 480;
/// Debian system and node image, cold, in seconds.
const NODE_IMAGE_SECONDS: u32 = 135;

impl Requirement {
    fn is_met(self) -> bool {
        if let Some(module) = self.has.strip_prefix("python3:") {
            let import = format!("import {module}");
            return Command::new("python3").args(["-c", &import]).succeeds();
        }
        if self.has.starts_with('/') {
            cfg!(not(target_os = "linux")) || Path::new(self.has).exists()
        } else {
            is_installed(self.has)
        }
    }
}

/// Installs what is missing, or says plainly what it is.
pub fn install(requirements: &[Requirement]) -> Result<()> {
    let missing = missing(requirements);
    if missing.is_empty() {
        return Ok(());
    }
    if !is_root() || !is_installed("apt-get") {
        bail!("missing on this machine:\n{}", list(&missing));
    }
    let packages: Vec<&str> = missing.iter().map(|requirement| requirement.package).collect();
    stage(&format!("install {}", packages.join(" ")), || {
        apt(&["update"])?;
        apt(&[&["install", "--yes", "--no-install-recommends"], packages.as_slice()].concat())
    })
}

fn apt(arguments: &[&str]) -> Result<()> {
    Command::new("apt-get").env("DEBIAN_FRONTEND", "noninteractive").args(arguments).run()
}

fn missing(requirements: &[Requirement]) -> Vec<Requirement> {
    requirements.iter().copied().filter(|requirement| !requirement.is_met()).collect()
}

fn list(missing: &[Requirement]) -> String {
    let lines = missing.iter().map(|requirement| {
        let Requirement { has, package, why } = requirement;
        format!("  {has}: {why} (Debian package {package})\n")
    });
    lines.collect()
}

/// Prints what the machine has and lacks; fails if something essential is missing.
pub fn examine() -> Result<()> {
    let kind = choice::choose();
    say(&format!("system:   {} {}", std::env::consts::OS, std::env::consts::ARCH));
    say(&format!("root:     {}", if is_root() { "yes" } else { "no" }));
    say(&format!("rustc:    {}", version("rustc", &["--version"])));
    say(&format!("go:       {}", version("go", &["env", "GOVERSION"])));
    say(&format!("node:     {}", version("node", &["--version"])));
    say(&format!("docker:   {}", version("docker", &["version", "-f", "{{.Server.Version}}"])));
    let mut problems = resources()?;
    match &kind {
        Ok(kind) => say(&format!("cluster:  {kind:?} (override with {})", choice::VARIABLE)),
        Err(error) => problems.push(error.to_string()),
    }
    let mut requirements = [BUILD, IMAGES, WEB, TESTS].concat();
    let mut seconds = CARGO_SECONDS;
    if let Ok(Kind::Bare) = kind {
        requirements.extend_from_slice(BARE_MACHINE);
        seconds += cold_seconds()?;
    }
    let missing = missing(&requirements);
    if !missing.is_empty() {
        let how = if is_root() && is_installed("apt-get") {
            "make installs it by itself"
        } else {
            "to be installed by hand"
        };
        say(&format!("missing ({how}):\n{}", list(&missing).trim_end()));
    }
    say(&format!("start:    about {} min until tests run", seconds.div_ceil(60)));
    if problems.is_empty() {
        return Ok(());
    }
    bail!("{}", problems.join("\n"))
}

/// What is built already costs nothing.
fn cold_seconds() -> Result<u32> {
    let go = Toolchain::find().ok();
    let mut seconds = 0;
    for tool in BARE_TOOLS {
        let built = match &go {
            Some(go) => tool.built(go)?.is_some(),
            None => false,
        };
        seconds += if built { 0 } else { tool.cold_seconds };
    }
    let cache = artifact_cache::directory()?;
    let has_root = fs::read_dir(cache)
        .into_iter()
        .flatten()
        .flatten()
        .any(|entry| entry.file_name().to_string_lossy().starts_with("rootfs-"));
    Ok(seconds + if has_root { 0 } else { NODE_IMAGE_SECONDS })
}

fn resources() -> Result<Vec<String>> {
    let mut problems = Vec::new();
    let cache = artifact_cache::directory()?;
    fs::create_dir_all(&cache)?;
    let table = Command::new("df").arg("-Pk").arg(&cache).read()?;
    if let Some(free) = free_gb(&table) {
        say(&format!("disk:     {free} GB free for {}", cache.display()));
        if free < DISK_GB {
            problems.push(format!("disk: {DISK_GB} GB are wanted, {free} GB are free"));
        }
    }
    if let Some(memory) = fs::read_to_string("/proc/meminfo").ok().and_then(|text| memory_gb(&text))
    {
        say(&format!("memory:   {memory} GB available"));
        if memory < MEMORY_GB {
            problems.push(format!("memory: {MEMORY_GB} GB are wanted, {memory} GB are available"));
        }
    }
    Ok(problems)
}

/// Reads the fourth column of `df -Pk`, in kilobytes.
fn free_gb(table: &str) -> Option<u64> {
    let free: u64 = table.lines().nth(1)?.split_whitespace().nth(3)?.parse().ok()?;
    Some(free >> 20)
}

fn memory_gb(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kilobytes: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kilobytes >> 20)
}

fn version(program: &str, arguments: &[&str]) -> String {
    Command::new(program)
        .args(arguments)
        .read()
        .map_or_else(|_| "none".to_owned(), |text| text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_things_are_named_with_their_package() {
        let absent = need("no-such-program", "some-package", "reason");
        let file = need("/no/such/file", "other-package", "reason");
        let present = need("sh", "dash", "reason");
        let module = need("python3:no_such_module", "python3-module", "reason");
        let missing = missing(&[absent, present, file, module]);
        let text = list(&missing);
        assert!(text.contains("no-such-program: reason (Debian package some-package)"));
        assert!(text.contains("/no/such/file") && !text.contains("dash"));
        assert!(text.contains("python3-module"));
    }

    #[test]
    fn disk_and_memory_are_read_in_gigabytes() {
        let table = "Filesystem 1024-blocks Used Available Capacity Mounted on\n\
            /dev/vda 100 100 41943040 29% /\n";
        assert_eq!(free_gb(table), Some(40));
        assert_eq!(memory_gb("MemTotal: 1 kB\nMemAvailable:  8388608 kB\n"), Some(8));
        assert_eq!(free_gb(""), None);
    }
}
