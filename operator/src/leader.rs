//! One of several operators leads, by a Lease.

use kube::Client;
use kube_lease_manager::{LeaseManager, LeaseManagerBuilder, LeaseManagerError};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Name of the Lease.
pub const LEASE: &str = "livecluster-operator";
/// Seconds after which a leader that renews no more has lost.
const DURATION_SECONDS: u64 = 15;
/// Seconds before that end in which the leader renews; longer than clocks differ.
const GRACE_SECONDS: u64 = 5;

/// This operator's part in the election.
pub struct Election {
    leads: watch::Receiver<bool>,
    task: JoinHandle<Result<LeaseManager, LeaseManagerError>>,
}

impl Election {
    /// Stands for election.
    pub async fn join(
        client: Client,
        namespace: &str,
        identity: &str,
    ) -> Result<Self, LeaseManagerError> {
        let manager = LeaseManagerBuilder::new(client, LEASE)
            .with_namespace(namespace)
            .with_identity(identity)
            .with_duration(DURATION_SECONDS)
            .with_grace(GRACE_SECONDS)
            .build()
            .await?;
        let (leads, task) = manager.watch().await;
        Ok(Self { leads, task })
    }

    /// Waits until this operator leads; `false` when the election has ended.
    pub async fn won(&mut self) -> bool {
        self.leads.wait_for(|leads| *leads).await.is_ok()
    }

    /// Waits until this operator leads no more.
    pub async fn lost(&mut self) {
        // An error means that the election has ended, which loses it too.
        let _ = self.leads.wait_for(|leads| !*leads).await;
    }

    /// Gives the Lease back, so that the next leader need not wait for its end.
    pub async fn leave(self) {
        drop(self.leads);
        // The process ends anyhow; an error only costs the next leader some seconds.
        let _ = self.task.await;
    }
}
