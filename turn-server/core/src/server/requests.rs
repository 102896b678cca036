//! Requests: who asks, whether it may, and the answer (RFC 8489 sections 6.3 and 9.2.4).

use std::time::Instant;

use super::Server;
use crate::api::{Alternate, Client};
use crate::auth::User;
use crate::counters::DropReason;
use crate::stun::{Algorithm, Class, Message, Method, Signer, Writer, attribute as a};

/// PASSWORD-ALGORITHMS: SHA-256, then MD5, neither with parameters.
const PASSWORD_ALGORITHMS: [u8; 8] = [0, 2, 0, 0, 0, 1, 0, 0];

/// A request whose integrity is right.
pub(super) struct Request<'a, 'b> {
    pub(super) client: Client,
    pub(super) message: &'a Message<'b>,
    pub(super) user: User,
    pub(super) signer: Signer,
}

impl Request<'_, '_> {
    /// Begins a good answer.
    pub(super) fn success(&self) -> Writer {
        Writer::new(Class::Success, self.message.method, self.message.transaction)
    }
}

/// What a request leads to: an answer, none yet, or an error code.
pub(super) type Outcome = Result<Option<Writer>, u16>;

/// An error before the answer: its code, and the key if the request was authentic.
type Refusal = (u16, Option<Signer>);

impl Server {
    pub(super) fn request(&mut self, client: Client, message: &Message<'_>, now: Instant) {
        match message.method {
            Method::Binding => self.binding(client, message, now),
            Method::Allocate
            | Method::Refresh
            | Method::CreatePermission
            | Method::ChannelBind
            | Method::Connect
            | Method::ConnectionBind => match self.authenticate(client, message, now) {
                Ok(request) => self.answer(&request, now),
                Err((code, signer)) => self.refuse(client, message, code, signer, now),
            },
            Method::Send | Method::Data | Method::ConnectionAttempt | Method::Unknown(_) => {
                self.counters.drop(DropReason::Unexpected);
            }
        }
    }

    fn binding(&mut self, client: Client, message: &Message<'_>, now: Instant) {
        if let Some(code) = bad_attributes(message) {
            return self.refuse(client, message, code, None, now);
        }
        self.counters.bindings += 1;
        let mut writer = Writer::new(Class::Success, Method::Binding, message.transaction);
        writer.xor_address(a::XOR_MAPPED_ADDRESS, client.remote);
        self.send(client, writer.finish(None, message.fingerprint));
    }

    fn answer(&mut self, request: &Request<'_, '_>, now: Instant) {
        let Request { client, message, signer, .. } = request;
        let outcome = match bad_attributes(message) {
            Some(code) => Err(code),
            None => self.perform(request, now),
        };
        match outcome {
            Ok(Some(writer)) => {
                let bytes = self.finish(writer, *signer, message.fingerprint);
                self.send(*client, bytes);
            }
            Ok(None) => {}
            Err(code) => self.refuse(*client, message, code, Some(*signer), now),
        }
        if message.method == Method::ConnectionBind {
            self.splice_bound(*client);
        }
    }

    fn perform(&mut self, request: &Request<'_, '_>, now: Instant) -> Outcome {
        match request.message.method {
            Method::Allocate => self.allocate(request, now),
            Method::Refresh => self.refresh(request, now),
            Method::CreatePermission => self.create_permission(request, now),
            Method::ChannelBind => self.channel_bind(request, now),
            Method::Connect => self.connect(request, now),
            Method::ConnectionBind => self.connection_bind(request),
            Method::Binding
            | Method::Send
            | Method::Data
            | Method::ConnectionAttempt
            | Method::Unknown(_) => Err(400),
        }
    }

    fn authenticate<'a, 'b>(
        &self,
        client: Client,
        message: &'a Message<'b>,
        now: Instant,
    ) -> Result<Request<'a, 'b>, Refusal> {
        let is_allocated = self.by_client.contains_key(&client);
        // After a restart clients must learn at once that their allocations are gone, whatever
        // nonce they hold; this also keeps the answer to a forged source short.
        let needs_allocation =
            !is_allocated && !matches!(message.method, Method::Allocate | Method::ConnectionBind);
        let Some(integrity) = message.integrity() else {
            let is_incomplete =
                message.method == Method::Allocate && message.requested_transport.is_none();
            return Err(match (needs_allocation, is_incomplete) {
                (true, _) => (437, None),
                (false, true) => (400, None),
                (false, false) => (401, None),
            });
        };
        let has_user = message.username.is_some() || message.userhash.is_some();
        let (Some(nonce), Some(realm), true) = (message.nonce, message.realm, has_user) else {
            return Err((400, None));
        };
        let algorithm = algorithm(message).ok_or((400, None))?;
        let user = self
            .user(client, message, algorithm)
            .filter(|_| realm == self.realm.as_bytes())
            .ok_or((401, None))?;
        let signer = Signer { key: user.key(algorithm), integrity };
        if needs_allocation {
            return Err((437, Some(signer)));
        }
        let unix_s = self.unix_s(now);
        if !self.nonces.is_fresh(nonce, client.remote.ip(), unix_s) {
            return Err((438, None));
        }
        // A session may outlast its credentials; only its begin needs them.
        let is_begin = message.method == Method::Allocate && !is_allocated;
        if is_begin && user.expiry_s.is_some_and(|expiry_s| expiry_s <= unix_s) {
            return Err((401, None));
        }
        Ok(Request { client, message, user, signer })
    }

    /// The user that made a request: the allocation's as it was then, or one of today.
    fn user(&self, client: Client, message: &Message<'_>, algorithm: Algorithm) -> Option<User> {
        let owner = self.by_client.get(&client).map(|index| &self.allocations[*index].user);
        owner
            .filter(|user| user.is_named_by(message) && message.is_authentic(user.key(algorithm)))
            .cloned()
            .or_else(|| self.users.verify(message, algorithm))
    }

    /// The allocation of a request, if its user owns it.
    pub(super) fn owned(&self, request: &Request<'_, '_>) -> Result<usize, u16> {
        let index = self.by_client.get(&request.client).copied().ok_or(437_u16)?;
        let allocation = &self.allocations[index];
        if allocation.opening.is_some() {
            return Err(437);
        }
        if allocation.user.username != request.user.username { Err(441) } else { Ok(index) }
    }

    /// Ends an answer to an authentic request.
    pub(super) fn finish(&self, mut writer: Writer, signer: Signer, fingerprint: bool) -> Vec<u8> {
        if !self.software.is_empty() {
            writer.attribute(a::SOFTWARE, self.software.as_bytes());
        }
        writer.finish(Some(signer), fingerprint)
    }

    /// Answers with an error. What is not authentic gets few and short ones, since its source
    /// may be forged.
    pub(super) fn refuse(
        &mut self,
        client: Client,
        message: &Message<'_>,
        code: u16,
        signer: Option<Signer>,
        now: Instant,
    ) {
        let rate = self.limits.challenges_per_second;
        // A connection proves its address, and nobody asks twice on one: a whole office, or all
        // that come by one load balancer, may have the same address.
        let is_proven = client.transport.is_stream();
        if signer.is_none() && !is_proven && !self.budget.try_take(client.remote.ip(), rate, now) {
            self.counters.drop(DropReason::ChallengeBudget);
            return;
        }
        self.counters.error(code);
        let mut writer = Writer::new(Class::Error, message.method, message.transaction);
        let reason = if signer.is_some() { reason(code) } else { "" };
        writer.error_code(code, reason);
        match code {
            401 | 438 => {
                let nonce = self.nonces.make(client.remote.ip(), self.unix_s(now));
                writer.attribute(a::REALM, self.realm.as_bytes());
                writer.attribute(a::NONCE, nonce.unwrap_or_default().as_bytes());
                writer.attribute(a::PASSWORD_ALGORITHMS, &PASSWORD_ALGORITHMS);
            }
            420 => {
                let unknown = message.unknown().iter().flat_map(|kind| kind.to_be_bytes());
                writer.attribute(a::UNKNOWN_ATTRIBUTES, &unknown.collect::<Vec<u8>>());
            }
            300 => {
                if let Some(Alternate { server, domain }) = &self.alternate {
                    writer.address(a::ALTERNATE_SERVER, *server);
                    if let Some(domain) = domain {
                        writer.attribute(a::ALTERNATE_DOMAIN, domain.as_bytes());
                    }
                }
            }
            _ => {}
        }
        let bytes = match signer {
            Some(signer) => self.finish(writer, signer, message.fingerprint),
            None => writer.finish(None, message.fingerprint),
        };
        self.send(client, bytes);
    }
}

/// The error of a request with attributes of a wrong form, or such as nobody knows.
fn bad_attributes(message: &Message<'_>) -> Option<u16> {
    if !message.unknown().is_empty() {
        return Some(420);
    }
    message.malformed.then_some(400)
}

/// What the key is made with; `None` when somebody has changed the offer on its way to the
/// client (RFC 8489 section 9.2.4).
fn algorithm(message: &Message<'_>) -> Option<Algorithm> {
    match (message.password_algorithm, message.password_algorithms) {
        (None, None) => Some(Algorithm::Md5),
        (Some(number), Some(offer)) if offer == PASSWORD_ALGORITHMS => {
            Algorithm::from_number(number)
        }
        (Some(_) | None, _) => None,
    }
}

/// The phrase of an error code.
const fn reason(code: u16) -> &'static str {
    match code {
        300 => "Try Alternate",
        400 => "Bad Request",
        403 => "Forbidden",
        420 => "Unknown Attribute",
        437 => "Allocation Mismatch",
        440 => "Address Family not Supported",
        441 => "Wrong Credentials",
        442 => "Unsupported Transport Protocol",
        443 => "Peer Address Family Mismatch",
        446 => "Connection Already Exists",
        447 => "Connection Timeout or Failure",
        486 => "Allocation Quota Reached",
        508 => "Insufficient Capacity",
        _ => "",
    }
}
