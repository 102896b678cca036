//! Media pods.

use std::collections::BTreeMap;

use contract::sfu_config::env;
use crds::live_cluster::{Exposure, Resources, Toleration};
use crds::names::{self, component};
use k8s_openapi::api::core::v1::{
    Capabilities, Container, ContainerPort, EnvVar, EnvVarSource, HTTPGetAction,
    LocalObjectReference, ObjectFieldSelector, Pod, PodSecurityContext, PodSpec, Probe,
    ResourceRequirements, SeccompProfile, SecurityContext, TopologySpreadConstraint, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use sha2::{Digest as _, Sha256};

use super::config::{self, DIRECTORY};
use super::service::{HTTP, HTTP_PORT};
use super::{metadata, selector, turn, volume};
use crate::cluster::material::Material;
use crate::cluster::validate::ValidCluster;

/// Admin port of media nodes: probes and metrics.
pub const ADMIN_PORT: u16 = 9600;
const ADMIN: &str = "admin";
/// Name of the media node's container.
pub const CONTAINER: &str = "sfu";
/// Nobody in particular, with no rights to any file.
const NON_ROOT: i64 = 65_532;
/// Requested of what the specification says nothing about.
const REQUESTS: [(&str, &str); 2] = [("cpu", "250m"), ("memory", "128Mi")];
/// Bytes of a revision's hash: short enough to read, long enough not to repeat.
const REVISION_BYTES: usize = 8;

/// What the media pods of a cluster are made from.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeTemplate {
    valid: ValidCluster,
}

impl NodeTemplate {
    /// Takes what a pod depends on.
    #[must_use]
    pub fn new(valid: &ValidCluster) -> Self {
        Self { valid: valid.clone() }
    }

    /// Hash of everything that a pod reads once, when it starts. API keys, and what a TURN server
    /// has in Secrets, are not among it: they are read again.
    pub fn revision(
        &self,
        files: &BTreeMap<String, String>,
        material: &Material,
    ) -> Result<String, serde_json::Error> {
        let mut hash = Sha256::new();
        // Any slot stands for all.
        hash.update(serde_json::to_vec(&self.pod(0, ""))?);
        hash.update(serde_json::to_vec(files)?);
        hash.update(&material.peer.certificate);
        hash.update(material.redis_password.as_deref().unwrap_or_default());
        Ok(hex::encode(&hash.finalize()[..REVISION_BYTES]))
    }

    /// The pod of a slot.
    #[must_use]
    pub fn pod(&self, slot: u16, revision: &str) -> Pod {
        let valid = &self.valid;
        let mut metadata = metadata(valid, names::node(&valid.name, slot), component::NODE);
        let labels = metadata.labels.get_or_insert_default();
        labels.insert(names::SLOT.to_owned(), slot.to_string());
        // Pods are spread by it.
        labels.insert(names::REVISION.to_owned(), revision.to_owned());
        metadata.annotations =
            Some(BTreeMap::from([(names::REVISION.to_owned(), revision.to_owned())]));
        let is_on_host = valid.spec.media.exposure == Exposure::HostNetwork;
        let node = &valid.spec.node;
        let scheduling = &node.scheduling;
        let secrets = node.image_pull_secrets.iter();
        let sidecar = valid.turn.as_ref().map(|found| turn::container(valid, found));
        let mut volumes = vec![volume::files(valid)];
        if sidecar.is_some() {
            volumes.extend([volume::turn_files(valid), turn::peers_volume()]);
        }
        Pod {
            metadata,
            spec: Some(PodSpec {
                automount_service_account_token: Some(false),
                enable_service_links: Some(false),
                security_context: Some(pod_security()),
                host_network: is_on_host.then_some(true),
                // Names of Services mean nothing to the Kubernetes node's own resolver.
                dns_policy: is_on_host.then(|| "ClusterFirstWithHostNet".to_owned()),
                termination_grace_period_seconds: Some(config::GRACE_SECONDS.into()),
                image_pull_secrets: non_empty(
                    secrets.map(|s| LocalObjectReference { name: s.name.clone() }).collect(),
                ),
                node_selector: (!scheduling.node_selector.is_empty())
                    .then(|| scheduling.node_selector.clone()),
                tolerations: non_empty(scheduling.tolerations.iter().map(toleration).collect()),
                priority_class_name: scheduling.priority_class_name.clone(),
                topology_spread_constraints: Some(spread(&valid.name)),
                init_containers: non_empty(sidecar.into_iter().collect()),
                containers: vec![self.container(slot)],
                volumes: Some(volumes),
                ..PodSpec::default()
            }),
            status: None,
        }
    }

    fn container(&self, slot: u16) -> Container {
        let valid = &self.valid;
        let mut mounts = vec![VolumeMount {
            name: volume::FILES.to_owned(),
            mount_path: DIRECTORY.to_owned(),
            read_only: Some(true),
            ..VolumeMount::default()
        }];
        mounts.extend(valid.turn.as_ref().map(|_| turn::peers_mount()));
        Container {
            name: CONTAINER.to_owned(),
            image: Some(valid.image.clone()),
            image_pull_policy: Some(valid.spec.node.image_pull_policy.as_str().to_owned()),
            args: Some(vec!["--config".to_owned(), format!("{DIRECTORY}/{}", config::CONFIG)]),
            env: Some(vec![
                EnvVar {
                    name: env::SLOT.to_owned(),
                    value: Some(slot.to_string()),
                    value_from: None,
                },
                from_field(env::POD_NAME, "metadata.name"),
                from_field(env::POD_IP, "status.podIP"),
                from_field(env::HOST_IP, "status.hostIP"),
            ]),
            ports: Some(self.ports(slot)),
            // A first start may wait for Redis's name to resolve.
            startup_probe: Some(probe("/healthz", ADMIN, 1, 60)),
            readiness_probe: Some(probe("/readyz", ADMIN, 2, 3)),
            liveness_probe: Some(probe("/healthz", ADMIN, 10, 3)),
            resources: Some(requirements(&valid.spec.node.resources, REQUESTS)),
            security_context: Some(container_security()),
            volume_mounts: Some(mounts),
            ..Container::default()
        }
    }

    /// Signalling, administration, pod to pod, and the slot's media ports, which are ports of the
    /// Kubernetes node too where clients reach them that way.
    fn ports(&self, slot: u16) -> Vec<ContainerPort> {
        let media = self.valid.media_config();
        let has_host_ports = match self.valid.spec.media.exposure {
            Exposure::HostPort => true,
            Exposure::HostNetwork
            | Exposure::NodePort
            | Exposure::LoadBalancer
            | Exposure::TurnOnly => false,
        };
        let on_host = |number: u16| has_host_ports.then_some(number);
        let mut ports = vec![
            port(HTTP, HTTP_PORT, "TCP", None),
            port(ADMIN, ADMIN_PORT, "TCP", None),
            port("peer", config::PEER_PORT, "TCP", None),
        ];
        if media.tcp
            && let Some(number) = media.tcp_port(slot)
        {
            ports.push(port("media-tcp", number, "TCP", on_host(number)));
        }
        let numbers = (0..media.workers).filter_map(|worker| media.udp_port(slot, worker));
        ports.extend(numbers.enumerate().map(|(worker, number)| {
            port(&format!("media-{worker}"), number, "UDP", on_host(number))
        }));
        ports.extend(turn::host_ports(&self.valid, slot));
        ports
    }
}

/// A port of a container, and of the Kubernetes node where it is one.
pub(super) fn port(name: &str, number: u16, protocol: &str, on_host: Option<u16>) -> ContainerPort {
    ContainerPort {
        name: Some(name.to_owned()),
        container_port: i32::from(number),
        host_port: on_host.map(i32::from),
        protocol: Some(protocol.to_owned()),
        host_ip: None,
    }
}

/// A variable with a field of the pod.
pub(super) fn from_field(name: &str, path: &str) -> EnvVar {
    EnvVar {
        name: name.to_owned(),
        value: None,
        value_from: Some(EnvVarSource {
            field_ref: Some(ObjectFieldSelector {
                api_version: Some("v1".to_owned()),
                field_path: path.to_owned(),
            }),
            ..EnvVarSource::default()
        }),
    }
}

/// A probe of a named port.
pub(super) fn probe(path: &str, port: &str, period_seconds: i32, failures: i32) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.to_owned()),
            port: IntOrString::String(port.to_owned()),
            ..HTTPGetAction::default()
        }),
        period_seconds: Some(period_seconds),
        timeout_seconds: Some(5),
        failure_threshold: Some(failures),
        ..Probe::default()
    }
}

/// One node to each machine, and to each zone, as far as it goes. Those of an earlier specification
/// do not count: they leave, and would push the new ones aside.
fn spread(cluster: &str) -> Vec<TopologySpreadConstraint> {
    ["kubernetes.io/hostname", "topology.kubernetes.io/zone"]
        .into_iter()
        .map(|key| TopologySpreadConstraint {
            max_skew: 1,
            topology_key: key.to_owned(),
            when_unsatisfiable: "ScheduleAnyway".to_owned(),
            label_selector: Some(LabelSelector {
                match_labels: Some(selector(cluster, component::NODE)),
                ..LabelSelector::default()
            }),
            match_label_keys: Some(vec![names::REVISION.to_owned()]),
            ..TopologySpreadConstraint::default()
        })
        .collect()
}

fn toleration(toleration: &Toleration) -> k8s_openapi::api::core::v1::Toleration {
    let Toleration { key, operator, value, effect, toleration_seconds } = toleration;
    k8s_openapi::api::core::v1::Toleration {
        key: key.clone(),
        operator: Some(operator.as_str().to_owned()),
        value: value.clone(),
        effect: effect.map(|effect| effect.as_str().to_owned()),
        toleration_seconds: *toleration_seconds,
    }
}

fn non_empty<T>(items: Vec<T>) -> Option<Vec<T>> {
    (!items.is_empty()).then_some(items)
}

/// CPU and memory of a container; `defaults` of what has neither a request nor a limit.
pub(super) fn requirements(
    resources: &Resources,
    defaults: [(&str, &str); 2],
) -> ResourceRequirements {
    let amounts = |amounts: &BTreeMap<String, crds::quantity::Quantity>| {
        let amounts = amounts.iter();
        let amounts = amounts.map(|(name, q)| (name.clone(), Quantity(q.as_str().to_owned())));
        amounts.collect::<BTreeMap<_, _>>()
    };
    let (mut requests, limits) = (amounts(&resources.requests), amounts(&resources.limits));
    for (name, amount) in defaults {
        if !requests.contains_key(name) && !limits.contains_key(name) {
            requests.insert(name.to_owned(), Quantity(amount.to_owned()));
        }
    }
    ResourceRequirements {
        requests: (!requests.is_empty()).then_some(requests),
        limits: (!limits.is_empty()).then_some(limits),
        claims: None,
    }
}

/// Pod security `restricted`, the pod's half.
pub(super) fn pod_security() -> PodSecurityContext {
    PodSecurityContext {
        run_as_non_root: Some(true),
        run_as_user: Some(NON_ROOT),
        run_as_group: Some(NON_ROOT),
        fs_group: Some(NON_ROOT),
        seccomp_profile: Some(SeccompProfile {
            type_: "RuntimeDefault".to_owned(),
            localhost_profile: None,
        }),
        ..PodSecurityContext::default()
    }
}

/// Pod security `restricted`, the container's half.
pub(super) fn container_security() -> SecurityContext {
    SecurityContext {
        allow_privilege_escalation: Some(false),
        read_only_root_filesystem: Some(true),
        capabilities: Some(Capabilities { add: None, drop: Some(vec!["ALL".to_owned()]) }),
        ..SecurityContext::default()
    }
}
