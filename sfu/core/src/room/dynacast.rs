//! Dynacast: publishers stop encoding layers that nobody takes.
//!
//! A better layer is asked for at once. A layer is given up only after nobody wanted it for a
//! while: a subscriber that resizes its window must not make the publisher's encoder start anew.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use livekit_protocol::{
    self as proto, SubscribedCodec, SubscribedQuality, SubscribedQualityUpdate, signal_response,
};

use super::Room;
use super::participant::ParticipantKey;
use crate::media::{MediaKind, Sender, TrackKey, VideoQuality};
use crate::time::Now;

/// How long a layer must be unwanted before the publisher is told (LiveKit's default).
const PAUSE_DELAY: Duration = Duration::from_secs(5);

const QUALITIES: [VideoQuality; 3] = [VideoQuality::Low, VideoQuality::Medium, VideoQuality::High];

/// What all subscribers together want of each video track.
#[derive(Debug, Default)]
pub(super) struct Demands(BTreeMap<TrackKey, Demand>);

#[derive(Debug)]
struct Demand {
    /// Subscribers that want each quality at most.
    subscribers: [u32; 3],
    /// What the publisher was told; it begins with all layers. `None`: none.
    told: Option<VideoQuality>,
    /// When it is told that less is wanted.
    due: Option<Instant>,
}

impl Demand {
    fn best(&self) -> Option<VideoQuality> {
        let wanted = QUALITIES.into_iter().zip(self.subscribers);
        wanted.filter(|(_, subscribers)| *subscribers > 0).map(|(quality, _)| quality).max()
    }
}

impl Demands {
    /// A video track begins.
    pub(super) fn begin(&mut self, track: TrackKey, now: Now) {
        let told = Some(VideoQuality::High);
        let due = Some(now.instant + PAUSE_DELAY);
        self.0.insert(track, Demand { subscribers: [0; 3], told, due });
    }

    pub(super) fn end(&mut self, track: TrackKey) {
        self.0.remove(&track);
    }

    /// One subscriber's senders change.
    pub(super) fn change(&mut self, old: &[Sender], new: &[Sender]) {
        self.count(old, |subscribers| *subscribers = subscribers.saturating_sub(1));
        self.count(new, |subscribers| *subscribers += 1);
    }

    fn count(&mut self, senders: &[Sender], change: impl Fn(&mut u32)) {
        for sender in senders.iter().filter(|sender| sender.kind == MediaKind::Video) {
            let Some(quality) = sender.max_quality else { continue };
            if let Some(demand) = self.0.get_mut(&sender.track) {
                change(&mut demand.subscribers[quality as usize]);
            }
        }
    }

    /// What publishers are to be told now.
    fn take_due(&mut self, now: Now) -> Vec<TrackKey> {
        let mut changed = Vec::new();
        for (track, demand) in &mut self.0 {
            let best = demand.best();
            let is_due = demand.due.is_some_and(|due| due <= now.instant);
            if best == demand.told {
                demand.due = None;
            } else if best > demand.told || is_due {
                demand.told = best;
                demand.due = None;
                changed.push(*track);
            } else {
                demand.due.get_or_insert(now.instant + PAUSE_DELAY);
            }
        }
        changed
    }

    /// When a publisher is to be told next.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.0.values().filter_map(|demand| demand.due).min()
    }

    /// Whether the publisher was told to send this track; it may still be about to.
    pub(super) fn is_sent(&self, track: TrackKey) -> bool {
        self.0.get(&track).is_none_or(|demand| demand.told.is_some())
    }
}

impl Room {
    /// Tells publishers what changed.
    pub(super) fn tell_demands(&mut self, now: Now) {
        for track in self.demands.take_due(now) {
            self.tell_demand(track);
        }
    }

    /// Tells a publisher that resumed what it may have missed.
    pub(super) fn repeat_demands(&mut self, key: ParticipantKey) {
        let tracks: Vec<TrackKey> = self
            .tracks
            .iter()
            .filter(|(_, live)| live.publisher == key && live.kind == MediaKind::Video)
            .map(|(track, _)| *track)
            .collect();
        for track in tracks {
            self.tell_demand(track);
        }
    }

    fn tell_demand(&mut self, track: TrackKey) {
        let (Some(live), Some(demand)) = (self.tracks.get(&track), self.demands.0.get(&track))
        else {
            return;
        };
        let qualities: Vec<SubscribedQuality> = QUALITIES
            .into_iter()
            .zip([proto::VideoQuality::Low, proto::VideoQuality::Medium, proto::VideoQuality::High])
            .map(|(quality, name)| SubscribedQuality {
                quality: name.into(),
                enabled: demand.told.is_some_and(|best| quality <= best),
            })
            .collect();
        let codec = live.codec_name().to_owned();
        #[expect(deprecated, reason = "older clients read the list without codecs")]
        let update = SubscribedQualityUpdate {
            track_sid: live.sid.clone(),
            subscribed_qualities: qualities.clone(),
            subscribed_codecs: vec![SubscribedCodec { codec, qualities }],
        };
        let publisher = live.publisher;
        self.send(publisher, signal_response::Message::SubscribedQualityUpdate(update));
    }
}
