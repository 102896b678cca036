//! The Ingress for the domain: one for the cluster, never one a pod, since a controller that
//! reloads its configuration may drop WebSockets.

use std::collections::BTreeMap;

use crds::names;
use k8s_openapi::api::networking::v1::{
    HTTPIngressPath, HTTPIngressRuleValue, Ingress, IngressBackend, IngressRule,
    IngressServiceBackend, IngressSpec, IngressTLS, ServiceBackendPort,
};

use super::{cluster_metadata, service};
use crate::cluster::validate::ValidCluster;

/// Signalling lasts as long as the call: controllers that cut silent connections after a minute
/// are told to wait. Traefik waits by itself.
const TIMEOUTS: [(&str, &str); 4] = [
    ("haproxy.org/timeout-tunnel", "1h"),
    ("haproxy-ingress.github.io/timeout-tunnel", "1h"),
    ("nginx.ingress.kubernetes.io/proxy-read-timeout", "3600"),
    ("nginx.ingress.kubernetes.io/proxy-send-timeout", "3600"),
];

/// Leads the domain to the Service for signalling; `None` where a gateway does.
pub fn ingress(valid: &ValidCluster) -> Option<Ingress> {
    let spec = &valid.spec;
    if spec.gateway.is_some() {
        return None;
    }
    let mut metadata = cluster_metadata(valid, names::signalling(&valid.name));
    let mut annotations: BTreeMap<String, String> =
        TIMEOUTS.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    annotations.extend(spec.ingress.annotations.clone());
    metadata.annotations = Some(annotations);
    let tls = spec.ingress.tls.as_ref().map(|tls| {
        vec![IngressTLS {
            hosts: Some(vec![spec.domain.clone()]),
            secret_name: Some(tls.secret_name.clone()),
        }]
    });
    Some(Ingress {
        metadata,
        spec: Some(IngressSpec {
            ingress_class_name: spec.ingress.class_name.clone(),
            rules: Some(vec![IngressRule {
                host: Some(spec.domain.clone()),
                http: Some(HTTPIngressRuleValue { paths: vec![path(valid)] }),
            }]),
            tls,
            ..IngressSpec::default()
        }),
        ..Ingress::default()
    })
}

fn path(valid: &ValidCluster) -> HTTPIngressPath {
    HTTPIngressPath {
        path: Some("/".to_owned()),
        path_type: "Prefix".to_owned(),
        backend: IngressBackend {
            service: Some(IngressServiceBackend {
                name: names::signalling(&valid.name),
                port: Some(ServiceBackendPort {
                    name: Some(service::HTTP.to_owned()),
                    number: None,
                }),
            }),
            resource: None,
        },
    }
}
