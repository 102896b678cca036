//! The Lease belongs to the operator's ServiceAccount, so that it goes with the operator.

use k8s_openapi::api::authentication::v1::{SelfSubjectReview, UserInfo};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt as _};
use serde_json::json;

use crate::leader::LEASE;

/// Makes the Lease, or takes one that is there, before anybody stands for election: a change of it
/// later could look like another candidate's.
pub async fn own_lease(client: &Client, namespace: &str) -> Result<(), kube::Error> {
    let reviews: Api<SelfSubjectReview> = Api::all(client.clone());
    let review = reviews.create(&PostParams::default(), &SelfSubjectReview::default()).await?;
    let user = review.status.and_then(|status| status.user_info).unwrap_or_default();
    let Some(owner) = service_account(&user, namespace) else { return Ok(()) };
    let leases: Api<Lease> = Api::namespaced(client.clone(), namespace);
    let Some(found) = leases.get_opt(LEASE).await? else {
        let metadata = ObjectMeta {
            name: Some(LEASE.to_owned()),
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        };
        let lease = Lease { metadata, spec: None };
        return match leases.create(&PostParams::default(), &lease).await {
            // Another operator was faster.
            Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(()),
            result => result.map(drop),
        };
    };
    if found.owner_references().iter().any(|known| known.uid == owner.uid) {
        return Ok(());
    }
    let patch = Patch::Merge(json!({ "metadata": { "ownerReferences": [owner] } }));
    leases.patch_metadata(LEASE, &PatchParams::default(), &patch).await.map(drop)
}

/// A ServiceAccount of this namespace; others own nothing here, nor does a person.
fn service_account(user: &UserInfo, namespace: &str) -> Option<OwnerReference> {
    let name = user.username.as_ref()?.strip_prefix("system:serviceaccount:")?;
    let name = name.strip_prefix(namespace)?.strip_prefix(':')?;
    Some(OwnerReference {
        api_version: "v1".to_owned(),
        kind: "ServiceAccount".to_owned(),
        name: name.to_owned(),
        uid: user.uid.clone()?,
        ..OwnerReference::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_service_account_beside_it_owns_the_lease() {
        let user = |name: &str| UserInfo {
            username: Some(name.to_owned()),
            uid: Some("u".to_owned()),
            ..UserInfo::default()
        };
        let owner = |name: &str| service_account(&user(name), "live");
        let found = owner("system:serviceaccount:live:operator").unwrap();
        assert_eq!((found.name.as_str(), found.uid.as_str()), ("operator", "u"));
        assert_eq!(owner("system:serviceaccount:live-2:operator"), None);
        assert_eq!(owner("anna"), None);
        assert_eq!(service_account(&UserInfo::default(), "live"), None);
    }
}
