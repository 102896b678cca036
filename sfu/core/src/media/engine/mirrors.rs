//! Tracks of one room in another: a mirror takes the packets of a track as references and belongs
//! to the other room, where it has subscribers, layers and rings of its own.

use std::sync::Arc;
use std::time::Instant;

use super::super::track::{Source, Track};
use super::super::{Mirror, RoomKey, TrackKey, TransportId};
use super::{Engine, SiblingContent};

impl Engine {
    /// Brings the mirrors of `owner` in line with what its room wants.
    pub(super) fn set_mirrors(&mut self, room: RoomKey, owner: TransportId, mirrors: Vec<Mirror>) {
        let is_kept = |key: &TrackKey| mirrors.iter().any(|mirror| mirror.receiver.track == *key);
        let is_own = |track: &Track| matches!(track.source, Source::Mirror { owner: known, .. } if known == owner);
        let gone: Vec<TrackKey> = self
            .tracks
            .iter()
            .filter(|(key, track)| is_own(track) && !is_kept(key))
            .map(|(key, _)| *key)
            .collect();
        for key in gone {
            self.end_mirror(key);
        }
        for Mirror { source, receiver } in mirrors {
            let key = receiver.track;
            let from = Source::Mirror { of: source, owner };
            match self.tracks.get_mut(&key) {
                Some(track) if track.source == from => track.update(receiver),
                _ => {
                    self.end_mirror(key);
                    self.tracks.insert(key, Track::new(room, from, receiver));
                    self.link_mirror(source, key);
                }
            }
            self.refresh_routes(key);
            self.retarget_routes(key);
        }
        self.start_track_timers();
    }

    /// Ends a mirror, if it is one.
    pub(super) fn end_mirror(&mut self, key: TrackKey) {
        let Some(Source::Mirror { of, .. }) = self.tracks.get(&key).map(|track| track.source)
        else {
            return;
        };
        self.tracks.remove(&key);
        self.unlink_mirror(of, key);
    }

    /// Remembers what a track mirrors, which may come later.
    fn link_mirror(&mut self, source: TrackKey, mirror: TrackKey) {
        let known = self.mirrors.entry(source).or_default();
        if !known.contains(&mirror) {
            known.push(mirror);
        }
    }

    fn unlink_mirror(&mut self, source: TrackKey, mirror: TrackKey) {
        if let Some(known) = self.mirrors.get_mut(&source) {
            known.retain(|other| *other != mirror);
            if known.is_empty() {
                self.mirrors.remove(&source);
            }
        }
    }

    /// Hands a kept packet to the mirrors of its track.
    pub(super) fn mirror_packet(
        &mut self,
        key: TrackKey,
        layer: u8,
        sequence: u64,
        clock_rate: u32,
        now: Instant,
    ) {
        if !self.mirrors.contains_key(&key) && !self.trunks.contains(&key) {
            return;
        }
        let Some(track) = self.tracks.get(&key) else { return };
        let stream = &track.layers[usize::from(layer)];
        let (Some(ssrc), Some(packet)) = (stream.ssrc, stream.ring().get(sequence)) else { return };
        let packet = Arc::clone(packet);
        self.mirror(key, layer, &SiblingContent::Packet { ssrc, clock_rate, packet }, now);
    }

    /// Tells the mirrors of a track, at this engine and at other nodes.
    pub(super) fn mirror(
        &mut self,
        key: TrackKey,
        layer: u8,
        content: &SiblingContent,
        now: Instant,
    ) {
        self.put_on_trunk(key, layer, content);
        self.tell_mirrors(key, layer, content, now);
    }

    /// Tells the mirrors of a track at this engine.
    pub(super) fn tell_mirrors(
        &mut self,
        source: TrackKey,
        layer: u8,
        content: &SiblingContent,
        now: Instant,
    ) {
        let mirror_at = |engine: &Self, at: usize| engine.mirrors.get(&source)?.get(at).copied();
        let mut at = 0;
        while let Some(mirror) = mirror_at(self, at) {
            self.take_mirrored(mirror, layer, content, now);
            at += 1;
        }
    }

    fn take_mirrored(&mut self, key: TrackKey, index: u8, content: &SiblingContent, now: Instant) {
        let Some(track) = self.tracks.get_mut(&key) else { return };
        let Some(layer) = track.layers.get_mut(usize::from(index)) else { return };
        match content {
            SiblingContent::Packet { ssrc, clock_rate, packet } => {
                let (sequence, clock_rate) = (packet.sequence, *clock_rate);
                let level = packet.extensions.audio_level;
                if !self.keep_shared(key, index, (*ssrc, clock_rate), Arc::clone(packet), now) {
                    return;
                }
                if let (Some(level), Some(track)) = (level, self.tracks.get_mut(&key)) {
                    track.meter(level, now);
                }
                if self.is_audible(key) {
                    self.forward(key, index, sequence, clock_rate, now);
                    self.export(key, index, content);
                }
            }
            SiblingContent::Padding(sequence) => {
                self.skip(key, index, *sequence);
                self.export(key, index, content);
            }
            SiblingContent::Clock { ntp, rtp_timestamp, at } => {
                layer.handle_sender_report(*ntp, *rtp_timestamp, *at);
                self.export(key, index, content);
            }
            // Wishes go the other way.
            SiblingContent::KeyFrameRequest => {}
        }
    }
}
