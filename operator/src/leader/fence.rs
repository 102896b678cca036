//! What the leader writes passes here, and nothing else does once another may lead.

use std::sync::{Arc, Mutex, PoisonError};
use std::task::{self, Poll};
use std::time::Duration;

use futures::future::{Either, Ready, ready};
use hyper::{Method, Request};
use kube::client::{Body, ClientBuilder};
use kube::{Client, Config};
use rustix::time::{ClockId, clock_gettime};
use thiserror::Error;
use tower::{BoxError, Layer, Service};

/// A write was not sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("another operator may lead by now")]
pub struct NotLeading;

/// Lets writes through until a time. That a process was stopped, or its machine slept, changes
/// nothing: the clock went on.
#[derive(Debug, Clone)]
pub struct Fence {
    until: Arc<Mutex<Duration>>,
    clock: fn() -> Duration,
}

impl Default for Fence {
    fn default() -> Self {
        Self::new(boot_time)
    }
}

impl Fence {
    /// Closed, by this clock.
    #[must_use]
    pub fn new(clock: fn() -> Duration) -> Self {
        Self { until: Arc::default(), clock }
    }

    pub(super) fn now(&self) -> Duration {
        (self.clock)()
    }

    /// Writes may be sent until then.
    pub(super) fn open_until(&self, until: Duration) {
        *self.until.lock().unwrap_or_else(PoisonError::into_inner) = until;
    }

    pub(super) fn close(&self) {
        self.open_until(Duration::ZERO);
    }

    /// A client of which each write passes here whenever it is sent. It tries none again by itself: the
    /// second time it would be sent without having been asked for, maybe by who was stopped meanwhile.
    pub fn client(&self, config: &Config) -> Result<Client, kube::Error> {
        let mut once = config.clone();
        once.default_retry = false;
        Ok(ClientBuilder::try_from(once)?.with_layer(self).build())
    }

    /// Whether writes may be sent.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.now() < *self.until.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Time since boot, suspension included.
fn boot_time() -> Duration {
    let time = clock_gettime(ClockId::Boottime);
    Duration::new(
        u64::try_from(time.tv_sec).unwrap_or_default(),
        u32::try_from(time.tv_nsec).unwrap_or_default(),
    )
}

impl<S> Layer<S> for Fence {
    type Service = Fenced<S>;

    fn layer(&self, inner: S) -> Fenced<S> {
        Fenced { inner, fence: self.clone() }
    }
}

/// Sends what the [`Fence`] lets through.
#[derive(Debug, Clone)]
pub struct Fenced<S> {
    inner: S,
    fence: Fence,
}

impl<S> Service<Request<Body>> for Fenced<S>
where
    S: Service<Request<Body>, Error = BoxError>,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = Either<S::Future, Ready<Result<S::Response, BoxError>>>;

    fn poll_ready(&mut self, context: &mut task::Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let reads = request.method() == Method::GET;
        if reads || self.fence.is_open() {
            Either::Left(self.inner.call(request))
        } else {
            Either::Right(ready(Err(NotLeading.into())))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use k8s_openapi::api::core::v1::ConfigMap;
    use kube::Api;
    use kube::api::DeleteParams;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    /// Answers what it was asked.
    struct Echo;

    impl Service<Request<Body>> for Echo {
        type Response = Method;
        type Error = BoxError;
        type Future = Ready<Result<Method, BoxError>>;

        fn poll_ready(&mut self, _: &mut task::Context<'_>) -> Poll<Result<(), BoxError>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, request: Request<Body>) -> Self::Future {
            ready(Ok(request.method().clone()))
        }
    }

    async fn passes(fence: &Fence, method: &Method) -> bool {
        let request = Request::builder().method(method).body(Body::empty()).unwrap();
        match fence.layer(Echo).call(request).await {
            Ok(answer) => answer == *method,
            Err(error) => {
                assert!(error.is::<NotLeading>(), "{error}");
                false
            }
        }
    }

    #[tokio::test]
    async fn writes_pass_while_nobody_else_may_lead_and_reads_always() {
        let writes = [Method::POST, Method::PUT, Method::PATCH, Method::DELETE];
        let fence = Fence::new(|| Duration::from_secs(100));
        for (until, expected) in [(0, false), (100, false), (101, true), (99, false)] {
            fence.open_until(Duration::from_secs(until));
            for method in &writes {
                assert_eq!(passes(&fence, method).await, expected, "{method} until {until}");
            }
            assert!(passes(&fence, &Method::GET).await);
        }
    }

    #[test]
    fn a_fence_is_closed_at_first_and_when_it_is_closed() {
        let fence = Fence::default();
        assert!(!fence.is_open());
        fence.open_until(fence.now() + Duration::from_secs(60));
        assert!(fence.is_open());
        fence.close();
        assert!(!fence.is_open());
    }

    #[tokio::test]
    async fn a_write_that_the_api_server_wants_later_is_sent_once() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let config =
            Config::new(format!("http://{}", listener.local_addr().unwrap()).parse().unwrap());
        let requests = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&requests);
        let busy = r#"{"kind":"Status","status":"Failure","message":"later","code":429}"#;
        let answer = format!(
            "HTTP/1.1 429 Too Many Requests\r\nretry-after: 1\r\nconnection: close\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n{busy}",
            busy.len()
        );
        tokio::spawn(async move {
            loop {
                let (mut connection, _) = listener.accept().await.unwrap();
                let mut request = [0; 4096];
                let _ = connection.read(&mut request).await;
                counted.fetch_add(1, Ordering::SeqCst);
                let _ = connection.write_all(answer.as_bytes()).await;
            }
        });
        let fence = Fence::default();
        fence.open_until(Duration::MAX);
        let maps: Api<ConfigMap> = Api::namespaced(fence.client(&config).unwrap(), "rooms");
        let refused = maps.delete("a", &DeleteParams::default()).await.unwrap_err();
        assert!(matches!(&refused, kube::Error::Api(status) if status.code == 429), "{refused}");
        assert_eq!(requests.load(Ordering::SeqCst), 1);
    }
}
