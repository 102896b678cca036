//! Vectors of the RFCs, which give session keys rather than master keys.

use super::*;

fn bytes(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_be_bytes()).collect()
}

/// The session key and salt of RFC 7714 sections 16 and 17.
fn gcm() -> Transform {
    let key: [u8; 16] = std::array::from_fn(|index| index as u8);
    Transform::Gcm {
        key: LessSafeKey::new(UnboundKey::new(&AES_128_GCM, &key).unwrap()),
        salt: *b"Quid pro quo",
    }
}

#[test]
fn the_keystream_is_that_of_rfc_3711() {
    // Appendix B.2; the salt is followed by a source and an index of zero.
    let key = 0x2B7E_1516_28AE_D2A6_ABF7_1588_09CF_4F3C_u128.to_be_bytes();
    let salt = std::array::from_fn(|index| 0xF0 + index as u8);
    let mut stream = [0; 48];
    keystream(&Aes128::new(&key.into()), cm_iv(&salt, 0, 0), &mut stream);
    let expected = [
        0xE03E_AD09_35C9_5E80_E166_B16D_D92B_4EB4_u128,
        0xD235_1316_2B02_D0F7_2A43_A2FE_4A5F_97AB,
        0x41E9_5B3B_B0A2_E8DD_4779_01E4_FCA8_94C0,
    ];
    assert_eq!(stream[..], expected.map(u128::to_be_bytes).concat());
}

#[test]
fn a_packet_is_sealed_as_in_rfc_7714() {
    // Section 16.1: the rollover counter is zero.
    let header = bytes(&[0x8040_F17B, 0x8041_F8D3, 0x5501_A0B2]);
    let plain = [&header[..], b"Gallia est omnis divisa in partes tres"].concat();
    let sealed = bytes(&[
        0xF24D_E3A3,
        0xFB34_DE6C,
        0xACBA_861C,
        0x9D7E_4BCA,
        0xBE63_3BD5,
        0x0D29_4E6F,
        0x42A5_F47A,
        0x51C7_D19B,
        0x36DE_3ADF,
        0x8833_899D,
        0x7F27_BEB1,
        0x6A91_52CF,
        0x765E_E439,
    ]);
    let sealed = [&header[..], &sealed, &[0x0C, 0xCE]].concat();

    let cipher = Cipher(gcm());
    let mut packet = plain.clone();
    cipher.seal(&mut packet, 0, 12, 0x5501_A0B2, 0xF17B).unwrap();
    assert_eq!(packet, sealed);
    let length = cipher.open(&mut packet, 12, 0x5501_A0B2, 0xF17B).unwrap();
    assert_eq!(packet[..length], plain);
}

#[test]
fn a_report_is_sealed_as_in_rfc_7714() {
    // Section 17.1.
    let header = [0x81C8_000D, 0x4D61_7273];
    let info = [0x4E54_5031, 0x4E54_5032, 0x5254_5020, 0x0000_042A, 0x0000_E930, 0x4C75_6E61];
    let plain = bytes(&[&header[..], &info, &[0xDEAD_BEEF; 5]].concat());
    let sealed = bytes(&[
        header[0],
        header[1],
        0x63E9_4885,
        0xDCDA_B67C,
        0xA727_D766,
        0x2F6B_7E99,
        0x7FF5_C0F7,
        0x6C06_F32D,
        0xC676_A5F1,
        0x730D_6FDA,
        0x4CE0_9B46,
        0x8630_3DED,
        0x0BB9_275B,
        0xC84A_A458,
        0x96CF_4D2F,
        0xC5AB_F872,
        0x45D9_EADE,
        0x8000_05D4,
    ]);

    let cipher = RtcpCipher(gcm());
    let mut packet = plain.clone();
    cipher.seal(&mut packet, header[1], 0x5D4).unwrap();
    assert_eq!(packet, sealed);
    let length = cipher.open(&mut packet, header[1]).unwrap();
    assert_eq!(packet[..length], plain);
}
