//! ICE-lite (RFC 8445 section 2.5): answers connectivity checks and follows the nomination of
//! the peer; never sends a check of its own.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::IceCredentials;
use super::stun::BindingRequest;

/// A transport without an authenticated check for this long is dead (RFC 7675).
pub const CONSENT_TIMEOUT: Duration = Duration::from_secs(30);

/// Where datagrams come from and go to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Path {
    /// A UDP peer.
    Udp(SocketAddr),
    /// A TCP connection of the shell, with the peer's address.
    Tcp {
        /// The shell's number of the connection.
        connection: u32,
        /// The peer.
        peer: SocketAddr,
    },
}

impl Path {
    /// The peer's address; an IPv4 one as such, also where a dual-stack socket mapped it.
    pub fn peer(&self) -> SocketAddr {
        match *self {
            Self::Udp(peer) | Self::Tcp { peer, .. } => {
                SocketAddr::new(peer.ip().to_canonical(), peer.port())
            }
        }
    }
}

/// What an accepted check changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CheckOutcome {
    /// Not authentic; no answer is due.
    Refused,
    /// Answered.
    Answered,
    /// Answered, and media now goes to this path.
    PathChanged(Path),
}

/// Our side of ICE for one transport.
#[derive(Debug)]
pub struct IceAgent {
    local: IceCredentials,
    /// Credentials from before a restart, valid until the new ones are used.
    previous: Option<IceCredentials>,
    path: Option<Path>,
    is_nominated: bool,
    last_check: Instant,
}

impl IceAgent {
    /// Waits for checks with these credentials.
    pub fn new(local: IceCredentials, now: Instant) -> Self {
        Self { local, previous: None, path: None, is_nominated: false, last_check: now }
    }

    /// The username fragments that this agent answers to.
    pub fn ufrags(&self) -> impl Iterator<Item = &str> {
        [Some(&self.local), self.previous.as_ref()]
            .into_iter()
            .flatten()
            .map(|credentials| credentials.ufrag.as_str())
    }

    /// Begins an ICE restart (RFC 8445 section 2.4); nothing happens with the same credentials.
    pub fn restart(&mut self, local: IceCredentials, now: Instant) {
        if local != self.local {
            self.previous = Some(std::mem::replace(&mut self.local, local));
            self.last_check = now;
        }
    }

    /// Where to send: the nominated path, or before that the last one that passed a check, so
    /// that the handshake need not wait for the nomination.
    pub fn path(&self) -> Option<Path> {
        self.path
    }

    /// When the last authentic check came.
    pub fn last_check(&self) -> Instant {
        self.last_check
    }

    /// When the peer's consent ends.
    pub fn expires_at(&self) -> Instant {
        self.last_check + CONSENT_TIMEOUT
    }

    /// Takes a connectivity check that came over `path`; writes the answer into `answer`.
    pub fn handle_check(
        &mut self,
        request: &BindingRequest<'_>,
        path: Path,
        now: Instant,
        answer: &mut Vec<u8>,
    ) -> CheckOutcome {
        let is_current = request.local_ufrag() == self.local.ufrag;
        let credentials = match &self.previous {
            _ if is_current => &self.local,
            Some(previous) if request.local_ufrag() == previous.ufrag => previous,
            _ => return CheckOutcome::Refused,
        };
        if !request.is_authentic(&credentials.pwd) {
            return CheckOutcome::Refused;
        }
        if request.controlled {
            // A lite agent is always controlled: the peer must take the other role.
            request.error(487, "Role Conflict", &credentials.pwd, answer);
            return CheckOutcome::Answered;
        }
        request.success(path.peer(), &credentials.pwd, answer);
        self.last_check = now;
        let is_restart = is_current && self.previous.is_some();
        let moves = request.use_candidate || !self.is_nominated || is_restart;
        if is_restart {
            self.previous = None;
            self.is_nominated = false;
        }
        self.is_nominated |= request.use_candidate;
        if moves && self.path != Some(path) {
            self.path = Some(path);
            return CheckOutcome::PathChanged(path);
        }
        CheckOutcome::Answered
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::stun;

    fn credentials(ufrag: &str) -> IceCredentials {
        IceCredentials { ufrag: ufrag.to_owned(), pwd: format!("password-of-{ufrag}-long") }
    }

    fn path(port: u16) -> Path {
        Path::Udp(SocketAddr::from(([192, 0, 2, 1], port)))
    }

    fn check(agent: &mut IceAgent, ufrag: &str, port: u16, nominate: bool) -> CheckOutcome {
        let bytes = stun::write_check(&credentials(ufrag), "peer", nominate);
        let request = BindingRequest::parse(&bytes).unwrap();
        agent.handle_check(&request, path(port), Instant::now(), &mut Vec::new())
    }

    #[test]
    fn the_path_follows_checks_until_nomination_and_then_only_nominations() {
        let mut agent = IceAgent::new(credentials("ours"), Instant::now());
        assert_eq!(check(&mut agent, "ours", 1, false), CheckOutcome::PathChanged(path(1)));
        assert_eq!(check(&mut agent, "ours", 2, false), CheckOutcome::PathChanged(path(2)));
        assert_eq!(check(&mut agent, "ours", 1, true), CheckOutcome::PathChanged(path(1)));
        assert_eq!(check(&mut agent, "ours", 2, false), CheckOutcome::Answered);
        assert_eq!(agent.path(), Some(path(1)));
        assert_eq!(check(&mut agent, "ours", 2, true), CheckOutcome::PathChanged(path(2)));
    }

    #[test]
    fn a_check_with_a_wrong_password_changes_nothing() {
        let mut agent = IceAgent::new(credentials("ours"), Instant::now());
        let mut wrong = credentials("ours");
        wrong.pwd = "a guess of the password".to_owned();
        let bytes = stun::write_check(&wrong, "peer", true);
        let request = BindingRequest::parse(&bytes).unwrap();
        let outcome = agent.handle_check(&request, path(1), Instant::now(), &mut Vec::new());
        assert_eq!((outcome, agent.path()), (CheckOutcome::Refused, None));
        assert_eq!(check(&mut agent, "theirs", 1, true), CheckOutcome::Refused);
    }

    #[test]
    fn a_restart_keeps_the_old_path_until_the_new_credentials_are_used() {
        let mut agent = IceAgent::new(credentials("old"), Instant::now());
        check(&mut agent, "old", 1, true);
        agent.restart(credentials("new"), Instant::now());
        assert_eq!(check(&mut agent, "old", 1, true), CheckOutcome::Answered);
        assert_eq!(check(&mut agent, "new", 2, false), CheckOutcome::PathChanged(path(2)));
        assert_eq!(check(&mut agent, "old", 1, true), CheckOutcome::Refused);
    }
}
