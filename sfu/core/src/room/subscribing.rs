//! Who gets which track, and in which quality.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use livekit_protocol::participant_info::Kind;
use livekit_protocol::{
    self as proto, SubscriptionError, UpdateSubscription, UpdateTrackSettings, signal_response,
};

use tracing::debug;

use super::Room;
use super::participant::{Participant, ParticipantKey};
use super::publishing::{LiveTrack, quality_for_size};
use super::sections::{self, WantedTracks};
use crate::media::{MediaKind, TrackKey, VideoQuality};

/// A participant's wish about a track; kept when it unsubscribes, so that automatic
/// subscription does not bring the track back.
#[derive(Debug, Clone)]
pub(super) struct Subscription {
    pub(super) desired: bool,
    /// The client has no codec for it.
    pub(super) failed: bool,
    /// Rises with every subscription of a participant.
    order: u64,
    pub(super) settings: TrackSettings,
}

/// What the client said of a track that it gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TrackSettings {
    disabled: bool,
    max_quality: VideoQuality,
    /// Pixels that the client shows; 0 is unknown.
    size: (u32, u32),
    /// Frames a second; `None` without a limit.
    pub(super) max_frame_rate: Option<u32>,
    /// 1 is served first; 0 is not said.
    pub(super) priority: u32,
}

impl TrackSettings {
    /// Before the client says anything: the best, or where it is going to say what it shows,
    /// what is shown soonest.
    fn initial(adaptive_stream: bool) -> Self {
        let max_quality = if adaptive_stream { VideoQuality::Low } else { VideoQuality::High };
        Self { disabled: false, max_quality, size: (0, 0), max_frame_rate: None, priority: 0 }
    }

    fn new(update: &UpdateTrackSettings) -> Self {
        Self {
            disabled: update.disabled || update.quality() == proto::VideoQuality::Off,
            max_quality: best_quality(update.quality()),
            size: (update.width, update.height),
            max_frame_rate: (update.fps > 0).then_some(update.fps),
            priority: update.priority,
        }
    }

    /// The best layer to send; `None` pauses.
    pub(super) fn quality(&self, track: &LiveTrack) -> Option<VideoQuality> {
        if self.disabled {
            return None;
        }
        let (width, height) = self.size;
        if width == 0 || height == 0 {
            return Some(self.max_quality);
        }
        Some(best_quality(quality_for_size(&track.layers, width, height)))
    }
}

fn best_quality(quality: proto::VideoQuality) -> VideoQuality {
    match quality {
        proto::VideoQuality::Low => VideoQuality::Low,
        proto::VideoQuality::Medium => VideoQuality::Medium,
        proto::VideoQuality::High | proto::VideoQuality::Off => VideoQuality::High,
    }
}

impl Participant {
    /// The wish about a track; a new one is `desired`.
    fn subscription(&mut self, track: TrackKey, desired: bool) -> &mut Subscription {
        let count = &mut self.subscription_count;
        let adaptive_stream = self.adaptive_stream;
        self.subscriptions.entry(track).or_insert_with(|| {
            *count += 1;
            Subscription {
                desired,
                failed: false,
                order: *count,
                settings: TrackSettings::initial(adaptive_stream),
            }
        })
    }

    /// Records the room; publishers cannot keep it out.
    pub(super) fn is_recorder(&self) -> bool {
        #[expect(deprecated, reason = "tokens of older recorders say it so")]
        let recorder = self.permission.recorder;
        recorder || self.kind == Kind::Egress
    }
}

impl Room {
    /// Brings what a participant shall get in line with the whole room.
    pub(super) fn refresh_wanted(&mut self, key: ParticipantKey) {
        let Some(participant) = self.participants.get_mut(&key) else { return };
        participant.subscriptions.retain(|track, _| self.tracks.contains_key(track));
        if participant.auto_subscribe {
            for (track, _) in self.tracks.iter().filter(|(_, live)| live.publisher != key) {
                participant.subscription(*track, true);
            }
        }
        let Some(participant) = self.participants.get(&key) else { return };
        let mut wanted: WantedTracks = participant
            .subscriptions
            .keys()
            .filter(|track| self.is_wanted(participant, **track))
            .filter_map(|track| Some((*track, Arc::clone(&self.tracks.get(track)?.wanted))))
            .collect();
        self.keep_to_limits(participant, &mut wanted);
        if let Some(participant) = self.participants.get_mut(&key) {
            participant.wanted = wanted;
        }
    }

    /// The same where only `changed` tracks began, ended, or came under other rules: a room of
    /// many must not look at every track of everybody for each. Tells whether it mattered.
    pub(super) fn refresh_wanted_tracks(
        &mut self,
        key: ParticipantKey,
        changed: &BTreeSet<TrackKey>,
    ) -> bool {
        let config = &self.options.config;
        if config.subscription_limit_audio > 0 || config.subscription_limit_video > 0 {
            // A track that leaves makes room for others.
            self.refresh_wanted(key);
            return true;
        }
        let mut mattered = false;
        for track in changed {
            let Some(participant) = self.participants.get_mut(&key) else { return false };
            match self.tracks.get(track) {
                None => drop(participant.subscriptions.remove(track)),
                Some(live) if live.publisher == key => continue,
                Some(_) if participant.auto_subscribe => {
                    participant.subscription(*track, true);
                }
                Some(_) => {}
            }
            let Some(participant) = self.participants.get(&key) else { return false };
            let wanted = self
                .tracks
                .get(track)
                .filter(|_| self.is_wanted(participant, *track))
                .map(|live| Arc::clone(&live.wanted));
            let Some(participant) = self.participants.get_mut(&key) else { return false };
            mattered |= match wanted {
                Some(wanted) => {
                    let before = participant.wanted.insert(*track, Arc::clone(&wanted));
                    before.is_none_or(|before| !Arc::ptr_eq(&before, &wanted))
                }
                None => participant.wanted.remove(track).is_some(),
            };
        }
        mattered
    }

    fn is_wanted(&self, participant: &Participant, track: TrackKey) -> bool {
        participant.permission.can_subscribe
            && participant
                .subscriptions
                .get(&track)
                .is_some_and(|subscription| subscription.desired && !subscription.failed)
            && self.tracks.get(&track).is_some_and(|live| self.may_subscribe(participant, live))
    }

    /// Leaves out what exceeds the limits: the lowest priorities, and of one priority the
    /// latest subscriptions.
    fn keep_to_limits(&self, participant: &Participant, wanted: &mut WantedTracks) {
        let config = &self.options.config;
        for (kind, limit) in [
            (MediaKind::Audio, config.subscription_limit_audio),
            (MediaKind::Video, config.subscription_limit_video),
        ] {
            if limit == 0 {
                continue;
            }
            let rank = |track: &TrackKey| {
                let subscription = participant.subscriptions.get(track);
                subscription.map(|s| (s.settings.priority.wrapping_sub(1), s.order))
            };
            let mut tracks: Vec<TrackKey> = wanted
                .iter()
                .filter(|(_, wanted)| wanted.kind == kind)
                .map(|(track, _)| *track)
                .collect();
            tracks.sort_by_key(rank);
            for track in tracks.iter().skip(usize::try_from(limit).unwrap_or(usize::MAX)) {
                wanted.remove(track);
            }
        }
    }

    fn may_subscribe(&self, participant: &Participant, track: &LiveTrack) -> bool {
        self.is_allowed(participant, track.publisher, &track.sid)
    }

    /// Whether the publisher lets a participant have one of its tracks.
    pub(super) fn is_allowed(
        &self,
        participant: &Participant,
        publisher: ParticipantKey,
        sid: &str,
    ) -> bool {
        let Some(publisher) = self.participants.get(&publisher) else { return false };
        // Nobody sees a hidden participant or its tracks.
        if publisher.permission.hidden {
            return false;
        }
        let Some(rules) = publisher.subscribers.as_ref() else { return true };
        rules.all_participants
            || participant.is_recorder()
            || rules.track_permissions.iter().any(|rule| {
                (rule.participant_sid == participant.sid.as_str()
                    || rule.participant_identity == participant.identity.as_str())
                    && (rule.all_tracks || rule.track_sids.iter().any(|allowed| allowed == sid))
            })
    }

    pub(super) fn update_subscription(&mut self, key: ParticipantKey, update: &UpdateSubscription) {
        let sids = update
            .track_sids
            .iter()
            .chain(update.participant_tracks.iter().flat_map(|tracks| &tracks.track_sids));
        debug!(room = %self.options.name, ?update, "Subscribes or gives up");
        for sid in sids {
            match self.visible_track(sid) {
                Some(track) => self.subscribe(key, track, update.subscribe),
                None if update.subscribe => {
                    self.subscription_failed(key, sid.clone(), SubscriptionError::SeTrackNotfound);
                }
                None => {}
            }
        }
        self.dirty.insert(key);
    }

    fn subscribe(&mut self, key: ParticipantKey, track: TrackKey, desired: bool) {
        let own = self.tracks.get(&track).is_some_and(|track| track.publisher == key);
        let Some(participant) = self.participants.get_mut(&key) else { return };
        if own {
            return;
        }
        let subscription = participant.subscription(track, desired);
        subscription.desired = desired;
        subscription.failed = false;
        if !desired {
            sections::release_track(&mut participant.outbound, track);
        }
    }

    pub(super) fn update_track_settings(
        &mut self,
        key: ParticipantKey,
        update: &UpdateTrackSettings,
    ) {
        for sid in &update.track_sids {
            self.change_settings(key, sid, |settings| *settings = TrackSettings::new(update));
        }
    }

    /// Tracks that a client which resumes had paused.
    pub(super) fn disable_tracks(&mut self, key: ParticipantKey, sids: &[String]) {
        for sid in sids {
            self.change_settings(key, sid, |settings| settings.disabled = true);
        }
    }

    fn change_settings(
        &mut self,
        key: ParticipantKey,
        sid: &str,
        change: impl FnOnce(&mut TrackSettings),
    ) {
        let Some(track) = self.track_by_sid(sid) else { return };
        let Some(participant) = self.participants.get_mut(&key) else { return };
        if let Some(subscription) = participant.subscriptions.get_mut(&track) {
            change(&mut subscription.settings);
            self.dirty.insert(key);
        }
    }

    /// Sets who may subscribe to a publisher's tracks, and tells those for whom it changed.
    pub(super) fn set_subscribers(
        &mut self,
        key: ParticipantKey,
        rules: proto::SubscriptionPermission,
    ) {
        let before = self.allowed_subscribers(key);
        let Some(publisher) = self.participants.get_mut(&key) else { return };
        let participant_sid = publisher.sid.to_string();
        publisher.subscribers = Some(rules);
        let after = self.allowed_subscribers(key);
        for ((subscriber, track), allowed) in after {
            if before.get(&(subscriber, track)) == Some(&allowed) {
                continue;
            }
            let Some(live) = self.tracks.get(&track) else { continue };
            let update = proto::SubscriptionPermissionUpdate {
                participant_sid: participant_sid.clone(),
                track_sid: live.sid.clone(),
                allowed,
            };
            self.send(subscriber, signal_response::Message::SubscriptionPermissionUpdate(update));
            self.changed_tracks.insert(track);
        }
        self.sync_data_subscriptions_of(key);
    }

    fn allowed_subscribers(
        &self,
        publisher: ParticipantKey,
    ) -> BTreeMap<(ParticipantKey, TrackKey), bool> {
        let tracks = self.tracks.iter().filter(|(_, track)| track.publisher == publisher);
        tracks
            .flat_map(|(key, track)| {
                self.participants
                    .iter()
                    .filter(|(other, _)| **other != publisher)
                    .map(|(other, p)| ((*other, *key), self.may_subscribe(p, track)))
            })
            .collect()
    }

    /// Gives up on tracks for which the client has no codec.
    pub(super) fn give_up(&mut self, key: ParticipantKey, tracks: Vec<(TrackKey, String)>) {
        for (track, sid) in tracks {
            let Some(participant) = self.participants.get_mut(&key) else { return };
            if let Some(subscription) = participant.subscriptions.get_mut(&track) {
                subscription.failed = true;
            }
            self.dirty.insert(key);
            self.subscription_failed(key, sid, SubscriptionError::SeCodecUnsupported);
        }
    }

    fn subscription_failed(&mut self, key: ParticipantKey, sid: String, error: SubscriptionError) {
        let response = proto::SubscriptionResponse { track_sid: sid, err: error.into() };
        self.send(key, signal_response::Message::SubscriptionResponse(response));
    }

    /// A track that others may know of.
    fn visible_track(&self, sid: &str) -> Option<TrackKey> {
        let track = self.track_by_sid(sid)?;
        let publisher = self.participants.get(&self.tracks.get(&track)?.publisher)?;
        (!publisher.permission.hidden).then_some(track)
    }

    pub(super) fn track_by_sid(&self, sid: &str) -> Option<TrackKey> {
        self.track_sids.get(sid).copied()
    }
}
