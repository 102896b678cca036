//! The API over real TLS, with the certificates of an API server and of others.

use axum::body::Body;
use http_body_util::BodyExt as _;
use hyper::{Method, Request, StatusCode};
use k8s_openapi::jiff::Timestamp;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use serde_json::Value as Json;
use tokio_rustls::TlsConnector;

use super::*;
use crate::cluster::authority::{new_authority, new_certificate};
use crate::metrics_api::Metric;
use crate::metrics_api::access::Attributes;
use crate::metrics_api::front_proxy::User;
use crate::metrics_api::front_proxy::tests::config_map;
use crate::metrics_api::values::{Value, ValueError};

const HOST: &str = "metrics.ns.svc";
const LIST: &str = "/apis/custom.metrics.k8s.io/v1beta2";
const AUTOSCALER: &str = "system:serviceaccount:kube-system:horizontal-pod-autoscaler";

type Headers<'a> = &'a [(&'a str, &'a str)];

/// Allows the autoscaler everything and others nothing.
struct AutoscalerOnly;

impl Access for AutoscalerOnly {
    async fn allows(&self, user: &User, _: &Attributes) -> Result<bool, Box<kube::Error>> {
        Ok(user.name == AUTOSCALER)
    }
}

/// Knows one LiveCluster with a silent node, `demo`, and nothing of others.
struct Demo;

impl Figures for Demo {
    async fn value(
        &self,
        namespace: &str,
        name: &str,
        metric: Metric,
    ) -> Result<Value, ValueError> {
        let (namespace, name) = (namespace.to_owned(), name.to_owned());
        match (name.as_str(), metric) {
            ("demo", Metric::Rooms) => Ok(Value {
                quantity: "45".to_owned(),
                at: Timestamp::from_millisecond(1_800_000_000_900).unwrap(),
            }),
            ("demo", _) => Err(ValueError::Incomplete { namespace, name }),
            _ => Err(ValueError::NotFound { namespace, name }),
        }
    }
}

/// An authority that signs for the API server.
struct Authority {
    pem: String,
    key: KeyPair,
    params: CertificateParams,
}

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        Self { pem, key, params }
    }

    fn client(&self, common_name: &str) -> Certified {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, common_name);
        let issuer = Issuer::from_params(&self.params, &self.key);
        let certificate = params.signed_by(&key, &issuer).unwrap().pem();
        Certified { certificate, key: key.serialize_pem() }
    }
}

/// A server, and what is needed to ask it.
struct Scene {
    address: std::net::SocketAddr,
    proxy: Authority,
    /// The server's authority.
    root: Certified,
    certificate: watch::Sender<Option<Arc<Certified>>>,
    trust: watch::Sender<Option<Trust>>,
}

impl Scene {
    async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (proxy, root) = (Authority::new(), new_authority("root", Timestamp::now()).unwrap());
        let leaf = new_certificate(&root, HOST, Timestamp::now()).unwrap();
        let (certificate, certified) = watch::channel(Some(Arc::new(leaf)));
        let (trust, trusted) = watch::channel(Trust::read(&config_map(&proxy.pem)).ok());
        let api = Arc::new(Api { access: AutoscalerOnly, values: Demo });
        tokio::spawn(serve(listener, certified, trusted, api));
        Self { address, proxy, root, certificate, trust }
    }

    fn front_proxy(&self) -> Certified {
        self.proxy.client("front-proxy-client")
    }

    /// Asks with a client certificate, trusting these authorities; status and body.
    async fn ask_trusting(
        &self,
        roots: &str,
        client: Option<&Certified>,
        path: &str,
        headers: Headers<'_>,
    ) -> Result<(StatusCode, Json), String> {
        let mut store = RootCertStore::empty();
        for root in CertificateDer::pem_slice_iter(roots.as_bytes()) {
            store.add(root.unwrap()).unwrap();
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(store);
        let config = match client {
            None => config.with_no_client_auth(),
            Some(client) => config
                .with_client_auth_cert(
                    vec![CertificateDer::from_pem_slice(client.certificate.as_bytes()).unwrap()],
                    PrivateKeyDer::from_pem_slice(client.key.as_bytes()).unwrap(),
                )
                .unwrap(),
        };
        let stream = TcpStream::connect(self.address).await.map_err(|e| e.to_string())?;
        let name = ServerName::try_from(HOST).unwrap();
        let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await;
        let stream = TokioIo::new(stream.map_err(|error| error.to_string())?);
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(stream).await.map_err(|e| e.to_string())?;
        tokio::spawn(connection);
        let mut request = Request::builder().method(Method::GET).uri(path).header("host", HOST);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Body::empty()).unwrap();
        let answer = sender.send_request(request).await.map_err(|error| error.to_string())?;
        let status = answer.status();
        let body = answer.into_body().collect().await.map_err(|e| e.to_string())?.to_bytes();
        Ok((status, serde_json::from_slice(&body).unwrap()))
    }

    async fn ask(
        &self,
        client: Option<&Certified>,
        path: &str,
        headers: Headers<'_>,
    ) -> Result<(StatusCode, Json), String> {
        self.ask_trusting(&self.root.certificate, client, path, headers).await
    }
}

fn metric(name: &str, metric: &str) -> String {
    format!("{LIST}/namespaces/rooms/liveclusters.livecluster.dev/{name}/{metric}")
}

#[tokio::test]
async fn discovery_is_for_everybody_for_whom_the_api_server_vouches() {
    let scene = Scene::new().await;
    let proxy = scene.front_proxy();
    // As legacy discovery asks: a user without groups, or nobody at all.
    for headers in [&[("x-remote-user", "system:kube-aggregator")][..], &[]] {
        let (status, list) = scene.ask(Some(&proxy), LIST, headers).await.unwrap();
        assert_eq!(status, StatusCode::OK);
        assert_eq!(list["kind"], "APIResourceList");
        assert_eq!(list["groupVersion"], "custom.metrics.k8s.io/v1beta2");
        let names = list["resources"].as_array().unwrap().iter().map(|r| r["name"].as_str());
        let names: Vec<_> = names.map(Option::unwrap).collect();
        assert_eq!(
            names,
            ["rooms", "room-slots", "subscribers", "load"]
                .map(|name| format!("liveclusters.livecluster.dev/{name}"))
        );
    }
    let (status, _) = scene.ask(Some(&proxy), "/apis", &[]).await.unwrap();
    assert_eq!(status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn headers_of_anybody_else_are_worth_nothing() {
    let scene = Scene::new().await;
    let admin = [("x-remote-user", AUTOSCALER), ("x-remote-group", "system:masters")];
    let somebody = scene.proxy.client("somebody");
    for client in [None, Some(&somebody)] {
        for path in [LIST, &metric("demo", "rooms")] {
            let (status, body) = scene.ask(client, path, &admin).await.unwrap();
            assert_eq!(status, StatusCode::UNAUTHORIZED, "{path}");
            assert_eq!(body["reason"], "Unauthorized");
        }
    }
    // Who signs by himself does not come as far as a request.
    let forger = Authority::new().client("front-proxy-client");
    scene.ask(Some(&forger), LIST, &admin).await.unwrap_err();
}

#[tokio::test]
async fn metrics_are_told_to_those_who_may() {
    let scene = Scene::new().await;
    let proxy = scene.front_proxy();
    let autoscaler = [("x-remote-user", AUTOSCALER)];
    let anna = [("x-remote-user", "anna")];
    let selector = format!("{}?metricLabelSelector=a%3Db", metric("demo", "rooms"));
    let cases: [(&str, Headers<'_>, u16); 8] = [
        (&metric("demo", "rooms"), &autoscaler, 200),
        (&format!("{}?metricLabelSelector=", metric("demo", "rooms")), &autoscaler, 200),
        (&metric("demo", "rooms"), &anna, 403),
        (&metric("demo", "rooms"), &[], 401),
        (&metric("demo", "load"), &autoscaler, 503),
        (&metric("other", "rooms"), &autoscaler, 404),
        (&metric("demo", "temperature"), &autoscaler, 404),
        (&selector, &autoscaler, 400),
    ];
    for (path, headers, expected) in cases {
        let (status, body) = scene.ask(Some(&proxy), path, headers).await.unwrap();
        assert_eq!(status.as_u16(), expected, "{path} {headers:?}: {body}");
        if expected != 200 {
            assert_eq!((&body["kind"], &body["code"]), (&"Status".into(), &expected.into()));
        }
    }
    let path = metric("demo", "rooms").replace("liveclusters.livecluster.dev", "pods");
    let (status, _) = scene.ask(Some(&proxy), &path, &autoscaler).await.unwrap();
    assert_eq!(status, StatusCode::NOT_FOUND);

    let (_, list) = scene.ask(Some(&proxy), &metric("demo", "rooms"), &autoscaler).await.unwrap();
    let expected = serde_json::json!({
        "kind": "MetricValueList",
        "apiVersion": "custom.metrics.k8s.io/v1beta2",
        "metadata": {},
        "items": [{
            "describedObject": {
                "kind": "LiveCluster",
                "namespace": "rooms",
                "name": "demo",
                "apiVersion": "livecluster.dev/v1alpha1",
            },
            "metric": {"name": "rooms", "selector": null},
            "timestamp": "2027-01-15T08:00:00Z",
            "value": "45",
        }],
    });
    assert_eq!(list, expected);
}

#[tokio::test]
async fn certificates_and_trust_change_without_a_restart() {
    let scene = Scene::new().await;
    let before = scene.front_proxy();
    scene.ask(Some(&before), LIST, &[]).await.unwrap();

    // Another authority signs for us.
    let root = new_authority("another", Timestamp::now()).unwrap();
    let leaf = new_certificate(&root, HOST, Timestamp::now()).unwrap();
    scene.certificate.send_replace(Some(Arc::new(leaf)));
    scene.ask(Some(&before), LIST, &[]).await.unwrap_err();
    let roots = format!("{}{}", scene.root.certificate, root.certificate);
    scene.ask_trusting(&roots, Some(&before), LIST, &[]).await.unwrap();

    // Another authority signs for the API server.
    let proxy = Authority::new();
    scene.trust.send_replace(Trust::read(&config_map(&proxy.pem)).ok());
    scene.ask_trusting(&roots, Some(&before), LIST, &[]).await.unwrap_err();
    let after = proxy.client("front-proxy-client");
    let (status, _) = scene.ask_trusting(&roots, Some(&after), LIST, &[]).await.unwrap();
    assert_eq!(status, StatusCode::OK);

    // Nobody is to be trusted.
    scene.trust.send_replace(None);
    scene.ask_trusting(&roots, Some(&after), LIST, &[]).await.unwrap_err();
}
