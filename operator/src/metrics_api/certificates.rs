//! The certificate by which the API server knows the metrics API, and its renewal.
//!
//! A new authority is told to the API server at once and signs only when everybody must have heard
//! of it; the old one is forgotten when nothing of it is in use. Thus no moment comes at which the
//! API server refuses a certificate.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt as _};
use thiserror::Error;
use tokio::sync::watch;
use tracing::{info, warn};

use super::Settings;
use crate::cluster::authority::{
    AuthorityError, Certified, age_seconds, is_fresh, is_issued_by, new_authority, new_certificate,
};
use crate::cluster::material::{
    AUTHORITY_ENTRY, AUTHORITY_KEY_ENTRY, CERTIFICATE_ENTRY, KEY_ENTRY,
};
use crate::cluster::validate::text_of;
use crds::names;

/// Secret with authority and certificate.
pub const SECRET: &str = "livecluster-metrics-api";
/// Common name of the authority.
const AUTHORITY_NAME: &str = "LiveCluster metrics API";
/// Time after which everybody has heard of a new authority, or of a new certificate.
const SETTLES_SECONDS: i64 = 3600;
/// Where a PEM certificate ends.
const PEM_END: &str = "-----END CERTIFICATE-----";
/// How often an operator looks for a new certificate.
const PERIOD: Duration = Duration::from_secs(30);
/// The same while there is none.
const FIRST_PERIOD: Duration = Duration::from_secs(1);

/// Why there is no certificate.
#[derive(Debug, Error)]
pub enum CertificateError {
    /// It could not be made.
    #[error("failed to make a certificate")]
    Make(#[from] AuthorityError),
    /// The Secret could not be read or written.
    #[error("failed to read or write the Secret {SECRET}")]
    Secret(#[from] Box<kube::Error>),
}

/// What the Secret holds.
#[derive(Clone, PartialEq, Eq)]
struct Stored {
    /// Certificates of the authorities, the newest first.
    authorities: Vec<String>,
    /// Private key of the newest.
    key: String,
    /// The certificate of the API.
    leaf: Certified,
}

impl Stored {
    fn new(host: &str, now: Timestamp) -> Result<Self, AuthorityError> {
        let authority = new_authority(AUTHORITY_NAME, now)?;
        let leaf = new_certificate(&authority, host, now)?;
        Ok(Self { authorities: vec![authority.certificate], key: authority.key, leaf })
    }

    fn read(secret: &Secret) -> Option<Self> {
        let certificates = text_of(secret, AUTHORITY_ENTRY)?;
        let certificates = certificates.split_inclusive(PEM_END).map(str::trim);
        let authorities: Vec<_> = certificates
            .filter(|certificate| certificate.ends_with(PEM_END))
            .map(|certificate| format!("{certificate}\n"))
            .collect();
        let leaf = Certified {
            certificate: text_of(secret, CERTIFICATE_ENTRY)?,
            key: text_of(secret, KEY_ENTRY)?,
        };
        let key = text_of(secret, AUTHORITY_KEY_ENTRY)?;
        (!authorities.is_empty()).then_some(Self { authorities, key, leaf })
    }

    fn bundle(&self) -> String {
        self.authorities.concat()
    }

    /// What it should be at this time.
    fn renewed(&self, host: &str, now: Timestamp) -> Result<Self, AuthorityError> {
        let Some(newest) = self.authorities.first() else { return Self::new(host, now) };
        let authority = Certified { certificate: newest.clone(), key: self.key.clone() };
        let of_known =
            self.authorities.iter().any(|a| is_issued_by(&self.leaf.certificate, a, host));
        let leaf_is_good = of_known && is_fresh(&self.leaf, now);
        let settled = |certificate: &str| {
            age_seconds(certificate, now).is_some_and(|age| age >= SETTLES_SECONDS)
        };
        let mut next = self.clone();
        if !is_fresh(&authority, now) {
            let authority = new_authority(AUTHORITY_NAME, now)?;
            next.authorities = vec![authority.certificate, newest.clone()];
            next.key = authority.key;
        } else if is_issued_by(&self.leaf.certificate, newest, host) && leaf_is_good {
            if settled(&self.leaf.certificate) {
                next.authorities.truncate(1);
            }
        } else if settled(newest) || !leaf_is_good {
            next.leaf = new_certificate(&authority, host, now)?;
        }
        Ok(next)
    }

    fn secret(&self, namespace: &str, owner: &OwnerReference, found: Option<&Secret>) -> Secret {
        let text = |text: &str| ByteString(text.as_bytes().to_vec());
        let entries = [
            (AUTHORITY_ENTRY, text(&self.bundle())),
            (AUTHORITY_KEY_ENTRY, text(&self.key)),
            (CERTIFICATE_ENTRY, text(&self.leaf.certificate)),
            (KEY_ENTRY, text(&self.leaf.key)),
        ];
        Secret {
            metadata: ObjectMeta {
                name: Some(SECRET.to_owned()),
                namespace: Some(namespace.to_owned()),
                labels: Some([(names::MANAGED_BY.to_owned(), names::MANAGER.to_owned())].into()),
                owner_references: Some(vec![owner.clone()]),
                // Whoever was faster wins.
                resource_version: found.and_then(|found| found.resource_version()),
                ..ObjectMeta::default()
            },
            data: Some(entries.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()),
            ..Secret::default()
        }
    }
}

/// Keeps authority and certificate good; returns the authorities for the API server. The Secret
/// goes with its owner. For the operator that leads.
pub async fn keep(
    client: &Client,
    settings: &Settings,
    owner: &OwnerReference,
    now: Timestamp,
) -> Result<String, CertificateError> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), &settings.namespace);
    let found = secrets.get_opt(SECRET).await.map_err(Box::new)?;
    let before = found.as_ref().and_then(Stored::read);
    let host = settings.host();
    let after = match &before {
        Some(before) => before.renewed(&host, now)?,
        None => Stored::new(&host, now)?,
    };
    let is_owned = |secret: &Secret| secret.owner_references().iter().any(|o| o.uid == owner.uid);
    if before.as_ref() != Some(&after) || !found.as_ref().is_some_and(is_owned) {
        let secret = after.secret(&settings.namespace, owner, found.as_ref());
        let manager = Some(names::MANAGER.to_owned());
        let written = if found.is_some() {
            let params = PatchParams::apply(names::MANAGER).force();
            secrets.patch(SECRET, &params, &Patch::Apply(&secret)).await
        } else {
            let params = PostParams { field_manager: manager, ..PostParams::default() };
            secrets.create(&params, &secret).await
        };
        written.map_err(Box::new)?;
        info!("Secret of the metrics API written");
    }
    Ok(after.bundle())
}

/// Follows the certificate that the leading operator keeps; ends only with the task.
pub async fn follow(
    client: Client,
    settings: Settings,
    certificate: watch::Sender<Option<Arc<Certified>>>,
) {
    let secrets: Api<Secret> = Api::namespaced(client, &settings.namespace);
    loop {
        match secrets.get_opt(SECRET).await {
            Ok(secret) => {
                let stored = secret.as_ref().and_then(Stored::read);
                certificate.send_if_modified(|current| {
                    // What was good stays in use when the Secret is deleted, until there is another.
                    let Some(stored) = &stored else { return false };
                    let is_new = current.as_deref() != Some(&stored.leaf);
                    *current = Some(Arc::new(stored.leaf.clone()));
                    is_new
                });
            }
            Err(error) => warn!(%error, "The certificate of the metrics API cannot be read"),
        }
        let period = if certificate.borrow().is_some() { PERIOD } else { FIRST_PERIOD };
        tokio::time::sleep(period).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: &str = "metrics.livecluster-system.svc";
    const HOUR: i64 = SETTLES_SECONDS;
    const DAY: i64 = 24 * HOUR;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    fn is_of(stored: &Stored, authority: &str) -> bool {
        is_issued_by(&stored.leaf.certificate, authority, HOST)
    }

    #[test]
    fn what_is_good_stays_and_reads_back_from_the_secret() {
        let stored = Stored::new(HOST, at(0)).unwrap();
        assert!(is_of(&stored, &stored.authorities[0]));
        assert!(stored.renewed(HOST, at(100 * DAY)).unwrap() == stored);
        let read = Stored::read(&stored.secret("ns", &OwnerReference::default(), None)).unwrap();
        assert!(read == stored);
        assert!(Stored::read(&Secret::default()).is_none());
    }

    #[test]
    fn a_certificate_is_renewed_by_the_same_authority() {
        let stored = Stored::new(HOST, at(0)).unwrap();
        let later = stored.renewed(HOST, at(300 * DAY)).unwrap();
        assert!(later.leaf != stored.leaf && later.authorities == stored.authorities);
        assert!(is_of(&later, &stored.authorities[0]) && is_fresh(&later.leaf, at(300 * DAY)));
        let moved = stored.renewed("other.ns.svc", at(1)).unwrap();
        assert!(is_issued_by(&moved.leaf.certificate, &stored.authorities[0], "other.ns.svc"));
    }

    #[test]
    fn an_authority_is_replaced_without_a_moment_of_distrust() {
        let mut stored = Stored::new(HOST, at(0)).unwrap();
        let first = stored.authorities[0].clone();
        // Its certificates are renewed all the time, for two thirds of its ten years.
        for day in (0..=2400).step_by(100) {
            stored = stored.renewed(HOST, at(day * DAY)).unwrap();
        }
        let start = 2440 * DAY;
        let published = stored.renewed(HOST, at(start)).unwrap();
        let second = published.authorities[0].clone();
        assert!(second != first);
        let mut now = published.clone();
        let mut states = Vec::new();
        for minute in 0..300 {
            // Whatever the API server was told before and during the look, it trusts the leaf.
            let next = now.renewed(HOST, at(start + minute * 60)).unwrap();
            for told in [&now.authorities, &next.authorities] {
                assert!(told.iter().any(|authority| is_of(&next, authority)));
                assert!(told.iter().any(|authority| is_of(&now, authority)));
            }
            states.push((minute, next.authorities.len(), is_of(&next, &second)));
            now = next;
        }
        states.dedup_by_key(|(_, authorities, signed)| (*authorities, *signed));
        assert_eq!(states, [(0, 2, false), (60, 2, true), (120, 1, true)]);
    }

    #[test]
    fn what_is_broken_is_made_anew() {
        let stored = Stored::new(HOST, at(0)).unwrap();
        let broken = Stored { key: "nonsense".to_owned(), ..stored.clone() };
        let next = broken.renewed(HOST, at(1)).unwrap();
        assert_eq!(next.authorities.len(), 2);
        assert!(next.leaf == stored.leaf, "what the API server trusts stays in use");
        let other = Stored::new(HOST, at(0)).unwrap();
        let strange = Stored { leaf: other.leaf, ..stored };
        let next = strange.renewed(HOST, at(1)).unwrap();
        assert!(is_of(&next, &next.authorities[0]));
    }
}
