//! Files that the server reads and keeps reading: credentials, nonce keys, peers, certificate.

use std::collections::BTreeMap;
use std::time::Duration;

use contract::access_token::ApiKeys;
use contract::turn_config::{MediaPeer, PeersFile, TurnConfig};
use rand::Rng as _;
use turn_server_core::api::{Credentials, NonceKeys, PeerPolicy, Settings};

use crate::reload::Watched;
use crate::settings::DEV_USER;
use crate::tls::{Certificate, CertificateError, PemPair};

/// Most lines of a file with secrets.
const MAX_SECRETS: usize = 16;

/// All files, and what they say.
pub(crate) struct Files {
    keys: Option<Watched>,
    rest_secrets: Option<Watched>,
    users: Option<Watched>,
    nonce_keys: Option<Watched>,
    peers: Option<Watched>,
    pem: Option<PemPair>,
    settings: Settings,
}

impl Files {
    /// Watches the files that the configuration names. What is missing comes later.
    pub(crate) fn new(config: &TurnConfig, dev: bool, workers: u32, own: OwnAddresses) -> Self {
        let watch = |path: &Option<std::path::PathBuf>| path.as_deref().map(Watched::new);
        let mut limits = config.limits.clone();
        limits.allocations = limits.allocations.div_ceil(workers.max(1));
        let mut nonce_key = [0; 32];
        rand::rng().fill_bytes(&mut nonce_key);
        let (name, password) = DEV_USER;
        let users = if dev { vec![(name.to_owned(), password.to_owned())] } else { Vec::new() };
        Self {
            keys: watch(&config.credentials.keys_file),
            rest_secrets: watch(&config.credentials.rest_secrets_file),
            users: watch(&config.credentials.users_file),
            nonce_keys: watch(&config.credentials.nonce_key_file),
            peers: watch(&config.peers.file),
            pem: None,
            settings: Settings {
                credentials: Credentials { users, ..Credentials::default() },
                nonce_keys: NonceKeys(vec![nonce_key]),
                nonce_life: Duration::from_secs(config.credentials.nonce_life_s.into()),
                peers: PeerPolicy {
                    media: Vec::new(),
                    allow: config.peers.allow.clone(),
                    deny: config.peers.deny.clone(),
                    own_addresses: own.addresses,
                    own_ports: own.ports,
                    relay_ports: (!config.peers.own_relays)
                        .then_some(config.relay.ports.first..=config.relay.ports.last),
                },
                limits,
            },
        }
    }

    /// What the files say.
    pub(crate) fn settings(&self) -> Settings {
        self.settings.clone()
    }

    /// Reads what changed; `true` when the workers must be told.
    pub(crate) fn look(&mut self) -> bool {
        let Self { keys, rest_secrets, users, nonce_keys, peers, pem: _, settings } = self;
        let credentials = &mut settings.credentials;
        let changes = [
            look_at(keys, |text| {
                // The same check as the media node's: a file that it refuses is refused here.
                ApiKeys::from_yaml(text)?;
                credentials.api_keys = pairs(text)?;
                Ok(())
            }),
            look_at(rest_secrets, |text| {
                credentials.rest_secrets = lines(text)?;
                Ok(())
            }),
            look_at(users, |text| {
                credentials.users = pairs(text)?;
                Ok(())
            }),
            look_at(nonce_keys, |text| {
                settings.nonce_keys = NonceKeys(nonce_keys_of(text)?);
                Ok(())
            }),
            look_at(peers, |text| {
                let PeersFile { peers } = PeersFile::from_json(text)?;
                settings.peers.media = checked(peers)?;
                Ok(())
            }),
        ];
        changes.contains(&true)
    }

    /// Takes a changed certificate for new connections.
    pub(crate) fn look_at_certificate(&mut self, config: &TurnConfig, certificate: &Certificate) {
        let Some(tls) = &config.tls else { return };
        let Ok(pair) = PemPair::read(tls) else { return };
        if self.pem.as_ref() == Some(&pair) {
            return;
        }
        match certificate.replace(&pair) {
            Ok(()) => tracing::info!("A changed certificate is used for new connections"),
            // Files may be replaced one after the other: the next look sees both.
            Err(error) => tracing::warn!(%error, "A changed certificate was not taken"),
        }
        self.pem = Some(pair);
    }

    /// Reads the certificate that the server starts with.
    pub(crate) fn certificate(
        &mut self,
        config: &TurnConfig,
    ) -> Result<Option<Certificate>, CertificateError> {
        let Some(tls) = &config.tls else { return Ok(None) };
        let pair = PemPair::read(tls)?;
        let certificate = Certificate::new(&pair)?;
        self.pem = Some(pair);
        Ok(Some(certificate))
    }
}

/// Addresses and ports of this server, which are never peers.
pub(crate) struct OwnAddresses {
    pub(crate) addresses: Vec<std::net::IpAddr>,
    pub(crate) ports: Vec<u16>,
}

fn look_at(file: &mut Option<Watched>, take: impl FnOnce(&str) -> Result<(), String>) -> bool {
    file.as_mut().is_some_and(|file| {
        file.look(|bytes| take(std::str::from_utf8(bytes).map_err(|error| error.to_string())?))
    })
}

/// A YAML map of text to text.
fn pairs(text: &str) -> Result<Vec<(String, String)>, String> {
    let map: BTreeMap<String, String> =
        serde_saphyr::from_str(text).map_err(|error| error.to_string())?;
    Ok(map.into_iter().collect())
}

/// Lines that are not empty.
fn lines(text: &str) -> Result<Vec<String>, String> {
    let lines: Vec<String> =
        text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect();
    if lines.len() > MAX_SECRETS {
        return Err(format!("more than {MAX_SECRETS} lines"));
    }
    Ok(lines)
}

fn nonce_keys_of(text: &str) -> Result<Vec<[u8; 32]>, String> {
    let keys = lines(text)?
        .iter()
        .map(|line| {
            let mut key = [0; 32];
            hex::decode_to_slice(line, &mut key).map(|()| key)
        })
        .collect::<Result<Vec<_>, _>>()
        .map_err(|_| "a line is not a key of 64 hexadecimal digits".to_owned())?;
    if keys.is_empty() { Err("there is no key".to_owned()) } else { Ok(keys) }
}

fn checked(peers: Vec<MediaPeer>) -> Result<Vec<MediaPeer>, String> {
    for MediaPeer { advertised, local, ports } in &peers {
        if ports.contains(&0) {
            return Err(format!("{advertised}: port 0"));
        }
        if local.is_unspecified() || local.is_multicast() {
            return Err(format!("{local} is no address of a media node"));
        }
    }
    Ok(peers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changed_files_change_the_settings_and_bad_ones_do_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let mut config = crate::settings::Settings::dev(0).config;
        config.credentials.keys_file = Some(path("keys"));
        config.credentials.rest_secrets_file = Some(path("secrets"));
        config.credentials.nonce_key_file = Some(path("nonce"));
        config.peers.file = Some(path("peers"));
        let own = OwnAddresses { addresses: Vec::new(), ports: Vec::new() };
        let mut files = Files::new(&config, false, 2, own);
        assert!(!files.look(), "nothing is there yet");
        assert!(files.settings().credentials.users.is_empty(), "dev/dev is for --dev only");

        let write = |name: &str, text: &str| std::fs::write(path(name), text).unwrap();
        write("keys", "key: a-secret-that-is-long-enough-0123456\n");
        write("secrets", "new\n\nold\n");
        write("nonce", &"ab".repeat(32));
        write(
            "peers",
            r#"{"peers":[{"advertised":"203.0.113.5","local":"10.1.2.3","ports":[7]}]}"#,
        );
        assert!(files.look());
        let settings = files.settings();
        assert_eq!(settings.credentials.api_keys[0].0, "key");
        assert_eq!(settings.credentials.rest_secrets, ["new", "old"]);
        assert_eq!(settings.nonce_keys, NonceKeys(vec![[0xAB; 32]]));
        assert_eq!(settings.peers.media[0].ports, [7]);

        write("nonce", "too short");
        write("peers", r#"{"peers":[{"advertised":"::","local":"::","ports":[0]}]}"#);
        assert!(!files.look());
        assert_eq!(files.settings().peers.media, settings.peers.media);
    }
}
