//! A track of one node in a room of another.

use super::*;
use crate::media::{Mirror, TransportId, trunk};

const MIRROR: TrackKey = TrackKey(77);
/// A participant without a transport, for whom the track is shown.
const OWNER: TransportId = TransportId(900);

/// Carries bytes between two nodes; says how many messages.
fn carry(worlds: &mut [World; 2]) -> usize {
    let mut carried = 0;
    loop {
        let before = carried;
        for (from, to) in [(0, 1), (1, 0)] {
            while let Some(message) = worlds[from].engine.poll_trunk() {
                carried += 1;
                let mut bytes = Vec::new();
                trunk::encode(&message, worlds[from].now, &mut bytes);
                let world = &mut worlds[to];
                let message = trunk::decode(&bytes, world.now).unwrap();
                world.engine.handle_trunk(message, world.now);
                world.settle();
            }
        }
        if carried == before {
            return carried;
        }
    }
}

/// A publisher at one node and a subscriber at the other.
fn nodes() -> ([World; 2], usize, usize) {
    let mut worlds = [World::new(), World::new()];
    let publisher = worlds[0].connect();
    let subscriber = worlds[1].connect();
    worlds[0].engine.set_trunk(TRACK, true);
    worlds[0].set_receivers(publisher, vec![receiver(&[])]);
    worlds[1].engine.set_trunk(TRACK, true);
    let mirror = Mirror { source: TRACK, receiver: Receiver { track: MIRROR, ..receiver(&[]) } };
    worlds[1].command(MediaCommand::SetMirrors {
        transport: OWNER,
        worker: 0,
        mirrors: vec![mirror],
    });
    let sender = Sender { track: MIRROR, ..sender(Some(VideoQuality::High)) };
    worlds[1].set_senders(subscriber, vec![sender]);
    (worlds, publisher, subscriber)
}

#[test]
fn a_subscriber_at_another_node_gets_key_frames_and_repairs() {
    let (mut worlds, publisher, subscriber) = nodes();
    let mut source = Source::new(1000, None);
    source.send(&mut worlds[0], publisher, &DELTA);
    carry(&mut worlds);
    assert!(worlds[1].peers[subscriber].media.is_empty());
    worlds[1].advance(Duration::from_millis(20));
    assert_eq!(carry(&mut worlds), 1, "it asks for a key frame there");
    worlds[0].advance(Duration::from_millis(20));
    assert_eq!(requests(&mut worlds[0], publisher), [(1000, None)]);
    siblings::sees_and_repairs(&mut worlds, publisher, subscriber, &mut source, |worlds| {
        carry(worlds);
    });
}

#[test]
fn nothing_leaves_the_node_once_nobody_there_wants_it() {
    let (mut worlds, publisher, subscriber) = nodes();
    let mut source = Source::new(1000, None);
    source.send(&mut worlds[0], publisher, &KEY);
    assert_eq!(carry(&mut worlds), 1);
    worlds[0].engine.set_trunk(TRACK, false);
    source.send(&mut worlds[0], publisher, &DELTA);
    assert_eq!(carry(&mut worlds), 0);
    assert_eq!(worlds[1].peers[subscriber].media.len(), 1);
}
