//! `operator manifests`: what the chart installs by default, for those who use kustomize or plain
//! manifests.

use std::fs;
use std::io;
use std::path::Path;

use thiserror::Error;

/// The objects of the chart without its definition and hooks; a test of the chart keeps them equal.
pub const OPERATOR: &str = include_str!("../manifests/operator.yaml");

/// A base of kustomize.
const KUSTOMIZATION: &str = "\
# Your kustomization names this directory in `resources`, and the namespace: `namespace: live`.
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
resources: [crd.yaml, operator.yaml]
";

/// Why there are no manifests.
#[derive(Debug, Error)]
pub enum ManifestsError {
    /// The definition cannot be written as YAML.
    #[error("failed to write the CustomResourceDefinition as YAML")]
    Definition(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A file cannot be written.
    #[error("failed to write {name}")]
    Write {
        /// Which one.
        name: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// The CustomResourceDefinition as YAML.
///
/// # Errors
///
/// When it cannot be written as YAML, which would be a fault of ours.
pub fn definition() -> Result<String, ManifestsError> {
    crds::generated::manifest().map_err(|error| ManifestsError::Definition(Box::new(error)))
}

/// Everything, as one stream of YAML documents.
///
/// # Errors
///
/// As [`definition`].
pub fn stream() -> Result<String, ManifestsError> {
    Ok(format!("{}---\n{OPERATOR}", definition()?))
}

/// Writes a base of kustomize into a directory, which is made where it is not there.
///
/// # Errors
///
/// With the file that cannot be written.
pub fn write_base(directory: &Path) -> Result<(), ManifestsError> {
    let name = "the directory";
    fs::create_dir_all(directory).map_err(|source| ManifestsError::Write { name, source })?;
    for (name, text) in [
        ("crd.yaml", definition()?.as_str()),
        ("operator.yaml", OPERATOR),
        ("kustomization.yaml", KUSTOMIZATION),
    ] {
        fs::write(directory.join(name), text)
            .map_err(|source| ManifestsError::Write { name, source })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::*;

    #[test]
    fn the_stream_holds_the_definition_and_an_operator_of_this_version() {
        let text = stream().unwrap();
        let documents: Vec<Value> =
            text.split("\n---\n").map(|text| serde_saphyr::from_str(text).unwrap()).collect();
        let kinds: BTreeSet<&str> =
            documents.iter().filter_map(|object| object["kind"].as_str()).collect();
        for kind in ["CustomResourceDefinition", "ClusterRole", "Deployment", "ServiceAccount"] {
            assert!(kinds.contains(kind), "{kinds:?}");
        }
        let deployment = documents.iter().find(|object| object["kind"] == "Deployment").unwrap();
        let image = &deployment["spec"]["template"]["spec"]["containers"][0]["image"];
        assert_eq!(*image, concat!("livecluster/operator:", env!("CARGO_PKG_VERSION")));
    }

    #[test]
    fn a_base_has_every_file_that_it_names() {
        let directory = std::env::temp_dir().join(format!("manifests-{}", std::process::id()));
        write_base(&directory).unwrap();
        let base = fs::read_to_string(directory.join("kustomization.yaml")).unwrap();
        let base: Value = serde_saphyr::from_str(&base).unwrap();
        for name in base["resources"].as_array().unwrap() {
            assert!(directory.join(name.as_str().unwrap()).is_file(), "{name}");
        }
        fs::remove_dir_all(&directory).unwrap();
    }
}
