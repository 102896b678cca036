//! Who may read a metric: the API server is asked (SubjectAccessReview) and its answer kept for
//! some seconds.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec,
};
use kube::api::PostParams;
use kube::{Api, Client};

use super::front_proxy::User;
use super::{GROUP, VERSION};

/// How long somebody may read once allowed.
const ALLOWED_FOR: Duration = Duration::from_secs(10);
/// How long somebody who was refused is refused without asking.
const REFUSED_FOR: Duration = Duration::from_secs(5);
/// Answers that are kept; beyond that all are forgotten.
const MAX_KEPT: usize = 1000;

/// What somebody wants to read.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Attributes {
    /// Namespace of the LiveCluster.
    pub namespace: String,
    /// The resource, with its group behind a dot.
    pub resource: String,
    /// Name of the LiveCluster.
    pub name: String,
    /// The metric.
    pub metric: String,
}

/// Decides who may read a metric.
pub trait Access: Send + Sync + 'static {
    /// Whether a user may.
    fn allows(
        &self,
        user: &User,
        attributes: &Attributes,
    ) -> impl Future<Output = Result<bool, Box<kube::Error>>> + Send;
}

/// Asks the API server.
pub struct Reviews {
    client: Client,
    kept: Mutex<Kept>,
}

type Kept = HashMap<(User, Attributes), (bool, Instant)>;

impl Reviews {
    /// Knows nothing yet.
    #[must_use]
    pub fn new(client: Client) -> Self {
        Self { client, kept: Mutex::default() }
    }

    async fn review(&self, user: &User, asked: &Attributes) -> Result<bool, kube::Error> {
        let reviews: Api<SubjectAccessReview> = Api::all(self.client.clone());
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: Some(user.name.clone()),
                groups: Some(user.groups.clone()),
                extra: (!user.extra.is_empty()).then(|| user.extra.clone()),
                resource_attributes: Some(ResourceAttributes {
                    group: Some(GROUP.to_owned()),
                    version: Some(VERSION.to_owned()),
                    namespace: Some(asked.namespace.clone()),
                    resource: Some(asked.resource.clone()),
                    name: Some(asked.name.clone()),
                    subresource: Some(asked.metric.clone()),
                    verb: Some("get".to_owned()),
                    ..ResourceAttributes::default()
                }),
                ..SubjectAccessReviewSpec::default()
            },
            ..SubjectAccessReview::default()
        };
        let answer = reviews.create(&PostParams::default(), &review).await?;
        Ok(answer.status.is_some_and(|status| status.allowed))
    }
}

impl Access for Reviews {
    async fn allows(&self, user: &User, attributes: &Attributes) -> Result<bool, Box<kube::Error>> {
        let key = (user.clone(), attributes.clone());
        if let Some(answer) = recall(&lock(&self.kept), &key, Instant::now()) {
            return Ok(answer);
        }
        let answer = self.review(user, attributes).await.map_err(Box::new)?;
        keep(&mut lock(&self.kept), key, answer, Instant::now());
        Ok(answer)
    }
}

fn lock(kept: &Mutex<Kept>) -> std::sync::MutexGuard<'_, Kept> {
    kept.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An answer that is young enough.
fn recall(kept: &Kept, key: &(User, Attributes), now: Instant) -> Option<bool> {
    let (answer, at) = *kept.get(key)?;
    let holds = if answer { ALLOWED_FOR } else { REFUSED_FOR };
    (now.saturating_duration_since(at) < holds).then_some(answer)
}

fn keep(kept: &mut Kept, key: (User, Attributes), answer: bool, now: Instant) {
    if kept.len() >= MAX_KEPT {
        kept.clear();
    }
    kept.insert(key, (answer, now));
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn key(name: &str) -> (User, Attributes) {
        let (groups, extra) = (Vec::new(), BTreeMap::new());
        let user = User { name: name.to_owned(), groups, extra };
        let text = || "a".to_owned();
        (user, Attributes { namespace: text(), resource: text(), name: text(), metric: text() })
    }

    #[test]
    fn answers_hold_for_their_time_and_for_nobody_else() {
        let (mut kept, start) = (Kept::new(), Instant::now());
        keep(&mut kept, key("anna"), true, start);
        keep(&mut kept, key("bob"), false, start);
        let at = |name, second| recall(&kept, &key(name), start + Duration::from_secs(second));
        assert_eq!([at("anna", 0), at("anna", 9), at("anna", 10)], [Some(true), Some(true), None]);
        assert_eq!([at("bob", 4), at("bob", 5)], [Some(false), None]);
        assert_eq!(at("clara", 0), None);
    }

    #[test]
    fn answers_are_bounded() {
        let mut kept = Kept::new();
        for user in 0..=MAX_KEPT {
            keep(&mut kept, key(&user.to_string()), true, Instant::now());
        }
        assert!(kept.len() <= MAX_KEPT);
    }
}
