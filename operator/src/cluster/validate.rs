//! Second step: turns what was read into a type that cannot be wrong.
//!
//! The API server has already refused what a rule of the schema can see; here is what needs other
//! objects, or arithmetic on quantities.

use std::collections::BTreeSet;
use std::time::Duration;

use contract::access_token::ApiKeys;
use contract::sfu_config::{self, MediaConfig};
use crds::live_cluster::{
    CreateRoom, Exposure, ExternalRedis, LogFormat, ManagedRedis, RedisStorage, Resources,
};
use crds::{LiveClusterSpec, names};
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::{Resource as _, ResourceExt as _};
use thiserror::Error;

use super::autoscaling::Scaler;
use super::autoscaling::scaler::Policy;
use super::dereference::Dereferenced;
use super::material::{AUTHORITY_ENTRY, CERTIFICATE_ENTRY, KEY_ENTRY};
use super::nodes;

/// Most workers of a node, as the schema says; what a CPU request is cut down to.
const MAX_WORKERS: u128 = 64;
/// Longest wait for rooms to end, as the schema says.
const MAX_DRAIN_TIMEOUT: Duration = Duration::from_secs(24 * 3600);
/// Entry of the Secret of API keys.
pub const KEYS_ENTRY: &str = "keys.yaml";
/// Entry of the Secret of the bearer token.
pub const TOKEN_ENTRY: &str = "token";
/// Entry of the Secret of Redis.
pub const PASSWORD_ENTRY: &str = "password";

/// Images that a LiveCluster need not name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Images {
    /// The media node.
    pub sfu: String,
    /// The TURN server.
    pub turn: String,
    /// The managed Redis.
    pub redis: String,
}

/// Why a LiveCluster cannot be acted upon; a person must change something.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Invalid {
    /// A Secret that the spec names does not exist.
    #[error("the Secret {name} named by {field} does not exist")]
    SecretMissing {
        /// The field of the spec.
        field: &'static str,
        /// The Secret.
        name: String,
    },
    /// A Secret lacks an entry.
    #[error("the Secret {name} named by {field} has no entry {entry}")]
    EntryMissing {
        /// The field of the spec.
        field: &'static str,
        /// The Secret.
        name: String,
        /// The entry.
        entry: &'static str,
    },
    /// The API keys cannot be read.
    #[error("the entry keys.yaml of the Secret {name} is no map of keys to secrets: {reason}")]
    Keys {
        /// The Secret.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Webhooks are to be signed by a key that is not there.
    #[error("spec.webhooks.apiKey names {key}, which is no API key of {secret}")]
    WebhookKey {
        /// The key.
        key: String,
        /// The Secret of API keys.
        secret: String,
    },
    /// The CPU request is not a quantity.
    #[error("spec.node.resources.requests.cpu is not a quantity: {value}")]
    CpuRequest {
        /// What it is.
        value: String,
    },
    /// The time of a drain is none.
    #[error("spec.drain.timeout is not a length of time such as 1h30m")]
    DrainTimeout,
    /// A time of the autoscaler is none.
    #[error("the windows and periods of spec.autoscaling.behavior are not lengths of time")]
    ScalingBehavior,
    /// The port range is too small for the nodes.
    #[error(
        "spec.media.ports.count is {count}, but {nodes} nodes with {workers} workers, and one \
         more while nodes are replaced, take {needed} ports"
    )]
    Ports {
        /// What the range has.
        count: u16,
        /// Desired nodes.
        nodes: u16,
        /// Workers of each.
        workers: u16,
        /// What the range must have.
        needed: u32,
    },
}

impl Invalid {
    /// The reason of the condition, a word for programs.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::SecretMissing { .. } => "SecretMissing",
            Self::EntryMissing { .. } => "SecretEntryMissing",
            Self::Keys { .. } | Self::WebhookKey { .. } => "InvalidKeys",
            Self::CpuRequest { .. } => "InvalidResources",
            Self::DrainTimeout => "InvalidDrainTimeout",
            Self::ScalingBehavior => "InvalidBehavior",
            Self::Ports { .. } => "TooFewPorts",
        }
    }
}

/// The Redis of a LiveCluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ValidRedis {
    /// The operator runs it.
    Managed {
        /// CPU and memory.
        resources: Resources,
        /// Its volume; `None` where it keeps nothing.
        storage: Option<RedisStorage>,
        /// Its image.
        image: String,
    },
    /// It is there already.
    External(ExternalRedis),
}

/// The TURN server beside every media node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ValidTurn {
    /// Its image.
    pub image: String,
}

/// A LiveCluster that can be acted upon.
#[derive(Debug, Clone, PartialEq)]
pub struct ValidCluster {
    /// Its name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// Its unique id.
    pub uid: String,
    /// The owner of everything that is made out of it.
    pub owner: OwnerReference,
    /// The spec, for what needs no further thought.
    pub spec: LiveClusterSpec,
    /// Image of media nodes.
    pub image: String,
    /// Workers of a media node.
    pub workers: u16,
    /// Slots that the port range has room for.
    pub slots: u16,
    /// Slots that pods have, those that leave among them.
    pub slots_in_use: BTreeSet<u16>,
    /// Who sets the number of nodes.
    pub scaler: Scaler,
    /// What is wanted of whoever does.
    pub policy: Policy,
    /// How long a leaving node waits for its rooms to end.
    pub drain_timeout: Duration,
    /// Secret of API keys: the user's, or the one to generate.
    pub keys_secret: String,
    /// The Redis.
    pub redis: ValidRedis,
    /// The TURN server; `None` where there shall be none.
    pub turn: Option<ValidTurn>,
}

impl ValidCluster {
    /// Where clients connect.
    #[must_use]
    pub fn url(&self) -> String {
        let by_gateway = self.spec.gateway.as_ref().is_some_and(|gateway| gateway.tls);
        let has_tls = by_gateway || self.spec.ingress.tls.is_some();
        let scheme = if has_tls { "https" } else { "http" };
        format!("{scheme}://{}", self.spec.domain)
    }

    /// The media sockets of every node.
    #[must_use]
    pub fn media_config(&self) -> MediaConfig {
        MediaConfig {
            workers: self.workers,
            first_port: self.spec.media.ports.first,
            tcp: self.spec.media.tcp,
            direct: match self.spec.media.exposure {
                Exposure::HostPort
                | Exposure::HostNetwork
                | Exposure::NodePort
                | Exposure::LoadBalancer => true,
                Exposure::TurnOnly => false,
            },
            ..MediaConfig::default()
        }
    }

    /// Who may call `POST /api/create-room`.
    #[must_use]
    pub fn create_room(&self) -> sfu_config::CreateRoom {
        match self.spec.http.create_room {
            CreateRoom::Disabled => sfu_config::CreateRoom::Disabled,
            CreateRoom::Token => sfu_config::CreateRoom::Token,
            CreateRoom::Open => sfu_config::CreateRoom::Open,
        }
    }

    /// Form of a log line.
    #[must_use]
    pub fn log_format(&self) -> sfu_config::LogFormat {
        match self.spec.log.format {
            LogFormat::Json => sfu_config::LogFormat::Json,
            LogFormat::Text => sfu_config::LogFormat::Text,
        }
    }
}

/// Checks what the schema could not.
pub fn validate(found: &Dereferenced, images: &Images) -> Result<ValidCluster, Invalid> {
    let cluster = &found.cluster;
    let spec = &cluster.spec;
    let name = cluster.name_any();
    check_user_secrets(found)?;
    let workers = workers(spec)?;
    let ports_per_slot = MediaConfig { workers, ..MediaConfig::default() }.ports_per_slot();
    let slots = spec.media.ports.count / ports_per_slot;
    let nodes = spec.autoscaling.most_nodes(spec.nodes);
    let needed = (u32::from(nodes) + 1) * u32::from(ports_per_slot);
    if u32::from(spec.media.ports.count) < needed {
        let count = spec.media.ports.count;
        return Err(Invalid::Ports { count, nodes, workers, needed });
    }
    let drain_timeout = spec.drain.timeout.as_duration();
    let drain_timeout = drain_timeout.ok_or(Invalid::DrainTimeout)?.min(MAX_DRAIN_TIMEOUT);
    let redis = match &spec.redis.external {
        Some(external) => ValidRedis::External(external.clone()),
        None => {
            let ManagedRedis { resources, storage } =
                spec.redis.managed.clone().unwrap_or_default();
            ValidRedis::Managed { resources, storage, image: images.redis.clone() }
        }
    };
    let turn_image = || spec.turn.image.clone().unwrap_or_else(|| images.turn.clone());
    Ok(ValidCluster {
        turn: spec.turn.enabled.then(|| ValidTurn { image: turn_image() }),
        namespace: found.namespace.clone(),
        uid: found.uid.clone(),
        owner: OwnerReference {
            api_version: crds::LiveCluster::api_version(&()).into_owned(),
            kind: crds::LiveCluster::kind(&()).into_owned(),
            name: name.clone(),
            uid: found.uid.clone(),
            controller: Some(true),
            block_owner_deletion: Some(true),
        },
        image: spec.node.image.clone().unwrap_or_else(|| images.sfu.clone()),
        workers,
        slots,
        slots_in_use: found.pods.iter().filter_map(nodes::slot_of).collect(),
        scaler: Scaler::of(spec.autoscaling.mode, &found.metrics_api),
        policy: Policy::of(&spec.autoscaling).ok_or(Invalid::ScalingBehavior)?,
        drain_timeout,
        keys_secret: spec.keys.secret_name.clone().unwrap_or_else(|| names::keys_secret(&name)),
        redis,
        spec: spec.clone(),
        name,
    })
}

/// Workers of a node: as said, else one a requested CPU.
pub fn workers(spec: &LiveClusterSpec) -> Result<u16, Invalid> {
    if let Some(workers) = spec.node.workers {
        return Ok(workers);
    }
    let Some(request) = spec.node.resources.requests.get("cpu") else { return Ok(1) };
    let invalid = || Invalid::CpuRequest { value: request.as_str().to_owned() };
    let cpus = request.as_millis().ok_or_else(invalid)?.div_ceil(1000);
    u16::try_from(cpus.clamp(1, MAX_WORKERS)).map_err(|_| invalid())
}

/// Secrets that the user names must be there; generated ones are made later.
fn check_user_secrets(found: &Dereferenced) -> Result<(), Invalid> {
    let spec = &found.cluster.spec;
    if let Some(name) = &spec.keys.secret_name {
        let text = entry("spec.keys.secretName", name, found.keys.as_ref(), KEYS_ENTRY)?;
        let keys = ApiKeys::from_yaml(&text);
        let keys = keys.map_err(|reason| Invalid::Keys { name: name.clone(), reason })?;
        if let Some(key) = spec.webhooks.api_key.as_ref().filter(|key| keys.secret(key).is_none()) {
            return Err(Invalid::WebhookKey { key: key.clone(), secret: name.clone() });
        }
    }
    if let Some(name) = &spec.http.token_secret_name {
        entry("spec.http.tokenSecretName", name, found.token.as_ref(), TOKEN_ENTRY)?;
    }
    if let Some(tls) = spec.turn.tls.as_ref().filter(|_| spec.turn.enabled) {
        for name in [CERTIFICATE_ENTRY, KEY_ENTRY] {
            let field = "spec.turn.tls.secretName";
            entry(field, &tls.secret_name, found.turn_tls.as_ref(), name)?;
        }
    }
    let external = spec.redis.external.as_ref();
    if let Some(name) = external.and_then(|external| external.secret_name.as_ref()) {
        let field = "spec.redis.external.secretName";
        entry(field, name, found.redis.as_ref(), PASSWORD_ENTRY)?;
    }
    if let Some(name) = external.and_then(|external| external.ca_secret_name.as_ref()) {
        let field = "spec.redis.external.caSecretName";
        entry(field, name, found.redis_ca.as_ref(), AUTHORITY_ENTRY)?;
    }
    Ok(())
}

fn entry(
    field: &'static str,
    name: &str,
    secret: Option<&Secret>,
    entry: &'static str,
) -> Result<String, Invalid> {
    let name = name.to_owned();
    let Some(secret) = secret else { return Err(Invalid::SecretMissing { field, name }) };
    text_of(secret, entry).ok_or(Invalid::EntryMissing { field, name, entry })
}

/// The text of an entry that is there and not empty.
#[must_use]
pub fn text_of(secret: &Secret, entry: &str) -> Option<String> {
    let bytes = &secret.data.as_ref()?.get(entry)?.0;
    let text = String::from_utf8(bytes.clone()).ok()?;
    (!text.trim().is_empty()).then_some(text)
}

#[cfg(test)]
pub(crate) mod tests;
