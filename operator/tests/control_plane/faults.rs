//! The operator is killed at each of its writes, and another one finishes.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{self, Poll};

use crds::LiveCluster;
use futures::StreamExt as _;
use hyper::{Method, Request};
use k8s_openapi::api::core::v1::Pod;
use kube::api::DeleteParams;
use kube::client::{Body, ClientBuilder};
use kube::{Client, Config};
use serde_json::{Value, json};
use tokio::sync::Notify;
use tower::{BoxError, Layer, Service};

use super::normal::{Objects, difference, objects};
use super::plane;
use super::world::World;

/// Runs at the same time.
const CONCURRENCY: usize = 6;
/// No step takes more writes.
const MAX_WRITES: usize = 200;
/// Looks in which an operator must have made all its writes.
const MAX_LOOKS: usize = 40;

/// What becomes of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The operator is killed before the API server has it.
    Lost,
    /// The operator is killed when the API server has carried it out.
    Unanswered,
    /// The connection breaks; the operator goes on.
    Broken,
}

/// Counts the writes of an operator, and does something to one of them.
#[derive(Debug, Clone)]
pub struct Faults(Arc<State>);

#[derive(Debug)]
struct State {
    requests: AtomicUsize,
    writes: AtomicUsize,
    at: usize,
    fault: Fault,
    struck: Notify,
}

impl Faults {
    pub fn none() -> Self {
        Self::new(usize::MAX, Fault::Lost)
    }

    /// Strikes at this write; the first is 1.
    pub fn new(at: usize, fault: Fault) -> Self {
        let (requests, writes) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Self(Arc::new(State { requests, writes, at, fault, struck: Notify::new() }))
    }

    pub fn client(&self, config: &Config) -> Client {
        ClientBuilder::try_from(config.clone()).unwrap().with_layer(self).build()
    }

    /// Writes so far.
    pub fn writes(&self) -> usize {
        self.0.writes.load(Ordering::SeqCst)
    }

    /// Requests so far.
    pub fn requests(&self) -> usize {
        self.0.requests.load(Ordering::SeqCst)
    }

    fn has_struck(&self) -> bool {
        self.writes() >= self.0.at
    }

    /// Waits until the operator is killed.
    async fn kills(&self) {
        self.0.struck.notified().await;
    }
}

impl<S> Layer<S> for Faults {
    type Service = Faulty<S>;

    fn layer(&self, inner: S) -> Faulty<S> {
        Faulty { inner, faults: self.clone() }
    }
}

pub struct Faulty<S> {
    inner: S,
    faults: Faults,
}

impl<S> Service<Request<Body>> for Faulty<S>
where
    S: Service<Request<Body>, Error = BoxError>,
    S::Response: Send,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, context: &mut task::Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let state = Arc::clone(&self.faults.0);
        state.requests.fetch_add(1, Ordering::SeqCst);
        let strikes = request.method() != Method::GET
            && state.writes.fetch_add(1, Ordering::SeqCst) + 1 == state.at;
        if !strikes {
            return Box::pin(self.inner.call(request));
        }
        let sent = (state.fault == Fault::Unanswered).then(|| self.inner.call(request));
        Box::pin(async move {
            if let Some(answer) = sent {
                // The body of the answer is not read any more.
                let _ = answer.await;
            }
            if state.fault == Fault::Broken {
                return Err("the connection broke".into());
            }
            state.struck.notify_one();
            std::future::pending().await
        })
    }
}

/// A step of a LiveCluster's life: from a `spec` to another; from `null` it is installed.
#[derive(Debug, Clone)]
pub struct Step {
    pub name: &'static str,
    pub before: Value,
    pub after: Value,
}

/// All steps.
pub fn steps() -> [Step; 4] {
    let spec = |nodes: u16, level: &str| json!({"domain": "live.example.com", "nodes": nodes, "log": {"level": level}});
    [
        Step { name: "install", before: Value::Null, after: spec(2, "info") },
        Step { name: "scale-out", before: spec(1, "info"), after: spec(3, "info") },
        Step { name: "scale-in", before: spec(3, "info"), after: spec(1, "info") },
        Step { name: "rollout", before: spec(2, "info"), after: spec(2, "debug") },
    ]
}

/// Goes a step with an operator that is struck, then lets another one finish.
/// `None` where the operator made fewer writes.
async fn go(config: &Config, step: &Step, at: usize, fault: Fault) -> Option<Objects> {
    let world = World::new(config, step.name).await;
    if !step.before.is_null() {
        world.apply(&step.before).await.unwrap();
        world.comes_to_rest().await;
    }
    world.apply(&step.after).await.unwrap();
    let faults = Faults::new(at, fault);
    let operator = world.operator(&faults);
    let found = tokio::select! {
        biased;
        () = faults.kills() => world.comes_to_rest().await,
        found = world.comes_to_rest_by(&operator, &faults) => found,
    };
    world.remove().await;
    faults.has_struck().then_some(found)
}

/// What the step leads to when nothing goes wrong.
async fn undisturbed(config: &Config, step: &Step) -> Objects {
    let world = World::new(config, step.name).await;
    if !step.before.is_null() {
        world.apply(&step.before).await.unwrap();
        world.comes_to_rest().await;
    }
    world.apply(&step.after).await.unwrap();
    let found = world.comes_to_rest().await;
    world.remove().await;
    found
}

/// Strikes at every write of a step, with the faults that are chosen for each; says how many writes
/// there were.
pub async fn strike_everywhere(
    config: &Config,
    step: &Step,
    faults: impl Fn(usize) -> Vec<Fault>,
) -> usize {
    let expected = undisturbed(config, step).await;
    let points = (1..MAX_WRITES).flat_map(|at| faults(at).into_iter().map(move |f| (at, f)));
    let runs = futures::stream::iter(points)
        .map(|(at, fault)| async move { (at, fault, go(config, step, at, fault).await) })
        .buffered(CONCURRENCY);
    let mut runs = std::pin::pin!(runs);
    while let Some((at, fault, found)) = runs.next().await {
        let Some(found) = found else { return at - 1 };
        let difference = difference(&expected, &found);
        let name = step.name;
        assert!(difference.is_empty(), "{name}: write {at} {fault:?}: {difference:#?}");
    }
    panic!("{} never ends", step.name);
}

#[tokio::test]
async fn an_operator_killed_at_any_write_leaves_nothing_that_another_does_not_finish() {
    let Some(config) = plane::config().await else { return };
    let [install, scale_out, ..] = steps();
    // In turns; each fault at each write, and the other steps, are in `long`.
    let alternate =
        |at: usize| vec![if at.is_multiple_of(2) { Fault::Lost } else { Fault::Unanswered }];
    let writes = strike_everywhere(&config, &install, alternate).await;
    assert!(writes >= 15, "install is {writes} writes");
    let writes = strike_everywhere(&config, &scale_out, alternate).await;
    assert!(writes >= 4, "scale-out is {writes} writes");
}

/// Deletes the LiveCluster while the operator is at this write, and lets it go on. Says whether
/// there was such a write.
pub async fn delete_at(config: &Config, at: usize) -> bool {
    let [install, ..] = steps();
    let world = World::new(config, "delete").await;
    world.apply(&install.after).await.unwrap();
    let faults = Faults::new(at, Fault::Lost);
    let operator = world.operator(&faults);
    let mut struck = false;
    for _ in 0..MAX_LOOKS {
        tokio::select! {
            biased;
            () = faults.kills() => { struck = true; break; }
            _ = world.look(&operator) => {}
        }
        world.play_kubelet().await;
    }
    let stale = world.api::<LiveCluster>().get("c").await.unwrap();
    world.api::<LiveCluster>().delete("c", &DeleteParams::background()).await.unwrap();
    // The look that was under way saw the LiveCluster before.
    let operator = world.operator(&Faults::none());
    let _ = operator::cluster::reconcile(&Arc::new(stale), &operator).await;
    let mut left = Objects::new();
    for _ in 0..600 {
        world.play_kubelet().await;
        left = objects(&world.client, &world.namespace).await;
        if left.is_empty() {
            world.remove().await;
            return struck;
        }
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    }
    panic!("deleted at write {at}, this stays: {:?}", left.keys());
}

#[tokio::test]
async fn a_pod_that_is_foreign_is_neither_counted_nor_touched() {
    let Some(config) = plane::config().await else { return };
    let world = World::new(&config, "foreign").await;
    let [install, ..] = steps();
    world.apply(&install.after).await.unwrap();
    let labels = json!({crds::names::CLUSTER: "c", crds::names::SLOT: "1",
        "app.kubernetes.io/component": "node", crds::names::MANAGED_BY: crds::names::MANAGER});
    let foreign = json!({"metadata": {"name": "theirs", "labels": labels,
            "annotations": {crds::names::REVISION: "none"}},
        "spec": {"containers": [{"name": "a", "image": "example.invalid/a:1"}]}});
    let foreign: Pod = serde_json::from_value(foreign).unwrap();
    let made = world.api::<Pod>().create(&Default::default(), &foreign).await.unwrap();
    let found = world.comes_to_rest().await;
    let ours = found.keys().filter(|name| name.starts_with("Pod c-node-")).count();
    assert_eq!(ours, 2, "{:?}", found.keys());
    assert_eq!(found["LiveCluster c"]["status"]["nodes"], 2);
    let same = world.api::<Pod>().get("theirs").await.unwrap();
    assert_eq!(same.metadata.uid, made.metadata.uid);
    assert_eq!(same.metadata.labels, made.metadata.labels);
    world.remove().await;
}
