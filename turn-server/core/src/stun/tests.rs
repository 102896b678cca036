//! Messages of RFC 5769, and of RFC 8489 appendix B.1 with its erratum 6268.

use sha2::{Digest as _, Sha256};

use super::{
    Algorithm, Class, Integrity, Key, Message, Method, Signer, Writer, attribute as a, xor_address,
};

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> =
        text.chars().filter_map(|c| c.to_digit(16)).map(|digit| digit as u8).collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

const PASSWORD: &[u8] = b"VOkJxbRl1RmTxUk/WvJxBt";
const USER: &str = "マトリックス";
const SHORT_TERM: [u8; 12] =
    [0xb7, 0xe7, 0xa7, 0x01, 0xbc, 0x34, 0xd6, 0x86, 0xfa, 0x87, 0xdf, 0xae];

/// RFC 5769 section 2.1.
const REQUEST: &str = "00010058 2112a442 b7e7a701bc34d686fa87dfae
    80220010 5354554e207465737420636c69656e74 00240004 6e0001ff 80290008 932ff9b151263b36
    00060009 6576746a3a68367659202020
    00080014 9aeaa70cbfd8cb56781ef2b5b2d3f249c1b571a2 80280004 e57a3bcf";
/// RFC 5769 section 2.2.
const RESPONSE_V4: &str = "0101003c 2112a442 b7e7a701bc34d686fa87dfae
    8022000b 7465737420766563746f7220 00200008 0001a147e112a643
    00080014 2b91f599fd9e90c38c7489f92af9ba53f06be7d7 80280004 c07d4c96";
/// RFC 5769 section 2.3.
const RESPONSE_V6: &str = "01010048 2112a442 b7e7a701bc34d686fa87dfae
    8022000b 7465737420766563746f7220 00200014 0002a1470113a9faa5d3f179bc25f4b5bed2b9d9
    00080014 a382954e4be67bf11784c97c8292c275bfe3ed41 80280004 c8fb0b4c";
/// RFC 5769 section 2.4.
const LONG_TERM: &str = "00010060 2112a442 78ad3433c6ad72c029da412e
    00060012 e3839ee38388e383aae38383e382afe382b90000
    0015001c 662f2f3439396b39353464364f4c33346f4c394653547679363473410014000b
    6578616d706c652e6f726700 00080014 f67024656dd64a3e02b8e0712e85c9a28ca89666";

/// RFC 8489 appendix B.1, corrected by erratum 6268.
const LONG_TERM_SHA256: &str = "00010090 2112a442 78ad3433c6ad72c029da412e
    001e0020 4a3cf38fef6992bda952c6780417da0f24819415569e60b205c46e41407f1704
    00150029 6f624d61744a6f7332414141 43662f2f3439396b39353464364f4c33346f4c39465354767936347341
    000000 0014000b 6578616d706c652e6f726700 001d0004 00020000
    001c0020 b5c7bf005b6c52a21c51c5e892f81924136296cb927c43149309278cc6518e65";

fn key(algorithm: Algorithm) -> Key {
    Key::long_term(algorithm, USER.as_bytes(), b"example.org", b"TheMatrIX")
}

#[test]
fn short_term_messages_are_authentic_with_their_password_only() {
    for text in [REQUEST, RESPONSE_V4, RESPONSE_V6] {
        let bytes = hex(text);
        let message = Message::parse(&bytes).unwrap();
        assert!(message.fingerprint);
        assert_eq!(message.integrity(), Some(Integrity::Sha1));
        assert!(message.is_authentic(Key::raw(PASSWORD).unwrap()));
        assert!(!message.is_authentic(Key::raw(b"VOkJxbRl1RmTxUk/WvJxBT").unwrap()));
    }
}

#[test]
fn every_changed_byte_before_the_code_is_noticed() {
    let bytes = hex(LONG_TERM);
    for index in 0..bytes.len() - 24 {
        let mut changed = bytes.clone();
        changed[index] ^= 1;
        let is_authentic =
            Message::parse(&changed).is_ok_and(|message| message.is_authentic(key(Algorithm::Md5)));
        assert!(!is_authentic, "byte {index}");
    }
}

#[test]
fn the_long_term_request_is_read_and_authentic() {
    let bytes = hex(LONG_TERM);
    let message = Message::parse(&bytes).unwrap();
    assert_eq!((message.class, message.method), (Class::Request, Method::Binding));
    assert_eq!(message.username, Some(USER.as_bytes()));
    assert_eq!(message.realm, Some(&b"example.org"[..]));
    assert_eq!(message.nonce, Some(&b"f//499k954d6OL34oL9FSTvy64sA"[..]));
    assert!(message.is_authentic(key(Algorithm::Md5)));
    assert!(!message.is_authentic(key(Algorithm::Sha256)));
}

#[test]
fn the_request_of_rfc_8489_is_written_and_read() {
    let transaction = *hex(LONG_TERM_SHA256)[8..20].first_chunk().unwrap();
    let mut writer = Writer::new(Class::Request, Method::Binding, transaction);
    let userhash = Sha256::digest(format!("{USER}:example.org"));
    writer.attribute(a::USERHASH, &userhash);
    writer.attribute(a::NONCE, b"obMatJos2AAACf//499k954d6OL34oL9FSTvy64sA");
    writer.attribute(a::REALM, b"example.org").number(a::PASSWORD_ALGORITHM, 0x0002_0000);
    let signer = Signer { key: key(Algorithm::Sha256), integrity: Integrity::Sha256 };
    let bytes = writer.finish(Some(signer), false);
    assert_eq!(bytes, hex(LONG_TERM_SHA256));
    let message = Message::parse(&bytes).unwrap();
    assert_eq!(message.integrity(), Some(Integrity::Sha256));
    assert_eq!(message.userhash.map(<[u8; 32]>::as_slice), Some(&*userhash));
    assert_eq!(message.password_algorithm, Some(2));
    assert!(message.is_authentic(key(Algorithm::Sha256)));
    assert!(!message.is_authentic(key(Algorithm::Md5)));
}

#[test]
fn addresses_are_hidden_as_in_the_rfc() {
    for (address, xored) in [
        ("192.0.2.1:32853", "0001a147e112a643"),
        (
            "[2001:db8:1234:5678:11:2233:4455:6677]:32853",
            "0002a1470113a9faa5d3f179bc25f4b5bed2b9d9",
        ),
    ] {
        let (value, length) = xor_address(address.parse().unwrap(), &SHORT_TERM);
        assert_eq!(value[..length], hex(xored));
    }
}

#[test]
fn what_is_written_is_authentic_for_every_integrity() {
    for algorithm in [Algorithm::Md5, Algorithm::Sha256] {
        for integrity in [Integrity::Sha1, Integrity::Sha256] {
            let mut writer = Writer::new(Class::Request, Method::Allocate, [3; 12]);
            writer.attribute(a::USERNAME, b"odd").number(a::LIFETIME, 7);
            let signer = Signer { key: key(algorithm), integrity };
            let bytes = writer.finish(Some(signer), true);
            let message = Message::parse(&bytes).unwrap();
            assert_eq!(message.integrity(), Some(integrity));
            assert!(message.fingerprint && message.is_authentic(key(algorithm)));
            assert_eq!(message.lifetime_s, Some(7));
        }
    }
}

#[test]
fn what_follows_the_integrity_is_ignored() {
    let signer = Signer { key: key(Algorithm::Md5), integrity: Integrity::Sha1 };
    let mut writer = Writer::new(Class::Request, Method::Refresh, [3; 12]);
    writer.attribute(a::USERNAME, b"user");
    let mut bytes = writer.finish(Some(signer), false);
    bytes.extend([0, 0x0d, 0, 4, 0, 0, 0, 0]);
    let length = (bytes.len() - 20) as u16;
    bytes[2..4].copy_from_slice(&length.to_be_bytes());
    let message = Message::parse(&bytes).unwrap();
    assert!(message.is_authentic(key(Algorithm::Md5)), "the code does not cover it");
    assert_eq!(message.lifetime_s, None);
}
