//! Data tracks: published and subscribed like media, sent as packets of the `_data_track`
//! channel. A packet names its track by a handle of 16 bits, the publisher's on the way in and
//! the subscriber's on the way out.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use bytes::Bytes;
use livekit_protocol::data_track_subscriber_handles::PublishedDataTrack;
use livekit_protocol::request_response::{Reason, Request};
use livekit_protocol::{
    self as proto, DataTrackInfo, PublishDataTrackRequest, UnpublishDataTrackRequest,
    UpdateDataSubscription, signal_response,
};
use tracing::debug;

use super::Room;
use super::participant::{Participant, ParticipantKey};
use crate::media::{DataChannelKind, TransportId};
use crate::time::Now;

/// Most data tracks of a participant.
const MAX_DATA_TRACKS: usize = 100;
/// Longest name, bytes.
const MAX_NAME_BYTES: usize = 256;
/// Shortest packet: its header.
const HEADER_BYTES: usize = 12;
/// Where the handle is in the header.
const HANDLE: std::ops::Range<usize> = 2..4;
/// Where the number of its frame is.
const FRAME: std::ops::Range<usize> = 6..8;

/// What a participant receives.
#[derive(Debug, Default)]
pub(super) struct DataSubscriptions {
    /// Wishes by track sid.
    wishes: HashMap<String, bool>,
    /// Highest frame rate by track sid, where one was said.
    rates: HashMap<String, FrameRate>,
    /// Handles by track sid, of the tracks that it gets.
    handles: BTreeMap<String, u16>,
    last_handle: u16,
}

impl DataSubscriptions {
    fn next_handle(&mut self) -> Option<u16> {
        // As many handles as tracks are in use; a free one is near.
        (0..u16::MAX).find_map(|_| {
            self.last_handle = self.last_handle.checked_add(1).unwrap_or(1);
            let free = !self.handles.values().any(|used| *used == self.last_handle);
            free.then_some(self.last_handle)
        })
    }
}

/// Frames of one track to one subscriber, as many a second as it wants.
#[derive(Debug)]
struct FrameRate {
    interval: Duration,
    /// When the next frame may go.
    next: Option<Instant>,
    /// The frame that goes; its packets carry its number.
    current: Option<[u8; 2]>,
}

impl FrameRate {
    /// Share of the interval that must have passed: frames do not come exactly on time.
    const TOLERANCE: f64 = 0.9;

    fn new(frames_per_second: u32) -> Self {
        let interval = Duration::from_secs(1) / frames_per_second.max(1);
        Self { interval: interval.mul_f64(Self::TOLERANCE), next: None, current: None }
    }

    /// Whether a packet of the frame of this number goes.
    fn takes(&mut self, frame: [u8; 2], now: Instant) -> bool {
        if self.current == Some(frame) {
            return true;
        }
        if self.next.is_some_and(|next| now < next) {
            return false;
        }
        self.next = Some(now + self.interval);
        self.current = Some(frame);
        true
    }
}

impl Room {
    pub(super) fn publish_data_track(
        &mut self,
        key: ParticipantKey,
        request: PublishDataTrackRequest,
        now: Now,
    ) {
        let Some(participant) = self.participants.get_mut(&key) else { return };
        if let Err((reason, message)) = check(participant, &request) {
            let request = Some(Request::PublishDataTrack(request));
            return self.respond(key, 0, reason, message, request);
        }
        let PublishDataTrackRequest { pub_handle, name, encryption, frame_encoding, schema } =
            request;
        let sid = contract::ids::generate_id("DTR_", &mut self.rng);
        let info = DataTrackInfo { pub_handle, sid, name, encryption, frame_encoding, schema };
        participant.data_tracks.push(info.clone());
        let response = proto::PublishDataTrackResponse { info: Some(info) };
        self.send(key, signal_response::Message::PublishDataTrackResponse(response));
        self.broadcast_participant(key, false, now);
        self.sync_data_subscriptions_of(key);
    }

    pub(super) fn unpublish_data_track(
        &mut self,
        key: ParticipantKey,
        request: UnpublishDataTrackRequest,
        now: Now,
    ) {
        let Some(participant) = self.participants.get_mut(&key) else { return };
        let known = participant.data_tracks.iter().position(|t| t.pub_handle == request.pub_handle);
        let Some(index) = known else {
            let request = Some(Request::UnpublishDataTrack(request));
            return self.respond(key, 0, Reason::NotFound, "data track is not found", request);
        };
        let info = participant.data_tracks.remove(index);
        self.data_track_ended(key, info, now);
    }

    /// Ends all data tracks of somebody who may no longer publish.
    pub(super) fn end_data_tracks(&mut self, key: ParticipantKey, now: Now) {
        let Some(participant) = self.participants.get_mut(&key) else { return };
        for info in std::mem::take(&mut participant.data_tracks) {
            self.data_track_ended(key, info, now);
        }
    }

    fn data_track_ended(&mut self, key: ParticipantKey, info: DataTrackInfo, now: Now) {
        let response = proto::UnpublishDataTrackResponse { info: Some(info) };
        self.send(key, signal_response::Message::UnpublishDataTrackResponse(response));
        self.broadcast_participant(key, false, now);
        self.sync_all_data_subscriptions();
    }

    pub(super) fn update_data_subscription(
        &mut self,
        key: ParticipantKey,
        update: &UpdateDataSubscription,
    ) {
        for update in &update.updates {
            let known = self.data_track_by_sid(&update.track_sid).is_some();
            let Some(participant) = self.participants.get_mut(&key) else { return };
            if known {
                let subscriptions = &mut participant.data_subscriptions;
                subscriptions.wishes.insert(update.track_sid.clone(), update.subscribe);
                let rate = update.options.as_ref().and_then(|options| options.target_fps);
                match rate.filter(|rate| update.subscribe && *rate > 0) {
                    Some(rate) => {
                        let rate = FrameRate::new(rate);
                        subscriptions.rates.insert(update.track_sid.clone(), rate);
                    }
                    None => drop(subscriptions.rates.remove(&update.track_sid)),
                }
            } else if update.subscribe {
                let response = proto::SubscriptionResponse {
                    track_sid: update.track_sid.clone(),
                    err: proto::SubscriptionError::SeTrackNotfound.into(),
                };
                self.send(key, signal_response::Message::SubscriptionResponse(response));
            }
        }
        self.sync_data_subscriptions(key);
    }

    fn data_track_by_sid(&self, sid: &str) -> Option<ParticipantKey> {
        let publisher =
            self.participants.iter().find(|(_, p)| p.data_tracks.iter().any(|t| t.sid == sid));
        publisher.map(|(key, _)| *key)
    }

    /// After one publisher's data tracks or rules changed.
    pub(super) fn sync_data_subscriptions_of(&mut self, publisher: ParticipantKey) {
        if self.participants.get(&publisher).is_some_and(|p| !p.data_tracks.is_empty()) {
            self.sync_all_data_subscriptions();
        }
    }

    pub(super) fn sync_all_data_subscriptions(&mut self) {
        let keys: Vec<ParticipantKey> = self.participants.keys().copied().collect();
        for key in keys {
            self.sync_data_subscriptions(key);
        }
    }

    /// Brings a subscriber's handles in line with what it may and wants to have, and tells it.
    pub(super) fn sync_data_subscriptions(&mut self, key: ParticipantKey) {
        let Some(participant) = self.participants.get(&key) else { return };
        let tracks = self.data_tracks_for(key, participant);
        let Some(participant) = self.participants.get_mut(&key) else { return };
        let subscriptions = &mut participant.data_subscriptions;
        let before = subscriptions.handles.clone();
        subscriptions.handles.retain(|sid, _| tracks.contains_key(sid));
        subscriptions.rates.retain(|sid, _| tracks.contains_key(sid));
        for sid in tracks.keys() {
            if !subscriptions.handles.contains_key(sid)
                && let Some(handle) = subscriptions.next_handle()
            {
                subscriptions.handles.insert(sid.clone(), handle);
            }
        }
        if subscriptions.handles == before {
            return;
        }
        let handles = subscriptions.handles.clone();
        self.tell_data_handles(key, &handles, &tracks);
    }

    fn tell_data_handles(
        &mut self,
        key: ParticipantKey,
        handles: &BTreeMap<String, u16>,
        tracks: &BTreeMap<String, PublishedDataTrack>,
    ) {
        let sub_handles = handles
            .iter()
            .filter_map(|(sid, handle)| Some((u32::from(*handle), tracks.get(sid)?.clone())))
            .collect();
        let message = proto::DataTrackSubscriberHandles { sub_handles };
        self.send(key, signal_response::Message::DataTrackSubscriberHandles(message));
    }

    /// Tells a client that resumed its handles, which it may have missed.
    pub(super) fn repeat_data_handles(&mut self, key: ParticipantKey) {
        let Some(participant) = self.participants.get(&key) else { return };
        let handles = participant.data_subscriptions.handles.clone();
        if !handles.is_empty() {
            let tracks = self.data_tracks_for(key, participant);
            self.tell_data_handles(key, &handles, &tracks);
        }
    }

    fn data_tracks_for(
        &self,
        key: ParticipantKey,
        subscriber: &Participant,
    ) -> BTreeMap<String, PublishedDataTrack> {
        if !subscriber.permission.can_subscribe {
            return BTreeMap::new();
        }
        let wishes = &subscriber.data_subscriptions.wishes;
        let wants =
            |sid: &str| wishes.get(sid).copied().unwrap_or(subscriber.auto_subscribe_data_track);
        self.participants
            .iter()
            .filter(|(other, p)| **other != key && !p.permission.hidden)
            .flat_map(|(publisher, p)| p.data_tracks.iter().map(move |t| (publisher, p, t)))
            .filter(|(publisher, _, track)| {
                wants(&track.sid) && self.is_allowed(subscriber, **publisher, &track.sid)
            })
            .map(|(_, publisher, track)| {
                let published = PublishedDataTrack {
                    publisher_identity: publisher.identity.to_string(),
                    publisher_sid: publisher.sid.to_string(),
                    track_sid: track.sid.clone(),
                };
                (track.sid.clone(), published)
            })
            .collect()
    }

    /// Forwards a packet to each subscriber under its own handle.
    pub(super) fn forward_data_track(&mut self, key: ParticipantKey, packet: &[u8], now: Now) {
        let Some(publisher) = self.participants.get(&key) else { return };
        let handle = packet.get(HANDLE).map(|bytes| u32::from(bytes[0]) << 8 | u32::from(bytes[1]));
        let track = publisher.data_tracks.iter().find(|t| Some(t.pub_handle) == handle);
        let sid = track.map(|track| track.sid.clone());
        let (Some(sid), Some(frame)) =
            (sid, packet.get(..HEADER_BYTES).and_then(|header| header.get(FRAME)))
        else {
            debug!(participant = %publisher.sid, "Packet of no data track");
            return;
        };
        let frame = [frame[0], frame[1]];
        let targets: Vec<(TransportId, u16)> = self
            .participants
            .values_mut()
            .filter_map(|p| {
                let (transport, subscriptions) = (p.data_transport()?, &mut p.data_subscriptions);
                let handle = *subscriptions.handles.get(&sid)?;
                let rate = subscriptions.rates.get_mut(&sid);
                let takes = rate.is_none_or(|rate| rate.takes(frame, now.instant));
                takes.then_some((transport, handle))
            })
            .collect();
        for (transport, handle) in targets {
            let mut packet = packet.to_vec();
            packet[HANDLE].copy_from_slice(&handle.to_be_bytes());
            self.send_data(&[transport], DataChannelKind::DataTrack, &Bytes::from(packet));
        }
    }
}

fn check(
    participant: &Participant,
    request: &PublishDataTrackRequest,
) -> Result<(), (Reason, &'static str)> {
    let tracks = &participant.data_tracks;
    if !participant.permission.can_publish_data {
        return Err((Reason::NotAllowed, "does not have permission to publish data"));
    }
    if request.pub_handle == 0 || request.pub_handle > u32::from(u16::MAX) {
        return Err((Reason::InvalidHandle, "handle should be > 0 AND < 65536"));
    }
    if request.name.is_empty() || request.name.len() > MAX_NAME_BYTES {
        let message = "name should not be empty and should not exceed 256 characters";
        return Err((Reason::InvalidName, message));
    }
    if request.schema.as_ref().is_some_and(|s| s.name.is_empty() || s.name.len() > MAX_NAME_BYTES) {
        let message = "schema name should not be empty and should not exceed 256 characters";
        return Err((Reason::InvalidRequest, message));
    }
    if tracks.iter().any(|track| track.pub_handle == request.pub_handle) {
        let message = "a data track with same handle already exists";
        return Err((Reason::DuplicateHandle, message));
    }
    if tracks.iter().any(|track| track.name == request.name) {
        return Err((Reason::DuplicateName, "a data track with same name already exists"));
    }
    if tracks.len() >= MAX_DATA_TRACKS {
        return Err((Reason::LimitExceeded, "too many data tracks"));
    }
    Ok(())
}
