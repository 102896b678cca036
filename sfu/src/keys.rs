//! The API keys of the cluster, read again when their file changes.

use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use contract::access_token::{ApiKeys, Claims, MoreClaims, TokenError};
use contract::turn_credentials::{LiveKitUser, TurnCredentials};
use parking_lot::{Mutex, RwLock};

use crate::settings::{KeySource, Settings, SettingsError};

/// How often the file is looked at; a Secret that changes takes about a minute to arrive.
const RELOAD: Duration = Duration::from_secs(10);

/// The current API keys.
pub struct Keys {
    current: RwLock<ApiKeys>,
    /// The key of TURN credentials: one that other pods have had for a while, too.
    turn: Mutex<Option<String>>,
    file: Option<PathBuf>,
}

impl Keys {
    /// Reads them.
    ///
    /// # Errors
    ///
    /// When the file cannot be read or holds no key.
    pub fn load(settings: &Settings) -> Result<Self, SettingsError> {
        let current = RwLock::new(settings.load_keys()?);
        let file = match &settings.keys {
            KeySource::File(path) => Some(path.clone()),
            KeySource::Fixed(_) => None,
        };
        Ok(Self { current, turn: Mutex::default(), file })
    }

    /// Checks a token at this moment.
    ///
    /// # Errors
    ///
    /// With why it is not accepted.
    pub fn verify(&self, token: &str) -> Result<Claims, TokenError> {
        let unix_time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.current.read().verify(token, unix_time)
    }

    /// Credentials for the TURN servers of the cluster. They are by the same key as long as it is
    /// there: a new one reaches this pod before others, whose servers would refuse it.
    pub fn turn_credentials(&self, participant: &str, expiry_s: u64) -> Option<TurnCredentials> {
        let keys = self.current.read();
        let mut chosen = self.turn.lock();
        if chosen.as_ref().is_none_or(|key| keys.secret(key).is_none()) {
            *chosen = keys.signing().map(|(key, _)| key.to_owned());
        }
        let api_key = chosen.clone()?;
        let secret = keys.secret(&api_key)?;
        let participant = participant.to_owned();
        Some(LiveKitUser { api_key, participant, expiry_s }.credentials(secret))
    }

    /// Signs with the key that the claims name as issuer, else with the first.
    ///
    /// # Errors
    ///
    /// When there is no key.
    pub fn sign(&self, claims: Claims) -> Result<String, TokenError> {
        self.sign_more(claims, &MoreClaims::default())
    }

    /// The same with what else the token shall say.
    ///
    /// # Errors
    ///
    /// When there is no key.
    pub fn sign_more(&self, claims: Claims, more: &MoreClaims) -> Result<String, TokenError> {
        let keys = self.current.read();
        let key = match keys.secret(&claims.iss) {
            Some(_) => claims.iss.clone(),
            None => keys.signing().map(|(key, _)| key.to_owned()).unwrap_or_default(),
        };
        keys.sign_more(&key, claims, more)
    }

    /// Reads the file again whenever it changed. A bad file leaves the old keys in force.
    pub async fn watch(&self, settings: &Settings) {
        let Some(file) = &self.file else { return };
        let mut known = std::fs::read(file).ok();
        let mut ticks = tokio::time::interval(RELOAD);
        loop {
            ticks.tick().await;
            let content = tokio::fs::read(file).await.ok();
            if content == known {
                continue;
            }
            match settings.load_keys() {
                Ok(keys) => {
                    *self.current.write() = keys;
                    known = content;
                    tracing::info!("API keys were read again");
                }
                Err(error) => tracing::warn!(%error, "Changed API keys were not taken"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(names: &[&str]) -> ApiKeys {
        names.iter().map(|name| ((*name).to_owned(), format!("secret of {name}"))).collect()
    }

    #[test]
    fn turn_credentials_keep_to_a_key_until_it_is_gone() {
        let file =
            Keys { current: RwLock::new(keys(&["middle"])), turn: Mutex::default(), file: None };
        let key = || {
            let made = file.turn_credentials("PA_a", 1_700_000_000).unwrap();
            LiveKitUser::parse(&made.username).unwrap().api_key
        };
        for (names, expected) in [
            (&["middle"][..], "middle"),
            (&["first", "middle"], "middle"),
            (&["first"], "first"),
            (&["a", "first", "z"], "first"),
        ] {
            *file.current.write() = keys(names);
            assert_eq!(key(), expected, "{names:?}");
        }
        *file.current.write() = ApiKeys::default();
        assert_eq!(file.turn_credentials("PA_a", 1), None);
    }
}
