//! Load: LiveKit's load tester, which joins rooms and receives what is published there.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Stdio};

use anyhow::{Context as _, Result, bail};

use super::Network;
use crate::livekit::Access;
use crate::repository;
use crate::tools::{LOAD_TESTER, Toolchain};

/// Longer than any test: the load leaves by being dropped.
const DURATION: &str = "1h";

/// Subscribers in a room; they leave when this is dropped.
pub struct Load {
    child: Child,
    room: String,
    log: PathBuf,
}

impl Load {
    /// Lets so many subscribers join a room, one after the other.
    pub fn start(
        network: &Network,
        access: &Access,
        room: &str,
        subscribers: usize,
    ) -> Result<Self> {
        let program = LOAD_TESTER.build(&Toolchain::find()?)?.join(LOAD_TESTER.name);
        let directory = repository().join("target/e2e/load").join(room);
        fs::create_dir_all(&directory).context("making a directory for the load tester")?;
        let log = directory.join("log");
        let output = File::create(&log).context("making the load tester's log")?;
        let child = network
            .command_with_hosts(program, &directory)?
            .args(["--url", &access.url.replacen("http", "ws", 1)])
            .args(["--api-key", access.key(), "--api-secret", access.secret()?])
            .args(["--room", room, "--subscribers", &subscribers.to_string()])
            .args(["--duration", DURATION])
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .context("starting the load tester")?;
        Ok(Self { child, room: room.to_owned(), log })
    }

    /// Its room.
    #[must_use]
    pub fn room(&self) -> &str {
        &self.room
    }

    /// Fails if it has ended by itself.
    pub fn check(&mut self) -> Result<()> {
        match self.child.try_wait().context("asking for the load tester")? {
            None => Ok(()),
            Some(status) => {
                let log = fs::read_to_string(&self.log).unwrap_or_default();
                bail!("the load of {} ended with {status}:\n{log}", self.room)
            }
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        // One that has ended is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
