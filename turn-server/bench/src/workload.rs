//! What is offered to the servers.

use std::time::Duration;

/// How clients reach the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transport {
    Udp,
    Tls,
}

/// Clients that send bursts of ChannelData to one peer, which returns every packet.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Workload {
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
    pub(crate) transport: Transport,
    pub(crate) clients: usize,
    /// Packets of a burst.
    pub(crate) burst: usize,
    /// Time between two bursts of a client.
    pub(crate) interval: Duration,
    /// Bytes of a packet without the channel's header; divisible by four.
    pub(crate) payload: usize,
    /// Most packets that our server lets an allocation have a second; 0 is no limit.
    pub(crate) packets_per_second: u32,
    /// Most that our cost may be of coturn's.
    pub(crate) goal: f64,
}

/// All workloads. A packet that the peer returns is relayed twice.
pub(crate) const WORKLOADS: [Workload; 3] = [
    Workload {
        name: "video",
        about: "100 clients, 4,000 packets/s of 1,000 bytes in bursts of 8, and back",
        transport: Transport::Udp,
        clients: 100,
        burst: 8,
        interval: Duration::from_millis(200),
        payload: 1000,
        packets_per_second: 0,
        goal: 0.8,
    },
    Workload {
        name: "audio",
        about: "1,000 clients, a packet of 120 bytes every 20 ms, and back",
        transport: Transport::Udp,
        clients: 1000,
        burst: 1,
        interval: Duration::from_millis(20),
        payload: 120,
        packets_per_second: 0,
        goal: 0.8,
    },
    Workload {
        name: "tls",
        about: "200 clients over TLS, 4,000 packets/s of 1,000 bytes in bursts of 8, and back",
        transport: Transport::Tls,
        clients: 200,
        burst: 8,
        interval: Duration::from_millis(400),
        payload: 1000,
        packets_per_second: 0,
        goal: 1.0,
    },
];

/// Those whose packets should not notice [`FLOOD`]: sound, under a limit that it exceeds.
pub(crate) const CROWD: Workload = Workload {
    name: "crowd",
    about: "100 clients, a packet of 120 bytes every 20 ms, and back",
    clients: 100,
    packets_per_second: 5000,
    ..WORKLOADS[1]
};

/// One client with 100,000 packets a second.
pub(crate) const FLOOD: Workload = Workload {
    name: "flood",
    about: "a client that sends twenty times what it may",
    clients: 1,
    burst: 64,
    interval: Duration::from_micros(640),
    ..CROWD
};

/// Finds a workload.
pub(crate) fn named(name: &str) -> Option<&'static Workload> {
    WORKLOADS.iter().chain([&CROWD]).find(|workload| workload.name == name)
}
