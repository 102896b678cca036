//! A child process that takes commands as JSON lines and answers each with one line.

use std::collections::VecDeque;
use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;
use serde_json::{Value, json};

/// Longest time of a command: a browser that starts on a busy machine.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a driver may take to end by itself.
const END_TIMEOUT: Duration = Duration::from_secs(10);
/// Lines of the program's standard error that are kept.
const LONGEST_LOG: usize = 200;

/// A running driver; dropping it ends the program and what it started.
pub(super) struct Driver {
    name: String,
    child: Child,
    link: Mutex<Link>,
    log: Arc<Mutex<VecDeque<String>>>,
}

struct Link {
    /// `None` after the end was announced.
    commands: Option<ChildStdin>,
    answers: Receiver<String>,
    last_id: u64,
}

#[derive(Deserialize)]
struct Answer {
    id: u64,
    #[serde(default)]
    result: Value,
    error: Option<String>,
}

impl Driver {
    /// Starts the program.
    pub(super) fn start(name: &str, mut command: Command) -> Result<Self> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("starting {name}"))?;
        let commands = child.stdin.take();
        let output = child.stdout.take().context("the child has a standard output")?;
        let errors = child.stderr.take().context("the child has a standard error")?;
        let (sender, answers) = channel();
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let log = Arc::new(Mutex::new(VecDeque::new()));
        let kept = Arc::clone(&log);
        thread::spawn(move || keep_lines(errors, &kept));
        let link = Mutex::new(Link { commands, answers, last_id: 0 });
        Ok(Self { name: name.to_owned(), child, link, log })
    }

    /// Sends a command and waits for its result.
    pub(super) fn call(&self, command: &str, options: Value) -> Result<Value> {
        let mut link = lock(&self.link);
        link.last_id += 1;
        let id = link.last_id;
        let mut request = json!({ "id": id, "command": command });
        if let (Value::Object(request), Value::Object(options)) = (&mut request, options) {
            request.extend(options);
        }
        self.send(&mut link, &request)?;
        let answer = self.receive(&link, id, command)?;
        match answer.error {
            None => Ok(answer.result),
            Some(error) => bail!("{} answers to {command}: {error}", self.name),
        }
    }

    /// The last lines of the program's standard error.
    pub(super) fn log(&self) -> Vec<String> {
        lock(&self.log).iter().cloned().collect()
    }

    fn send(&self, link: &mut Link, request: &Value) -> Result<()> {
        let commands = link.commands.as_mut().context("the driver was ended")?;
        let written = writeln!(commands, "{request}").and_then(|()| commands.flush());
        written.with_context(|| self.ended())
    }

    /// Answers to earlier commands whose time ran out are passed over.
    fn receive(&self, link: &Link, id: u64, command: &str) -> Result<Answer> {
        let deadline = Instant::now() + COMMAND_TIMEOUT;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let line = link.answers.recv_timeout(left);
            let line = line.with_context(|| format!("no answer to {command}: {}", self.ended()))?;
            let answer: Answer = serde_json::from_str(&line)
                .with_context(|| format!("{} wrote {line:?}", self.name))?;
            if answer.id == id {
                return Ok(answer);
            }
        }
    }

    fn ended(&self) -> String {
        format!("{} does not work; it wrote:\n{}", self.name, self.log().join("\n"))
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        // The end of its input tells the program to close what it opened.
        lock(&self.link).commands = None;
        let started = Instant::now();
        while started.elapsed() < END_TIMEOUT {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            thread::sleep(Duration::from_millis(20));
        }
        // It did not listen; nothing more can be done for it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn keep_lines(source: impl Read, log: &Mutex<VecDeque<String>>) {
    for line in BufReader::new(source).lines().map_while(Result::ok) {
        let mut log = lock(log);
        log.push_back(line);
        if log.len() > LONGEST_LOG {
            log.pop_front();
        }
    }
}

/// A panic elsewhere leaves nothing half done in what these locks guard.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wait::eventually;

    fn shell(script: &str) -> Driver {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        Driver::start("sh", command).unwrap()
    }

    #[test]
    fn results_and_errors_come_back() {
        let driver = shell(
            r#"read a; echo '{"id":1,"result":[7]}'; read b; echo '{"id":2,"error":"no"}'; read c"#,
        );
        assert_eq!(driver.call("first", json!({})).unwrap(), json!([7]));
        let error = driver.call("second", json!({})).unwrap_err();
        assert_eq!(error.to_string(), "sh answers to second: no");
    }

    #[test]
    fn the_error_of_a_dead_program_holds_its_last_words() {
        let driver = shell("read a; echo 'no display' >&2; exit 1");
        let error = driver.call("first", json!({})).unwrap_err();
        assert!(error.to_string().contains("no answer to first"), "{error}");
        let last_words = || {
            anyhow::ensure!(driver.log() == ["no display"]);
            Ok(())
        };
        eventually("the last words", Duration::from_secs(5), last_words).unwrap();
    }
}
