//! Who may do what: credentials, nonces, integrity, errors.

use contract::turn_credentials::{LiveKitUser, RestUser};
use sha2::{Digest as _, Sha256};
use turn_server_core::api::{ClientAction, Credentials, NonceKeys, Settings};
use turn_server_core::stun::{
    Algorithm, Class, Integrity, Key, Method, Signer, Writer, attribute as a,
};

use crate::harness::{
    ALICE, Account, BEGIN_S, BOB, REALM, Turn, config, settings, sign, signer, tcp, udp,
};

const UDP: [u8; 4] = [17, 0, 0, 0];

fn wants_udp(writer: &mut Writer) {
    writer.attribute(a::REQUESTED_TRANSPORT, &UDP);
}

#[test]
fn a_challenge_tells_realm_nonce_and_algorithms_and_is_short() {
    let mut turn = Turn::default_peers();
    let mut writer = turn.begin(Method::Allocate);
    wants_udp(&mut writer);
    let request = writer.finish(None, false);
    let answer = turn.exchange(udp("203.0.113.9:1000"), &request).unwrap();
    assert_eq!(answer.code, Some(401));
    assert_eq!(answer.get(a::REALM), Some(REALM.as_bytes()));
    assert!(answer.get(a::NONCE).unwrap().starts_with(b"obMatJos2"));
    assert_eq!(answer.get(a::PASSWORD_ALGORITHMS), Some(&[0, 2, 0, 0, 0, 1, 0, 0][..]));
    assert!(answer.bytes.len() * 10 <= request.len() * 36, "{} bytes", answer.bytes.len());
}

#[test]
fn no_unauthenticated_answer_is_much_longer_than_its_request() {
    for method in [
        Method::Binding,
        Method::Allocate,
        Method::Refresh,
        Method::CreatePermission,
        Method::ChannelBind,
        Method::Connect,
    ] {
        let mut turn = Turn::default_peers();
        let bare = turn.begin(method).finish(None, false);
        let answer = turn.exchange(udp("203.0.113.9:1000"), &bare).unwrap();
        assert!(answer.bytes.len() <= 2 * bare.len(), "{method:?}: {}", answer.bytes.len());
    }
}

#[test]
fn wrong_passwords_and_unknown_users_look_the_same() {
    let mut turn = Turn::default_peers();
    let client = udp("203.0.113.9:1000");
    let wrong = [
        Account { name: "alice", password: "wrong" },
        Account { name: "nobody", password: "wrong" },
        Account { name: "1700009999:x", password: "wrong" },
        Account { name: "'; DROP TABLE users;--\0\n", password: "" },
    ];
    let answers = wrong.map(|account| turn.ask_as(client, account, Method::Allocate, wants_udp));
    for answer in &answers {
        assert_eq!(answer.code, Some(401));
        assert_eq!(answer.bytes.len(), answers[0].bytes.len());
        assert_eq!(answer.get(a::SOFTWARE), None);
    }
    assert_eq!(turn.server.allocations(), 0);
}

#[test]
fn nonces_are_bound_to_key_address_and_time() {
    let client = udp("203.0.113.9:1000");
    let mut turn = Turn::default_peers();
    let nonce = turn.nonce(client);
    let ask = |turn: &mut Turn, client, nonce: &[u8]| {
        let mut writer = turn.begin(Method::Allocate);
        wants_udp(&mut writer);
        turn.exchange(client, &sign(writer, ALICE, REALM, nonce)).unwrap()
    };
    let mut forged = nonce.clone();
    *forged.last_mut().unwrap() ^= 1;
    let stale = ask(&mut turn, client, &forged);
    assert_eq!(stale.code, Some(438));
    assert!(stale.get(a::NONCE).is_some() && stale.get(a::REALM).is_some());
    assert_eq!(ask(&mut turn, udp("203.0.113.10:1000"), &nonce).code, Some(438));
    assert_eq!(ask(&mut turn, udp("203.0.113.9:1001"), &nonce).code, None, "a NAT moves ports");

    let mut other = Turn::default_peers();
    assert_eq!(ask(&mut other, client, &nonce).code, None, "a server with the same key");
    let mut rotated = settings();
    rotated.nonce_keys = NonceKeys(vec![[8; 32], [7; 32]]);
    turn.server.update(rotated.clone());
    assert_eq!(ask(&mut turn, udp("203.0.113.9:1002"), &nonce).code, None, "the older key");
    rotated.nonce_keys = NonceKeys(vec![[8; 32]]);
    turn.server.update(rotated);
    assert_eq!(ask(&mut turn, udp("203.0.113.9:1003"), &nonce).code, Some(438));

    let mut late = Turn::default_peers();
    late.wait(3601);
    assert_eq!(ask(&mut late, client, &nonce).code, Some(438));
}

#[test]
fn a_stale_nonce_is_told_only_to_who_knows_the_password() {
    let mut turn = Turn::default_peers();
    let client = udp("203.0.113.9:1000");
    let mut writer = turn.begin(Method::Allocate);
    wants_udp(&mut writer);
    let wrong = Account { password: "wrong", ..ALICE };
    assert_eq!(turn.exchange(client, &sign(writer, wrong, REALM, b"old")).unwrap().code, Some(401));
}

#[test]
fn requests_that_lack_a_part_are_bad() {
    let client = udp("203.0.113.9:1000");
    for missing in [a::USERNAME, a::REALM, a::NONCE] {
        let mut turn = Turn::default_peers();
        let nonce = turn.nonce(client);
        let mut writer = turn.begin(Method::Allocate);
        wants_udp(&mut writer);
        for (kind, value) in
            [(a::USERNAME, &b"alice"[..]), (a::REALM, REALM.as_bytes()), (a::NONCE, &nonce)]
        {
            if kind != missing {
                writer.attribute(kind, value);
            }
        }
        let bytes = writer.finish(Some(signer(ALICE, REALM)), false);
        assert_eq!(turn.exchange(client, &bytes).unwrap().code, Some(400), "{missing:#x}");
    }
}

#[test]
fn another_realm_is_refused_even_with_the_right_key() {
    let mut turn = Turn::default_peers();
    let client = udp("203.0.113.9:1000");
    let nonce = turn.nonce(client);
    let mut writer = turn.begin(Method::Allocate);
    wants_udp(&mut writer);
    writer.attribute(a::USERNAME, b"alice").attribute(a::REALM, b"elsewhere");
    writer.attribute(a::NONCE, &nonce);
    let bytes = writer.finish(Some(signer(ALICE, REALM)), false);
    assert_eq!(turn.exchange(client, &bytes).unwrap().code, Some(401));
}

#[test]
fn unknown_required_attributes_are_named() {
    let mut turn = Turn::default_peers();
    let answer = turn.ask(udp("203.0.113.9:1000"), Method::Allocate, |writer| {
        wants_udp(writer);
        writer.attribute(0x7ffe, b"what?").attribute(0x0033, b"").attribute(0xfffe, b"optional");
    });
    assert_eq!(answer.code, Some(420));
    assert_eq!(answer.get(a::UNKNOWN_ATTRIBUTES), Some(&[0x7f, 0xfe, 0, 0x33][..]));
    assert!(answer.is_signed_by(signer(ALICE, REALM)));
    let mut writer = turn.begin(Method::Binding);
    writer.attribute(0x0003, &[0, 0, 0, 6]);
    let bytes = writer.finish(None, false);
    assert_eq!(turn.exchange(udp("203.0.113.9:1000"), &bytes).unwrap().code, Some(420));
}

/// What a client of RFC 8489 adds.
struct Modern {
    algorithm: u16,
    offer: Option<&'static [u8]>,
    integrity: Integrity,
    userhash: bool,
}

const OFFER: &[u8] = &[0, 2, 0, 0, 0, 1, 0, 0];
const MODERN: Modern =
    Modern { algorithm: 2, offer: Some(OFFER), integrity: Integrity::Sha256, userhash: false };

fn modern(turn: &mut Turn, nonce: &[u8], form: &Modern) -> (Vec<u8>, Signer) {
    let Modern { algorithm, offer, integrity, userhash } = *form;
    let mut writer = turn.begin(Method::Allocate);
    wants_udp(&mut writer);
    if userhash {
        writer.attribute(a::USERHASH, &Sha256::digest(format!("alice:{REALM}")));
    } else {
        writer.attribute(a::USERNAME, b"alice");
    }
    writer.attribute(a::REALM, REALM.as_bytes()).attribute(a::NONCE, nonce);
    if let Some(offer) = offer {
        writer.attribute(a::PASSWORD_ALGORITHMS, offer);
    }
    if algorithm > 0 {
        writer.number(a::PASSWORD_ALGORITHM, u32::from(algorithm) << 16);
    }
    let kind = Algorithm::from_number(algorithm).unwrap_or(Algorithm::Md5);
    let key = Key::long_term(kind, b"alice", REALM.as_bytes(), b"wonder");
    let signer = Signer { key, integrity };
    (writer.finish(Some(signer), true), signer)
}

#[test]
fn requests_of_rfc_8489_are_understood_and_answered_in_kind() {
    let client = udp("203.0.113.9:1000");
    for form in [
        MODERN,
        Modern { userhash: true, ..MODERN },
        Modern { algorithm: 1, ..MODERN },
        Modern { integrity: Integrity::Sha1, ..MODERN },
        Modern { algorithm: 0, offer: None, ..MODERN },
    ] {
        let mut turn = Turn::default_peers();
        let nonce = turn.nonce(client);
        let (request, signer) = modern(&mut turn, &nonce, &form);
        let answer = turn.exchange(client, &request).unwrap();
        assert_eq!(answer.code, None);
        assert!(answer.is_signed_by(signer));
        assert!(answer.get(a::FINGERPRINT).is_some(), "asked for by having one");
    }
}

#[test]
fn an_offer_that_was_changed_on_the_way_is_noticed() {
    let client = udp("203.0.113.9:1000");
    let md5_only: &[u8] = &[0, 1, 0, 0];
    for (form, code) in [
        (Modern { offer: Some(md5_only), algorithm: 1, ..MODERN }, 400),
        (Modern { offer: None, ..MODERN }, 400),
        (Modern { algorithm: 0, ..MODERN }, 400),
        (Modern { algorithm: 9, ..MODERN }, 400),
    ] {
        let mut turn = Turn::default_peers();
        let nonce = turn.nonce(client);
        let (request, _) = modern(&mut turn, &nonce, &form);
        assert_eq!(turn.exchange(client, &request).unwrap().code, Some(code));
    }
    // The security features in the nonce say "no algorithms".
    let mut turn = Turn::default_peers();
    let mut nonce = turn.nonce(client);
    nonce[9..13].copy_from_slice(b"AAAA");
    let (request, _) = modern(&mut turn, &nonce, &Modern { algorithm: 0, offer: None, ..MODERN });
    assert_eq!(turn.exchange(client, &request).unwrap().code, Some(438));
}

fn with_credentials(credentials: Credentials) -> Turn {
    let settings = Settings { credentials, ..settings() };
    Turn::new(turn_server_core::api::Config { settings, ..config() })
}

#[test]
fn livekit_credentials_begin_sessions_until_they_expire() {
    let api_keys = vec![("APIkey".to_owned(), "secret".to_owned())];
    let credentials = Credentials { api_keys, ..Credentials::default() };
    let user = |expiry_s| LiveKitUser {
        api_key: "APIkey".to_owned(),
        participant: "PA_a".to_owned(),
        expiry_s,
    };
    for (made, code) in [
        (user(BEGIN_S + 300).credentials("secret"), None),
        (user(BEGIN_S + 1).credentials("secret"), None),
        (user(BEGIN_S).credentials("secret"), Some(401)),
        (user(BEGIN_S - 100).credentials("secret"), Some(401)),
        (user(BEGIN_S + 300).credentials("another"), Some(401)),
        (
            LiveKitUser { api_key: "other".to_owned(), ..user(BEGIN_S + 300) }
                .credentials("secret"),
            Some(401),
        ),
    ] {
        let mut turn = with_credentials(credentials.clone());
        let account = Account { name: &made.username, password: &made.password };
        let answer = turn.ask_as(udp("203.0.113.9:1"), account, Method::Allocate, wants_udp);
        assert_eq!(answer.code, code, "{}", made.username);
    }
}

#[test]
fn a_session_outlives_its_credentials_and_their_secret() {
    let rest_secrets = vec!["new".to_owned(), "old".to_owned()];
    let credentials = Credentials { rest_secrets, ..Credentials::default() };
    let mut turn = with_credentials(credentials.clone());
    let client = udp("203.0.113.9:1");
    let user = RestUser { expiry_s: BEGIN_S + 60, user: "carol" };
    let (new, old) = (user.credentials("new"), user.credentials("old"));
    for (made, remote) in [(&new, "203.0.113.9:2"), (&old, "203.0.113.9:1")] {
        let account = Account { name: &made.username, password: &made.password };
        let answer = turn.ask_as(udp(remote), account, Method::Allocate, wants_udp);
        assert_eq!(answer.code, None);
    }
    let account = Account { name: &old.username, password: &old.password };
    turn.wait(120);
    assert_eq!(turn.ask_as(client, account, Method::Refresh, |_| {}).code, None, "expired");
    let rest_secrets = vec!["newest".to_owned()];
    let credentials = Credentials { rest_secrets, ..Credentials::default() };
    turn.server.update(Settings { credentials, ..settings() });
    assert_eq!(turn.ask_as(client, account, Method::Refresh, |_| {}).code, None, "rotated");
    let other = udp("203.0.113.9:3");
    assert_eq!(turn.ask_as(other, account, Method::Allocate, wants_udp).code, Some(401));
}

#[test]
fn what_has_no_allocation_is_told_so_at_once() {
    for method in [Method::Refresh, Method::CreatePermission, Method::ChannelBind, Method::Connect]
    {
        for client in [udp("203.0.113.9:1"), tcp("203.0.113.9:1")] {
            let mut turn = Turn::default_peers();
            // The nonce of a server that is gone, and its key with it.
            let mut writer = turn.begin(method);
            writer.attribute(a::LIFETIME, &[0, 0, 2, 88]);
            let bytes = sign(writer, ALICE, REALM, b"of an earlier life");
            let answer = turn.exchange(client, &bytes).unwrap();
            assert_eq!(answer.code, Some(437), "{method:?}");
            assert!(answer.is_signed_by(signer(ALICE, REALM)));
            let bare = turn.begin(method).finish(None, false);
            assert_eq!(turn.exchange(client, &bare).unwrap().code, Some(437));
        }
    }
}

#[test]
fn data_of_strangers_gets_no_answer_and_goes_nowhere() {
    let mut turn = Turn::default_peers();
    let owner = udp("203.0.113.9:1");
    turn.allocate(owner);
    assert_eq!(turn.bind(owner, 0x4000, "8.8.8.8:9"), None);
    let sent = turn.sent.len();
    for stranger in [udp("203.0.113.9:2"), udp("203.0.113.8:1"), tcp("203.0.113.9:1")] {
        assert_eq!(turn.channel_data(stranger, 0x4000, b"x"), None);
        assert_eq!(turn.send(stranger, "8.8.8.8:9", b"x"), None);
    }
    assert_eq!(turn.sent.len(), sent);
    assert!(turn.channel_data(owner, 0x4000, b"x").is_some());
}

#[test]
fn an_allocation_belongs_to_who_made_it() {
    let mut turn = Turn::default_peers();
    let client = udp("203.0.113.9:1");
    turn.allocate(client);
    for method in [Method::Refresh, Method::CreatePermission, Method::ChannelBind, Method::Connect]
    {
        let answer = turn.ask_as(client, BOB, method, |writer| {
            writer.number(a::CHANNEL_NUMBER, 0x4000_0000).number(a::LIFETIME, 0);
            writer.xor_address(a::XOR_PEER_ADDRESS, "8.8.8.8:1".parse().unwrap());
        });
        assert_eq!(answer.code, Some(441), "{method:?}");
        assert!(answer.is_signed_by(signer(BOB, REALM)));
    }
    assert_eq!(turn.server.allocations(), 1);
}

#[test]
fn what_is_not_for_a_server_gets_no_answer() {
    let mut turn = Turn::default_peers();
    let client = udp("203.0.113.9:1");
    let classic = [&[0, 1, 0, 0][..], &[1; 16]].concat();
    let mut too_long = turn.begin(Method::Binding).finish(None, false);
    too_long[2..4].copy_from_slice(&[0xff, 0xfc]);
    let mut past_the_end = turn.begin(Method::Binding);
    past_the_end.attribute(0x8000, b"abcd");
    let mut past_the_end = past_the_end.finish(None, false);
    past_the_end[22..24].copy_from_slice(&[0xff, 0xff]);
    let mut bad_crc = turn.begin(Method::Binding).finish(None, true);
    *bad_crc.last_mut().unwrap() ^= 1;
    let of = |class, method| Writer::new(class, method, [1; 12]).finish(None, false);
    for bytes in [
        Vec::new(),
        vec![0],
        vec![0x80; 64],
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        classic,
        too_long,
        past_the_end,
        bad_crc,
        of(Class::Success, Method::Binding),
        of(Class::Error, Method::Allocate),
        of(Class::Request, Method::Send),
        of(Class::Request, Method::Unknown(0x5a5)),
        of(Class::Indication, Method::Binding),
        of(Class::Indication, Method::Data),
    ] {
        assert_eq!(turn.give(client, &bytes), ClientAction::None);
        assert!(turn.sent.is_empty(), "{bytes:x?}");
    }
}

#[test]
fn a_username_of_the_greatest_length_is_only_a_username() {
    let mut turn = Turn::default_peers();
    for length in [508, 509, 60_000] {
        let name = "n".repeat(length);
        let account = Account { name: &name, password: "x" };
        let answer = turn.ask_as(udp("203.0.113.9:1"), account, Method::Allocate, wants_udp);
        assert_eq!(answer.code, Some(401));
    }
}

#[test]
fn binding_tells_the_address() {
    let mut turn = Turn::default_peers();
    for remote in ["203.0.113.9:1", "[2001:db8:5::7]:65535"] {
        let request = turn.begin(Method::Binding).finish(None, true);
        let answer = turn.exchange(udp(remote), &request).unwrap();
        assert_eq!(answer.address(a::XOR_MAPPED_ADDRESS), Some(remote.parse().unwrap()));
        assert!(answer.get(a::FINGERPRINT).is_some());
        assert!(answer.bytes.len() <= 2 * request.len());
    }
}
