//! Connectivity checks of a client (RFC 8445, RFC 8489): ours, and the answers to them. The
//! server's checks are read and answered with the server's own code.

use flate2::Crc;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sfu_core::media::IceCredentials;
use sha1::Sha1;

const MAGIC_COOKIE: u32 = 0x2112_A442;
const HEADER: usize = 20;
const BINDING_REQUEST: u16 = 0x0001;
const BINDING_SUCCESS: u16 = 0x0101;
const BINDING_ERROR: u16 = 0x0111;
const USERNAME: u16 = 0x0006;
const MESSAGE_INTEGRITY: u16 = 0x0008;
const PRIORITY: u16 = 0x0024;
const USE_CANDIDATE: u16 = 0x0025;
const FINGERPRINT: u16 = 0x8028;
const ICE_CONTROLLED: u16 = 0x8029;
const ICE_CONTROLLING: u16 = 0x802A;
const FINGERPRINT_XOR: u32 = 0x5354_554E;
/// Type preference 110 (peer reflexive), highest local preference, component 1.
const PRFLX_PRIORITY: u32 = 110 << 24 | 0xFFFF << 8 | 255;

/// Our part in ICE (RFC 8445 section 6.1.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum IceRole {
    /// We nominate.
    Controlling,
    /// The server does.
    Controlled,
}

/// What came back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CheckAnswer {
    /// The path works.
    Success,
    /// Refused: wrong credentials, or both have the same role.
    Error,
}

/// Writes a check of `local` to `remote`; a controlling agent nominates at once.
pub(super) fn check(
    local: &IceCredentials,
    remote: &IceCredentials,
    role: IceRole,
    transaction: [u8; 12],
) -> Vec<u8> {
    /// The same for all: nobody is ever in conflict with itself.
    const TIE_BREAKER: [u8; 8] = [0x5A; 8];
    let mut out = Vec::with_capacity(128);
    out.extend_from_slice(&BINDING_REQUEST.to_be_bytes());
    out.extend_from_slice(&[0, 0]);
    out.extend_from_slice(&MAGIC_COOKIE.to_be_bytes());
    out.extend_from_slice(&transaction);
    append(&mut out, USERNAME, format!("{}:{}", remote.ufrag, local.ufrag).as_bytes());
    append(&mut out, PRIORITY, &PRFLX_PRIORITY.to_be_bytes());
    match role {
        IceRole::Controlling => {
            append(&mut out, ICE_CONTROLLING, &TIE_BREAKER);
            append(&mut out, USE_CANDIDATE, &[]);
        }
        IceRole::Controlled => append(&mut out, ICE_CONTROLLED, &TIE_BREAKER),
    }
    finish(&mut out, &remote.pwd);
    out
}

/// Reads the answer to the check with this transaction id; `None` for anything else.
pub(super) fn answer(datagram: &[u8], transaction: &[u8; 12]) -> Option<CheckAnswer> {
    let header = datagram.first_chunk::<HEADER>()?;
    if header[8..] != transaction[..] {
        return None;
    }
    match u16::from_be_bytes([header[0], header[1]]) {
        BINDING_SUCCESS => Some(CheckAnswer::Success),
        BINDING_ERROR => Some(CheckAnswer::Error),
        _ => None,
    }
}

fn append(out: &mut Vec<u8>, kind: u16, value: &[u8]) {
    out.extend_from_slice(&kind.to_be_bytes());
    out.extend_from_slice(&(value.len() as u16).to_be_bytes());
    out.extend_from_slice(value);
    out.resize(out.len().next_multiple_of(4), 0);
    set_length(out, 0);
}

/// Writes the header's length as if `more` bytes followed.
fn set_length(out: &mut [u8], more: usize) {
    let length = (out.len() + more - HEADER) as u16;
    out[2..4].copy_from_slice(&length.to_be_bytes());
}

/// Both cover a header whose length counts themselves (RFC 8489 sections 14.5 and 14.7).
fn finish(out: &mut Vec<u8>, pwd: &str) {
    set_length(out, 24);
    let mut mac =
        Hmac::<Sha1>::new_from_slice(pwd.as_bytes()).expect("HMAC takes keys of every length");
    mac.update(out);
    append(out, MESSAGE_INTEGRITY, &mac.finalize().into_bytes());
    set_length(out, 8);
    let mut crc = Crc::new();
    crc.update(out);
    append(out, FINGERPRINT, &(crc.sum() ^ FINGERPRINT_XOR).to_be_bytes());
}

#[cfg(test)]
mod tests {
    use sfu_core::media::stun::BindingRequest;

    use super::*;

    fn credentials(ufrag: &str) -> IceCredentials {
        IceCredentials { ufrag: ufrag.to_owned(), pwd: format!("password-of-{ufrag}-0000") }
    }

    #[test]
    fn the_server_accepts_a_check_and_we_its_answer() {
        let (ours, theirs) = (credentials("ours"), credentials("theirs"));
        for (role, nominates) in [(IceRole::Controlling, true), (IceRole::Controlled, false)] {
            let bytes = check(&ours, &theirs, role, [7; 12]);
            let request = BindingRequest::parse(&bytes).unwrap();
            assert!(request.is_authentic(&theirs.pwd));
            assert_eq!((request.local_ufrag(), request.remote_ufrag()), ("theirs", "ours"));
            assert_eq!((request.use_candidate, request.controlled), (nominates, !nominates));
            let mut out = Vec::new();
            request.success("192.0.2.1:5".parse().unwrap(), &theirs.pwd, &mut out);
            assert_eq!(answer(&out, &[7; 12]), Some(CheckAnswer::Success));
            assert_eq!(answer(&out, &[8; 12]), None);
            request.error(487, "Role Conflict", &theirs.pwd, &mut out);
            assert_eq!(answer(&out, &[7; 12]), Some(CheckAnswer::Error));
        }
    }
}
