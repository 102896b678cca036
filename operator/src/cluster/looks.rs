//! What the last look at a LiveCluster found, so that one at which nothing happens costs no request.
//!
//! A look is remembered when it changed nothing, and forgotten when anything that it is about is
//! touched. What cannot be watched, Secrets, is read again after [`MAX_AGE`].

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crds::LiveCluster;
use kube::Resource as _;
use kube::runtime::reflector::ObjectRef;

use super::dereference::Dereferenced;
use crate::controller::Context;

/// A look that is older says nothing.
pub const MAX_AGE: Duration = Duration::from_secs(180);
/// Most LiveClusters whose last look is remembered; beyond that all are forgotten.
const MAX_REMEMBERED: usize = 10_000;

/// The last looks.
#[derive(Debug, Default)]
pub struct Looks {
    all: Mutex<HashMap<ObjectRef<LiveCluster>, Look>>,
}

#[derive(Debug)]
enum Look {
    /// Something is being read; nothing was touched since that began.
    Begun,
    Done(Box<Dereferenced>, Instant),
}

impl Looks {
    fn with<T>(&self, f: impl FnOnce(&mut HashMap<ObjectRef<LiveCluster>, Look>) -> T) -> T {
        f(&mut self.all.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// An object of the LiveCluster was touched.
    pub fn forget(&self, cluster: &ObjectRef<LiveCluster>) {
        self.with(|all| all.remove(cluster));
    }

    /// A look begins: what is touched from here on counts.
    pub(super) fn begin(&self, cluster: &LiveCluster) {
        self.with(|all| {
            if all.len() >= MAX_REMEMBERED {
                all.clear();
            }
            all.insert(ObjectRef::from_obj(cluster), Look::Begun);
        });
    }

    /// The look changed nothing.
    pub(super) fn remember(&self, found: Dereferenced) {
        let reference = ObjectRef::from_obj(&*found.cluster);
        self.with(|all| {
            if let Some(look @ Look::Begun) = all.get_mut(&reference) {
                *look = Look::Done(Box::new(found), Instant::now());
            }
        });
    }

    /// What the last look found, where that holds for the LiveCluster as it is now.
    pub(super) fn recall(
        &self,
        cluster: &Arc<LiveCluster>,
        context: &Context,
    ) -> Option<Dereferenced> {
        let found = self.with(|all| match all.get(&ObjectRef::from_obj(&**cluster))? {
            Look::Done(found, at) if at.elapsed() < MAX_AGE => Some(found.clone()),
            Look::Done(..) | Look::Begun => None,
        })?;
        let (then, now) = (found.cluster.meta(), cluster.meta());
        let is_same = then.uid == now.uid && then.generation == now.generation;
        let metrics_api = context.metrics_api.borrow().clone();
        is_same.then(|| Dereferenced { cluster: Arc::clone(cluster), metrics_api, ..*found })
    }
}
