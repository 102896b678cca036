//! How long pictures stand still.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::RoomClient;

/// Watches the cameras of others for a while; returns the longest time in which a client decoded
/// no new picture of one of them, and of whom. A look at the client is a part of that time.
pub fn longest_freeze<'a>(
    client: &dyn RoomClient,
    others: &[&'a str],
    watched: Duration,
) -> Result<(&'a str, Duration)> {
    let begin = Instant::now();
    let mut seen: Vec<(&str, u64, Instant)> =
        others.iter().map(|identity| (*identity, 0, begin)).collect();
    let mut longest = (others.first().copied().context("nobody to watch")?, Duration::ZERO);
    let mut note = |identity: &'a str, since: Instant| {
        if since.elapsed() > longest.1 {
            longest = (identity, since.elapsed());
        }
    };
    while begin.elapsed() < watched {
        let report = client.report()?;
        for (identity, last, since) in &mut seen {
            let track = report.participant(identity).and_then(|other| other.track("camera"));
            let track = track.with_context(|| format!("the camera of {identity} is gone"))?;
            if track.frames_decoded > *last {
                note(identity, *since);
                (*last, *since) = (track.frames_decoded, Instant::now());
            }
        }
    }
    for (identity, _, since) in seen {
        note(identity, since);
    }
    Ok(longest)
}
