use std::collections::BTreeMap;
use std::sync::Arc;

use crds::LiveCluster;
use k8s_openapi::ByteString;

use super::*;
use crate::metrics_api::Registration;

/// Uid of every LiveCluster in tests.
const UID: &str = "6f1b1d1e-0000-4000-8000-000000000001";

/// Images that the tests' operator was told.
pub(crate) fn images() -> Images {
    Images {
        sfu: "livecluster/sfu:test".to_owned(),
        turn: "livecluster/turn-server:test".to_owned(),
        redis: "redis:test".to_owned(),
    }
}

/// A Secret with one entry.
pub(crate) fn secret(entry: &str, text: &str) -> Secret {
    let data = BTreeMap::from([(entry.to_owned(), ByteString(text.as_bytes().to_vec()))]);
    Secret { data: Some(data), ..Secret::default() }
}

/// A LiveCluster of this YAML with none of its Secrets.
pub(crate) fn found(yaml: &str) -> Dereferenced {
    let mut cluster: LiveCluster = serde_saphyr::from_str(yaml).unwrap();
    cluster.metadata.namespace = Some("rooms".to_owned());
    cluster.metadata.uid = Some(UID.to_owned());
    Dereferenced {
        cluster: Arc::new(cluster),
        namespace: "rooms".to_owned(),
        uid: UID.to_owned(),
        keys: None,
        token: None,
        redis: None,
        redis_ca: None,
        authority: None,
        peer: None,
        turn: None,
        turn_tls: None,
        redis_set: None,
        media_services: Vec::new(),
        pods: Vec::new(),
        metrics_api: Registration::Ours { available: true, message: String::new() },
    }
}

/// A LiveCluster with this spec, as YAML flow.
pub(crate) fn with_spec(spec: &str) -> Dereferenced {
    found(&format!(
        "{{apiVersion: livecluster.dev/v1alpha1, kind: LiveCluster, metadata: {{name: demo}}, \
         spec: {{domain: live.example.com, {spec}}}}}"
    ))
}

#[test]
fn what_a_person_must_change_is_named() {
    let cases = [
        (
            "keys: {secretName: mine}",
            "SecretMissing",
            "the Secret mine named by spec.keys.secretName does not exist",
        ),
        (
            "http: {createRoom: Token, tokenSecretName: t}",
            "SecretMissing",
            "the Secret t named by spec.http.tokenSecretName does not exist",
        ),
        (
            "redis: {external: {addresses: ['r:6379'], secretName: r}}",
            "SecretMissing",
            "the Secret r named by spec.redis.external.secretName does not exist",
        ),
        (
            "redis: {external: {addresses: ['r:6379'], tls: true, caSecretName: c}}",
            "SecretMissing",
            "the Secret c named by spec.redis.external.caSecretName does not exist",
        ),
        (
            "node: {resources: {requests: {cpu: lots}}}",
            "InvalidResources",
            "spec.node.resources.requests.cpu is not a quantity: lots",
        ),
        (
            "nodes: 9, node: {resources: {requests: {cpu: 4}}}, media: {ports: {count: 59}}",
            "TooFewPorts",
            "spec.media.ports.count is 59, but 9 nodes with 4 workers, and one more while nodes are replaced, take 60 ports",
        ),
        (
            "turn: {tls: {domain: turn.example.com, secretName: c}}",
            "SecretMissing",
            "the Secret c named by spec.turn.tls.secretName does not exist",
        ),
        (
            "autoscaling: {mode: BuiltIn, maxNodes: 9}, media: {ports: {count: 29}}",
            "TooFewPorts",
            "spec.media.ports.count is 29, but 9 nodes with 1 workers, and one more while nodes are replaced, take 30 ports",
        ),
    ];
    for (spec, reason, message) in cases {
        let invalid = validate(&with_spec(spec), &images()).unwrap_err();
        assert_eq!(invalid.reason(), reason, "{spec}");
        assert_eq!(invalid.to_string(), message, "{spec}");
    }
}

#[test]
fn keys_of_the_user_must_be_keys() {
    let mut cluster = with_spec("keys: {secretName: mine}");
    let cases = [
        (secret("other", "a: b"), "SecretEntryMissing"),
        (secret(KEYS_ENTRY, " "), "SecretEntryMissing"),
        (secret(KEYS_ENTRY, "[not, a, map]"), "InvalidKeys"),
    ];
    for (secret, reason) in cases {
        cluster.keys = Some(secret);
        assert_eq!(validate(&cluster, &images()).unwrap_err().reason(), reason);
    }
    cluster.keys = Some(secret(KEYS_ENTRY, "key: a-secret-that-is-long-enough-for-hs256\n"));
    assert_eq!(validate(&cluster, &images()).unwrap().keys_secret, "mine");
}

#[test]
fn the_key_that_signs_webhooks_must_be_there() {
    for (key, expected) in [("key", None), ("other", Some("InvalidKeys"))] {
        let spec = format!(
            "keys: {{secretName: mine}}, webhooks: {{urls: ['https://a.example.com'], apiKey: {key}}}"
        );
        let mut cluster = with_spec(&spec);
        cluster.keys = Some(secret(KEYS_ENTRY, "key: a-secret-that-is-long-enough-for-hs256\n"));
        let invalid = validate(&cluster, &images()).err();
        assert_eq!(invalid.as_ref().map(Invalid::reason), expected, "{invalid:?}");
    }
}

#[test]
fn the_certificate_of_turn_is_needed_where_turn_is() {
    let mut cluster = with_spec("turn: {tls: {domain: turn.example.com, secretName: c}}");
    cluster.turn_tls = Some(secret(CERTIFICATE_ENTRY, "certificate"));
    assert_eq!(validate(&cluster, &images()).unwrap_err().reason(), "SecretEntryMissing");
    let off = "turn: {enabled: false, tls: {domain: turn.example.com, secretName: c}}";
    assert_eq!(validate(&with_spec(off), &images()).unwrap().turn, None);
}

#[test]
fn workers_follow_the_cpu_request() {
    let cases = [
        ("nodes: 1", 1),
        ("node: {resources: {requests: {cpu: 1001m}}}", 2),
        ("node: {resources: {requests: {cpu: 4}}}", 4),
        ("node: {resources: {requests: {memory: 1Gi}}}", 1),
        ("node: {workers: 3, resources: {requests: {cpu: 8}}}", 3),
        ("node: {resources: {requests: {cpu: 1k}}}", 64),
    ];
    for (spec, workers) in cases {
        assert_eq!(validate(&with_spec(spec), &images()).unwrap().workers, workers, "{spec}");
    }
}

#[test]
fn the_url_says_whether_there_is_tls() {
    let plain = validate(&with_spec("nodes: 1"), &images()).unwrap();
    assert_eq!(plain.url(), "http://live.example.com");
    let tls = validate(&with_spec("ingress: {tls: {secretName: t}}"), &images()).unwrap();
    assert_eq!(tls.url(), "https://live.example.com");
}

#[test]
fn slots_are_what_the_ports_have_room_for() {
    let valid = validate(&with_spec("media: {ports: {count: 17}}"), &images()).unwrap();
    assert_eq!((valid.workers, valid.slots), (1, 5));
}
