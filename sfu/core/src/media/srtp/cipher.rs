//! Session keys (RFC 3711 section 4.3) and the two transforms.

use aes::Aes128;
use aes::cipher::{InnerIvInit as _, KeyInit as _, StreamCipher as _};
use ctr::{Ctr128BE, CtrCore};
use hmac::{Hmac, Mac as _};
use ring::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use sha1::Sha1;
use subtle::ConstantTimeEq as _;

use super::{ENCRYPTED, INDEX_LENGTH, RTCP_HEADER, SrtpError, SrtpProfile};

/// Bytes of an AES-GCM tag.
const GCM_TAG: usize = 16;
/// Bytes of the shortened HMAC-SHA1 tag.
const SHA1_TAG: usize = 10;
/// Labels of the key derivation for RTP; those of RTCP are 3 higher.
const LABEL_ENCRYPTION: u8 = 0;
const LABEL_AUTHENTICATION: u8 = 1;
const LABEL_SALT: u8 = 2;
const RTCP_LABELS: u8 = 3;

type HmacSha1 = Hmac<Sha1>;

/// Protects RTP with the session keys of one direction.
pub(super) struct Cipher(Transform);

/// Protects RTCP with the session keys of one direction.
pub(super) struct RtcpCipher(Transform);

enum Transform {
    Gcm { key: LessSafeKey, salt: [u8; 12] },
    Cm { aes: Aes128, salt: [u8; 14], hmac: HmacSha1 },
}

/// Derives the session keys of a direction.
pub(super) fn derive(profile: SrtpProfile, key: &[u8; 16], salt: &[u8]) -> (Cipher, RtcpCipher) {
    (
        Cipher(transform(profile, key, salt, 0)),
        RtcpCipher(transform(profile, key, salt, RTCP_LABELS)),
    )
}

fn transform(profile: SrtpProfile, key: &[u8; 16], salt: &[u8], labels: u8) -> Transform {
    let master = Aes128::new(key.into());
    let session_key: [u8; 16] = derive_key(&master, salt, labels + LABEL_ENCRYPTION);
    match profile {
        SrtpProfile::AeadAes128Gcm => Transform::Gcm {
            key: LessSafeKey::new(
                UnboundKey::new(&AES_128_GCM, &session_key).expect("the key has 16 bytes"),
            ),
            salt: derive_key(&master, salt, labels + LABEL_SALT),
        },
        SrtpProfile::Aes128CmSha1_80 => {
            let mac_key: [u8; 20] = derive_key(&master, salt, labels + LABEL_AUTHENTICATION);
            Transform::Cm {
                aes: Aes128::new(&session_key.into()),
                salt: derive_key(&master, salt, labels + LABEL_SALT),
                hmac: <HmacSha1 as hmac::KeyInit>::new_from_slice(&mac_key)
                    .expect("HMAC takes keys of every length"),
            }
        }
    }
}

/// The keystream of AES-CM at the master salt XOR the label (RFC 3711 section 4.3.3).
fn derive_key<const N: usize>(master: &Aes128, salt: &[u8], label: u8) -> [u8; N] {
    let mut iv = [0; 16];
    iv[..salt.len()].copy_from_slice(salt);
    iv[7] ^= label;
    let mut key = [0; N];
    keystream(master, iv, &mut key);
    key
}

/// One derived key, for the test vectors of RFC 3711.
#[cfg(test)]
pub(super) fn session_key(key: &[u8; 16], salt: &[u8], label: u8) -> [u8; 16] {
    derive_key(&Aes128::new(key.into()), salt, label)
}

fn keystream(aes: &Aes128, iv: [u8; 16], data: &mut [u8]) {
    // The expanded key is copied, not expanded again.
    let core = CtrCore::inner_iv_init(aes.clone(), &iv.into());
    Ctr128BE::<Aes128>::from_core(core).apply_keystream(data);
}

/// RFC 7714 section 8.1.
fn gcm_rtp_nonce(salt: &[u8; 12], ssrc: u32, index: u64) -> Nonce {
    let mut nonce = *salt;
    xor(&mut nonce[2..6], &ssrc.to_be_bytes());
    xor(&mut nonce[6..12], &index.to_be_bytes()[2..]);
    Nonce::assume_unique_for_key(nonce)
}

/// RFC 7714 section 9.1.
fn gcm_rtcp_nonce(salt: &[u8; 12], ssrc: u32, index: u32) -> Nonce {
    let mut nonce = *salt;
    xor(&mut nonce[2..6], &ssrc.to_be_bytes());
    xor(&mut nonce[8..12], &index.to_be_bytes());
    Nonce::assume_unique_for_key(nonce)
}

/// RFC 3711 section 4.1.1; the low 16 bits count blocks.
fn cm_iv(salt: &[u8; 14], ssrc: u32, index: u64) -> [u8; 16] {
    let mut iv = [0; 16];
    iv[..14].copy_from_slice(salt);
    xor(&mut iv[4..8], &ssrc.to_be_bytes());
    xor(&mut iv[8..14], &index.to_be_bytes()[2..]);
    iv
}

fn xor(target: &mut [u8], with: &[u8]) {
    for (byte, other) in target.iter_mut().zip(with) {
        *byte ^= other;
    }
}

fn sha1_tag(hmac: &HmacSha1, parts: [&[u8]; 2]) -> [u8; SHA1_TAG] {
    let mut mac = hmac.clone();
    for part in parts {
        mac.update(part);
    }
    let full = mac.finalize().into_bytes();
    let mut tag = [0; SHA1_TAG];
    tag.copy_from_slice(&full[..SHA1_TAG]);
    tag
}

impl Cipher {
    /// Encrypts `buffer[start..]` behind its header and appends the tag.
    pub(super) fn seal(
        &self,
        buffer: &mut Vec<u8>,
        start: usize,
        header_length: usize,
        ssrc: u32,
        index: u64,
    ) -> Result<(), SrtpError> {
        let packet = buffer.get_mut(start..).ok_or(SrtpError::Short)?;
        let (header, payload) =
            packet.split_at_mut_checked(header_length).ok_or(SrtpError::Short)?;
        match &self.0 {
            Transform::Gcm { key, salt } => {
                let nonce = gcm_rtp_nonce(salt, ssrc, index);
                let tag = key
                    .seal_in_place_separate_tag(nonce, Aad::from(header), payload)
                    .map_err(|_| SrtpError::Short)?;
                buffer.extend_from_slice(tag.as_ref());
            }
            Transform::Cm { aes, salt, hmac } => {
                keystream(aes, cm_iv(salt, ssrc, index), payload);
                let rollover = ((index >> 16) as u32).to_be_bytes();
                let tag = sha1_tag(hmac, [packet, &rollover]);
                buffer.extend_from_slice(&tag);
            }
        }
        Ok(())
    }

    /// Verifies and decrypts `packet`; returns its length without the tag.
    pub(super) fn open(
        &self,
        packet: &mut [u8],
        header_length: usize,
        ssrc: u32,
        index: u64,
    ) -> Result<usize, SrtpError> {
        match &self.0 {
            Transform::Gcm { key, salt } => {
                let (header, sealed) =
                    packet.split_at_mut_checked(header_length).ok_or(SrtpError::Short)?;
                let plain = key
                    .open_in_place(gcm_rtp_nonce(salt, ssrc, index), Aad::from(header), sealed)
                    .map_err(|_| SrtpError::Authentication)?
                    .len();
                Ok(header_length + plain)
            }
            Transform::Cm { aes, salt, hmac } => {
                let length = packet.len().checked_sub(SHA1_TAG).ok_or(SrtpError::Short)?;
                if length < header_length {
                    return Err(SrtpError::Short);
                }
                let (message, received) = packet.split_at_mut(length);
                let rollover = ((index >> 16) as u32).to_be_bytes();
                let tag = sha1_tag(hmac, [message, &rollover]);
                if !bool::from(tag.as_slice().ct_eq(received)) {
                    return Err(SrtpError::Authentication);
                }
                keystream(aes, cm_iv(salt, ssrc, index), &mut message[header_length..]);
                Ok(length)
            }
        }
    }
}

impl RtcpCipher {
    /// Bytes behind the index word.
    fn trailer(&self) -> usize {
        match self.0 {
            Transform::Gcm { .. } => 0,
            Transform::Cm { .. } => SHA1_TAG,
        }
    }

    /// The SRTCP index, not verified yet.
    pub(super) fn index(&self, packet: &[u8]) -> Result<u32, SrtpError> {
        let end = packet.len().checked_sub(self.trailer()).ok_or(SrtpError::Short)?;
        let word = packet[..end].last_chunk::<INDEX_LENGTH>().ok_or(SrtpError::Short)?;
        Ok(u32::from_be_bytes(*word) & !ENCRYPTED)
    }

    /// Encrypts `packet` and appends index and tag.
    pub(super) fn seal(
        &self,
        packet: &mut Vec<u8>,
        ssrc: u32,
        index: u32,
    ) -> Result<(), SrtpError> {
        let word = (index | ENCRYPTED).to_be_bytes();
        let (header, payload) = packet.split_at_mut_checked(RTCP_HEADER).ok_or(SrtpError::Short)?;
        match &self.0 {
            Transform::Gcm { key, salt } => {
                let mut aad = [0; RTCP_HEADER + INDEX_LENGTH];
                aad[..RTCP_HEADER].copy_from_slice(header);
                aad[RTCP_HEADER..].copy_from_slice(&word);
                let nonce = gcm_rtcp_nonce(salt, ssrc, index);
                let tag = key
                    .seal_in_place_separate_tag(nonce, Aad::from(aad), payload)
                    .map_err(|_| SrtpError::Short)?;
                packet.extend_from_slice(tag.as_ref());
                packet.extend_from_slice(&word);
            }
            Transform::Cm { aes, salt, hmac } => {
                keystream(aes, cm_iv(salt, ssrc, u64::from(index)), payload);
                packet.extend_from_slice(&word);
                let tag = sha1_tag(hmac, [packet, &[]]);
                packet.extend_from_slice(&tag);
            }
        }
        Ok(())
    }

    /// Verifies and decrypts `packet`; returns the length of the plain compound packet.
    pub(super) fn open(&self, packet: &mut [u8], ssrc: u32) -> Result<usize, SrtpError> {
        let index = self.index(packet)?;
        match &self.0 {
            Transform::Gcm { key, salt } => {
                let end = packet.len() - INDEX_LENGTH;
                let (body, word) = packet.split_at_mut(end);
                // Both profiles are negotiated with encryption; plain SRTCP is not accepted.
                if word[0] & 0x80 == 0 || body.len() < RTCP_HEADER + GCM_TAG {
                    return Err(SrtpError::Authentication);
                }
                let (header, sealed) = body.split_at_mut(RTCP_HEADER);
                let mut aad = [0; RTCP_HEADER + INDEX_LENGTH];
                aad[..RTCP_HEADER].copy_from_slice(header);
                aad[RTCP_HEADER..].copy_from_slice(word);
                let plain = key
                    .open_in_place(gcm_rtcp_nonce(salt, ssrc, index), Aad::from(aad), sealed)
                    .map_err(|_| SrtpError::Authentication)?
                    .len();
                Ok(RTCP_HEADER + plain)
            }
            Transform::Cm { aes, salt, hmac } => {
                let (message, received) = packet.split_at_mut(packet.len() - SHA1_TAG);
                let tag = sha1_tag(hmac, [message, &[]]);
                let end = message.len() - INDEX_LENGTH;
                if !bool::from(tag.as_slice().ct_eq(received)) || message[end] & 0x80 == 0 {
                    return Err(SrtpError::Authentication);
                }
                let payload = message.get_mut(RTCP_HEADER..end).ok_or(SrtpError::Short)?;
                keystream(aes, cm_iv(salt, ssrc, u64::from(index)), payload);
                Ok(end)
            }
        }
    }
}

#[cfg(test)]
mod tests;
