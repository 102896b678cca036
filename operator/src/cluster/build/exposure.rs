//! The Service of each media node, where media comes by a node port or a load balancer.
//!
//! It selects by the slot alone, never by what the node is for: a pod that leaves a Service loses the
//! UDP flows that the Service leads to it. The numbers of its ports are those of the media node, so
//! that what a client is told is what the node listens on.

use crds::live_cluster::Exposure;
use crds::names::{self, component};
use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{metadata, selector, turn};
use crate::cluster::validate::ValidCluster;

/// The Services of the slots that are wanted, and of those that pods still have.
pub fn services(valid: &ValidCluster) -> Vec<Service> {
    let kind = match valid.spec.media.exposure {
        Exposure::NodePort => "NodePort",
        Exposure::LoadBalancer => "LoadBalancer",
        Exposure::HostPort | Exposure::HostNetwork | Exposure::TurnOnly => return Vec::new(),
    };
    let wanted = 0..valid.spec.nodes.min(valid.slots);
    let left = valid.slots_in_use.iter().copied().filter(|slot| !wanted.contains(slot));
    wanted.clone().chain(left).map(|slot| service(valid, kind, slot)).collect()
}

fn service(valid: &ValidCluster, kind: &str, slot: u16) -> Service {
    let mut metadata = metadata(valid, names::media(&valid.name, slot), component::NODE);
    let annotations = &valid.spec.media.service.annotations;
    metadata.annotations = (!annotations.is_empty()).then(|| annotations.clone());
    metadata.labels.get_or_insert_default().insert(names::SLOT.to_owned(), slot.to_string());
    let mut selector = selector(&valid.name, component::NODE);
    selector.insert(names::SLOT.to_owned(), slot.to_string());
    let is_node_port = kind == "NodePort";
    let port = |(name, number, target, protocol): (String, u16, u16, &str)| ServicePort {
        name: Some(name),
        port: i32::from(number),
        node_port: is_node_port.then_some(i32::from(number)),
        target_port: Some(IntOrString::Int(i32::from(target))),
        protocol: Some(protocol.to_owned()),
        ..ServicePort::default()
    };
    Service {
        metadata,
        spec: Some(ServiceSpec {
            type_: Some(kind.to_owned()),
            // The address that is told leads to the pod's own Kubernetes node, and the media node
            // sees who sends.
            external_traffic_policy: Some("Local".to_owned()),
            ip_family_policy: Some("PreferDualStack".to_owned()),
            publish_not_ready_addresses: Some(true),
            selector: Some(selector),
            ports: Some(ports(valid, slot).into_iter().map(port).collect()),
            ..ServiceSpec::default()
        }),
        ..Service::default()
    }
}

/// Name, number outside, number at the pod, and protocol.
fn ports(valid: &ValidCluster, slot: u16) -> Vec<(String, u16, u16, &'static str)> {
    let media = valid.media_config();
    let mut ports = Vec::new();
    if media.tcp {
        let number = media.tcp_port(slot);
        ports.extend(number.map(|number| ("media-tcp".to_owned(), number, number, "TCP")));
    }
    let numbers = (0..media.workers).filter_map(|worker| media.udp_port(slot, worker));
    ports.extend(numbers.enumerate().map(|(worker, n)| (format!("media-{worker}"), n, n, "UDP")));
    let spec = &valid.spec.turn;
    if let Some(number) = turn::outer_port(valid, slot).filter(|_| valid.turn.is_some()) {
        let udp = spec.udp.then(|| ("turn".to_owned(), number, turn::PORT, "UDP"));
        let tcp = spec.tcp.then(|| ("turn-tcp".to_owned(), number, turn::PORT, "TCP"));
        ports.extend(udp.into_iter().chain(tcp));
    }
    ports
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::build::NodeTemplate;
    use crate::cluster::validate::tests::{images, with_spec};
    use crate::cluster::validate::validate;

    fn valid(spec: &str) -> ValidCluster {
        validate(&with_spec(spec), &images()).unwrap()
    }

    /// Name, number outside, at the Kubernetes node and at the pod, of each port of a Service.
    fn described(service: &Service) -> Vec<String> {
        let ports = service.spec.as_ref().unwrap().ports.iter().flatten();
        let describe = |port: &ServicePort| {
            let target = match port.target_port.as_ref().unwrap() {
                IntOrString::Int(number) => number.to_string(),
                IntOrString::String(name) => name.clone(),
            };
            let (name, protocol) = (port.name.as_ref().unwrap(), port.protocol.as_ref().unwrap());
            let on_node = port.node_port.map(|n| n.to_string()).unwrap_or_default();
            format!("{name} {protocol} {} {on_node} {target}", port.port)
        };
        ports.map(describe).collect()
    }

    #[test]
    fn ports_are_those_that_clients_are_told() {
        let of = |spec: &str| described(&services(&valid(spec))[1]);
        let ports = "ports: {first: 30000}";
        assert_eq!(
            of(&format!("media: {{exposure: NodePort, {ports}}}")),
            [
                "media-tcp TCP 30003 30003 30003",
                "media-0 UDP 30004 30004 30004",
                "turn UDP 30005 30005 3478",
                "turn-tcp TCP 30005 30005 3478",
            ]
        );
        let spec = "node: {workers: 2}, media: {exposure: LoadBalancer, tcp: false}, \
                    turn: {port: 3478, tcp: false}";
        assert_eq!(
            of(spec),
            ["media-0 UDP 20005  20005", "media-1 UDP 20006  20006", "turn UDP 3478  3478"]
        );
        let without = of("media: {exposure: LoadBalancer}, turn: {enabled: false}");
        assert_eq!(without, ["media-tcp TCP 20003  20003", "media-0 UDP 20004  20004"]);
    }

    #[test]
    fn each_slot_has_a_service_as_long_as_a_pod_has_the_slot() {
        let mut cloud = valid("nodes: 2, media: {exposure: LoadBalancer}");
        let names = |valid: &ValidCluster| {
            services(valid).into_iter().filter_map(|s| s.metadata.name).collect::<Vec<_>>()
        };
        assert_eq!(names(&cloud), ["demo-media-0", "demo-media-1"]);
        cloud.slots_in_use = [1, 2, 7].into();
        let expected = ["demo-media-0", "demo-media-1", "demo-media-2", "demo-media-7"];
        assert_eq!(names(&cloud), expected);
        for exposure in ["HostPort", "HostNetwork", "TurnOnly"] {
            let other = valid(&format!("media: {{exposure: {exposure}}}"));
            assert_eq!(names(&other), [""; 0], "{exposure}");
        }
    }

    #[test]
    fn who_leaves_keeps_its_service_and_a_service_leads_to_one_slot() {
        for service in services(&valid("media: {exposure: LoadBalancer}")) {
            let spec = service.spec.unwrap();
            let selector = spec.selector.unwrap();
            assert!(!selector.contains_key(names::PLACEMENT), "{selector:?}");
            assert!(selector.contains_key(names::SLOT), "{selector:?}");
            assert_eq!(spec.external_traffic_policy.as_deref(), Some("Local"));
        }
    }

    #[test]
    fn ports_of_the_kubernetes_node_are_taken_where_clients_come_by_them_alone() {
        for (exposure, host_ports, host_network, turn) in [
            ("HostPort", 4, None, None),
            ("HostNetwork", 0, Some(true), Some(3478)),
            ("NodePort", 0, None, None),
            ("LoadBalancer", 0, None, None),
            ("TurnOnly", 2, None, None),
        ] {
            let valid = valid(&format!("media: {{exposure: {exposure}}}"));
            let pod = NodeTemplate::new(&valid).pod(0, "r").spec.unwrap();
            let containers = pod.init_containers.iter().flatten().chain(&pod.containers);
            let ports = containers.flat_map(|container| container.ports.iter().flatten());
            let found = ports.filter(|port| port.host_port.is_some()).count();
            assert_eq!((found, pod.host_network), (host_ports, host_network), "{exposure}");
            assert_eq!(turn::access(&valid).unwrap().port, turn, "{exposure}");
        }
    }
}
