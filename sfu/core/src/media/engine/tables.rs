//! The engine's tables: which transports, tracks and routes exist. Each is derived from what
//! rooms said last.

use std::time::Instant;

use super::super::ice::Path;
use super::super::sender::SenderState;
use super::super::track::{Route, Source, Track};
use super::super::transport::{REPORT_INTERVAL, Transport};
use super::super::{IceCredentials, MediaKind, Receiver, RoomKey, Sender, TrackKey, TransportId};
use super::Engine;
use rand::RngExt as _;

/// Most sources of ours that one transport may have had; a client that uses up more begins anew.
const MAX_RETIRED: usize = 16 * 1024;
/// Most addresses of one transport that packets are taken from.
const MAX_PATHS: usize = 16;

impl Engine {
    pub(super) fn open(
        &mut self,
        room: RoomKey,
        id: TransportId,
        local: IceCredentials,
        now: Instant,
    ) {
        let ufrag = local.ufrag.clone();
        let index = match self.by_id.get(&id) {
            Some(&index) => {
                self.transports[index].ice.restart(local, now);
                index
            }
            None => {
                let own = (self.rng.random(), self.next_serial);
                self.next_serial += 1;
                let index = self.transports.insert(Transport::new(id, room, local, own, now));
                self.by_id.insert(id, index);
                index
            }
        };
        // Only the credentials that still count stay reachable, however often ICE restarts.
        let agent = &self.transports[index].ice;
        self.by_ufrag
            .retain(|known, owner| *owner != index || agent.ufrags().any(|valid| valid == known));
        self.by_ufrag.insert(ufrag, index);
        self.reschedule(index);
    }

    /// Forgets addresses of a transport beyond the bound.
    pub(super) fn bound_paths(&mut self, index: usize, newest: Path) {
        let current = self.transports[index].ice.path();
        let is_kept = |path: &Path| *path == newest || Some(*path) == current;
        let others: Vec<Path> = self
            .by_path
            .iter()
            .filter(|(path, owner)| **owner == index && !is_kept(path))
            .map(|(path, _)| *path)
            .collect();
        for path in others.iter().skip(MAX_PATHS) {
            self.by_path.remove(path);
        }
    }

    pub(super) fn set_receivers(&mut self, index: usize, receivers: Vec<Receiver>, now: Instant) {
        let transport = &mut self.transports[index];
        let room = transport.room;
        let gone: Vec<TrackKey> = transport
            .receivers
            .iter()
            .map(|receiver| receiver.track)
            .filter(|key| receivers.iter().all(|receiver| receiver.track != *key))
            .collect();
        transport.set_receivers(receivers.clone());
        for key in gone {
            self.remove_track(key, index);
        }
        for receiver in receivers {
            let key = receiver.track;
            match self.tracks.get_mut(&key) {
                Some(track) if track.source == Source::Transport(index) => track.update(receiver),
                _ => {
                    let source = Source::Transport(index);
                    self.tracks.insert(key, Track::new(room, source, receiver));
                }
            }
            self.refresh_routes(key);
            self.retarget_routes(key);
        }
        self.start_track_timers();
        // The first reports come a second after the first sections.
        self.transports[index].next_report = now + REPORT_INTERVAL;
        self.reschedule(index);
    }

    pub(super) fn set_senders(&mut self, index: usize, senders: Vec<Sender>, now: Instant) {
        let mut old: Vec<Option<SenderState>> =
            std::mem::take(&mut self.transports[index].senders).into_iter().map(Some).collect();
        for state in old.iter().flatten() {
            let retired = &mut self.transports[index].retired;
            retired.insert(state.ssrc().ssrc, state.last_sequence());
        }
        let mut touched: Vec<TrackKey> =
            old.iter().flatten().map(|sender| sender.config.track).collect();
        self.sender_count = self.sender_count + senders.len() - old.len();
        let mut moved = vec![None; old.len()];
        let mut states = Vec::with_capacity(senders.len());
        for config in senders {
            touched.push(config.track);
            // Numbers belong to the source, so a sender of another SSRC starts anew.
            let known = old.iter().position(|state| {
                state.as_ref().is_some_and(|state| state.config.ssrc == config.ssrc)
            });
            let known = known.and_then(|at| {
                moved[at] = Some(states.len() as u16);
                old[at].take()
            });
            states.push(match known {
                Some(mut state) if state.config.track != config.track => {
                    state.change_track(config);
                    state
                }
                Some(mut state) => {
                    state.update(config);
                    state
                }
                None => {
                    let retired = &self.transports[index].retired;
                    let first = match retired.get(&config.ssrc.ssrc) {
                        Some(last) => last + 1,
                        None => self.first_sequence(),
                    };
                    SenderState::new(config, first, now)
                }
            });
        }
        let transport = &mut self.transports[index];
        if transport.retired.len() > MAX_RETIRED {
            return self.fail(index);
        }
        transport.is_told = states.iter().any(|state| state.config.kind == MediaKind::Video);
        transport.senders = states;
        transport.outbox.move_senders(&moved);
        touched.sort_unstable();
        touched.dedup();
        for key in touched {
            self.refresh_routes(key);
        }
        self.retarget(index);
        self.reschedule(index);
    }

    /// Derives the subscribers of a track from the senders of its room.
    pub(super) fn refresh_routes(&mut self, key: TrackKey) {
        let Some(track) = self.tracks.get_mut(&key) else { return };
        track.routes.clear();
        for (transport, state) in &mut self.transports {
            if state.room != track.room {
                continue;
            }
            for (sender, state) in state.senders.iter_mut().enumerate() {
                if state.config.track == key {
                    state.set_published_codecs(&track.config.codecs);
                    track.routes.push(Route { transport, sender });
                }
            }
        }
    }

    pub(super) fn close(&mut self, index: usize) {
        let mut transport = self.transports.remove(index);
        if let Some(dtls) = &mut transport.dtls {
            dtls.close();
            if let Some(path) = transport.ice.path() {
                while let Some(datagram) = dtls.poll_transmit() {
                    self.answers.push((path, datagram));
                }
            }
        }
        self.sender_count -= transport.senders.len();
        self.by_id.remove(&transport.id);
        self.by_ufrag.retain(|_, owner| *owner != index);
        self.by_path.retain(|_, owner| *owner != index);
        self.dirty.retain(|dirty| *dirty != index);
        for receiver in &transport.receivers {
            self.remove_track(receiver.track, index);
        }
        for sender in &transport.senders {
            self.refresh_routes(sender.config.track);
        }
    }
    /// Forgets a track, unless another transport has taken it over.
    fn remove_track(&mut self, key: TrackKey, publisher: usize) {
        if self.tracks.get(&key).is_some_and(|track| track.source == Source::Transport(publisher)) {
            self.tracks.remove(&key);
        }
    }
}
