//! The files of a media pod: for each of its programs one directory with configuration, keys,
//! certificates and what the operator tells the pod.

use crds::names;
use k8s_openapi::api::core::v1::{
    ConfigMapProjection, DownwardAPIProjection, DownwardAPIVolumeFile, KeyToPath,
    ObjectFieldSelector, ProjectedVolumeSource, SecretProjection, Volume, VolumeProjection,
};

use super::{config, turn};
use crate::cluster::material::{AUTHORITY_ENTRY, CERTIFICATE_ENTRY, KEY_ENTRY, NONCE_ENTRY};
use crate::cluster::validate::{KEYS_ENTRY, PASSWORD_ENTRY, TOKEN_ENTRY, ValidCluster, ValidRedis};

/// Name of the media node's volume.
pub const FILES: &str = "files";
/// Name of the TURN server's volume.
pub const TURN_FILES: &str = "turn-files";
/// For the group of the pod's user only.
const MODE: i32 = 0o440;

/// All files of a media node.
pub fn files(valid: &ValidCluster) -> Volume {
    let mut sources = vec![
        configuration(valid, config::CONFIG),
        secret(&valid.keys_secret, vec![item(KEYS_ENTRY, config::KEYS)]),
        secret(&names::peer_secret(&valid.name), peer_items()),
    ];
    let redis = match &valid.redis {
        ValidRedis::Managed { .. } => Some(names::redis_secret(&valid.name)),
        ValidRedis::External(external) => external.secret_name.clone(),
    };
    if let Some(name) = redis {
        sources.push(secret(&name, vec![item(PASSWORD_ENTRY, config::REDIS_PASSWORD)]));
    }
    if let ValidRedis::External(external) = &valid.redis
        && let Some(name) = &external.ca_secret_name
    {
        sources.push(secret(name, vec![item(AUTHORITY_ENTRY, config::REDIS_CA)]));
    }
    if let Some(name) = &valid.spec.http.token_secret_name {
        sources.push(secret(name, vec![item(TOKEN_ENTRY, config::TOKEN)]));
    }
    sources.push(told());
    projected(FILES, sources)
}

/// All files of a TURN server, which knows nothing of other pods.
pub fn turn_files(valid: &ValidCluster) -> Volume {
    let mut sources = vec![
        configuration(valid, turn::CONFIG),
        secret(&valid.keys_secret, vec![item(KEYS_ENTRY, config::KEYS)]),
        secret(&names::turn(&valid.name), vec![item(NONCE_ENTRY, turn::NONCE_KEYS)]),
    ];
    if let Some(tls) = &valid.spec.turn.tls {
        let items = [CERTIFICATE_ENTRY, KEY_ENTRY];
        let items = items.map(|entry| item(entry, &format!("{}/{entry}", turn::TLS)));
        sources.push(secret(&tls.secret_name, items.into()));
    }
    projected(TURN_FILES, sources)
}

fn projected(name: &str, sources: Vec<VolumeProjection>) -> Volume {
    Volume {
        name: name.to_owned(),
        projected: Some(ProjectedVolumeSource { default_mode: Some(MODE), sources: Some(sources) }),
        ..Volume::default()
    }
}

fn configuration(valid: &ValidCluster, file: &str) -> VolumeProjection {
    VolumeProjection {
        config_map: Some(ConfigMapProjection {
            name: names::config_map(&valid.name),
            items: Some(vec![item(file, file)]),
            optional: None,
        }),
        ..VolumeProjection::default()
    }
}

fn peer_items() -> Vec<KeyToPath> {
    [AUTHORITY_ENTRY, CERTIFICATE_ENTRY, KEY_ENTRY]
        .into_iter()
        .map(|entry| item(entry, &format!("{}/{entry}", config::PEER)))
        .collect()
}

fn item(entry: &str, path: &str) -> KeyToPath {
    KeyToPath { key: entry.to_owned(), path: path.to_owned(), mode: None }
}

fn secret(name: &str, items: Vec<KeyToPath>) -> VolumeProjection {
    VolumeProjection {
        secret: Some(SecretProjection {
            name: name.to_owned(),
            items: Some(items),
            optional: None,
        }),
        ..VolumeProjection::default()
    }
}

/// The annotations by which the operator tells a pod its addresses, once it knows the Kubernetes
/// node, the region of that, and the state that it shall be in.
fn told() -> VolumeProjection {
    let file = |path: &str, annotation: &str| DownwardAPIVolumeFile {
        path: path.to_owned(),
        field_ref: Some(ObjectFieldSelector {
            api_version: Some("v1".to_owned()),
            field_path: format!("metadata.annotations['{annotation}']"),
        }),
        ..DownwardAPIVolumeFile::default()
    };
    VolumeProjection {
        downward_api: Some(DownwardAPIProjection {
            items: Some(vec![
                file(config::ADVERTISE, names::ADVERTISE_ADDRESSES),
                file(config::STATE, names::STATE),
                file(config::REGION, names::REGION),
            ]),
        }),
        ..VolumeProjection::default()
    }
}
