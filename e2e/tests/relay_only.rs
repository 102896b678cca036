//! Is a cluster reached whose media pods open no port of their Kubernetes node, by port 443 of the
//! ingress controller alone, and at the pod beside the room?

use std::slice;

use anyhow::{Context as _, Result, ensure};
use contract::turn_metrics;
use crds::names;
use e2e::certificate::Certificate;
use e2e::clients::{
    Browser, HttpClient, MEDIA_TIMEOUT, Person, RoomClient, Tab, await_everybody_meets, await_media,
};
use e2e::live_cluster::{Addition, LiveCluster, NAME, READY_TIMEOUT, condition};
use e2e::wait::eventually;
use serde_json::{Value, json};

const TEST: &str = "relay-only";
const TURN_DOMAIN: &str = "turn.relay-only.example.com";
/// Port of the ingress, which passes TLS for these names on as it is.
const HTTPS: u16 = 443;
const NODES: u32 = 2;

#[test]
fn turn_by_tls_is_the_only_way_in_where_pod_security_is_restricted() -> Result<()> {
    let certificate = Certificate::with_subdomains(TURN_DOMAIN)?;
    let addition = Addition {
        spec: json!({
            "media": { "exposure": "TurnOnly" },
            "turn": {
                "udp": false,
                "tcp": false,
                "tls": {
                    "domain": TURN_DOMAIN,
                    "secretName": "turn-tls",
                    "route": { "kind": "IngressRouteTCP", "perNode": true },
                },
            },
        }),
        objects: vec![restricted_namespace(), certificate.secret("turn-tls")],
    };
    LiveCluster::run_with(TEST, NODES, 27_000, &addition, |live_cluster| {
        no_port_of_the_host_is_open(live_cluster)?;
        let ingress = live_cluster.ingress_address()?;
        let mut network = live_cluster.network()?.with_host(TURN_DOMAIN, ingress);
        // One slot more than nodes has a name.
        for slot in 0..=NODES {
            network = network.with_host(&node_domain(slot), ingress);
        }
        let http = HttpClient::start(&network)?;
        names_lead_to_turn(live_cluster, &http, &certificate)?;
        let browser = Browser::start_trusting(&network, &[certificate.key_hash()])?;
        let (anna, bob) = (browser.open(Person::anna())?, browser.open(Person::bob())?);
        let access = live_cluster.access()?;
        for tab in [&anna, &bob] {
            // No word of relays: the server tells clients to use them.
            tab.join(&access.url, &access.token(&tab.person().identity, "lobby")?)?;
        }
        await_everybody_meets(&[&anna, &bob], MEDIA_TIMEOUT)?;
        assert_relayed(&anna)?;
        assert_relayed(&bob)?;
        bob.leave()?;
        anna.leave()?;
        the_name_of_a_node_leads_to_its_pod(live_cluster, &browser)?;

        // By port 80 alone: what leads there by port 443 afterwards is the gateway.
        let elsewhere = json!({ "route": { "entryPoints": ["web"] } });
        live_cluster.patch(&json!({ "turn": { "tls": elsewhere } }))?;
        eventually("nothing leads to TURN", READY_TIMEOUT, || {
            let shown = http.certificate(TURN_DOMAIN, HTTPS)?;
            ensure!(shown != certificate.fingerprint(), "its certificate is shown");
            Ok(())
        })?;
        let parents = [json!({ "name": "gateway", "namespace": "ingress", "sectionName": "turn" })];
        let route = json!({ "kind": "TLSRoute", "entryPoints": null, "parentRefs": parents });
        live_cluster.patch(&json!({ "turn": { "tls": { "route": route } } }))?;
        names_lead_to_turn(live_cluster, &http, &certificate)?;
        the_name_of_a_node_leads_to_its_pod(live_cluster, &browser)
    })
}

fn node_domain(slot: u32) -> String {
    format!("node-{slot}.{TURN_DOMAIN}")
}

/// Waits until the ingress controller knows the route.
fn names_lead_to_turn(
    live_cluster: &LiveCluster,
    http: &HttpClient,
    certificate: &Certificate,
) -> Result<()> {
    let slots = live_cluster.pods()?;
    let slots: Result<Vec<u32>> =
        slots.iter().map(|pod| slot_of(live_cluster, &pod.name)).collect();
    let mut domains: Vec<String> = slots?.into_iter().map(node_domain).collect();
    domains.push(TURN_DOMAIN.to_owned());
    eventually("the names of TURN lead to it", READY_TIMEOUT, || {
        let object = live_cluster.object()?;
        ensure!(condition(&object, "TurnReady").as_deref() == Some("True"), "{}", object["status"]);
        for domain in &domains {
            let shown = http.certificate(domain, HTTPS)?;
            ensure!(shown == certificate.fingerprint(), "{domain} shows {shown}");
        }
        Ok(())
    })
}

/// Two people who use the relay of one node alone meet in the room of that node, and no other pod
/// relays anything of it.
fn the_name_of_a_node_leads_to_its_pod(
    live_cluster: &LiveCluster,
    browser: &Browser,
) -> Result<()> {
    let access = live_cluster.access()?;
    let (clara, dora) = (browser.open(Person::clara())?, browser.open(Person::dora())?);
    // The first comes by whichever relay: the room has a home then.
    clara.join(&access.url, &access.token("clara", "beside")?)?;
    let home = live_cluster.home_of("beside")?;
    let host = node_domain(slot_of(live_cluster, &home.name)?);
    let others: Vec<String> = live_cluster
        .pods()?
        .into_iter()
        .map(|pod| pod.name)
        .filter(|name| *name != home.name)
        .collect();
    let relayed = |pods: &[String]| -> Result<f64> {
        pods.iter().map(|pod| live_cluster.turn_metric(pod, turn_metrics::PACKETS)).sum()
    };
    let options = json!({ "relayBy": "tls", "relayHost": host });
    dora.join_with(&access.url, &access.token("dora", "beside")?, options.clone())?;
    clara.leave()?;
    clara.join_with(&access.url, &access.token("clara", "beside")?, options)?;
    await_everybody_meets(&[&clara, &dora], MEDIA_TIMEOUT)?;
    let (here, elsewhere) = (relayed(slice::from_ref(&home.name))?, relayed(&others)?);
    await_media(&dora, &[clara.person()], MEDIA_TIMEOUT)?;
    await_media(&clara, &[dora.person()], MEDIA_TIMEOUT)?;
    ensure!(relayed(slice::from_ref(&home.name))? > here, "the pod of the room relays nothing");
    let strayed = relayed(&others)? - elsewhere;
    ensure!(strayed == 0.0, "other pods relayed {strayed} packets");
    assert_relayed(&clara)?;
    assert_relayed(&dora)?;
    clara.close()?;
    dora.close()
}

fn slot_of(live_cluster: &LiveCluster, pod: &str) -> Result<u32> {
    let pods = live_cluster.namespace().list("pods", &names::node_selector(NAME))?;
    let found = pods.iter().find(|object| object["metadata"]["name"] == pod);
    let slot = found.and_then(|object| object["metadata"]["labels"][names::SLOT].as_str());
    slot.with_context(|| format!("{pod} has no slot"))?.parse().context("a slot is a number")
}

fn assert_relayed(tab: &Tab) -> Result<()> {
    let paths = tab.paths()?;
    let is_relayed = !paths.is_empty() && paths.iter().all(|path| path == "relay tls");
    ensure!(is_relayed, "{} goes by {paths:?}", tab.person().identity);
    Ok(())
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
