//! Who asks: the API server vouches for its users by headers, and for itself by a certificate
//! ("front proxy"). What it needs for that is in a ConfigMap that every cluster has.

use std::collections::BTreeMap;

use axum::http::HeaderMap;
use futures::StreamExt as _;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client};
use thiserror::Error;
use tokio::sync::watch;
use tracing::warn;

/// Namespace of the ConfigMap.
const NAMESPACE: &str = "kube-system";
/// Name of the ConfigMap.
const NAME: &str = "extension-apiserver-authentication";

/// Whom the API server lets speak for its users.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trust {
    /// Certificates of the authorities, PEM.
    pub authorities: String,
    /// Common names of the certificates that may vouch; any, if there is none.
    pub names: Vec<String>,
    /// Headers with the name of the user.
    pub user_headers: Vec<String>,
    /// Headers with the user's groups.
    pub group_headers: Vec<String>,
    /// Prefixes of headers with more about the user.
    pub extra_prefixes: Vec<String>,
}

/// Why nobody can be trusted.
#[derive(Debug, Error)]
pub enum TrustError {
    /// The API server does not vouch for anybody.
    #[error("the ConfigMap {NAMESPACE}/{NAME} has no {0}")]
    Missing(&'static str),
    /// An entry is no list.
    #[error("{entry} of the ConfigMap {NAMESPACE}/{NAME} is no list of texts")]
    Malformed {
        /// The entry.
        entry: &'static str,
        /// Why.
        source: serde_json::Error,
    },
}

/// A user for whom the API server vouches.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct User {
    /// Its name.
    pub name: String,
    /// Its groups, in order.
    pub groups: Vec<String>,
    /// What else is known, such as the UID of the pod of a service account.
    pub extra: BTreeMap<String, Vec<String>>,
}

impl Trust {
    /// Reads the ConfigMap.
    pub fn read(map: &ConfigMap) -> Result<Self, TrustError> {
        let entry = |name: &'static str| map.data.as_ref().and_then(|data| data.get(name));
        let list = |name: &'static str| match entry(name) {
            None => Ok(Vec::new()),
            Some(text) => serde_json::from_str::<Vec<String>>(text)
                .map_err(|source| TrustError::Malformed { entry: name, source }),
        };
        const AUTHORITIES: &str = "requestheader-client-ca-file";
        const USERS: &str = "requestheader-username-headers";
        let trust = Self {
            authorities: entry(AUTHORITIES).ok_or(TrustError::Missing(AUTHORITIES))?.clone(),
            names: list("requestheader-allowed-names")?,
            user_headers: list(USERS)?,
            group_headers: list("requestheader-group-headers")?,
            extra_prefixes: list("requestheader-extra-headers-prefix")?,
        };
        if trust.user_headers.is_empty() { Err(TrustError::Missing(USERS)) } else { Ok(trust) }
    }

    /// Whether a certificate of this common name may vouch for users. Its signature has been
    /// checked before.
    #[must_use]
    pub fn may_vouch(&self, common_name: &str) -> bool {
        self.names.is_empty() || self.names.iter().any(|name| name == common_name)
    }

    /// The user that the headers are about; `None` when they name none.
    #[must_use]
    pub fn user(&self, headers: &HeaderMap) -> Option<User> {
        let all = |names: &[String]| -> Vec<String> {
            let values = names.iter().flat_map(|name| headers.get_all(name.as_str()));
            values.filter_map(|value| value.to_str().ok()).map(str::to_owned).collect()
        };
        let name = all(&self.user_headers).into_iter().find(|name| !name.is_empty())?;
        let mut extra: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (header, value) in headers {
            let header = header.as_str();
            let key = self.extra_prefixes.iter().find_map(|prefix| {
                let (start, key) = header.split_at_checked(prefix.len())?;
                start.eq_ignore_ascii_case(prefix).then(|| percent_decoded(key))
            });
            if let (Some(key), Ok(value)) = (key, value.to_str()) {
                extra.entry(key).or_default().push(value.to_owned());
            }
        }
        Some(User { name, groups: all(&self.group_headers), extra })
    }
}

/// Keys in names of headers are escaped: they may have a slash.
fn percent_decoded(key: &str) -> String {
    let mut bytes = Vec::with_capacity(key.len());
    let mut rest = key.as_bytes();
    while let [first, behind @ ..] = rest {
        let escaped = (*first == b'%').then(|| behind.split_first_chunk::<2>()).flatten();
        let byte = escaped.and_then(|(digits, behind)| {
            let digits = std::str::from_utf8(digits).ok()?;
            Some((u8::from_str_radix(digits, 16).ok()?, behind))
        });
        let (byte, behind) = byte.unwrap_or((*first, behind));
        bytes.push(byte);
        rest = behind;
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Keeps what the ConfigMap says; ends only with the task.
pub async fn watch_trust(client: Client, trust: watch::Sender<Option<Trust>>) {
    let maps: Api<ConfigMap> = Api::namespaced(client, NAMESPACE);
    let stream = watcher::watch_object(maps, NAME).default_backoff();
    let mut stream = std::pin::pin!(stream);
    while let Some(found) = stream.next().await {
        let read = match found {
            Ok(Some(map)) => Trust::read(&map),
            Ok(None) => Err(TrustError::Missing("data")),
            Err(error) => {
                warn!(%error, "Watching {NAMESPACE}/{NAME} failed");
                continue;
            }
        };
        match read {
            Ok(read) => {
                trust.send_replace(Some(read));
            }
            Err(error) => {
                warn!(%error, "Nobody may ask the metrics API");
                trust.send_replace(None);
            }
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use axum::http::{HeaderName, HeaderValue};
    use serde_json::json;

    use super::*;

    /// The ConfigMap as kubeadm's API server writes it.
    pub(crate) fn config_map(authorities: &str) -> ConfigMap {
        serde_json::from_value(json!({"data": {
            "client-ca-file": "another",
            "requestheader-allowed-names": "[\"front-proxy-client\"]",
            "requestheader-client-ca-file": authorities,
            "requestheader-extra-headers-prefix": "[\"X-Remote-Extra-\"]",
            "requestheader-group-headers": "[\"X-Remote-Group\"]",
            "requestheader-username-headers": "[\"X-Remote-User\"]",
        }}))
        .unwrap()
    }

    fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(
                HeaderName::from_bytes(name.as_bytes()).unwrap(),
                HeaderValue::from_str(value).unwrap(),
            );
        }
        headers
    }

    #[test]
    fn the_user_is_read_from_the_headers_that_the_config_map_names() {
        let trust = Trust::read(&config_map("pem")).unwrap();
        let user = trust.user(&headers(&[
            ("x-remote-user", "anna"),
            ("x-remote-group", "staff"),
            ("x-remote-group", "system:authenticated"),
            ("x-remote-extra-authentication.kubernetes.io%2fpod-name", "p"),
            ("x-other", "1"),
        ]));
        let extra = ("authentication.kubernetes.io/pod-name".to_owned(), vec!["p".to_owned()]);
        assert_eq!(
            user.unwrap(),
            User {
                name: "anna".to_owned(),
                groups: vec!["staff".to_owned(), "system:authenticated".to_owned()],
                extra: BTreeMap::from([extra]),
            }
        );
        assert_eq!(trust.user(&headers(&[("x-remote-group", "system:masters")])), None);
    }

    #[test]
    fn only_named_certificates_vouch() {
        let trust = Trust::read(&config_map("pem")).unwrap();
        assert!(trust.may_vouch("front-proxy-client"));
        assert!(!trust.may_vouch("somebody"));
        let anybody = Trust { names: Vec::new(), ..trust };
        assert!(anybody.may_vouch("somebody"));
    }

    #[test]
    fn an_api_server_that_vouches_for_nobody_is_no_proxy() {
        for missing in ["requestheader-client-ca-file", "requestheader-username-headers"] {
            let mut map = config_map("pem");
            map.data.as_mut().unwrap().remove(missing);
            let error = Trust::read(&map).unwrap_err().to_string();
            assert!(error.contains(missing), "{error}");
        }
        let mut map = config_map("pem");
        let data = map.data.as_mut().unwrap();
        data.insert("requestheader-allowed-names".to_owned(), "front-proxy-client".to_owned());
        assert!(matches!(Trust::read(&map), Err(TrustError::Malformed { .. })));
    }

    #[test]
    fn escapes_are_read_and_broken_ones_kept() {
        for (key, expected) in
            [("a%2fb", "a/b"), ("a", "a"), ("a%", "a%"), ("%zz", "%zz"), ("%4", "%4")]
        {
            assert_eq!(percent_decoded(key), expected);
        }
    }
}
