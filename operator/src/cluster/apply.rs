//! Fourth step: writes the objects by server-side apply and removes those that no longer belong.

use std::collections::{BTreeSet, HashMap};
use std::fmt::Debug;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crds::{LiveCluster, names};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions};
use kube::runtime::reflector::ObjectRef;
use kube::{Api, Resource, ResourceExt as _};
use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest as _, Sha256};
use thiserror::Error;

use super::build::{Applied, ForeignKind, KubernetesResources, Prepared};
use crate::controller::Context;

mod foreign;

/// Objects that nobody touched are written again after this time all the same.
pub const MAX_AGE: Duration = Duration::from_secs(600);
/// The same where a kind was missing, which somebody may install.
const MAX_AGE_INCOMPLETE: Duration = Duration::from_secs(30);
/// Most LiveClusters whose last apply is remembered; beyond that all are forgotten.
const MAX_REMEMBERED: usize = 10_000;

/// What the API server answers to an object that it does not take: bad request, forbidden,
/// unprocessable.
const REFUSALS: [u16; 3] = [400, 403, 422];

/// An object could not be written.
#[derive(Debug, Error)]
#[error("failed to write {kind} {name}")]
pub struct ApplyError {
    kind: String,
    name: String,
    source: Box<kube::Error>,
}

impl ApplyError {
    /// What the API server says where it refuses the object as it is: trying again changes nothing.
    #[must_use]
    pub fn refusal(&self) -> Option<String> {
        match &*self.source {
            kube::Error::Api(status) if REFUSALS.contains(&status.code) => {
                let Self { kind, name, source: _ } = self;
                Some(format!("the API server refuses {kind} {name}: {}", status.message))
            }
            _ => None,
        }
    }

    /// Names the object that could not be written.
    #[must_use]
    pub fn new(kind: &str, name: &str, source: kube::Error) -> Self {
        Self { kind: kind.to_owned(), name: name.to_owned(), source: Box::new(source) }
    }
}

/// What was written last.
#[derive(Debug)]
struct LastApply {
    /// Of the objects.
    hash: [u8; 32],
    at: Instant,
    missing: BTreeSet<ForeignKind>,
}

impl LastApply {
    fn is_fresh(&self) -> bool {
        let max_age = if self.missing.is_empty() { MAX_AGE } else { MAX_AGE_INCOMPLETE };
        self.at.elapsed() < max_age
    }
}

/// What was applied last, so that a look at the cluster costs no writes.
#[derive(Debug, Default)]
pub struct AppliedCache {
    last: Mutex<HashMap<ObjectRef<LiveCluster>, LastApply>>,
}

impl AppliedCache {
    /// An object of the LiveCluster was touched.
    pub fn forget(&self, cluster: &ObjectRef<LiveCluster>) {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).remove(cluster);
    }

    /// The kinds that were missing, where these objects were written a short time ago.
    fn last(
        &self,
        cluster: &ObjectRef<LiveCluster>,
        hash: &[u8; 32],
    ) -> Option<BTreeSet<ForeignKind>> {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let last = last.get(cluster).filter(|last| last.hash == *hash && last.is_fresh())?;
        Some(last.missing.clone())
    }

    /// Kinds were missing when these objects were written.
    fn remember_missing(&self, cluster: &ObjectRef<LiveCluster>, kinds: BTreeSet<ForeignKind>) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(last) = last.get_mut(cluster) {
            last.missing = kinds;
        }
    }

    fn remember(&self, cluster: ObjectRef<LiveCluster>, hash: [u8; 32]) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.len() >= MAX_REMEMBERED {
            last.clear();
        }
        last.insert(cluster, LastApply { hash, at: Instant::now(), missing: BTreeSet::new() });
    }
}

/// Writes all objects but media pods, which have a plan of their own.
pub async fn apply(
    resources: KubernetesResources<Prepared>,
    cluster: &Arc<LiveCluster>,
    context: &Context,
) -> Result<KubernetesResources<Applied>, ApplyError> {
    let reference = ObjectRef::from_obj(&**cluster);
    let hash = hash(&resources);
    let writer = Writer { context, cluster: Arc::clone(cluster) };
    // A Secret cannot be watched without reading all of them: what is absent is written at once.
    let is_absent = |secret: &&Secret| resources.absent_secrets.contains(&secret.name_any());
    let mut unchanged = true;
    for secret in resources.secrets.iter().filter(is_absent) {
        writer.create(secret).await?;
        unchanged = false;
    }
    if let Some(missing) = context.applied.last(&reference, &hash) {
        return Ok(resources.applied(missing, unchanged));
    }
    // Forgotten by a touch from here on, which comes after what is written below.
    context.applied.remember(reference.clone(), hash);
    match writer.apply_objects(&resources).await {
        Ok(missing) => {
            context.applied.remember_missing(&reference, missing.clone());
            Ok(resources.applied(missing, false))
        }
        Err(error) => {
            context.applied.forget(&reference);
            Err(error)
        }
    }
}

fn hash(resources: &KubernetesResources<Prepared>) -> [u8; 32] {
    let KubernetesResources { secrets, config_maps, services, claims, stateful_sets, .. } =
        resources;
    let ways_in = (&resources.ingresses, &resources.foreign, &resources.network_policies);
    let scaling = (&resources.budgets, &resources.autoscalers);
    let all = (secrets, config_maps, services, (claims, stateful_sets), ways_in, scaling);
    Sha256::digest(serde_json::to_vec(&all).unwrap_or_default()).into()
}

/// Writes objects of one LiveCluster.
struct Writer<'a> {
    context: &'a Context,
    cluster: Arc<LiveCluster>,
}

impl Writer<'_> {
    fn api<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        let namespace = self.cluster.namespace().unwrap_or_default();
        Api::namespaced(self.context.client.clone(), &namespace)
    }

    /// Writes everything but Secrets that were absent; says which kinds are missing.
    async fn apply_objects(
        &self,
        resources: &KubernetesResources<Prepared>,
    ) -> Result<BTreeSet<ForeignKind>, ApplyError> {
        let secrets = &resources.secrets;
        let is_absent = |secret: &Secret| resources.absent_secrets.contains(&secret.name_any());
        for secret in secrets.iter().filter(|secret| !is_absent(secret)) {
            self.apply(secret).await?;
        }
        self.prune_secrets(secrets).await?;
        self.apply_all(&resources.config_maps).await?;
        self.apply_all(&resources.services).await?;
        // Before what they are about, so that no pod is open for a moment.
        self.apply_all(&resources.network_policies).await?;
        self.apply_all(&resources.claims).await?;
        self.apply_all(&resources.stateful_sets).await?;
        self.apply_all(&resources.ingresses).await?;
        self.apply_all(&resources.budgets).await?;
        self.apply_all(&resources.autoscalers).await?;
        self.apply_foreign(&resources.foreign).await
    }

    /// Writes every object, then removes ours of the same kind that are not among them.
    async fn apply_all<K>(&self, objects: &[K]) -> Result<(), ApplyError>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
        K: Clone + Debug + Serialize + DeserializeOwned,
    {
        for object in objects {
            self.apply(object).await?;
        }
        let ours = self.ours();
        let api = self.api::<K>();
        let kind = K::kind(&());
        let list = api.list_metadata(&ListParams::default().labels(&ours)).await;
        let list = list.map_err(|error| ApplyError::new(&kind, "(list)", error))?;
        for found in list.items {
            let kept = objects.iter().any(|object| object.name_any() == found.name_any());
            if !kept && self.controls(&found) {
                self.delete(&kind, &api, &found).await?;
            }
        }
        Ok(())
    }

    /// Selects what was made out of this LiveCluster.
    fn ours(&self) -> String {
        format!(
            "{}={},{}={}",
            names::MANAGED_BY,
            names::MANAGER,
            names::CLUSTER,
            self.cluster.name_any()
        )
    }

    async fn apply<K>(&self, object: &K) -> Result<(), ApplyError>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
        K: Clone + Debug + Serialize + DeserializeOwned,
    {
        let params = PatchParams::apply(names::MANAGER).force();
        let name = object.name_any();
        let result = self.api::<K>().patch(&name, &params, &Patch::Apply(object)).await;
        result.map_err(|error| ApplyError::new(&K::kind(&()), &name, error))?;
        Ok(())
    }

    /// Creates what must not be written over: another operator may have been faster, then its
    /// passwords hold and this reconcile starts anew.
    async fn create(&self, secret: &Secret) -> Result<(), ApplyError> {
        let params =
            PostParams { field_manager: Some(names::MANAGER.to_owned()), ..PostParams::default() };
        let result = self.api::<Secret>().create(&params, secret).await;
        result.map_err(|error| ApplyError::new("Secret", &secret.name_any(), error))?;
        Ok(())
    }

    /// Secrets are not listed, since that would read those of everybody: those that we ever make
    /// have known names.
    async fn prune_secrets(&self, wanted: &[Secret]) -> Result<(), ApplyError> {
        let name = self.cluster.name_any();
        let api = self.api::<Secret>();
        for name in [names::keys_secret(&name), names::redis_secret(&name), names::turn(&name)] {
            if wanted.iter().any(|secret| secret.name_any() == name) {
                continue;
            }
            let found = api.get_metadata_opt(&name).await;
            let found = found.map_err(|error| ApplyError::new("Secret", &name, error))?;
            if let Some(found) = found.filter(|found| self.controls(found)) {
                self.delete("Secret", &api, &found).await?;
            }
        }
        Ok(())
    }

    /// Never touches what somebody else made, whatever its name and labels.
    fn controls(&self, object: &impl Resource) -> bool {
        let uid = self.cluster.uid();
        let owners = object.meta().owner_references.iter().flatten();
        owners
            .into_iter()
            .any(|owner| owner.controller == Some(true) && Some(&owner.uid) == uid.as_ref())
    }

    async fn delete<K>(
        &self,
        kind: &str,
        api: &Api<K>,
        found: &impl Resource,
    ) -> Result<(), ApplyError>
    where
        K: Clone + Debug + DeserializeOwned,
    {
        let uid = found.meta().uid.clone();
        let only_this = Preconditions { uid, resource_version: None };
        let name = found.meta().name.clone().unwrap_or_default();
        let params = DeleteParams::background().preconditions(only_this);
        match api.delete(&name, &params).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(s)) if s.is_not_found() || s.is_conflict() => Ok(()),
            Err(error) => Err(ApplyError::new(kind, &name, error)),
        }
    }
}
