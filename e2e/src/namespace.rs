//! Objects of the Kubernetes API, by `kubectl` as a user would.

use std::process::Command;

use anyhow::{Context as _, Result};
use crds::names;
use serde_json::Value;

use crate::cluster::Cluster;
use crate::process::Run as _;

/// Lines of a container's log in a diagnosis.
const LOG_LINES: &str = "--tail=60";

/// The objects of one namespace.
#[derive(Clone, Debug)]
pub struct Namespace {
    cluster: Cluster,
    name: String,
}

impl Namespace {
    /// The namespace of this name, whether it exists or not.
    #[must_use]
    pub fn new(cluster: &Cluster, name: &str) -> Self {
        Self { cluster: cluster.clone(), name: name.to_owned() }
    }

    /// Makes the namespace anew, with the label that lets pods open ports of their node.
    pub fn create(&self) -> Result<()> {
        let object = serde_json::json!({
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {
                "name": self.name,
                "labels": { "pod-security.kubernetes.io/enforce": "privileged" },
            },
        });
        self.delete()?;
        self.apply(&object)
    }

    /// Deletes the namespace with all it holds and waits until it is gone.
    pub fn delete(&self) -> Result<()> {
        let arguments = ["delete", "namespace", &self.name, "--ignore-not-found", "--timeout=2m"];
        self.cluster.kubectl().args(arguments).run()
    }

    /// Begins to delete the namespace.
    pub fn abandon(&self) -> Result<()> {
        let arguments = ["delete", "namespace", &self.name, "--ignore-not-found", "--wait=false"];
        self.cluster.kubectl().args(arguments).run()
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Starts a `kubectl` command for the namespace.
    #[must_use]
    pub fn kubectl(&self) -> Command {
        let mut command = self.cluster.kubectl();
        command.args(["--namespace", &self.name]);
        command
    }

    /// Applies an object.
    pub fn apply(&self, object: &Value) -> Result<()> {
        let text = object.to_string();
        self.kubectl().args(["apply", "-f", "-"]).read_with_input(text.as_bytes()).map(drop)
    }

    /// Returns an object.
    pub fn get(&self, kind: &str, name: &str) -> Result<Value> {
        self.json(&["get", kind, name])
    }

    /// Returns the objects of a kind that a selector finds.
    pub fn list(&self, kind: &str, selector: &str) -> Result<Vec<Value>> {
        let mut list = self.json(&["get", kind, "--selector", selector])?;
        let items = list.get_mut("items").and_then(Value::as_array_mut);
        items.map(std::mem::take).with_context(|| format!("kubectl returned no list of {kind}"))
    }

    /// Returns a page that a pod serves on a port of its own.
    pub fn page(&self, pod: &str, port: u16, path: &str) -> Result<String> {
        let path = format!("/api/v1/namespaces/{}/pods/{pod}:{port}/proxy{path}", self.name);
        self.cluster.kubectl().args(["get", "--raw", &path]).read()
    }

    /// Describes what is in the namespace, for a person who looks for the cause of a failure.
    #[must_use]
    pub fn diagnosis(&self) -> String {
        let sections: [&[&str]; 4] = [
            &["get", "livecluster,pods,services,ingresses", "-o", "wide"],
            &["get", "livecluster", "-o", "jsonpath={.items[*].status}"],
            &["get", "events", "--sort-by=.lastTimestamp"],
            &["logs", "--selector", names::MANAGED_BY, "--all-containers", "--prefix", LOG_LINES],
        ];
        let texts = sections.map(|arguments| {
            let text = self.kubectl().args(arguments).read();
            format!(
                "--- {}\n{}",
                arguments.join(" "),
                text.unwrap_or_else(|error| format!("{error:#}"))
            )
        });
        texts.join("\n")
    }

    fn json(&self, arguments: &[&str]) -> Result<Value> {
        let text = self.kubectl().args(arguments).args(["-o", "json"]).read()?;
        serde_json::from_str(&text).context("kubectl returned no JSON")
    }
}
