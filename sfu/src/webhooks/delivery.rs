//! Delivery to one receiver: one event after another, repeated for a bounded time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use contract::access_token::claims;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper::{Request, StatusCode, Uri, header};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio::sync::mpsc;

use super::WebhookError;
use crate::keys::Keys;
use crate::session::now;

/// An event that was not taken for so long is dropped (LiveKit's figure).
const MAX_AGE: Duration = Duration::from_secs(30);
/// Longest wait for an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause before the first repetition; it doubles with each.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(8);
/// Lifetime of a signature.
const TOKEN_LIFETIME: Duration = Duration::from_secs(300);
/// Most bytes of an answer that are read, so that the connection can be used again.
const MAX_ANSWER_BYTES: usize = 64 * 1024;

/// An event on its way.
pub(super) struct Queued {
    pub(super) at: Instant,
    pub(super) event: String,
    pub(super) body: Bytes,
}

/// Sends events to one URL.
pub(super) struct Deliverer {
    url: Uri,
    api_key: Option<String>,
    keys: Arc<Keys>,
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
}

/// What became of one attempt.
enum Attempt {
    Delivered,
    /// May work later.
    Failed(String),
    /// Will never work.
    Refused(StatusCode),
}

impl Deliverer {
    pub(super) fn new(
        url: Uri,
        api_key: Option<String>,
        keys: Arc<Keys>,
    ) -> Result<Self, WebhookError> {
        let connector = HttpsConnectorBuilder::new()
            .with_provider_and_native_roots(rustls::crypto::ring::default_provider())
            .map_err(WebhookError::Authorities)?
            .https_or_http()
            .enable_http1()
            .build();
        let client = Client::builder(TokioExecutor::new()).build(connector);
        Ok(Self { url, api_key, keys, client })
    }

    /// Delivers until the room is over and its queue empty.
    pub(super) async fn run(self: Arc<Self>, mut events: mpsc::Receiver<Queued>) {
        while let Some(queued) = events.recv().await {
            self.deliver(queued).await;
        }
    }

    async fn deliver(&self, queued: Queued) {
        let mut pause = FIRST_PAUSE;
        loop {
            let reason = match self.attempt(&queued.body).await {
                Attempt::Delivered => return,
                Attempt::Refused(status) => format!("the receiver answered {status}"),
                Attempt::Failed(_) if queued.at.elapsed() + pause < MAX_AGE => {
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                    continue;
                }
                Attempt::Failed(reason) => reason,
            };
            let host = self.url.host();
            return tracing::warn!(host, event = queued.event, reason, "Webhook not delivered");
        }
    }

    async fn attempt(&self, body: &Bytes) -> Attempt {
        let request = match self.request(body) {
            Ok(request) => request,
            Err(reason) => return Attempt::Failed(reason),
        };
        match tokio::time::timeout(ANSWER_TIMEOUT, self.send(request)).await {
            Ok(Ok(status)) if status.is_success() => Attempt::Delivered,
            Ok(Ok(status)) if may_recover(status) => Attempt::Failed(status.to_string()),
            Ok(Ok(status)) => Attempt::Refused(status),
            Ok(Err(error)) => Attempt::Failed(error.to_string()),
            Err(_) => Attempt::Failed("no answer in time".to_owned()),
        }
    }

    async fn send(
        &self,
        request: Request<Full<Bytes>>,
    ) -> Result<StatusCode, hyper_util::client::legacy::Error> {
        let response = self.client.request(request).await?;
        let status = response.status();
        let body = http_body_util::Limited::new(response.into_body(), MAX_ANSWER_BYTES);
        // What it says does not matter, nor whether it says it all.
        let _answer = body.collect().await;
        Ok(status)
    }

    /// Signed anew with every attempt: signatures are valid for minutes only.
    fn request(&self, body: &Bytes) -> Result<Request<Full<Bytes>>, String> {
        let unix_time = Duration::from_millis(now().unix_ms);
        let mut claims = claims("", unix_time, TOKEN_LIFETIME);
        claims.sha256 = openssl::base64::encode_block(&openssl::sha::sha256(body));
        claims.iss = self.api_key.clone().unwrap_or_default();
        let token = self.keys.sign(claims).map_err(|error| error.to_string())?;
        Request::post(&self.url)
            .header(header::CONTENT_TYPE, "application/webhook+json")
            .header(header::USER_AGENT, "LiveKit")
            .header(header::AUTHORIZATION, token)
            .body(Full::new(body.clone()))
            .map_err(|error| error.to_string())
    }
}

/// Whether the same request may be taken later.
fn may_recover(status: StatusCode) -> bool {
    status.is_server_error()
        || status == StatusCode::TOO_MANY_REQUESTS
        || status == StatusCode::REQUEST_TIMEOUT
}
