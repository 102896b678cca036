//! The ways of signalling that are made of kinds of others: the route of a gateway, and the
//! certificate that cert-manager keeps for the Ingress.

use crds::names;
use kube::api::DynamicObject;
use serde_json::json;

use super::foreign::ForeignKind;
use super::{cluster_metadata, route, service};
use crate::cluster::validate::ValidCluster;

/// Leads the domain from a gateway to the Service for signalling, in the place of an Ingress.
pub fn http_route(valid: &ValidCluster) -> Option<DynamicObject> {
    let gateway = valid.spec.gateway.as_ref()?;
    let spec = json!({
        "parentRefs": gateway.parent_refs.iter().map(route::gateway).collect::<Vec<_>>(),
        "hostnames": [valid.spec.domain],
        "rules": [{
            "matches": [{"path": {"type": "PathPrefix", "value": "/"}}],
            "backendRefs": [
                {"name": names::signalling(&valid.name), "port": service::HTTP_PORT},
            ],
        }],
    });
    let metadata = cluster_metadata(valid, names::signalling(&valid.name));
    Some(ForeignKind::HTTPRoute.object(metadata, &spec))
}

/// Has cert-manager keep the certificate of the domain in the Secret that the Ingress names.
pub fn certificate(valid: &ValidCluster) -> Option<DynamicObject> {
    let tls = valid.spec.ingress.tls.as_ref()?;
    let issuer = tls.issuer_ref.as_ref()?;
    let spec = json!({
        "secretName": tls.secret_name,
        "dnsNames": [valid.spec.domain],
        "issuerRef": {
            "name": issuer.name,
            "kind": issuer.kind.as_str(),
            "group": "cert-manager.io",
        },
    });
    let metadata = cluster_metadata(valid, names::certificate(&valid.name));
    Some(ForeignKind::Certificate.object(metadata, &spec))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::build::ingress;
    use crate::cluster::validate::tests::{images, with_spec};
    use crate::cluster::validate::validate;

    fn valid(spec: &str) -> ValidCluster {
        validate(&with_spec(spec), &images()).unwrap()
    }

    #[test]
    fn a_gateway_leads_the_domain_to_signalling_in_the_place_of_an_ingress() {
        let found = valid("gateway: {parentRefs: [{name: g, namespace: n, sectionName: https}]}");
        let route = http_route(&found).unwrap();
        let expected = json!({
            "parentRefs": [{"name": "g", "namespace": "n", "sectionName": "https"}],
            "hostnames": ["live.example.com"],
            "rules": [{
                "matches": [{"path": {"type": "PathPrefix", "value": "/"}}],
                "backendRefs": [{"name": "demo-signalling", "port": 7880}],
            }],
        });
        assert_eq!(route.data["spec"], expected);
        assert_eq!(ingress::ingress(&found), None);
        assert_eq!(found.url(), "https://live.example.com");
        let plain = valid("gateway: {parentRefs: [{name: g}], tls: false}");
        assert_eq!(plain.url(), "http://live.example.com");
        let without = valid("nodes: 2");
        assert!(http_route(&without).is_none() && ingress::ingress(&without).is_some());
    }

    #[test]
    fn an_issuer_is_asked_for_the_secret_of_the_ingress() {
        let tls = |issuer: &str| valid(&format!("ingress: {{tls: {{secretName: c{issuer}}}}}"));
        assert!(certificate(&tls("")).is_none());
        let found = certificate(&tls(", issuerRef: {name: le, kind: ClusterIssuer}")).unwrap();
        let expected = json!({
            "secretName": "c",
            "dnsNames": ["live.example.com"],
            "issuerRef": {"name": "le", "kind": "ClusterIssuer", "group": "cert-manager.io"},
        });
        assert_eq!(found.data["spec"], expected);
        assert_eq!(found.metadata.name.as_deref(), Some("demo-domain"));
    }
}
