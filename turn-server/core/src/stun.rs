//! STUN messages (RFC 8489) as TURN uses them: reading into borrowed fields, writing into a
//! vector, integrity and fingerprint.

mod integrity;
mod message;
mod writer;

#[cfg(test)]
mod tests;

pub use integrity::{Algorithm, Integrity, Key, Signer};
pub use message::{Message, ParseError};
pub use writer::Writer;
pub(crate) use writer::xor_address;

/// Bytes of the header.
pub const HEADER: usize = 20;
/// The fixed value of the header (RFC 8489 section 5).
pub const MAGIC_COOKIE: u32 = 0x2112_A442;
/// What FINGERPRINT is XORed with (RFC 8489 section 14.7).
const FINGERPRINT_XOR: u32 = 0x5354_554e;

/// Class of a message (RFC 8489 section 5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Wants an answer.
    Request,
    /// Wants none.
    Indication,
    /// Good answer.
    Success,
    /// Bad answer.
    Error,
}

/// Methods (RFC 8489, RFC 8656 section 17, RFC 6062 section 6.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// Tells a client its address.
    Binding,
    /// Makes an allocation.
    Allocate,
    /// Keeps or ends an allocation.
    Refresh,
    /// Data to a peer.
    Send,
    /// Data from a peer.
    Data,
    /// Admits peers.
    CreatePermission,
    /// Gives a peer a channel.
    ChannelBind,
    /// Opens a connection with a peer.
    Connect,
    /// Makes a client's connection the other half of a peer's.
    ConnectionBind,
    /// Tells that a peer connected.
    ConnectionAttempt,
    /// One that this server does not know.
    Unknown(u16),
}

impl Method {
    const KNOWN: [(u16, Self); 10] = [
        (0x001, Self::Binding),
        (0x003, Self::Allocate),
        (0x004, Self::Refresh),
        (0x006, Self::Send),
        (0x007, Self::Data),
        (0x008, Self::CreatePermission),
        (0x009, Self::ChannelBind),
        (0x00a, Self::Connect),
        (0x00b, Self::ConnectionBind),
        (0x00c, Self::ConnectionAttempt),
    ];

    fn from_bits(bits: u16) -> Self {
        let known = Self::KNOWN.iter().find(|(value, _)| *value == bits);
        known.map_or(Self::Unknown(bits), |(_, method)| *method)
    }

    fn bits(self) -> u16 {
        if let Self::Unknown(bits) = self {
            return bits;
        }
        Self::KNOWN.iter().find(|(_, method)| *method == self).map_or(0, |(bits, _)| *bits)
    }
}

/// Class and method out of the first two bytes; their bits are interleaved.
fn split_type(kind: u16) -> (Class, Method) {
    let class = match (kind >> 7 & 2) | (kind >> 4 & 1) {
        0 => Class::Request,
        1 => Class::Indication,
        2 => Class::Success,
        _ => Class::Error,
    };
    (class, Method::from_bits((kind & 0xf) | (kind >> 1 & 0x70) | (kind >> 2 & 0xf80)))
}

pub(crate) fn join_type(class: Class, method: Method) -> u16 {
    let class = match class {
        Class::Request => 0x000,
        Class::Indication => 0x010,
        Class::Success => 0x100,
        Class::Error => 0x110,
    };
    let bits = method.bits();
    (bits & 0xf) | (bits & 0x70) << 1 | (bits & 0xf80) << 2 | class
}

/// Attribute types.
pub mod attribute {
    #![expect(missing_docs, reason = "the names are those of the RFCs")]
    pub const MAPPED_ADDRESS: u16 = 0x0001;
    pub const USERNAME: u16 = 0x0006;
    pub const MESSAGE_INTEGRITY: u16 = 0x0008;
    pub const ERROR_CODE: u16 = 0x0009;
    pub const UNKNOWN_ATTRIBUTES: u16 = 0x000a;
    pub const CHANNEL_NUMBER: u16 = 0x000c;
    pub const LIFETIME: u16 = 0x000d;
    pub const XOR_PEER_ADDRESS: u16 = 0x0012;
    pub const DATA: u16 = 0x0013;
    pub const REALM: u16 = 0x0014;
    pub const NONCE: u16 = 0x0015;
    pub const XOR_RELAYED_ADDRESS: u16 = 0x0016;
    pub const REQUESTED_ADDRESS_FAMILY: u16 = 0x0017;
    pub const EVEN_PORT: u16 = 0x0018;
    pub const REQUESTED_TRANSPORT: u16 = 0x0019;
    pub const DONT_FRAGMENT: u16 = 0x001a;
    pub const MESSAGE_INTEGRITY_SHA256: u16 = 0x001c;
    pub const PASSWORD_ALGORITHM: u16 = 0x001d;
    pub const USERHASH: u16 = 0x001e;
    pub const XOR_MAPPED_ADDRESS: u16 = 0x0020;
    pub const RESERVATION_TOKEN: u16 = 0x0022;
    pub const CONNECTION_ID: u16 = 0x002a;
    pub const ADDITIONAL_ADDRESS_FAMILY: u16 = 0x8000;
    pub const ADDRESS_ERROR_CODE: u16 = 0x8001;
    pub const PASSWORD_ALGORITHMS: u16 = 0x8002;
    pub const ALTERNATE_DOMAIN: u16 = 0x8003;
    pub const ICMP: u16 = 0x8004;
    pub const SOFTWARE: u16 = 0x8022;
    pub const ALTERNATE_SERVER: u16 = 0x8023;
    pub const FINGERPRINT: u16 = 0x8028;
    /// ADDITIONAL-ADDRESS-FAMILY as clients older than RFC 8656 send it, coturn's for one.
    pub const ADDITIONAL_ADDRESS_FAMILY_DRAFT: u16 = 0x8032;
}

/// CRC-32 of ISO 3309, as FINGERPRINT wants it, four bits a step: rare, and the table is small.
fn crc32(bytes: &[u8]) -> u32 {
    const TABLE: [u32; 16] = {
        let mut table = [0; 16];
        let mut index = 0;
        while index < 16 {
            let mut value = index as u32;
            let mut bit = 0;
            while bit < 4 {
                value = if value & 1 == 1 { value >> 1 ^ 0xedb8_8320 } else { value >> 1 };
                bit += 1;
            }
            table[index] = value;
            index += 1;
        }
        table
    };
    !bytes.iter().fold(!0, |crc, byte| {
        let crc = crc ^ u32::from(*byte);
        let crc = crc >> 4 ^ TABLE[(crc & 0xf) as usize];
        crc >> 4 ^ TABLE[(crc & 0xf) as usize]
    })
}
