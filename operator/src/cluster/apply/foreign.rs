//! Objects of kinds of others, which not every Kubernetes cluster has.

use std::collections::BTreeSet;
use std::error::Error;

use crds::names;
use kube::api::{ApiResource, DynamicObject, ListParams, Patch, PatchParams, TypeMeta};
use kube::{Api, ResourceExt as _};
use tracing::warn;

use super::{ApplyError, Writer};
use crate::cluster::build::ForeignKind;

/// What the API server says to a group or version that it does not have.
const NOT_FOUND: u16 = 404;

impl Writer<'_> {
    /// Writes the objects and removes those that no longer belong; says which kinds are wanted and
    /// not there.
    pub(super) async fn apply_foreign(
        &self,
        objects: &[DynamicObject],
    ) -> Result<BTreeSet<ForeignKind>, ApplyError> {
        let mut missing = BTreeSet::new();
        for kind in ForeignKind::ALL {
            let is_of_kind = |object: &&DynamicObject| {
                object.types.as_ref().is_some_and(|types| types.kind == kind.as_str())
            };
            let wanted: Vec<_> = objects.iter().filter(is_of_kind).collect();
            match self.write_kind(kind, &wanted).await {
                Ok(true) => {}
                Ok(false) if wanted.is_empty() => {}
                Ok(false) => {
                    missing.insert(kind);
                }
                // Kinds of others must not keep a LiveCluster from being what it is.
                Err(error) if wanted.is_empty() => {
                    warn!(error = &error as &dyn Error, kind = kind.as_str(), "Not pruned");
                }
                Err(error) => return Err(error),
            }
        }
        Ok(missing)
    }

    /// Writes the objects of a kind; says whether there is such a kind.
    async fn write_kind(
        &self,
        kind: ForeignKind,
        wanted: &[&DynamicObject],
    ) -> Result<bool, ApplyError> {
        let Some(resource) = self.served(kind).await? else { return Ok(false) };
        self.write_objects(&resource, wanted).await?;
        Ok(true)
    }

    /// The kind in the best version that the API server has.
    async fn served(&self, kind: ForeignKind) -> Result<Option<ApiResource>, ApplyError> {
        for version in kind.versions() {
            let resource = kind.resource(version);
            let client = &self.context.client;
            match client.list_api_group_resources(&resource.api_version).await {
                Ok(list) if list.resources.iter().any(|found| found.kind == kind.as_str()) => {
                    return Ok(Some(resource));
                }
                Ok(_) => {}
                Err(kube::Error::Api(status)) if status.code == NOT_FOUND => {}
                Err(error) => return Err(ApplyError::new(kind.as_str(), "(discovery)", error)),
            }
        }
        Ok(None)
    }

    async fn write_objects(
        &self,
        resource: &ApiResource,
        wanted: &[&DynamicObject],
    ) -> Result<(), ApplyError> {
        let namespace = self.cluster.namespace().unwrap_or_default();
        let client = self.context.client.clone();
        let api: Api<DynamicObject> = Api::namespaced_with(client, &namespace, resource);
        let failed = |name: &str, error| ApplyError::new(&resource.kind, name, error);
        let params = PatchParams::apply(names::MANAGER).force();
        for object in wanted {
            let (api_version, kind) = (resource.api_version.clone(), resource.kind.clone());
            let types = Some(TypeMeta { api_version, kind });
            let object = DynamicObject { types, ..(*object).clone() };
            let name = object.name_any();
            let written = api.patch(&name, &params, &Patch::Apply(&object)).await;
            written.map_err(|error| failed(&name, error))?;
        }
        let list = api.list_metadata(&ListParams::default().labels(&self.ours())).await;
        for found in list.map_err(|error| failed("(list)", error))?.items {
            let kept = wanted.iter().any(|object| object.name_any() == found.name_any());
            if !kept && self.controls(&found) {
                self.delete(&resource.kind, &api, &found).await?;
            }
        }
        Ok(())
    }
}
