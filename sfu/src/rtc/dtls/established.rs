//! An association whose handshake is done: records without OpenSSL.

use std::collections::VecDeque;
use std::ops::ControlFlow;

use openssl::ssl::{SslRef, SslStream};
use sfu_core::media::DtlsRole;
use sfu_core::media::dtls::DtlsEvent;
use sfu_core::media::dtls::records::{
    ALERT, APPLICATION_DATA, HANDSHAKE, RecordProtection, Secrets, records,
};

use super::Memory;

/// The cipher suites whose records are ours (RFC 5289).
const CIPHERS: [&str; 2] = ["ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-RSA-AES128-GCM-SHA256"];
/// Level and description of the alert that ends an association (RFC 5246 section 7.2.1).
const CLOSE_NOTIFY: [u8; 2] = [1, 0];
/// The level of an alert that lets an association go on, for other descriptions.
const WARNING: u8 = 1;
const MASTER_SECRET: usize = 48;
const RANDOM: usize = 32;

/// Whether an alert ends the association.
fn ends(alert: &[u8]) -> bool {
    alert == CLOSE_NOTIFY || alert.first() != Some(&WARNING)
}

pub(super) struct Established {
    records: RecordProtection,
    outbound: VecDeque<Vec<u8>>,
    /// Our last flight. A peer that lost it sends its own again.
    last_flight: Vec<Vec<u8>>,
}

impl Established {
    /// Takes an association over from OpenSSL. `None` when that must go on itself.
    pub(super) fn take_over(stream: &mut SslStream<Memory>, role: DtlsRole) -> Option<Self> {
        let progress = stream.get_ref().progress;
        let protection = |ssl: &SslRef| {
            let cipher = ssl.current_cipher()?.name();
            CIPHERS.contains(&cipher).then_some(())?;
            let (mut master, mut client_random, mut server_random) =
                ([0; MASTER_SECRET], [0; RANDOM], [0; RANDOM]);
            let lengths = [
                ssl.session()?.master_key(&mut master),
                ssl.client_random(&mut client_random),
                ssl.server_random(&mut server_random),
            ];
            (lengths == [MASTER_SECRET, RANDOM, RANDOM]).then_some(())?;
            let secrets = Secrets {
                master: &master,
                client_random: &client_random,
                server_random: &server_random,
            };
            RecordProtection::new(&secrets, role, progress)
        };
        let records = protection(stream.ssl())?;
        let memory = stream.get_mut();
        Some(Self {
            records,
            outbound: std::mem::take(&mut memory.outbound),
            last_flight: std::mem::take(&mut memory.last_flight),
        })
    }

    /// Takes a datagram; breaks when the peer ended the association.
    pub(super) fn handle_datagram(
        &mut self,
        datagram: &[u8],
        events: &mut VecDeque<DtlsEvent>,
    ) -> ControlFlow<()> {
        for record in records(datagram) {
            let Some((is_repeated, data)) = self.records.open(record) else { continue };
            match record.content {
                // The same bytes under the same numbers: the peer has not seen them.
                HANDSHAKE if self.outbound.is_empty() => {
                    self.outbound.extend(self.last_flight.iter().cloned());
                }
                ALERT if !is_repeated && ends(&data) => return ControlFlow::Break(()),
                APPLICATION_DATA if !is_repeated => events.push_back(DtlsEvent::Data(data)),
                _ => {}
            }
        }
        ControlFlow::Continue(())
    }

    pub(super) fn poll_transmit(&mut self) -> Option<Vec<u8>> {
        self.outbound.pop_front()
    }

    pub(super) fn send(&mut self, data: &[u8]) {
        self.outbound.extend(self.records.seal(APPLICATION_DATA, data));
    }

    pub(super) fn close(&mut self) {
        self.outbound.extend(self.records.seal(ALERT, &CLOSE_NOTIFY));
    }
}
