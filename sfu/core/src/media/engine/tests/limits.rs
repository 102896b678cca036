//! A subscriber's bandwidth that is limited from outside.

use super::*;

#[test]
fn a_subscriber_that_wants_no_pause_keeps_the_lowest_layer() {
    let mut world = World::new();
    let (publisher, subscriber) = (world.connect(), world.connect());
    world.set_receivers(publisher, vec![receiver(&["q", "h"])]);
    let never = Sender { may_pause: false, ..sender(Some(VideoQuality::High)) };
    world.set_senders(subscriber, vec![never]);
    let transport = world.peers[subscriber].id;
    world.command(MediaCommand::LimitBandwidth { transport, limit: Some(1000) });
    for (ssrc, rid) in [(1000, "q"), (2000, "h")] {
        Source::new(ssrc, Some(rid)).send(&mut world, publisher, &[0x10, 0x00, ssrc as u8]);
    }
    assert_eq!(last_bytes(&world.peers[subscriber].media), [1000_u32 as u8]);
}

#[test]
fn a_limited_bandwidth_lowers_then_pauses_a_track_until_the_limit_is_lifted() {
    let mut world = World::new();
    let (publisher, subscriber) = (world.connect(), world.connect());
    world.set_receivers(publisher, vec![receiver(&["q", "h"])]);
    world.set_senders(subscriber, vec![sender(Some(VideoQuality::High))]);
    let mut layers = [Source::new(1000, Some("q")), Source::new(2000, Some("h"))];
    let transport = world.peers[subscriber].id;
    let mut limited = |limit: Option<u64>| {
        world.command(MediaCommand::LimitBandwidth { transport, limit });
        world.events.clear();
        world.peers[subscriber].media.clear();
        for (number, layer) in layers.iter_mut().enumerate() {
            let payload = [0x10, 0x00, number as u8];
            layer.send(&mut world, publisher, &payload);
        }
        last_bytes(&world.peers[subscriber].media).last().copied()
    };
    // Layers count as 150 and 500 kbit/s until they are measured.
    assert_eq!(limited(None), Some(1));
    assert_eq!(limited(Some(300_000)), Some(0));
    assert_eq!(limited(Some(100_000)), None);
    assert_eq!(limited(None), Some(1));
}
