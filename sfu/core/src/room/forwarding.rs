//! What the media engine shall do, derived from the room's state and told only when it changed.
//!
//! The order keeps one promise: at no time does a sender name a track without a receiver.

use contract::sfu_config::RoomConfig;

use super::Room;
use super::participant::{Participant, ParticipantKey};
use crate::media::{MediaCommand, MediaKind, PlayoutDelay, Receiver, Sender};
use crate::time::Now;

/// Most that a client holds pictures back where a room says only the least (LiveKit's figure).
const LONGEST_DELAY_MS: u32 = 10_000;

impl Room {
    /// Brings everything that follows from the room's state in line with it.
    pub(super) fn settle(&mut self, now: Now) {
        if !self.dirty.is_empty() || !self.changed_tracks.is_empty() {
            let dirty = std::mem::take(&mut self.dirty);
            let changed = std::mem::take(&mut self.changed_tracks);
            self.prune_senders();
            for key in &dirty {
                self.update_receivers(*key);
            }
            // Where no track changed, nobody else gets anything else.
            let keys: Vec<ParticipantKey> = match changed.is_empty() {
                true => dirty.iter().copied().collect(),
                false => self.participants.keys().copied().collect(),
            };
            for key in keys {
                if dirty.contains(&key) {
                    self.refresh_wanted(key);
                } else if !self.refresh_wanted_tracks(key, &changed) {
                    continue;
                }
                self.update_senders(key);
                self.schedule_negotiation(key, now);
            }
        }
        self.tell_forwards();
        self.tell_demands(now);
    }

    /// Stops sending tracks that ended.
    pub(super) fn prune_senders(&mut self) {
        if !std::mem::take(&mut self.tracks_ended) {
            return;
        }
        let Self { participants, tracks, backups, output, .. } = self;
        for participant in participants.values_mut() {
            let transport = participant.subscriber.as_mut().unwrap_or(&mut participant.publisher);
            let before = transport.senders.len();
            transport.senders.retain(|sender| {
                tracks.contains_key(&sender.track) || backups.contains_key(&sender.track)
            });
            if transport.senders.len() != before {
                output.push_back(super::RoomOutput::Media(MediaCommand::SetSenders {
                    transport: transport.id,
                    senders: transport.senders.clone(),
                }));
            }
        }
    }

    fn update_receivers(&mut self, key: ParticipantKey) {
        let Some(participant) = self.participants.get_mut(&key) else { return };
        let receivers = receivers(participant);
        let transport = &mut participant.publisher;
        if transport.receivers == receivers {
            return;
        }
        transport.receivers.clone_from(&receivers);
        let transport = transport.id;
        self.media(MediaCommand::SetReceivers { transport, receivers });
    }

    fn update_senders(&mut self, key: ParticipantKey) {
        let Some(participant) = self.participants.get(&key) else { return };
        let senders = self.senders(participant);
        let needed = self.needed_backups(participant);
        let Some(participant) = self.participants.get_mut(&key) else { return };
        self.demands.change_backups(&participant.needed_backups, &needed);
        participant.needed_backups = needed;
        let transport = participant.subscriber.as_mut().unwrap_or(&mut participant.publisher);
        if transport.senders == senders {
            return;
        }
        self.demands.change(&transport.senders, &senders);
        transport.senders.clone_from(&senders);
        let transport = transport.id;
        self.media(MediaCommand::SetSenders { transport, senders });
    }

    fn senders(&self, participant: &Participant) -> Vec<Sender> {
        if participant.sending_transport().remote.is_none() {
            return Vec::new();
        }
        let delay = self.playout_delay(participant);
        participant
            .outbound
            .iter()
            .filter(|section| section.ready)
            .filter_map(|section| {
                let placed = section.placed.as_ref()?;
                participant.wanted.get(&placed.track)?;
                let track = self.tracks.get(&placed.track)?;
                let settings = &participant.subscriptions.get(&placed.track)?.settings;
                Some(Sender {
                    mid: section.mid.clone(),
                    track: self.sent_track(placed.track, &section.codecs)?,
                    kind: section.kind,
                    ssrc: placed.ssrc,
                    codecs: section.codecs.clone(),
                    extensions: section.extensions,
                    max_quality: settings.quality(track),
                    max_frame_rate: settings.max_frame_rate,
                    priority: settings.priority,
                    may_pause: participant.allow_pause,
                    playout_delay: delay.filter(|_| section.kind == MediaKind::Video),
                })
            })
            .collect()
    }
}

impl Room {
    /// What the room says of playing, for one subscriber.
    fn playout_delay(&self, participant: &Participant) -> Option<PlayoutDelay> {
        let RoomConfig { min_playout_delay, max_playout_delay, sync_streams, .. } =
            self.options.config;
        // Firefox does not play streams in step, and would hold back pictures alone.
        let is_firefox = participant.client.browser.eq_ignore_ascii_case("firefox");
        if min_playout_delay == 0 && max_playout_delay == 0 || sync_streams && is_firefox {
            return None;
        }
        let max_ms = if max_playout_delay == 0 { LONGEST_DELAY_MS } else { max_playout_delay };
        Some(PlayoutDelay { min_ms: min_playout_delay, max_ms: max_ms.max(min_playout_delay) })
    }
}

fn receivers(participant: &Participant) -> Vec<Receiver> {
    participant
        .tracks
        .iter()
        .filter_map(|track| {
            let mid = track.mid.as_ref()?;
            let section = participant.inbound.iter().find(|section| section.mid == *mid)?;
            Some(Receiver {
                mid: mid.clone(),
                track: track.key,
                kind: section.kind,
                codecs: section.codecs.clone(),
                extensions: section.extensions,
                rids: section.rids.clone(),
                ssrcs: section.ssrcs.clone(),
            })
        })
        .collect()
}
