//! Who takes part in a test, and how one recognises their media.

use std::fmt;

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;

use super::report::{Participant, Report, Track};

/// Largest difference of a colour channel after encoding, colour conversion and decoding.
const COLOUR_TOLERANCE: u8 = 60;
/// Largest difference of the loudest frequency: two lines of the clients' spectra.
const TONE_TOLERANCE_HZ: f64 = 12.0;
/// New pictures that must arrive: more than the key frame that starts a stream.
const LEAST_NEW_FRAMES: u64 = 10;
/// Growth of the energy of sound that only a tone, and no noise of a codec, reaches.
const LEAST_NEW_ENERGY: f64 = 0.01;

/// Red, green and blue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct Colour(pub u8, pub u8, pub u8);

impl Colour {
    /// Says whether a picture of this colour looks like that one after it was encoded.
    #[must_use]
    pub fn is_like(self, other: Self) -> bool {
        self.0.abs_diff(other.0) <= COLOUR_TOLERANCE
            && self.1.abs_diff(other.1) <= COLOUR_TOLERANCE
            && self.2.abs_diff(other.2) <= COLOUR_TOLERANCE
    }
}

impl fmt::Display for Colour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{:02x}{:02x}{:02x}", self.0, self.1, self.2)
    }
}

/// A participant with a colour and a tone of its own.
#[derive(Debug, Clone, PartialEq)]
pub struct Person {
    /// Unique in the room.
    pub identity: String,
    /// Colour of the published picture.
    pub colour: Colour,
    /// Frequency of the published tone.
    pub tone_hz: f64,
}

impl Person {
    /// A red person with a tone of 440 Hz.
    #[must_use]
    pub fn anna() -> Self {
        Self { identity: "anna".to_owned(), colour: Colour(208, 32, 32), tone_hz: 440.0 }
    }

    /// A green person with a tone of 660 Hz.
    #[must_use]
    pub fn bob() -> Self {
        Self { identity: "bob".to_owned(), colour: Colour(32, 160, 64), tone_hz: 660.0 }
    }

    /// A blue person with a tone of 880 Hz.
    #[must_use]
    pub fn clara() -> Self {
        Self { identity: "clara".to_owned(), colour: Colour(32, 64, 208), tone_hz: 880.0 }
    }

    /// A yellow person with a tone of 1100 Hz.
    #[must_use]
    pub fn dora() -> Self {
        Self { identity: "dora".to_owned(), colour: Colour(208, 192, 32), tone_hz: 1100.0 }
    }

    /// Checks that picture and sound of this person have come in since `start`.
    pub fn seen_in(&self, report: &Report, start: &Report) -> Result<()> {
        let name = &self.identity;
        let participant =
            report.participant(name).with_context(|| format!("{name} is not in the room"))?;
        let before = start.participant(name);
        self.picture_in(participant, before)?;
        self.sound_in(participant, before)
    }

    /// Checks that pictures of this person have come in since `start`.
    pub fn pictured_in(&self, report: &Report, start: &Report) -> Result<()> {
        let name = &self.identity;
        let now = report.participant(name).with_context(|| format!("{name} is not in the room"))?;
        self.picture_in(now, start.participant(name))
    }

    fn picture_in(&self, now: &Participant, before: Option<&Participant>) -> Result<()> {
        let name = &self.identity;
        let track = now.track("camera").with_context(|| format!("{name} has no camera track"))?;
        let frames = grown(track, before, |track| track.frames_decoded);
        ensure!(frames >= LEAST_NEW_FRAMES, "only {frames} new pictures of {name}: {track:?}");
        ensure!(
            track.colour.is_like(self.colour),
            "{name} is {} and looks {}",
            self.colour,
            track.colour
        );
        Ok(())
    }

    fn sound_in(&self, now: &Participant, before: Option<&Participant>) -> Result<()> {
        let name = &self.identity;
        let track =
            now.track("microphone").with_context(|| format!("{name} has no microphone track"))?;
        let energy = grown_energy(track, before);
        ensure!(energy >= LEAST_NEW_ENERGY, "{name} is not heard: {track:?}");
        ensure!(
            (track.tone_hz - self.tone_hz).abs() <= TONE_TOLERANCE_HZ,
            "{name} sings {} Hz and sounds like {} Hz",
            self.tone_hz,
            track.tone_hz
        );
        Ok(())
    }
}

/// The same track in an earlier report; after a reconnection the track is another.
fn earlier<'a>(track: &Track, before: Option<&'a Participant>) -> Option<&'a Track> {
    before?.tracks.iter().find(|earlier| earlier.sid == track.sid)
}

fn grown(track: &Track, before: Option<&Participant>, count: impl Fn(&Track) -> u64) -> u64 {
    let earlier = earlier(track, before).map_or(0, &count);
    // Counters start again when a client makes a new receiver for the same track.
    let now = count(track);
    if now >= earlier { now - earlier } else { now }
}

fn grown_energy(track: &Track, before: Option<&Participant>) -> f64 {
    let earlier = earlier(track, before).map_or(0.0, |track| track.audio_energy);
    let now = track.audio_energy;
    if now >= earlier { now - earlier } else { now }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(frames: u64, colour: Colour, energy: f64, tone_hz: f64) -> Report {
        let track = |source: &str| {
            serde_json::json!({
                "sid": format!("TR_{source}"), "kind": "", "source": source, "muted": false,
                "codec": "", "packetsReceived": 0, "framesDecoded": frames, "width": 2, "height": 2,
                "colour": [colour.0, colour.1, colour.2], "audioEnergy": energy, "toneHz": tone_hz,
                "remote": "",
            })
        };
        serde_json::from_value(serde_json::json!({
            "state": "connected", "roomSid": "RM_x", "identity": "bob",
            "server": { "version": "", "nodeId": "", "debugInfo": "" },
            "participants": [{
                "sid": "PA_x", "identity": "anna", "name": "",
                "tracks": [track("camera"), track("microphone")],
            }],
            "messages": [], "events": [], "counts": {}, "errors": [],
        }))
        .unwrap()
    }

    #[test]
    fn a_person_is_known_by_new_pictures_and_sound_of_their_own() {
        let anna = Person::anna();
        let start = report(5, anna.colour, 1.0, 440.0);
        let cases = [
            (report(15, Colour(200, 40, 40), 2.0, 443.0), None),
            (report(14, anna.colour, 2.0, 440.0), Some("only 9 new pictures")),
            (report(15, Person::bob().colour, 2.0, 440.0), Some("looks #20a040")),
            (report(15, anna.colour, 1.001, 440.0), Some("is not heard")),
            (report(15, anna.colour, 2.0, 660.0), Some("sounds like 660 Hz")),
        ];
        for (now, failure) in cases {
            match (anna.seen_in(&now, &start), failure) {
                (Ok(()), None) => {}
                (Err(error), Some(text)) if error.to_string().contains(text) => {}
                (result, _) => panic!("{result:?} instead of {failure:?}"),
            }
        }
        assert!(Person::bob().seen_in(&start, &start).is_err(), "bob is not in the report");
    }

    #[test]
    fn counters_that_start_again_count_from_zero() {
        let anna = Person::anna();
        let start = report(500, anna.colour, 9.0, 440.0);
        anna.seen_in(&report(12, anna.colour, 0.5, 440.0), &start).unwrap();
    }
}
