//! Every property of the specification, as the schema lists them, is walked through its values: unset,
//! least, greatest, each word, and back. After each step everything must be as if the LiveCluster had
//! been installed that way. Values that are wrong are refused by the name of the property.

use crds::LiveCluster;
use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{DynamicObject, PostParams};
use kube::core::ApiResource;
use kube::{Api, Client, Config};
use serde_json::{Value, json};

use super::super::normal::difference;
use super::super::plane;
use super::super::values::{self, Property};
use super::super::world::World;

/// Properties that are walked at the same time.
const CONCURRENCY: usize = 5;

/// A namespace with all Secrets that values name.
async fn world(config: &Config) -> World {
    let mut world = World::new(config, "walk").await;
    // Pods that never start are replaced in their slots, as a fresh installation has them.
    world.has_kubelet = false;
    let secret = |name: &str, data: Value| {
        let secret = json!({"metadata": {"name": name}, "stringData": data});
        serde_json::from_value::<Secret>(secret).unwrap()
    };
    let secrets = [
        secret("keys", json!({"keys.yaml": "devkey: a-secret-of-some-length-and-then-some\n"})),
        secret("token", json!({"token": "a-bearer-token"})),
        secret("redis", json!({"password": "word", "ca.crt": "a certificate"})),
        secret("certificate", json!({"tls.crt": "a certificate", "tls.key": "a key"})),
    ];
    for secret in &secrets {
        world.api::<Secret>().create(&PostParams::default(), secret).await.unwrap();
    }
    world
}

/// Walks a property; says what is not as it must be.
async fn walk(config: &Config, property: &Property) -> Result<(), String> {
    let path = &property.path;
    let walked = world(config).await;
    let base = values::surroundings(path);
    let refused = |spec: &Value, error: kube::Error| format!("{path}: {spec} is refused: {error}");
    walked.apply(&base).await.map_err(|error| refused(&base, error))?;
    let installed = walked.comes_to_rest().await;
    for spec in values::good(property) {
        walked.apply(&spec).await.map_err(|error| refused(&spec, error))?;
        let found = walked.comes_to_rest().await;
        let fresh = world(config).await;
        fresh.apply(&spec).await.map_err(|error| refused(&spec, error))?;
        let expected = fresh.comes_to_rest().await;
        fresh.remove().await;
        let differs = difference(&expected, &found);
        if !differs.is_empty() {
            return Err(format!("{path}: {spec} differs from a fresh one: {differs:#?}"));
        }
    }
    walked.apply(&base).await.map_err(|error| refused(&base, error))?;
    let differs = difference(&installed, &walked.comes_to_rest().await);
    walked.remove().await;
    if differs.is_empty() { Ok(()) } else { Err(format!("{path}: not back: {differs:#?}")) }
}

#[tokio::test]
async fn every_property_leads_to_what_a_fresh_installation_has_and_back() {
    let Some(config) = plane::config().await else { return };
    let properties = values::properties();
    assert!(properties.len() > 80, "{}", properties.len());
    let walks = futures::stream::iter(&properties).map(|property| walk(&config, property));
    let walked: Vec<_> = walks.buffer_unordered(CONCURRENCY).collect().await;
    let wrong: Vec<_> = walked.into_iter().filter_map(Result::err).collect();
    assert!(wrong.is_empty(), "{} properties: {}", wrong.len(), wrong.join("\n"));
}

async fn refusal(client: &Client, spec: &Value) -> Option<String> {
    let resource = ApiResource::erase::<LiveCluster>(&());
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), "default", &resource);
    let object = json!({"apiVersion": "livecluster.dev/v1alpha1", "kind": "LiveCluster",
        "metadata": {"name": "wrong"}, "spec": spec});
    let params = PostParams { dry_run: true, field_manager: None };
    match api.create(&params, &serde_json::from_value(object).unwrap()).await {
        Ok(_) => None,
        Err(kube::Error::Api(status)) => Some(status.message),
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test]
async fn every_wrong_value_is_refused_by_the_name_of_its_property() {
    let Some(config) = plane::config().await else { return };
    let client = Client::try_from(config).unwrap();
    for property in values::properties() {
        let path = &property.path;
        let base = values::surroundings(path);
        assert_eq!(refusal(&client, &base).await, None, "{path}: {base}");
        let wrong = values::wrong(&property);
        assert!(!wrong.is_empty(), "{path}: nothing is wrong");
        for spec in wrong {
            let message = refusal(&client, &spec).await;
            let message = message.unwrap_or_else(|| panic!("{path}: {spec} was taken"));
            assert!(message.contains(path.as_str()), "{path}: {spec}: {message}");
        }
    }
}
