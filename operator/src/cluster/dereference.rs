//! First step: reads what a LiveCluster names and what is already there of it.

use std::sync::Arc;

use crds::live_cluster::Exposure;
use crds::{LiveCluster, names};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, Secret, Service};
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt as _};
use thiserror::Error;

use crate::controller::Context;
use crate::metrics_api::Registration;

/// What could not be read.
#[derive(Debug, Error)]
pub enum DereferenceError {
    /// A namespaced object without a namespace.
    #[error("the LiveCluster has no {field}")]
    Incomplete {
        /// The field of the metadata.
        field: &'static str,
    },
    /// A Secret could not be read.
    #[error("failed to read the Secret {name}")]
    Secret {
        /// Its name.
        name: String,
        /// The API server's answer.
        source: Box<kube::Error>,
    },
    /// The media pods could not be listed.
    #[error("failed to list media pods")]
    Pods(#[source] Box<kube::Error>),
    /// The Services of media nodes could not be listed.
    #[error("failed to list the Services of media nodes")]
    Services(#[source] Box<kube::Error>),
    /// The managed Redis could not be read.
    #[error("failed to read the StatefulSet of Redis")]
    Redis(#[source] Box<kube::Error>),
}

/// A LiveCluster with what it names and owns.
#[derive(Debug, Clone)]
pub struct Dereferenced {
    /// The LiveCluster.
    pub cluster: Arc<LiveCluster>,
    /// Its namespace.
    pub namespace: String,
    /// Its unique id.
    pub uid: String,
    /// The Secret of API keys: the user's, or the generated one.
    pub keys: Option<Secret>,
    /// The Secret of the bearer token for `POST /api/create-room`.
    pub token: Option<Secret>,
    /// The Secret with the password of Redis: the user's, or the generated one.
    pub redis: Option<Secret>,
    /// The Secret with the authorities of Redis's certificate.
    pub redis_ca: Option<Secret>,
    /// The authority for pod-to-pod certificates.
    pub authority: Option<Secret>,
    /// The certificate of media pods.
    pub peer: Option<Secret>,
    /// The keys of the TURN servers' nonces.
    pub turn: Option<Secret>,
    /// The certificate of TURN by TLS.
    pub turn_tls: Option<Secret>,
    /// The managed Redis.
    pub redis_set: Option<StatefulSet>,
    /// The Services of media nodes, where these have load balancers.
    pub media_services: Vec<Service>,
    /// The media pods that this LiveCluster controls.
    pub pods: Vec<Pod>,
    /// What became of the metrics API.
    pub metrics_api: Registration,
}

/// Reads everything from the API server, not from a cache: decisions about pods count them.
pub async fn dereference(
    cluster: &Arc<LiveCluster>,
    context: &Context,
) -> Result<Dereferenced, DereferenceError> {
    let name = cluster.name_any();
    let namespace =
        cluster.namespace().ok_or(DereferenceError::Incomplete { field: "namespace" })?;
    let uid = cluster.uid().ok_or(DereferenceError::Incomplete { field: "uid" })?;
    let spec = &cluster.spec;
    let secrets: Api<Secret> = Api::namespaced(context.client.clone(), &namespace);
    let secret = |name: Option<String>| {
        let secrets = secrets.clone();
        async move {
            let Some(name) = name else { return Ok(None) };
            let found = secrets.get_opt(&name).await;
            found.map_err(|e| DereferenceError::Secret { name, source: Box::new(e) })
        }
    };
    let keys = spec.keys.secret_name.clone().unwrap_or_else(|| names::keys_secret(&name));
    let redis = match &spec.redis.external {
        Some(external) => external.secret_name.clone(),
        None => Some(names::redis_secret(&name)),
    };
    let redis_ca = spec.redis.external.as_ref().and_then(|redis| redis.ca_secret_name.clone());
    let turn_tls = spec.turn.tls.as_ref().map(|tls| tls.secret_name.clone());
    let (keys, token, redis, redis_ca, authority, peer, turn, turn_tls) = futures::try_join!(
        secret(Some(keys)),
        secret(spec.http.token_secret_name.clone()),
        secret(redis),
        secret(redis_ca),
        secret(Some(names::authority_secret(&name))),
        secret(Some(names::peer_secret(&name))),
        secret(Some(names::turn(&name))),
        secret(turn_tls),
    )?;
    let (redis_set, media_services, pods) = futures::try_join!(
        redis_set(context, &namespace, &name),
        media_services(context, &namespace, cluster),
        pods(&context.client, &namespace, &name, &uid)
    )?;
    let cluster = Arc::clone(cluster);
    Ok(Dereferenced {
        cluster,
        namespace,
        uid,
        keys,
        token,
        redis,
        redis_ca,
        authority,
        peer,
        turn,
        turn_tls,
        redis_set,
        media_services,
        pods,
        metrics_api: context.metrics_api.borrow().clone(),
    })
}

async fn redis_set(
    context: &Context,
    namespace: &str,
    name: &str,
) -> Result<Option<StatefulSet>, DereferenceError> {
    let sets: Api<StatefulSet> = Api::namespaced(context.client.clone(), namespace);
    sets.get_opt(&names::redis(name)).await.map_err(|e| DereferenceError::Redis(Box::new(e)))
}

/// Load balancers tell their addresses there; others need not be asked.
async fn media_services(
    context: &Context,
    namespace: &str,
    cluster: &LiveCluster,
) -> Result<Vec<Service>, DereferenceError> {
    if cluster.spec.media.exposure != Exposure::LoadBalancer {
        return Ok(Vec::new());
    }
    let services: Api<Service> = Api::namespaced(context.client.clone(), namespace);
    let list = ListParams::default().labels(&names::node_selector(&cluster.name_any()));
    let found = services.list(&list).await;
    Ok(found.map_err(|error| DereferenceError::Services(Box::new(error)))?.items)
}

/// The media pods, with the node and the images alone of what was asked for them. Pods with our labels
/// that another object controls, or none, are neither counted nor touched.
pub async fn pods(
    client: &Client,
    namespace: &str,
    name: &str,
    uid: &str,
) -> Result<Vec<Pod>, DereferenceError> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let list = pods.list(&ListParams::default().labels(&names::node_selector(name))).await;
    let mut pods = list.map_err(|e| DereferenceError::Pods(Box::new(e)))?.items;
    pods.retain(|pod| {
        pod.owner_references()
            .iter()
            .any(|owner| owner.controller == Some(true) && owner.uid == uid)
    });
    pods.iter_mut().for_each(strip);
    Ok(pods)
}

/// Takes out of a media pod what nobody asks for: it is remembered as long as nothing happens, and there
/// may be thousands.
fn strip(pod: &mut Pod) {
    pod.metadata.managed_fields = None;
    let Some(spec) = &mut pod.spec else { return };
    let containers = std::mem::take(&mut spec.containers).into_iter();
    let containers = containers.map(|Container { name, image, .. }| Container {
        name,
        image,
        ..Container::default()
    });
    *spec = PodSpec {
        node_name: spec.node_name.take(),
        containers: containers.collect(),
        ..PodSpec::default()
    };
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::cluster::nodes::{Hosts, observe};

    #[test]
    fn what_is_taken_out_of_a_pod_is_nothing_that_is_read_of_it() {
        let waiting = json!({"waiting": {"reason": "CrashLoopBackOff", "message": "again"}});
        let whole = json!({
            "metadata": {
                "name": "c-node-3", "uid": "u",
                "labels": {names::SLOT: "3", names::PLACEMENT: "cordoned"},
                "annotations": {names::REVISION: "r", names::ADVERTISE_ADDRESSES: "192.0.2.1"},
                "creationTimestamp": "2026-01-01T00:00:00Z",
                "managedFields": [{"manager": "kubelet", "fieldsV1": {"f:status": {}}}],
            },
            "spec": {
                "nodeName": "host-a",
                "volumes": [{"name": "files", "emptyDir": {}}],
                "containers": [{"name": "sfu", "image": "sfu:1.2", "env": [{"name": "A"}]}],
            },
            "status": {
                "phase": "Running", "podIP": "10.1.0.1", "hostIPs": [{"ip": "10.0.0.1"}],
                "containerStatuses": [{"name": "sfu", "image": "", "imageID": "", "ready": false,
                    "restartCount": 3, "state": waiting}],
            },
        });
        let whole: Pod = serde_json::from_value(whole).unwrap();
        let mut stripped = whole.clone();
        strip(&mut stripped);
        let length = |pod: &Pod| serde_json::to_vec(pod).unwrap().len();
        assert!(length(&stripped) < length(&whole), "{stripped:?}");
        let read = |pod: &Pod| observe(std::slice::from_ref(pod), &Hosts::Unseen);
        assert_eq!(read(&stripped), read(&whole));
        assert_eq!(read(&stripped)[0].version.as_deref(), Some("1.2"));
    }
}
