//! The numbers in the status of a LiveCluster while something is broken.

use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use crate::live_cluster::LiveCluster;

/// Pause between two looks: how exact the time is.
const PAUSE: Duration = Duration::from_millis(500);
/// Time until they are right again after everybody is back.
const TIMEOUT: Duration = Duration::from_secs(120);

/// For how long they were wrong since this was called; ends once they are right after `over` was
/// told that the fault is, and fails when nobody can tell it any more.
pub(super) fn watch_status(
    live_cluster: &LiveCluster,
    people: usize,
    over: &Receiver<()>,
) -> Result<Duration> {
    let begun = Instant::now();
    let (mut wrong_until, mut over_since) = (Duration::ZERO, None::<Instant>);
    loop {
        let look = check(live_cluster, people);
        if look.is_err() {
            wrong_until = begun.elapsed();
        }
        match (over_since, look) {
            (Some(_), Ok(())) => return Ok(wrong_until),
            (Some(at), Err(error)) if at.elapsed() > TIMEOUT => {
                return Err(error).context("the status stays wrong");
            }
            (Some(_) | None, Ok(()) | Err(_)) => {}
        }
        match over.recv_timeout(PAUSE) {
            Ok(()) => over_since = Some(Instant::now()),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) if over_since.is_none() => {
                bail!("the fault did not end")
            }
            Err(RecvTimeoutError::Disconnected) => thread::sleep(PAUSE),
        }
    }
}

/// One room with the people in it, and perhaps a visitor who has not been missed yet.
fn check(live_cluster: &LiveCluster, people: usize) -> Result<()> {
    let status = &live_cluster.object()?["status"];
    let number = |name: &str| status[name].as_i64().unwrap_or_default();
    let people = i64::try_from(people)?;
    ensure!(
        number("rooms") == 1
            && (people..=people + 1).contains(&number("participants"))
            && number("subscribers") >= people
            && status["nodes"] == status["readyNodes"],
        "the status is {status}"
    );
    Ok(())
}
