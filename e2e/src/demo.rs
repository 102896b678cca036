//! `make run`: the chart and a LiveCluster on the cluster, up to the URL of a room.

use anyhow::Result;

use crate::cluster::Cluster;
use crate::images::programs;
use crate::process::Run as _;
use crate::release;
use crate::stage::stage;

/// Domain of the example.
const DOMAIN: &str = "demo.localhost";
/// Media nodes use host ports, which the stricter levels of pod security refuse.
const NAMESPACE: &str = "{apiVersion: v1, kind: Namespace, metadata: {name: demo, \
    labels: {pod-security.kubernetes.io/enforce: privileged}}}";

/// Installs the chart, applies the example and returns the URL of a room.
pub fn run() -> Result<String> {
    let cluster = Cluster::up()?;
    for archive in programs::archives() {
        let name = archive.file_name().unwrap_or_default().to_string_lossy().into_owned();
        stage(&format!("load image {name}"), || cluster.load(&archive))?;
    }
    release::restart(&cluster)?;
    release::install()?;
    stage("LiveCluster", || {
        cluster.kubectl().args(["apply", "-f", "-"]).read_with_input(NAMESPACE.as_bytes())?;
        let example = crate::repository().join("crds/examples/development.yaml");
        cluster.kubectl().args(["apply", "--namespace=demo", "-f"]).arg(example).run()?;
        cluster
            .kubectl()
            .args(["wait", "--namespace=demo", "--for=condition=Ready", "livecluster", "--all"])
            .arg("--timeout=180s")
            .run()
    })?;
    Ok(room_url(cluster.loopback_ports().0))
}

fn room_url(port: u16) -> String {
    match port {
        80 => format!("http://{DOMAIN}/?room=lobby"),
        other => format!("http://{DOMAIN}:{other}/?room=lobby"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn url_names_the_port_only_where_it_must() {
        assert_eq!(room_url(80), "http://demo.localhost/?room=lobby");
        assert_eq!(room_url(8080), "http://demo.localhost:8080/?room=lobby");
    }

    #[test]
    fn example_is_for_the_domain_of_the_url() {
        let manifest = include_str!("../../crds/examples/development.yaml");
        assert!(manifest.contains(&format!("domain: {DOMAIN}\n")));
    }
}
