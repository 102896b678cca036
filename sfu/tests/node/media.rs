//! The media plane's sockets: a connectivity check over UDP and over TCP is answered.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use sfu::rtc::{MediaPlane, MediaPlaneOptions};
use sfu_core::media::{
    CandidateProtocol, IceCredentials, MediaCommand, TransportId, stun::write_check,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::support::eventually;

const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const PATIENCE: Duration = Duration::from_secs(5);
/// Time after which a check is sent again.
const RESEND: Duration = Duration::from_millis(100);
/// A Binding success response.
const SUCCESS: [u8; 2] = [1, 1];

#[tokio::test(flavor = "multi_thread")]
async fn checks_are_answered_over_udp_and_tcp_by_the_worker_that_knows_the_transport() {
    let plane = MediaPlane::start(MediaPlaneOptions {
        bind: LOCALHOST,
        udp_ports: vec![0, 0],
        tcp_port: Some(0),
        advertise: Arc::new(|| vec![LOCALHOST]),
    })
    .await
    .unwrap();
    for number in 0..4 {
        let (events, _received) = mpsc::channel(8);
        let mut room = plane.attach(events, None);
        let local = IceCredentials {
            ufrag: format!("ufrag{number}"),
            pwd: format!("a long enough password {number}"),
        };
        let (transport, worker) = (TransportId(number), number as usize % 2);
        room.send(MediaCommand::OpenTransport { transport, worker, local: local.clone() });
        let check = write_check(&local, "peer", true);
        let address = |protocol| {
            let fits =
                room.candidates()[worker].iter().find(|candidate| candidate.protocol == protocol);
            fits.unwrap().address
        };

        let socket = UdpSocket::bind((LOCALHOST, 0)).await.unwrap();
        let mut answer = [0; 512];
        // As a client does: datagrams get lost, and the worker may not know the transport yet.
        eventually("the check is answered", || async {
            socket.send_to(&check, address(CandidateProtocol::Udp)).await.unwrap();
            let mut answer = [0; 512];
            let answered = timeout(RESEND, socket.recv(&mut answer)).await;
            answered.is_ok_and(|length| length.is_ok() && answer[..2] == SUCCESS)
        })
        .await;

        let mut stream = TcpStream::connect(address(CandidateProtocol::TcpPassive)).await.unwrap();
        for _ in 0..2 {
            stream.write_u16(check.len() as u16).await.unwrap();
            stream.write_all(&check).await.unwrap();
            let length = timeout(PATIENCE, stream.read_u16()).await.unwrap().unwrap();
            stream.read_exact(&mut answer[..usize::from(length)]).await.unwrap();
            assert_eq!(answer[..2], SUCCESS);
        }
    }
    tokio::task::spawn_blocking(move || plane.shutdown()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_on_tcp_is_closed() {
    let plane = MediaPlane::start(MediaPlaneOptions {
        bind: LOCALHOST,
        udp_ports: vec![0],
        tcp_port: Some(0),
        advertise: Arc::new(|| vec![LOCALHOST]),
    })
    .await
    .unwrap();
    let (events, _received) = mpsc::channel(8);
    let room = plane.attach(events, None);
    let tcp = room.candidates()[0].iter().find(|c| c.protocol == CandidateProtocol::TcpPassive);
    let mut stream = TcpStream::connect(tcp.unwrap().address).await.unwrap();
    stream.write_all(&[0, 4, b'G', b'E', b'T', b' ']).await.unwrap();
    let mut rest = Vec::new();
    timeout(PATIENCE, stream.read_to_end(&mut rest)).await.unwrap().unwrap();
    assert!(rest.is_empty());
}
