//! What takes long to build, kept outside the tree under a name made of its inputs.
//!
//! An entry is a directory `<name>-<hash>`. It is built beside its final place and renamed
//! into it, so that it is there whole or not at all; a lock file per name makes a second
//! builder wait instead of building it twice.

use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result};
use sha2::{Digest as _, Sha256};

/// Digits of the hash in an entry's name: 64 bits tell inputs apart without care.
const HASH_DIGITS: usize = 16;
/// An entry of other inputs goes when nobody has asked for it for so long: another checkout may
/// be running it.
const UNUSED: Duration = Duration::from_hours(24);

/// Returns the directory of the cache: `$XDG_CACHE_HOME/livecluster`.
pub fn directory() -> Result<PathBuf> {
    base_directory("XDG_CACHE_HOME", ".cache")
}

/// Returns the directory of running clusters: `$XDG_STATE_HOME/livecluster`.
pub fn state_directory() -> Result<PathBuf> {
    base_directory("XDG_STATE_HOME", ".local/state")
}

fn base_directory(variable: &str, below_home: &str) -> Result<PathBuf> {
    let base = match env::var_os(variable).filter(|value| !value.is_empty()) {
        Some(base) => PathBuf::from(base),
        None => PathBuf::from(env::var_os("HOME").context("HOME is not set")?).join(below_home),
    };
    Ok(base.join("livecluster"))
}

/// Hashes the inputs of an artifact; each part is framed, so that no two lists are alike.
#[derive(Clone, Default)]
pub struct InputHash(Sha256);

impl InputHash {
    /// Starts with no input.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a value.
    #[must_use]
    pub fn with(mut self, value: impl AsRef<[u8]>) -> Self {
        let value = value.as_ref();
        self.0.update(u64::try_from(value.len()).unwrap_or(u64::MAX).to_be_bytes());
        self.0.update(value);
        self
    }

    /// Adds a file by its name and content, or a directory by all of its files in order.
    pub fn with_path(mut self, path: &Path) -> Result<Self> {
        if path.is_dir() {
            let entries =
                fs::read_dir(path).with_context(|| format!("reading {}", path.display()))?;
            let mut children: Vec<PathBuf> =
                entries.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
            children.sort();
            for child in children {
                self = self.with_path(&child)?;
            }
            return Ok(self);
        }
        let content = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
        let name = path.file_name().context("a file has a name")?;
        Ok(self.with(name.as_encoded_bytes()).with(content))
    }

    /// Returns the hash as hexadecimal digits.
    #[must_use]
    pub fn finish(self) -> String {
        let mut digits = hex::encode(self.0.finalize());
        digits.truncate(HASH_DIGITS);
        digits
    }
}

/// Holds the lock of one name until dropped.
pub struct Lock {
    _file: File,
}

/// Waits for the lock of `name` in `directory`.
pub fn lock(directory: &Path, name: &str) -> Result<Lock> {
    fs::create_dir_all(directory).with_context(|| format!("creating {}", directory.display()))?;
    let path = directory.join(format!("{name}.lock"));
    let file = File::create(&path).with_context(|| format!("creating {}", path.display()))?;
    if file.try_lock().is_err() {
        crate::stage::say(&format!("    waiting for another process to finish {name}"));
        file.lock().with_context(|| format!("locking {}", path.display()))?;
    }
    Ok(Lock { _file: file })
}

/// Returns the entry of `name` and `hash`, built by `build` in a new directory if absent.
pub fn get_or_build(
    cache: &Path,
    name: &str,
    hash: &str,
    build: impl FnOnce(&Path) -> Result<()>,
) -> Result<PathBuf> {
    let entry = cache.join(format!("{name}-{hash}"));
    if entry.is_dir() {
        note_use(&entry)?;
        return Ok(entry);
    }
    let _lock = lock(cache, name)?;
    if entry.is_dir() {
        return Ok(entry);
    }
    let partial = cache.join(format!("{name}.partial"));
    remove_directory(&partial)?;
    fs::create_dir_all(&partial).with_context(|| format!("creating {}", partial.display()))?;
    build(&partial)?;
    fs::rename(&partial, &entry).with_context(|| format!("publishing {}", entry.display()))?;
    remove_unused(cache, name, &entry)?;
    Ok(entry)
}

/// Removes a directory with all it holds; an absent one is fine.
pub fn remove_directory(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing {}", path.display()))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// The time of change of an entry's directory is that of its last use.
fn note_use(entry: &Path) -> Result<()> {
    File::open(entry)
        .and_then(|directory| directory.set_modified(SystemTime::now()))
        .with_context(|| format!("noting the use of {}", entry.display()))
}

/// Removes entries of other inputs that are no longer asked for.
fn remove_unused(cache: &Path, name: &str, current: &Path) -> Result<()> {
    for entry in fs::read_dir(cache)? {
        let path = entry?.path();
        let file_name = path.file_name().map(|n| n.to_string_lossy().into_owned());
        let hash = file_name.as_deref().and_then(|n| n.strip_prefix(name)?.strip_prefix('-'));
        let is_entry = hash.is_some_and(|h| {
            h.len() == HASH_DIGITS && h.bytes().all(|digit| digit.is_ascii_hexdigit())
        });
        if is_entry && path != current && is_unused(&path) {
            remove_directory(&path)?;
        }
    }
    Ok(())
}

fn is_unused(entry: &Path) -> bool {
    let used = fs::metadata(entry).and_then(|metadata| metadata.modified());
    used.is_ok_and(|used| used.elapsed().is_ok_and(|since| since > UNUSED))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory of the test's own, removed at the end.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let path = env::temp_dir().join(format!("e2e-{name}-{}", std::process::id()));
            remove_directory(&path).unwrap();
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = remove_directory(&self.0);
        }
    }

    #[test]
    fn hash_depends_on_the_border_between_inputs() {
        assert_ne!(
            InputHash::new().with("ab").with("c").finish(),
            InputHash::new().with("a").with("bc").finish()
        );
    }

    #[test]
    fn hash_of_a_directory_changes_with_name_and_content_of_its_files() {
        let scratch = Scratch::new("hash");
        let hash = || InputHash::new().with_path(&scratch.0).unwrap().finish();
        fs::write(scratch.0.join("a"), "1").unwrap();
        let first = hash();
        assert_eq!(first, hash());
        fs::write(scratch.0.join("a"), "2").unwrap();
        let second = hash();
        assert_ne!(first, second);
        fs::rename(scratch.0.join("a"), scratch.0.join("b")).unwrap();
        assert_ne!(second, hash());
    }

    #[test]
    fn entry_is_built_once_and_an_unused_one_goes() {
        let scratch = Scratch::new("entry");
        let old = "0".repeat(HASH_DIGITS);
        let new = "1".repeat(HASH_DIGITS);
        let newest = "3".repeat(HASH_DIGITS);
        let build = |directory: &Path| Ok(fs::write(directory.join("x"), "y")?);
        let first = get_or_build(&scratch.0, "t", &old, build).unwrap();
        assert_eq!(fs::read_to_string(first.join("x")).unwrap(), "y");
        get_or_build(&scratch.0, "t", &old, |_| anyhow::bail!("built twice")).unwrap();
        get_or_build(&scratch.0, "t-other", &old, build).unwrap();
        get_or_build(&scratch.0, "t", &new, build).unwrap();
        assert!(first.exists());
        let long_ago = SystemTime::now() - 2 * UNUSED;
        File::open(&first).unwrap().set_modified(long_ago).unwrap();
        get_or_build(&scratch.0, "t", &newest, build).unwrap();
        assert!(!first.exists());
        assert!(scratch.0.join(format!("t-other-{old}")).exists());
    }

    #[test]
    fn failed_build_leaves_no_entry() {
        let scratch = Scratch::new("failed");
        let hash = "2".repeat(HASH_DIGITS);
        get_or_build(&scratch.0, "t", &hash, |_| anyhow::bail!("no")).unwrap_err();
        assert!(!scratch.0.join(format!("t-{hash}")).exists());
    }
}
