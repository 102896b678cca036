//! The chart, installed once for all tests of a run.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};

use crate::artifact_cache;
use crate::cluster::Cluster;
use crate::process::Run as _;
use crate::repository;
use crate::stage::stage;

/// Name of the release.
pub const NAME: &str = "livecluster";
/// Where the operator runs.
pub const NAMESPACE: &str = "livecluster-system";
/// Time until the operator is ready.
const TIMEOUT: &str = "3m";

/// Time for a LiveCluster and a call, as Helm takes it.
const TEST_TIMEOUT: &str = "5m";

/// Returns the cluster with the chart installed, as the README says.
///
/// A release that is there is brought up to date, so that any test may be the first.
pub fn install() -> Result<Cluster> {
    let cluster = Cluster::attach()?;
    let _lock = artifact_cache::lock(&artifact_cache::state_directory()?, "release")?;
    stage("helm install", || deploy(&cluster, &chart(), ""))?;
    Ok(cluster)
}

/// The chart of this repository.
#[must_use]
pub fn chart() -> PathBuf {
    repository().join("charts/livecluster")
}

/// Installs a chart, or upgrades to it; `values` go beyond those of every test, as `a=1,b=2`.
pub fn deploy(cluster: &Cluster, chart: &Path, values: &str) -> Result<()> {
    let mut helm = cluster.helm();
    helm.args(["upgrade", "--install", NAME]).arg(chart).args([
        "--namespace",
        NAMESPACE,
        "--create-namespace",
        "--wait",
        "--timeout",
        TIMEOUT,
        // Kubernetes's autoscaler asks the operators: one answers while the other starts anew.
        "--set",
        "metricsAPI.enabled=true,replicas=2",
        // The chart owns the definition, whichever test applied it first.
        "--force-conflicts",
    ]);
    if !values.is_empty() {
        helm.args(["--set", values]);
    }
    helm.run().with_context(|| format!("installing {}", chart.display()))
}

/// Runs `helm test`, which must say that a call worked.
pub fn test(cluster: &Cluster) -> Result<()> {
    let output = cluster
        .helm()
        .args(["test", NAME, "--namespace", NAMESPACE, "--timeout", TEST_TIMEOUT])
        .output()
        .context("running helm")?;
    // Helm writes the logs of tests to its standard error.
    let told = [output.stdout, output.stderr].concat();
    let told = String::from_utf8_lossy(&told);
    let worked = output.status.success() && told.contains("Both heard and read each other");
    ensure!(worked, "helm test says:\n{told}");
    Ok(())
}

/// Restarts the operator if it is there: a loaded image keeps its tag when its content changes.
pub fn restart(cluster: &Cluster) -> Result<()> {
    let in_namespace = ["--namespace", NAMESPACE];
    let names =
        cluster.kubectl().args(in_namespace).args(["get", "deployments", "-o", "name"]).read()?;
    if names.trim().is_empty() {
        return Ok(());
    }
    cluster
        .kubectl()
        .args(in_namespace)
        .args(["rollout", "restart"])
        .args(names.lines())
        .run()
        .context("restarting the operator")
}
