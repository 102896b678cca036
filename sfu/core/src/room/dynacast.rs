//! Dynacast: publishers stop encoding layers that nobody takes.
//!
//! A better layer is asked for at once. A layer is given up only after nobody wanted it for a
//! while: a subscriber that resizes its window must not make the publisher's encoder start anew.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use livekit_protocol::{
    self as proto, SubscribedAudioCodec, SubscribedAudioCodecUpdate, SubscribedCodec,
    SubscribedQuality, SubscribedQualityUpdate, signal_response,
};

use super::Room;
use super::participant::ParticipantKey;
use super::track_info::codec_name;
use crate::media::{Codec, MediaKind, Sender, TrackKey, VideoQuality};
use crate::time::Now;

/// How long a layer must be unwanted before the publisher is told (LiveKit's default).
const PAUSE_DELAY: Duration = Duration::from_secs(5);

const QUALITIES: [VideoQuality; 3] = [VideoQuality::Low, VideoQuality::Medium, VideoQuality::High];

/// What all subscribers together want of each video track.
#[derive(Debug, Default)]
pub(super) struct Demands(BTreeMap<TrackKey, Demand>);

#[derive(Debug)]
struct Demand {
    own: Layers,
    /// Of the copy in a backup codec.
    backup: Layers,
    /// The publisher was told of the copy.
    backup_told: bool,
}

/// Layers of a track in one codec.
#[derive(Debug, Default)]
struct Layers {
    /// Subscribers that want each quality at most.
    subscribers: [u32; 3],
    /// What the publisher was told; `None`: no layer.
    told: Option<VideoQuality>,
    /// When it is told that less is wanted.
    due: Option<Instant>,
}

impl Layers {
    fn best(&self) -> Option<VideoQuality> {
        let wanted = QUALITIES.into_iter().zip(self.subscribers);
        wanted.filter(|(_, subscribers)| *subscribers > 0).map(|(quality, _)| quality).max()
    }

    /// Whether the publisher is to be told now.
    fn take_due(&mut self, now: Now) -> bool {
        let best = self.best();
        let is_due = self.due.is_some_and(|due| due <= now.instant);
        if best == self.told {
            self.due = None;
        } else if best > self.told || is_due {
            self.told = best;
            self.due = None;
            return true;
        } else {
            self.due.get_or_insert(now.instant + PAUSE_DELAY);
        }
        false
    }

    fn qualities(&self) -> Vec<SubscribedQuality> {
        QUALITIES
            .into_iter()
            .zip([proto::VideoQuality::Low, proto::VideoQuality::Medium, proto::VideoQuality::High])
            .map(|(quality, name)| SubscribedQuality {
                quality: name.into(),
                enabled: self.told.is_some_and(|best| quality <= best),
            })
            .collect()
    }
}

impl Demands {
    /// A video track begins: with all layers, and without a copy.
    pub(super) fn begin(&mut self, track: TrackKey, now: Now) {
        let told = Some(VideoQuality::High);
        let due = Some(now.instant + PAUSE_DELAY);
        let own = Layers { subscribers: [0; 3], told, due };
        self.0.insert(track, Demand { own, backup: Layers::default(), backup_told: false });
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
        for sender in senders {
            let Some(quality) = sender.max_quality else { continue };
            if let Some(demand) = self.0.get_mut(&sender.track) {
                change(&mut demand.own.subscribers[quality as usize]);
            }
        }
    }

    /// The copies that one subscriber needs change.
    pub(super) fn change_backups(
        &mut self,
        old: &BTreeMap<TrackKey, VideoQuality>,
        new: &BTreeMap<TrackKey, VideoQuality>,
    ) {
        for (track, quality) in old {
            if let Some(demand) = self.0.get_mut(track) {
                let subscribers = &mut demand.backup.subscribers[*quality as usize];
                *subscribers = subscribers.saturating_sub(1);
            }
        }
        for (track, quality) in new {
            if let Some(demand) = self.0.get_mut(track) {
                demand.backup.subscribers[*quality as usize] += 1;
            }
        }
    }

    /// Other rooms get these tracks, and may want any layer of them.
    pub(super) fn forward(&mut self, old: &[TrackKey], new: &[TrackKey]) {
        let best = VideoQuality::High as usize;
        for track in old {
            if let Some(demand) = self.0.get_mut(track) {
                demand.own.subscribers[best] = demand.own.subscribers[best].saturating_sub(1);
            }
        }
        for track in new {
            if let Some(demand) = self.0.get_mut(track) {
                demand.own.subscribers[best] += 1;
            }
        }
    }

    /// What publishers are to be told now.
    fn take_due(&mut self, now: Now) -> Vec<TrackKey> {
        let mut changed = Vec::new();
        for (track, demand) in &mut self.0 {
            let backup = demand.backup.take_due(now);
            demand.backup_told |= backup;
            if demand.own.take_due(now) || backup {
                changed.push(*track);
            }
        }
        changed
    }

    /// When a publisher is to be told next.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.0.values().flat_map(|demand| [demand.own.due, demand.backup.due]).flatten().min()
    }

    /// Whether the publisher was told to send this track; it may still be about to.
    pub(super) fn is_sent(&self, track: TrackKey) -> bool {
        self.0.get(&track).is_none_or(|demand| demand.own.told.is_some())
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
            .filter(|(_, live)| live.publisher == key)
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
        if live.kind == MediaKind::Audio {
            return self.tell_audio_demand(track);
        }
        let qualities = demand.own.qualities();
        let named = |codecs: &[Codec], qualities| {
            let codec = codecs.first().map(|codec| codec_name(codec.kind)).unwrap_or_default();
            SubscribedCodec { codec: codec.to_owned(), qualities }
        };
        let mut subscribed_codecs = vec![named(live.own_codecs(), qualities.clone())];
        if demand.backup_told {
            subscribed_codecs.push(named(live.backup_codecs(), demand.backup.qualities()));
        }
        #[expect(deprecated, reason = "older clients read the list without codecs")]
        let update = SubscribedQualityUpdate {
            track_sid: live.sid.clone(),
            subscribed_qualities: qualities,
            subscribed_codecs,
        };
        let publisher = live.publisher;
        self.send(publisher, signal_response::Message::SubscribedQualityUpdate(update));
    }

    /// The same for sound that can be sent in two codecs.
    fn tell_audio_demand(&mut self, track: TrackKey) {
        let (Some(live), Some(demand)) = (self.tracks.get(&track), self.demands.0.get(&track))
        else {
            return;
        };
        let named = |codecs: &[Codec], layers: &Layers| {
            let codec = codecs.first().map(|codec| codec_name(codec.kind)).unwrap_or_default();
            SubscribedAudioCodec { codec, enabled: layers.told.is_some() }
        };
        let mut subscribed_audio_codecs = vec![named(live.own_codecs(), &demand.own)];
        if demand.backup_told {
            subscribed_audio_codecs.push(named(live.backup_codecs(), &demand.backup));
        }
        let track_sid = live.sid.clone();
        let publisher = live.publisher;
        let update = SubscribedAudioCodecUpdate { track_sid, subscribed_audio_codecs };
        self.send(publisher, signal_response::Message::SubscribedAudioCodecUpdate(update));
    }
}
