//! Only the loudest: in a large room most microphones carry noise that nobody needs to hear.
//!
//! A track that falls out is simply not forwarded; when it comes back its numbers go on where they
//! stopped, so that receivers take the time between for silence.

use std::time::{Duration, Instant};

use rustc_hash::FxHashMap;

use super::super::parameters::MediaKind;
use super::super::{RoomKey, TrackKey};
use super::Engine;

/// How often it is looked who is loud: a first word must not be lost.
pub(super) const AUDIBILITY_TICK: Duration = Duration::from_millis(50);
/// Who is heard stays it against somebody who is louder by no more than this, dB.
const HYSTERESIS: f64 = 6.0;

/// Rooms in which only the loudest are forwarded, and how many.
pub(super) type AudioLimits = FxHashMap<RoomKey, usize>;

impl Engine {
    /// Forwards only the `loudest` audio tracks of a room that are published here; `None`
    /// forwards all.
    pub fn set_audio_limit(&mut self, room: RoomKey, loudest: Option<usize>) {
        match loudest {
            Some(loudest) => self.audio_limits.insert(room, loudest),
            None => self.audio_limits.remove(&room),
        };
    }

    /// Looks again who is loud. Rooms without a limit cost nothing.
    pub(super) fn choose_audible(&mut self, now: Instant) {
        let mut rooms: FxHashMap<RoomKey, Vec<(f64, TrackKey)>> = FxHashMap::default();
        for (key, track) in &mut self.tracks {
            let is_limited = self.audio_limits.contains_key(&track.room);
            if is_limited && track.config.kind == MediaKind::Audio {
                let bonus = if track.is_audible { HYSTERESIS } else { 0.0 };
                let loudness = track.loudness(now) + bonus;
                rooms.entry(track.room).or_default().push((loudness, *key));
            }
        }
        for (room, mut tracks) in rooms {
            let limit = self.audio_limits.get(&room).copied().unwrap_or(usize::MAX);
            tracks.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
            for (rank, (_, key)) in tracks.into_iter().enumerate() {
                self.set_audible(key, rank < limit);
            }
        }
    }

    fn set_audible(&mut self, key: TrackKey, is_audible: bool) {
        let Some(track) = self.tracks.get_mut(&key) else { return };
        if is_audible && !track.is_audible {
            for route in &track.routes {
                self.transports[route.transport].senders[route.sender].forget_stream(0);
            }
        }
        track.is_audible = is_audible;
    }
}
