//! Watches LiveClusters and what belongs to them, and starts reconciles.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crds::{LiveCluster, names};
use futures::StreamExt as _;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ConfigMap, Node, PersistentVolumeClaim, Pod, Service};
use k8s_openapi::api::networking::v1::{Ingress, NetworkPolicy};
use k8s_openapi::jiff::Timestamp;
use kube::runtime::controller::{Action, Config};
use kube::runtime::events::{Recorder, Reporter};
use kube::runtime::reflector::{self, ObjectRef};
use kube::runtime::{Controller, WatchStreamExt as _, watcher};
use kube::{Api, Client, Resource, ResourceExt as _};
use thiserror::Error;
use tokio::sync::watch;
use tracing::{info, warn};

use crate::admin::Admin;
use crate::args::RunOptions;
use crate::cluster::apply::AppliedCache;
use crate::cluster::autoscaling::Histories;
use crate::cluster::looks::Looks;
use crate::cluster::nodes::Hosts;
use crate::cluster::poll::Poller;
use crate::cluster::validate::Images;
use crate::cluster::{self, ReconcileError};
use crate::leader::{Election, Fence};
use crate::metrics::{Metrics, Outcome};
use crate::metrics_api::registration::Registrar;
use crate::metrics_api::{self, Registration, ServeError};
use crate::ownership::own_lease;

/// Reconciles at the same time; each holds a few objects and makes a few requests.
const CONCURRENCY: u16 = 8;
/// Events of an object within this time make one reconcile.
const DEBOUNCE: Duration = Duration::from_millis(200);
/// First wait after a failure; it doubles with each further one.
const FIRST_BACKOFF: Duration = Duration::from_secs(1);
/// Longest wait after a failure.
const MAX_BACKOFF: Duration = Duration::from_secs(120);

/// Why the operator ends.
#[derive(Debug, Error)]
pub enum RunError {
    /// No API server is configured.
    #[error("failed to make a client of the Kubernetes API")]
    Client(#[source] Box<kube::Error>),
    /// The CustomResourceDefinition is missing, or may not be read.
    #[error("failed to list LiveClusters; is the CustomResourceDefinition installed?")]
    List(#[source] Box<kube::Error>),
    /// Metrics clash.
    #[error("failed to register metrics")]
    Metrics(#[from] prometheus::Error),
    /// The admin port is taken.
    #[error("failed to serve the admin port")]
    Admin(#[source] std::io::Error),
    /// The port of the metrics API is taken.
    #[error("failed to serve the metrics API")]
    MetricsApi(#[from] ServeError),
}

/// Tells the time.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// What every reconcile needs.
pub struct Context {
    /// Client of the Kubernetes API.
    pub client: Client,
    /// Publishes Events.
    pub recorder: Recorder,
    /// Images that a LiveCluster need not name.
    pub images: Images,
    /// Kubernetes nodes.
    pub hosts: Hosts,
    /// Reads the media nodes' metrics.
    pub poller: Poller,
    /// What was applied last.
    pub applied: AppliedCache,
    /// What was found last.
    pub looks: Looks,
    /// What the built-in scaler remembers.
    pub histories: Histories,
    /// What became of the metrics API.
    pub metrics_api: watch::Receiver<Registration>,
    /// Tells the time of a look.
    pub clock: Clock,
    /// The operator's own metrics.
    pub metrics: Metrics,
    failures: Mutex<HashMap<ObjectRef<LiveCluster>, u32>>,
}

impl Context {
    /// Makes a context; `hosts` are those of [`watch_hosts`], where they may be seen.
    #[must_use]
    pub fn new(client: Client, images: Images, hosts: Hosts, metrics: Metrics) -> Self {
        let reporter = Reporter { controller: names::MANAGER.to_owned(), instance: hostname() };
        Self {
            recorder: Recorder::new(client.clone(), reporter),
            client,
            images,
            hosts,
            poller: Poller::default(),
            applied: AppliedCache::default(),
            looks: Looks::default(),
            histories: Histories::default(),
            // A receiver keeps its last value when nobody sends any more.
            metrics_api: watch::channel(Registration::Off).1,
            clock: Arc::new(Timestamp::now),
            metrics,
            failures: Mutex::default(),
        }
    }

    /// Counts a failure and returns how long to wait.
    fn backoff(&self, object: ObjectRef<LiveCluster>) -> Duration {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        let count = failures.entry(object).or_default();
        let wait = FIRST_BACKOFF.saturating_mul(1 << (*count).min(10));
        *count = count.saturating_add(1);
        wait.min(MAX_BACKOFF)
    }

    fn succeeded(&self, object: &ObjectRef<LiveCluster>) {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner).remove(object);
    }
}

fn hostname() -> Option<String> {
    std::env::var("POD_NAME").or_else(|_| std::env::var("HOSTNAME")).ok()
}

/// Runs until a signal, the loss of the lead, or an error.
pub async fn run(options: RunOptions) -> Result<(), RunError> {
    let (client, leading, fence) = clients().await.map_err(|e| RunError::Client(Box::new(e)))?;
    let metrics = Metrics::new()?;
    let admin = Admin::new(metrics.clone());
    let hosts = if options.read_nodes { watch_hosts(client.clone()) } else { Hosts::Unseen };
    let mut serving =
        tokio::spawn(serve(admin.clone(), client.clone(), options.clone(), hosts.clone()));
    // Without it the Lease outlives the operator, which harms nobody.
    if let Err(error) = own_lease(&client, &options.lease_namespace).await {
        warn!(%error, "The Lease belongs to nobody");
    }
    let clusters = namespaced::<LiveCluster>(&client, &options);
    clusters.list(&Default::default()).await.map_err(|e| RunError::List(Box::new(e)))?;
    admin.set_ready();

    let identity = options.identity.clone().or_else(hostname);
    let identity = identity.unwrap_or_else(|| names::MANAGER.to_owned());
    let mut election = Election::new(client, &options.lease_namespace, &identity, fence);
    tokio::select! {
        () = election.won() => info!(%identity, "This operator leads"),
        result = &mut serving => return serving_ended(result),
        () = signalled() => { election.leave().await; return Ok(()); }
    }
    metrics.set_leader(true);
    tokio::select! {
        () = lead(leading, options, hosts, metrics.clone()) => {}
        () = election.lost() => warn!("Another operator leads"),
        result = &mut serving => return serving_ended(result),
        () = signalled() => info!("Ending by signal"),
    }
    metrics.set_leader(false);
    election.leave().await;
    Ok(())
}

/// A client for everybody, and one of which writes go out only while this operator leads.
async fn clients() -> Result<(Client, Client, Fence), kube::Error> {
    let config = kube::Config::infer().await.map_err(kube::Error::InferConfig)?;
    let fence = Fence::default();
    let leading = fence.client(&config)?;
    Ok((Client::try_from(config)?, leading, fence))
}

/// Serves the admin port and the metrics API, whether this operator leads or not.
async fn serve(
    admin: Admin,
    client: Client,
    options: RunOptions,
    hosts: Hosts,
) -> Result<(), RunError> {
    let answer = async {
        match options.metrics_api() {
            Some(settings) => Ok(metrics_api::serve(client, settings, hosts).await?),
            None => std::future::pending().await,
        }
    };
    let port = options.admin_port;
    let admin = async { admin.serve(port).await.map_err(RunError::Admin) };
    futures::try_join!(admin, answer).map(|((), ())| ())
}

fn serving_ended(
    result: Result<Result<(), RunError>, tokio::task::JoinError>,
) -> Result<(), RunError> {
    result.unwrap_or_else(|error| Err(RunError::Admin(std::io::Error::other(error))))
}

/// What only one operator does.
async fn lead(client: Client, options: RunOptions, hosts: Hosts, metrics: Metrics) {
    let settings = options.metrics_api();
    let first = if settings.is_some() { Registration::Unknown } else { Registration::Off };
    let (report, registration) = watch::channel(first);
    let registrar = settings.map(|settings| Registrar::new(client.clone(), settings, report));
    if let Some(registrar) = &registrar {
        // Who scales is known before anybody is told to.
        registrar.look().await;
    }
    let register = async {
        match registrar {
            Some(registrar) => registrar.run().await,
            None => std::future::pending().await,
        }
    };
    let images = Images {
        sfu: options.sfu_image.clone(),
        turn: options.turn_image.clone(),
        redis: options.redis_image.clone(),
    };
    let context = Context {
        metrics_api: registration,
        ..Context::new(client.clone(), images, hosts, metrics)
    };
    tokio::select! {
        () = control(client, options, context) => {}
        () = register => {}
    }
}

/// Ends with SIGTERM or SIGINT.
async fn signalled() {
    use tokio::signal::unix::{SignalKind, signal};
    let Ok(mut term) = signal(SignalKind::terminate()) else { return };
    tokio::select! {
        _ = term.recv() => {}
        _ = tokio::signal::ctrl_c() => {}
    }
}

fn namespaced<K>(client: &Client, options: &RunOptions) -> Api<K>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
{
    match &options.watch_namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    }
}

/// Keeps the Kubernetes nodes, without what we do not read; ends only with the task.
pub fn watch_hosts(client: Client) -> Hosts {
    let (reader, writer) = reflector::store();
    let stream = watcher(Api::<Node>::all(client), watcher::Config::default())
        .default_backoff()
        .modify(|node| {
            node.managed_fields_mut().clear();
            if let Some(status) = &mut node.status {
                status.images = None;
            }
        })
        .reflect(writer)
        .touched_objects();
    tokio::spawn(async move {
        let mut stream = std::pin::pin!(stream);
        while let Some(event) = stream.next().await {
            if let Err(error) = event {
                warn!(%error, "Watching Kubernetes nodes failed");
            }
        }
    });
    Hosts::Watched(reader)
}

/// Runs the controller.
async fn control(client: Client, options: RunOptions, context: Context) {
    let context = Arc::new(context);
    let ours =
        watcher::Config::default().labels(&format!("{}={}", names::MANAGED_BY, names::MANAGER));
    let controller = Controller::new(namespaced(&client, &options), watcher::Config::default())
        .with_config(Config::default().concurrency(CONCURRENCY).debounce(DEBOUNCE));
    controller
        .watches(namespaced::<Pod>(&client, &options), ours.clone(), seen(&context))
        .watches(namespaced::<ConfigMap>(&client, &options), ours.clone(), touched(&context))
        .watches(namespaced::<Service>(&client, &options), ours.clone(), touched(&context))
        .watches(
            namespaced::<PersistentVolumeClaim>(&client, &options),
            ours.clone(),
            touched(&context),
        )
        .watches(namespaced::<StatefulSet>(&client, &options), ours.clone(), touched(&context))
        .watches(namespaced::<NetworkPolicy>(&client, &options), ours.clone(), touched(&context))
        // Not those of which Kubernetes changes the status all the time: the budget of evictions and
        // the HorizontalPodAutoscaler are written again when their time has come.
        .watches(namespaced::<Ingress>(&client, &options), ours, touched(&context))
        .run(reconcile, error_policy, context)
        .for_each(|result| async move {
            if let Err(error) = result {
                warn!(%error, "Reconcile not done");
            }
        })
        .await;
}

/// The LiveCluster that an object belongs to.
fn owner<K: Resource>(object: &K) -> Option<ObjectRef<LiveCluster>> {
    let meta = object.meta();
    let owner = meta.owner_references.iter().flatten().find(|owner| {
        owner.controller == Some(true) && owner.kind == LiveCluster::kind(&()).as_ref()
    })?;
    Some(ObjectRef::new(&owner.name).within(meta.namespace.as_deref()?))
}

/// A media pod changed: the next reconcile reads all of them.
fn seen<K: Resource>(
    context: &Arc<Context>,
) -> impl Fn(K) -> Option<ObjectRef<LiveCluster>> + Send + Sync + 'static {
    let context = Arc::clone(context);
    move |object| {
        let owner = owner(&object)?;
        context.looks.forget(&owner);
        Some(owner)
    }
}

/// Somebody changed an object of ours: the next reconcile writes all of them anew.
fn touched<K: Resource>(
    context: &Arc<Context>,
) -> impl Fn(K) -> Option<ObjectRef<LiveCluster>> + Send + Sync + 'static {
    let context = Arc::clone(context);
    move |object| {
        let owner = owner(&object)?;
        context.applied.forget(&owner);
        context.looks.forget(&owner);
        Some(owner)
    }
}

async fn reconcile(
    object: Arc<LiveCluster>,
    context: Arc<Context>,
) -> Result<Action, Arc<ReconcileError>> {
    let start = Instant::now();
    let result = cluster::reconcile(&object, &context).await;
    let outcome = match &result {
        Ok(report) => report.outcome,
        Err(_) => Outcome::Failed,
    };
    context.metrics.reconciled(outcome, start.elapsed().as_secs_f64());
    match result {
        Ok(report) => {
            context.succeeded(&ObjectRef::from_obj(&object));
            Ok(Action::requeue(report.again_in))
        }
        Err(error) => Err(Arc::new(error)),
    }
}

fn error_policy(
    object: Arc<LiveCluster>,
    error: &Arc<ReconcileError>,
    context: Arc<Context>,
) -> Action {
    let reference = ObjectRef::from_obj(&*object);
    let wait = context.backoff(reference);
    let error: &dyn std::error::Error = error.as_ref();
    let causes = std::iter::successors(error.source(), |cause| cause.source())
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(": ");
    warn!(
        namespace = object.namespace().unwrap_or_default(),
        name = object.name_any(),
        %error,
        causes,
        wait_ms = wait.as_millis(),
        "Reconcile failed"
    );
    Action::requeue(wait)
}
