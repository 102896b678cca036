//! The few STUN messages of a TURN client (RFC 8489, RFC 8656), written independently of the
//! server's code.

use std::net::SocketAddrV4;

use anyhow::{Context as _, Result, bail, ensure};
use hmac::{Hmac, KeyInit as _, Mac as _};
use openssl::hash::{MessageDigest, hash};
use sha1::Sha1;

pub(crate) const ALLOCATE: u16 = 0x0003;
pub(crate) const CHANNEL_BIND: u16 = 0x0009;
const COOKIE: [u8; 4] = [0x21, 0x12, 0xA4, 0x42];
const HEADER: usize = 20;
const ERROR_CODE: u16 = 0x0009;
const CHANNEL_NUMBER: u16 = 0x000C;
const XOR_PEER_ADDRESS: u16 = 0x0012;
const REALM: u16 = 0x0014;
const NONCE: u16 = 0x0015;
const REQUESTED_TRANSPORT: u16 = 0x0019;
const USERNAME: u16 = 0x0006;
const MESSAGE_INTEGRITY: u16 = 0x0008;

/// What long-term credentials need after the server's challenge.
#[derive(Debug, Clone, Default)]
pub(crate) struct Credentials {
    pub(crate) user: String,
    pub(crate) password: String,
    pub(crate) realm: Vec<u8>,
    pub(crate) nonce: Vec<u8>,
}

/// A request.
pub(crate) struct Request(Vec<u8>);

impl Request {
    pub(crate) fn new(method: u16, transaction: [u8; 12]) -> Self {
        let mut message = method.to_be_bytes().to_vec();
        message.extend([0, 0]);
        message.extend(COOKIE);
        message.extend(transaction);
        Self(message)
    }

    /// An Allocate request for UDP.
    pub(crate) fn allocate(transaction: [u8; 12]) -> Self {
        Self::new(ALLOCATE, transaction).with(REQUESTED_TRANSPORT, &[17, 0, 0, 0])
    }

    /// A ChannelBind request.
    pub(crate) fn channel_bind(transaction: [u8; 12], channel: u16, peer: SocketAddrV4) -> Self {
        let [high, low] = channel.to_be_bytes();
        let port = peer.port() ^ 0x2112;
        let ip = u32::from(*peer.ip()) ^ u32::from_be_bytes(COOKIE);
        let mut address = vec![0, 1];
        address.extend(port.to_be_bytes());
        address.extend(ip.to_be_bytes());
        Self::new(CHANNEL_BIND, transaction)
            .with(CHANNEL_NUMBER, &[high, low, 0, 0])
            .with(XOR_PEER_ADDRESS, &address)
    }

    fn with(mut self, kind: u16, value: &[u8]) -> Self {
        self.0.extend(kind.to_be_bytes());
        self.0.extend((value.len() as u16).to_be_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self.finish()
    }

    fn finish(mut self) -> Self {
        let length = (self.0.len() - HEADER) as u16;
        self.0[2..4].copy_from_slice(&length.to_be_bytes());
        self
    }

    /// Adds user, realm, nonce and MESSAGE-INTEGRITY.
    pub(crate) fn signed(self, credentials: &Credentials) -> Result<Vec<u8>> {
        let Credentials { user, password, realm, nonce } = credentials;
        let mut message =
            self.with(USERNAME, user.as_bytes()).with(REALM, realm).with(NONCE, nonce).0;
        let text = [user.as_bytes(), realm, password.as_bytes()].join(&b':');
        let key = hash(MessageDigest::md5(), &text)?;
        let length = (message.len() - HEADER + 24) as u16;
        message[2..4].copy_from_slice(&length.to_be_bytes());
        let mut mac = Hmac::<Sha1>::new_from_slice(&key)?;
        mac.update(&message);
        let sum = mac.finalize().into_bytes();
        message.extend(MESSAGE_INTEGRITY.to_be_bytes());
        message.extend(20_u16.to_be_bytes());
        message.extend(&sum);
        Ok(message)
    }

    /// The request without credentials.
    pub(crate) fn bytes(self) -> Vec<u8> {
        self.0
    }
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    /// Error code; `None` for success.
    pub(crate) error: Option<u16>,
    attributes: Vec<(u16, Vec<u8>)>,
}

impl Answer {
    pub(crate) fn parse(message: &[u8]) -> Result<Self> {
        ensure!(message.len() >= HEADER && message[4..8] == COOKIE, "no STUN message");
        let mut attributes = Vec::new();
        let mut rest = &message[HEADER..];
        while let Some((head, tail)) = rest.split_first_chunk::<4>() {
            let length = usize::from(u16::from_be_bytes([head[2], head[3]]));
            let value = tail.get(..length).context("an attribute is cut off")?;
            attributes.push((u16::from_be_bytes([head[0], head[1]]), value.to_vec()));
            rest = tail.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
        let mut answer = Self { error: None, attributes };
        if message[0] == 1 && message[1] & 0x10 != 0 {
            let value = answer.attribute(ERROR_CODE).context("an error without its code")?;
            answer.error = Some(u16::from(value[2]) * 100 + u16::from(value[3]));
        }
        Ok(answer)
    }

    fn attribute(&self, kind: u16) -> Option<&[u8]> {
        self.attributes.iter().find(|(found, _)| *found == kind).map(|(_, value)| &value[..])
    }

    /// Takes the server's realm and nonce.
    pub(crate) fn challenge(&self, credentials: &mut Credentials) -> Result<()> {
        match self.error {
            Some(401 | 438) => {}
            other => bail!("a challenge was expected, not {other:?}"),
        }
        credentials.realm = self.attribute(REALM).context("a challenge has a realm")?.to_vec();
        credentials.nonce = self.attribute(NONCE).context("a challenge has a nonce")?.to_vec();
        Ok(())
    }
}

/// Bytes of the message that a stream begins with; `None` when more are needed to tell.
pub(crate) fn frame_length(bytes: &[u8]) -> Option<usize> {
    let head = bytes.first_chunk::<4>()?;
    let length = usize::from(u16::from_be_bytes([head[2], head[3]]));
    let is_channel = head[0] & 0xC0 == 0x40;
    Some(if is_channel { 4 + length.next_multiple_of(4) } else { HEADER + length })
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn a_signed_request_is_as_long_as_it_says() {
        let peer = SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 1), 4000);
        let message = Request::channel_bind([7; 12], 0x4000, peer)
            .signed(&Credentials { user: "u".to_owned(), ..Credentials::default() })
            .unwrap();
        assert_eq!(frame_length(&message), Some(message.len()));
        let parsed = Answer::parse(&message).unwrap();
        assert_eq!(parsed.attribute(XOR_PEER_ADDRESS).unwrap()[2..4], [0x2E, 0xB2]);
    }

    #[test]
    fn channel_data_is_padded_in_streams() {
        assert_eq!(frame_length(&[0x40, 0, 0, 5]), Some(12));
        assert_eq!(frame_length(&[0x40, 0, 0]), None);
    }
}
