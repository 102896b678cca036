//! Does a LiveCluster become ready as the README says, and does deleting it leave nothing?

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e::live_cluster::{READY_TIMEOUT, condition};
use e2e::namespace::Namespace;
use e2e::process::Run as _;
use e2e::release;
use e2e::repository;
use e2e::stage::say;
use e2e::wait::eventually;

/// Everything that a LiveCluster can own.
const OWNED_KINDS: &str = "livecluster,pods,services,ingresses,secrets,configmaps,statefulsets,\
    poddisruptionbudgets,horizontalpodautoscalers";
/// Time until the garbage collector is through.
const DELETE_TIMEOUT: Duration = Duration::from_secs(120);

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

/// `NAME URL NODES READY ROOMS SUBSCRIBERS STATUS AGE`
fn columns_are_filled(table: &str, url: &str) -> Result<()> {
    let mut lines = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let header = lines.next().unwrap_or_default();
    let row = lines.next().unwrap_or_default();
    let names = ["NAME", "URL", "NODES", "READY", "ROOMS", "SUBSCRIBERS", "STATUS", "AGE"];
    ensure!(header == names, "the columns are {header:?}");
    ensure!(row.len() == names.len(), "a column is empty: {row:?}");
    ensure!(row[..2] == ["demo", url], "{row:?}");
    ensure!(row[2] == row[3], "not all nodes are ready: {row:?}");
    ensure!(row[4..6] == ["0", "0"], "there are rooms: {row:?}");
    Ok(())
}

fn owned_objects(namespace: &Namespace) -> Result<String> {
    namespace.kubectl().args(["get", OWNED_KINDS, "--ignore-not-found", "-o", "name"]).read()
}
