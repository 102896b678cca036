//! Everything in a namespace, without what two installations of the same manifest differ in.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Pod, Secret, Service};
use k8s_openapi::api::networking::v1::{Ingress, NetworkPolicy};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::{DynamicObject, ListParams};
use kube::core::ApiResource;
use kube::{Api, Client, Resource as _, ResourceExt as _};
use serde_json::{Map, Value};

/// Objects by kind and name.
pub type Objects = BTreeMap<String, Value>;

/// Fields of metadata that the API server makes up.
const MADE_UP: [&str; 6] =
    ["uid", "resourceVersion", "creationTimestamp", "managedFields", "generation", "namespace"];
/// Fields anywhere that tell a time, what is random, or what the API server makes up.
const ACCIDENTAL: [&str; 9] = [
    "uid",
    "lastTransitionTime",
    "observedGeneration",
    "clusterIP",
    "clusterIPs",
    "livecluster.dev/placement-since",
    // Of the password.
    "livecluster.dev/config-hash",
    "healthCheckNodePort",
    "nodePort",
];

/// What the operator makes, and LiveClusters.
fn kinds() -> [ApiResource; 11] {
    [
        ApiResource::erase::<ConfigMap>(&()),
        ApiResource::erase::<HorizontalPodAutoscaler>(&()),
        ApiResource::erase::<Ingress>(&()),
        ApiResource::erase::<crds::LiveCluster>(&()),
        ApiResource::erase::<NetworkPolicy>(&()),
        ApiResource::erase::<PersistentVolumeClaim>(&()),
        ApiResource::erase::<Pod>(&()),
        ApiResource::erase::<PodDisruptionBudget>(&()),
        ApiResource::erase::<Secret>(&()),
        ApiResource::erase::<Service>(&()),
        ApiResource::erase::<StatefulSet>(&()),
    ]
}

/// The versions of all objects by kind and name: they change with every write that changes anything.
pub async fn versions(client: &Client, namespace: &str) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for kind in kinds() {
        let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &kind);
        for object in api.list(&ListParams::default()).await.unwrap().items {
            let version = object.meta().resource_version.clone().unwrap();
            found.insert(format!("{} {}", kind.kind, object.name_any()), version);
        }
    }
    found
}

/// Reads everything that the operator makes, and the LiveClusters.
pub async fn objects(client: &Client, namespace: &str) -> Objects {
    let mut found = Objects::new();
    let mut unique = vec![(namespace.to_owned(), "NAMESPACE".to_owned())];
    let mut revisions = Vec::new();
    for kind in &kinds() {
        let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, kind);
        for object in api.list(&ListParams::default()).await.unwrap().items {
            let name = object.meta().name.clone().unwrap();
            if kind.kind == "LiveCluster" {
                unique.push((object.meta().uid.clone().unwrap(), "UID".to_owned()));
            }
            if kind.kind == "Pod" {
                let annotations = object.meta().annotations.clone().unwrap_or_default();
                let revision = annotations.get(crds::names::REVISION).cloned().unwrap();
                if !revisions.contains(&revision) {
                    revisions.push(revision);
                }
            }
            let mut value = serde_json::to_value(&object).unwrap();
            // Lists do not repeat it for each.
            value["apiVersion"] = Value::from(kind.api_version.as_str());
            value["kind"] = Value::from(kind.kind.as_str());
            found.insert(format!("{} {name}", kind.kind), value);
        }
    }
    let numbers = revisions.into_iter().enumerate();
    unique.extend(numbers.map(|(number, revision)| (revision, format!("REVISION-{number}"))));
    for (name, object) in &mut found {
        if name.starts_with("Pod ") {
            object.as_object_mut().unwrap().remove("status");
        }
        if name.starts_with("Secret ") {
            hide(object);
        }
        tidy(object, true, &unique);
    }
    found
}

/// What is secret differs each time; which entries there are does not.
fn hide(secret: &mut Value) {
    for value in secret["data"].as_object_mut().into_iter().flat_map(Map::values_mut) {
        *value = Value::from("SECRET");
    }
}

fn tidy(value: &mut Value, is_root: bool, unique: &[(String, String)]) {
    match value {
        Value::Object(fields) => {
            if is_root && let Some(metadata) = fields.get_mut("metadata") {
                let metadata = metadata.as_object_mut().unwrap();
                metadata.retain(|name, _| !MADE_UP.contains(&name.as_str()));
            }
            fields.retain(|name, _| !ACCIDENTAL.contains(&name.as_str()));
            fields.values_mut().for_each(|field| tidy(field, false, unique));
        }
        Value::Array(items) => items.iter_mut().for_each(|item| tidy(item, false, unique)),
        Value::String(text) => {
            for (accident, name) in unique {
                *text = text.replace(accident.as_str(), name);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// Says where two sets of objects differ; nothing where they are equal.
pub fn difference(expected: &Objects, found: &Objects) -> Vec<String> {
    let names = expected.keys().chain(found.keys().filter(|name| !expected.contains_key(*name)));
    let mut lines = Vec::new();
    for name in names {
        match (expected.get(name), found.get(name)) {
            (Some(_), None) => lines.push(format!("{name} is missing")),
            (None, _) => lines.push(format!("{name} is too many")),
            (Some(expected), Some(found)) => compare(name, expected, found, &mut lines),
        }
    }
    lines
}

fn compare(path: &str, expected: &Value, found: &Value, lines: &mut Vec<String>) {
    match (expected, found) {
        (Value::Object(a), Value::Object(b)) => {
            let names = a.keys().chain(b.keys().filter(|name| !a.contains_key(*name)));
            for name in names {
                let of = |fields: &Map<String, Value>| fields.get(name).cloned();
                let (a, b) = (of(a).unwrap_or_default(), of(b).unwrap_or_default());
                compare(&format!("{path}.{name}"), &a, &b, lines);
            }
        }
        (a, b) if a == b => {}
        (a, b) => lines.push(format!("{path} is {b}, not {a}")),
    }
}
