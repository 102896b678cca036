//! Does a LiveCluster become ready as the README says, and does deleting it leave nothing?

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e::live_cluster::{READY_TIMEOUT, condition};
use e2e::namespace::Namespace;
use e2e::process::Run as _;
use e2e::release;
use e2e::repository;
use e2e::stage::{say, stage};
use e2e::wait::eventually;

/// Everything that a LiveCluster can own.
const OWNED_KINDS: &str = "livecluster,pods,services,ingresses,secrets,configmaps,statefulsets,\
    poddisruptionbudgets,horizontalpodautoscalers";
/// Time until the garbage collector is through.
const DELETE_TIMEOUT: Duration = Duration::from_secs(120);
/// The API group of a Prometheus operator.
const MONITORING: &str = "apiVersion: monitoring.coreos.com";

#[test]
fn minimal_example_becomes_ready_and_leaves_nothing_behind() -> Result<()> {
    let cluster = release::install()?;
    let namespace = Namespace::new(&cluster, "e2e-install");
    namespace.create()?;
    let before = owned_objects(&namespace)?;
    let result = ready_then_deleted(&namespace, &before);
    if result.is_err() {
        say(&namespace.diagnosis());
    }
    namespace.delete()?;
    result
}

fn ready_then_deleted(namespace: &Namespace, before: &str) -> Result<()> {
    let example = repository().join("crds/examples/minimal.yaml");
    namespace.kubectl().args(["apply", "-f"]).arg(example).run()?;
    let timeout = format!("--timeout={}s", READY_TIMEOUT.as_secs());
    namespace
        .kubectl()
        .args(["wait", "livecluster/demo", "--for=condition=Ready", &timeout])
        .run()?;

    let object = namespace.get("livecluster", "demo")?;
    let domain = object["spec"]["domain"].as_str().context("the example has a domain")?;
    let table = namespace.kubectl().args(["get", "lc"]).read()?;
    columns_are_filled(&table, &format!("http://{domain}"))?;
    ensure!(condition(&object, "Available").as_deref() == Some("True"), "{}", object["status"]);
    ensure!(
        object["status"]["observedGeneration"] == object["metadata"]["generation"],
        "the status is of an earlier specification"
    );

    namespace.kubectl().args(["delete", "livecluster", "demo"]).run()?;
    eventually("everything of it is gone", DELETE_TIMEOUT, || {
        let left = owned_objects(namespace)?;
        ensure!(left == before, "left are:\n{left}");
        Ok(())
    })
}

#[test]
fn helm_test_calls_through_a_live_cluster_of_its_own() -> Result<()> {
    let cluster = release::install()?;
    let in_namespace = ["--namespace", release::NAMESPACE];
    stage("helm test", || release::test(&cluster))?;
    // What the test made carries the labels of the release; media pods and the rest belong to it.
    let made = "livecluster,pods";
    let tests = "app.kubernetes.io/component=test";
    let arguments = ["get", made, "--selector", tests, "--ignore-not-found", "-o", "name"];
    let left = cluster.kubectl().args(in_namespace).args(arguments).read()?;
    ensure!(left.trim().is_empty(), "left are:\n{left}");
    Ok(())
}

#[test]
fn the_api_server_takes_every_example_and_all_values_to_the_letter() -> Result<()> {
    let cluster = release::install()?;
    for example in files("crds/examples")? {
        let mut kubectl = cluster.kubectl();
        kubectl.args(["create", "--dry-run=server", "--validate=strict", "--filename"]);
        kubectl.arg(&example).run()?;
    }
    let mut values = files("charts/livecluster/ci")?;
    ensure!(values.len() >= 3, "only {values:?}");
    values.push(release::chart().join("values.yaml"));
    for values in values {
        let mut helm = cluster.helm();
        helm.args(["template", release::NAME]).arg(release::chart());
        helm.args(["--namespace", release::NAMESPACE, "--values"]).arg(&values);
        let rendered = helm.read()?;
        // Of these there is no definition in the cluster.
        let documents = rendered.split("\n---\n").filter(|text| !text.contains(MONITORING));
        let objects = documents.collect::<Vec<_>>().join("\n---\n");
        let mut kubectl = cluster.kubectl();
        kubectl.args(["apply", "--server-side", "--force-conflicts", "--field-manager=e2e"]);
        kubectl.args(["--dry-run=server", "--validate=strict", "--filename=-"]);
        let taken = kubectl.read_with_input(objects.as_bytes());
        taken.with_context(|| values.display().to_string())?;
    }
    Ok(())
}

/// The YAML files of a directory of the repository.
fn files(directory: &str) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(repository().join(directory))?;
    let paths = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    Ok(paths.into_iter().filter(|path| path.extension().is_some_and(|e| e == "yaml")).collect())
}

/// `NAME URL NODES READY DRAINING ROOMS SUBSCRIBERS STATUS VERSION AGE`
fn columns_are_filled(table: &str, url: &str) -> Result<()> {
    let mut lines = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let header = lines.next().unwrap_or_default();
    let row = lines.next().unwrap_or_default();
    let names = [
        "NAME",
        "URL",
        "NODES",
        "READY",
        "DRAINING",
        "ROOMS",
        "SUBSCRIBERS",
        "STATUS",
        "VERSION",
        "AGE",
    ];
    ensure!(header == names, "the columns are {header:?}");
    ensure!(row.len() == names.len(), "a column is empty: {row:?}");
    ensure!(row[..2] == ["demo", url], "{row:?}");
    ensure!(row[2] == row[3], "not all nodes are ready: {row:?}");
    ensure!(row[4..7] == ["0", "0", "0"], "nodes leave or there are rooms: {row:?}");
    Ok(())
}

fn owned_objects(namespace: &Namespace) -> Result<String> {
    namespace.kubectl().args(["get", OWNED_KINDS, "--ignore-not-found", "-o", "name"]).read()
}
