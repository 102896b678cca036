//! TURN by TLS through an ingress controller or a gateway, which tells it from the web by name (SNI)
//! and passes it on as it is.
//!
//! One name leads to any server. With `perNode` the server of each slot has a name of its own,
//! which leads to a Service of its own: clients get the server beside their room, and what it relays
//! stays within the pod.

use contract::sfu_config::TurnTlsAccess;
use crds::live_cluster::{GatewayReference, TurnRoute, TurnRouteKind, TurnTls};
use crds::names::{self, component};
use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::api::DynamicObject;
use serde_json::{Value, json};

use super::foreign::ForeignKind;
use super::{metadata, selector, turn};
use crate::cluster::validate::ValidCluster;

/// Most slots with names of their own. Clients of others have the common name.
const MAX_NAMED: u16 = 200;

/// The route that is wanted, with what it belongs to.
fn wanted(valid: &ValidCluster) -> Option<(&TurnTls, &TurnRoute)> {
    valid.turn.as_ref()?;
    let tls = valid.spec.turn.tls.as_ref()?;
    Some((tls, tls.route.as_ref()?))
}

/// Where clients reach TURN by TLS.
pub fn access(tls: &TurnTls) -> TurnTlsAccess {
    let per_node = tls.route.as_ref().is_some_and(|route| route.per_node);
    TurnTlsAccess { domain: tls.domain.clone(), port: tls.port, per_node }
}

/// Slots that have a name of their own: those of all nodes, and of one more while they are replaced.
fn named_slots(valid: &ValidCluster, route: &TurnRoute) -> std::ops::Range<u16> {
    let nodes = valid.spec.autoscaling.most_nodes(valid.spec.nodes);
    let named = nodes.saturating_add(1).min(valid.slots).min(MAX_NAMED);
    0..if route.per_node { named } else { 0 }
}

/// A Service for each slot that has a name. A node that takes no new rooms is still reached by who
/// is in its rooms.
pub fn services(valid: &ValidCluster) -> Vec<Service> {
    let Some((tls, route)) = wanted(valid) else { return Vec::new() };
    let service = |slot: u16| {
        let mut selector = selector(&valid.name, component::NODE);
        selector.insert(names::SLOT.to_owned(), slot.to_string());
        Service {
            metadata: metadata(valid, names::turn_of(&valid.name, slot), component::NODE),
            spec: Some(ServiceSpec {
                type_: Some("ClusterIP".to_owned()),
                selector: Some(selector),
                ports: Some(vec![ServicePort {
                    name: Some("turn-tls".to_owned()),
                    port: i32::from(tls.port),
                    target_port: Some(IntOrString::Int(i32::from(turn::TLS_PORT))),
                    protocol: Some("TCP".to_owned()),
                    ..ServicePort::default()
                }]),
                ..ServiceSpec::default()
            }),
            ..Service::default()
        }
    };
    named_slots(valid, route).map(service).collect()
}

/// The routes in the best version of their kind.
pub fn routes(valid: &ValidCluster) -> Vec<DynamicObject> {
    let Some((tls, route)) = wanted(valid) else { return Vec::new() };
    let access = access(tls);
    let mut targets = vec![(names::turn(&valid.name), tls.domain.clone())];
    targets.extend(
        named_slots(valid, route)
            .map(|slot| (names::turn_of(&valid.name, slot), access.node_domain(slot))),
    );
    match route.kind {
        TurnRouteKind::IngressRouteTCP => {
            let spec = traefik(tls, route, &targets);
            vec![object(valid, route.kind, names::turn(&valid.name), spec)]
        }
        TurnRouteKind::TLSRoute => targets
            .into_iter()
            .map(|(service, domain)| {
                let spec = json!({
                    "parentRefs": route.parent_refs.iter().map(gateway).collect::<Vec<_>>(),
                    "hostnames": [domain],
                    "rules": [{"backendRefs": [{"name": service, "port": tls.port}]}],
                });
                object(valid, route.kind, service, spec)
            })
            .collect(),
    }
}

fn traefik(tls: &TurnTls, route: &TurnRoute, targets: &[(String, String)]) -> Value {
    let entry_points = match route.entry_points.as_slice() {
        [] => vec!["websecure".to_owned()],
        named => named.to_vec(),
    };
    let rule = |(service, domain): &(String, String)| {
        let mut service = json!({"name": service, "port": tls.port});
        if !tls.proxy_protocol.is_empty() {
            // The servers close connections from these networks that come without it.
            service["proxyProtocol"] = json!({"version": 2});
        }
        json!({"match": format!("HostSNI(`{domain}`)"), "services": [service]})
    };
    json!({
        "entryPoints": entry_points,
        "routes": targets.iter().map(rule).collect::<Vec<_>>(),
        "tls": {"passthrough": true},
    })
}

/// A reference to a gateway.
pub(super) fn gateway(reference: &GatewayReference) -> Value {
    let GatewayReference { name, namespace, section_name } = reference;
    let mut value = json!({"name": name});
    if let Some(namespace) = namespace {
        value["namespace"] = json!(namespace);
    }
    if let Some(section) = section_name {
        value["sectionName"] = json!(section);
    }
    value
}

fn object(valid: &ValidCluster, kind: TurnRouteKind, name: String, spec: Value) -> DynamicObject {
    ForeignKind::from(kind).object(metadata(valid, name, component::NODE), &spec)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::build::tests::certificate;
    use crate::cluster::validate::tests::{images, with_spec};
    use crate::cluster::validate::validate;

    fn valid(nodes: &str, tls: &str) -> ValidCluster {
        let tls = format!("domain: turn.example.com, secretName: c, {tls}");
        let mut found = with_spec(&format!("{nodes}, turn: {{tls: {{{tls}}}}}"));
        found.turn_tls = Some(certificate());
        validate(&found, &images()).unwrap()
    }

    fn specs(valid: &ValidCluster) -> Vec<Value> {
        routes(valid).into_iter().map(|route| route.data["spec"].clone()).collect()
    }

    #[test]
    fn a_route_passes_the_name_on_to_any_server() {
        let found = valid("nodes: 2", "route: {kind: IngressRouteTCP}");
        let expected = json!({
            "entryPoints": ["websecure"],
            "routes": [{
                "match": "HostSNI(`turn.example.com`)",
                "services": [{"name": "demo-turn", "port": 443}],
            }],
            "tls": {"passthrough": true},
        });
        assert_eq!(specs(&found), [expected]);
        assert_eq!(services(&found), []);
        assert!(!access(found.spec.turn.tls.as_ref().unwrap()).per_node);

        let gateways = "route: {kind: TLSRoute, parentRefs: [{name: g, sectionName: turn}, \
                        {name: h, namespace: n}]}, port: 8443";
        let expected = json!({
            "parentRefs": [{"name": "g", "sectionName": "turn"}, {"name": "h", "namespace": "n"}],
            "hostnames": ["turn.example.com"],
            "rules": [{"backendRefs": [{"name": "demo-turn", "port": 8443}]}],
        });
        assert_eq!(specs(&valid("nodes: 2", gateways)), [expected]);
    }

    #[test]
    fn each_slot_has_a_name_that_leads_to_its_pod() {
        let named = "route: {kind: IngressRouteTCP, perNode: true, entryPoints: [turn]}, \
                     proxyProtocol: [10.0.0.0/8]";
        let found = valid("nodes: 2", named);
        let spec = specs(&found).remove(0);
        assert_eq!(spec["entryPoints"], json!(["turn"]));
        let rules: Vec<_> = spec["routes"].as_array().unwrap().iter().collect();
        let names: Vec<_> = rules.iter().map(|rule| rule["match"].as_str().unwrap()).collect();
        let expected = [
            "HostSNI(`turn.example.com`)",
            "HostSNI(`node-0.turn.example.com`)",
            "HostSNI(`node-1.turn.example.com`)",
            "HostSNI(`node-2.turn.example.com`)",
        ];
        assert_eq!(names, expected, "one more while nodes are replaced");
        let expected = json!({"name": "demo-turn-1", "port": 443, "proxyProtocol": {"version": 2}});
        assert_eq!(rules[2]["services"][0], expected);
        let services = services(&found);
        let selector = services[1].spec.as_ref().unwrap().selector.as_ref().unwrap();
        assert_eq!((services.len(), selector[names::SLOT].as_str()), (3, "1"));
        assert!(!selector.contains_key(names::PLACEMENT), "cordoned nodes have rooms, too");

        let gateways = "route: {kind: TLSRoute, perNode: true, parentRefs: [{name: g}]}";
        let found = valid("autoscaling: {mode: BuiltIn, maxNodes: 4}", gateways);
        let hosts: Vec<_> = specs(&found).iter().map(|spec| spec["hostnames"][0].clone()).collect();
        assert_eq!((hosts.len(), &hosts[5]), (6, &json!("node-4.turn.example.com")));
    }

    #[test]
    fn there_are_names_for_so_many_slots_only() {
        let named = "route: {kind: IngressRouteTCP, perNode: true}";
        for (nodes, expected) in
            [("nodes: 9, media: {ports: {count: 30}}", 10), ("nodes: 300", usize::from(MAX_NAMED))]
        {
            assert_eq!(services(&valid(nodes, named)).len(), expected, "{nodes}");
        }
    }

    #[test]
    fn nothing_is_made_where_nothing_is_wanted() {
        let off = with_spec(
            "turn: {enabled: false, tls: {domain: turn.example.com, secretName: c, \
             route: {kind: IngressRouteTCP, perNode: true}}}",
        );
        let off = validate(&off, &images()).unwrap();
        for found in [off, valid("nodes: 2", "port: 443")] {
            assert_eq!((specs(&found), services(&found)), (Vec::new(), Vec::new()));
        }
    }
}
