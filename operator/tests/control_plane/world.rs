//! A namespace with a LiveCluster, in which the test plays scheduler, kubelet and media nodes, and
//! starts operators one after the other.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicI64, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use crds::{LiveCluster, names};
use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::core::ApiResource;
use kube::runtime::reflector::{ObjectRef, Store};
use kube::{Api, Client, Config, ResourceExt as _};
use operator::cluster::poll::Poller;
use operator::cluster::validate::Images;
use operator::cluster::{self, ReconcileError};
use operator::controller::{Context, watch_hosts};
use operator::metrics::Metrics;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::OnceCell;

use super::faults::Faults;
use super::normal::{self, Objects};
use super::plane::{self, HOSTS};

/// Looks until something must have come to rest.
const MAX_LOOKS: usize = 80;
/// Looks one after the other at which nothing happens: then nothing will.
const QUIET: usize = 3;
/// Time between two looks by the operator's clock: longer than any of its pauses but `drain.timeout`.
const STEP_SECONDS: i64 = 15;

/// Counts for the names of namespaces.
static WORLDS: AtomicU32 = AtomicU32::new(0);
static SHARED: OnceCell<Shared> = OnceCell::const_new();

/// What all worlds of the process use.
struct Shared {
    hosts: Store<Node>,
    /// Where media nodes answer, on addresses of their own.
    port: u16,
    rooms: Rooms,
}

/// Rooms by the address of the media node.
type Rooms = Arc<Mutex<BTreeMap<IpAddr, i64>>>;

/// A namespace with a LiveCluster named `c`.
pub struct World {
    pub client: Client,
    pub namespace: String,
    /// Pods are placed and run.
    pub has_kubelet: bool,
    config: Config,
    shared: &'static Shared,
    /// Seconds that the operator's clock is ahead.
    ahead: Arc<AtomicI64>,
}

impl World {
    pub async fn new(config: &Config, name: &str) -> Self {
        // Who is told to come later by a test wants to know it.
        let mut impatient = config.clone();
        impatient.default_retry = false;
        let client = Client::try_from(impatient).unwrap();
        let shared = SHARED.get_or_init(|| share(client.clone())).await;
        let number = WORLDS.fetch_add(1, Ordering::Relaxed);
        let namespace = format!("{name}-{}-{number}", std::process::id());
        let namespaces: Api<Namespace> = Api::all(client.clone());
        let object = serde_json::from_value(json!({"metadata": {"name": namespace}})).unwrap();
        namespaces.create(&PostParams::default(), &object).await.unwrap();
        Self {
            client,
            namespace,
            has_kubelet: true,
            config: config.clone(),
            shared,
            ahead: Arc::default(),
        }
    }

    pub fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Applies a manifest with this `spec`: what is not in it any more is taken out.
    pub async fn apply(&self, spec: &Value) -> Result<(), kube::Error> {
        let resource = ApiResource::erase::<LiveCluster>(&());
        let api: Api<DynamicObject> =
            Api::namespaced_with(self.client.clone(), &self.namespace, &resource);
        let object = json!({"apiVersion": "livecluster.dev/v1alpha1", "kind": "LiveCluster",
            "metadata": {"name": "c"}, "spec": spec});
        let params = PatchParams::apply("operator-test").force();
        api.patch("c", &params, &Patch::Apply(&object)).await.map(drop)
    }

    /// An operator that knows nothing, of which requests go through `faults`.
    pub fn operator(&self, faults: &Faults) -> Context {
        let unused = |name: &str| format!("example.invalid/{name}:1");
        let images = Images { sfu: unused("sfu"), turn: unused("turn"), redis: unused("redis") };
        let client = faults.client(&self.config);
        let (ahead, hosts) = (Arc::clone(&self.ahead), self.shared.hosts.clone());
        let clock = move || {
            let seconds = Timestamp::now().as_second() + ahead.load(Ordering::Relaxed);
            Timestamp::from_second(seconds).unwrap()
        };
        let mut operator = Context::new(client, images, hosts, Metrics::new().unwrap());
        operator.poller = Poller::new(self.shared.port);
        operator.clock = Arc::new(clock);
        operator
    }

    /// One look of an operator, which has seen every change, and what came of it; `None` where there
    /// is no LiveCluster.
    pub async fn look(&self, operator: &Context) -> Result<Option<LiveCluster>, ReconcileError> {
        self.ahead.fetch_add(STEP_SECONDS, Ordering::Relaxed);
        let Some(cluster) = self.api::<LiveCluster>().get_opt("c").await.unwrap() else {
            return Ok(None);
        };
        let cluster = Arc::new(cluster);
        operator.looks.forget(&ObjectRef::from_obj(&*cluster));
        cluster::reconcile(&cluster, operator).await?;
        Ok(Some(self.api::<LiveCluster>().get("c").await.unwrap()))
    }

    /// A new operator looks until nothing happens any more; what there is then.
    pub async fn comes_to_rest(&self) -> Objects {
        let faults = Faults::none();
        self.comes_to_rest_by(&self.operator(&faults), &faults).await
    }

    /// The operator, of which writes are counted by `faults`, does the same.
    pub async fn comes_to_rest_by(&self, operator: &Context, faults: &Faults) -> Objects {
        let mut quiet = 0;
        for _ in 0..MAX_LOOKS {
            let before = faults.writes();
            // What fails is tried again.
            let done = self.look(operator).await.is_ok();
            let moved = self.play_kubelet().await;
            let rests = done && faults.writes() == before && !moved;
            quiet = if rests { quiet + 1 } else { 0 };
            if quiet == QUIET {
                return normal::objects(&self.client, &self.namespace).await;
            }
        }
        panic!("{}: not at rest after {MAX_LOOKS} looks", self.namespace);
    }

    /// Places and runs pods, and ends those that are deleted; says whether anything changed.
    pub async fn play_kubelet(&self) -> bool {
        if !self.has_kubelet {
            return false;
        }
        let pods = self.api::<Pod>();
        let list = ListParams::default().labels(&names::node_selector("c"));
        let mut changed = false;
        let ours = |pod: &Pod| !pod.owner_references().is_empty();
        for pod in pods.list(&list).await.unwrap().into_iter().filter(ours) {
            let name = pod.name_any();
            let now = DeleteParams::default().grace_period(0);
            if pod.metadata.deletion_timestamp.is_some() {
                pods.delete(&name, &now).await.unwrap();
            } else if pod.spec.as_ref().and_then(|spec| spec.node_name.as_ref()).is_none() {
                self.start(&pod).await;
            } else {
                continue;
            }
            changed = true;
        }
        changed
    }

    async fn start(&self, pod: &Pod) {
        let (pods, name) = (self.api::<Pod>(), pod.name_any());
        let slot: u8 = pod.labels()[names::SLOT].parse().unwrap();
        let host = HOSTS[usize::from(slot) % HOSTS.len()];
        let binding = json!({"metadata": {"name": name}, "target": {"kind": "Node", "name": host}});
        let params = PostParams::default();
        let _: Value = pods.create_subresource("binding", &name, &params, &binding).await.unwrap();
        let status = json!({"status": {
            "phase": "Running",
            "podIP": self.address(slot).to_string(),
            "conditions": [{"type": "Ready", "status": "True"}],
            "containerStatuses": [{"name": "sfu", "image": "", "imageID": "", "ready": true,
                "restartCount": 0, "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}}}],
        }});
        pods.patch_status(&name, &PatchParams::default(), &Patch::Merge(&status)).await.unwrap();
    }

    /// Where the media node of a slot answers: an address of this machine for each.
    fn address(&self, slot: u8) -> IpAddr {
        let number: u16 = self.namespace.rsplit('-').next().unwrap().parse().unwrap();
        let [high, low] = number.to_be_bytes();
        Ipv4Addr::new(127, 100 + high, low, slot + 1).into()
    }

    /// The media node of a slot says that it has rooms.
    pub fn set_rooms(&self, slot: u8, rooms: i64) {
        self.shared.rooms.lock().unwrap().insert(self.address(slot), rooms);
    }

    /// Names of the media pods that are not being deleted.
    pub async fn pods(&self) -> Vec<Pod> {
        let list = ListParams::default().labels(&names::node_selector("c"));
        let pods = self.api::<Pod>().list(&list).await.unwrap();
        pods.items.into_iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()).collect()
    }

    pub async fn remove(self) {
        let params = DeleteParams::background();
        let _ = self.api::<LiveCluster>().delete("c", &params).await;
        let now = DeleteParams::default().grace_period(0);
        self.api::<Pod>().delete_collection(&now, &ListParams::default()).await.unwrap();
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        namespaces.delete(&self.namespace, &params).await.unwrap();
    }
}

/// Watches hosts, and answers for media nodes until the process ends: each test has a runtime of its
/// own, which takes its tasks along.
async fn share(client: Client) -> Shared {
    let rooms = Rooms::default();
    let (tell, told) = tokio::sync::oneshot::channel();
    let answers = Arc::clone(&rooms);
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let config = plane::config().await.unwrap();
            drop(client);
            let hosts = watch_hosts(Client::try_from(config).unwrap());
            hosts.wait_until_ready().await.unwrap();
            let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).await.unwrap();
            tell.send((hosts, listener.local_addr().unwrap().port())).unwrap();
            loop {
                let (connection, _) = listener.accept().await.unwrap();
                tokio::spawn(answer(connection, Arc::clone(&answers)));
            }
        });
    });
    let (hosts, port) = told.await.unwrap();
    Shared { hosts, port, rooms }
}

/// Answers requests for metrics as the media node of the address that was asked.
async fn answer(mut connection: TcpStream, rooms: Rooms) {
    let address = connection.local_addr().unwrap().ip();
    let mut request = [0; 4096];
    // A request fits into one read; whoever closes is done.
    while connection.read(&mut request).await.is_ok_and(|length| length > 0) {
        let rooms = rooms.lock().unwrap().get(&address).copied().unwrap_or_default();
        let body = format!(
            "livecluster_rooms {rooms}\nlivecluster_participants {rooms}\n\
             livecluster_subscribers {rooms}\n"
        );
        let length = body.len();
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{body}");
        if connection.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}
