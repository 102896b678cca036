//! Passes connections to the loopback of this machine on to the ingress of a cluster whose
//! network is elsewhere, so that a browser here can open it.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

/// Subcommand of this program that forwards.
pub const COMMAND: &str = "forward";
/// Connections at a time: some browsers with a call each, far below the file limit.
const MAX_CONNECTIONS: usize = 256;
/// How long the ingress may take to accept.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause after a failed accept, which happens when files run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A port of 127.0.0.1 and the address that its connections go to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forward {
    /// Port on 127.0.0.1.
    pub port: u16,
    /// Where its connections go.
    pub target: SocketAddr,
}

impl std::str::FromStr for Forward {
    type Err = anyhow::Error;

    /// Reads `port=address:port`.
    fn from_str(text: &str) -> Result<Self> {
        let (port, target) = text.split_once('=').context("a forward is port=address:port")?;
        Ok(Self { port: port.parse()?, target: target.parse()? })
    }
}

/// Forwards until it is killed.
pub fn run(forwards: &[Forward]) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let mut listeners = tokio::task::JoinSet::new();
        for forward in forwards {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, forward.port))
                .await
                .with_context(|| format!("listening on 127.0.0.1:{}", forward.port))?;
            listeners.spawn(serve(listener, forward.target, Arc::clone(&places)));
        }
        listeners.join_all().await;
        Ok(())
    })
}

async fn serve(listener: TcpListener, target: SocketAddr, places: Arc<Semaphore>) {
    while let Ok(place) = Arc::clone(&places).acquire_owned().await {
        let Ok((client, _)) = listener.accept().await else {
            sleep(ACCEPT_PAUSE).await;
            continue;
        };
        tokio::spawn(async move {
            // Either side may end a connection at any time; there is nobody to tell.
            let _ = pass(client, target).await;
            drop(place);
        });
    }
}

async fn pass(mut client: TcpStream, target: SocketAddr) -> std::io::Result<()> {
    let mut server = timeout(CONNECT_TIMEOUT, TcpStream::connect(target)).await??;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    copy_bidirectional(&mut client, &mut server).await.map(drop)
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[test]
    fn forward_is_read_from_its_text() {
        let forward: Forward = "8080=10.0.0.1:80".parse().unwrap();
        assert_eq!(forward, Forward { port: 8080, target: "10.0.0.1:80".parse().unwrap() });
        "8080".parse::<Forward>().unwrap_err();
        "x=10.0.0.1:80".parse::<Forward>().unwrap_err();
    }

    #[tokio::test]
    async fn bytes_go_both_ways_and_the_end_too() {
        let ingress = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let front = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = front.local_addr().unwrap();
        let places = Arc::new(Semaphore::new(1));
        let serving = tokio::spawn(serve(front, ingress.local_addr().unwrap(), places));
        let mut client = TcpStream::connect(address).await.unwrap();
        client.write_all(b"ping").await.unwrap();
        let (mut server, _) = ingress.accept().await.unwrap();
        let mut bytes = [0; 4];
        server.read_exact(&mut bytes).await.unwrap();
        assert_eq!(&bytes, b"ping");
        server.write_all(b"pong").await.unwrap();
        drop(server);
        let mut rest = String::new();
        client.read_to_string(&mut rest).await.unwrap();
        assert_eq!(rest, "pong");
        serving.abort();
    }
}
