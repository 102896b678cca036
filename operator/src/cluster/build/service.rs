//! The Service for signalling.

use crds::names::{self, component};
use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{metadata, selector};
use crate::cluster::validate::ValidCluster;

/// Port of signalling, and of its Service.
pub const HTTP_PORT: u16 = 7880;
/// Name of the port.
pub const HTTP: &str = "http";

/// Selects media pods that may take traffic. No media goes through it: a pod that leaves a Service
/// loses the UDP flows that the Service leads to it.
pub fn signalling(valid: &ValidCluster) -> Service {
    let mut selector = selector(&valid.name, component::NODE);
    selector.insert(names::PLACEMENT.to_owned(), names::OPEN.to_owned());
    Service {
        metadata: metadata(valid, names::signalling(&valid.name), component::NODE),
        spec: Some(ServiceSpec {
            type_: Some("ClusterIP".to_owned()),
            selector: Some(selector),
            ports: Some(vec![ServicePort {
                name: Some(HTTP.to_owned()),
                port: i32::from(HTTP_PORT),
                target_port: Some(IntOrString::String(HTTP.to_owned())),
                protocol: Some("TCP".to_owned()),
                app_protocol: Some(HTTP.to_owned()),
                ..ServicePort::default()
            }]),
            ..ServiceSpec::default()
        }),
        ..Service::default()
    }
}
