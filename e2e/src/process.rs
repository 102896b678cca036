//! Runs other programs and keeps track of those that outlive this one.

use std::fs;
use std::io::Write as _;
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde::{Deserialize, Serialize};

/// Lines of a failed program's output that the error repeats.
const LINES_IN_ERROR: usize = 40;
/// How long a killed process may take to disappear.
const KILL_WAIT: Duration = Duration::from_secs(10);

/// Runs commands to their end, with the output in the error when they fail.
pub trait Run {
    /// Runs the command; its output is shown only if it fails.
    fn run(&mut self) -> Result<()>;
    /// Runs the command and returns its standard output.
    fn read(&mut self) -> Result<String>;
    /// Runs the command with `input` on its standard input and returns its standard output.
    fn read_with_input(&mut self, input: &[u8]) -> Result<String>;
    /// Says whether the command ran and succeeded; a missing program counts as a failure.
    fn succeeds(&mut self) -> bool;
}

impl Run for Command {
    fn run(&mut self) -> Result<()> {
        self.read().map(drop)
    }

    fn read(&mut self) -> Result<String> {
        let output = self
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("starting {}", describe(self)))?;
        checked(self, output)
    }

    fn read_with_input(&mut self, input: &[u8]) -> Result<String> {
        let mut child = self
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("starting {}", describe(self)))?;
        let mut stdin = child.stdin.take().context("the child has a standard input")?;
        // A program that fails early closes its input; its own message says more.
        let written = stdin.write_all(input);
        drop(stdin);
        let text = checked(self, child.wait_with_output()?)?;
        written.context("writing to the program")?;
        Ok(text)
    }

    fn succeeds(&mut self) -> bool {
        self.stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    }
}

fn checked(command: &Command, output: Output) -> Result<String> {
    if output.status.success() {
        return String::from_utf8(output.stdout).context("output is not text");
    }
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    let tail = lines[lines.len().saturating_sub(LINES_IN_ERROR)..].join("\n");
    bail!("{} ended with {}\n{tail}", describe(command), output.status)
}

fn describe(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

/// Says whether a program is on the search path.
#[must_use]
pub fn is_installed(program: &str) -> bool {
    Command::new("sh").args(["-c", "command -v \"$0\"", program]).succeeds()
}

/// Says whether this process is root.
#[must_use]
pub fn is_root() -> bool {
    Command::new("id").arg("-u").read().is_ok_and(|id| id.trim() == "0")
}

/// A process that outlives this one, told apart from a later one with the same number.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessIdentity {
    /// Process id in the namespace of this program.
    pub pid: u32,
    /// Start time in clock ticks since boot (field 22 of `/proc/<pid>/stat`).
    start_ticks: u64,
    /// The boot that the start time counts from.
    boot_id: String,
}

impl ProcessIdentity {
    /// Reads the identity of a running process.
    pub fn of(pid: u32) -> Result<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))
            .with_context(|| format!("process {pid} has ended"))?;
        let start_ticks = start_ticks(&stat).context("unexpected form of /proc/<pid>/stat")?;
        Ok(Self { pid, start_ticks, boot_id: boot_id()? })
    }

    /// Says whether this very process still runs.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        Self::of(self.pid).is_ok_and(|found| found == *self) && !is_zombie(self.pid)
    }

    /// Kills the process, if it still is the same one, and waits until it is gone.
    pub fn kill(&self) -> Result<()> {
        if !self.is_alive() {
            return Ok(());
        }
        // It may end by itself between the check and the signal.
        let _ = Command::new("kill").args(["-KILL", &self.pid.to_string()]).succeeds();
        let started = Instant::now();
        while self.is_alive() {
            ensure!(started.elapsed() < KILL_WAIT, "process {} does not end", self.pid);
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

fn boot_id() -> Result<String> {
    let id =
        fs::read_to_string("/proc/sys/kernel/random/boot_id").context("reading the boot id")?;
    Ok(id.trim().to_owned())
}

/// The program's name, field 2, is in parentheses and may itself hold spaces and parentheses.
fn fields_after_name(stat: &str) -> Option<std::str::SplitWhitespace<'_>> {
    stat.rsplit_once(')').map(|(_, rest)| rest.split_whitespace())
}

fn start_ticks(stat: &str) -> Option<u64> {
    fields_after_name(stat)?.nth(19)?.parse().ok()
}

fn is_zombie(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| fields_after_name(&stat).and_then(|mut f| f.next()) == Some("Z"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn start_time_is_found_behind_a_name_with_parentheses() {
        let stat = "42 (a (b) c) S 1 42 42 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 987654 1 2";
        assert_eq!(start_ticks(stat), Some(987_654));
    }

    #[test]
    fn own_process_is_alive_and_another_start_time_is_another_process() {
        let own = ProcessIdentity::of(std::process::id()).unwrap();
        assert!(own.is_alive());
        assert!(!ProcessIdentity { start_ticks: own.start_ticks + 1, ..own }.is_alive());
    }

    #[test]
    fn failure_repeats_the_output() {
        let error = Command::new("sh").args(["-c", "echo why >&2; exit 3"]).run().unwrap_err();
        assert!(error.to_string().contains("exit status: 3\nwhy"), "{error}");
    }

    #[test]
    fn input_reaches_the_program() {
        assert_eq!(Command::new("cat").read_with_input(b"abc").unwrap(), "abc");
    }
}
