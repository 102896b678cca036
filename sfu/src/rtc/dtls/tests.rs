use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::*;

fn pair() -> (Box<dyn DtlsSession>, Box<dyn DtlsSession>) {
    let (mut client, mut server) = (OpenSslFactory::new().unwrap(), OpenSslFactory::new().unwrap());
    let (theirs, ours) = (client.fingerprint(), server.fingerprint());
    let now = Instant::now();
    (client.session(DtlsRole::Client, ours, now), server.session(DtlsRole::Server, theirs, now))
}

/// Carries datagrams both ways, of which `lost` says which are dropped, until both sides said
/// something or `limit` has passed.
fn run(
    client: &mut Box<dyn DtlsSession>,
    server: &mut Box<dyn DtlsSession>,
    mut lost: impl FnMut() -> bool,
    limit: Duration,
) -> (Option<DtlsEvent>, Option<DtlsEvent>) {
    let end = Instant::now() + limit;
    let (mut first, mut second) = (None, None);
    while (first.is_none() || second.is_none()) && Instant::now() < end {
        let mut is_idle = true;
        for is_client in [true, false] {
            let (from, to) =
                if is_client { (&mut *client, &mut *server) } else { (&mut *server, &mut *client) };
            while let Some(datagram) = from.poll_transmit() {
                is_idle = false;
                assert!(datagram.len() <= MTU as usize, "{}", datagram.len());
                if !lost() {
                    to.handle_datagram(&datagram, Instant::now());
                }
            }
        }
        first = first.or_else(|| client.poll_event());
        second = second.or_else(|| server.poll_event());
        if is_idle {
            wait_for_timers(client, server);
        }
    }
    (first, second)
}

/// OpenSSL's timers follow the real clock: sleeps until the next is due.
fn wait_for_timers(client: &mut Box<dyn DtlsSession>, server: &mut Box<dyn DtlsSession>) {
    let next = [client.poll_timeout(), server.poll_timeout()].into_iter().flatten().min();
    if let Some(next) = next {
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    for session in [client, server] {
        if session.poll_timeout().is_some_and(|deadline| deadline <= Instant::now()) {
            session.handle_timeout(Instant::now());
        }
    }
}

#[test]
fn both_sides_get_the_same_keys_for_the_preferred_profile() {
    let (mut client, mut server) = pair();
    let (first, second) = run(&mut client, &mut server, || false, Duration::from_secs(10));
    assert_eq!(first, second);
    let Some(DtlsEvent::Connected { profile, keying_material }) = first else {
        panic!("{first:?}")
    };
    assert_eq!(profile, SrtpProfile::AeadAes128Gcm);
    assert_eq!(keying_material.len(), profile.keying_material_length());
}

#[test]
fn data_goes_through_and_closing_is_told() {
    let (mut client, mut server) = pair();
    run(&mut client, &mut server, || false, Duration::from_secs(10));
    client.send(b"hello", Instant::now());
    let (_, got) = run(&mut client, &mut server, || false, Duration::from_millis(200));
    assert_eq!(got, Some(DtlsEvent::Data(b"hello".to_vec())));
    client.close();
    let (_, got) = run(&mut client, &mut server, || false, Duration::from_millis(200));
    assert_eq!(got, Some(DtlsEvent::Closed));
}

#[test]
fn another_certificate_than_the_described_one_is_refused() {
    let (mut client, mut server) = (OpenSslFactory::new().unwrap(), OpenSslFactory::new().unwrap());
    let now = Instant::now();
    let ours = server.fingerprint();
    let mut client = client.session(DtlsRole::Client, ours, now);
    let mut server = server.session(DtlsRole::Server, Fingerprint([7; 32]), now);
    let (_, refused) = run(&mut client, &mut server, || false, Duration::from_secs(10));
    assert_eq!(refused, Some(DtlsEvent::Closed));
}

/// Handshakes at each rate of loss.
const LOSSY_HANDSHAKES: u64 = 300;

#[test]
fn handshakes_finish_on_a_lossy_path() {
    // Each of the threads waits for OpenSSL's real timers, so they run side by side.
    let cases = [0.05, 0.10, 0.20].into_iter();
    let cases = cases.flat_map(|loss| (0..LOSSY_HANDSHAKES).map(move |seed| (loss, seed)));
    let handshakes: Vec<_> = cases
        .map(|(loss, seed)| {
            std::thread::spawn(move || {
                let mut rng = StdRng::seed_from_u64(seed);
                let (mut client, mut server) = pair();
                let lost = || rng.random_bool(loss);
                let (first, second) = run(&mut client, &mut server, lost, Duration::from_secs(60));
                let is_connected = matches!(first, Some(DtlsEvent::Connected { .. }));
                assert!(is_connected, "seed {seed} at loss {loss}: {first:?}");
                assert_eq!(first, second, "seed {seed} at loss {loss}");
            })
        })
        .collect();
    for handshake in handshakes {
        handshake.join().unwrap();
    }
}

#[test]
fn a_peer_with_an_rsa_certificate_is_served() {
    let key = PKey::from_rsa(openssl::rsa::Rsa::generate(2048).unwrap()).unwrap();
    let mut client = OpenSslFactory::with_key(&key).unwrap();
    let mut server = OpenSslFactory::new().unwrap();
    let (theirs, ours) = (client.fingerprint(), server.fingerprint());
    let now = Instant::now();
    let mut client = client.session(DtlsRole::Client, ours, now);
    let mut server = server.session(DtlsRole::Server, theirs, now);
    let (first, second) = run(&mut client, &mut server, || false, Duration::from_secs(10));
    assert!(matches!(first, Some(DtlsEvent::Connected { .. })), "{first:?}");
    assert_eq!(first, second);
}

/// A browser with post-quantum key shares sends a ClientHello in several datagrams.
#[test]
fn a_client_hello_in_fragments_is_put_together() {
    let (factory, mut server) = (OpenSslFactory::new().unwrap(), OpenSslFactory::new().unwrap());
    let (theirs, ours) = (factory.fingerprint(), server.fingerprint());
    let now = Instant::now();
    let protocols = [&[250; 251][..]; 8].concat();
    let configure = |ssl: &mut SslRef| ssl.set_alpn_protos(&protocols);
    let mut client =
        OpenSslSession::configured(&factory.context, DtlsRole::Client, ours, configure).unwrap();
    client.drive(now);
    let fragments = std::iter::from_fn(|| client.poll_transmit()).collect::<Vec<_>>();
    assert!(fragments.len() >= 2, "the ClientHello took {} datagrams", fragments.len());
    let mut client: Box<dyn DtlsSession> = Box::new(client);
    let mut server = server.session(DtlsRole::Server, theirs, now);
    for fragment in fragments {
        server.handle_datagram(&fragment, now);
    }
    let (first, second) = run(&mut client, &mut server, || false, Duration::from_secs(10));
    assert!(matches!(first, Some(DtlsEvent::Connected { .. })), "{first:?}");
    assert_eq!(first, second);
}

#[test]
fn garbage_does_not_end_a_session() {
    let (mut client, mut server) = pair();
    let mut rng = StdRng::seed_from_u64(1);
    for _ in 0..100 {
        let garbage: Vec<u8> = (0..rng.random_range(1..100)).map(|_| rng.random()).collect();
        server.handle_datagram(&garbage, Instant::now());
    }
    let (first, _) = run(&mut client, &mut server, || false, Duration::from_secs(10));
    assert!(matches!(first, Some(DtlsEvent::Connected { .. })));
}

/// A client of which OpenSSL does everything, and our server.
struct Foreign {
    client: SslStream<Memory>,
    server: OpenSslSession,
}

impl Foreign {
    fn connected() -> Self {
        let (theirs, ours) = (OpenSslFactory::new().unwrap(), OpenSslFactory::new().unwrap());
        let mut ssl = Ssl::new(&theirs.context).unwrap();
        ssl.set_mtu(MTU).unwrap();
        ssl.set_connect_state();
        let client = SslStream::new(ssl, Memory::default()).unwrap();
        let server =
            OpenSslSession::new(&ours.context, DtlsRole::Server, theirs.fingerprint()).unwrap();
        let mut pair = Self { client, server };
        while pair.client.do_handshake().is_err() {
            pair.carry();
        }
        assert!(matches!(pair.server.poll_event(), Some(DtlsEvent::Connected { .. })));
        assert!(matches!(pair.server.association, Association::Established(_)));
        pair
    }

    /// Carries what waits, both ways.
    fn carry(&mut self) {
        while let Some(datagram) = self.client.get_mut().outbound.pop_front() {
            self.server.handle_datagram(&datagram, Instant::now());
        }
        while let Some(datagram) = self.server.poll_transmit() {
            self.client.get_mut().inbound.push_back(datagram);
        }
    }
}

#[test]
fn records_are_understood_by_openssl_and_its_own_by_us() {
    let mut pair = Foreign::connected();
    let mut buffer = [0; 100];
    for round in 0..3u8 {
        pair.client.ssl_write(&[round; 20]).unwrap();
        pair.carry();
        assert_eq!(pair.server.poll_event(), Some(DtlsEvent::Data(vec![round; 20])));
        pair.server.send(&[round; 30], Instant::now());
        pair.carry();
        assert_eq!(pair.client.ssl_read(&mut buffer).unwrap(), 30);
        assert_eq!(buffer[..30], [round; 30]);
    }
    pair.client.shutdown().unwrap();
    pair.carry();
    assert_eq!(pair.server.poll_event(), Some(DtlsEvent::Closed));
}

#[test]
fn our_end_is_told_to_openssl() {
    let mut pair = Foreign::connected();
    pair.server.close();
    pair.carry();
    let end = pair.client.ssl_read(&mut [0; 10]).unwrap_err();
    assert_eq!(end.code(), ErrorCode::ZERO_RETURN);
}

#[test]
fn a_peer_with_another_cipher_is_served_by_openssl() {
    let key = EcKey::generate(&EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap()).unwrap();
    let key = PKey::from_ec_key(key).unwrap();
    let mut client = OpenSslFactory::with_ciphers(&key, "ECDHE+AES256").unwrap();
    let mut server = OpenSslFactory::new().unwrap();
    let (theirs, ours) = (client.fingerprint(), server.fingerprint());
    let now = Instant::now();
    let mut client = client.session(DtlsRole::Client, ours, now);
    let mut server = server.session(DtlsRole::Server, theirs, now);
    let (first, second) = run(&mut client, &mut server, || false, Duration::from_secs(10));
    assert!(matches!(first, Some(DtlsEvent::Connected { .. })), "{first:?}");
    assert_eq!(first, second);
    server.send(b"hello", now);
    let (got, _) = run(&mut client, &mut server, || false, Duration::from_millis(200));
    assert_eq!(got, Some(DtlsEvent::Data(b"hello".to_vec())));
}
