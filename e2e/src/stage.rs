//! Shows what a long command is doing: the name of each stage, a sign of life while it
//! lasts, and its time at the end. All of it goes to standard error.

use std::sync::Mutex;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

/// How often a running stage says that it is still at work.
const SIGN_OF_LIFE: Duration = Duration::from_secs(10);
/// Stages shorter than this are left out of the summary.
const WORTH_REPORTING: Duration = Duration::from_millis(500);

static FINISHED: Mutex<Vec<(String, Duration)>> = Mutex::new(Vec::new());

/// Runs one stage and prints how long it took.
pub fn stage<T>(name: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    say(&format!("==> {name}"));
    let started = Instant::now();
    let (finished, waiting) = channel::<()>();
    let result = thread::scope(|scope| {
        scope.spawn(move || {
            while waiting.recv_timeout(SIGN_OF_LIFE) == Err(RecvTimeoutError::Timeout) {
                say(&format!("    {name}: {}", seconds(started.elapsed())));
            }
        });
        let result = work();
        drop(finished);
        result
    });
    let took = started.elapsed();
    match &result {
        Ok(_) => say(&format!("    {name}: done in {}", seconds(took))),
        Err(_) => say(&format!("    {name}: FAILED after {}", seconds(took))),
    }
    if let Ok(mut all) = FINISHED.lock() {
        all.push((name.to_owned(), took));
    }
    result.with_context(|| format!("stage \"{name}\""))
}

/// Prints one line of progress.
#[expect(clippy::print_stderr, reason = "a command-line program's progress")]
pub fn say(line: &str) {
    eprintln!("{line}");
}

/// Prints the time of each stage that took long enough to matter.
pub fn print_summary() {
    let Ok(all) = FINISHED.lock() else { return };
    for (name, took) in all.iter().filter(|(_, took)| *took >= WORTH_REPORTING) {
        say(&format!("{:>9}  {name}", seconds(*took)));
    }
}

fn seconds(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failing_stage_is_named_in_the_error() {
        let error = stage("boil water", || -> Result<()> { anyhow::bail!("no stove") });
        assert_eq!(format!("{:#}", error.unwrap_err()), "stage \"boil water\": no stove");
    }

    #[test]
    fn seconds_have_one_digit() {
        assert_eq!(seconds(Duration::from_millis(1260)), "1.3 s");
    }
}
