//! What the API server takes and refuses.

use std::collections::BTreeSet;

use super::*;

async fn dry_run(client: &Client, object: &DynamicObject) -> Result<Value, String> {
    let api: Api<DynamicObject> =
        Api::namespaced_with(client.clone(), "default", &ApiResource::erase::<LiveCluster>(&()));
    let params = PostParams { dry_run: true, field_manager: None };
    match api.create(&params, object).await {
        Ok(created) => Ok(created.data["spec"].clone()),
        Err(kube::Error::Api(status)) => Err(status.message),
        Err(error) => panic!("{error}"),
    }
}

/// A good spec with one field changed; the path has dots.
pub(super) fn changed(path: &str, value: Value) -> Value {
    let mut spec = json!({"domain": "live.example.com"});
    let mut at = &mut spec;
    for field in path.split('.') {
        at = &mut at[field];
    }
    *at = value;
    spec
}

/// The domain, the number of nodes, Redis and media ports.
fn bad_foundations() -> Vec<(Value, &'static str)> {
    let two_redis = json!({"managed": {}, "external": {"addresses": ["r:6379"]}});
    let few_ports = json!({"domain": "live.example.com", "nodes": 4, "node": {"workers": 2},
        "media": {"ports": {"count": 19}}});
    let external = |addresses: Value| changed("redis.external", json!({"addresses": addresses}));
    vec![
        (json!({}), "spec.domain: Required value"),
        (
            changed("domain", json!("Live.Example.com")),
            "spec.domain must be a DNS name in lower case",
        ),
        (changed("domain", json!("https://live.example.com")), "without scheme, port or path"),
        (changed("domain", json!("live.example.com:443")), "without scheme, port or path"),
        (changed("domain", json!("live")), "spec.domain must have at least two labels"),
        (
            changed("domain", json!("192.0.2.1")),
            "spec.domain must be a DNS name, not an IP address",
        ),
        (
            changed("domain", json!("2001:db8::1")),
            "spec.domain must be a DNS name, not an IP address",
        ),
        (changed("domain", json!("localhost")), "spec.domain must not be localhost"),
        (
            changed("domain", json!("demo.localhost")),
            "spec.domain may end in .localhost only with spec.development: true",
        ),
        (
            changed("nodes", json!(0)),
            "spec.nodes: Invalid value: 0: spec.nodes in body should be greater than or equal to 1",
        ),
        (changed("nodes", json!(1001)), "should be less than or equal to 1000"),
        (changed("redis", two_redis), "spec.redis must have either managed or external, not both"),
        (
            changed("redis.managed.storage", json!({"size": "63Mi"})),
            "spec.redis.managed.storage.size must be 64Mi or more",
        ),
        (external(json!([])), "spec.redis.external.addresses must hold exactly one host:port"),
        (external(json!(["a:1", "b:2"])), "spec.redis.external.addresses must hold exactly one"),
        (external(json!(["redis://r:6379"])), "spec.redis.external.addresses must be host:port"),
        (
            changed("redis.external", json!({"mode": "Cluster", "addresses": []})),
            "spec.redis.external.addresses must hold exactly one host:port, or some",
        ),
        (
            changed("redis.external", json!({"addresses": ["r:6379"], "caSecretName": "c"})),
            "spec.redis.external.caSecretName needs spec.redis.external.tls",
        ),
        (
            changed("media.ports", json!({"first": 65000, "count": 1000})),
            "spec.media.ports must end at 65535 or below",
        ),
        (
            changed("media.ports", json!({"first": 7000, "count": 1000})),
            "spec.media.ports must not contain 3478",
        ),
        (changed("media.ports.first", json!(80)), "should be greater than or equal to 1024"),
        (changed("media.ports.count", json!(1)), "should be greater than or equal to 6"),
        (few_ports, "spec.media.ports.count is too small"),
    ]
}

/// Everything else.
fn bad_details() -> Vec<(Value, &'static str)> {
    vec![
        (
            changed("media.exposure", json!("Nowhere")),
            "supported values: \"HostPort\", \"HostNetwork\", \"NodePort\", \"LoadBalancer\"",
        ),
        (
            changed("media.service.annotations", json!({"a": "b"})),
            "spec.media.service is for spec.media.exposure: NodePort and LoadBalancer only",
        ),
        (
            json!({"domain": "live.example.com", "media": {"exposure": "NodePort"},
                "turn": {"port": 3478}}),
            "spec.turn.port must be absent with spec.media.exposure: HostNetwork",
        ),
        (
            changed("node.workers", json!(0)),
            "spec.node.workers in body should be greater than or equal to 1",
        ),
        (
            changed("node.image", json!("an image")),
            "spec.node.image must be an image reference without spaces",
        ),
        (
            changed("node.resources.requests", json!({"cpu": "lots"})),
            "spec.node.resources.requests.cpu",
        ),
        (
            changed("http.createRoom", json!("Maybe")),
            "supported values: \"Disabled\", \"Token\", \"Open\"",
        ),
        (changed("http.createRoom", json!("Token")), "needs spec.http.tokenSecretName"),
        (changed("http.tokenSecretName", json!("t")), "is for spec.http.createRoom: Token only"),
        (
            changed("log.level", json!("loud")),
            "supported values: \"trace\", \"debug\", \"info\", \"warn\", \"error\"",
        ),
        (changed("keys.secretName", json!("My_Keys")), "spec.keys.secretName"),
        (changed("drain.timeout", json!("25h")), "spec.drain.timeout must be at most 24h"),
        (changed("drain.timeout", json!("soon")), "spec.drain.timeout"),
        (changed("drain.roomsPerSecond", json!(0)), "spec.drain.roomsPerSecond"),
    ]
}

/// TURN.
fn bad_turn() -> Vec<(Value, &'static str)> {
    let tls = |field: &str, value: Value| {
        let mut tls = json!({"domain": "turn.example.com", "secretName": "c"});
        tls[field] = value;
        changed("turn.tls", tls)
    };
    let long_domain = vec!["a".repeat(60); 4].join(".");
    let long_name = changed(
        "turn.tls",
        json!({"domain": long_domain, "secretName": "c",
        "route": {"kind": "IngressRouteTCP", "perNode": true}}),
    );
    let turn_only = json!({"domain": "live.example.com", "media": {"exposure": "TurnOnly"},
        "turn": {"enabled": false}});
    vec![
        (turn_only, "spec.media.exposure: TurnOnly needs spec.turn.enabled: true"),
        (
            changed("turn", json!({"udp": false, "tcp": false})),
            "spec.turn must have at least one of udp, tcp and tls",
        ),
        (
            changed(
                "turn",
                json!({"udp": false, "tcp": false, "port": 3478,
                "tls": {"domain": "turn.example.com", "secretName": "c"}}),
            ),
            "spec.turn.port is the port of udp and tcp, which are both false",
        ),
        (changed("turn.port", json!(20_500)), "spec.turn.port must not be one of spec.media.ports"),
        (changed("turn.image", json!("an image")), "spec.turn.image must be an image reference"),
        (changed("turn.limits.allocations", json!(0)), "should be greater than or equal to 1"),
        (changed("turn.tls", json!({"domain": "turn.example.com"})), "secretName: Required value"),
        (tls("domain", json!("turn")), "spec.turn.tls.domain must be a DNS name"),
        (tls("domain", json!("192.0.2.1")), "spec.turn.tls.domain must be a DNS name"),
        (tls("domain", json!("live.example.com")), "spec.turn.tls.domain must differ"),
        (tls("service", json!({"type": "NodePort"})), "spec.turn.tls.port is the node port"),
        (
            tls("service", json!({"externalTrafficPolicy": "Local"})),
            "externalTrafficPolicy is for the types NodePort and LoadBalancer only",
        ),
        (tls("route", json!({"kind": "TLSRoute"})), "parentRefs, the gateways, is needed"),
        (
            tls("route", json!({"kind": "IngressRouteTCP", "parentRefs": [{"name": "g"}]})),
            "parentRefs, the gateways, is needed with kind TLSRoute, and only then",
        ),
        (
            tls(
                "route",
                json!({"kind": "TLSRoute", "parentRefs": [{"name": "g"}], "entryPoints": ["e"]}),
            ),
            "entryPoints is for kind IngressRouteTCP only",
        ),
        (tls("route", json!({"kind": "Ingress"})), "\"IngressRouteTCP\", \"TLSRoute\""),
        (tls("route", json!({"kind": "TLSRoute", "parentRefs": []})), "at least 1 items"),
        (long_name, "at most 240 characters with route.perNode"),
        (tls("proxyProtocol", json!(["10.0.0.1/8"])), "must be networks such as 10.0.0.0/8"),
        (tls("proxyProtocol", json!(["10.0.0.1"])), "must be networks such as 10.0.0.0/8"),
    ]
}

/// Rooms and webhooks.
fn bad_rooms() -> Vec<(Value, &'static str)> {
    let webhooks = |webhooks: Value| changed("webhooks", webhooks);
    let url = "https://app.example.com/webhook";
    vec![
        (
            changed("rooms.enabledCodecs", json!(["video/theora"])),
            "spec.rooms.enabledCodecs[0]: Unsupported value",
        ),
        (
            changed("rooms.playoutDelay", json!({"minMilliseconds": 2, "maxMilliseconds": 1})),
            "minMilliseconds must not be above maxMilliseconds",
        ),
        (changed("rooms.emptyTimeoutSeconds", json!(0)), "should be greater than or equal to 1"),
        (webhooks(json!({"urls": ["ftp://a"]})), "spec.webhooks.urls must be http or https URLs"),
        (
            webhooks(json!({"urls": ["https://user:word@a.example.com"]})),
            "without user and password",
        ),
        (
            webhooks(json!({"urls": [url], "apiKey": "k"})),
            "names one of the keys of spec.keys.secretName",
        ),
        (webhooks(json!({"apiKey": "k"})), "spec.webhooks.apiKey needs spec.webhooks.urls"),
        (
            webhooks(json!({"urls": [url], "includeEvents": ["room_started"],
                "excludeEvents": ["room_finished"]})),
            "either includeEvents or excludeEvents, not both",
        ),
        (
            webhooks(json!({"urls": [url], "includeEvents": ["room_opened"]})),
            "supported values: \"room_started\"",
        ),
    ]
}

#[tokio::test]
async fn bad_manifests_are_refused_with_the_reason() {
    let Some(client) = client().await else { return };
    let mut messages = BTreeSet::new();
    let foundations = bad_foundations().into_iter().chain(bad_details());
    let specs = foundations.chain(bad_turn()).chain(bad_rooms());
    for (spec, message) in specs.chain(autoscaling::bad_specs()) {
        let refused = dry_run(&client, &manifest("bad", &spec)).await;
        let refused = refused.expect_err(&format!("{spec} was taken"));
        assert!(refused.contains(message), "{spec}\nwas refused with: {refused}\nnot: {message}");
        messages.insert(message);
    }
    assert!(messages.len() >= 15, "{messages:?}");

    let spec = json!({"domain": "live.example.com"});
    let names = [
        ("1demo".to_owned(), "metadata.name must start with a letter"),
        ("a.b".to_owned(), "metadata.name must start with a letter"),
        ("a".repeat(41), "metadata.name must have at most 40 characters"),
    ];
    for (name, message) in names {
        let refused = dry_run(&client, &manifest(&name, &spec)).await.unwrap_err();
        assert!(refused.contains(message), "{name} was refused with: {refused}");
    }
}

#[tokio::test]
async fn good_manifests_are_taken_with_the_same_defaults_as_our_types() {
    let Some(client) = client().await else { return };
    let specs = [
        json!({"domain": "live.example.com"}),
        json!({"domain": "demo.localhost", "development": true}),
        json!({"domain": "a.b", "redis": {"external": {"addresses": ["[2001:db8::1]:6379"]}}}),
        changed(
            "redis.external",
            json!({"mode": "Cluster", "addresses": ["a:6379", "b:6379"], "tls": true,
                "caSecretName": "c"}),
        ),
        changed("media.ports", json!({"first": 65530, "count": 6})),
        changed("media.exposure", json!("TurnOnly")),
        changed("media.exposure", json!("HostNetwork")),
        changed("media", json!({"exposure": "NodePort", "ports": {"first": 30000}})),
        changed(
            "media",
            json!({"exposure": "LoadBalancer", "service": {"annotations": {"a": "b"}}}),
        ),
        changed(
            "turn",
            json!({"port": 3478, "tls": {"domain": "turn.example.com",
            "secretName": "c", "proxyProtocol": ["10.0.0.0/8", "fd00::/8", "10.1.2.3/32"]}}),
        ),
        changed(
            "turn.tls",
            json!({"domain": "live.example.com", "secretName": "c",
            "port": 30443, "service": {"type": "NodePort", "externalTrafficPolicy": "Local"}}),
        ),
        changed(
            "turn.tls",
            json!({"domain": "turn.example.com", "secretName": "c", "route": {"kind": "TLSRoute",
            "parentRefs": [{"name": "g", "namespace": "n", "sectionName": "turn"}]}}),
        ),
        changed(
            "turn.tls",
            json!({"domain": "turn.example.com", "secretName": "c", "route": {
            "kind": "IngressRouteTCP", "perNode": true, "entryPoints": ["websecure"]}}),
        ),
        changed("networkPolicy", json!({"enabled": false})),
        changed("turn", json!({"enabled": false, "udp": false, "tcp": false})),
        changed("node.resources.requests", json!({"cpu": 2, "memory": "1.5Gi"})),
        changed("node.scheduling.tolerations", json!([{"operator": "Exists"}])),
        changed("autoscaling", json!({"mode": "HPA"})),
        json!({"domain": "live.example.com", "node": {"capacity": {"rooms": 10}},
            "autoscaling": {"mode": "HPA", "loadPercent": 0, "roomsPerNode": 9}}),
        changed(
            "autoscaling",
            json!({"mode": "BuiltIn", "minNodes": 4, "roomsPerNode": 10,
            "behavior": {"scaleIn": {"window": "1h", "nodes": 9, "period": "30m"}}}),
        ),
    ];
    for mut spec in specs {
        if spec.pointer("/media/ports/count") == Some(&json!(6)) {
            spec["nodes"] = json!(1);
        }
        let stored = dry_run(&client, &manifest("good", &spec)).await;
        let stored = stored.unwrap_or_else(|refused| panic!("{spec} was refused: {refused}"));
        let by_server: crds::LiveClusterSpec = serde_json::from_value(stored).unwrap();
        let by_types: crds::LiveClusterSpec = serde_json::from_value(spec.clone()).unwrap();
        assert_eq!(by_server, by_types, "{spec}");
    }
}
