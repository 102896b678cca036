//! Waits for conditions of other programs.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

/// Pause between two looks.
const PAUSE: Duration = Duration::from_millis(250);

/// Looks until `condition` holds; the error is the condition's own of the last look.
pub fn eventually<T>(
    what: &str,
    timeout: Duration,
    mut condition: impl FnMut() -> Result<T>,
) -> Result<T> {
    let deadline = Instant::now() + timeout;
    loop {
        match condition() {
            Ok(value) => return Ok(value),
            Err(error) if Instant::now() >= deadline => {
                return Err(error).with_context(|| format!("not within {timeout:?}: {what}"));
            }
            Err(_) => thread::sleep(PAUSE),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_reason_is_in_the_error() {
        let error = eventually("rain", Duration::ZERO, || -> Result<()> { anyhow::bail!("sun") });
        assert_eq!(format!("{:#}", error.unwrap_err()), "not within 0ns: rain: sun");
    }
}
