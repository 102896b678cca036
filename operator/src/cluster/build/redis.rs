//! The managed Redis: one server, which keeps nothing on disk unless it is given a volume. Rooms live in
//! the media nodes, which announce them again when Redis comes back empty, or as it was a second before.

use std::collections::BTreeMap;

use crds::live_cluster::{RedisStorage, Resources};
use crds::names::{self, component};
use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetSpec};
use k8s_openapi::api::core::v1::{
    Container, ContainerPort, PersistentVolumeClaim, PersistentVolumeClaimSpec,
    PersistentVolumeClaimVolumeSource, PodSpec, PodTemplateSpec, Probe, SecretVolumeSource,
    Service, ServicePort, ServiceSpec, TCPSocketAction, Volume, VolumeMount,
    VolumeResourceRequirements,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use sha2::{Digest as _, Sha256};

use super::node::{container_security, pod_security, requirements};
use super::{labels, metadata, selector};
use crate::cluster::material::Material;
use crate::cluster::validate::{ValidCluster, ValidRedis};

/// Entry of the Secret: the configuration file, which holds the password.
pub const CONFIG_ENTRY: &str = "redis.conf";
/// Port of the managed Redis.
pub const PORT: u16 = 6379;
const PORT_NAME: &str = "redis";
const DIRECTORY: &str = "/etc/redis";
const VOLUME: &str = "config";
const DATA_DIRECTORY: &str = "/data";
const DATA_VOLUME: &str = "data";
/// Annotation of the pod: hash of its configuration, so that a change restarts it.
const CONFIG_HASH: &str = "livecluster.dev/config-hash";

/// `host:port` for media nodes.
#[must_use]
pub fn address(valid: &ValidCluster) -> String {
    format!("{}.{}.svc:{PORT}", names::redis(&valid.name), valid.namespace)
}

/// The configuration file. What is on a volume may lack the last second, which media nodes put right:
/// waiting for the disk at each write would make them wait for it too.
#[must_use]
pub fn config(valid: &ValidCluster, password: &str) -> String {
    let keeping = match storage(valid) {
        Some(_) => format!("appendonly yes\nappendfsync everysec\ndir {DATA_DIRECTORY}"),
        None => "appendonly no\ndir /tmp".to_owned(),
    };
    format!(
        "port {PORT}\nbind * -::*\nprotected-mode yes\nrequirepass {password}\n\
         save \"\"\n{keeping}\nmaxmemory-policy noeviction\n"
    )
}

fn storage(valid: &ValidCluster) -> Option<&RedisStorage> {
    match &valid.redis {
        ValidRedis::Managed { storage, .. } => storage.as_ref(),
        ValidRedis::External(_) => None,
    }
}

/// The volume, where there shall be one. It is no template of the StatefulSet, which could never be
/// changed: this one can grow, come and go.
pub fn claim(valid: &ValidCluster) -> Option<PersistentVolumeClaim> {
    let RedisStorage { size, storage_class_name } = storage(valid)?;
    let size = Quantity(size.as_str().to_owned());
    Some(PersistentVolumeClaim {
        metadata: metadata(valid, names::redis(&valid.name), component::REDIS),
        spec: Some(PersistentVolumeClaimSpec {
            access_modes: Some(vec!["ReadWriteOnce".to_owned()]),
            resources: Some(VolumeResourceRequirements {
                requests: Some(BTreeMap::from([("storage".to_owned(), size)])),
                limits: None,
            }),
            storage_class_name: storage_class_name.clone(),
            ..PersistentVolumeClaimSpec::default()
        }),
        status: None,
    })
}

/// The Service of Redis.
pub fn service(valid: &ValidCluster) -> Service {
    Service {
        metadata: metadata(valid, names::redis(&valid.name), component::REDIS),
        spec: Some(ServiceSpec {
            type_: Some("ClusterIP".to_owned()),
            selector: Some(selector(&valid.name, component::REDIS)),
            ports: Some(vec![ServicePort {
                name: Some(PORT_NAME.to_owned()),
                port: i32::from(PORT),
                target_port: Some(IntOrString::String(PORT_NAME.to_owned())),
                protocol: Some("TCP".to_owned()),
                ..ServicePort::default()
            }]),
            ..ServiceSpec::default()
        }),
        ..Service::default()
    }
}

/// Room homes and leases are small.
const REQUESTS: [(&str, &str); 2] = [("cpu", "50m"), ("memory", "64Mi")];

/// The StatefulSet of Redis: never two at once.
pub fn stateful_set(
    valid: &ValidCluster,
    resources: &Resources,
    image: &str,
    material: &Material,
) -> StatefulSet {
    let password = material.redis_password.as_deref().unwrap_or_default();
    let hash = hex::encode(&Sha256::digest(config(valid, password))[..8]);
    StatefulSet {
        metadata: metadata(valid, names::redis(&valid.name), component::REDIS),
        spec: Some(StatefulSetSpec {
            replicas: Some(1),
            service_name: Some(names::redis(&valid.name)),
            selector: LabelSelector {
                match_labels: Some(selector(&valid.name, component::REDIS)),
                ..LabelSelector::default()
            },
            template: PodTemplateSpec {
                metadata: Some(ObjectMeta {
                    labels: Some(labels(&valid.name, component::REDIS)),
                    annotations: Some(BTreeMap::from([(CONFIG_HASH.to_owned(), hash)])),
                    ..ObjectMeta::default()
                }),
                spec: Some(pod(valid, resources, image)),
            },
            ..StatefulSetSpec::default()
        }),
        ..StatefulSet::default()
    }
}

fn pod(valid: &ValidCluster, resources: &Resources, image: &str) -> PodSpec {
    let mut volumes = vec![Volume {
        name: VOLUME.to_owned(),
        secret: Some(SecretVolumeSource {
            secret_name: Some(names::redis_secret(&valid.name)),
            default_mode: Some(0o440),
            ..SecretVolumeSource::default()
        }),
        ..Volume::default()
    }];
    let mut mounts = vec![VolumeMount {
        name: VOLUME.to_owned(),
        mount_path: DIRECTORY.to_owned(),
        read_only: Some(true),
        ..VolumeMount::default()
    }];
    if storage(valid).is_some() {
        volumes.push(Volume {
            name: DATA_VOLUME.to_owned(),
            persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
                claim_name: names::redis(&valid.name),
                read_only: None,
            }),
            ..Volume::default()
        });
        mounts.push(VolumeMount {
            name: DATA_VOLUME.to_owned(),
            mount_path: DATA_DIRECTORY.to_owned(),
            ..VolumeMount::default()
        });
    }
    PodSpec {
        automount_service_account_token: Some(false),
        enable_service_links: Some(false),
        security_context: Some(pod_security()),
        termination_grace_period_seconds: Some(5),
        containers: vec![container(resources, image, mounts)],
        volumes: Some(volumes),
        ..PodSpec::default()
    }
}

fn container(resources: &Resources, image: &str, mounts: Vec<VolumeMount>) -> Container {
    let probe = |period: i32| Probe {
        // By TCP: a command would need the password, and Redis answers nobody when it hangs.
        tcp_socket: Some(TCPSocketAction {
            port: IntOrString::String(PORT_NAME.to_owned()),
            ..TCPSocketAction::default()
        }),
        period_seconds: Some(period),
        timeout_seconds: Some(5),
        failure_threshold: Some(3),
        ..Probe::default()
    };
    Container {
        name: "redis".to_owned(),
        image: Some(image.to_owned()),
        command: Some(vec![
            "/usr/local/bin/redis-server".to_owned(),
            format!("{DIRECTORY}/{CONFIG_ENTRY}"),
        ]),
        ports: Some(vec![ContainerPort {
            name: Some(PORT_NAME.to_owned()),
            container_port: i32::from(PORT),
            protocol: Some("TCP".to_owned()),
            ..ContainerPort::default()
        }]),
        readiness_probe: Some(probe(2)),
        liveness_probe: Some(probe(20)),
        resources: Some(requirements(resources, REQUESTS)),
        security_context: Some(container_security()),
        volume_mounts: Some(mounts),
        ..Container::default()
    }
}
