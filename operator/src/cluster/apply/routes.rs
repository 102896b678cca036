//! Routes of ingress controllers and gateways, whose kinds not every Kubernetes cluster has.

use std::error::Error;

use crds::live_cluster::TurnRouteKind;
use crds::names;
use kube::api::{ApiResource, DynamicObject, ListParams, Patch, PatchParams, TypeMeta};
use kube::{Api, ResourceExt as _};
use tracing::warn;

use super::{ApplyError, Writer};
use crate::cluster::build::route;

/// What the API server says to a group or version that it does not have.
const NOT_FOUND: u16 = 404;

impl Writer<'_> {
    /// Writes routes and removes those that no longer belong; says which kind is wanted and not
    /// there.
    pub(super) async fn apply_routes(
        &self,
        routes: &[DynamicObject],
    ) -> Result<Option<TurnRouteKind>, ApplyError> {
        let mut missing = None;
        for kind in TurnRouteKind::ALL {
            let is_of_kind = |route: &&DynamicObject| {
                route.types.as_ref().is_some_and(|types| types.kind == kind.as_str())
            };
            let wanted: Vec<_> = routes.iter().filter(is_of_kind).collect();
            match self.write_kind(kind, &wanted).await {
                Ok(true) => {}
                Ok(false) if wanted.is_empty() => {}
                Ok(false) => missing = Some(kind),
                // Kinds of others must not keep a LiveCluster from being what it is.
                Err(error) if wanted.is_empty() => {
                    warn!(error = &error as &dyn Error, kind = kind.as_str(), "Routes not pruned");
                }
                Err(error) => return Err(error),
            }
        }
        Ok(missing)
    }

    /// Writes the routes of a kind; says whether there is such a kind.
    async fn write_kind(
        &self,
        kind: TurnRouteKind,
        wanted: &[&DynamicObject],
    ) -> Result<bool, ApplyError> {
        let Some(resource) = self.served(kind).await? else { return Ok(false) };
        self.write_routes(&resource, wanted).await?;
        Ok(true)
    }

    /// The kind in the best version that the API server has.
    async fn served(&self, kind: TurnRouteKind) -> Result<Option<ApiResource>, ApplyError> {
        for version in route::versions(kind) {
            let resource = route::resource(kind, version);
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

    async fn write_routes(
        &self,
        resource: &ApiResource,
        wanted: &[&DynamicObject],
    ) -> Result<(), ApplyError> {
        let namespace = self.cluster.namespace().unwrap_or_default();
        let client = self.context.client.clone();
        let api: Api<DynamicObject> = Api::namespaced_with(client, &namespace, resource);
        let failed = |name: &str, error| ApplyError::new(&resource.kind, name, error);
        let params = PatchParams::apply(names::MANAGER).force();
        for route in wanted {
            let (api_version, kind) = (resource.api_version.clone(), resource.kind.clone());
            let types = Some(TypeMeta { api_version, kind });
            let route = DynamicObject { types, ..(*route).clone() };
            let name = route.name_any();
            let written = api.patch(&name, &params, &Patch::Apply(&route)).await;
            written.map_err(|error| failed(&name, error))?;
        }
        let list = api.list_metadata(&ListParams::default().labels(&self.ours())).await;
        for found in list.map_err(|error| failed("(list)", error))?.items {
            let kept = wanted.iter().any(|route| route.name_any() == found.name_any());
            if !kept && self.controls(&found) {
                self.delete(&resource.kind, &api, &found).await?;
            }
        }
        Ok(())
    }
}
