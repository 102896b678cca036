//! SCTP of a client (RFC 8831), so that a server carries what an association costs it. No
//! channel of our own is opened, and what comes in is not read.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Result, anyhow};
use bytes::Bytes;
use rtc_sctp::{
    Association, AssociationHandle, ClientConfig, DatagramEvent, Endpoint, EndpointConfig, Payload,
    ServerConfig, TransportConfig,
};
use rtc_shared::TransportProtocol;

const PORT: u16 = 5000;
/// The association does not use addresses: DTLS knows the path.
const NOWHERE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), PORT);

/// The association of one transport.
pub(super) struct DataClient {
    endpoint: Endpoint,
    association: Option<(AssociationHandle, Association)>,
}

impl DataClient {
    /// Waits for the server's association.
    pub(super) fn new() -> Self {
        let server = Arc::new(ServerConfig::new(transport()));
        let config = Arc::new(EndpointConfig::new());
        let endpoint = Endpoint::new(NOWHERE, TransportProtocol::UDP, config, Some(server));
        Self { endpoint, association: None }
    }

    /// Begins one, with a server that waits for ours.
    pub(super) fn connect(&mut self, now: Instant) -> Result<()> {
        let association = self
            .endpoint
            .connect(now, ClientConfig::new(transport()), NOWHERE)
            .map_err(|error| anyhow!("SCTP: {error}"))?;
        self.association = Some(association);
        Ok(())
    }

    /// Takes a decrypted packet.
    pub(super) fn handle(&mut self, packet: Vec<u8>, now: Instant) {
        match self.endpoint.handle(now, NOWHERE, None, Bytes::from(packet)) {
            Some((handle, DatagramEvent::NewAssociation(association))) => {
                self.association.get_or_insert((handle, association));
            }
            Some((handle, DatagramEvent::AssociationEvent(event))) => {
                if let Some((known, association)) = &mut self.association
                    && *known == handle
                {
                    association.handle_event(event);
                }
            }
            // The library's enum may grow.
            _ => {}
        }
        self.forget_events();
    }

    /// Retransmits what is due.
    pub(super) fn handle_timeout(&mut self, now: Instant) {
        if let Some((_, association)) = &mut self.association
            && association.poll_timeout().is_some_and(|at| at <= now)
        {
            association.handle_timeout(now);
        }
        self.forget_events();
    }

    fn forget_events(&mut self) {
        if let Some((_, association)) = &mut self.association {
            while association.poll().is_some() {}
        }
    }

    /// The next packets to encrypt.
    pub(super) fn poll_transmit(&mut self, now: Instant) -> Option<Vec<Bytes>> {
        let (_, association) = self.association.as_mut()?;
        match association.poll_transmit(now)?.message {
            Payload::RawEncode(packets) => Some(packets),
            _ => None,
        }
    }
}

fn transport() -> TransportConfig {
    TransportConfig::default().with_sctp_port(PORT)
}

#[cfg(test)]
mod tests {
    use sfu_core::media::DataChannelKind;
    use sfu_core::media::data::{DataEvent, DataTransport};

    use super::*;

    #[test]
    fn the_server_opens_its_channels_on_our_association() {
        let now = Instant::now();
        let (mut client, mut server) = (DataClient::new(), DataTransport::new(false));
        server.open_channels(now);
        client.connect(now).unwrap();
        for _ in 0..20 {
            while let Some(packets) = client.poll_transmit(now) {
                packets.into_iter().for_each(|packet| server.handle(packet.to_vec(), now));
            }
            while let Some(packets) = server.poll_transmit(now) {
                packets.into_iter().for_each(|packet| client.handle(packet.to_vec(), now));
            }
        }
        let events: Vec<DataEvent> = std::iter::from_fn(|| server.poll_event()).collect();
        assert!(events.contains(&DataEvent::Open(DataChannelKind::Reliable)), "{events:?}");
    }
}
