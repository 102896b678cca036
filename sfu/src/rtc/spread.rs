//! Where the transports of a room live: on one worker, and on siblings once that one is busy.
//! Turns what the room wants into commands for each worker.

use std::collections::{BTreeMap, BTreeSet};

use sfu_core::media::engine::WorkerIndex;
use sfu_core::media::{MediaCommand, Receiver, TrackKey, TransportId};

/// Busy share of its time from which a worker takes no more transports of a room, if another is
/// clearly less busy.
const BUSY: f64 = 0.6;
/// How much less busy that other one must be.
const CLEARLY: f64 = 0.2;
/// Forwarded tracks that count like a worker's whole time: joins come faster than their load
/// shows.
const SENDERS_OF_A_WORKER: f64 = 8000.0;

/// How loaded a worker is.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct WorkerLoad {
    /// Share of its time in the last second.
    pub(super) busy: f64,
    /// Tracks that it forwards, one for each subscriber.
    pub(super) senders: u64,
}

impl WorkerLoad {
    fn weight(self) -> f64 {
        self.busy.max(self.senders as f64 / SENDERS_OF_A_WORKER)
    }
}

/// The worker for a new transport of a room at home on `home`.
pub(super) fn choose_worker(home: WorkerIndex, loads: &[WorkerLoad]) -> WorkerIndex {
    let weight = |worker: usize| loads.get(worker).map_or(0.0, |load| load.weight());
    let least = (0..loads.len()).min_by(|a, b| weight(*a).total_cmp(&weight(*b)));
    match least {
        Some(other) if weight(home) > BUSY && weight(other) + CLEARLY < weight(home) => other,
        Some(_) | None => home,
    }
}

/// What a worker shall do for a room.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum RoomCommand {
    /// As the room said.
    Media(MediaCommand),
    /// Hand the packets of a track to these workers.
    Export(TrackKey, Vec<WorkerIndex>),
    /// Take part in a track of another worker.
    Import(WorkerIndex, Box<Receiver>),
    /// End that.
    EndImport(TrackKey),
}

/// Where a room's transports and tracks are.
#[derive(Debug, Default)]
pub(super) struct Spread {
    transports: BTreeMap<TransportId, WorkerIndex>,
    tracks: BTreeMap<TrackKey, Published>,
    /// Tracks that each transport sends to its peer.
    sent: BTreeMap<TransportId, Vec<TrackKey>>,
    imports: BTreeMap<(WorkerIndex, TrackKey), Receiver>,
}

#[derive(Debug)]
struct Published {
    transport: TransportId,
    worker: WorkerIndex,
    receiver: Receiver,
    exports: Vec<WorkerIndex>,
}

impl Spread {
    /// Commands for workers that come to what the room wants.
    pub(super) fn route(&mut self, command: MediaCommand) -> Vec<(WorkerIndex, RoomCommand)> {
        if let MediaCommand::OpenTransport { transport, worker, .. }
        | MediaCommand::SetMirrors { transport, worker, .. } = &command
        {
            self.transports.entry(*transport).or_insert(*worker);
        }
        // What is not open does not exist: its commands came too late.
        let Some(&worker) = self.transports.get(&transport_of(&command)) else {
            return Vec::new();
        };
        let changes_tracks = match &command {
            MediaCommand::SetReceivers { transport, receivers } => {
                self.set_published(*transport, worker, receivers.iter());
                true
            }
            MediaCommand::SetMirrors { transport, mirrors, .. } => {
                let receivers = mirrors.iter().map(|mirror| &mirror.receiver);
                self.set_published(*transport, worker, receivers);
                if mirrors.is_empty() {
                    self.transports.remove(transport);
                }
                true
            }
            MediaCommand::SetSenders { transport, senders } => {
                let tracks = senders.iter().map(|sender| sender.track).collect();
                self.sent.insert(*transport, tracks);
                true
            }
            MediaCommand::CloseTransport { transport } => {
                self.transports.remove(transport);
                self.sent.remove(transport);
                self.tracks.retain(|_, track| track.transport != *transport);
                true
            }
            MediaCommand::OpenTransport { .. }
            | MediaCommand::ConnectTransport { .. }
            | MediaCommand::LimitBandwidth { .. }
            | MediaCommand::OpenDataChannels { .. }
            | MediaCommand::SendData { .. } => false,
        };
        let is_sending = matches!(command, MediaCommand::SetSenders { .. });
        let own = (worker, RoomCommand::Media(command));
        if !changes_tracks {
            return vec![own];
        }
        let mut shared = self.share();
        // A sender never names a track that its worker does not know.
        if is_sending {
            shared.push(own)
        } else {
            shared.insert(0, own)
        }
        shared
    }

    fn set_published<'a>(
        &mut self,
        transport: TransportId,
        worker: WorkerIndex,
        receivers: impl Iterator<Item = &'a Receiver> + Clone,
    ) {
        self.tracks.retain(|key, track| {
            track.transport != transport || receivers.clone().any(|receiver| receiver.track == *key)
        });
        for receiver in receivers {
            let known = self.tracks.get_mut(&receiver.track);
            match known.filter(|track| track.transport == transport) {
                Some(track) => track.receiver = receiver.clone(),
                None => {
                    let (receiver, exports) = (receiver.clone(), Vec::new());
                    let track = Published { transport, worker, receiver, exports };
                    self.tracks.insert(track.receiver.track, track);
                }
            }
        }
    }

    /// Brings exports and imports in line with who sends what where.
    fn share(&mut self) -> Vec<(WorkerIndex, RoomCommand)> {
        let mut wanted: BTreeSet<(WorkerIndex, TrackKey)> = BTreeSet::new();
        for (transport, tracks) in &self.sent {
            let Some(&worker) = self.transports.get(transport) else { continue };
            wanted.extend(tracks.iter().map(|track| (worker, *track)));
        }
        wanted.retain(|(worker, key)| {
            self.tracks.get(key).is_some_and(|track| track.worker != *worker)
        });
        let mut commands = Vec::new();
        self.imports.retain(|(worker, key), _| {
            let stays = wanted.contains(&(*worker, *key));
            if !stays {
                commands.push((*worker, RoomCommand::EndImport(*key)));
            }
            stays
        });
        for (worker, key) in &wanted {
            let Some(track) = self.tracks.get(key) else { continue };
            if self.imports.get(&(*worker, *key)) != Some(&track.receiver) {
                self.imports.insert((*worker, *key), track.receiver.clone());
                let receiver = Box::new(track.receiver.clone());
                commands.push((*worker, RoomCommand::Import(track.worker, receiver)));
            }
        }
        for (key, track) in &mut self.tracks {
            let exports: Vec<WorkerIndex> = wanted
                .iter()
                .filter(|(_, other)| other == key)
                .map(|(worker, _)| *worker)
                .collect();
            if track.exports != exports {
                track.exports.clone_from(&exports);
                commands.push((track.worker, RoomCommand::Export(*key, exports)));
            }
        }
        commands
    }
}

fn transport_of(command: &MediaCommand) -> TransportId {
    match command {
        MediaCommand::OpenTransport { transport, .. }
        | MediaCommand::ConnectTransport { transport, .. }
        | MediaCommand::SetReceivers { transport, .. }
        | MediaCommand::SetSenders { transport, .. }
        | MediaCommand::SetMirrors { transport, .. }
        | MediaCommand::LimitBandwidth { transport, .. }
        | MediaCommand::OpenDataChannels { transport }
        | MediaCommand::SendData { transport, .. }
        | MediaCommand::CloseTransport { transport } => *transport,
    }
}

#[cfg(test)]
mod tests {
    use sfu_core::media::{ExtensionIds, IceCredentials, MediaKind, Mid, Mirror, Sender, SsrcPair};

    use super::*;

    const TRACK: TrackKey = TrackKey(1);
    const PUBLISHER: TransportId = TransportId(1);
    const SUBSCRIBER: TransportId = TransportId(2);

    fn receivers(tracks: &[TrackKey]) -> MediaCommand {
        let receiver = |track: &TrackKey| Receiver {
            mid: Mid("0".to_owned()),
            track: *track,
            kind: MediaKind::Video,
            codecs: Vec::new(),
            extensions: ExtensionIds::default(),
            rids: Vec::new(),
            ssrcs: Vec::new(),
        };
        let receivers = tracks.iter().map(receiver).collect();
        MediaCommand::SetReceivers { transport: PUBLISHER, receivers }
    }

    fn senders(tracks: &[TrackKey]) -> MediaCommand {
        let sender = |track: &TrackKey| Sender {
            mid: Mid("0".to_owned()),
            track: *track,
            kind: MediaKind::Video,
            ssrc: SsrcPair { ssrc: 1, rtx: None },
            codecs: Vec::new(),
            extensions: ExtensionIds::default(),
            max_quality: None,
            max_frame_rate: None,
            priority: 0,
            may_pause: true,
            playout_delay: None,
        };
        let senders = tracks.iter().map(sender).collect();
        MediaCommand::SetSenders { transport: SUBSCRIBER, senders }
    }

    /// What a command comes to, in short.
    fn route(spread: &mut Spread, command: MediaCommand) -> Vec<String> {
        let name = |command: RoomCommand| match command {
            RoomCommand::Media(_) => "media".to_owned(),
            RoomCommand::Export(track, workers) => format!("export {} to {workers:?}", track.0),
            RoomCommand::Import(from, receiver) => format!("import {} of {from}", receiver.track.0),
            RoomCommand::EndImport(track) => format!("end {}", track.0),
        };
        let routed = spread.route(command);
        routed.into_iter().map(|(at, command)| format!("{at}: {}", name(command))).collect()
    }

    /// A room whose publisher and subscriber are on these workers.
    fn room(publisher: WorkerIndex, subscriber: WorkerIndex) -> Spread {
        let mut spread = Spread::default();
        for (transport, worker) in [(PUBLISHER, publisher), (SUBSCRIBER, subscriber)] {
            let local = IceCredentials { ufrag: "u".to_owned(), pwd: "p".to_owned() };
            let open = MediaCommand::OpenTransport { transport, worker, local };
            assert_eq!(route(&mut spread, open), [format!("{worker}: media")]);
        }
        spread
    }

    #[test]
    fn a_track_is_shared_with_the_workers_of_its_subscribers_as_long_as_they_want_it() {
        let mut spread = room(0, 1);
        assert_eq!(route(&mut spread, receivers(&[TRACK])), ["0: media"]);
        let shared = route(&mut spread, senders(&[TRACK]));
        assert_eq!(shared, ["1: import 1 of 0", "0: export 1 to [1]", "1: media"]);
        assert_eq!(route(&mut spread, senders(&[TRACK])), ["1: media"]);
        let ended = route(&mut spread, senders(&[]));
        assert_eq!(ended, ["1: end 1", "0: export 1 to []", "1: media"]);
        route(&mut spread, senders(&[TRACK]));
        let closed = MediaCommand::CloseTransport { transport: PUBLISHER };
        assert_eq!(route(&mut spread, closed), ["0: media", "1: end 1"]);
        assert!(route(&mut spread, receivers(&[TRACK])).is_empty(), "it is closed");
    }

    #[test]
    fn a_track_of_another_room_is_shared_from_where_it_is_received() {
        let mut spread = room(0, 1);
        let mirrors = |spread: &mut Spread, tracks: &[TrackKey]| {
            let MediaCommand::SetReceivers { receivers, .. } = receivers(tracks) else {
                unreachable!("receivers are set")
            };
            let mirror = |receiver| Mirror { source: TrackKey(9), receiver };
            let mirrors = receivers.into_iter().map(mirror).collect();
            let transport = TransportId(3);
            route(spread, MediaCommand::SetMirrors { transport, worker: 2, mirrors })
        };
        assert_eq!(mirrors(&mut spread, &[TRACK]), ["2: media"]);
        let shared = route(&mut spread, senders(&[TRACK]));
        assert_eq!(shared, ["1: import 1 of 2", "2: export 1 to [1]", "1: media"]);
        assert_eq!(mirrors(&mut spread, &[]), ["2: media", "1: end 1"]);
    }

    #[test]
    fn on_one_worker_nothing_is_shared() {
        let mut spread = room(3, 3);
        route(&mut spread, receivers(&[TRACK]));
        assert_eq!(route(&mut spread, senders(&[TRACK])), ["3: media"]);
    }

    #[test]
    fn transports_go_elsewhere_only_when_home_is_busy() {
        let load = |busy: f64, senders: u64| WorkerLoad { busy, senders };
        let cases = [
            (vec![load(0.5, 0), load(0.0, 0)], 0),
            (vec![load(0.7, 0), load(0.1, 0)], 1),
            (vec![load(0.7, 0), load(0.6, 0)], 0),
            (vec![load(0.0, 6000), load(0.0, 100)], 1),
            (vec![], 0),
        ];
        for (loads, expected) in cases {
            assert_eq!(choose_worker(0, &loads), expected, "{loads:?}");
        }
    }
}
