//! Where clients reach media nodes that have load balancers of their own.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use crds::live_cluster::Exposure;
use crds::names;
use k8s_openapi::api::core::v1::Service;
use kube::ResourceExt as _;

use super::NodePod;

/// A name that is not resolved by then is looked up at the next look.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Enters the addresses of the load balancers. A pod whose load balancer has none yet has none, and
/// waits; where it was told some, it keeps those while a name does not resolve.
pub async fn discover(pods: &mut [NodePod], exposure: Exposure, services: &[Service], name: &str) {
    match exposure {
        Exposure::LoadBalancer => {}
        Exposure::HostPort | Exposure::HostNetwork | Exposure::NodePort | Exposure::TurnOnly => {
            return;
        }
    }
    for pod in pods {
        let wanted = pod.slot.map(|slot| names::media(name, slot));
        let service = services.iter().find(|service| Some(service.name_any()) == wanted);
        pod.addresses = match service {
            Some(service) => of_load_balancer(service).await,
            None => None,
        };
        if pod.addresses.is_none() {
            pod.addresses.clone_from(&pod.told_addresses);
        }
    }
}

/// Addresses that the load balancer says, and those of the names that it says.
async fn of_load_balancer(service: &Service) -> Option<String> {
    let balancer = service.status.as_ref()?.load_balancer.as_ref()?;
    let mut found = BTreeSet::new();
    for entry in balancer.ingress.iter().flatten() {
        found.extend(entry.ip.as_ref().and_then(|ip| ip.parse::<IpAddr>().ok()));
        if let Some(name) = entry.hostname.as_ref().filter(|_| entry.ip.is_none()) {
            found.extend(resolve(name).await);
        }
    }
    // In a stable order: another order would be another address.
    let addresses: Vec<_> = found.iter().map(ToString::to_string).collect();
    (!addresses.is_empty()).then(|| addresses.join(","))
}

async fn resolve(name: &str) -> Vec<IpAddr> {
    let found = tokio::time::timeout(TIMEOUT, tokio::net::lookup_host((name, 0))).await;
    found.ok().and_then(Result::ok).into_iter().flatten().map(|address| address.ip()).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn service(slot: u16, ingress: Value) -> Service {
        let status = json!({"loadBalancer": {"ingress": ingress}});
        let service = json!({"metadata": {"name": names::media("demo", slot)}, "status": status});
        serde_json::from_value(service).unwrap()
    }

    #[tokio::test]
    async fn a_node_has_the_addresses_of_its_own_load_balancer() {
        let two = json!([{"ip": "2001:db8::1"}, {"ip": "203.0.113.1"}]);
        let services = [
            service(0, two),
            service(1, json!([{"hostname": "localhost"}])),
            service(2, json!([])),
            service(3, json!([])),
        ];
        let mut pods: Vec<_> = (0..5).map(NodePod::open).collect();
        for pod in &mut pods {
            // Of its Kubernetes node, which is not what clients reach.
            pod.addresses = Some("192.0.2.1".to_owned());
        }
        pods[3].told_addresses = Some("203.0.113.3".to_owned());
        discover(&mut pods, Exposure::LoadBalancer, &services, "demo").await;
        let found = pods.iter().map(|pod| pod.addresses.as_deref()).collect::<Vec<_>>();
        assert_eq!(found[0], Some("203.0.113.1,2001:db8::1"));
        let by_name = found[1].unwrap();
        assert!(
            by_name.split(',').all(|a| a.parse::<IpAddr>().unwrap().is_loopback()),
            "{by_name}"
        );
        assert_eq!(found[2..], [None, Some("203.0.113.3"), None]);
    }

    #[tokio::test]
    async fn other_exposures_keep_the_addresses_of_the_kubernetes_node() {
        let mut pods = vec![NodePod::open(0)];
        pods[0].addresses = Some("192.0.2.1".to_owned());
        let services = [service(0, json!([{"ip": "203.0.113.1"}]))];
        discover(&mut pods, Exposure::NodePort, &services, "demo").await;
        assert_eq!(pods[0].addresses.as_deref(), Some("192.0.2.1"));
    }
}
