//! Who gets which track, and in which quality.

use std::collections::BTreeMap;

use livekit_protocol::{
    self as proto, SubscriptionError, UpdateSubscription, UpdateTrackSettings, signal_response,
};

use super::Room;
use super::participant::{Participant, ParticipantKey};
use super::publishing::{LiveTrack, quality_for_size};
use super::sections::Wanted;
use crate::media::{TrackKey, VideoQuality};
use crate::sdp::Msid;

/// A participant's wish about a track; kept when it unsubscribes, so that automatic
/// subscription does not bring the track back.
#[derive(Debug, Clone)]
pub(super) struct Subscription {
    pub(super) desired: bool,
    /// The client has no codec for it.
    pub(super) failed: bool,
    disabled: bool,
    max_quality: VideoQuality,
    /// Pixels that the client shows; 0 is unknown.
    size: (u32, u32),
}

impl Subscription {
    fn new(desired: bool) -> Self {
        Self {
            desired,
            failed: false,
            disabled: false,
            max_quality: VideoQuality::High,
            size: (0, 0),
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
        Some(match quality_for_size(&track.layers, width, height) {
            proto::VideoQuality::Low => VideoQuality::Low,
            proto::VideoQuality::Medium => VideoQuality::Medium,
            proto::VideoQuality::High | proto::VideoQuality::Off => VideoQuality::High,
        })
    }
}

impl Room {
    /// Forgets tracks that ended and subscribes to new ones where that is automatic.
    pub(super) fn sync_subscriptions(&mut self, key: ParticipantKey) {
        let Some(participant) = self.participants.get_mut(&key) else { return };
        participant.subscriptions.retain(|track, _| self.tracks.contains_key(track));
        if !participant.auto_subscribe {
            return;
        }
        for (track, live) in &self.tracks {
            if live.publisher != key {
                participant.subscriptions.entry(*track).or_insert_with(|| Subscription::new(true));
            }
        }
    }

    /// What `participant` shall get now.
    pub(super) fn wanted(&self, participant: &Participant) -> BTreeMap<TrackKey, Wanted> {
        if !participant.permission.can_subscribe {
            return BTreeMap::new();
        }
        participant
            .subscriptions
            .iter()
            .filter(|(_, subscription)| subscription.desired && !subscription.failed)
            .filter_map(|(key, _)| Some((*key, self.tracks.get(key)?)))
            .filter(|(_, track)| self.may_subscribe(participant, track))
            .map(|(key, track)| {
                let msid = Msid {
                    stream: format!("{}|{}", track.publisher_sid, track.sid),
                    track: track.sid.clone(),
                };
                let (kind, sid, codecs) = (track.kind, track.sid.clone(), track.codecs.clone());
                (key, Wanted { kind, sid, msid, codecs })
            })
            .collect()
    }

    fn may_subscribe(&self, participant: &Participant, track: &LiveTrack) -> bool {
        let publisher = self.participants.get(&track.publisher);
        let Some(rules) = publisher.and_then(|publisher| publisher.subscribers.as_ref()) else {
            return true;
        };
        rules.all_participants
            || rules.track_permissions.iter().any(|rule| {
                (rule.participant_sid == participant.sid.as_str()
                    || rule.participant_identity == participant.identity.as_str())
                    && (rule.all_tracks || rule.track_sids.contains(&track.sid))
            })
    }

    pub(super) fn update_subscription(&mut self, key: ParticipantKey, update: &UpdateSubscription) {
        let sids = update
            .track_sids
            .iter()
            .chain(update.participant_tracks.iter().flat_map(|tracks| &tracks.track_sids));
        for sid in sids {
            match self.track_by_sid(sid) {
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
        let subscription =
            participant.subscriptions.entry(track).or_insert_with(|| Subscription::new(desired));
        subscription.desired = desired;
        subscription.failed = false;
    }

    pub(super) fn update_track_settings(
        &mut self,
        key: ParticipantKey,
        settings: &UpdateTrackSettings,
    ) {
        for sid in &settings.track_sids {
            let Some(track) = self.track_by_sid(sid) else { continue };
            let Some(participant) = self.participants.get_mut(&key) else { return };
            let Some(subscription) = participant.subscriptions.get_mut(&track) else { continue };
            subscription.size = (settings.width, settings.height);
            subscription.disabled =
                settings.disabled || settings.quality() == proto::VideoQuality::Off;
            subscription.max_quality = match settings.quality() {
                proto::VideoQuality::Low => VideoQuality::Low,
                proto::VideoQuality::Medium => VideoQuality::Medium,
                proto::VideoQuality::High | proto::VideoQuality::Off => VideoQuality::High,
            };
        }
        self.dirty.insert(key);
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
            self.dirty.insert(subscriber);
        }
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
            self.subscription_failed(key, sid, SubscriptionError::SeCodecUnsupported);
        }
    }

    fn subscription_failed(&mut self, key: ParticipantKey, sid: String, error: SubscriptionError) {
        let response = proto::SubscriptionResponse { track_sid: sid, err: error.into() };
        self.send(key, signal_response::Message::SubscriptionResponse(response));
    }

    pub(super) fn track_by_sid(&self, sid: &str) -> Option<TrackKey> {
        self.tracks.iter().find(|(_, track)| track.sid == sid).map(|(key, _)| *key)
    }
}
