//! livekit-server as the recording's other side.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use e2e::tools::{LIVEKIT_SERVER, Toolchain};

use crate::http;
use crate::script::{KEY, SECRET};

const PORT: u16 = 18_130;
/// Time until it answers.
const START_TIMEOUT: Duration = Duration::from_secs(20);

/// A running livekit-server; ends with this value.
pub(crate) struct Reference {
    child: Child,
    directory: PathBuf,
    /// Its address.
    pub(crate) url: String,
}

impl Reference {
    /// Builds it if need be and starts it with its defaults, on the loopback interface.
    pub(crate) async fn start() -> Result<Self> {
        let program = LIVEKIT_SERVER.build(&Toolchain::find()?)?.join(LIVEKIT_SERVER.name);
        let directory = std::env::temp_dir().join(format!("livekit-{}", std::process::id()));
        fs::create_dir_all(&directory)?;
        let config = directory.join("livekit.yaml");
        fs::write(
            &config,
            format!(
                "port: {PORT}\nbind_addresses: [127.0.0.1]\nrtc:\n  udp_port: {}\n  \
                 tcp_port: {}\n  use_external_ip: false\n  enable_loopback_candidate: true\n\
                 keys:\n  {KEY}: {SECRET}\n",
                PORT + 1,
                PORT + 2,
            ),
        )?;
        let log = File::create(directory.join("log"))?;
        let child = Command::new(program)
            .arg("--config")
            .arg(&config)
            .args(["--node-ip", "127.0.0.1"])
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("starting livekit-server")?;
        let reference = Self { child, directory, url: format!("http://127.0.0.1:{PORT}") };
        let started = Instant::now();
        while http::get(&reference.url).await.ok() != Some(200) {
            ensure!(started.elapsed() < START_TIMEOUT, "no answer:\n{}", reference.log());
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        Ok(reference)
    }

    /// What it wrote.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.directory.join("log")).unwrap_or_default()
    }
}

impl Drop for Reference {
    fn drop(&mut self) {
        // It may have ended already, and what is left harms nobody.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.directory);
    }
}
