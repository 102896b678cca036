//! Fourth step: writes the objects by server-side apply and removes those that no longer belong.

use std::collections::HashMap;
use std::fmt::Debug;
use std::marker::PhantomData;
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

use super::build::{Applied, KubernetesResources, Prepared};
use crate::controller::Context;

/// Objects that nobody touched are written again after this time all the same.
const MAX_AGE: Duration = Duration::from_secs(600);
/// Most LiveClusters whose last apply is remembered; beyond that all are forgotten.
const MAX_REMEMBERED: usize = 10_000;

/// An object could not be written.
#[derive(Debug, Error)]
#[error("failed to write {kind} {name}")]
pub struct ApplyError {
    kind: String,
    name: String,
    source: Box<kube::Error>,
}

impl ApplyError {
    /// Names the object that could not be written.
    #[must_use]
    pub fn new(kind: &str, name: &str, source: kube::Error) -> Self {
        Self { kind: kind.to_owned(), name: name.to_owned(), source: Box::new(source) }
    }
}

/// Hash of the objects, and when they were written.
type LastApply = ([u8; 32], Instant);

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

    fn is_applied(&self, cluster: &ObjectRef<LiveCluster>, hash: &[u8; 32]) -> bool {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.get(cluster).is_some_and(|(found, at)| found == hash && at.elapsed() < MAX_AGE)
    }

    fn remember(&self, cluster: ObjectRef<LiveCluster>, hash: [u8; 32]) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.len() >= MAX_REMEMBERED {
            last.clear();
        }
        last.insert(cluster, (hash, Instant::now()));
    }
}

/// Writes all objects but media pods, which have a plan of their own.
pub async fn apply(
    resources: KubernetesResources<Prepared>,
    cluster: &Arc<LiveCluster>,
    context: &Context,
) -> Result<KubernetesResources<Applied>, ApplyError> {
    let KubernetesResources {
        secrets,
        absent_secrets,
        config_maps,
        services,
        stateful_sets,
        ingresses,
        network_policies,
        budgets,
        autoscalers,
        node,
        revision,
        state: _,
    } = resources;
    let reference = ObjectRef::from_obj(&**cluster);
    let ways_in = (&ingresses, &network_policies);
    let scaling = (&budgets, &autoscalers);
    let all = (&secrets, &config_maps, &services, &stateful_sets, ways_in, scaling);
    let hash = Sha256::digest(serde_json::to_vec(&all).unwrap_or_default()).into();
    let writer = Writer { context, cluster: Arc::clone(cluster) };
    // A Secret cannot be watched without reading all of them: what is absent is written at once.
    let (missing, present): (Vec<_>, Vec<_>) =
        secrets.iter().partition(|secret| absent_secrets.contains(&secret.name_any()));
    for secret in missing {
        writer.create(secret).await?;
    }
    if !context.applied.is_applied(&reference, &hash) {
        // Forgotten by a touch from here on, which comes after what is written below.
        context.applied.remember(reference.clone(), hash);
        let result = async {
            for secret in present {
                writer.apply(secret).await?;
            }
            writer.prune_secrets(&secrets).await?;
            writer.apply_all(&config_maps).await?;
            writer.apply_all(&services).await?;
            // Before what they are about, so that no pod is open for a moment.
            writer.apply_all(&network_policies).await?;
            writer.apply_all(&stateful_sets).await?;
            writer.apply_all(&ingresses).await?;
            writer.apply_all(&budgets).await?;
            writer.apply_all(&autoscalers).await
        }
        .await;
        if let Err(error) = result {
            context.applied.forget(&reference);
            return Err(error);
        }
    }
    Ok(KubernetesResources {
        secrets,
        absent_secrets,
        config_maps,
        services,
        stateful_sets,
        ingresses,
        network_policies,
        budgets,
        autoscalers,
        node,
        revision,
        state: PhantomData,
    })
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

    /// Writes every object, then removes ours of the same kind that are not among them.
    async fn apply_all<K>(&self, objects: &[K]) -> Result<(), ApplyError>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
        K: Clone + Debug + Serialize + DeserializeOwned,
    {
        for object in objects {
            self.apply(object).await?;
        }
        let ours = format!(
            "{}={},{}={}",
            names::MANAGED_BY,
            names::MANAGER,
            names::CLUSTER,
            self.cluster.name_any()
        );
        let api = self.api::<K>();
        let kind = K::kind(&());
        let list = api.list_metadata(&ListParams::default().labels(&ours)).await;
        let list = list.map_err(|error| ApplyError::new(&kind, "(list)", error))?;
        for found in list.items {
            let kept = objects.iter().any(|object| object.name_any() == found.name_any());
            if !kept && self.controls(&found) {
                self.delete(&api, &found).await?;
            }
        }
        Ok(())
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
                self.delete(&api, &found).await?;
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

    async fn delete<K>(&self, api: &Api<K>, found: &impl Resource) -> Result<(), ApplyError>
    where
        K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned,
    {
        let uid = found.meta().uid.clone();
        let only_this = Preconditions { uid, resource_version: None };
        let name = found.meta().name.clone().unwrap_or_default();
        let params = DeleteParams::background().preconditions(only_this);
        match api.delete(&name, &params).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(s)) if s.is_not_found() || s.is_conflict() => Ok(()),
            Err(error) => Err(ApplyError::new(&K::kind(&()), &name, error)),
        }
    }
}
