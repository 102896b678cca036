//! Third step: from a valid cluster to Kubernetes objects. Pure: the same input gives the same
//! objects, whatever is in the cluster.

use std::collections::{BTreeMap, BTreeSet};
use std::marker::PhantomData;

use crds::names::{self, component};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Secret, Service};
use k8s_openapi::api::networking::v1::{Ingress, NetworkPolicy};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::DynamicObject;
use thiserror::Error;

use super::autoscaling::Scaler;
use super::material::Material;
use super::validate::{ValidCluster, ValidRedis};

pub mod autoscaler;
pub mod budget;
pub mod config;
pub mod exposure;
pub mod foreign;
pub mod gateway;
pub mod ingress;
pub mod node;
pub mod policy;
pub mod redis;
pub mod route;
pub mod secret;
pub mod service;
pub mod turn;
pub mod volume;

pub use foreign::ForeignKind;
pub use node::NodeTemplate;

/// Why objects could not be built.
#[derive(Debug, Error)]
pub enum BuildError {
    /// The configuration of media pods cannot be written.
    #[error("failed to write the configuration of media pods: {0}")]
    Config(String),
    /// A pod cannot be written.
    #[error("failed to write a media pod")]
    Pod(#[from] serde_json::Error),
}

/// The objects are built, not written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prepared;

/// The objects are in the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Applied;

/// Everything that one LiveCluster consists of, media pods as a template.
#[derive(Debug, Clone)]
pub struct KubernetesResources<State> {
    /// Secrets that the operator makes.
    pub secrets: Vec<Secret>,
    /// Names of Secrets that were not there.
    pub absent_secrets: BTreeSet<String>,
    /// Configuration of media nodes.
    pub config_maps: Vec<ConfigMap>,
    /// Services.
    pub services: Vec<Service>,
    /// The volume of the managed Redis.
    pub claims: Vec<PersistentVolumeClaim>,
    /// The managed Redis.
    pub stateful_sets: Vec<StatefulSet>,
    /// The way of signalling.
    pub ingresses: Vec<Ingress>,
    /// Routes and certificates, of kinds of others.
    pub foreign: Vec<DynamicObject>,
    /// Those of these kinds that the Kubernetes cluster does not have.
    pub missing: BTreeSet<ForeignKind>,
    /// They were as they should be: nothing was written.
    pub unchanged: bool,
    /// Who may reach the pods.
    pub network_policies: Vec<NetworkPolicy>,
    /// What keeps nodes with rooms, and a Redis that starts, from being evicted.
    pub budgets: Vec<PodDisruptionBudget>,
    /// Who sets the number of media nodes, where Kubernetes does.
    pub autoscalers: Vec<HorizontalPodAutoscaler>,
    /// What media pods are made from.
    pub node: NodeTemplate,
    /// Hash of what media pods are made from.
    pub revision: String,
    /// Written or not.
    pub state: PhantomData<State>,
}

impl KubernetesResources<Prepared> {
    /// The same objects, written but for those of these kinds.
    #[must_use]
    pub fn applied(
        self,
        missing: BTreeSet<ForeignKind>,
        unchanged: bool,
    ) -> KubernetesResources<Applied> {
        KubernetesResources {
            secrets: self.secrets,
            absent_secrets: self.absent_secrets,
            config_maps: self.config_maps,
            services: self.services,
            claims: self.claims,
            stateful_sets: self.stateful_sets,
            ingresses: self.ingresses,
            foreign: self.foreign,
            missing,
            unchanged,
            network_policies: self.network_policies,
            budgets: self.budgets,
            autoscalers: self.autoscalers,
            node: self.node,
            revision: self.revision,
            state: PhantomData,
        }
    }
}

/// Builds every object.
pub fn build(
    valid: &ValidCluster,
    material: &Material,
) -> Result<KubernetesResources<Prepared>, BuildError> {
    let files = config::files(valid)?;
    let node = NodeTemplate::new(valid);
    let revision = node.revision(&files, material)?;
    let (redis_services, stateful_sets) = match &valid.redis {
        ValidRedis::Managed { resources, storage: _, image } => (
            vec![redis::service(valid)],
            vec![redis::stateful_set(valid, resources, image, material)],
        ),
        ValidRedis::External(_) => (Vec::new(), Vec::new()),
    };
    let budgets = [budget::occupied(valid)].into_iter().chain(budget::redis(valid));
    let mut services = vec![service::signalling(valid)];
    services.extend(redis_services);
    let tls = valid.spec.turn.tls.as_ref().filter(|_| valid.turn.is_some());
    services.extend(tls.map(|tls| turn::service(valid, tls)));
    services.extend(route::services(valid));
    services.extend(exposure::services(valid));
    Ok(KubernetesResources {
        secrets: secret::secrets(valid, material),
        absent_secrets: material.absent.clone(),
        config_maps: vec![config::config_map(valid, files)],
        services,
        claims: redis::claim(valid).into_iter().collect(),
        stateful_sets,
        ingresses: ingress::ingress(valid).into_iter().collect(),
        foreign: route::routes(valid)
            .into_iter()
            .chain(gateway::http_route(valid))
            .chain(gateway::certificate(valid))
            .collect(),
        missing: BTreeSet::new(),
        unchanged: false,
        network_policies: policy::policies(valid),
        budgets: budgets.collect(),
        autoscalers: match valid.scaler {
            Scaler::Hpa => vec![autoscaler::autoscaler(valid)],
            Scaler::None | Scaler::BuiltIn => Vec::new(),
        },
        node,
        revision,
        state: PhantomData,
    })
}

/// Metadata of an owned object.
fn metadata(valid: &ValidCluster, name: String, part: &str) -> ObjectMeta {
    ObjectMeta {
        name: Some(name),
        namespace: Some(valid.namespace.clone()),
        labels: Some(labels(&valid.name, part)),
        owner_references: Some(vec![valid.owner.clone()]),
        ..ObjectMeta::default()
    }
}

/// Labels of an owned object.
fn labels(cluster: &str, part: &str) -> BTreeMap<String, String> {
    let mut labels = selector(cluster, part);
    labels.insert("app.kubernetes.io/name".to_owned(), "livecluster".to_owned());
    labels.insert(names::MANAGED_BY.to_owned(), names::MANAGER.to_owned());
    labels
}

/// Labels that select the pods of a part.
fn selector(cluster: &str, part: &str) -> BTreeMap<String, String> {
    BTreeMap::from([
        (names::CLUSTER.to_owned(), cluster.to_owned()),
        (names::COMPONENT.to_owned(), part.to_owned()),
    ])
}

/// Metadata of what belongs to the cluster as a whole.
fn cluster_metadata(valid: &ValidCluster, name: String) -> ObjectMeta {
    metadata(valid, name, component::CLUSTER)
}

#[cfg(test)]
mod tests;
