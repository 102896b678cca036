//! A room over the engines of two workers.

use super::*;

/// Carries messages between the publisher's world (worker 0) and the subscriber's (worker 1).
fn carry(worlds: &mut [World; 2]) {
    loop {
        let mut messages = Vec::new();
        for world in worlds.iter_mut() {
            while let Some(message) = world.engine.poll_sibling() {
                messages.push(message);
            }
        }
        if messages.is_empty() {
            return;
        }
        for (worker, message) in messages {
            let world = &mut worlds[worker];
            world.engine.handle_sibling(message, world.now);
            world.settle();
        }
    }
}

/// A publisher at worker 0 and a subscriber at worker 1.
fn spread(rids: &[&str]) -> ([World; 2], usize, usize) {
    let mut worlds = [World::new(), World::new()];
    let publisher = worlds[0].connect();
    let subscriber = worlds[1].connect();
    worlds[0].set_receivers(publisher, vec![receiver(rids)]);
    worlds[1].engine.import(ROOM, 0, receiver(rids));
    worlds[0].engine.set_exports(TRACK, vec![1]);
    worlds[1].set_senders(subscriber, vec![sender(Some(VideoQuality::High))]);
    (worlds, publisher, subscriber)
}

fn advance(worlds: &mut [World; 2], by: Duration) {
    for world in worlds.iter_mut() {
        world.advance(by);
    }
    carry(worlds);
    for world in worlds.iter_mut() {
        world.advance(Duration::from_millis(20));
    }
}

/// A publisher in the first world sends, a subscriber in the second loses a packet, which its own
/// world sends again.
pub(super) fn sees_and_repairs(
    worlds: &mut [World; 2],
    publisher: usize,
    subscriber: usize,
    source: &mut Source,
    carry: impl Fn(&mut [World; 2]),
) {
    for payload in [KEY, DELTA, DELTA] {
        source.send(&mut worlds[0], publisher, &payload);
        carry(worlds);
    }
    let media = worlds[1].peers[subscriber].media.clone();
    assert_eq!(last_bytes(&media), [0xAA, 0xBB, 0xBB]);
    assert_continuous(&media);
    let mut nack = Vec::new();
    write_nack(&mut nack, 1, SSRC, &[media[1].sequence]);
    worlds[1].send_control(subscriber, nack);
    assert_eq!(worlds[1].engine.counters().retransmitted, 1);
}

#[test]
fn a_subscriber_of_another_worker_gets_the_track_and_its_repairs() {
    let (mut worlds, publisher, subscriber) = spread(&[]);
    let mut source = Source::new(1000, None);
    source.send(&mut worlds[0], publisher, &DELTA);
    carry(&mut worlds);
    assert!(worlds[1].peers[subscriber].media.is_empty());
    // It asks for a key frame through the publisher's worker.
    advance(&mut worlds, Duration::from_millis(20));
    assert_eq!(requests(&mut worlds[0], publisher), [(1000, None)]);
    sees_and_repairs(&mut worlds, publisher, subscriber, &mut source, carry);
    assert_eq!(worlds[1].peers[subscriber].media[3].ssrc, RTX_SSRC);
}

#[test]
fn an_ended_import_sends_nothing_more_and_a_new_source_begins_anew() {
    let (mut worlds, publisher, subscriber) = spread(&[]);
    Source::new(1000, None).send(&mut worlds[0], publisher, &KEY);
    carry(&mut worlds);
    let mut source = Source::new(2000, None);
    source.send(&mut worlds[0], publisher, &KEY);
    carry(&mut worlds);
    assert_continuous(&worlds[1].peers[subscriber].media);
    assert_eq!(worlds[1].peers[subscriber].media.len(), 2);
    worlds[1].engine.end_import(TRACK);
    source.send(&mut worlds[0], publisher, &DELTA);
    carry(&mut worlds);
    assert_eq!(worlds[1].peers[subscriber].media.len(), 2);
    worlds[0].engine.set_exports(TRACK, Vec::new());
    source.send(&mut worlds[0], publisher, &DELTA);
    assert!(worlds[0].engine.poll_sibling().is_none());
}

#[test]
fn a_new_source_without_a_key_frame_is_asked_for_one_through_the_publishers_worker() {
    let (mut worlds, publisher, subscriber) = spread(&[]);
    Source::new(1000, None).send(&mut worlds[0], publisher, &KEY);
    carry(&mut worlds);
    advance(&mut worlds, Duration::from_millis(20));
    requests(&mut worlds[0], publisher);
    // The stream never stopped, so the layer stays active.
    Source::new(2000, None).send(&mut worlds[0], publisher, &DELTA);
    carry(&mut worlds);
    advance(&mut worlds, Duration::from_millis(510));
    assert_eq!(requests(&mut worlds[0], publisher), [(2000, None)]);
    assert_eq!(worlds[1].peers[subscriber].media.len(), 1);
}
