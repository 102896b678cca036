//! Finds out what the media nodes of a LiveCluster do. Every operator does so by itself, so that
//! any of them may be asked, also while none leads.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crds::LiveCluster;
use crds::live_cluster::NodeCapacity;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::runtime::reflector::ObjectRef;
use kube::{Api, Client, ResourceExt as _};
use thiserror::Error;

use super::Metric;
use crate::cluster::autoscaling::demand::{Demand, Sum};
use crate::cluster::dereference::{self, DereferenceError};
use crate::cluster::nodes::{self, Hosts};
use crate::cluster::poll::{self, Poller};
use crate::cluster::validate::{self, Invalid};

/// A HorizontalPodAutoscaler asks for all its metrics one after the other: they are of one look.
const MAX_AGE: Duration = Duration::from_secs(2);
/// LiveClusters whose last look is kept; beyond that all are forgotten.
const MAX_KEPT: usize = 10_000;

/// What a metric is at a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Value {
    /// The value, in the notation of Kubernetes.
    pub quantity: String,
    /// When the nodes told it.
    pub at: Timestamp,
}

/// Why a metric cannot be told.
#[derive(Debug, Error)]
pub enum ValueError {
    /// There is no such LiveCluster.
    #[error("there is no LiveCluster {namespace}/{name}")]
    NotFound {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// A node is silent: the truth may be more than what is known.
    #[error("not every node of {namespace}/{name} tells what it does")]
    Incomplete {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// The LiveCluster cannot be acted upon.
    #[error("the LiveCluster cannot be acted upon")]
    Invalid(#[from] Invalid),
    /// The API server does not answer.
    #[error("failed to read the LiveCluster")]
    Read(#[source] Box<kube::Error>),
    /// The pods could not be read.
    #[error("failed to read the media nodes")]
    Pods(#[from] DereferenceError),
}

/// Tells the metrics of LiveClusters.
pub trait Figures: Send + Sync + 'static {
    /// What a metric is.
    fn value(
        &self,
        namespace: &str,
        name: &str,
        metric: Metric,
    ) -> impl Future<Output = Result<Value, ValueError>> + Send;
}

/// Asks the media nodes.
pub struct Values {
    client: Client,
    hosts: Hosts,
    poller: Poller,
    looks: Mutex<HashMap<ObjectRef<LiveCluster>, Arc<Look>>>,
}

/// The last look at a LiveCluster; who asks meanwhile waits for it.
type Look = tokio::sync::Mutex<Option<(Instant, Seen)>>;

#[derive(Debug, Clone, Copy)]
struct Seen {
    demand: Demand,
    free_slots: u32,
    at: Timestamp,
}

impl Values {
    /// Has not looked yet; `hosts` are the Kubernetes nodes.
    #[must_use]
    pub fn new(client: Client, hosts: Hosts) -> Self {
        Self { client, hosts, poller: Poller::default(), looks: Mutex::default() }
    }

    async fn look(&self, namespace: &str, name: &str) -> Result<Seen, ValueError> {
        let look = self.last_look(namespace, name);
        let mut last = look.lock().await;
        if let Some((_, seen)) = last.filter(|(at, _)| at.elapsed() < MAX_AGE) {
            return Ok(seen);
        }
        let seen = self.look_now(namespace, name).await?;
        *last = Some((Instant::now(), seen));
        Ok(seen)
    }

    fn last_look(&self, namespace: &str, name: &str) -> Arc<Look> {
        let mut looks = self.looks.lock().unwrap_or_else(PoisonError::into_inner);
        if looks.len() >= MAX_KEPT {
            looks.clear();
        }
        Arc::clone(looks.entry(ObjectRef::new(name).within(namespace)).or_default())
    }

    async fn look_now(&self, namespace: &str, name: &str) -> Result<Seen, ValueError> {
        let clusters: Api<LiveCluster> = Api::namespaced(self.client.clone(), namespace);
        let found = clusters.get_opt(name).await;
        let cluster = found.map_err(|error| ValueError::Read(Box::new(error)))?;
        let (namespace, name) = (namespace.to_owned(), name.to_owned());
        let Some(cluster) = cluster else { return Err(ValueError::NotFound { namespace, name }) };
        let (uid, spec) = (cluster.uid().unwrap_or_default(), cluster.spec);
        let workers = validate::workers(&spec)?;
        let found = dereference::pods(&self.client, &namespace, &name, &uid).await?;
        let capacity = spec.node.capacity;
        let mut demand = self.ask(&found, workers, capacity).await;
        if demand.rooms.complete && !demand.load.complete {
            // Somebody was asked for the first time: how busy it is takes a second look.
            tokio::time::sleep(poll::MIN_AGE).await;
            demand = self.ask(&found, workers, capacity).await;
        }
        let age = SignedDuration::try_from(demand.age).unwrap_or_default();
        let now = Timestamp::now();
        let at = now.checked_sub(age).unwrap_or(now);
        Ok(Seen { demand, free_slots: spec.autoscaling.free_slots, at })
    }

    async fn ask(&self, found: &[Pod], workers: u16, capacity: NodeCapacity) -> Demand {
        let mut pods = nodes::observe(found, &self.hosts);
        let readings = self.poller.poll(&pods).await;
        nodes::count(&mut pods, &readings);
        Demand::of(&pods, &readings, workers, capacity)
    }
}

impl Figures for Values {
    async fn value(
        &self,
        namespace: &str,
        name: &str,
        metric: Metric,
    ) -> Result<Value, ValueError> {
        let seen = self.look(namespace, name).await?;
        match quantity(&seen.demand, seen.free_slots, metric) {
            Some(quantity) => Ok(Value { quantity, at: seen.at }),
            None => Err(ValueError::Incomplete {
                namespace: namespace.to_owned(),
                name: name.to_owned(),
            }),
        }
    }
}

/// The value of a metric; `None` where somebody is silent: a sum that is too small would send nodes
/// away.
fn quantity(demand: &Demand, free_slots: u32, metric: Metric) -> Option<String> {
    let complete = |sum: Sum| sum.complete.then_some(sum.value);
    Some(match metric {
        Metric::Rooms => complete(demand.rooms)?.to_string(),
        Metric::RoomSlots => complete(demand.rooms)?.saturating_add(free_slots.into()).to_string(),
        Metric::Subscribers => complete(demand.subscribers)?.to_string(),
        Metric::Load => format!("{}m", complete(demand.load)?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_quantities_and_silence_has_none() {
        let told = |value| Sum { value, complete: true };
        let demand =
            Demand { rooms: told(7), subscribers: told(40), load: told(1500), age: Duration::ZERO };
        let all = |demand: &Demand| Metric::ALL.map(|metric| quantity(demand, 3, metric));
        let texts = ["7", "10", "40", "1500m"].map(|text| Some(text.to_owned()));
        assert_eq!(all(&demand), texts);
        let silent = Sum { value: 7, complete: false };
        let partly = Demand { rooms: silent, ..demand };
        assert_eq!(all(&partly), [None, None, texts[2].clone(), texts[3].clone()]);
    }
}
