//! Makes the client programs ready to run, outside the tree: npm packages and the bundle of the
//! browser client, the virtual environment of the Python client.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::artifact_cache::{self, InputHash};
use crate::process::{Run as _, is_installed};
use crate::repository;
use crate::stage::stage;

/// Names the browser to use; without it, the usual names are looked for.
const CHROMIUM_VARIABLE: &str = "CHROMIUM";
const CHROMIUM_NAMES: [&str; 4] = ["chromium", "chromium-browser", "google-chrome", "chrome"];

/// What the browser client is built from.
const BROWSER_INPUTS: [&str; 6] =
    ["package.json", "package-lock.json", ".npmrc", "tsconfig.json", "build.mjs", "src"];

/// Returns the directory of the built browser client.
pub(super) fn browser_client() -> Result<PathBuf> {
    let source = repository().join("e2e/clients/browser");
    let mut hash = InputHash::new();
    for input in BROWSER_INPUTS {
        hash = hash.with_path(&source.join(input))?;
    }
    let cache = artifact_cache::directory()?;
    artifact_cache::get_or_build(&cache, "browser-client", &hash.finish(), |directory| {
        stage("browser client", || {
            for input in BROWSER_INPUTS {
                copy(&source.join(input), &directory.join(input))?;
            }
            npm(directory, &["ci"])?;
            npm(directory, &["run", "build"])
        })
    })
}

/// Returns a copy of `clients/<name>` with its npm packages.
pub(super) fn node_programs(name: &str) -> Result<PathBuf> {
    let source = repository().join("e2e/clients").join(name);
    let sources = files(&source)?;
    let mut hash = InputHash::new();
    for path in &sources {
        hash = hash.with_path(path)?;
    }
    let cache = artifact_cache::directory()?;
    artifact_cache::get_or_build(&cache, &format!("{name}-client"), &hash.finish(), |directory| {
        stage(&format!("npm packages of {name}"), || {
            for path in &sources {
                copy(path, &directory.join(path.file_name().context("a file has a name")?))?;
            }
            npm(directory, &["ci"])
        })
    })
}

/// Files of a directory in order, without what npm may have left there.
fn files(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_file() {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

/// Returns the Python interpreter of the environment of `clients/<name>`.
pub(super) fn python(name: &str) -> Result<PathBuf> {
    let requirements = repository().join("e2e/clients").join(name).join("requirements.txt");
    let version = Command::new("python3").arg("--version").read().context("python3 is missing")?;
    let hash = InputHash::new().with(&version).with_path(&requirements)?.finish();
    let cache = artifact_cache::directory()?;
    let entry =
        artifact_cache::get_or_build(&cache, &format!("{name}-client"), &hash, |directory| {
            stage(&format!("Python environment of {name}"), || {
                Command::new("python3").args(["-m", "venv"]).arg(directory).run()?;
                Command::new(directory.join("bin/python"))
                    .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r"])
                    .arg(&requirements)
                    .run()
            })
        })?;
    Ok(entry.join("bin/python"))
}

/// Returns the browser's program.
pub(super) fn chromium() -> Result<PathBuf> {
    if let Some(path) = env::var_os(CHROMIUM_VARIABLE) {
        return Ok(path.into());
    }
    let found = CHROMIUM_NAMES.into_iter().find(|name| is_installed(name)).with_context(|| {
        format!("no Chromium is installed; install one or set {CHROMIUM_VARIABLE} to its program")
    })?;
    let path = Command::new("sh").args(["-c", "command -v \"$0\"", found]).read()?;
    Ok(path.trim().into())
}

fn npm(directory: &Path, arguments: &[&str]) -> Result<()> {
    Command::new("npm").args(arguments).current_dir(directory).run()
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    if from.is_dir() {
        fs::create_dir_all(to)?;
        for entry in fs::read_dir(from)? {
            let entry = entry?;
            copy(&entry.path(), &to.join(entry.file_name()))?;
        }
        return Ok(());
    }
    fs::copy(from, to).with_context(|| format!("copying {}", from.display())).map(drop)
}
