//! What the leader writes passes here, and nothing else does once another may lead.

use std::sync::{Arc, Mutex, PoisonError};
use std::task::{self, Poll};
use std::time::Duration;

use futures::future::{Either, Ready, ready};
use hyper::{Method, Request};
use kube::client::Body;
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
}
