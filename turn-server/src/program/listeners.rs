//! Opening what clients reach: every listener once for each worker.

use std::io;
use std::net::SocketAddr;

use contract::turn_config::ListenConfig;
use turn_server_core::api::Transport;

use super::StartError;
use crate::udp::{self, Purpose};
use crate::worker::{Listener, ListenerSocket};

/// Connections that wait to be accepted.
const BACKLOG: i32 = 1024;

/// Listeners of each worker, and where they are.
type Bound = (Vec<Vec<Listener>>, Vec<(Transport, SocketAddr)>);

/// Opens every listener once for each worker.
pub(super) fn bind(config: &ListenConfig, workers: usize) -> Result<Bound, StartError> {
    let mut all: Vec<Vec<Listener>> = (0..workers).map(|_| Vec::new()).collect();
    let mut addresses = Vec::new();
    for (transport, configured) in [
        (Transport::Udp, &config.udp),
        (Transport::Tcp, &config.tcp),
        (Transport::Tls, &config.tls),
        (Transport::Dtls, &config.dtls),
    ] {
        for &address in configured {
            match bind_for_workers(&mut all, transport, address) {
                Ok(address) => addresses.push((transport, address)),
                Err(error) if may_lack(address, configured, &error) => {
                    tracing::warn!(%address, %error, "Not listening: the machine has no IPv6");
                }
                Err(source) => return Err(StartError::Listen { address, source }),
            }
        }
    }
    Ok((all, addresses))
}

fn bind_for_workers(
    all: &mut [Vec<Listener>],
    transport: Transport,
    mut address: SocketAddr,
) -> io::Result<SocketAddr> {
    for listeners in all {
        // A free port that the first got is the port of all.
        let (socket, bound) = listen(transport, address)?;
        address = bound;
        listeners.push(Listener { transport, address, socket });
    }
    Ok(address)
}

/// Whoever listens on all addresses of both families does so on a machine without IPv6, too.
fn may_lack(address: SocketAddr, configured: &[SocketAddr], error: &io::Error) -> bool {
    let is_all_v6 = address.is_ipv6() && address.ip().is_unspecified();
    let has_v4 = || configured.iter().any(|other| other.is_ipv4() && other.ip().is_unspecified());
    let is_unknown = error.raw_os_error() == Some(libc::EAFNOSUPPORT);
    is_unknown && is_all_v6 && has_v4()
}

fn listen(transport: Transport, address: SocketAddr) -> io::Result<(ListenerSocket, SocketAddr)> {
    match transport {
        Transport::Udp | Transport::Dtls => {
            let socket = udp::bind(address, Purpose::Listener)?;
            let bound = socket.local_addr()?;
            Ok((ListenerSocket::Udp(socket), bound))
        }
        Transport::Tcp | Transport::Tls => {
            let domain = socket2::Domain::for_address(address);
            let kind = socket2::Type::STREAM;
            let socket = socket2::Socket::new(domain, kind, Some(socket2::Protocol::TCP))?;
            socket.set_nonblocking(true)?;
            socket.set_reuse_address(true)?;
            socket.set_reuse_port(true)?;
            if address.is_ipv6() {
                socket.set_only_v6(true)?;
            }
            socket.bind(&address.into())?;
            socket.listen(BACKLOG)?;
            let listener = mio::net::TcpListener::from_std(socket.into());
            let bound = listener.local_addr()?;
            Ok((ListenerSocket::Tcp(listener), bound))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_all_of_ipv6_beside_all_of_ipv4_may_be_missing() {
        let lacking = || io::Error::from_raw_os_error(libc::EAFNOSUPPORT);
        let taken = || io::Error::from_raw_os_error(libc::EADDRINUSE);
        let both = ["0.0.0.0:3478", "[::]:3478"];
        for (address, configured, error, expected) in [
            ("[::]:3478", &both[..], lacking(), true),
            ("[::]:3478", &both, taken(), false),
            ("[::]:3478", &both[1..], lacking(), false),
            ("0.0.0.0:3478", &both, lacking(), false),
            ("[::1]:3478", &["0.0.0.0:3478", "[::1]:3478"], lacking(), false),
            ("[::]:3478", &["192.0.2.1:3478", "[::]:3478"], lacking(), false),
        ] {
            let configured: Vec<SocketAddr> =
                configured.iter().map(|address| address.parse().unwrap()).collect();
            let found = may_lack(address.parse().unwrap(), &configured, &error);
            assert_eq!(found, expected, "{address} of {configured:?}: {error}");
        }
    }
}
