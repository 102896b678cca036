//! One of several operators leads, by a Lease.
//!
//! Every change of the Lease names the version that it was decided on, so that of two operators that
//! want it one wins. Who does not lead takes the Lease when it has not changed for its whole length
//! by its own clock: clocks of machines need not agree. What the leader writes goes through a
//! [`Fence`], which closes before anybody else may lead, however long the process was stopped.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::{ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt as _};
use serde_json::{Value, json};
use tracing::warn;

mod fence;

pub use fence::{Fence, Fenced, NotLeading};

/// Name of the Lease.
pub const LEASE: &str = "livecluster-operator";
/// Time after which a leader that does not renew has lost.
const DURATION: Duration = Duration::from_secs(15);
/// The leader writes nothing in this last part of that time: its requests may take as long.
const MARGIN: Duration = Duration::from_secs(3);
/// Time between two renewals.
const RENEWAL: Duration = Duration::from_secs(4);
/// Time between two looks of who does not lead, and between two tries to renew.
const RETRY: Duration = Duration::from_secs(1);
/// A request that takes longer is given up.
const TIMEOUT: Duration = Duration::from_secs(4);

/// This operator's part in the election.
pub struct Election {
    api: Api<Lease>,
    identity: String,
    fence: Fence,
    /// The version of the Lease that this operator wrote last, while it leads.
    held: Option<String>,
    /// The Lease of another.
    other: Option<Seen>,
}

/// A Lease of another, as it was when it changed last.
struct Seen {
    version: Option<String>,
    /// By the clock of this machine.
    at: Duration,
}

impl Election {
    /// Stands for election; `fence` opens when it is won.
    #[must_use]
    pub fn new(client: Client, namespace: &str, identity: &str, fence: Fence) -> Self {
        let api = Api::namespaced(client, namespace);
        Self { api, identity: identity.to_owned(), fence, held: None, other: None }
    }

    /// Waits until this operator leads.
    pub async fn won(&mut self) {
        loop {
            match within(self.stand()).await {
                Ok(true) => return,
                Ok(false) => {}
                Err(error) => warn!(%error, "Standing for election failed"),
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    /// Renews the Lease until this operator leads no more.
    pub async fn lost(&mut self) {
        let mut pause = RENEWAL;
        loop {
            tokio::time::sleep(pause).await;
            pause = match within(self.renew()).await {
                Ok(true) => RENEWAL,
                Ok(false) => return,
                Err(_) if !self.fence.is_open() => return,
                Err(error) => {
                    warn!(%error, "Renewing the Lease failed");
                    RETRY
                }
            };
        }
    }

    /// Gives the Lease back, so that the next leader need not wait for its end.
    pub async fn leave(self) {
        self.fence.close();
        let Some(version) = &self.held else { return };
        let spec = json!({"holderIdentity": null, "acquireTime": null, "renewTime": null});
        // An error only costs the next leader some seconds.
        let _ = within(self.write(version, spec)).await;
    }

    /// Takes the Lease if it is to be had.
    async fn stand(&mut self) -> Result<bool, kube::Error> {
        let now = self.fence.now();
        let Some(lease) = self.api.get_opt(LEASE).await? else {
            return match self.api.create(&PostParams::default(), &self.first()).await {
                Ok(lease) => Ok(self.hold(now, &lease)),
                Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(false),
                Err(error) => Err(error),
            };
        };
        let version = lease.resource_version();
        if !self.is_free(&lease, now) {
            return Ok(false);
        }
        let transitions = lease.spec.and_then(|spec| spec.lease_transitions).unwrap_or_default();
        let spec = json!({
            "holderIdentity": self.identity,
            "leaseDurationSeconds": DURATION.as_secs(),
            "acquireTime": MicroTime(Timestamp::now()),
            "renewTime": MicroTime(Timestamp::now()),
            "leaseTransitions": transitions.saturating_add(1),
        });
        self.take(now, &version.unwrap_or_default(), spec).await
    }

    /// Nobody has it, or who had it does not renew. One of our own name is of our own past.
    fn is_free(&mut self, lease: &Lease, now: Duration) -> bool {
        let spec = lease.spec.as_ref();
        let holder = spec.and_then(|spec| spec.holder_identity.as_deref()).unwrap_or_default();
        if holder.is_empty() || holder == self.identity {
            return true;
        }
        let version = lease.resource_version();
        let seconds = spec.and_then(|spec| spec.lease_duration_seconds).unwrap_or_default();
        let length = Duration::from_secs(u64::try_from(seconds).unwrap_or_default()).max(DURATION);
        match &self.other {
            Some(seen) if seen.version == version => now.saturating_sub(seen.at) >= length,
            Some(_) | None => {
                self.other = Some(Seen { version, at: now });
                false
            }
        }
    }

    /// Says that this operator is still there; `false` when another leads.
    async fn renew(&mut self) -> Result<bool, kube::Error> {
        let now = self.fence.now();
        let Some(version) = self.held.clone() else { return Ok(false) };
        let spec = || json!({"renewTime": MicroTime(Timestamp::now())});
        if self.take(now, &version, spec()).await? {
            return Ok(true);
        }
        // Somebody wrote it: ourselves, in a request whose answer was lost, or who leads now.
        let Some(lease) = self.api.get_opt(LEASE).await? else { return Ok(false) };
        let holder = lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_ref());
        if holder != Some(&self.identity) {
            return Ok(false);
        }
        let version = lease.resource_version().unwrap_or_default();
        self.take(now, &version, spec()).await
    }

    /// Writes the Lease over a version of it; `false` when there is another by now.
    async fn take(
        &mut self,
        now: Duration,
        version: &str,
        spec: Value,
    ) -> Result<bool, kube::Error> {
        match self.write(version, spec).await {
            Ok(lease) => Ok(self.hold(now, &lease)),
            Err(kube::Error::Api(status)) if status.is_conflict() || status.is_not_found() => {
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    async fn write(&self, version: &str, spec: Value) -> Result<Lease, kube::Error> {
        let patch = json!({"metadata": {"resourceVersion": version}, "spec": spec});
        self.api.patch(LEASE, &PatchParams::default(), &Patch::Merge(&patch)).await
    }

    /// Leads by a request that was sent at this time.
    fn hold(&mut self, sent: Duration, lease: &Lease) -> bool {
        self.held = lease.resource_version();
        self.other = None;
        self.fence.open_until(sent + DURATION - MARGIN);
        true
    }

    fn first(&self) -> Lease {
        let now = Some(MicroTime(Timestamp::now()));
        Lease {
            metadata: ObjectMeta { name: Some(LEASE.to_owned()), ..ObjectMeta::default() },
            spec: Some(LeaseSpec {
                holder_identity: Some(self.identity.clone()),
                lease_duration_seconds: i32::try_from(DURATION.as_secs()).ok(),
                acquire_time: now.clone(),
                renew_time: now,
                lease_transitions: Some(1),
                ..LeaseSpec::default()
            }),
        }
    }
}

/// The answer, or that there was none in time.
async fn within<T>(
    request: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, kube::Error> {
    let answer = tokio::time::timeout(TIMEOUT, request).await;
    answer.unwrap_or_else(|elapsed| Err(kube::Error::Service(elapsed.into())))
}
