//! Is a cluster reached whose media pods open no port of their Kubernetes node?

use anyhow::{Context as _, Result, ensure};
use crds::names;
use e2e::certificate::Certificate;
use e2e::clients::{Browser, MEDIA_TIMEOUT, Person, RoomClient, await_everybody_meets};
use e2e::live_cluster::{Addition, LiveCluster, NAME};
use serde_json::{Value, json};

const TEST: &str = "relay-only";
const TURN_DOMAIN: &str = "turn.relay-only.example.com";
const TLS_PORT: u16 = 31_444;

#[test]
fn turn_by_tls_is_the_only_way_in_where_pod_security_is_restricted() -> Result<()> {
    let certificate = Certificate::new(TURN_DOMAIN)?;
    let addition = Addition {
        spec: json!({
            "media": { "exposure": "TurnOnly" },
            "turn": {
                "udp": false,
                "tcp": false,
                "tls": {
                    "domain": TURN_DOMAIN,
                    "secretName": "turn-tls",
                    "port": TLS_PORT,
                    "service": { "type": "NodePort" },
                },
            },
        }),
        objects: vec![restricted_namespace(), certificate.secret("turn-tls")],
    };
    LiveCluster::run_with(TEST, 1, 27_000, &addition, |live_cluster| {
        no_port_of_the_host_is_open(live_cluster)?;
        let turn = live_cluster.node_address()?;
        let network = live_cluster.network()?.with_host(TURN_DOMAIN, turn);
        let browser = Browser::start_trusting(&network, &[certificate.key_hash()])?;
        let access = live_cluster.access()?;
        let people = [browser.open(Person::anna())?, browser.open(Person::bob())?];
        for tab in &people {
            // No word of relays: the server tells clients to use them.
            tab.join(&access.url, &access.token(&tab.person().identity, "lobby")?)?;
        }
        await_everybody_meets(&[&people[0], &people[1]], MEDIA_TIMEOUT)?;
        for tab in &people {
            let paths = tab.paths()?;
            let is_relayed = !paths.is_empty() && paths.iter().all(|path| path == "relay tls");
            ensure!(is_relayed, "{} goes by {paths:?}", tab.person().identity);
        }
        Ok(())
    })
}

fn no_port_of_the_host_is_open(live_cluster: &LiveCluster) -> Result<()> {
    let pods = live_cluster.namespace().list("pods", &names::node_selector(NAME))?;
    ensure!(!pods.is_empty(), "there is no media pod");
    for pod in pods {
        let containers = pod.pointer("/spec/containers").and_then(Value::as_array);
        for container in containers.context("a pod without containers")? {
            let ports = container["ports"].as_array().into_iter().flatten();
            let open: Vec<&Value> = ports.filter(|port| port.get("hostPort").is_some()).collect();
            ensure!(open.is_empty(), "{open:?}");
        }
    }
    Ok(())
}

/// The namespace of the test, where no pod may have a port of the host.
fn restricted_namespace() -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {
            "name": format!("e2e-{TEST}"),
            "labels": { "pod-security.kubernetes.io/enforce": "restricted" },
        },
    })
}
