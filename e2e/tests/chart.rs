//! The chart without a cluster: what it refuses, and that what it makes holds together.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::{Command, Output};

use anyhow::{Context as _, Result, bail, ensure};
use contract::{metrics, turn_metrics};
use crds::LiveCluster;
use e2e::repository;
use e2e::tools::{HELM, Toolchain};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::rbac::v1 as rbac;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// Everything that is off by default.
const EVERYTHING: [&str; 7] = [
    "replicas=2",
    "metricsAPI.enabled=true",
    "monitoring.podMonitors.enabled=true",
    "monitoring.podMonitors.labels.release=prometheus",
    "monitoring.rules.enabled=true",
    "monitoring.dashboard.enabled=true",
    "images.registry=registry.example.com/mirror",
];

/// Who wants to change the manifests reads this first.
const NOTICE: &str = "# Generated from the chart: UPDATE_EXPECT=1 cargo test --package e2e --test \
    chart; do not edit.\n";

fn chart() -> PathBuf {
    repository().join("charts/livecluster")
}

fn helm(command: &str, values: &[&str]) -> Result<Output> {
    let program = HELM.build(&Toolchain::find()?)?.join(HELM.name);
    let mut helm = Command::new(program);
    match command {
        "template" => helm.args(["template", "release"]).arg(chart()).args(["-n", "system"]),
        _ => helm.args([command, "--strict"]).arg(chart()),
    };
    helm.args(values.iter().flat_map(|value| ["--set", value]));
    helm.output().context("running helm")
}

/// The objects that the chart makes.
fn objects(values: &[&str]) -> Result<Vec<Value>> {
    let output = helm("template", values)?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{values:?}: {complaint}");
    documents(&String::from_utf8(output.stdout)?)
}

/// The documents of a stream.
fn documents(text: &str) -> Result<Vec<Value>> {
    let documents = text.split("\n---\n").filter(|document| document.contains("kind:"));
    documents
        .map(|document| serde_saphyr::from_str(document).with_context(|| document.to_owned()))
        .collect()
}

fn find<'a>(objects: &'a [Value], kind: &str, name: &str) -> Result<&'a Value> {
    let found = objects.iter().find(|o| o["kind"] == kind && o["metadata"]["name"] == name);
    found.with_context(|| format!("{kind} {name} is not there"))
}

#[test]
fn the_chart_has_no_faults_with_defaults_and_with_everything() -> Result<()> {
    for values in [&[][..], &EVERYTHING, &["watchNamespace=rooms"]] {
        let output = helm("lint", values)?;
        let report = String::from_utf8_lossy(&output.stdout);
        ensure!(output.status.success(), "{values:?}: {report}");
        let mut names = BTreeSet::new();
        for object in objects(values)? {
            let name = |field: &str| object["metadata"][field].as_str().unwrap_or_default();
            let key =
                (object["kind"].to_string(), name("namespace").to_owned(), name("name").to_owned());
            ensure!(!key.2.is_empty() && names.insert(key.clone()), "{key:?} is there twice");
            if object["kind"] != "CustomResourceDefinition" {
                let labels = &object["metadata"]["labels"];
                ensure!(labels["app.kubernetes.io/managed-by"] == "Helm", "{key:?}: {labels}");
            }
        }
    }
    Ok(())
}

/// An object has the fields of its kind and no others: what its type does not know is not in what
/// the type writes.
fn check_strictly<T: DeserializeOwned + Serialize>(object: &Value) -> Result<()> {
    let typed: T = serde_json::from_value(object.clone())?;
    let known = serde_json::to_value(&typed)?;
    ensure!(known == *object, "it is read as {known}");
    Ok(())
}

#[test]
fn every_object_has_the_fields_of_its_kind_only() -> Result<()> {
    let more = [
        "podAnnotations.a=b",
        "nodeSelector.disk=ssd",
        "tolerations[0].operator=Exists",
        "priorityClassName=system-cluster-critical",
        "images.pullSecrets[0]=registry",
        "serviceAccount.annotations.a=b",
    ];
    let everything: Vec<&str> = EVERYTHING.into_iter().chain(more).collect();
    let mut kinds = BTreeSet::new();
    for values in [&[][..], &everything, &["watchNamespace=rooms"]] {
        for object in objects(values)? {
            let kind = object["kind"].as_str().context("a kind")?;
            let checked = match kind {
                "ClusterRole" => check_strictly::<rbac::ClusterRole>(&object),
                "ClusterRoleBinding" => check_strictly::<rbac::ClusterRoleBinding>(&object),
                "ConfigMap" => check_strictly::<core::ConfigMap>(&object),
                "Deployment" => check_strictly::<Deployment>(&object),
                "Job" => check_strictly::<Job>(&object),
                // Its defaults are written, too; the API server refuses unknown fields.
                "LiveCluster" => {
                    Ok(serde_json::from_value::<LiveCluster>(object.clone()).map(drop)?)
                }
                "Pod" => check_strictly::<core::Pod>(&object),
                "NetworkPolicy" => check_strictly::<NetworkPolicy>(&object),
                "Role" => check_strictly::<rbac::Role>(&object),
                "RoleBinding" => check_strictly::<rbac::RoleBinding>(&object),
                "Service" => check_strictly::<core::Service>(&object),
                "ServiceAccount" => check_strictly::<core::ServiceAccount>(&object),
                // The first is made from the types themselves; of the others there are none.
                "CustomResourceDefinition" | "PodMonitor" | "PrometheusRule" => Ok(()),
                _ => bail!("{kind} is not checked"),
            };
            checked.with_context(|| format!("{kind} {}", object["metadata"]["name"]))?;
            kinds.insert(kind.to_owned());
        }
    }
    ensure!(kinds.len() >= 12, "only {kinds:?}");
    Ok(())
}

#[test]
fn an_operator_of_one_namespace_has_no_rights_over_the_cluster() -> Result<()> {
    let namespaced = ["watchNamespace=rooms", "crds.install=false"];
    let reading: Vec<&str> = namespaced.into_iter().chain(["readNodes=true"]).collect();
    for (values, names, told) in [
        (&namespaced[..], &[][..], Some("false")),
        (&reading, &["release-operator-nodes"], None),
        (&[], &["release-operator", "release-operator-nodes"], None),
    ] {
        let objects = objects(values)?;
        for kind in ["ClusterRole", "ClusterRoleBinding"] {
            let found = objects.iter().filter(|object| object["kind"] == kind);
            let found: Vec<_> = found.filter_map(|o| o["metadata"]["name"].as_str()).collect();
            ensure!(found == names, "{values:?}: {kind} {found:?}");
        }
        let deployment = find(&objects, "Deployment", "release-operator")?;
        let variables = &deployment["spec"]["template"]["spec"]["containers"][0]["env"];
        let variables = variables.as_array().context("an environment")?;
        let found = variables.iter().find(|variable| variable["name"] == "READ_NODES");
        let found = found.and_then(|variable| variable["value"].as_str());
        ensure!(found == told, "{values:?}: READ_NODES is {found:?}");
    }
    Ok(())
}

#[test]
fn values_that_mean_nothing_are_refused_by_name() -> Result<()> {
    for (value, named) in [
        ("replica=2", "replica"),
        ("replicas=11", "replicas"),
        ("replicas=two", "replicas"),
        ("images.sfu.tag=a b", "images/sfu/tag"),
        ("images.sfu.repository=", "images/sfu/repository"),
        ("images.sfu.repository=redis:7", "images/sfu/repository"),
        ("images.sfu.digest=x", "digest"),
        ("images.registry=https://registry", "images/registry"),
        ("images.pullPolicy=Sometimes", "pullPolicy"),
        ("images.pullSecrets[0]=A_B", "pullSecrets"),
        ("crds.keep=true", "keep"),
        ("watchNamespace=Rooms", "watchNamespace"),
        ("readNodes=yes", "readNodes"),
        ("metricsAPI.enabled=yes", "metricsAPI/enabled"),
        ("monitoring.podMonitors.interval=often", "interval"),
        ("monitoring.podMonitors.labels.a=b c", "labels"),
        ("monitoring.rule.enabled=true", "rule"),
        ("monitoring.dashboard.enabled=1", "dashboard/enabled"),
        ("log.format=xml", "format"),
        ("log.level=a b", "level"),
        ("resources.limits.memory=much", "memory"),
        ("resources.limit.memory=1Gi", "limit"),
        ("tolerations[0].effect=Never", "effect"),
        ("affinity.nodes=x", "nodes"),
        ("podLabels.a b=c", "podLabels"),
        ("serviceAccount.name=A", "serviceAccount/name"),
        ("serviceAccount.create=true", "create"),
        ("uninstallGuard.enabled=1", "uninstallGuard/enabled"),
        ("test.liveCluster=Demo", "test/liveCluster"),
        ("test.namespace=a b", "test/namespace"),
        ("test.spec.domain=live.example.com", "test/spec"),
        ("test.enabled=true", "enabled"),
    ] {
        let output = helm("template", &[value])?;
        let complaint = String::from_utf8_lossy(&output.stderr);
        ensure!(!output.status.success(), "{value} is taken");
        let said = complaint.replace('.', "/");
        ensure!(said.contains(&named.replace('.', "/")), "{value}: {complaint}");
    }
    // What no schema can say.
    let output = helm("template", &["metricsAPI.enabled=true", "watchNamespace=rooms"])?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    ensure!(!output.status.success() && complaint.contains("watchNamespace"), "{complaint}");
    Ok(())
}

#[test]
fn every_value_is_in_the_schema_and_the_readme() -> Result<()> {
    let values: Value =
        serde_saphyr::from_str(&std::fs::read_to_string(chart().join("values.yaml"))?)?;
    let schema: Value =
        serde_json::from_str(&std::fs::read_to_string(chart().join("values.schema.json"))?)?;
    let readme = std::fs::read_to_string(chart().join("README.md"))?;
    let properties = |of: &Value| -> BTreeSet<String> {
        of.as_object().into_iter().flatten().map(|(key, _)| key.clone()).collect()
    };
    let known = properties(&schema["properties"]);
    for name in properties(&values) {
        ensure!(known.contains(&name), "{name} is not in the schema");
        ensure!(readme.contains(&format!("`{name}")), "{name} is not in the README");
    }
    Ok(())
}

/// The objects of a release `livecluster` with default values, as `operator manifests` has them:
/// without the definition, which it makes itself, without hooks, and without Helm's labels.
fn default_objects() -> Result<Vec<Value>> {
    let program = HELM.build(&Toolchain::find()?)?.join(HELM.name);
    let output = Command::new(program)
        .args(["template", "livecluster"])
        .arg(chart())
        .args(["--namespace", "livecluster-system", "--no-hooks"])
        .output()
        .context("running helm")?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut objects = documents(&String::from_utf8(output.stdout)?)?;
    objects.retain(|object| object["kind"] != "CustomResourceDefinition");
    for object in &mut objects {
        for path in ["/metadata/labels", "/spec/template/metadata/labels"] {
            if let Some(labels) = object.pointer_mut(path).and_then(Value::as_object_mut) {
                labels.retain(|name, value| !name.starts_with("helm.sh/") && value != "Helm");
            }
        }
    }
    Ok(objects)
}

#[test]
fn the_manifests_without_helm_are_those_of_the_chart() -> Result<()> {
    let path = repository().join("operator/manifests/operator.yaml");
    let expected = default_objects()?;
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        let texts: Vec<String> =
            expected.iter().map(serde_saphyr::to_string).collect::<Result<_, _>>()?;
        std::fs::write(&path, format!("{NOTICE}{}", texts.join("---\n")))?;
    }
    let found = documents(&std::fs::read_to_string(&path)?)?;
    let kinds: BTreeSet<String> = found.iter().map(|object| object["kind"].to_string()).collect();
    ensure!(kinds.len() >= 7, "only {kinds:?}");
    for (found, expected) in found.iter().zip(&expected) {
        ensure!(found == expected, "run this with UPDATE_EXPECT=1: {found} is {expected}");
    }
    ensure!(found.len() == expected.len(), "{} objects, not {}", found.len(), expected.len());
    Ok(())
}

#[test]
fn the_test_calls_through_what_it_is_told() -> Result<()> {
    let call = |values: &[&str]| -> Result<(String, Value)> {
        let objects = objects(values)?;
        let pod = find(&objects, "Pod", "release-test-call")?;
        let arguments = pod["spec"]["containers"][0]["args"].as_array().context("arguments")?;
        let url = arguments[1].as_str().context("the address")?.to_owned();
        ensure!(arguments[0] == "call", "{arguments:?}");
        Ok((url, pod.clone()))
    };
    let (url, pod) = call(&[])?;
    ensure!(url == "--url=http://release-test-signalling.system.svc:7880", "{url}");
    let made = objects(&[])?;
    let made = find(&made, "LiveCluster", "release-test")?;
    ensure!(made["metadata"]["namespace"] == "system", "{made}");
    let secret = |pod: &Value| pod["spec"]["volumes"][0]["secret"]["secretName"].clone();
    ensure!(secret(&pod) == "release-test-keys", "{pod}");
    // Nothing selects the pods of tests and guards as operators.
    ensure!(pod["metadata"]["labels"]["app.kubernetes.io/component"] == "test", "{pod}");

    let named = ["test.liveCluster=studio", "test.namespace=live", "test.keysSecret=mine"];
    let (url, pod) = call(&named)?;
    ensure!(url == "--url=http://studio-signalling.live.svc:7880", "{url}");
    ensure!(secret(&pod) == "mine" && pod["metadata"]["namespace"] == "live", "{pod}");
    ensure!(objects(&named)?.iter().all(|object| object["kind"] != "LiveCluster"));
    let (url, _) = call(&["watchNamespace=rooms"])?;
    ensure!(url == "--url=http://release-test-signalling.rooms.svc:7880", "{url}");
    Ok(())
}

#[test]
fn rules_and_dashboard_ask_for_metrics_that_programs_export() -> Result<()> {
    let objects = objects(&EVERYTHING)?;
    let rules = find(&objects, "PrometheusRule", "release-operator")?;
    let dashboard = find(&objects, "ConfigMap", "release-operator-dashboard")?;
    let dashboard = dashboard["data"]["livecluster.json"].as_str().context("the dashboard")?;
    let dashboard: Value = serde_json::from_str(dashboard).context("reading the dashboard")?;
    let exported: BTreeSet<&str> = metrics::OF_MEDIA_NODE
        .into_iter()
        .chain(metrics::OF_OPERATOR)
        .chain(turn_metrics::OF_TURN_SERVER)
        .collect();
    let mut asked = BTreeSet::new();
    for query in queries(rules).into_iter().chain(queries(&dashboard)) {
        for name in names(&query) {
            // Prometheus makes several series of a histogram.
            let name = name.strip_suffix("_bucket").unwrap_or(&name).to_owned();
            ensure!(exported.contains(name.as_str()), "nothing exports {name}: {query}");
            asked.insert(name);
        }
    }
    ensure!(asked.len() >= 15, "only {asked:?} is asked for");
    let alerts = rules["spec"]["groups"][0]["rules"].as_array().context("alerts")?;
    let page = std::fs::read_to_string(repository().join("docs/metrics.md"))?;
    for alert in alerts {
        let name = alert["alert"].as_str().context("the name of an alert")?;
        ensure!(page.contains(name), "docs/metrics.md does not say what to do about {name}");
        ensure!(alert["annotations"]["summary"].is_string(), "{alert}");
    }
    Ok(())
}

#[test]
fn what_is_scraped_are_ports_that_pods_have() -> Result<()> {
    let objects = objects(&EVERYTHING)?;
    let deployment = find(&objects, "Deployment", "release-operator")?;
    let monitor = find(&objects, "PodMonitor", "release-operator")?;
    let template = &deployment["spec"]["template"];
    let labels = &template["metadata"]["labels"];
    let wanted = monitor["spec"]["selector"]["matchLabels"].as_object().context("labels")?;
    for (name, value) in wanted {
        ensure!(labels[name] == *value, "operators have {labels}");
    }
    let ports = template["spec"]["containers"][0]["ports"].as_array().context("ports")?;
    let port = &monitor["spec"]["podMetricsEndpoints"][0]["port"];
    ensure!(ports.iter().any(|known| known["name"] == *port), "operators have {ports:?}");
    // Those of media nodes are the operator's to make: as in its golden files.
    let nodes = find(&objects, "PodMonitor", "release-operator-nodes")?;
    let golden = repository().join("operator/tests/golden/full.yaml");
    let golden = std::fs::read_to_string(golden)?;
    for endpoint in nodes["spec"]["podMetricsEndpoints"].as_array().context("endpoints")? {
        let port = endpoint["port"].as_str().context("the name of a port")?;
        ensure!(golden.contains(&format!("name: {port}\n")), "media nodes have no port {port}");
    }
    for (name, value) in nodes["spec"]["selector"]["matchLabels"].as_object().context("labels")? {
        let line = format!("{name}: {}\n", value.as_str().context("a label")?);
        ensure!(golden.contains(&line), "media nodes have no label {line}");
    }
    for (values, field) in [
        (&EVERYTHING[..], "any"),
        (&["watchNamespace=rooms", "monitoring.podMonitors.enabled=true"][..], "matchNames"),
    ] {
        let objects = self::objects(values)?;
        let nodes = find(&objects, "PodMonitor", "release-operator-nodes")?;
        let namespaces = &nodes["spec"]["namespaceSelector"];
        ensure!(!namespaces[field].is_null(), "{namespaces}");
    }
    Ok(())
}

/// All texts under `expr` and the queries of variables.
fn queries(value: &Value) -> Vec<String> {
    match value {
        Value::Object(fields) => fields
            .iter()
            .flat_map(|(name, value)| match (name.as_str(), value) {
                ("expr" | "query", Value::String(text)) => vec![text.clone()],
                _ => queries(value),
            })
            .collect(),
        Value::Array(values) => values.iter().flat_map(queries).collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Vec::new(),
    }
}

/// The names of our metrics in a query.
fn names(query: &str) -> Vec<String> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let words = query.split(|c: char| !is_part(c));
    words.filter(|word| word.starts_with("livecluster_")).map(str::to_owned).collect()
}

#[test]
fn annotations_for_artifact_hub_are_readable_and_name_this_version() -> Result<()> {
    let text = std::fs::read_to_string(chart().join("Chart.yaml"))?;
    let meta: Value = serde_saphyr::from_str(&text)?;
    let annotation = |name: &str| -> Result<Value> {
        let text = meta["annotations"][format!("artifacthub.io/{name}")].as_str();
        serde_saphyr::from_str(text.with_context(|| format!("{name} is missing"))?)
            .with_context(|| name.to_owned())
    };
    let version = meta["appVersion"].as_str().context("appVersion")?;
    let images = annotation("images")?;
    let images = images.as_array().context("images")?;
    for program in ["operator", "sfu", "turn-server"] {
        let expected = format!("livecluster/{program}:{version}");
        ensure!(images.iter().any(|image| image["image"] == expected.as_str()), "{images:?}");
    }
    let example = annotation("crdsExamples")?;
    ensure!(example[0]["kind"] == "LiveCluster", "{example}");
    if annotation("crds")?[0]["name"] != "liveclusters.livecluster.dev" {
        bail!("the definition is not named");
    }
    Ok(())
}
