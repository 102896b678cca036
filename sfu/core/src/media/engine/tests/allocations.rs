//! Memory on the path of a packet.

use super::*;

/// Packets before the measurement: more than the ring of a stream holds.
const WARM_UP: usize = 700;
const MEASURED: usize = 500;
const SUBSCRIBERS: usize = 20;

/// A sealed packet of the publisher as it comes from the network.
fn sealed(world: &mut World, publisher: usize, source: &mut Source, payload: &[u8]) -> Vec<u8> {
    let fields = source.next();
    let transport_sequence = fields.sequence.to_be_bytes();
    let extensions = [(MID_ID, &b"v"[..]), (TRANSPORT_ID, &transport_sequence)];
    world.seal(publisher, fields, &extensions, payload)
}

#[test]
fn a_forwarded_packet_allocates_nothing() {
    let mut world = World::new();
    let publisher = world.connect();
    world.set_receivers(publisher, vec![receiver(&[])]);
    for _ in 0..SUBSCRIBERS {
        let subscriber = world.connect();
        let extensions = ExtensionIds { transport_cc: Some(3), ..ExtensionIds::default() };
        let sender = Sender { extensions, ..sender(Some(VideoQuality::High)) };
        world.set_senders(subscriber, vec![sender]);
    }
    let mut source = Source::new(1000, None);
    let mut payload = KEY.to_vec();
    payload.resize(1100, 7);
    let packets: Vec<Vec<u8>> = (0..WARM_UP + MEASURED)
        .map(|_| sealed(&mut world, publisher, &mut source, &payload))
        .collect();
    let path = world.peers[publisher].path;
    let (now, mut sent) = (world.now, 0);
    let engine = &mut world.engine;
    let mut forward = |packets: &[Vec<u8>], buffer: &mut [u8]| {
        for packet in packets {
            let datagram = &mut buffer[..packet.len()];
            datagram.copy_from_slice(packet);
            engine.handle_datagram(path, datagram, now);
            engine.flush(|_, bytes, size| sent += bytes.len().div_ceil(size));
            while engine.poll_event().is_some() {}
        }
    };
    let mut buffer = vec![0; 2000];
    forward(&packets[..WARM_UP], &mut buffer);
    // Feedback empties what waits to be told of; it is made a few times a second.
    let measured = &packets[WARM_UP..];
    let allocations = allocation_counter::measure(|| forward(measured, &mut buffer));
    assert_eq!(sent, SUBSCRIBERS * (WARM_UP + MEASURED));
    assert_eq!(allocations.count_total, 0, "{allocations:?}");
}
