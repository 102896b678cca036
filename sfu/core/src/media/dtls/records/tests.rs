use proptest::prelude::*;

use super::*;

const SECRETS: Secrets<'static> =
    Secrets { master: &[7; 48], client_random: &[1; 32], server_random: &[2; 32] };

fn finished(sequence: u64, nonce: u64) -> Vec<u8> {
    let mut datagram = vec![HANDSHAKE, 0xFE, 0xFD];
    datagram.extend_from_slice(&number(sequence));
    datagram.extend_from_slice(&40u16.to_be_bytes());
    datagram.extend_from_slice(&nonce.to_be_bytes());
    datagram.extend_from_slice(&[0; 32]);
    datagram
}

/// Client and server whose handshake is done.
fn pair() -> (RecordProtection, RecordProtection) {
    let (mut client, mut server) = (Progress::default(), Progress::default());
    client.note_sent(&finished(0, 50));
    server.note_received(&finished(0, 50));
    server.note_sent(&finished(0, u64::MAX));
    client.note_received(&finished(0, u64::MAX));
    (
        RecordProtection::new(&SECRETS, DtlsRole::Client, client).unwrap(),
        RecordProtection::new(&SECRETS, DtlsRole::Server, server).unwrap(),
    )
}

fn open(by: &mut RecordProtection, datagram: &[u8]) -> Option<(bool, Vec<u8>)> {
    by.open(records(datagram).next()?)
}

/// The IETF TLS working group's test vector for `P_SHA256`, its first 40 bytes.
#[test]
fn keys_are_expanded_as_the_protocol_says() {
    let secret = hex("9bbe436ba940f017b17652849a71db35");
    let seed = [b"test label".as_slice(), &hex("a0ba9f936cda311827a6f796ffd5198c")].concat();
    let mut out = [0; 40];
    expand(&secret, &seed, &mut out);
    assert_eq!(
        out[..],
        hex("e3f229ba727be17b8d122620557cd453c2aab21d07c3d495329b52d4e61edb5a6b301791e90d35c9")[..]
    );
}

fn hex(text: &str) -> Vec<u8> {
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap())
        .collect()
}

#[test]
fn data_goes_both_ways_and_never_twice() {
    let (mut client, mut server) = pair();
    for is_client in [true, false] {
        let (from, to) =
            if is_client { (&mut client, &mut server) } else { (&mut server, &mut client) };
        let first = from.seal(APPLICATION_DATA, b"first").unwrap();
        let second = from.seal(APPLICATION_DATA, b"").unwrap();
        assert_eq!(open(to, &second), Some((false, Vec::new())));
        assert_eq!(open(to, &first), Some((false, b"first".to_vec())));
        assert_eq!(open(to, &first), Some((true, b"first".to_vec())));
    }
}

#[test]
fn numbers_and_nonces_go_on_where_the_handshake_ended() {
    let (mut client, mut server) = pair();
    for (by, nonce) in [(&mut client, 51), (&mut server, 0)] {
        for round in 0..2 {
            let sealed = by.seal(ALERT, &[1, 0]).unwrap();
            let record = records(&sealed).next().unwrap();
            assert_eq!((record.content, record.epoch, record.sequence), (ALERT, 1, 1 + round));
            assert_eq!(record.fragment[..8], (nonce + round).to_be_bytes());
        }
    }
    server.next_sequence = SEQUENCE_LIMIT;
    assert_eq!(server.seal(ALERT, &[1, 0]), None);
}

#[test]
fn before_the_handshake_is_done_there_are_no_records() {
    assert!(RecordProtection::new(&SECRETS, DtlsRole::Client, Progress::default()).is_none());
}

proptest! {
    #[test]
    fn no_changed_byte_passes(data in prop::collection::vec(any::<u8>(), 0..64), at: prop::sample::Index, bit in 0..8u8) {
        let (mut client, mut server) = pair();
        let mut sealed = client.seal(APPLICATION_DATA, &data).unwrap();
        let at = at.index(sealed.len());
        // The version is not looked at.
        prop_assume!(!(1..3).contains(&at));
        sealed[at] ^= 1 << bit;
        prop_assert_eq!(open(&mut server, &sealed), None);
    }

    #[test]
    fn any_bytes_are_survived(datagram in prop::collection::vec(any::<u8>(), 0..200)) {
        let (mut client, _) = pair();
        let mut progress = Progress::default();
        progress.note_sent(&datagram);
        progress.note_received(&datagram);
        for record in records(&datagram) {
            prop_assert_eq!(client.open(record), None);
        }
    }
}
