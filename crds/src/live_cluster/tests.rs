use kube::CustomResourceExt;
use serde_json::{Value, json};

use super::*;

const EXAMPLES: [(&str, &str); 5] = [
    ("minimal", include_str!("../../examples/minimal.yaml")),
    ("development", include_str!("../../examples/development.yaml")),
    ("full", include_str!("../../examples/full.yaml")),
    ("load-balancer", include_str!("../../examples/load-balancer.yaml")),
    ("turn-only", include_str!("../../examples/turn-only.yaml")),
];

fn example(name: &str) -> LiveCluster {
    let (_, text) = EXAMPLES.iter().find(|(found, _)| *found == name).unwrap();
    serde_saphyr::from_str(text).unwrap()
}

fn spec_schema() -> Value {
    let definition = serde_json::to_value(LiveCluster::crd()).unwrap();
    definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"].clone()
}

/// Fields of `value` that the schema does not know.
fn unknown_fields(path: &str, schema: &Value, value: &Value) -> Vec<String> {
    match value {
        Value::Object(fields) => fields
            .iter()
            .flat_map(|(name, value)| {
                let path = format!("{path}.{name}");
                match (schema["properties"].get(name), schema.get("additionalProperties")) {
                    (Some(schema), _) | (None, Some(schema)) => {
                        unknown_fields(&path, schema, value)
                    }
                    (None, None) => vec![path],
                }
            })
            .collect(),
        Value::Array(items) => {
            items.iter().flat_map(|item| unknown_fields(path, &schema["items"], item)).collect()
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Vec::new(),
    }
}

#[test]
fn examples_have_only_fields_of_the_schema() {
    for (name, text) in EXAMPLES {
        let manifest: Value = serde_saphyr::from_str(text).unwrap();
        assert_eq!(unknown_fields("spec", &spec_schema(), &manifest["spec"]), [""; 0], "{name}");
    }
}

#[test]
fn full_example_names_every_field_of_the_spec() {
    let manifest: Value = serde_saphyr::from_str(EXAMPLES[2].1).unwrap();
    let schema = spec_schema();
    // A gateway takes the place of the Ingress.
    let fields = schema["properties"].as_object().unwrap().keys();
    for field in fields.filter(|field| *field != "gateway") {
        assert!(manifest["spec"].get(field).is_some(), "{field} is missing");
    }
}

#[test]
fn minimal_example_gets_the_defaults() {
    let spec = example("minimal").spec;
    assert_eq!(spec.nodes, 2);
    assert_eq!(spec.media.ports, PortRange { first: 20_000, count: 1000 });
    assert!(spec.media.tcp && spec.http.pages && !spec.development);
    assert_eq!(spec.http.create_room, CreateRoom::Disabled);
    assert_eq!(spec.redis, RedisSpec::default());
    assert!(spec.turn.enabled && spec.turn.udp && spec.turn.tcp && spec.turn.tls.is_none());
    // A default that is stored would stay when the other half is set.
    assert_eq!(spec.node.resources, Resources::default());
}

#[test]
fn defaults_of_the_schema_are_those_of_the_types() {
    let mut filled = json!({"domain": "live.example.com"});
    for (name, field) in spec_schema()["properties"].as_object().unwrap() {
        if let Some(default) = field.get("default") {
            filled[name] = default.clone();
        }
    }
    let by_schema: LiveClusterSpec = serde_json::from_value(filled).unwrap();
    let by_types: LiveClusterSpec =
        serde_json::from_value(json!({"domain": "live.example.com"})).unwrap();
    assert_eq!(by_schema, by_types);
}

#[test]
fn nodes_have_a_default_in_the_schema_for_the_scale_subresource() {
    assert_eq!(spec_schema()["properties"]["nodes"]["default"], json!(2));
}

#[test]
fn every_text_and_list_of_the_spec_has_a_limit() {
    fn check(path: &str, schema: &Value) {
        match schema["type"].as_str() {
            Some("string") => {
                assert!(schema.get("maxLength").is_some() || schema.get("enum").is_some(), "{path}")
            }
            Some("array") => assert!(schema.get("maxItems").is_some(), "{path}"),
            Some("object") if schema.get("additionalProperties").is_some() => {
                assert!(schema.get("maxProperties").is_some(), "{path}");
            }
            _ => {}
        }
        for (name, field) in schema["properties"].as_object().into_iter().flatten() {
            check(&format!("{path}.{name}"), field);
        }
        if let Some(items) = schema.get("items") {
            check(&format!("{path}[]"), items);
        }
    }
    check("spec", &spec_schema());
}

#[test]
fn reserved_ports_are_those_of_the_rule() {
    let schema = spec_schema();
    let rules = schema["properties"]["media"]["properties"]["ports"]["x-kubernetes-validations"]
        .as_array()
        .unwrap()
        .iter()
        .map(|rule| rule["rule"].as_str().unwrap())
        .collect::<Vec<_>>();
    let expected = format!("{RESERVED_PORTS:?}.all(");
    assert!(rules.iter().any(|rule| rule.starts_with(&expected)), "{rules:?}");
}
