use proptest::prelude::*;
use rtc_srtp::context::Context;
use rtc_srtp::protection_profile::ProtectionProfile;

use super::*;

const PROFILES: [SrtpProfile; 2] = [SrtpProfile::AeadAes128Gcm, SrtpProfile::Aes128CmSha1_80];

fn material(profile: SrtpProfile) -> Vec<u8> {
    (0..profile.keying_material_length() as u8).map(|byte| byte.wrapping_mul(37)).collect()
}

/// An RTP packet without extensions.
fn rtp(sequence: u16, ssrc: u32, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x80, 96];
    packet.extend_from_slice(&sequence.to_be_bytes());
    packet.extend_from_slice(&7u32.to_be_bytes());
    packet.extend_from_slice(&ssrc.to_be_bytes());
    packet.extend_from_slice(payload);
    packet
}

/// A receiver report without blocks, followed by a source description's bytes.
fn rtcp(ssrc: u32) -> Vec<u8> {
    let mut packet = vec![0x80, 201, 0, 1];
    packet.extend_from_slice(&ssrc.to_be_bytes());
    packet.extend_from_slice(&[0x81, 203, 0, 1, 1, 2, 3, 4]);
    packet
}

/// The same direction by the oracle.
fn oracle(profile: SrtpProfile) -> Context {
    let material = material(profile);
    let salt = profile.salt_length();
    let (kind, crypto) = (
        match profile {
            SrtpProfile::AeadAes128Gcm => ProtectionProfile::AeadAes128Gcm,
            SrtpProfile::Aes128CmSha1_80 => ProtectionProfile::Aes128CmHmacSha1_80,
        },
        rtc_crypto::default_provider().unwrap(),
    );
    Context::new(&material[..16], &material[32..32 + salt], kind, None, None, crypto.crypto())
        .unwrap()
}

#[test]
fn both_ends_understand_each_other() {
    for profile in PROFILES {
        let material = material(profile);
        let (mut server_in, _) = from_keying_material(profile, &material, false).unwrap();
        let (_, mut client_out) = from_keying_material(profile, &material, true).unwrap();
        let plain = rtp(1, 9, b"payload");
        let mut packet = plain.clone();
        client_out.protect_rtp(&mut packet, 0, 12, 9, 1).unwrap();
        assert_eq!(packet.len(), plain.len() + profile.rtp_overhead());
        let (length, index) = server_in.unprotect_rtp(&mut packet, 12).unwrap();
        assert_eq!((&packet[..length], index), (&plain[..], 1));

        let mut packet = rtcp(9);
        client_out.protect_rtcp(&mut packet).unwrap();
        let length = server_in.unprotect_rtcp(&mut packet).unwrap();
        assert_eq!(packet[..length], rtcp(9));
    }
}

#[test]
fn the_oracle_reads_what_we_write() {
    for profile in PROFILES {
        let (_, mut out) = from_keying_material(profile, &material(profile), true).unwrap();
        let mut oracle = oracle(profile);
        for index in 65_530u64..65_545 {
            let plain = rtp(index as u16, 77, &[index as u8; 100]);
            let mut packet = plain.clone();
            out.protect_rtp(&mut packet, 0, 12, 77, index).unwrap();
            let opened = oracle.decrypt_rtp(&packet).unwrap();
            assert_eq!(opened.as_ref(), &plain[..], "{profile:?} {index}");
        }
        for _ in 0..3 {
            let mut packet = rtcp(77);
            out.protect_rtcp(&mut packet).unwrap();
            assert_eq!(oracle.decrypt_rtcp(&packet).unwrap().as_ref(), &rtcp(77)[..]);
        }
    }
}

#[test]
fn we_read_what_the_oracle_writes() {
    for profile in PROFILES {
        let (mut inbound, _) = from_keying_material(profile, &material(profile), false).unwrap();
        let mut oracle = oracle(profile);
        for index in 65_500u64..65_600 {
            let plain = rtp(index as u16, 77, &[index as u8; 33]);
            let mut packet = oracle.encrypt_rtp(&plain).unwrap().to_vec();
            let (length, read) = inbound.unprotect_rtp(&mut packet, 12).unwrap();
            assert_eq!((&packet[..length], read), (&plain[..], index));
        }
        let mut packet = oracle.encrypt_rtcp(&rtcp(77)).unwrap().to_vec();
        let length = inbound.unprotect_rtcp(&mut packet).unwrap();
        assert_eq!(packet[..length], rtcp(77));
    }
}

#[test]
fn a_replayed_packet_is_refused_and_a_forged_one_leaves_no_trace() {
    for profile in PROFILES {
        let (mut inbound, _) = from_keying_material(profile, &material(profile), false).unwrap();
        let (_, mut out) = from_keying_material(profile, &material(profile), true).unwrap();
        let mut sealed = rtp(5, 1, b"once");
        out.protect_rtp(&mut sealed, 0, 12, 1, 5).unwrap();
        let mut forged = sealed.clone();
        forged[3] = 200;
        let refused = inbound.unprotect_rtp(&mut forged, 12);
        assert_eq!(refused, Err(SrtpError::Authentication));
        assert!(inbound.unprotect_rtp(&mut sealed.clone(), 12).is_ok());
        assert_eq!(inbound.unprotect_rtp(&mut sealed, 12), Err(SrtpError::Replay));

        let mut sealed = rtcp(1);
        out.protect_rtcp(&mut sealed).unwrap();
        assert!(inbound.unprotect_rtcp(&mut sealed.clone()).is_ok());
        assert_eq!(inbound.unprotect_rtcp(&mut sealed), Err(SrtpError::Replay));
    }
}

#[test]
fn session_keys_are_those_of_rfc_3711() {
    // Appendix B.3.
    let key = 0xE1F9_7A0D_3E01_8BE0_D64F_A32C_06DE_4139_u128.to_be_bytes();
    let salt: [u8; 14] =
        [0x0E, 0xC6, 0x75, 0xAD, 0x49, 0x8A, 0xFE, 0xEB, 0xB6, 0x96, 0x0B, 0x3A, 0xAB, 0xE6];
    assert_eq!(
        cipher::session_key(&key, &salt, 0),
        0xC61E_7A93_744F_39EE_1073_4AFE_3FF7_A087_u128.to_be_bytes()
    );
    assert_eq!(
        cipher::session_key(&key, &salt, 2)[..14],
        [0x30, 0xCB, 0xBC, 0x08, 0x86, 0x3D, 0x8C, 0x85, 0xD4, 0x9D, 0xB3, 0x4A, 0x9A, 0xE1]
    );
}

#[test]
fn a_sequence_number_means_the_nearest_index() {
    let cases = [
        (10, 11, 11),
        (10, 9, 9),
        (0xFFFF, 0, 0x1_0000),
        (0x1_0000, 0xFFFF, 0xFFFF),
        (5, 0xFFFF, 0xFFFF),
        (0x2_0005, 0xFFF0, 0x1_FFF0),
    ];
    for (highest, sequence, expected) in cases {
        assert_eq!(guess(highest, sequence), expected, "{highest:x} {sequence:x}");
    }
}

proptest! {
    #[test]
    fn garbage_is_refused_without_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        for profile in PROFILES {
            let (mut inbound, _) =
                from_keying_material(profile, &material(profile), false).unwrap();
            let mut copy = bytes.clone();
            prop_assert!(inbound.unprotect_rtp(&mut copy, 12).is_err());
            prop_assert!(inbound.unprotect_rtcp(&mut bytes).is_err());
        }
    }
}
