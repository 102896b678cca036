//! Headers of the PROXY protocol, version 2: a load balancer's word about who the client is,
//! before the first byte of TLS or TURN. Only parsing; who is believed is decided elsewhere.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

/// First bytes of a header. No TLS or STUN message begins like this.
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Bytes before the addresses: signature, version and command, family, length.
const FIXED: usize = 16;
/// Longest header that is read: addresses and a certificate's common name in the TLVs.
pub(crate) const MAX_HEADER: usize = 4096;

/// What the first bytes of a connection are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Prefix {
    /// More bytes are needed to tell.
    Incomplete,
    /// No header.
    Absent,
    /// A header of this length.
    Header {
        /// Bytes until what the client sent.
        length: usize,
        /// Client and the address that it connected to; `None` for the balancer's own probes.
        addresses: Option<(SocketAddr, SocketAddr)>,
    },
    /// Begins like a header and is none.
    Invalid,
}

/// Reads the first bytes of a connection.
pub(crate) fn parse(bytes: &[u8]) -> Prefix {
    let compared = bytes.len().min(SIGNATURE.len());
    if bytes[..compared] != SIGNATURE[..compared] {
        return Prefix::Absent;
    }
    let Some(&[version_and_command, family, high, low]) =
        bytes.get(SIGNATURE.len()..FIXED).and_then(<[u8]>::first_chunk)
    else {
        return Prefix::Incomplete;
    };
    let length = FIXED + usize::from(u16::from_be_bytes([high, low]));
    if length > MAX_HEADER {
        return Prefix::Invalid;
    }
    let Some(body) = bytes.get(FIXED..length) else { return Prefix::Incomplete };
    let addresses = match (version_and_command, family) {
        // LOCAL: the addresses, if any, mean nothing.
        (0x20, _) => return Prefix::Header { length, addresses: None },
        // TCP over IPv4 and IPv6.
        (0x21, 0x11) => v4(body),
        (0x21, 0x21) => v6(body),
        _ => return Prefix::Invalid,
    };
    match addresses {
        Some(addresses) => Prefix::Header { length, addresses: Some(addresses) },
        None => Prefix::Invalid,
    }
}

fn v4(body: &[u8]) -> Option<(SocketAddr, SocketAddr)> {
    let ip = |at: usize| Some(Ipv4Addr::from(*body.get(at..)?.first_chunk::<4>()?));
    Some((
        SocketAddr::new(ip(0)?.into(), port(body, 8)?),
        SocketAddr::new(ip(4)?.into(), port(body, 10)?),
    ))
}

fn v6(body: &[u8]) -> Option<(SocketAddr, SocketAddr)> {
    let ip = |at: usize| Some(Ipv6Addr::from(*body.get(at..)?.first_chunk::<16>()?));
    Some((
        SocketAddr::new(ip(0)?.into(), port(body, 32)?),
        SocketAddr::new(ip(16)?.into(), port(body, 34)?),
    ))
}

fn port(body: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*body.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let mut header = SIGNATURE.to_vec();
        header.extend([command, family]);
        header.extend(u16::try_from(body.len()).unwrap().to_be_bytes());
        header.extend(body);
        header
    }

    fn v4_body() -> Vec<u8> {
        [&[192, 0, 2, 1, 198, 51, 100, 2][..], &[0x12, 0x34, 0x01, 0xBB]].concat()
    }

    #[test]
    fn addresses_of_both_families_are_read() {
        let length = FIXED + 12;
        let addresses =
            Some(("192.0.2.1:4660".parse().unwrap(), "198.51.100.2:443".parse().unwrap()));
        let whole = header(0x21, 0x11, &v4_body());
        assert_eq!(parse(&whole), Prefix::Header { length, addresses });

        let mut body = [0; 36];
        (body[15], body[31], body[33], body[35]) = (1, 2, 3, 4);
        let addresses = Some(("[::1]:3".parse().unwrap(), "[::2]:4".parse().unwrap()));
        let whole = header(0x21, 0x21, &body);
        assert_eq!(parse(&whole), Prefix::Header { length: FIXED + 36, addresses });
    }

    #[test]
    fn what_follows_the_addresses_is_skipped() {
        let mut body = v4_body();
        body.extend([0x04, 0, 2, 0, 0]);
        let mut whole = header(0x21, 0x11, &body);
        let expected = whole.len();
        whole.extend(b"the client's first bytes");
        assert!(matches!(parse(&whole), Prefix::Header { length, .. } if length == expected));
    }

    #[test]
    fn every_cut_is_incomplete() {
        let whole = header(0x21, 0x11, &v4_body());
        for cut in 0..whole.len() {
            assert_eq!(parse(&whole[..cut]), Prefix::Incomplete, "cut at {cut}");
        }
    }

    #[test]
    fn turn_and_tls_are_no_headers() {
        for first in [0x00, 0x01, 0x16, 0x40, b'G'] {
            assert_eq!(parse(&[first]), Prefix::Absent);
        }
    }

    #[test]
    fn a_probe_of_the_balancer_has_no_addresses() {
        let expected = Prefix::Header { length: FIXED, addresses: None };
        assert_eq!(parse(&header(0x20, 0x00, &[])), expected);
    }

    #[test]
    fn nonsense_is_invalid() {
        for (command, family, body) in [
            (0x11, 0x11, v4_body()),     // version 1
            (0x22, 0x11, v4_body()),     // unknown command
            (0x21, 0x12, v4_body()),     // UDP
            (0x21, 0x31, vec![0; 216]),  // a path of the file system
            (0x21, 0x11, vec![0; 11]),   // too short
            (0x21, 0x11, vec![0; 5000]), // too long
        ] {
            assert_eq!(parse(&header(command, family, &body)), Prefix::Invalid, "{command:x}");
        }
    }
}
