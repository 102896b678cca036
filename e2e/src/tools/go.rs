//! Finds a Go toolchain that is new enough, or fetches one as a Go module.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::artifact_cache;
use crate::process::{Run as _, is_installed};
use crate::stage::stage;

/// The oldest toolchain that the tools' modules accept.
const MINIMUM: (u32, u32, u32) = (1, 26, 6);
/// Fetched when the machine has none or an older one.
const WANTED: &str = "1.26.8";

/// A Go toolchain.
#[derive(Clone, Debug)]
pub struct Toolchain {
    /// The `go` command.
    pub program: PathBuf,
    /// Its version, as in `go1.26.8`.
    pub version: String,
}

impl Toolchain {
    /// Returns the machine's toolchain if it is new enough, else the fetched one.
    pub fn find() -> Result<Self> {
        if let Some(found) = Self::at(Path::new("go")).filter(Self::is_new_enough) {
            return Ok(found);
        }
        let fetched = fetched_program()?;
        if let Some(found) = Self::at(&fetched) {
            return Ok(found);
        }
        if !is_installed("go") {
            bail!(
                "Go is missing: install it (any version; on Debian `apt-get install golang-go`), \
                 the right one is then fetched as a Go module"
            );
        }
        stage("fetch the Go toolchain", || fetch(&fetched))?;
        Self::at(&fetched).context("the fetched Go toolchain does not run")
    }

    /// Starts a `go` command that uses this very toolchain.
    #[must_use]
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.env("GOTOOLCHAIN", "local").env_remove("GOFLAGS");
        if let Some(root) = self.program.parent().and_then(Path::parent)
            && self.program.is_absolute()
        {
            command.env("GOROOT", root);
        }
        command
    }

    fn at(program: &Path) -> Option<Self> {
        let unknown = Self { program: program.to_path_buf(), version: String::new() };
        let version = unknown.command().args(["env", "GOVERSION"]).read().ok()?;
        Some(Self { version: version.trim().to_owned(), ..unknown })
    }

    fn is_new_enough(&self) -> bool {
        parse_version(&self.version).is_some_and(|version| version >= MINIMUM)
    }
}

/// Reads `go1.26.8`; a missing last part counts as zero.
fn parse_version(text: &str) -> Option<(u32, u32, u32)> {
    let mut parts = text.strip_prefix("go")?.split('.').map(str::parse::<u32>);
    let major = parts.next()?.ok()?;
    let minor = parts.next()?.ok()?;
    let patch = parts.next().unwrap_or(Ok(0)).ok()?;
    Some((major, minor, patch))
}

fn module_version() -> String {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let system = match std::env::consts::OS {
        "macos" => "darwin",
        other => other,
    };
    format!("v0.0.1-go{WANTED}.{system}-{architecture}")
}

fn fetched_program() -> Result<PathBuf> {
    Ok(artifact_cache::directory()?.join("tools").join(format!("go-{WANTED}")).join("bin/go"))
}

/// An old `go` cannot switch toolchains by itself, but it can download one: toolchains are
/// ordinary modules, checked against the checksum database like any other.
fn fetch(program: &Path) -> Result<()> {
    let root = program.parent().and_then(Path::parent).context("a toolchain has a root")?;
    let cache = artifact_cache::directory()?.join("tools");
    let _lock = artifact_cache::lock(&cache, "go")?;
    if root.is_dir() {
        return Ok(());
    }
    let partial = cache.join("go.partial");
    artifact_cache::remove_directory(&partial)?;
    fs::create_dir_all(&partial)?;
    let module = format!("golang.org/toolchain@{}", module_version());
    let answer = Command::new("go")
        .current_dir(&partial)
        .env("GOFLAGS", "-mod=mod")
        .args(["mod", "download", "-json", &module])
        .read()?;
    let answer: serde_json::Value = serde_json::from_str(&answer)?;
    let directory = answer["Dir"].as_str().context("go did not say where the module is")?;
    let copy = partial.join("toolchain");
    Command::new("cp").args(["-r", directory]).arg(&copy).run()?;
    Command::new("chmod").args(["-R", "u+w"]).arg(&copy).run()?;
    // Modules carry no executable bits.
    for folder in ["bin".into(), tool_directory(&copy)?] {
        for entry in fs::read_dir(copy.join(&folder))? {
            fs::set_permissions(entry?.path(), fs::Permissions::from_mode(0o755))?;
        }
    }
    fs::rename(&copy, root).context("publishing the Go toolchain")?;
    artifact_cache::remove_directory(&partial)
}

fn tool_directory(root: &Path) -> Result<PathBuf> {
    let entry = fs::read_dir(root.join("pkg/tool"))?.next().context("pkg/tool is empty")??;
    Ok(Path::new("pkg/tool").join(entry.file_name()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_by_number() {
        for (text, version) in [
            ("go1.26.8", Some((1, 26, 8))),
            ("go1.27", Some((1, 27, 0))),
            ("go1.19.8", Some((1, 19, 8))),
            ("devel", None),
            ("go1.x", None),
        ] {
            assert_eq!(parse_version(text), version, "{text}");
        }
        let go = |version: &str| Toolchain { program: "go".into(), version: version.into() };
        assert!(go("go1.26.6").is_new_enough());
        assert!(!go("go1.26.5").is_new_enough());
        assert!(!go("go1.9.9").is_new_enough());
    }

    #[test]
    fn fetched_version_is_new_enough() {
        assert!(parse_version(&format!("go{WANTED}")).unwrap() >= MINIMUM);
    }
}
