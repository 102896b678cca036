//! Kinds of other programs, which not every Kubernetes cluster has. What is wanted of them is written
//! where the API server serves the kind, and told where not.

use crds::live_cluster::TurnRouteKind;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, ObjectMeta, TypeMeta};
use serde_json::{Value, json};

/// A kind of another program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ForeignKind {
    /// Traefik's route by name.
    IngressRouteTCP,
    /// The Gateway API's route by name.
    TLSRoute,
    /// The Gateway API's route of HTTP.
    HTTPRoute,
    /// A certificate by cert-manager.
    Certificate,
}

impl ForeignKind {
    /// All kinds.
    pub const ALL: [Self; 4] =
        [Self::IngressRouteTCP, Self::TLSRoute, Self::HTTPRoute, Self::Certificate];

    /// The word of the Kubernetes API.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::IngressRouteTCP => "IngressRouteTCP",
            Self::TLSRoute => "TLSRoute",
            Self::HTTPRoute => "HTTPRoute",
            Self::Certificate => "Certificate",
        }
    }

    /// Versions that have what is written here, the best first.
    #[must_use]
    pub fn versions(self) -> &'static [&'static str] {
        match self {
            Self::IngressRouteTCP => &["v1alpha1"],
            Self::TLSRoute => &["v1", "v1alpha3", "v1alpha2"],
            Self::HTTPRoute | Self::Certificate => &["v1"],
        }
    }

    /// The resource in a version.
    #[must_use]
    pub fn resource(self, version: &str) -> ApiResource {
        let (group, plural) = match self {
            Self::IngressRouteTCP => ("traefik.io", "ingressroutetcps"),
            Self::TLSRoute => ("gateway.networking.k8s.io", "tlsroutes"),
            Self::HTTPRoute => ("gateway.networking.k8s.io", "httproutes"),
            Self::Certificate => ("cert-manager.io", "certificates"),
        };
        let kind = GroupVersionKind::gvk(group, version, self.as_str());
        ApiResource::from_gvk_with_plural(&kind, plural)
    }

    /// An object of the kind in its best version.
    pub(super) fn object(self, metadata: ObjectMeta, spec: &Value) -> DynamicObject {
        let best = self.versions().first().copied().unwrap_or_default();
        let resource = self.resource(best);
        DynamicObject {
            types: Some(TypeMeta { api_version: resource.api_version, kind: resource.kind }),
            metadata,
            data: json!({"spec": spec}),
        }
    }
}

impl From<TurnRouteKind> for ForeignKind {
    fn from(kind: TurnRouteKind) -> Self {
        match kind {
            TurnRouteKind::IngressRouteTCP => Self::IngressRouteTCP,
            TurnRouteKind::TLSRoute => Self::TLSRoute,
        }
    }
}
