//! Tracks between the engines of one process: a room too large for one worker has subscribers on
//! several. The publisher's engine takes off protection once and hands the packets on as
//! references; each sibling keeps them in rings of its own and answers its subscribers itself.

use std::sync::Arc;
use std::time::Instant;

use super::super::ring::StoredPacket;
use super::super::track::{Source, Track};
use super::super::{Receiver, RoomKey, TrackKey};
use super::Engine;

/// Number of a worker, from 0 on.
pub type WorkerIndex = usize;

/// What one engine tells another of a track.
#[derive(Debug, Clone)]
pub struct SiblingMessage {
    /// The track.
    pub track: TrackKey,
    /// Its stream, in rising quality.
    pub layer: u8,
    /// What there is to tell.
    pub content: SiblingContent,
}

/// News of a stream.
#[derive(Debug, Clone)]
pub enum SiblingContent {
    /// A published packet.
    Packet {
        /// The publisher's source; another one begins the stream anew.
        ssrc: u32,
        /// RTP ticks a second.
        clock_rate: u32,
        /// The packet.
        packet: Arc<StoredPacket>,
    },
    /// A number that is only padding.
    Padding(u64),
    /// The publisher's clock.
    Clock {
        /// NTP time, 32.32 seconds since 1900.
        ntp: u64,
        /// The same moment in RTP ticks.
        rtp_timestamp: u32,
        /// When it was told.
        at: Instant,
    },
    /// Towards the publisher: a subscriber needs a key frame.
    KeyFrameRequest,
}

impl Engine {
    /// Hands packets of a track to these workers from now on.
    pub fn set_exports(&mut self, key: TrackKey, workers: Vec<WorkerIndex>) {
        if let Some(track) = self.tracks.get_mut(&key) {
            // Whoever is new needs a key frame, for which it asks.
            track.exports = workers;
        }
    }

    /// Takes part in a track that is published at another worker's engine; again with another
    /// description when that changed.
    pub fn import(&mut self, room: RoomKey, from: WorkerIndex, receiver: Receiver) {
        let key = receiver.track;
        match self.tracks.get_mut(&key) {
            Some(track) if track.source == Source::Sibling(from) => track.update(receiver),
            _ => {
                self.tracks.insert(key, Track::new(room, Source::Sibling(from), receiver));
            }
        }
        self.refresh_routes(key);
        self.retarget_routes(key);
        self.start_track_timers();
    }

    /// Ends what [`Self::import`] began.
    pub fn end_import(&mut self, key: TrackKey) {
        let is_import =
            self.tracks.get(&key).is_some_and(|track| matches!(track.source, Source::Sibling(_)));
        if is_import {
            self.tracks.remove(&key);
        }
    }

    /// The next message for another worker.
    pub fn poll_sibling(&mut self) -> Option<(WorkerIndex, SiblingMessage)> {
        self.sibling_messages.pop_front()
    }

    /// Takes what another worker's engine says.
    pub fn handle_sibling(&mut self, message: SiblingMessage, now: Instant) {
        self.now = now;
        let SiblingMessage { track: key, layer: index, content } = message;
        let Some(track) = self.tracks.get_mut(&key) else { return };
        let Some(layer) = track.layers.get_mut(usize::from(index)) else { return };
        match content {
            SiblingContent::Packet { ssrc, clock_rate, packet } => {
                let sequence = packet.sequence;
                if self.keep_shared(key, index, (ssrc, clock_rate), packet, now) {
                    self.forward(key, index, sequence, clock_rate, now);
                }
            }
            SiblingContent::Padding(sequence) => self.skip(key, index, sequence),
            SiblingContent::Clock { ntp, rtp_timestamp, at } => {
                layer.handle_sender_report(ntp, rtp_timestamp, at);
            }
            SiblingContent::KeyFrameRequest => {
                layer.want_key_frame();
                self.mark_restless(key);
            }
        }
    }

    /// Keeps a packet that another track took in; `false` when it is there already.
    pub(super) fn keep_shared(
        &mut self,
        key: TrackKey,
        index: u8,
        (ssrc, clock_rate): (u32, u32),
        packet: Arc<StoredPacket>,
        now: Instant,
    ) -> bool {
        let Some(track) = self.tracks.get_mut(&key) else { return false };
        let layer = &mut track.layers[usize::from(index)];
        let is_new_source = layer.ssrc != Some(ssrc);
        if is_new_source {
            layer.restart(ssrc, track.config.kind);
            for route in &track.routes {
                self.transports[route.transport].senders[route.sender].forget_stream(index);
            }
            track.may_wait = true;
        }
        let layer = &mut track.layers[usize::from(index)];
        if !layer.take_shared(packet, clock_rate, now) {
            return false;
        }
        let becomes_active = !track.active[usize::from(index)];
        if becomes_active {
            track.refresh_active(now);
        }
        if becomes_active || is_new_source {
            self.mark_restless(key);
        }
        if becomes_active {
            self.retarget_routes(key);
        }
        true
    }

    /// Tells the workers that take part in a track.
    pub(super) fn export(&mut self, key: TrackKey, layer: u8, content: &SiblingContent) {
        let Some(track) = self.tracks.get(&key) else { return };
        for &worker in &track.exports {
            let message = SiblingMessage { track: key, layer, content: content.clone() };
            self.sibling_messages.push_back((worker, message));
        }
    }
}
