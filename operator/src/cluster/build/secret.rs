//! Secrets that the operator makes.

use std::collections::BTreeMap;

use crds::names::{self, component};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::{cluster_metadata, metadata, redis};
use crate::cluster::material::{
    AUTHORITY_ENTRY, AUTHORITY_KEY_ENTRY, CERTIFICATE_ENTRY, KEY_ENTRY, Material, NONCE_ENTRY,
};
use crate::cluster::validate::{KEYS_ENTRY, PASSWORD_ENTRY, ValidCluster};

/// Secrets of API keys, of the authority, of media pods, of Redis and of TURN.
pub fn secrets(valid: &ValidCluster, material: &Material) -> Vec<Secret> {
    let name = &valid.name;
    let mut secrets = Vec::new();
    if let Some(keys) = &material.keys {
        let metadata = cluster_metadata(valid, names::keys_secret(name));
        secrets.push(secret(metadata, "Opaque", &[(KEYS_ENTRY, keys)]));
    }
    let authority = &material.authority;
    secrets.push(secret(
        cluster_metadata(valid, names::authority_secret(name)),
        "Opaque",
        &[(AUTHORITY_ENTRY, &authority.certificate), (AUTHORITY_KEY_ENTRY, &authority.key)],
    ));
    secrets.push(secret(
        metadata(valid, names::peer_secret(name), component::NODE),
        "kubernetes.io/tls",
        &[
            (AUTHORITY_ENTRY, &authority.certificate),
            (CERTIFICATE_ENTRY, &material.peer.certificate),
            (KEY_ENTRY, &material.peer.key),
        ],
    ));
    if let Some(password) = &material.redis_password {
        let config = redis::config(valid, password);
        secrets.push(secret(
            metadata(valid, names::redis_secret(name), component::REDIS),
            "Opaque",
            &[(PASSWORD_ENTRY, password), (redis::CONFIG_ENTRY, &config)],
        ));
    }
    if let Some(keys) = &material.nonce_keys {
        let metadata = metadata(valid, names::turn(name), component::NODE);
        secrets.push(secret(metadata, "Opaque", &[(NONCE_ENTRY, keys)]));
    }
    secrets
}

fn secret(metadata: ObjectMeta, kind: &str, entries: &[(&str, &str)]) -> Secret {
    let data = entries
        .iter()
        .map(|(name, text)| ((*name).to_owned(), ByteString(text.as_bytes().to_vec())))
        .collect::<BTreeMap<_, _>>();
    Secret { metadata, type_: Some(kind.to_owned()), data: Some(data), ..Secret::default() }
}
