//! When a step is over: with livekit-server when nothing comes any more, with a node when
//! everything has come that livekit-server sent.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::compare::{Allowed, compare};
use crate::mask;
use crate::script::Step;

/// Kinds of messages that come by the clock, whatever the script does.
pub(crate) const BY_THE_CLOCK: [&str; 3] = ["connectionQuality", "roomUpdate", "speakersChanged"];

/// Silence after which a step of a recording is over. It is longer than livekit-server gathers
/// updates.
const SILENCE: Duration = Duration::from_millis(3500);
/// Time in which something more than the recording would come.
const PAUSE: Duration = Duration::from_millis(250);
/// Longest wait for what is missing.
const PATIENCE: Duration = Duration::from_secs(10);
/// Time between two looks.
pub(crate) const GLANCE: Duration = Duration::from_millis(100);

/// When to go on.
pub(crate) enum Pace<'a> {
    /// When nothing comes any more.
    Silence,
    /// When the step is as it was recorded, but for the listed differences.
    Recording(&'a [Step], &'a [Allowed]),
}

impl Pace<'_> {
    /// Whether the last of these steps, which began at `started`, is over.
    pub(crate) fn is_settled(&self, steps: &[Step], started: Instant) -> bool {
        let elapsed = started.elapsed();
        match self {
            Self::Silence => elapsed > SILENCE,
            Self::Recording(recorded, allowed) => {
                elapsed > PATIENCE || elapsed > PAUSE && is_as_recorded(steps, recorded, allowed)
            }
        }
    }
}

fn is_as_recorded(steps: &[Step], recorded: &[Step], allowed: &[Allowed]) -> bool {
    let Some(last) = mask::last(steps) else { return false };
    let Some(recorded) = recorded.get(steps.len() - 1) else { return false };
    let found = compare(std::slice::from_ref(recorded), &[last]);
    found.iter().all(|difference| allowed.iter().any(|row| row.allows(difference)))
}

/// The kind of a message: its only key.
pub(crate) fn kind(message: &Value) -> &str {
    message.as_object().and_then(|object| object.keys().next()).map_or("empty", String::as_str)
}
