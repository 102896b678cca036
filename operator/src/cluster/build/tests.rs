//! Golden files: examples of the API in, all objects out, renewed with `UPDATE_EXPECT=1`.

use std::collections::BTreeSet;
use std::path::PathBuf;

use contract::sfu_config::SfuConfig;
use contract::turn_config::TurnConfig;
use k8s_openapi::ByteString;
use serde_json::Value;

use super::*;
use crate::cluster::authority::Certified;
use crate::cluster::material::{CERTIFICATE_ENTRY, KEY_ENTRY};
use crate::cluster::validate::tests::{found, images, secret, with_spec};
use crate::cluster::validate::{KEYS_ENTRY, PASSWORD_ENTRY, TOKEN_ENTRY, validate};

const EXAMPLES: [&str; 5] =
    ["minimal.yaml", "development.yaml", "full.yaml", "load-balancer.yaml", "turn-only.yaml"];

fn repository() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..")
}

pub(super) fn material(valid: &ValidCluster) -> Material {
    let certified = |name: &str| Certified {
        certificate: format!("certificate of {name}"),
        key: format!("key of {name}"),
    };
    let managed = matches!(valid.redis, ValidRedis::Managed { .. });
    Material {
        keys: valid.spec.keys.secret_name.is_none().then(|| "key: secret\n".to_owned()),
        redis_password: managed.then(|| "password".to_owned()),
        nonce_keys: valid.turn.is_some().then(|| "nonce key".to_owned()),
        authority: certified("authority"),
        peer: certified("peer"),
        absent: BTreeSet::new(),
    }
}

/// A Secret of type `kubernetes.io/tls`.
pub(super) fn certificate() -> Secret {
    let mut certificate = secret(CERTIFICATE_ENTRY, "certificate");
    let data = certificate.data.get_or_insert_default();
    data.insert(KEY_ENTRY.to_owned(), ByteString(b"key".into()));
    certificate
}

fn example(name: &str) -> ValidCluster {
    let path = repository().join("crds/examples").join(name);
    let mut found = found(&std::fs::read_to_string(path).unwrap());
    found.keys = Some(secret(KEYS_ENTRY, "key: a-secret-that-is-long-enough-for-hs256\n"));
    found.token = Some(secret(TOKEN_ENTRY, "token"));
    found.redis = Some(secret(PASSWORD_ENTRY, "password"));
    found.turn_tls = Some(certificate());
    validate(&found, &images()).unwrap()
}

fn built(valid: &ValidCluster) -> KubernetesResources<Prepared> {
    build(valid, &material(valid)).unwrap()
}

fn documents(resources: &KubernetesResources<Prepared>) -> Vec<Value> {
    fn json<T: serde::Serialize>(objects: &[T]) -> impl Iterator<Item = Value> {
        objects.iter().map(|object| serde_json::to_value(object).unwrap())
    }
    let pods = [0, 1].map(|slot| resources.node.pod(slot, &resources.revision));
    json(&resources.secrets)
        .chain(json(&resources.config_maps))
        .chain(json(&resources.services))
        .chain(json(&resources.claims))
        .chain(json(&resources.stateful_sets))
        .chain(json(&resources.ingresses))
        .chain(json(&resources.foreign))
        .chain(json(&resources.network_policies))
        .chain(json(&resources.budgets))
        .chain(json(&resources.autoscalers))
        .chain(json(&pods))
        .collect()
}

#[test]
fn examples_become_these_objects() {
    for name in EXAMPLES {
        let documents = documents(&built(&example(name)));
        let texts: Vec<_> =
            documents.iter().map(|value| serde_saphyr::to_string(value).unwrap()).collect();
        let text = texts.join("---\n");
        let path = repository().join("operator/tests/golden").join(name);
        if std::env::var_os("UPDATE_EXPECT").is_some() {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, &text).unwrap();
        }
        let expected = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            text == expected,
            "{name} gives other objects: UPDATE_EXPECT=1 and look at the diff"
        );
    }
}

#[test]
fn the_programs_read_the_configuration_that_is_written() {
    for name in EXAMPLES {
        let valid = example(name);
        let files = built(&valid).config_maps.remove(0).data.unwrap();
        let sfu = SfuConfig::from_yaml(&files[config::CONFIG]).unwrap();
        assert_eq!(sfu, config::sfu_config(&valid));
        let pod_ip = Some([10, 1, 2, 3].into());
        let read = TurnConfig::from_yaml_in_pod(&files[turn::CONFIG], pod_ip).unwrap();
        let mut written = turn::turn_config(&valid).unwrap();
        assert_eq!(written.relay.addresses, [], "each pod has its own");
        written.relay.addresses.clone_from(&read.relay.addresses);
        assert_eq!(read, written);
    }
}

#[test]
fn every_object_has_its_owner_and_labels() {
    for name in ["minimal.yaml", "full.yaml"] {
        for object in documents(&built(&example(name))) {
            let metadata = &object["metadata"];
            assert_eq!(metadata["ownerReferences"][0]["controller"], true, "{metadata}");
            assert_eq!(metadata["labels"][names::MANAGED_BY], names::MANAGER, "{metadata}");
        }
    }
}

#[test]
fn a_revision_changes_with_what_a_pod_reads_once() {
    let revision = |spec: &str| built(&validate(&with_spec(spec), &images()).unwrap()).revision;
    let base = revision("nodes: 2");
    assert_eq!(base, revision("nodes: 3"), "another number of nodes replaces nothing");
    let changes = [
        "node: {image: other}",
        "log: {level: debug}",
        "http: {createRoom: Open}",
        "media: {ports: {first: 21000}}",
        "node: {workers: 2}",
        "redis: {external: {addresses: ['r:6379']}}",
        "node: {scheduling: {nodeSelector: {a: b}}}",
        "turn: {enabled: false}",
        "turn: {limits: {allocations: 5}}",
        "media: {exposure: TurnOnly}",
    ];
    for change in changes {
        assert_ne!(base, revision(change), "{change}");
    }
    let valid = validate(&with_spec("nodes: 2"), &images()).unwrap();
    let mut renewed = material(&valid);
    renewed.peer.certificate.push('2');
    assert_ne!(base, build(&valid, &renewed).unwrap().revision, "a renewed certificate");
    renewed = material(&valid);
    renewed.keys = Some("key2: secret".to_owned());
    renewed.nonce_keys = Some("another".to_owned());
    assert_eq!(base, build(&valid, &renewed).unwrap().revision, "these are read again");
}

#[test]
fn slots_have_ports_of_their_own() {
    let valid = validate(&with_spec("node: {workers: 2}"), &images()).unwrap();
    let node = NodeTemplate::new(&valid);
    let mut taken = BTreeSet::new();
    for slot in 0..5 {
        let pod = node.pod(slot, "r");
        let ports = pod.spec.unwrap().containers.remove(0).ports.unwrap();
        let on_host = ports.iter().filter_map(|port| port.host_port);
        let before = taken.len();
        taken.extend(on_host);
        assert_eq!(taken.len(), before + 4, "slot {slot}");
    }
    assert_eq!(taken.first(), Some(&20_000));
}

#[test]
fn without_tcp_no_tcp_port_is_opened_on_the_host() {
    let valid = validate(&with_spec("media: {tcp: false}"), &images()).unwrap();
    let pod = NodeTemplate::new(&valid).pod(0, "r");
    let ports = pod.spec.unwrap().containers.remove(0).ports.unwrap();
    let on_host = ports.iter().filter(|port| port.host_port.is_some());
    let on_host: Vec<_> = on_host
        .map(|port| (port.name.as_deref().unwrap(), port.protocol.as_deref().unwrap()))
        .collect();
    assert_eq!(on_host, [("media-0", "UDP"), ("turn-host", "UDP"), ("turn-host-tcp", "TCP")]);
}

fn host_ports(spec: &str) -> Vec<(String, i32, i32)> {
    let valid = validate(&with_spec(spec), &images()).unwrap();
    let ports = NodeTemplate::new(&valid).pod(2, "r").spec.unwrap().containers.remove(0).ports;
    let on_host = ports
        .into_iter()
        .flatten()
        .filter_map(|port| Some((port.name.unwrap(), port.host_port?, port.container_port)));
    on_host.collect()
}

#[test]
fn turn_is_reached_by_the_slots_port_or_the_same_port_everywhere() {
    let named = |name: &str, host, container| (name.to_owned(), host, container);
    let turn = |spec: &str| {
        let mut ports = host_ports(spec);
        ports.retain(|(name, ..)| name.starts_with("turn"));
        ports
    };
    let slots = [named("turn-host", 20_008, 3478), named("turn-host-tcp", 20_008, 3478)];
    assert_eq!(turn("nodes: 2"), slots);
    assert_eq!(turn("turn: {port: 3478, tcp: false}"), [named("turn-host", 3478, 3478)]);
    assert_eq!(turn("turn: {enabled: false}"), []);
}

#[test]
fn turn_listens_for_clients_of_both_families() {
    let both = |port: u16| {
        ["0.0.0.0", "::"].map(|ip| std::net::SocketAddr::new(ip.parse().unwrap(), port)).to_vec()
    };
    for (spec, udp, tcp) in [
        ("nodes: 2", both(3478), both(3478)),
        ("turn: {tcp: false}", both(3478), Vec::new()),
        ("turn: {udp: false, port: 80}", Vec::new(), both(3478)),
    ] {
        let valid = validate(&with_spec(spec), &images()).unwrap();
        let listen = turn::turn_config(&valid).unwrap().listen;
        assert_eq!((listen.udp, listen.tcp, listen.tls), (udp, tcp, Vec::new()), "{spec}");
    }
    let listen = turn::turn_config(&example("turn-only.yaml")).unwrap().listen;
    assert_eq!((listen.udp, listen.tcp, listen.tls), (Vec::new(), Vec::new(), both(5349)));
}

#[test]
fn only_turn_is_open_where_it_is_the_only_way_in() {
    let names = |spec: &str| {
        host_ports(spec).into_iter().map(|(name, ..)| name).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(names("media: {exposure: TurnOnly}"), "turn-host turn-host-tcp");
    let resources = built(&example("turn-only.yaml"));
    let pod = resources.node.pod(0, "r").spec.unwrap();
    let containers = pod.init_containers.iter().flatten().chain(&pod.containers);
    let ports = containers.flat_map(|container| container.ports.iter().flatten());
    assert_eq!(ports.filter(|port| port.host_port.is_some()).count(), 0);
    let config = config::sfu_config(&example("turn-only.yaml"));
    assert!(!config.media.direct);
    assert_eq!(config.turn.unwrap().tls.unwrap().port, 443);
}

#[test]
fn a_redis_with_a_volume_keeps_what_it_has_there_and_no_media_node_is_replaced_for_it() {
    let of = |redis: &str| built(&validate(&with_spec(redis), &images()).unwrap());
    let config = |resources: &KubernetesResources<Prepared>| {
        let mut secrets = resources.secrets.iter();
        let secret = secrets.find(|secret| secret.metadata.name.as_deref() == Some("demo-redis"));
        let data = secret.unwrap().data.as_ref().unwrap();
        String::from_utf8(data[redis::CONFIG_ENTRY].0.clone()).unwrap()
    };
    let (without, with) = (of("nodes: 2"), of("redis: {managed: {storage: {size: 2Gi}}}"));
    assert!(config(&without).contains("appendonly no\n") && without.claims.is_empty());
    assert!(config(&with).contains("appendonly yes\n") && config(&with).contains("dir /data\n"));
    let pod = |resources: &KubernetesResources<Prepared>| {
        resources.stateful_sets[0].spec.clone().unwrap().template
    };
    let hash = |resources| pod(resources).metadata.unwrap().annotations;
    assert_ne!(hash(&without), hash(&with), "Redis reads its configuration once");
    let spec = pod(&with).spec.unwrap();
    let mounts = spec.containers[0].volume_mounts.as_ref().unwrap();
    let data = mounts.iter().find(|mount| mount.mount_path == "/data").unwrap();
    let volumes = spec.volumes.unwrap();
    let volume = volumes.into_iter().find(|volume| volume.name == data.name).unwrap();
    let claim = volume.persistent_volume_claim.unwrap().claim_name;
    assert_eq!(Some(claim), with.claims[0].metadata.name);
    assert_eq!(without.revision, with.revision);
    let external = of("redis: {external: {addresses: ['r:6379']}}");
    assert_eq!((external.claims.len(), external.budgets.len(), with.budgets.len()), (0, 1, 2));
}

#[test]
fn sentinels_are_asked_instead_of_a_server() {
    let spec = "redis: {external: {mode: Sentinel, addresses: ['a:26379', 'b:26379'], \
                masterName: live}}";
    let valid = validate(&with_spec(spec), &images()).unwrap();
    let redis = config::sfu_config(&valid).redis.unwrap();
    let sentinel = redis.sentinel.unwrap();
    assert_eq!((sentinel.addresses.len(), sentinel.master.as_str()), (2, "live"));
    assert_eq!(redis.address, "");
}

#[test]
fn a_redis_cluster_is_found_by_some_of_its_servers() {
    let spec = "redis: {external: {mode: Cluster, addresses: ['a:6379', 'b:6379']}}";
    let valid = validate(&with_spec(spec), &images()).unwrap();
    let redis = config::sfu_config(&valid).redis.unwrap();
    assert_eq!((redis.cluster.len(), redis.address.as_str(), redis.sentinel), (2, "", None));
}
