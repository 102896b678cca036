//! What is due when. A transport without media costs nothing until its next deadline.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

use super::super::TrackKey;
use super::super::parameters::AUDIO_LEVEL_INTERVAL;
use super::Engine;
use super::audibility::AUDIBILITY_TICK;

/// How often tracks that miss something are looked at: below the patience of NACK.
const REQUEST_TICK: Duration = Duration::from_millis(5);
/// How often it is looked which layers fell silent.
const ACTIVITY_TICK: Duration = Duration::from_millis(50);
/// Deadlines closer together than this are met together.
const GRAIN: Duration = Duration::from_millis(1);

/// Deadlines of an engine.
#[derive(Debug, Default)]
pub(super) struct Timers {
    /// Deadline, index and serial number of transports. An entry that is not the transport's
    /// own [`super::Transport::wake`] is outdated.
    transports: BinaryHeap<Reverse<(Instant, usize, u64)>>,
    requests: Option<Instant>,
    activity: Option<Instant>,
    levels: Option<Instant>,
    audibility: Option<Instant>,
}

impl Engine {
    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.now = now;
        while let Some(&Reverse((at, index, serial))) = self.timers.transports.peek()
            && at <= now
        {
            self.timers.transports.pop();
            let is_current = self
                .transports
                .get(index)
                .is_some_and(|transport| transport.serial == serial && transport.wake == Some(at));
            if is_current {
                self.transports[index].wake = None;
                self.tick_transport(index, now);
            }
        }
        let is_due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        if is_due(self.timers.requests) {
            self.request_missing(now);
            self.timers.requests = (!self.restless.is_empty()).then_some(now + REQUEST_TICK);
        }
        if is_due(self.timers.audibility) {
            self.choose_audible(now);
            let is_needed = !self.audio_limits.is_empty() && !self.tracks.is_empty();
            self.timers.audibility = is_needed.then_some(now + AUDIBILITY_TICK);
        }
        let has_tracks = !self.tracks.is_empty();
        if is_due(self.timers.activity) {
            self.note_silence(now);
            self.timers.activity = has_tracks.then_some(now + ACTIVITY_TICK);
        }
        if is_due(self.timers.levels) {
            self.report_levels();
            self.timers.levels = has_tracks.then_some(now + AUDIO_LEVEL_INTERVAL);
        }
    }

    /// When [`Self::handle_timeout`] has something to do.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let Timers { transports, requests, activity, levels, audibility } = &self.timers;
        let transport = transports.peek().map(|Reverse((at, _, _))| *at);
        [transport, *requests, *activity, *levels, *audibility].into_iter().flatten().min()
    }

    /// Looks at a transport at `at` at the latest.
    pub(super) fn schedule(&mut self, index: usize, at: Instant) {
        let transport = &mut self.transports[index];
        if transport.wake.is_none_or(|wake| at < wake) {
            transport.wake = Some(at);
            self.timers.transports.push(Reverse((at, index, transport.serial)));
        }
    }

    /// Looks at a transport when something of it is due.
    pub(super) fn reschedule(&mut self, index: usize) {
        let at = self.transports[index].next_due().max(self.now + GRAIN);
        self.schedule(index, at);
    }

    /// A track may have to ask its publisher for something.
    pub(super) fn mark_restless(&mut self, key: TrackKey) {
        if let Some(track) = self.tracks.get_mut(&key)
            && !track.is_restless
        {
            track.is_restless = true;
            self.restless.push(key);
            self.timers.requests.get_or_insert(self.now + REQUEST_TICK);
        }
    }

    /// Tracks exist from now on.
    pub(super) fn start_track_timers(&mut self) {
        self.timers.activity.get_or_insert(self.now + ACTIVITY_TICK);
        self.timers.levels.get_or_insert(self.now + AUDIO_LEVEL_INTERVAL);
        if !self.audio_limits.is_empty() {
            self.timers.audibility.get_or_insert(self.now + AUDIBILITY_TICK);
        }
    }

    fn tick_transport(&mut self, index: usize, now: Instant) {
        let transport = &mut self.transports[index];
        if now >= transport.ice.expires_at() {
            return self.fail(index);
        }
        let is_due = |deadline: Option<Instant>| deadline.is_some_and(|deadline| deadline <= now);
        if let Some(dtls) = &mut transport.dtls
            && is_due(dtls.poll_timeout())
        {
            dtls.handle_timeout(now);
            return self.poll_dtls(index, now);
        }
        if let Some(data) = &mut transport.data
            && is_due(data.poll_timeout())
        {
            data.handle_timeout(now);
            self.poll_data(index);
            self.mark_control(index, now);
        }
        self.send_reports(index, now);
        self.probe(index, now);
        if !self.transports[index].outbox.is_empty() {
            self.mark_dirty(index);
        }
        self.reschedule(index);
    }
}
