//! Paths of the API: the list of what there is, and one metric of one LiveCluster. Everything else
//! is not needed by a HorizontalPodAutoscaler and does not exist.

use std::sync::Arc;

use axum::Json;
use axum::Router;
use axum::extract::{Path, Query, Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use crds::LiveCluster;
use kube::Resource as _;
use serde::Deserialize;
use serde_json::json;
use tracing::{debug, warn};

use super::access::{Access, Attributes};
use super::front_proxy::Trust;
use super::values::{Figures, Value, ValueError};
use super::{GROUP, Metric, VERSION};

/// Who decides, and who knows.
#[derive(Debug)]
pub struct Api<A, F> {
    /// Decides who may read.
    pub access: A,
    /// Knows the metrics.
    pub values: F,
}

/// Who is at the other end of a connection.
#[derive(Debug, Clone)]
pub struct Caller {
    /// Common name of its certificate, whose signature has been checked; `None` without one.
    pub common_name: Option<String>,
    /// Whom to trust.
    pub trust: Arc<Trust>,
}

struct Shared<A, F> {
    api: Arc<Api<A, F>>,
    caller: Caller,
}

impl<A, F> Clone for Shared<A, F> {
    fn clone(&self) -> Self {
        Self { api: Arc::clone(&self.api), caller: self.caller.clone() }
    }
}

/// What a connection can ask for.
pub fn router<A: Access, F: Figures>(api: Arc<Api<A, F>>, caller: Caller) -> Router {
    let root = format!("/apis/{GROUP}/{VERSION}");
    let metric = format!("{root}/namespaces/{{namespace}}/{{resource}}/{{name}}/{{metric}}");
    let shared = Shared { api, caller };
    Router::new()
        // Never anything about the user here: discovery comes without groups, which no rule allows.
        .route(&root, get(list))
        .route(&metric, get(read::<A, F>))
        .fallback(|| async { refusal(StatusCode::NOT_FOUND, "NotFound", "there is nothing here") })
        .layer(middleware::from_fn_with_state(shared.clone(), only_the_front_proxy))
        .with_state(shared)
}

/// Headers about users are worth nothing from anybody but the API server.
async fn only_the_front_proxy<A: Access, F: Figures>(
    State(shared): State<Shared<A, F>>,
    request: Request,
    next: Next,
) -> Response {
    let Caller { common_name, trust } = &shared.caller;
    if common_name.as_ref().is_some_and(|name| trust.may_vouch(name)) {
        next.run(request).await
    } else {
        let message = "only the API server may ask, on behalf of its users";
        refusal(StatusCode::UNAUTHORIZED, "Unauthorized", message)
    }
}

/// The resource as the API names it: with its group.
fn resource() -> String {
    format!("{}.{}", LiveCluster::plural(&()), LiveCluster::group(&()))
}

async fn list() -> Json<serde_json::Value> {
    let resources = Metric::ALL.map(|metric| {
        json!({
            "name": format!("{}/{}", resource(), metric.as_str()),
            "singularName": "",
            "namespaced": true,
            "kind": "MetricValueList",
            "verbs": ["get"],
        })
    });
    Json(json!({
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": format!("{GROUP}/{VERSION}"),
        "resources": resources,
    }))
}

/// A metric's path.
#[derive(Debug, Deserialize)]
struct MetricPath {
    namespace: String,
    resource: String,
    name: String,
    metric: String,
}

/// What may follow a metric's path.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct MetricQuery {
    #[serde(default)]
    metric_label_selector: String,
}

async fn read<A: Access, F: Figures>(
    State(shared): State<Shared<A, F>>,
    Path(path): Path<MetricPath>,
    Query(query): Query<MetricQuery>,
    headers: HeaderMap,
) -> Response {
    let Some(user) = shared.caller.trust.user(&headers) else {
        return refusal(StatusCode::UNAUTHORIZED, "Unauthorized", "the request names no user");
    };
    let MetricPath { namespace, resource: kind, name, metric } = path;
    let asked = Attributes { namespace, resource: kind, name, metric };
    match shared.api.access.allows(&user, &asked).await {
        Ok(true) => {}
        Ok(false) => {
            let message = format!("{} may not get {} of {}", user.name, asked.metric, asked.name);
            return refusal(StatusCode::FORBIDDEN, "Forbidden", &message);
        }
        Err(error) => {
            warn!(%error, "The API server does not say who may read metrics");
            let message = "the API server does not say whether that is allowed";
            return refusal(StatusCode::INTERNAL_SERVER_ERROR, "InternalError", message);
        }
    }
    let known = Metric::parse(&asked.metric).filter(|_| asked.resource == resource());
    let Some(metric) = known else {
        let message = format!("{} have no metric {}", asked.resource, asked.metric);
        return refusal(StatusCode::NOT_FOUND, "NotFound", &message);
    };
    if !query.metric_label_selector.is_empty() {
        let message = "the metrics have no labels";
        return refusal(StatusCode::BAD_REQUEST, "BadRequest", message);
    }
    match shared.api.values.value(&asked.namespace, &asked.name, metric).await {
        Ok(value) => values(&asked, metric, &value),
        Err(error) => unknown(&error),
    }
}

/// A list of exactly one, as the client demands.
fn values(asked: &Attributes, metric: Metric, value: &Value) -> Response {
    let list = json!({
        "kind": "MetricValueList",
        "apiVersion": format!("{GROUP}/{VERSION}"),
        "metadata": {},
        "items": [{
            "describedObject": {
                "kind": LiveCluster::kind(&()),
                "namespace": asked.namespace,
                "name": asked.name,
                "apiVersion": LiveCluster::api_version(&()),
            },
            "metric": {"name": metric.as_str(), "selector": null},
            // Whole seconds, as all times of the API.
            "timestamp": value.at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
            "value": value.quantity,
        }],
    });
    Json(list).into_response()
}

fn unknown(error: &ValueError) -> Response {
    debug!(error = error as &dyn std::error::Error, "Metric not told");
    let message = error.to_string();
    match error {
        ValueError::NotFound { .. } => refusal(StatusCode::NOT_FOUND, "NotFound", &message),
        ValueError::Incomplete { .. } | ValueError::Invalid(_) => {
            refusal(StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable", &message)
        }
        ValueError::Read(_) | ValueError::Pods(_) => {
            refusal(StatusCode::INTERNAL_SERVER_ERROR, "InternalError", &message)
        }
    }
}

/// An error as Kubernetes tells it.
fn refusal(code: StatusCode, reason: &str, message: &str) -> Response {
    let status = json!({
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": message,
        "reason": reason,
        "code": code.as_u16(),
    });
    (code, Json(status)).into_response()
}
