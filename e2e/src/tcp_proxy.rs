//! A TCP proxy on this machine: leads each connection to the first server that takes it, as an ingress
//! does that tries the next one, and can be cut like a network that drops everything.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};

/// How often a silent connection looks whether it ends.
const INTERVAL: Duration = Duration::from_millis(50);

/// The proxy; dropping it ends it.
pub struct TcpProxy {
    address: SocketAddr,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    is_cut: AtomicBool,
    ends: AtomicBool,
    /// Servers take turns.
    next: AtomicUsize,
}

impl TcpProxy {
    /// Listens on `port` of the loopback interface.
    pub fn start(port: u16, servers: Vec<SocketAddr>) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", port)).context("listening as a proxy")?;
        let address = listener.local_addr().context("asking for the proxy's address")?;
        let state = Arc::new(State::default());
        let shared = Arc::clone(&state);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if shared.ends.load(Ordering::Relaxed) {
                    return;
                }
                let (servers, shared) = (servers.clone(), Arc::clone(&shared));
                thread::spawn(move || carry(client, &servers, &shared));
            }
        });
        Ok(Self { address, state })
    }

    /// Drops everything that comes until [`Self::mend`]; connections stay.
    pub fn cut(&self) {
        self.state.is_cut.store(true, Ordering::Relaxed);
    }

    /// Lets everything through again.
    pub fn mend(&self) {
        self.state.is_cut.store(false, Ordering::Relaxed);
    }
}

impl Drop for TcpProxy {
    fn drop(&mut self) {
        self.state.ends.store(true, Ordering::Relaxed);
        // Wakes the listener up; when that fails it has ended.
        let _ = TcpStream::connect(self.address);
    }
}

/// Carries one connection until either side ends it.
fn carry(client: TcpStream, servers: &[SocketAddr], state: &Arc<State>) {
    let first = state.next.fetch_add(1, Ordering::Relaxed);
    let turn = (0..servers.len()).map(|number| servers[(first + number) % servers.len()]);
    // A client that no server takes sees its connection end.
    let Some(server) = turn.filter_map(|server| TcpStream::connect(server).ok()).next() else {
        return;
    };
    let (Ok(from), Ok(to)) = (client.try_clone(), server.try_clone()) else { return };
    let shared = Arc::clone(state);
    thread::spawn(move || copy(from, to, &shared));
    copy(server, client, state);
}

fn copy(mut from: TcpStream, mut to: TcpStream, state: &State) {
    let mut buffer = [0; 16 * 1024];
    let is_set = from.set_read_timeout(Some(INTERVAL)).is_ok() && to.set_nodelay(true).is_ok();
    while is_set && !state.ends.load(Ordering::Relaxed) {
        if state.is_cut.load(Ordering::Relaxed) {
            thread::sleep(INTERVAL);
            continue;
        }
        match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(length) if to.write_all(&buffer[..length]).is_ok() => {}
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Ok(_) | Err(_) => break,
        }
    }
    // Either may have ended already.
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers each connection with one byte.
    fn server(byte: u8) -> SocketAddr {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            for mut client in listener.incoming().flatten() {
                let _ = client.write_all(&[byte]);
            }
        });
        address
    }

    fn read(proxy: &TcpProxy) -> std::io::Result<u8> {
        let mut stream = TcpStream::connect(proxy.address)?;
        stream.set_read_timeout(Some(Duration::from_millis(500)))?;
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        Ok(byte[0])
    }

    #[test]
    fn who_refuses_is_passed_over() {
        let closed = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap();
        let proxy = TcpProxy::start(0, vec![closed, server(7)]).unwrap();
        for _ in 0..4 {
            assert_eq!(read(&proxy).unwrap(), 7);
        }
    }

    #[test]
    fn a_cut_lets_nothing_through_until_it_is_mended() {
        let proxy = TcpProxy::start(0, vec![server(7)]).unwrap();
        proxy.cut();
        assert!(read(&proxy).is_err());
        proxy.mend();
        assert_eq!(read(&proxy).unwrap(), 7);
    }
}
