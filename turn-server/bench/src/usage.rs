//! CPU time and memory of a process, from `/proc`.

use std::fs;

use anyhow::{Context as _, Result};

/// What a process has used.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Usage {
    /// CPU time of all living threads, microseconds.
    pub(crate) cpu_us: f64,
    /// Resident memory, bytes.
    pub(crate) memory: u64,
}

impl Usage {
    /// Reads both. The scheduler's own counts are exact, where `utime` and `stime` go by ticks
    /// of 10 ms.
    pub(crate) fn of(pid: u32) -> Result<Self> {
        let mut nanos = 0;
        let tasks = format!("/proc/{pid}/task");
        for task in fs::read_dir(&tasks).with_context(|| format!("process {pid} has ended"))? {
            // A thread may end meanwhile.
            if let Ok(text) = fs::read_to_string(task?.path().join("schedstat")) {
                nanos += first_number(&text).context("schedstat")?;
            }
        }
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        Ok(Self {
            cpu_us: nanos as f64 / 1000.0,
            memory: resident(&status).context("VmRSS in status")?,
        })
    }
}

fn first_number(text: &str) -> Option<u64> {
    text.split_ascii_whitespace().next()?.parse().ok()
}

fn resident(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(first_number(line)? * 1024)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn a_busy_process_uses_time_and_memory() {
        let before = Usage::of(std::process::id()).unwrap();
        let start = Instant::now();
        while start.elapsed() < Duration::from_millis(30) {
            std::hint::spin_loop();
        }
        let after = Usage::of(std::process::id()).unwrap();
        assert!(after.cpu_us > before.cpu_us);
        assert!(after.memory > 1 << 20);
    }

    #[test]
    fn resident_memory_is_in_bytes() {
        assert_eq!(resident("VmPeak:\t 9 kB\nVmRSS:\t    12 kB\n"), Some(12_288));
    }
}
