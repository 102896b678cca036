//! Rings between workers, for rooms that are spread over several.

use std::sync::Arc;
use std::time::Instant;

use mio::Waker;
use rtrb::{Consumer, Producer, RingBuffer};
use sfu_core::media::engine::{Engine, SiblingMessage};

/// Messages that wait for a worker: half a second of a busy track. What does not fit is lost, as
/// in a network.
const CAPACITY: usize = 4096;

/// A worker's ends of its rings.
#[derive(Default)]
pub(super) struct Siblings {
    /// By the number of the worker; none to itself.
    to: Vec<Option<Outlet>>,
    from: Vec<Consumer<SiblingMessage>>,
}

struct Outlet {
    ring: Producer<SiblingMessage>,
    waker: Arc<Waker>,
    has_news: bool,
}

impl Siblings {
    /// Rings between all workers, whose wakers these are.
    pub(super) fn connect(wakers: &[Arc<Waker>]) -> Vec<Self> {
        let mut all: Vec<Self> = wakers.iter().map(|_| Self::default()).collect();
        for from in 0..wakers.len() {
            for (to, waker) in wakers.iter().enumerate() {
                if from == to {
                    all[from].to.push(None);
                    continue;
                }
                let (ring, consumer) = RingBuffer::new(CAPACITY);
                let outlet = Outlet { ring, waker: Arc::clone(waker), has_news: false };
                all[from].to.push(Some(outlet));
                all[to].from.push(consumer);
            }
        }
        all
    }

    /// Takes what other workers said.
    pub(super) fn receive(&mut self, engine: &mut Engine, now: Instant) {
        for ring in &mut self.from {
            while let Ok(message) = ring.pop() {
                engine.handle_sibling(message, now);
            }
        }
    }

    /// Hands out what the engine says to other workers, and wakes them once. Returns how many
    /// messages were lost.
    pub(super) fn send(&mut self, engine: &mut Engine) -> u64 {
        let mut lost = 0;
        while let Some((worker, message)) = engine.poll_sibling() {
            let Some(Some(outlet)) = self.to.get_mut(worker) else { continue };
            outlet.has_news = true;
            lost += u64::from(outlet.ring.push(message).is_err());
        }
        for outlet in self.to.iter_mut().flatten() {
            if std::mem::take(&mut outlet.has_news)
                && let Err(error) = outlet.waker.wake()
            {
                tracing::error!(%error, "Failed to wake a media worker");
            }
        }
        lost
    }
}
