//! Who a client is: usernames of all schemes to keys.

use std::cell::Cell;

use contract::turn_credentials::{LiveKitUser, RestUser};
use rustc_hash::FxHashMap;
use sha2::{Digest as _, Sha256};

use crate::api::Credentials;
use crate::stun::{Algorithm, Key, Message};

/// A user whose request is authentic.
#[derive(Debug, Clone)]
pub(crate) struct User {
    /// USERNAME as the client gives it.
    pub(crate) username: Box<[u8]>,
    /// Whom allocations are counted for: the same person with newer credentials is the same.
    pub(crate) quota: Box<str>,
    /// SHA-256 of username and realm (RFC 8489 section 14.4).
    pub(crate) userhash: [u8; 32],
    /// Keys by algorithm: kept, so that a session outlives its secret.
    pub(crate) md5: Key,
    /// See `md5`.
    pub(crate) sha256: Key,
    /// When the credentials end, in seconds since 1970.
    pub(crate) expiry_s: Option<u64>,
}

impl User {
    fn new(
        username: &str,
        quota: String,
        realm: &str,
        password: &str,
        expiry: Option<u64>,
    ) -> Self {
        let (name, realm, password) = (username.as_bytes(), realm.as_bytes(), password.as_bytes());
        Self {
            username: name.into(),
            quota: quota.into(),
            userhash: userhash(name, realm),
            md5: Key::long_term(Algorithm::Md5, name, realm, password),
            sha256: Key::long_term(Algorithm::Sha256, name, realm, password),
            expiry_s: expiry,
        }
    }

    /// The key that requests with this algorithm are signed with.
    pub(crate) fn key(&self, algorithm: Algorithm) -> Key {
        match algorithm {
            Algorithm::Md5 => self.md5,
            Algorithm::Sha256 => self.sha256,
        }
    }

    /// Whether a request names this user.
    pub(crate) fn is_named_by(&self, message: &Message<'_>) -> bool {
        match (message.username, message.userhash) {
            (Some(username), _) => *self.username == *username,
            (None, Some(userhash)) => self.userhash == *userhash,
            (None, None) => false,
        }
    }
}

/// All credentials, ready for look-ups.
#[derive(Debug)]
pub(crate) struct Users {
    realm: String,
    credentials: Credentials,
    by_hash: FxHashMap<[u8; 32], usize>,
}

impl Users {
    pub(crate) fn new(realm: &str, credentials: Credentials) -> Self {
        let hash = |name: &String| userhash(name.as_bytes(), realm.as_bytes());
        let users = credentials.users.iter().enumerate();
        let by_hash = users.map(|(index, (name, _))| (hash(name), index)).collect();
        Self { realm: realm.to_owned(), credentials, by_hash }
    }

    /// Whether every user can be found by USERHASH.
    pub(crate) fn only_static(credentials: &Credentials) -> bool {
        credentials.api_keys.is_empty()
            && credentials.rest_secrets.is_empty()
            && !credentials.users.is_empty()
    }

    /// The user that made the request, if its integrity is right. Whoever is unknown costs as
    /// much as a wrong password.
    pub(crate) fn verify(&self, message: &Message<'_>, algorithm: Algorithm) -> Option<User> {
        let name = message.username.map(|name| std::str::from_utf8(name).unwrap_or_default());
        let is_tried = Cell::new(false);
        let check = |user: User| {
            is_tried.set(true);
            message.is_authentic(user.key(algorithm)).then_some(user)
        };
        let found = match name {
            Some(name) => self.by_name(name, &check),
            None => message
                .userhash
                .and_then(|hash| self.by_hash.get(hash))
                .and_then(|index| self.credentials.users.get(*index))
                .and_then(|(name, password)| check(self.fixed(name, password))),
        };
        if !is_tried.get() {
            let name = name.unwrap_or_default();
            let _unknown = check(User::new(name, String::new(), &self.realm, "", None));
            return None;
        }
        found
    }

    fn by_name(&self, name: &str, check: &impl Fn(User) -> Option<User>) -> Option<User> {
        let Credentials { api_keys, rest_secrets, users } = &self.credentials;
        if let Some((_, password)) = users.iter().find(|(user, _)| user == name) {
            return check(self.fixed(name, password));
        }
        if let Some(rest) = RestUser::parse(name) {
            return rest_secrets.iter().find_map(|secret| {
                let password = RestUser::password(secret, name);
                // Without a user in it, the name is all there is.
                let user = if rest.user.is_empty() { name } else { rest.user };
                let quota = format!("rest:{user}");
                check(User::new(name, quota, &self.realm, &password, Some(rest.expiry_s)))
            });
        }
        let user = LiveKitUser::parse(name)?;
        let (_, secret) = api_keys.iter().find(|(key, _)| *key == user.api_key)?;
        let quota = format!("livekit:{}|{}", user.api_key, user.participant);
        let password = user.password(secret);
        check(User::new(name, quota, &self.realm, &password, Some(user.expiry_s)))
    }

    fn fixed(&self, name: &str, password: &str) -> User {
        User::new(name, format!("user:{name}"), &self.realm, password, None)
    }
}

fn userhash(username: &[u8], realm: &[u8]) -> [u8; 32] {
    Sha256::digest([username, realm].join(&b':')).into()
}
