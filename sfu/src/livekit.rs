//! `sfu livekit`: starts as `livekit-server` does, with its configuration file, flags and
//! environment variables.
//!
//! What carries over means the same. A key that this server does not act on is named with the
//! reason; one that LiveKit does not know is an error.

mod entries;
mod known;
mod translate;

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use thiserror::Error;

use crate::settings::{DEV_KEY, KeySource, Settings, SettingsError, read};

pub use entries::{Entries, Sources};
pub use translate::{Translation, translate};

/// Why the process cannot start as LiveKit's.
#[derive(Debug, Error)]
pub enum LiveKitError {
    /// A file.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// The flags, or the form of the configuration.
    #[error("{0}")]
    Form(String),
    /// Keys that are unknown, refused or wrong: a line for each.
    #[error("the configuration is not taken:\n{}", .0.join("\n"))]
    Refused(Vec<String>),
    /// There is no API key.
    #[error("one of key_file, keys, --key-file, --keys or LIVEKIT_KEYS must be given")]
    NoKeys,
    /// Others than the owner may read the secrets.
    #[error("key_file {0}: permissions of others must be 0")]
    KeyFilePermissions(String),
}

/// Reads flags, environment and files.
///
/// # Errors
///
/// With everything that is wrong, by name.
pub fn load(
    flags: &[String],
    environment: impl Iterator<Item = (String, String)>,
) -> Result<Settings, LiveKitError> {
    let sources = Sources::parse(flags).map_err(LiveKitError::Form)?;
    let file = sources.config.as_deref().map(|path| read(Path::new(path))).transpose()?;
    let entries = sources.merge(file.as_deref(), environment).map_err(LiveKitError::Form)?;
    let workers = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let translation = translate(entries, workers).map_err(LiveKitError::Refused)?;
    let keys = match &translation.key_file {
        Some(path) => {
            check_permissions(path)?;
            KeySource::File(path.clone())
        }
        None if !translation.keys.is_empty() => {
            KeySource::Fixed(translation.keys.clone().into_iter().collect())
        }
        None if translation.is_dev => {
            let (key, secret) = DEV_KEY;
            KeySource::Fixed([(key.to_owned(), secret.to_owned())].into_iter().collect())
        }
        None => return Err(LiveKitError::NoKeys),
    };
    Ok(translation.into_settings(keys))
}

fn check_permissions(path: &Path) -> Result<(), LiveKitError> {
    let metadata = std::fs::metadata(path)
        .map_err(|source| SettingsError::Read { path: path.to_owned(), source })?;
    if metadata.permissions().mode() & 0o007 == 0 {
        Ok(())
    } else {
        Err(LiveKitError::KeyFilePermissions(path.display().to_string()))
    }
}
