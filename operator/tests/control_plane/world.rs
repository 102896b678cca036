//! A namespace with a LiveCluster, in which the test plays scheduler, kubelet and media nodes, and
//! starts operators one after the other.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicI64, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crds::{LiveCluster, names};
use k8s_openapi::api::core::v1::{Namespace, PersistentVolumeClaim, Pod};
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::core::ApiResource;
use kube::runtime::reflector::ObjectRef;
use kube::{Api, Client, Config, ResourceExt as _};
use operator::cluster::nodes::Hosts;
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
    hosts: Hosts,
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

    /// Operators have the rights of this user from here on, who has none but those that were given.
    pub fn act_as(&mut self, user: &str) {
        self.config.auth_info.impersonate = Some(user.to_owned());
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
        let (mut quiet, mut failure) = (0, None);
        for _ in 0..MAX_LOOKS {
            let before = faults.writes();
            // What fails is tried again.
            let looked = self.look(operator).await;
            let done = looked.is_ok();
            failure = looked.err().or(failure);
            let moved = self.play_kubelet().await;
            let rests = done && faults.writes() == before && !moved && !self.volumes_end().await;
            quiet = if rests { quiet + 1 } else { 0 };
            if quiet == QUIET {
                return normal::objects(&self.client, &self.namespace).await;
            }
        }
        panic!("{}: not at rest after {MAX_LOOKS} looks: {failure:?}", self.namespace);
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

    /// Whether a volume is going, which its controller lets go when no pod uses it any more.
    async fn volumes_end(&self) -> bool {
        let claims =
            self.api::<PersistentVolumeClaim>().list(&ListParams::default()).await.unwrap();
        let ends = claims.iter().any(|claim| claim.metadata.deletion_timestamp.is_some());
        if ends {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        ends
    }

    async fn start(&self, pod: &Pod) {
        let (pods, name) = (self.api::<Pod>(), pod.name_any());
        let slot: u8 = pod.labels()[names::SLOT].parse().unwrap();
        let host = HOSTS[usize::from(slot) % HOSTS.len()];
        let binding = json!({"metadata": {"name": name}, "target": {"kind": "Node", "name": host}});
        let params = PostParams::default();
        let _: Value = pods.create_subresource("binding", &name, &params, &binding).await.unwrap();
        let has_sidecar = pod.spec.as_ref().is_some_and(|spec| spec.init_containers.is_some());
        let sidecars = if has_sidecar { vec![running("turn")] } else { Vec::new() };
        let address = host_address(slot);
        let status = json!({
            "phase": "Running",
            "hostIP": address,
            "hostIPs": [{"ip": address}],
            "podIP": self.address(slot).to_string(),
            "conditions": [{"type": "Ready", "status": "True"}],
            "initContainerStatuses": sidecars,
            "containerStatuses": [running("sfu")],
        });
        self.tell(slot, &status).await;
    }

    /// The kubelet says this of the pod of a slot.
    pub async fn tell(&self, slot: u8, status: &Value) {
        let name = names::node("c", slot.into());
        let patch = Patch::Merge(json!({"status": status}));
        self.api::<Pod>().patch_status(&name, &PatchParams::default(), &patch).await.unwrap();
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

/// A container of which nothing is wrong.
pub fn running(name: &str) -> Value {
    json!({"name": name, "image": "", "imageID": "", "ready": true, "started": true,
        "restartCount": 0, "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}}})
}

/// What the pod of a slot says is the address of its Kubernetes node.
pub fn host_address(slot: u8) -> String {
    format!("198.51.100.{}", slot + 1)
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
            if let Hosts::Watched(hosts) = &hosts {
                hosts.wait_until_ready().await.unwrap();
            }
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
