//! Feedback: what publishers and subscribers report, and what we tell them.

use std::time::{Duration, Instant};

use rustc_hash::FxHashMap;

use super::super::bandwidth::Bandwidth;
use super::super::parameters::AudioLevel;
use super::super::rtcp::{
    RtcpMessage, parse, write_nack, write_pli, write_receiver_report, write_sender_report,
};
use super::super::track::{Route, Source};
use super::super::transport::REPORT_INTERVAL;
use super::super::twcc::INTERVAL;
use super::super::{MediaEvent, RoomKey, TrackKey};
use super::{Engine, SiblingContent, SiblingMessage};

/// Our canonical name in source descriptions (RFC 7022 allows a short random one; every
/// stream of ours shares the engine's clock mapping per publisher).
const CNAME: &str = "livecluster";
/// Most retransmissions that one RTCP packet may ask for.
const MAX_NACKS: usize = 256;

impl Engine {
    pub(super) fn handle_srtcp(&mut self, index: usize, datagram: &mut [u8], now: Instant) {
        let Some((inbound, _)) = self.transports[index].srtp.as_mut() else { return };
        let Ok(length) = inbound.unprotect_rtcp(datagram) else {
            self.counters.dropped += 1;
            return;
        };
        self.transports[index].last_rtcp = now;
        let (mut lost, mut has_estimate) = (Vec::new(), false);
        parse(&datagram[..length], |message| match message {
            RtcpMessage::SenderReport { ssrc, ntp, rtp_timestamp } => {
                self.note_sender_report(index, ssrc, ntp, rtp_timestamp, now);
            }
            RtcpMessage::Nack { ssrc, losses } => {
                let room = MAX_NACKS.saturating_sub(lost.len());
                lost.extend(losses.sequences().take(room).map(|sequence| (ssrc, sequence)));
            }
            RtcpMessage::KeyFrameRequest { ssrc } => self.note_key_frame_request(index, ssrc),
            RtcpMessage::ReceptionReport {
                ssrc,
                fraction_lost,
                jitter,
                last_sender_report,
                delay_since,
            } => {
                let delay = Duration::from_secs_f64(f64::from(delay_since) / 65_536.0);
                let report = (fraction_lost, jitter, last_sender_report, delay);
                has_estimate |= self.note_reception(index, ssrc, report, now);
            }
            RtcpMessage::TransportFeedback(feedback) => {
                if let Some(bandwidth) = &mut self.transports[index].bandwidth {
                    bandwidth.handle_feedback(&feedback, now);
                    has_estimate = true;
                }
            }
            RtcpMessage::ReceiverEstimate { bitrate } => {
                has_estimate |= self.note_receiver_estimate(index, bitrate, now);
            }
            RtcpMessage::Goodbye { ssrc } => self.note_goodbye(index, ssrc),
        });
        for (ssrc, sequence) in lost {
            self.retransmit(index, ssrc, sequence, now);
        }
        if has_estimate {
            self.retarget(index);
        }
    }

    /// Takes a REMB where the subscriber sends no transport-wide feedback.
    fn note_receiver_estimate(&mut self, index: usize, bitrate: u64, now: Instant) -> bool {
        let transport = &mut self.transports[index];
        let has_feedback =
            transport.senders.iter().any(|sender| sender.config.extensions.transport_cc.is_some());
        if has_feedback || transport.senders.is_empty() {
            return false;
        }
        transport
            .bandwidth
            .get_or_insert_with(|| Box::new(Bandwidth::new(now)))
            .handle_receiver_estimate(bitrate, now);
        true
    }

    /// Takes a reception report; whether the estimate rose.
    fn note_reception(
        &mut self,
        index: usize,
        ssrc: u32,
        (fraction_lost, jitter, last_report, delay): (u8, u32, u32, Duration),
        now: Instant,
    ) -> bool {
        let transport = &mut self.transports[index];
        let Some(sender) = transport.senders.iter_mut().find(|s| s.ssrc().ssrc == ssrc) else {
            return false;
        };
        sender.note_reception(fraction_lost, jitter);
        let Some(sent_at) = sender.reported_at(last_report) else { return false };
        let round_trip = now.saturating_duration_since(sent_at).saturating_sub(delay);
        transport.round_trip = Some(round_trip);
        let bandwidth = transport.bandwidth.as_mut();
        bandwidth.is_some_and(|bandwidth| bandwidth.handle_round_trip(sent_at, round_trip, now))
    }

    fn note_goodbye(&mut self, index: usize, ssrc: u32) {
        let transport = &self.transports[index];
        let Some(stream) = transport.streams.get(&ssrc).filter(|stream| !stream.is_rtx) else {
            return;
        };
        let key = transport.receivers[stream.receiver].track;
        if let Some(track) = self.tracks.get_mut(&key)
            && let Some(layer) = track.layers.get_mut(usize::from(stream.layer))
        {
            layer.end();
        }
    }

    fn note_sender_report(
        &mut self,
        index: usize,
        ssrc: u32,
        ntp: u64,
        rtp_timestamp: u32,
        now: Instant,
    ) {
        let transport = &self.transports[index];
        let Some(stream) = transport.streams.get(&ssrc).filter(|stream| !stream.is_rtx) else {
            return;
        };
        let (key, layer_index) = (transport.receivers[stream.receiver].track, stream.layer);
        if let Some(track) = self.tracks.get_mut(&key)
            && let Some(layer) = track.layers.get_mut(usize::from(layer_index))
        {
            layer.handle_sender_report(ntp, rtp_timestamp, now);
            let content = SiblingContent::Clock { ntp, rtp_timestamp, at: now };
            self.export(key, layer_index, &content);
            self.mirror(key, layer_index, &content, now);
        }
    }

    fn note_key_frame_request(&mut self, index: usize, ssrc: u32) {
        let transport = &self.transports[index];
        let Some(sender) = transport.senders.iter().find(|s| s.config.ssrc.ssrc == ssrc) else {
            return;
        };
        let Some(track) = self.tracks.get_mut(&sender.config.track) else { return };
        let stream = sender.current().or_else(|| sender.target()).map(|selection| selection.stream);
        if let Some(layer) = stream.and_then(|stream| track.layers.get_mut(usize::from(stream))) {
            layer.want_key_frame();
            let key = sender.config.track;
            self.mark_restless(key);
        }
    }

    /// Asks publishers for what is missing: lost packets and key frames.
    pub(super) fn request_missing(&mut self, now: Instant) {
        let (mut lost, mut wishes) = (Vec::new(), Vec::new());
        let mut restless = std::mem::take(&mut self.restless);
        restless.retain(|key| {
            let Some(track) = self.tracks.get_mut(key) else { return false };
            if track.may_wait {
                let transports = &self.transports;
                let waits =
                    |route: &Route| transports[route.transport].senders[route.sender].waits_for();
                track.may_wait = false;
                for stream in track.routes.iter().filter_map(waits) {
                    track.may_wait = true;
                    if let Some(layer) = track.layers.get_mut(usize::from(stream)) {
                        layer.want_key_frame();
                    }
                }
            }
            let publisher = match track.source {
                Source::Transport(index) => index,
                Source::Sibling(_) | Source::Mirror { .. } => {
                    // The track itself asks for what was lost; key frames are our wish.
                    for (index, layer) in track.layers.iter_mut().enumerate() {
                        if layer.take_key_frame_request(now) {
                            wishes.push((*key, track.source, index as u8));
                        }
                    }
                    track.is_restless = track.has_requests();
                    return track.is_restless;
                }
            };
            let index = publisher;
            let publisher = &mut self.transports[index];
            let sender = publisher.feedback_ssrc;
            let mut compound = Vec::new();
            for layer in &mut track.layers {
                let Some(media) = layer.ssrc else { continue };
                lost.clear();
                layer.due_nacks(now, &mut lost);
                if !lost.is_empty() {
                    write_nack(&mut compound, sender, media, &lost);
                }
                if layer.take_key_frame_request(now) {
                    write_pli(&mut compound, sender, media);
                }
            }
            if !compound.is_empty() {
                publisher.send_rtcp(compound);
                if !publisher.is_dirty {
                    publisher.is_dirty = true;
                    self.dirty.push(index);
                }
            }
            track.is_restless = track.has_requests();
            track.is_restless
        });
        self.restless = restless;
        for (key, source, layer) in wishes {
            self.pass_on_wish(key, source, layer);
        }
    }

    /// Asks for a key frame where the track comes from.
    fn pass_on_wish(&mut self, track: TrackKey, source: Source, layer: u8) {
        match source {
            Source::Transport(_) => {}
            Source::Sibling(worker) => {
                let content = SiblingContent::KeyFrameRequest;
                self.sibling_messages.push_back((worker, SiblingMessage { track, layer, content }));
            }
            Source::Mirror { of, .. } => {
                let layers = self.tracks.get_mut(&of).map(|track| &mut track.layers);
                if let Some(layer) = layers.and_then(|layers| layers.get_mut(usize::from(layer))) {
                    layer.want_key_frame();
                    self.mark_restless(of);
                    return;
                }
                // It is received at another node, if anywhere.
                self.put_on_trunk(of, layer, &SiblingContent::KeyFrameRequest);
            }
        }
    }

    /// Reports of a transport that are due.
    pub(super) fn send_reports(&mut self, index: usize, now: Instant) {
        let transport = &mut self.transports[index];
        if transport.srtp.is_none() {
            return;
        }
        let mut compound = Vec::new();
        if now >= transport.next_feedback && transport.arrivals.has_feedback() {
            transport.next_feedback = now + INTERVAL;
            let media = transport.streams.keys().next().copied().unwrap_or_default();
            transport.arrivals.write(&mut compound, (transport.feedback_ssrc, media));
        }
        if now >= transport.next_report {
            transport.next_report = now + REPORT_INTERVAL;
            let mut blocks = Vec::new();
            for receiver in &transport.receivers {
                if let Some(track) = self.tracks.get_mut(&receiver.track) {
                    blocks.extend(track.layers.iter_mut().filter_map(|layer| layer.report(now)));
                }
            }
            for blocks in blocks.chunks(31) {
                write_receiver_report(&mut compound, transport.feedback_ssrc, blocks, CNAME);
            }
            for sender in &mut transport.senders {
                let clock = sender.current().and_then(|current| {
                    let track = self.tracks.get(&sender.config.track)?;
                    track.layers.get(usize::from(current.stream))?.clock(now)
                });
                if let Some(report) = sender.report(clock, now) {
                    write_sender_report(&mut compound, &report, CNAME);
                }
            }
        }
        if !compound.is_empty() {
            transport.send_rtcp(compound);
            self.mark_dirty(index);
        }
        self.report_statistics(index, now);
    }

    /// Tells each room how loud its audio tracks were.
    pub(super) fn report_levels(&mut self) {
        let mut rooms: FxHashMap<RoomKey, Vec<(TrackKey, AudioLevel)>> = FxHashMap::default();
        for (key, track) in &mut self.tracks {
            if let Some(level) = track.take_level() {
                rooms.entry(track.room).or_default().push((*key, level));
            }
        }
        for (room, levels) in rooms {
            self.emit(room, MediaEvent::AudioLevels(levels));
        }
    }
}
