//! Where data may go: nowhere, but for the media ports of the cluster and what rules name.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use contract::turn_config::{MediaPeer, Network, PeerRule};
use rustc_hash::FxHashMap;

use crate::api::PeerPolicy;

/// Networks that only a rule within them opens: (address, prefix).
const SPECIAL_V4: [(Ipv4Addr, u8); 14] = [
    (Ipv4Addr::new(0, 0, 0, 0), 8),
    (Ipv4Addr::new(10, 0, 0, 0), 8),
    (Ipv4Addr::new(100, 64, 0, 0), 10),
    (Ipv4Addr::new(127, 0, 0, 0), 8),
    (Ipv4Addr::new(169, 254, 0, 0), 16),
    (Ipv4Addr::new(172, 16, 0, 0), 12),
    (Ipv4Addr::new(192, 0, 0, 0), 24),
    (Ipv4Addr::new(192, 0, 2, 0), 24),
    (Ipv4Addr::new(192, 168, 0, 0), 16),
    (Ipv4Addr::new(198, 18, 0, 0), 15),
    (Ipv4Addr::new(198, 51, 100, 0), 24),
    (Ipv4Addr::new(203, 0, 113, 0), 24),
    (Ipv4Addr::new(224, 0, 0, 0), 4),
    (Ipv4Addr::new(240, 0, 0, 0), 4),
];
const SPECIAL_V6: [(Ipv6Addr, u8); 8] = [
    (Ipv6Addr::UNSPECIFIED, 96),
    (Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0, 0), 96),
    (Ipv6Addr::new(0x100, 0, 0, 0, 0, 0, 0, 0), 64),
    (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 23),
    (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0), 32),
    (Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, 0), 7),
    (Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10),
    (Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0), 8),
];

/// The policy, ready for look-ups.
#[derive(Debug)]
pub(crate) struct Peers {
    /// Where each advertised media port is. Nodes of one machine advertise the same address.
    media: FxHashMap<SocketAddr, IpAddr>,
    /// The addresses behind each advertised one.
    behind: FxHashMap<IpAddr, Box<[IpAddr]>>,
    policy: PeerPolicy,
}

impl Peers {
    pub(crate) fn new(mut policy: PeerPolicy) -> Self {
        let mut media = FxHashMap::default();
        let mut behind: FxHashMap<IpAddr, Vec<IpAddr>> = FxHashMap::default();
        for MediaPeer { advertised, local, ports } in std::mem::take(&mut policy.media) {
            media.extend(ports.iter().map(|port| (SocketAddr::new(advertised, *port), local)));
            let locals = behind.entry(advertised).or_default();
            if !locals.contains(&local) {
                locals.push(local);
            }
        }
        let behind = behind.into_iter().map(|(ip, locals)| (ip, locals.into())).collect();
        Self { media, behind, policy }
    }

    /// Where data to `peer` is sent; `None` when it must not be.
    pub(crate) fn local(&self, peer: SocketAddr) -> Option<SocketAddr> {
        if peer.port() == 0 || self.is_own(peer) {
            return None;
        }
        if let Some(local) = self.media.get(&peer) {
            return Some(SocketAddr::new(*local, peer.port()));
        }
        let is_allowed = self
            .rules(peer.ip())?
            .any(|rule| rule.ports.is_none_or(|ports| ports.range().contains(&peer.port())));
        is_allowed.then_some(peer)
    }

    /// The addresses behind a peer that a permission is asked for. The port is of no account for
    /// permissions (RFC 8656 section 10.2), but naming one of ours is always wrong.
    pub(crate) fn permitted(&self, peer: SocketAddr) -> Option<Box<[IpAddr]>> {
        if self.is_own(peer) { None } else { self.locals(peer.ip()) }
    }

    /// The addresses behind `peer` when any of its ports may be sent to.
    pub(crate) fn locals(&self, peer: IpAddr) -> Option<Box<[IpAddr]>> {
        let by_rule = || self.rules(peer)?.next().map(|_| Box::from([peer]));
        self.behind.get(&peer).cloned().or_else(by_rule)
    }

    /// The rules that open an address; `None` when it is closed to all of them.
    fn rules(&self, ip: IpAddr) -> Option<impl Iterator<Item = &PeerRule>> {
        let canonical = canonical(ip)?;
        if self.policy.deny.iter().any(|denied| denied.contains(canonical) || denied.contains(ip)) {
            return None;
        }
        let special = special(canonical);
        Some(self.policy.allow.iter().filter(move |rule| {
            rule.network.contains(canonical)
                && special.is_none_or(|special| lies_within(&rule.network, &special))
        }))
    }

    /// Ports of this program and other allocations: data would go round in circles.
    fn is_own(&self, peer: SocketAddr) -> bool {
        let Some(ip) = canonical(peer.ip()) else { return true };
        let PeerPolicy { own_addresses, own_ports, relay_ports, .. } = &self.policy;
        (own_addresses.contains(&ip) || ip.is_loopback() || ip.is_unspecified())
            && (own_ports.contains(&peer.port())
                || relay_ports.as_ref().is_some_and(|ports| ports.contains(&peer.port())))
    }
}

/// The address that a packet would reach in the end: IPv4 that is hidden in IPv6 comes out.
/// `None` for forms that are never right on the wire.
fn canonical(ip: IpAddr) -> Option<IpAddr> {
    let IpAddr::V6(v6) = ip else { return Some(ip) };
    let s = v6.segments();
    let v4 = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        Some(IpAddr::V4(Ipv4Addr::new(a, b, c, d)))
    };
    match s {
        // IPv4-mapped, and the unspecified, loopback and IPv4-compatible addresses.
        [0, 0, 0, 0, 0, 0xffff, ..] => None,
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => Some(ip),
        [0, 0, 0, 0, 0, 0, ..] => None,
        // NAT64 (RFC 6052), its local prefix (RFC 8215), 6to4 (RFC 3056).
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0x64, 0xff9b, 1, .., high, low] => v4(high, low),
        [0x2002, high, low, ..] => v4(high, low),
        _ => Some(ip),
    }
}

/// The special network that an address lies in.
fn special(ip: IpAddr) -> Option<Network> {
    let v4 = SPECIAL_V4.iter().map(|(ip, prefix)| (IpAddr::V4(*ip), *prefix));
    let v6 = SPECIAL_V6.iter().map(|(ip, prefix)| (IpAddr::V6(*ip), *prefix));
    v4.chain(v6)
        .map(|(address, prefix)| Network { address, prefix })
        .find(|network| network.contains(ip))
}

fn lies_within(inner: &Network, outer: &Network) -> bool {
    inner.prefix >= outer.prefix && outer.contains(inner.address)
}
