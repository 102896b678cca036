//! Clients of the control plane under test, and what all tests need in it.

use std::io::Write as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crds::generated;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Patch, PatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::conditions::is_crd_established;
use kube::runtime::wait::await_condition;
use kube::{Api, Client, Config};
use serde_json::{Value, json};
use tokio::sync::OnceCell;

const DIRECTORY: &str = "LIVECLUSTER_CONTROL_PLANE";
const DEFINITION: &str = "liveclusters.livecluster.dev";

/// Kubernetes nodes that all tests share.
pub const HOSTS: [&str; 3] = ["host-a", "host-b", "host-c"];

/// Longest wait for anything, on a machine that does much else.
const PATIENCE: Duration = Duration::from_secs(120);

static PREPARED: OnceCell<()> = OnceCell::const_new();

/// Says something past the test harness, which would swallow it.
pub fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Waits for what somebody else does.
pub async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let start = Instant::now();
    while !holds().await {
        assert!(start.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// A file of the control plane; `None` where there is none.
pub fn file(name: &str) -> Option<PathBuf> {
    let Some(directory) = std::env::var_os(DIRECTORY) else {
        say(&format!("skipped: {DIRECTORY} is not set"));
        return None;
    };
    Some(PathBuf::from(directory).join(name))
}

/// How the API is reached; `None` where there is no control plane.
pub async fn config() -> Option<Config> {
    let kubeconfig = Kubeconfig::read_from(file("admin.kubeconfig")?).unwrap();
    let options = KubeConfigOptions::default();
    let config = Config::from_custom_kubeconfig(kubeconfig, &options).await.unwrap();
    let client = Client::try_from(config.clone()).unwrap();
    PREPARED.get_or_init(|| prepare(client)).await;
    Some(config)
}

/// Installs the definition and the Kubernetes nodes.
async fn prepare(client: Client) {
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    let definition: Value = serde_saphyr::from_str(&generated::manifest().unwrap()).unwrap();
    let params = PatchParams::apply("operator-test");
    definitions.patch(DEFINITION, &params, &Patch::Apply(&definition)).await.unwrap();
    let hosts: Api<Node> = Api::all(client);
    for (number, name) in HOSTS.iter().enumerate() {
        let zone = json!({"topology.kubernetes.io/zone": format!("zone-{number}")});
        let host = json!({"apiVersion": "v1", "kind": "Node",
            "metadata": {"name": name, "labels": zone}});
        hosts.patch(name, &params, &Patch::Apply(&host)).await.unwrap();
        let address = format!("192.0.2.{}", number + 1);
        let status = json!({"status": {
            "addresses": [{"type": "ExternalIP", "address": address}],
            "conditions": [{"type": "Ready", "status": "True"}],
        }});
        hosts.patch_status(name, &PatchParams::default(), &Patch::Merge(&status)).await.unwrap();
    }
    await_condition(definitions, DEFINITION, is_crd_established()).await.unwrap();
}
