//! Tells the API server where the metrics API is, unless somebody else serves it.

use std::time::Duration;

use crds::names;
use k8s_openapi::ByteString;
use k8s_openapi::api::rbac::v1::ClusterRole;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use k8s_openapi::jiff::Timestamp;
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::{
    APIService, APIServiceSpec, ServiceReference,
};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, Preconditions};
use kube::{Api, Client, Resource as _, ResourceExt as _};
use thiserror::Error;
use tokio::sync::watch;
use tracing::{info, warn};

use super::certificates::{self, CertificateError};
use super::{GROUP, Registration, Settings, VERSION};

/// Port of the Service.
pub const SERVICE_PORT: i32 = 443;
/// Time between two looks at who serves the group.
const PERIOD: Duration = Duration::from_secs(10);
/// Order among groups and among versions; nothing depends on it, since we are the only ones.
const PRIORITY: i32 = 100;

/// Why the API could not be registered.
#[derive(Debug, Error)]
pub enum RegistrationError {
    /// The registrations could not be read.
    #[error("failed to read {0}")]
    Read(&'static str, #[source] Box<kube::Error>),
    /// Ours could not be written.
    #[error("failed to write the APIService")]
    Write(#[source] Box<kube::Error>),
    /// There is no certificate.
    #[error("there is no certificate")]
    Certificate(#[from] CertificateError),
}

/// Keeps the registration. For the operator that leads.
pub struct Registrar {
    client: Client,
    settings: Settings,
    report: watch::Sender<Registration>,
}

impl Registrar {
    /// Reports by this channel.
    #[must_use]
    pub fn new(client: Client, settings: Settings, report: watch::Sender<Registration>) -> Self {
        Self { client, settings, report }
    }

    /// Looks again and again; ends only with the task.
    pub async fn run(self) {
        loop {
            tokio::time::sleep(PERIOD).await;
            self.look().await;
        }
    }

    /// Looks once, does what is to be done and reports it; what fails is done at the next look.
    pub async fn look(&self) {
        match self.register().await {
            Ok(registration) => {
                self.report.send_if_modified(|current| {
                    if *current == registration {
                        return false;
                    }
                    info!(?registration, "Metrics API");
                    *current = registration;
                    true
                });
            }
            Err(error) => warn!(error = &error as &dyn std::error::Error, "Metrics API"),
        }
    }

    async fn register(&self) -> Result<Registration, RegistrationError> {
        let services: Api<APIService> = Api::all(self.client.clone());
        let found = services.list(&ListParams::default()).await;
        let found = found.map_err(|e| RegistrationError::Read("APIServices", Box::new(e)))?.items;
        let ours = found.iter().find(|service| is_ours(service, &self.settings));
        if let Some(service) = foreign_owner(&found, &self.settings) {
            if let Some(ours) = ours {
                self.withdraw(&services, ours).await?;
            }
            return Ok(Registration::Foreign { service });
        }
        let owners: Api<ClusterRole> = Api::all(self.client.clone());
        let owner = owners.get_metadata_opt(&self.settings.owner).await;
        let owner = owner.map_err(|e| RegistrationError::Read("the ClusterRole", Box::new(e)))?;
        let Some(owner) = owner.and_then(|owner| owner.uid()) else {
            // The release is being uninstalled.
            return Ok(Registration::Off);
        };
        let owner = owner_reference(&self.settings, &owner);
        let now = Timestamp::now();
        let bundle = certificates::keep(&self.client, &self.settings, &owner, now).await?;
        let wanted = api_service(&self.settings, &owner, &bundle);
        if !ours.is_some_and(|ours| is_as_wanted(ours, &wanted)) {
            let params = PatchParams::apply(names::MANAGER).force();
            let written = services.patch(&name(), &params, &Patch::Apply(&wanted)).await;
            written.map_err(|e| RegistrationError::Write(Box::new(e)))?;
        }
        Ok(ours.map_or(Registration::Unknown, availability))
    }

    async fn withdraw(
        &self,
        services: &Api<APIService>,
        ours: &APIService,
    ) -> Result<(), RegistrationError> {
        let only_this = Preconditions { uid: ours.uid(), resource_version: None };
        let params = DeleteParams::default().preconditions(only_this);
        match services.delete(&ours.name_any(), &params).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(s)) if s.is_not_found() || s.is_conflict() => Ok(()),
            Err(error) => Err(RegistrationError::Write(Box::new(error))),
        }
    }
}

/// Name of the registration.
fn name() -> String {
    format!("{VERSION}.{GROUP}")
}

/// It leads to our Service.
fn is_ours(found: &APIService, settings: &Settings) -> bool {
    let service = found.spec.as_ref().and_then(|spec| spec.service.as_ref());
    found.name_any() == name()
        && service.is_some_and(|service| {
            service.namespace.as_deref() == Some(&settings.namespace)
                && service.name.as_deref() == Some(&settings.service)
        })
}

/// Who else serves a version of the group. Two cannot share it, not even by versions: the API
/// server prefers one for all HorizontalPodAutoscalers of the cluster.
fn foreign_owner(found: &[APIService], settings: &Settings) -> Option<String> {
    let in_group = |service: &&APIService| {
        service.spec.as_ref().is_some_and(|spec| spec.group.as_deref() == Some(GROUP))
    };
    let mut others = found.iter().filter(in_group).filter(|other| !is_ours(other, settings));
    let other = others.next()?;
    let service = other.spec.as_ref().and_then(|spec| spec.service.as_ref());
    Some(match service {
        Some(service) => format!(
            "the Service {}/{}",
            service.namespace.as_deref().unwrap_or_default(),
            service.name.as_deref().unwrap_or_default()
        ),
        None => format!("the APIService {}", other.name_any()),
    })
}

/// The ClusterRole with which all of it goes.
fn owner_reference(settings: &Settings, uid: &str) -> OwnerReference {
    OwnerReference {
        api_version: ClusterRole::api_version(&()).into_owned(),
        kind: ClusterRole::kind(&()).into_owned(),
        name: settings.owner.clone(),
        uid: uid.to_owned(),
        ..OwnerReference::default()
    }
}

fn api_service(settings: &Settings, owner: &OwnerReference, bundle: &str) -> APIService {
    APIService {
        metadata: ObjectMeta {
            name: Some(name()),
            labels: Some([(names::MANAGED_BY.to_owned(), names::MANAGER.to_owned())].into()),
            owner_references: Some(vec![owner.clone()]),
            ..ObjectMeta::default()
        },
        spec: Some(APIServiceSpec {
            ca_bundle: Some(ByteString(bundle.as_bytes().to_vec())),
            group: Some(GROUP.to_owned()),
            version: Some(VERSION.to_owned()),
            group_priority_minimum: PRIORITY,
            version_priority: PRIORITY,
            service: Some(ServiceReference {
                namespace: Some(settings.namespace.clone()),
                name: Some(settings.service.clone()),
                port: Some(SERVICE_PORT),
            }),
            insecure_skip_tls_verify: None,
        }),
        status: None,
    }
}

fn is_as_wanted(found: &APIService, wanted: &APIService) -> bool {
    let verified = |service: &APIService| {
        let mut spec = service.spec.clone();
        if let Some(spec) = &mut spec {
            // The API server writes the default.
            spec.insecure_skip_tls_verify = spec.insecure_skip_tls_verify.filter(|skip| *skip);
        }
        spec
    };
    let owners = |service: &APIService| -> Vec<String> {
        service.owner_references().iter().map(|owner| owner.uid.clone()).collect()
    };
    verified(found) == verified(wanted) && owners(found) == owners(wanted)
}

/// What the API server says of the registration.
fn availability(ours: &APIService) -> Registration {
    let conditions = ours.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let available = conditions.into_iter().find(|condition| condition.type_ == "Available");
    match available {
        None => Registration::Unknown,
        Some(condition) => Registration::Ours {
            available: condition.status == "True",
            message: match condition.status.as_str() {
                "True" => String::new(),
                _ => condition.message.clone().unwrap_or_default(),
            },
        },
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of_uid(uid: &str, bundle: &str) -> APIService {
        api_service(&settings(), &owner_reference(&settings(), uid), bundle)
    }

    fn settings() -> Settings {
        Settings {
            namespace: "livecluster-system".to_owned(),
            service: "livecluster-metrics-api".to_owned(),
            owner: "livecluster-metrics-api".to_owned(),
            port: 8443,
        }
    }

    fn registered(group: &str, version: &str, service: Option<(&str, &str)>) -> APIService {
        let service = service
            .map(|(namespace, name)| json!({"namespace": namespace, "name": name, "port": 443}));
        serde_json::from_value(json!({
            "metadata": {"name": format!("{version}.{group}"), "uid": "u"},
            "spec": {"group": group, "version": version, "service": service,
                "groupPriorityMinimum": 1, "versionPriority": 1},
        }))
        .unwrap()
    }

    #[test]
    fn another_owner_of_any_version_is_found() {
        let ours =
            || registered(GROUP, VERSION, Some(("livecluster-system", "livecluster-metrics-api")));
        let adapter = |version| registered(GROUP, version, Some(("monitoring", "adapter")));
        let external = registered("external.metrics.k8s.io", "v1beta1", Some(("keda", "keda")));
        let adapter_name = Some("the Service monitoring/adapter");
        let cases = [
            (vec![], None),
            (vec![ours()], None),
            (vec![ours(), external], None),
            (vec![adapter(VERSION)], adapter_name),
            (vec![adapter("v1beta1")], adapter_name),
            (vec![ours(), adapter("v1beta1")], adapter_name),
            (
                vec![registered(GROUP, "v1beta1", None)],
                Some("the APIService v1beta1.custom.metrics.k8s.io"),
            ),
            (
                vec![registered(GROUP, VERSION, Some(("other", "livecluster-metrics-api")))],
                Some("the Service other/livecluster-metrics-api"),
            ),
        ];
        for (found, expected) in cases {
            assert_eq!(foreign_owner(&found, &settings()).as_deref(), expected, "{found:?}");
        }
    }

    #[test]
    fn it_is_written_again_only_when_it_differs() {
        let wanted = of_uid("uid", "pem");
        assert!(is_ours(&wanted, &settings()));
        let mut stored = wanted.clone();
        stored.spec.as_mut().unwrap().insecure_skip_tls_verify = Some(false);
        assert!(is_as_wanted(&stored, &wanted), "the API server wrote a default");
        assert!(!is_as_wanted(&stored, &of_uid("uid", "pem pem")));
        assert!(!is_as_wanted(&stored, &of_uid("another", "pem")));
        stored.spec.as_mut().unwrap().insecure_skip_tls_verify = Some(true);
        assert!(!is_as_wanted(&stored, &wanted), "nobody may take the check away");
    }

    #[test]
    fn the_api_server_says_whether_it_reaches_us() {
        let mut service = of_uid("uid", "pem");
        assert_eq!(availability(&service), Registration::Unknown);
        for (status, message) in [("True", ""), ("False", "no endpoints")] {
            service.status = serde_json::from_value(json!({"conditions": [
                {"type": "Available", "status": status, "message": "no endpoints"},
            ]}))
            .unwrap();
            let (available, message) = (status == "True", message.to_owned());
            assert_eq!(availability(&service), Registration::Ours { available, message });
        }
    }
}
