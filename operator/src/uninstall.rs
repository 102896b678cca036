//! `operator uninstall-guard`: what the chart asks before it takes the operator away.

use crds::LiveCluster;
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt as _};
use thiserror::Error;

/// LiveClusters that a refusal names at most.
const MAX_NAMED: u32 = 10;

/// Why the operator stays.
#[derive(Debug, Error)]
pub enum GuardError {
    /// Nobody would care for these any more.
    #[error(
        "nobody would care for these LiveClusters any more: {0}; delete them first, or leave them \
         as they are with `helm uninstall --no-hooks`"
    )]
    InUse(String),
    /// The API server did not say.
    #[error("failed to list LiveClusters")]
    List(#[from] Box<kube::Error>),
}

/// Succeeds when there is no LiveCluster in `namespace`, or in any where it is `None`.
///
/// # Errors
///
/// With the names of those that there are.
pub async fn guard(client: Client, namespace: Option<&str>) -> Result<(), GuardError> {
    let api: Api<LiveCluster> = match namespace {
        Some(namespace) => Api::namespaced(client, namespace),
        None => Api::all(client),
    };
    let list = match api.list_metadata(&ListParams::default().limit(MAX_NAMED)).await {
        Ok(list) => list,
        // Without the definition there is none.
        Err(kube::Error::Api(status)) if status.code == 404 => return Ok(()),
        Err(error) => return Err(Box::new(error).into()),
    };
    let mut names: Vec<String> = list
        .items
        .iter()
        .map(|found| format!("{}/{}", found.namespace().unwrap_or_default(), found.name_any()))
        .collect();
    if names.is_empty() {
        return Ok(());
    }
    if list.metadata.continue_.is_some_and(|more| !more.is_empty()) {
        names.push("…".to_owned());
    }
    Err(GuardError::InUse(names.join(", ")))
}
