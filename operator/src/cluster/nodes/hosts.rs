//! The Kubernetes nodes, as far as the operator may see them.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod};
use kube::runtime::reflector::{ObjectRef, Store};

/// The Kubernetes nodes.
#[derive(Debug, Clone)]
pub enum Hosts {
    /// All of them, as they are.
    Watched(Store<Node>),
    /// The operator has rights in namespaces only: of a Kubernetes node it knows what pods there say.
    Unseen,
}

impl Hosts {
    /// The Kubernetes node of a pod; `None` where it has none, or may not be seen.
    pub(super) fn of(&self, pod: &Pod) -> Option<Arc<Node>> {
        match self {
            Self::Watched(nodes) => {
                nodes.get(&ObjectRef::new(pod.spec.as_ref()?.node_name.as_ref()?))
            }
            Self::Unseen => None,
        }
    }

    /// Where clients reach a pod by its Kubernetes node, separated by commas: the external addresses,
    /// else the internal ones, which are all that a pod tells.
    pub(super) fn addresses(&self, pod: &Pod, node: Option<&Node>) -> Option<String> {
        match self {
            Self::Watched(_) => of_node(node?),
            Self::Unseen => of_pod(pod),
        }
    }
}

fn of_node(node: &Node) -> Option<String> {
    let addresses = node.status.as_ref()?.addresses.as_ref()?;
    ["ExternalIP", "InternalIP"].iter().find_map(|kind| {
        let of_kind = addresses.iter().filter(|address| address.type_ == *kind);
        let of_kind: Vec<_> = of_kind.map(|address| address.address.as_str()).collect();
        (!of_kind.is_empty()).then(|| of_kind.join(","))
    })
}

fn of_pod(pod: &Pod) -> Option<String> {
    let ips = pod.status.as_ref()?.host_ips.as_ref()?;
    let ips: Vec<_> = ips.iter().map(|host| host.ip.as_str()).collect();
    (!ips.is_empty()).then(|| ips.join(","))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn external_addresses_come_before_internal_ones() {
        let internal = json!({"type": "InternalIP", "address": "10.0.0.1"});
        let internal6 = json!({"type": "InternalIP", "address": "fd00::1"});
        let external = json!({"type": "ExternalIP", "address": "192.0.2.1"});
        let name = json!({"type": "Hostname", "address": "host"});
        let cases = [
            (json!([internal, external, name]), Some("192.0.2.1")),
            (json!([name, internal, internal6]), Some("10.0.0.1,fd00::1")),
            (json!([name]), None),
            (json!([]), None),
        ];
        for (addresses, expected) in cases {
            let node = json!({"metadata": {}, "status": {"addresses": addresses}});
            assert_eq!(of_node(&serde_json::from_value(node).unwrap()).as_deref(), expected);
        }
    }

    #[test]
    fn a_pod_tells_the_addresses_of_a_kubernetes_node_that_nobody_may_see() {
        let cases = [
            (json!({"hostIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}]}), Some("10.0.0.1,fd00::1")),
            (json!({"hostIPs": []}), None),
            (json!({}), None),
        ];
        for (status, expected) in cases {
            let pod = json!({"spec": {"nodeName": "a", "containers": []}, "status": status});
            let pod: Pod = serde_json::from_value(pod).unwrap();
            assert_eq!(Hosts::Unseen.of(&pod), None);
            assert_eq!(Hosts::Unseen.addresses(&pod, None).as_deref(), expected, "{status}");
        }
    }
}
