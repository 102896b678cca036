//! How many connections there may be: in all, of one address, and with a handshake under way.
//! Shared by the workers; touched when a connection comes and goes, never for its packets.

use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use rustc_hash::FxHashMap;

/// The bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bounds {
    /// Connections of the server.
    pub(crate) connections: usize,
    /// Connections of a client address.
    pub(crate) per_address: u32,
    /// Handshakes under way.
    pub(crate) handshakes: usize,
}

/// Counts of connections.
#[derive(Debug, Default)]
struct Counts {
    connections: usize,
    handshakes: usize,
    by_address: FxHashMap<IpAddr, u32>,
}

impl Counts {
    fn leave(&mut self, address: IpAddr) {
        if let Some(count) = self.by_address.get_mut(&address) {
            *count -= 1;
            if *count == 0 {
                self.by_address.remove(&address);
            }
        }
    }
}

/// Lets connections in while there is room.
#[derive(Debug, Clone)]
pub(crate) struct Admission {
    bounds: Bounds,
    counts: Arc<Mutex<Counts>>,
}

impl Admission {
    pub(crate) fn new(bounds: Bounds) -> Self {
        Self { bounds, counts: Arc::default() }
    }

    /// Takes a place for a connection, with its handshake to be done; `None` when full.
    pub(crate) fn admit(&self, address: IpAddr) -> Option<Slot> {
        let mut counts = self.counts.lock();
        let of_address = counts.by_address.get(&address).copied().unwrap_or_default();
        if counts.connections >= self.bounds.connections
            || counts.handshakes >= self.bounds.handshakes
            || of_address >= self.bounds.per_address
        {
            return None;
        }
        counts.connections += 1;
        counts.handshakes += 1;
        *counts.by_address.entry(address).or_default() += 1;
        Some(Slot { admission: self.clone(), address, is_handshaking: true })
    }

    /// Connections, and those of them with a handshake under way.
    pub(crate) fn counts(&self) -> (usize, usize) {
        let counts = self.counts.lock();
        (counts.connections, counts.handshakes)
    }
}

/// A connection's place; free again when it is dropped.
#[derive(Debug)]
pub(crate) struct Slot {
    admission: Admission,
    address: IpAddr,
    is_handshaking: bool,
}

impl Slot {
    /// Notes that the handshake is done.
    pub(crate) fn handshake_done(&mut self) {
        if self.is_handshaking {
            self.is_handshaking = false;
            self.admission.counts.lock().handshakes -= 1;
        }
    }

    /// Counts the connection for the address that a load balancer names; `false` when that
    /// address has too many.
    pub(crate) fn moves_to(&mut self, address: IpAddr) -> bool {
        let mut counts = self.admission.counts.lock();
        counts.leave(self.address);
        let count = counts.by_address.entry(address).or_default();
        *count += 1;
        let fits = *count <= self.admission.bounds.per_address;
        drop(counts);
        self.address = address;
        fits
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut counts = self.admission.counts.lock();
        counts.connections -= 1;
        counts.handshakes -= usize::from(self.is_handshaking);
        counts.leave(self.address);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));
    const B: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 2));

    fn admission(connections: usize, per_address: u32, handshakes: usize) -> Admission {
        Admission::new(Bounds { connections, per_address, handshakes })
    }

    #[test]
    fn every_bound_holds_and_places_come_back() {
        for (admission, taken) in
            [(admission(2, 9, 9), 2), (admission(9, 3, 9), 3), (admission(9, 9, 4), 4)]
        {
            let mut slots: Vec<Slot> = (0..taken).map(|_| admission.admit(A).unwrap()).collect();
            assert!(admission.admit(A).is_none());
            slots.pop();
            assert!(admission.admit(A).is_some());
            drop(slots);
            assert_eq!(admission.counts(), (0, 0));
            assert!(admission.counts.lock().by_address.is_empty());
        }
    }

    #[test]
    fn a_done_handshake_makes_room_for_another() {
        let admission = admission(9, 9, 1);
        let mut slot = admission.admit(A).unwrap();
        assert!(admission.admit(B).is_none());
        slot.handshake_done();
        slot.handshake_done();
        assert_eq!(admission.counts(), (1, 0));
        assert!(admission.admit(B).is_some());
    }

    #[test]
    fn the_address_behind_a_balancer_is_the_one_that_counts() {
        let admission = admission(9, 1, 9);
        let mut first = admission.admit(A).unwrap();
        assert!(first.moves_to(B));
        let mut second = admission.admit(A).unwrap();
        assert!(!second.moves_to(B));
    }
}
