//! A TURN client over every transport, and peers.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use openssl::ssl::{SslConnector, SslMethod, SslStream, SslVerifyMode};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme};
use turn_server_core::framer::StreamFramer;
use turn_server_core::stun::{
    Algorithm, Class, Integrity, Key, Message, Method, Signer, Writer, attribute as a,
};

use crate::server::{PASSWORD, PATIENCE, Server, USER};

/// Long enough to see that nothing comes, on loopback.
const SILENCE: Duration = Duration::from_millis(300);

/// Whole messages to and from the server.
pub(crate) trait Wire {
    fn send(&mut self, message: &[u8]);
    /// The next message; `None` when there is none in time.
    fn receive(&mut self, patience: Duration) -> Option<Vec<u8>>;
}

pub(crate) struct Datagrams(pub(crate) UdpSocket);

impl Wire for Datagrams {
    fn send(&mut self, message: &[u8]) {
        self.0.send(message).unwrap();
    }

    fn receive(&mut self, patience: Duration) -> Option<Vec<u8>> {
        let mut buffer = vec![0; 65_536];
        self.0.set_read_timeout(Some(patience)).unwrap();
        let length = self.0.recv(&mut buffer).ok()?;
        buffer.truncate(length);
        Some(buffer)
    }
}

/// DTLS by OpenSSL: a record is a message.
struct Secured(SslStream<Connected>);

/// A connected datagram socket as OpenSSL wants it.
#[derive(Debug)]
struct Connected(UdpSocket);

impl Read for Connected {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.recv(buffer)
    }
}

impl Write for Connected {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.send(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Wire for Secured {
    fn send(&mut self, message: &[u8]) {
        self.0.write_all(message).unwrap();
    }

    fn receive(&mut self, patience: Duration) -> Option<Vec<u8>> {
        let mut buffer = vec![0; 65_536];
        self.0.get_ref().0.set_read_timeout(Some(patience)).unwrap();
        let length = self.0.read(&mut buffer).ok().filter(|length| *length > 0)?;
        buffer.truncate(length);
        Some(buffer)
    }
}

/// A stream, in the clear or not.
pub(crate) struct Stream<S> {
    stream: S,
    tcp: TcpStream,
    framer: StreamFramer,
    ready: Vec<Vec<u8>>,
}

impl<S: Read + Write> Stream<S> {
    pub(crate) fn new(stream: S, tcp: TcpStream) -> Self {
        Self { stream, tcp, framer: StreamFramer::default(), ready: Vec::new() }
    }
}

impl<S: Read + Write> Wire for Stream<S> {
    fn send(&mut self, message: &[u8]) {
        self.stream.write_all(message).unwrap();
        if message[0] >= 0x40 {
            self.stream
                .write_all(&[0; 3][..message.len().next_multiple_of(4) - message.len()])
                .unwrap();
        }
        self.stream.flush().unwrap();
    }

    fn receive(&mut self, patience: Duration) -> Option<Vec<u8>> {
        self.tcp.set_read_timeout(Some(patience)).unwrap();
        let mut buffer = vec![0; 65_536];
        while self.ready.is_empty() {
            let length = self.stream.read(&mut buffer).ok().filter(|length| *length > 0)?;
            let ready = &mut self.ready;
            self.framer.push(&buffer[..length], |frame| ready.push(frame.to_vec())).unwrap();
        }
        Some(self.ready.remove(0))
    }
}

/// A client with its credentials.
pub(crate) struct Client {
    pub(crate) wire: Box<dyn Wire>,
    pub(crate) account: (String, String),
    realm: String,
    nonce: Vec<u8>,
    transactions: u32,
    /// Messages that came while an answer was waited for.
    pending: Vec<Vec<u8>>,
}

pub(crate) fn udp(server: &Server) -> Client {
    udp_from(Ipv4Addr::LOCALHOST.into(), server.udp())
}

pub(crate) fn udp_from(from: IpAddr, server: SocketAddr) -> Client {
    let socket = UdpSocket::bind((from, 0)).unwrap();
    socket.connect(server).unwrap();
    Client::new(Box::new(Datagrams(socket)))
}

pub(crate) fn tcp(server: &Server) -> Client {
    over(TcpStream::connect(server.tcp()).unwrap())
}

/// A client on a connection that is there already.
pub(crate) fn over(stream: TcpStream) -> Client {
    stream.set_nodelay(true).unwrap();
    let second = stream.try_clone().unwrap();
    Client::new(Box::new(Stream::new(stream, second)))
}

pub(crate) fn tls(server: &Server) -> Client {
    let stream = TcpStream::connect(server.tls()).unwrap();
    tls_over(stream, rustls::ALL_VERSIONS).0
}

/// A TLS client on a connection that is there already, and the certificate that it saw.
pub(crate) fn tls_over(
    mut stream: TcpStream,
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> (Client, Vec<u8>) {
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut connection = ClientConnection::new(
        Arc::new(trusting(versions)),
        ServerName::try_from("turn.example").unwrap(),
    )
    .unwrap();
    while connection.is_handshaking() {
        connection.complete_io(&mut stream).unwrap();
    }
    assert_eq!(connection.alpn_protocol(), Some(&b"stun.turn"[..]));
    let certificate = connection.peer_certificates().unwrap()[0].to_vec();
    let second = stream.try_clone().unwrap();
    let stream = rustls::StreamOwned::new(connection, stream);
    (Client::new(Box::new(Stream::new(stream, second))), certificate)
}

/// TLS that believes any certificate; which one it was, the test looks at.
fn trusting(versions: &[&'static rustls::SupportedProtocolVersion]) -> ClientConfig {
    #[derive(Debug)]
    struct Trusting;
    impl ServerCertVerifier for Trusting {
        fn verify_server_cert(
            &self,
            _: &CertificateDer<'_>,
            _: &[CertificateDer<'_>],
            _: &ServerName<'_>,
            _: &[u8],
            _: UnixTime,
        ) -> Result<ServerCertVerified, rustls::Error> {
            Ok(ServerCertVerified::assertion())
        }

        fn verify_tls12_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            Ok(HandshakeSignatureValid::assertion())
        }

        fn verify_tls13_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            Ok(HandshakeSignatureValid::assertion())
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            rustls::crypto::ring::default_provider()
                .signature_verification_algorithms
                .supported_schemes()
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Trusting))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"stun.turn".to_vec()];
    config
}

pub(crate) fn dtls(server: &Server) -> Client {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    socket.connect(server.dtls()).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut connector = SslConnector::builder(SslMethod::dtls()).unwrap();
    connector.set_verify(SslVerifyMode::NONE);
    let stream = connector.build().connect("turn.example", Connected(socket)).unwrap();
    Client::new(Box::new(Secured(stream)))
}

impl Client {
    pub(crate) fn new(wire: Box<dyn Wire>) -> Self {
        Self {
            wire,
            account: (USER.to_owned(), PASSWORD.to_owned()),
            realm: String::new(),
            nonce: Vec::new(),
            transactions: 0,
            pending: Vec::new(),
        }
    }

    fn begin(&mut self, method: Method) -> Writer {
        self.transactions += 1;
        let mut transaction = [0x3C; 12];
        transaction[8..].copy_from_slice(&self.transactions.to_be_bytes());
        Writer::new(Class::Request, method, transaction)
    }

    fn sign(&self, mut writer: Writer) -> Vec<u8> {
        let (user, password) = &self.account;
        writer.attribute(a::USERNAME, user.as_bytes());
        writer.attribute(a::REALM, self.realm.as_bytes()).attribute(a::NONCE, &self.nonce);
        let (user, realm) = (user.as_bytes(), self.realm.as_bytes());
        let key = Key::long_term(Algorithm::Md5, user, realm, password.as_bytes());
        writer.finish(Some(Signer { key, integrity: Integrity::Sha1 }), true)
    }

    /// Sends a request and waits for its answer. `None` when none comes.
    pub(crate) fn exchange(&mut self, request: &[u8]) -> Option<Answer> {
        self.wire.send(request);
        loop {
            let message = self.wire.receive(PATIENCE)?;
            if message[0] < 0x40 && message[8..20] == request[8..20] {
                return Some(Answer(message));
            }
            self.pending.push(message);
        }
    }

    /// The next request, signed once a challenge has come.
    pub(crate) fn request(&mut self, method: Method, build: impl Fn(&mut Writer)) -> Vec<u8> {
        let mut writer = self.begin(method);
        build(&mut writer);
        if self.nonce.is_empty() { writer.finish(None, false) } else { self.sign(writer) }
    }

    /// Asks, and again with what a challenge brings.
    pub(crate) fn ask(&mut self, method: Method, build: impl Fn(&mut Writer)) -> Answer {
        for _ in 0..2 {
            let is_signed = !self.nonce.is_empty();
            let bytes = self.request(method, &build);
            let answer = self.exchange(&bytes).expect("an answer");
            let is_challenge = match answer.code() {
                Some(401) => !is_signed,
                Some(438) => true,
                _ => false,
            };
            if !is_challenge {
                return answer;
            }
            self.realm = String::from_utf8(answer.get(a::REALM).unwrap().to_vec()).unwrap();
            self.nonce = answer.get(a::NONCE).unwrap().to_vec();
        }
        panic!("challenged twice");
    }

    pub(crate) fn allocate(&mut self) -> Answer {
        self.ask(Method::Allocate, |writer| {
            writer.attribute(a::REQUESTED_TRANSPORT, &[17, 0, 0, 0]);
        })
    }

    /// Allocates; where peers reach the client.
    pub(crate) fn allocated(&mut self) -> SocketAddr {
        let answer = self.allocate();
        assert_eq!(answer.code(), None);
        answer.address(a::XOR_RELAYED_ADDRESS)
    }

    pub(crate) fn permit(&mut self, peer: SocketAddr) -> Option<u16> {
        let build = |writer: &mut Writer| {
            writer.xor_address(a::XOR_PEER_ADDRESS, peer);
        };
        self.ask(Method::CreatePermission, build).code()
    }

    pub(crate) fn bind(&mut self, number: u16, peer: SocketAddr) -> Option<u16> {
        let build = |writer: &mut Writer| {
            writer.number(a::CHANNEL_NUMBER, u32::from(number) << 16);
            writer.xor_address(a::XOR_PEER_ADDRESS, peer);
        };
        self.ask(Method::ChannelBind, build).code()
    }

    pub(crate) fn refresh(&mut self, seconds: u32) -> Option<u16> {
        let build = |writer: &mut Writer| {
            writer.number(a::LIFETIME, seconds);
        };
        self.ask(Method::Refresh, build).code()
    }

    pub(crate) fn send_channel(&mut self, number: u16, data: &[u8]) {
        let mut message = number.to_be_bytes().to_vec();
        message.extend((data.len() as u16).to_be_bytes());
        message.extend(data);
        self.wire.send(&message);
    }

    pub(crate) fn send_indication(&mut self, peer: SocketAddr, data: &[u8], whole: bool) {
        let mut writer = Writer::new(Class::Indication, Method::Send, [7; 12]);
        writer.xor_address(a::XOR_PEER_ADDRESS, peer).attribute(a::DATA, data);
        if whole {
            writer.attribute(a::DONT_FRAGMENT, &[]);
        }
        self.wire.send(&writer.finish(None, false));
    }

    pub(crate) fn receive(&mut self) -> Option<Vec<u8>> {
        if !self.pending.is_empty() {
            return Some(self.pending.remove(0));
        }
        self.wire.receive(PATIENCE)
    }

    /// The next channel data: number and data.
    pub(crate) fn receive_channel(&mut self) -> (u16, Vec<u8>) {
        let message = self.receive().expect("channel data");
        assert!((0x40..=0x4f).contains(&message[0]), "{message:x?}");
        let length = usize::from(u16::from_be_bytes([message[2], message[3]]));
        (u16::from_be_bytes([message[0], message[1]]), message[4..4 + length].to_vec())
    }

    pub(crate) fn assert_silent(&mut self) {
        assert_eq!(self.pending.pop(), None);
        assert_eq!(self.wire.receive(SILENCE), None);
    }

    /// Data to an echoing peer comes back, over a channel.
    pub(crate) fn assert_relays(&mut self, number: u16) {
        for length in [1, 172, 1200] {
            let data = vec![length as u8; length];
            self.send_channel(number, &data);
            assert_eq!(self.receive_channel(), (number, data));
        }
    }
}

/// What the server said.
#[derive(Debug)]
pub(crate) struct Answer(pub(crate) Vec<u8>);

impl Answer {
    pub(crate) fn get(&self, wanted: u16) -> Option<&[u8]> {
        let mut rest = &self.0[20..];
        while let [k0, k1, l0, l1, body @ ..] = rest {
            let length = usize::from(u16::from_be_bytes([*l0, *l1]));
            if u16::from_be_bytes([*k0, *k1]) == wanted {
                return Some(&body[..length]);
            }
            rest = &body[length.next_multiple_of(4)..];
        }
        None
    }

    pub(crate) fn code(&self) -> Option<u16> {
        self.get(a::ERROR_CODE).map(|value| u16::from(value[2]) * 100 + u16::from(value[3]))
    }

    pub(crate) fn number(&self, kind: u16) -> u32 {
        u32::from_be_bytes(self.get(kind).unwrap().try_into().unwrap())
    }

    pub(crate) fn address(&self, kind: u16) -> SocketAddr {
        let value = self.get(kind).expect("an address");
        let plain: Vec<u8> =
            value[4..].iter().zip(&self.0[4..]).map(|(byte, mask)| byte ^ mask).collect();
        let port = u16::from_be_bytes([value[2] ^ 0x21, value[3] ^ 0x12]);
        match plain.len() {
            4 => (<[u8; 4]>::try_from(&*plain).unwrap(), port).into(),
            _ => (<[u8; 16]>::try_from(&*plain).unwrap(), port).into(),
        }
    }
}

/// A peer on loopback.
pub(crate) struct Peer(pub(crate) UdpSocket);

impl Peer {
    pub(crate) fn new() -> Self {
        Self::at(Ipv4Addr::LOCALHOST.into())
    }

    pub(crate) fn at(ip: IpAddr) -> Self {
        Self(UdpSocket::bind((ip, 0)).unwrap())
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.0.local_addr().unwrap()
    }

    pub(crate) fn receive(&self) -> Option<(Vec<u8>, SocketAddr)> {
        self.within(PATIENCE)
    }

    fn within(&self, patience: Duration) -> Option<(Vec<u8>, SocketAddr)> {
        let mut buffer = vec![0; 65_536];
        self.0.set_read_timeout(Some(patience)).unwrap();
        match self.0.recv_from(&mut buffer) {
            Ok((length, from)) => {
                buffer.truncate(length);
                Some((buffer, from))
            }
            Err(error) => {
                let kind = error.kind();
                assert!(matches!(kind, ErrorKind::WouldBlock | ErrorKind::TimedOut), "{error}");
                None
            }
        }
    }

    pub(crate) fn assert_silent(&self) {
        assert_eq!(self.within(SILENCE), None, "something reached the peer");
    }

    /// Sends everything back, until the process ends.
    pub(crate) fn echo() -> SocketAddr {
        let peer = Self::new();
        let address = peer.address();
        std::thread::spawn(move || {
            loop {
                if let Some((data, from)) = peer.receive() {
                    let _lost = peer.0.send_to(&data, from);
                }
            }
        });
        address
    }
}

/// Reads what a message of the server is.
pub(crate) fn parse(bytes: &[u8]) -> Message<'_> {
    Message::parse(bytes).unwrap()
}
