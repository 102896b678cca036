//! What each subscriber gets: the layers that it wants, as far as its network carries them.

use std::time::Instant;

use super::super::allocator::{Demand, allocate};
use super::super::bandwidth::START;
use super::super::codec::MAX_SPATIAL;
use super::super::parameters::{MediaKind, SILENCE, STATISTICS_INTERVAL};
use super::super::sender::{Selection, SenderState};
use super::super::track::Track;
use super::super::transport::REPORT_INTERVAL;
use super::super::{MediaEvent, StreamStatistics, TrackKey, TransportStatistics};
use super::Engine;

/// Time between looks at a probe that runs.
const PROBE_TICK: std::time::Duration = std::time::Duration::from_millis(5);
/// Of the estimate, what media may use: the rest is for reports, headers and repeats.
const USABLE: f64 = 0.95;

impl Engine {
    /// Chooses the layers of all tracks of a subscriber anew.
    pub(super) fn retarget(&mut self, index: usize) {
        let transport = &self.transports[index];
        let (mut demands, mut choices, mut audio) = (Vec::new(), Vec::new(), 0.0);
        for state in &transport.senders {
            let steps = wanted(state, self.tracks.get(&state.config.track));
            if state.config.kind == MediaKind::Audio {
                audio += steps.first().map_or(0.0, |(_, rate)| *rate);
            }
            let is_video = state.config.kind == MediaKind::Video;
            demands.push(Demand {
                priority: state.config.priority,
                current: state
                    .target()
                    .and_then(|now| steps.iter().rposition(|(step, _)| is_below(step, &now))),
                steps: steps.iter().filter(|_| is_video).map(|(_, rate)| *rate).collect(),
            });
            choices.push(steps);
        }
        // A subscriber that will tell of every packet begins with what is assumed, one that may
        // never tell anything with everything.
        let tells = |state: &SenderState| state.config.extensions.transport_cc.is_some();
        let assumed = || transport.senders.iter().any(tells).then_some(START);
        let limit = transport.bandwidth_limit;
        let estimate = transport.estimate().or_else(assumed).into_iter().chain(limit).min();
        let within = |factor: f64| {
            estimate.map_or(f64::INFINITY, |estimate| estimate as f64 * USABLE * factor - audio)
        };
        let may_pause = transport.senders.iter().all(|sender| sender.config.may_pause);
        let was_congested = transport.bandwidth.as_ref().is_some_and(|b| b.was_congested());
        let keep_lowest = !may_pause || limit.is_none() && !was_congested;
        let followed = transport.bandwidth.as_ref().filter(|_| limit.is_none());
        let slack = followed.map_or(1.0, |bandwidth| bandwidth.slack());
        let for_lowest = if keep_lowest { f64::INFINITY } else { within(slack) };
        let allocation = allocate(&demands, within(1.0), for_lowest);
        let transport = &mut self.transports[index];
        if let Some(bandwidth) = &mut transport.bandwidth {
            // A limit is not probed for what is beyond it.
            let need = allocation.need.filter(|_| limit.is_none());
            bandwidth.set_need(need.map(|need| ((need + audio) / USABLE) as u64));
        }
        for (position, steps) in choices.iter().enumerate() {
            let kind = self.transports[index].senders[position].config.kind;
            let is_video = kind == MediaKind::Video;
            let chosen = if is_video { allocation.steps[position] } else { Some(0) };
            let target = chosen.and_then(|step| steps.get(step)).map(|(selection, _)| *selection);
            let is_starved = is_video && target.is_none() && !steps.is_empty();
            self.set_target(index, position, target, is_starved);
        }
        self.reschedule(index);
    }

    fn set_target(
        &mut self,
        index: usize,
        position: usize,
        target: Option<Selection>,
        is_starved: bool,
    ) {
        let transport = &mut self.transports[index];
        let state = &mut transport.senders[position];
        let track = state.config.track;
        if state.is_starved != is_starved {
            state.is_starved = is_starved;
            let event =
                MediaEvent::StreamState { transport: transport.id, track, is_paused: is_starved };
            self.events.push_back((transport.room, event));
        }
        if state.target() == target {
            return;
        }
        state.set_target(target);
        if state.waits_for().is_some()
            && let Some(track) = self.tracks.get_mut(&track)
        {
            track.may_wait = true;
        }
        self.mark_restless(track);
    }

    /// Chooses anew for all subscribers of a track.
    pub(super) fn retarget_routes(&mut self, key: TrackKey) {
        let Some(track) = self.tracks.get(&key) else { return };
        let mut indices: Vec<usize> = track.routes.iter().map(|route| route.transport).collect();
        indices.dedup();
        for index in indices {
            self.retarget(index);
        }
    }

    /// Looks which layers fell silent, and follows their rates.
    pub(super) fn note_silence(&mut self, now: Instant) {
        let changed: Vec<TrackKey> = self
            .tracks
            .iter_mut()
            .filter_map(|(key, track)| track.refresh_active(now).then_some(*key))
            .collect();
        for key in changed {
            self.retarget_routes(key);
        }
    }

    /// Sends padding that is due to learn of spare bandwidth.
    pub(super) fn probe(&mut self, index: usize, now: Instant) {
        let transport = &mut self.transports[index];
        let Some(bandwidth) = &mut transport.bandwidth else { return };
        let padding = bandwidth.poll_padding(now);
        let (is_running, is_over) = (bandwidth.is_probing(), bandwidth.take_report_wish(now));
        if let Some(padding) = padding {
            transport.padding = padding.bytes;
            self.mark_dirty(index);
        }
        if is_running {
            self.schedule(index, now + PROBE_TICK);
        }
        if is_over {
            self.transports[index].next_report = now;
            self.send_reports(index, now);
            // Its answer shall come before another report leaves.
            self.transports[index].next_report = now + 2 * REPORT_INTERVAL;
        }
    }

    /// Tells the room how a transport did, when that is due.
    pub(super) fn report_statistics(&mut self, index: usize, now: Instant) {
        let transport = &mut self.transports[index];
        if now < transport.next_statistics {
            return;
        }
        transport.next_statistics = now + STATISTICS_INTERVAL;
        let mut received = Vec::new();
        for receiver in &transport.receivers {
            let Some(track) = self.tracks.get_mut(&receiver.track) else { continue };
            let layers = track.layers.iter_mut().map(super::super::layer::Layer::take_received);
            let best = layers.enumerate().filter(|(_, layer)| layer.packets > 0).last();
            received.extend(best.map(|(layer, counts)| StreamStatistics {
                track: receiver.track,
                packets: counts.packets,
                bytes: counts.bytes,
                lost: counts.lost,
                jitter_ms: counts.jitter_ms,
                layer: layer as u8,
            }));
        }
        let sent: Vec<_> = transport.senders.iter_mut().filter_map(take_sent).collect();
        // Who publishes and sends nothing may be out of reach.
        if received.is_empty() && sent.is_empty() && transport.receivers.is_empty() {
            return;
        }
        let heard = transport.ice.last_check().max(transport.last_rtcp);
        let is_silent = received.is_empty() && now.duration_since(heard) > SILENCE;
        let event = MediaEvent::Statistics(TransportStatistics {
            transport: transport.id,
            round_trip: transport.round_trip.or_else(|| transport.bandwidth.as_ref()?.round_trip()),
            estimate: transport.estimate(),
            is_silent,
            received,
            sent,
        });
        self.events.push_back((transport.room, event));
    }
}

/// What a subscriber may get of a track, in rising quality.
fn wanted(state: &SenderState, track: Option<&Track>) -> Vec<(Selection, f64)> {
    let (Some(track), Some(quality)) = (track, state.config.max_quality) else {
        return Vec::new();
    };
    match state.config.kind {
        MediaKind::Video => track.steps(quality, state.config.max_frame_rate),
        MediaKind::Audio => {
            vec![(Selection { stream: 0, spatial: 0, temporal: 0 }, track.rate())]
        }
    }
}

fn is_below(step: &Selection, current: &Selection) -> bool {
    (step.stream, step.spatial) <= (current.stream, current.spatial)
}

/// What went out since the last call, if anything did.
fn take_sent(state: &mut SenderState) -> Option<StreamStatistics> {
    let (now, before) = (state.statistics, state.reported);
    state.reported = now;
    let packets = now.packets.wrapping_sub(before.packets);
    if packets == 0 {
        return None;
    }
    let clock_rate = if state.config.kind == MediaKind::Video { 90.0 } else { 48.0 };
    Some(StreamStatistics {
        track: state.config.track,
        packets: u64::from(packets),
        bytes: u64::from(now.octets.wrapping_sub(before.octets)),
        lost: (now.lost - before.lost).round() as u64,
        jitter_ms: f64::from(now.jitter) / clock_rate,
        layer: state.current().map_or(0, |current| {
            if current.spatial < MAX_SPATIAL - 1 { current.spatial } else { current.stream }
        }),
    })
}
