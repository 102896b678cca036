//! What waits to be sent to one peer, and how fast it may leave.
//!
//! Packets wait unsealed, as references to the publisher's packets: they are written, sealed and
//! handed out as one run when the engine flushes, so that memory for ciphertext is needed for
//! one peer at a time. What is beyond the pace stays.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::super::engine::{MAX_RUN_BYTES, MAX_RUN_SEGMENTS};
use super::super::ring::StoredPacket;
use super::super::sender::Outgoing;

/// Most packets that wait for their turn; more are lost, as they would be in the network.
const MAX_WAITING: usize = 1024;
/// Most control datagrams that wait for a path.
const MAX_CONTROL: usize = 256;
/// How much of the pace may leave at once: a picture of usual size.
const BURST: Duration = Duration::from_millis(25);
/// The same in bytes at least.
const MIN_BURST: f64 = 12_000.0;
/// Share of the estimate that may be spent on what is sent again on request, where no estimate
/// is known bytes a second, and for how long it may be saved.
const REPEAT_SHARE: f64 = 0.3;
const REPEAT_RATE: f64 = 125_000.0;
const REPEAT_TIME: f64 = 1.0;
/// Longest wait: a queue that would take longer leaves faster.
const MAX_WAIT: f64 = 0.5;

/// A packet that waits.
#[derive(Debug, Clone)]
pub(in super::super) enum Pending {
    /// A published packet under its numbers.
    Media {
        /// Index of the sender.
        sender: u16,
        /// The subscriber's payload type.
        payload_type: u8,
        /// The packet.
        packet: Arc<StoredPacket>,
        /// Its numbers.
        outgoing: Outgoing,
    },
    /// The same once more, on the retransmission stream (RFC 4588).
    Repeat {
        /// Index of the sender.
        sender: u16,
        /// Payload type of retransmissions.
        payload_type: u8,
        /// The packet.
        packet: Arc<StoredPacket>,
        /// Its numbers as they were.
        outgoing: Outgoing,
    },
    /// The answer to a subscriber that misses a number which carried nothing for it, on the
    /// retransmission stream.
    Void {
        /// Index of the sender.
        sender: u16,
        /// Payload type of retransmissions.
        payload_type: u8,
        /// The number.
        sequence: u64,
    },
    /// A number that carries nothing.
    Fill {
        /// Index of the sender.
        sender: u16,
        /// The subscriber's payload type.
        payload_type: u8,
        /// The number.
        sequence: u64,
    },
}

impl Pending {
    fn sender_mut(&mut self) -> &mut u16 {
        match self {
            Self::Media { sender, .. }
            | Self::Repeat { sender, .. }
            | Self::Void { sender, .. }
            | Self::Fill { sender, .. } => sender,
        }
    }

    /// Bytes of the payload.
    pub(in super::super) fn bytes(&self) -> usize {
        match self {
            Self::Media { packet, .. } | Self::Repeat { packet, .. } => packet.payload.len(),
            Self::Void { .. } | Self::Fill { .. } => 0,
        }
    }
}

/// What waits to be sent to one peer.
#[derive(Debug)]
pub(in super::super) struct Outbox {
    control: Vec<Vec<u8>>,
    /// Sound and what was asked for: first in line, never held back.
    urgent: VecDeque<Pending>,
    paced: VecDeque<Pending>,
    paced_bytes: usize,
    /// Bytes that may leave now; below zero after what is never held back.
    tokens: f64,
    filled_at: Instant,
    /// Bytes that may be sent again now.
    repeats: f64,
    repeats_filled_at: Instant,
}

impl Outbox {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            control: Vec::new(),
            urgent: VecDeque::new(),
            paced: VecDeque::new(),
            paced_bytes: 0,
            tokens: MIN_BURST,
            filled_at: now,
            repeats: REPEAT_RATE * REPEAT_TIME,
            repeats_filled_at: now,
        }
    }

    pub(in super::super) fn push_control(&mut self, datagram: Vec<u8>) {
        if self.control.len() < MAX_CONTROL {
            self.control.push(datagram);
        }
    }

    pub(in super::super) fn take_control(&mut self) -> std::vec::Drain<'_, Vec<u8>> {
        self.control.drain(..)
    }

    /// Adds a packet; `false` when there is no room.
    pub(in super::super) fn push(&mut self, packet: Pending, is_urgent: bool) -> bool {
        if self.len() >= MAX_WAITING {
            return false;
        }
        if is_urgent {
            self.urgent.push_back(packet);
        } else {
            self.paced_bytes += packet.bytes();
            self.paced.push_back(packet);
        }
        true
    }

    /// Media packets that wait.
    pub(in super::super) fn len(&self) -> usize {
        self.urgent.len() + self.paced.len()
    }

    pub(in super::super) fn is_empty(&self) -> bool {
        self.control.is_empty() && self.urgent.is_empty() && self.paced.is_empty()
    }

    /// Drops everything: there is no path.
    pub(in super::super) fn clear(&mut self) {
        self.control.clear();
        self.urgent.clear();
        self.paced.clear();
        self.paced_bytes = 0;
    }

    /// Drops pictures of a sender that wait: a key frame follows that makes them useless. Their
    /// numbers leave with nothing, or the subscriber would ask for them.
    pub(in super::super) fn forget_paced(&mut self, sender: u16) {
        self.paced.retain(|pending| match pending {
            Pending::Repeat { sender: of, .. } => *of != sender,
            Pending::Media { .. } | Pending::Void { .. } | Pending::Fill { .. } => true,
        });
        for pending in &mut self.paced {
            if let Pending::Media { sender: of, payload_type, outgoing, .. } = pending
                && *of == sender
            {
                let (payload_type, sequence) = (*payload_type, outgoing.sequence);
                *pending = Pending::Fill { sender, payload_type, sequence };
            }
        }
        self.paced_bytes = self.paced.iter().map(Pending::bytes).sum();
    }

    /// Follows senders to their new places; `None` for those that ended.
    pub(in super::super) fn move_senders(&mut self, moved: &[Option<u16>]) {
        let mut follow = |pending: &mut Pending| {
            let sender = pending.sender_mut();
            let place = moved.get(usize::from(*sender)).copied().flatten();
            *sender = place.unwrap_or(*sender);
            place.is_some()
        };
        self.urgent.retain_mut(&mut follow);
        self.paced.retain_mut(&mut follow);
        self.paced_bytes = self.paced.iter().map(Pending::bytes).sum();
    }

    /// Lets time pass: `pace` bytes a second may leave, everything where it is not known.
    pub(in super::super) fn refill(&mut self, pace: Option<f64>, now: Instant) {
        let Some(pace) = pace else {
            self.tokens = f64::INFINITY;
            self.filled_at = now;
            return;
        };
        let pace = pace.max(self.paced_bytes as f64 / MAX_WAIT);
        let most = (pace * BURST.as_secs_f64()).max(MIN_BURST);
        let elapsed = now.saturating_duration_since(self.filled_at).as_secs_f64();
        self.filled_at = now;
        self.tokens = (self.tokens.min(most) + elapsed * pace).min(most);
    }

    /// The next packet that may leave.
    pub(in super::super) fn pop(&mut self) -> Option<Pending> {
        if let Some(urgent) = self.urgent.pop_front() {
            return Some(urgent);
        }
        if self.tokens <= 0.0 {
            return None;
        }
        let paced = self.paced.pop_front()?;
        self.paced_bytes -= paced.bytes();
        Some(paced)
    }

    /// Bytes of the largest payload among the first of several that are never held back; 0 where
    /// there are not several.
    pub(in super::super) fn largest_urgent(&self) -> usize {
        if self.urgent.len() < 2 {
            return 0;
        }
        let first = self.urgent.iter().take(MAX_RUN_SEGMENTS);
        first.map(Pending::bytes).max().unwrap_or_default()
    }

    /// Whether `bytes` may be sent again now: a subscriber that asks for everything again and
    /// again gets no more than a share of what it gets anyway, `estimate` being bits a second.
    pub(in super::super) fn take_repeat(
        &mut self,
        bytes: usize,
        estimate: Option<u64>,
        now: Instant,
    ) -> bool {
        let elapsed = now.saturating_duration_since(self.repeats_filled_at).as_secs_f64();
        self.repeats_filled_at = now;
        let rate = estimate.map_or(REPEAT_RATE, |bits| bits as f64 / 8.0 * REPEAT_SHARE);
        self.repeats = (self.repeats + elapsed * rate).min(rate * REPEAT_TIME);
        let is_allowed = self.repeats >= bytes as f64;
        if is_allowed {
            self.repeats -= bytes as f64;
        }
        is_allowed
    }

    /// Counts what left.
    pub(in super::super) fn spend(&mut self, bytes: usize) {
        self.tokens -= bytes as f64;
    }
}

/// Datagrams back to back that leave in one segmented send: all of one size but the last, which
/// may be shorter.
#[derive(Debug, Default)]
pub(in super::super) struct Run {
    start: usize,
    size: usize,
    segments: usize,
    is_closed: bool,
}

impl Run {
    /// Size that the next datagram must have to leave with those that were collected, and others
    /// behind it.
    pub(in super::super) fn open_size(&self) -> Option<usize> {
        (self.segments > 0 && !self.is_closed).then_some(self.size)
    }

    /// Adds the datagram at the end of `arena`, from `start` on. Sends what was collected where
    /// it does not fit.
    pub(in super::super) fn add(
        &mut self,
        arena: &[u8],
        start: usize,
        send: &mut impl FnMut(&[u8], usize),
    ) {
        let size = arena.len() - start;
        let fits = self.segments > 0
            && !self.is_closed
            && size <= self.size
            && self.segments < MAX_RUN_SEGMENTS
            && arena.len() - self.start <= MAX_RUN_BYTES;
        if !fits {
            self.send(&arena[..start], send);
            *self = Self { start, size, segments: 0, is_closed: false };
        }
        self.segments += 1;
        self.is_closed = size < self.size;
    }

    /// Sends what was collected up to the end of `arena`.
    pub(in super::super) fn send(&mut self, arena: &[u8], send: &mut impl FnMut(&[u8], usize)) {
        if self.segments > 0 {
            send(&arena[self.start..], self.size);
            self.segments = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn datagrams_are_grouped_into_runs_of_one_size() {
        let (mut arena, mut run, mut runs) = (Vec::new(), Run::default(), Vec::new());
        let mut send = |bytes: &[u8], size: usize| runs.push((bytes.len(), size));
        for length in [100, 100, 80, 100, 120, 120] {
            let start = arena.len();
            arena.resize(start + length, 0);
            run.add(&arena, start, &mut send);
        }
        assert_eq!(run.open_size(), Some(120));
        run.send(&arena, &mut send);
        assert_eq!(run.open_size(), None);
        assert_eq!(runs, [(280, 100), (100, 100), (240, 120)]);
    }

    fn fill(sender: u16) -> Pending {
        Pending::Fill { sender, payload_type: 96, sequence: 1 }
    }

    #[test]
    fn what_is_urgent_leaves_first_and_the_rest_at_the_pace() {
        let now = Instant::now();
        let mut outbox = Outbox::new(now);
        outbox.push(fill(1), false);
        outbox.push(fill(2), false);
        outbox.push(fill(3), true);
        outbox.refill(Some(10_000.0), now);
        let sender = |outbox: &mut Outbox| outbox.pop().map(|mut p| *p.sender_mut());
        assert_eq!(sender(&mut outbox), Some(3));
        outbox.spend(20_000);
        assert_eq!(sender(&mut outbox), None);
        outbox.refill(Some(10_000.0), now + Duration::from_millis(700));
        assert_eq!(sender(&mut outbox), None);
        outbox.refill(Some(10_000.0), now + Duration::from_millis(900));
        assert_eq!(sender(&mut outbox), Some(1));
        outbox.refill(None, now);
        assert_eq!(sender(&mut outbox), Some(2));
    }

    #[test]
    fn packets_follow_their_sender_or_end_with_it() {
        let mut outbox = Outbox::new(Instant::now());
        for sender in [0, 1, 2] {
            outbox.push(fill(sender), false);
        }
        outbox.move_senders(&[Some(5), None, Some(0)]);
        let left = std::iter::from_fn(|| outbox.pop()).map(|mut pending| *pending.sender_mut());
        assert_eq!(left.collect::<Vec<_>>(), [5, 0]);
    }

    #[test]
    fn the_queue_is_bounded() {
        let mut outbox = Outbox::new(Instant::now());
        for _ in 0..MAX_WAITING {
            assert!(outbox.push(fill(0), false));
        }
        assert!(!outbox.push(fill(0), true));
    }
}
