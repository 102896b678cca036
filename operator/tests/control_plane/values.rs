//! Values of the properties of a schema, and what else must be said for them to mean something.

use crds::LiveCluster;
use kube::CustomResourceExt as _;
use serde_json::{Value, json};

/// A property that holds a value.
#[derive(Debug, Clone)]
pub struct Property {
    /// Such as `spec.media.ports.first`.
    pub path: String,
    schema: Value,
}

/// The properties of the specification that hold a value, a list or a map.
pub fn properties() -> Vec<Property> {
    let definition = serde_json::to_value(LiveCluster::crd()).unwrap();
    let schema = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    let mut found = Vec::new();
    collect("spec", &schema["properties"]["spec"], &mut found);
    found
}

fn collect(path: &str, schema: &Value, found: &mut Vec<Property>) {
    match schema["properties"].as_object() {
        Some(fields) => {
            for (name, field) in fields {
                collect(&format!("{path}.{name}"), field, found);
            }
        }
        None => found.push(Property { path: path.to_owned(), schema: schema.clone() }),
    }
}

/// What must be said besides, by the longest beginning of the path.
fn besides(path: &str) -> Value {
    let all = besides_ways_in().into_iter().chain(besides_others());
    let fitting = all.filter(|(beginning, _)| path.starts_with(beginning));
    let longest = fitting.max_by_key(|(beginning, _)| beginning.len());
    longest.map_or_else(|| json!({}), |(_, spec)| spec)
}

/// Ingress, media and TURN.
fn besides_ways_in() -> Vec<(&'static str, Value)> {
    let tls = |more: Value| {
        let mut tls = json!({"domain": "turn.example.com", "secretName": "certificate"});
        tls.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({"turn": {"tls": tls}})
    };
    let route = json!({"kind": "TLSRoute", "parentRefs": [{"name": "other"}]});
    let issued = json!({"secretName": "other", "issuerRef": {"name": "other"}});
    vec![
        ("spec.gateway", json!({"gateway": {"parentRefs": [{"name": "other"}]}})),
        ("spec.ingress.tls", json!({"ingress": {"tls": {"secretName": "other"}}})),
        ("spec.ingress.tls.issuerRef", json!({"ingress": {"tls": issued}})),
        ("spec.media.ports.count", json!({"media": {"ports": {"first": 16384}}})),
        ("spec.media.ports.first", json!({"media": {"ports": {"count": 6}}})),
        ("spec.media.service", json!({"media": {"exposure": "LoadBalancer"}})),
        ("spec.turn.tls", tls(json!({}))),
        ("spec.turn.tls.route", tls(json!({"route": route}))),
        ("spec.turn.tls.route.entryPoints", tls(json!({"route": {"kind": "IngressRouteTCP"}}))),
        ("spec.turn.tls.service", tls(json!({"service": {"type": "LoadBalancer"}}))),
    ]
}

/// Autoscaling, Redis, rooms.
fn besides_others() -> Vec<(&'static str, Value)> {
    let scaling = |more: Value| {
        let mut autoscaling = json!({"mode": "BuiltIn"});
        autoscaling.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({"autoscaling": autoscaling, "media": {"ports": {"count": 4000}}})
    };
    let external = |more: Value| {
        let mut external = json!({"addresses": ["127.0.0.1:1"]});
        external.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({"redis": {"external": external}})
    };
    let rule = json!({"window": "5m", "nodes": 1, "period": "1m"});
    let by_token = json!({"createRoom": "Token", "tokenSecretName": "token"});
    vec![
        ("spec.autoscaling", scaling(json!({}))),
        ("spec.autoscaling.freeSlots", scaling(json!({"roomsPerNode": 10}))),
        ("spec.autoscaling.loadPercent", scaling(json!({"roomsPerNode": 10}))),
        ("spec.autoscaling.behavior.scaleIn", scaling(json!({"behavior": {"scaleIn": rule}}))),
        ("spec.autoscaling.behavior.scaleOut", scaling(json!({"behavior": {"scaleOut": rule}}))),
        ("spec.http.tokenSecretName", json!({"http": by_token})),
        ("spec.redis.external", external(json!({}))),
        ("spec.redis.external.caSecretName", external(json!({"tls": true}))),
        (
            "spec.redis.external.masterName",
            external(json!({"mode": "Sentinel", "masterName": "other"})),
        ),
        (
            "spec.rooms.playoutDelay.minMilliseconds",
            json!({"rooms": {"playoutDelay": {"maxMilliseconds": 40950}}}),
        ),
        (
            "spec.webhooks",
            json!({"keys": {"secretName": "keys"}, "webhooks": {"urls": ["https://a.example.com"]}}),
        ),
    ]
}

/// The specification in which a property is not set.
pub fn surroundings(path: &str) -> Value {
    let mut spec = besides(path);
    spec["domain"] = json!("live.example.com");
    spec["nodes"] = json!(1);
    spec
}

fn with(path: &str, value: Value) -> Value {
    let mut spec = surroundings(path);
    let mut at = &mut spec;
    for name in path.split('.').skip(1) {
        at = &mut at[name];
    }
    *at = value;
    spec
}

/// Values of texts, lists and maps, and of what cannot go to its end by itself.
fn examples(path: &str) -> Vec<Value> {
    let quantities = || vec![json!({"cpu": "2", "memory": "1Gi"}), json!({"cpu": "1500m"})];
    match path {
        // As many pods as that nobody needs to see.
        "spec.nodes" | "spec.autoscaling.minNodes" => vec![json!(3)],
        "spec.autoscaling.behavior.scaleIn.period"
        | "spec.autoscaling.behavior.scaleIn.window"
        | "spec.autoscaling.behavior.scaleOut.period"
        | "spec.autoscaling.behavior.scaleOut.window"
        | "spec.drain.timeout" => vec![json!("1m"), json!("30m")],
        "spec.domain" => vec![json!("other.example.com")],
        "spec.http.tokenSecretName" => vec![json!("token")],
        "spec.ingress.annotations"
        | "spec.media.service.annotations"
        | "spec.turn.tls.service.annotations" => {
            vec![json!({"a.example.com/b": "c", "d": ""}), json!({"d": "e"})]
        }
        "spec.ingress.className" => vec![json!("nginx")],
        "spec.ingress.tls.secretName" | "spec.turn.tls.secretName" => vec![json!("certificate")],
        "spec.keys.secretName" => vec![json!("keys")],
        // Its greatest leaves no room for the others.
        "spec.media.ports.first" => vec![json!(1024), json!(65_530)],
        // As for that of TURN by TLS.
        "spec.media.exposure" => {
            ["HostNetwork", "LoadBalancer", "TurnOnly", "HostPort"].map(Value::from).to_vec()
        }
        "spec.node.image" | "spec.turn.image" => vec![json!("example.invalid/other:2")],
        "spec.node.imagePullSecrets" => vec![json!([{"name": "a"}, {"name": "b"}])],
        "spec.node.resources.limits"
        | "spec.node.resources.requests"
        | "spec.redis.managed.resources.limits"
        | "spec.redis.managed.resources.requests"
        | "spec.turn.resources.limits"
        | "spec.turn.resources.requests" => quantities(),
        "spec.node.scheduling.nodeSelector" => vec![json!({"a": "b", "c": "d"}), json!({"c": "e"})],
        "spec.node.scheduling.priorityClassName" => vec![json!("system-cluster-critical")],
        "spec.node.scheduling.tolerations" => vec![
            json!([{"key": "a", "operator": "Exists", "effect": "NoSchedule"}]),
            json!([{"key": "a", "value": "b", "effect": "NoExecute", "tolerationSeconds": 9},
                {"operator": "Exists"}]),
        ],
        "spec.redis.external.addresses" => vec![json!(["127.0.0.1:2"])],
        "spec.redis.external.caSecretName" | "spec.redis.external.secretName" => {
            vec![json!("redis")]
        }
        "spec.redis.external.masterName" => vec![json!("main")],
        "spec.redis.external.username" => vec![json!("user")],
        // A volume that nobody has made yet cannot change.
        "spec.redis.managed.storage.size" => vec![json!(2_147_483_648_u64)],
        "spec.redis.managed.storage.storageClassName" => vec![json!("standard")],
        "spec.rooms.enabledCodecs" => {
            vec![json!(["audio/opus"]), json!(["audio/opus", "video/VP8"])]
        }
        "spec.rooms.presets" => vec![
            json!([{"name": "stage", "agents": [{"name": "guide", "metadata": "m"}]}]),
            json!([{"name": "stage", "maxParticipants": 9, "playoutDelay": {"minMilliseconds": 50}},
                {"name": "hall", "emptyTimeoutSeconds": 1, "syncStreams": true}]),
        ],
        "spec.turn.tls.domain" => vec![json!("relay.example.com")],
        "spec.turn.tls.proxyProtocol" => vec![json!(["10.0.0.0/8", "fd00::/8"])],
        "spec.turn.tls.route.entryPoints" => vec![json!(["turn"]), json!(["a", "b"])],
        "spec.ingress.tls.issuerRef.name" => vec![json!("letsencrypt")],
        "spec.gateway.parentRefs" | "spec.turn.tls.route.parentRefs" => {
            vec![json!([{"name": "g", "namespace": "n", "sectionName": "s"}])]
        }
        // A port of all Kubernetes nodes is there once, the other installation wants it too.
        "spec.turn.tls.service.type" => vec![json!("ClusterIP"), json!("LoadBalancer")],
        "spec.webhooks.apiKey" => vec![json!("devkey")],
        "spec.webhooks.excludeEvents" | "spec.webhooks.includeEvents" => {
            vec![json!(["room_started"]), json!(["room_started", "track_published"])]
        }
        "spec.webhooks.urls" => vec![json!(["https://b.example.com/x", "http://c.example.com"])],
        _ => Vec::new(),
    }
}

/// Specifications with words that need more than the property itself.
fn whole(path: &str) -> Vec<Value> {
    let of = |spec: Value| {
        let mut whole = surroundings("spec");
        whole.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        whole
    };
    match path {
        "spec.http.createRoom" => vec![
            of(json!({"http": {"createRoom": "Token", "tokenSecretName": "token"}})),
            of(json!({"http": {"createRoom": "Open"}})),
            of(json!({"http": {"createRoom": "Disabled"}})),
        ],
        "spec.redis.external.mode" => vec![
            of(json!({"redis": {"external": {"mode": "Sentinel", "masterName": "m",
                "addresses": ["127.0.0.1:1"]}}})),
            of(json!({"redis": {"external": {"mode": "Cluster", "addresses": ["127.0.0.1:1"]}}})),
            of(
                json!({"redis": {"external": {"mode": "Standalone", "addresses": ["127.0.0.1:1"]}}}),
            ),
        ],
        "spec.turn.tls.route.kind" => {
            let route = |route: Value| {
                of(json!({"turn": {"tls": {"domain": "turn.example.com",
                    "secretName": "certificate", "route": route}}}))
            };
            vec![
                route(json!({"kind": "IngressRouteTCP"})),
                route(json!({"kind": "TLSRoute", "parentRefs": [{"name": "g"}]})),
            ]
        }
        _ => Vec::new(),
    }
}

/// Specifications with good values, each different from the one before.
pub fn good(property: &Property) -> Vec<Value> {
    let Property { path, schema } = property;
    let whole = whole(path);
    if !whole.is_empty() {
        return whole;
    }
    let mut values = examples(path);
    if values.is_empty() {
        values = match schema["type"].as_str().unwrap_or_default() {
            "boolean" => vec![json!(true), json!(false)],
            "integer" => vec![limit(schema, "minimum"), limit(schema, "maximum")],
            "string" => schema["enum"].as_array().cloned().unwrap_or_default(),
            _ => Vec::new(),
        };
    }
    assert!(!values.is_empty(), "{path} is new: give it an example");
    values.into_iter().map(|value| with(path, value)).collect()
}

fn limit(schema: &Value, name: &str) -> Value {
    json!(schema[name].as_f64().unwrap() as i64)
}

/// Specifications with wrong values.
pub fn wrong(property: &Property) -> Vec<Value> {
    let Property { path, schema } = property;
    let mut values = vec![match schema["type"].as_str().unwrap_or_default() {
        "string" => json!(7),
        "array" => json!({"a": 1}),
        "object" => json!(["a"]),
        _ => json!("text"),
    }];
    if schema["enum"].is_array() {
        values.push(json!("Nonsense"));
    }
    if let Some(length) = schema["maxLength"].as_u64() {
        values.push(json!("a".repeat(usize::try_from(length).unwrap() + 1)));
    }
    values.extend(schema["minimum"].as_f64().map(|least| json!(least as i64 - 1)));
    values.extend(schema["maximum"].as_f64().map(|most| json!(most as i64 + 1)));
    if let Some(most) = schema["maxItems"].as_u64() {
        let item = examples(path).pop().and_then(|list| list.get(0).cloned());
        let count = usize::try_from(most).unwrap() + 1;
        values.extend(item.map(|item| Value::from(vec![item; count])));
    }
    values.into_iter().map(|value| with(path, value)).collect()
}

/// Without a control plane, so that a new property is not first noticed by the walk, which takes
/// minutes.
#[test]
fn every_property_has_good_and_wrong_values() {
    for property in properties() {
        assert!(!good(&property).is_empty(), "{}", property.path);
        assert!(!wrong(&property).is_empty(), "{}", property.path);
    }
}
