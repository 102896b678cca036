//! The TURN server alone, on loopback, for clients that others wrote.

use std::env;
use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::artifact_cache::remove_directory;
use crate::certificate::Certificate;
use crate::dev_server::release_program;
use crate::stage::stage;
use crate::wait::eventually;

/// Who may allocate, and by which password.
pub const USER: (&str, &str) = ("alice", "wonder");
/// Time until the server answers.
const START_TIMEOUT: Duration = Duration::from_secs(20);

/// A TURN server on a port of 127.0.0.1 and the two ports above it; it ends with this value.
pub struct TurnServer {
    /// UDP and TCP.
    pub plain: SocketAddr,
    /// TLS.
    pub secure: SocketAddr,
    /// File with the certificate of TLS.
    pub certificate: PathBuf,
    directory: PathBuf,
    child: Child,
}

impl TurnServer {
    /// Builds the server if need be, starts it and waits until it answers. All of loopback may be
    /// a peer.
    pub fn start(port: u16) -> Result<Self> {
        let program = stage("turn-server", || release_program("turn-server"))?;
        let directory =
            env::temp_dir().join(format!("livecluster-turn-{}-{port}", std::process::id()));
        fs::create_dir_all(&directory).context("making the directory of the TURN server")?;
        let made = Certificate::new("127.0.0.1")?;
        let (user, password) = USER;
        let path = |name: &str| directory.join(name);
        fs::write(path("users"), format!("{user}: {password}\n"))?;
        fs::write(path("tls.crt"), made.pem())?;
        fs::write(path("tls.key"), made.key_pem())?;
        let at = |offset: u16| SocketAddr::from((Ipv4Addr::LOCALHOST, port + offset));
        let (plain, secure, admin) = (at(0), at(1), at(2));
        let own = directory.display();
        // Relays are above the ports that the kernel gives to peers on this machine.
        let config = format!(
            "realm: e2e\nlisten: {{udp: ['{plain}'], tcp: ['{plain}'], tls: ['{secure}']}}\n\
             tls: {{certificate_file: {own}/tls.crt, key_file: {own}/tls.key}}\n\
             relay: {{addresses: [{{bind: 127.0.0.1}}], ports: {{first: 61000, last: 65535}}}}\n\
             credentials: {{users_file: {own}/users}}\n\
             peers: {{allow: [{{network: 127.0.0.0/8}}]}}\nadmin: {{listen: '{admin}'}}\n"
        );
        fs::write(path("turn.yaml"), config)?;
        let output = File::create(path("log"))?;
        let child = Command::new(program)
            .arg("--config")
            .arg(path("turn.yaml"))
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .context("starting the TURN server")?;
        let server = Self { plain, secure, certificate: path("tls.crt"), directory, child };
        eventually("the TURN server listens", START_TIMEOUT, || {
            TcpStream::connect(secure).map(drop).with_context(|| server.log())
        })?;
        Ok(server)
    }

    /// What the server wrote.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.join("log")).unwrap_or_default()
    }
}

impl Drop for TurnServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        // What stays in the system's directory for temporary files harms nobody.
        let _ = remove_directory(&self.directory);
    }
}
