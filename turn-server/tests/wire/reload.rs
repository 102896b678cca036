//! Files that change while data is relayed.

use std::net::TcpStream;
use std::time::{SystemTime, UNIX_EPOCH};

use contract::turn_credentials::{LiveKitUser, RestUser, TurnCredentials};

use crate::client::{Client, Peer, tls_over, udp};
use crate::server::{Server, replace, until, write_certificate};

fn expiry_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() + 600
}

fn with(mut client: Client, made: TurnCredentials) -> Client {
    client.account = (made.username, made.password);
    client
}

#[test]
fn a_new_certificate_is_for_new_connections() {
    let server = Server::secure(|_, _| {});
    let connect = || {
        let stream = TcpStream::connect(server.tls()).unwrap();
        tls_over(stream, rustls::ALL_VERSIONS)
    };
    let (mut client, first) = connect();
    client.allocated();
    assert_eq!(client.bind(0x4000, Peer::echo()), None);
    client.assert_relays(0x4000);
    write_certificate(server.directory.path(), "second.example");
    until("the new certificate is used", || {
        client.assert_relays(0x4000);
        connect().1 != first
    });
    client.assert_relays(0x4000);
    assert_eq!(client.refresh(600), None);
    let (mut second, _) = connect();
    second.allocated();
}

#[test]
fn a_secret_is_rotated_during_a_session() {
    let server = Server::start(|config, directory| {
        config.credentials.rest_secrets_file = Some(directory.join("secrets"));
        replace(&directory.join("secrets"), "first\n");
    });
    let user = RestUser { expiry_s: expiry_s(), user: "carol" };
    let with_secret = |secret| with(udp(&server), user.credentials(secret));
    let mut session = with_secret("first");
    session.allocated();
    assert_eq!(session.bind(0x4000, Peer::echo()), None);

    replace(&server.path("secrets"), "second\nfirst\n");
    until("the new secret works", || with_secret("second").allocate().code().is_none());
    assert_eq!(with_secret("first").allocate().code(), None, "both, for a while");
    replace(&server.path("secrets"), "second\n");
    until("the old one does not", || with_secret("first").allocate().code() == Some(401));
    session.assert_relays(0x4000);
    assert_eq!(session.refresh(600), None, "the session goes on");
}

#[test]
fn secrets_of_a_file_that_is_gone_stay_in_force() {
    let server = Server::start(|config, directory| {
        config.credentials.rest_secrets_file = Some(directory.join("secrets"));
        replace(&directory.join("secrets"), "kept\n");
    });
    let user = RestUser { expiry_s: expiry_s(), user: "carol" };
    let with_secret = |secret| with(udp(&server), user.credentials(secret));
    let mut session = with_secret("kept");
    session.allocated();
    assert_eq!(session.bind(0x4000, Peer::echo()), None);
    std::fs::remove_file(server.path("secrets")).unwrap();
    server.await_log(&["WARN", "A file is gone", "secrets"]);
    session.assert_relays(0x4000);
    assert_eq!(session.refresh(600), None);
    assert_eq!(with_secret("kept").allocate().code(), None, "what was read stays");
    assert_eq!(with_secret("").allocate().code(), Some(401));
    replace(&server.path("secrets"), "new\n");
    until("another file is read", || with_secret("new").allocate().code().is_none());
    assert_eq!(with_secret("kept").allocate().code(), Some(401));
}

#[test]
fn credentials_of_the_media_node_are_accepted() {
    let secret = "a-secret-that-is-long-enough-0123456";
    let server = Server::start(|config, directory| {
        config.credentials.keys_file = Some(directory.join("keys.yaml"));
        replace(&directory.join("keys.yaml"), &format!("APIkey: {secret}\n"));
    });
    let user = |expiry_s| LiveKitUser {
        api_key: "APIkey".to_owned(),
        participant: "PA_a".to_owned(),
        expiry_s,
    };
    let mut client = with(udp(&server), user(expiry_s()).credentials(secret));
    assert_eq!(client.allocate().code(), None);
    let mut late = with(udp(&server), user(expiry_s() - 700).credentials(secret));
    assert_eq!(late.allocate().code(), Some(401));
    let mut forged = with(udp(&server), user(expiry_s()).credentials("guessed"));
    assert_eq!(forged.allocate().code(), Some(401));
}
