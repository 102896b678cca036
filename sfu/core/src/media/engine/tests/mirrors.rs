//! A track in two rooms.

use super::*;
use crate::media::{Mirror, TransportId};

const MIRROR: TrackKey = TrackKey(77);
/// A participant without a transport, for whom the track is shown.
const OWNER: TransportId = TransportId(900);

fn set_mirrors(world: &mut World, sources: &[TrackKey]) {
    let mirror = |source: &TrackKey| {
        let receiver = Receiver { track: MIRROR, ..receiver(&[]) };
        Mirror { source: *source, receiver }
    };
    let mirrors = sources.iter().map(mirror).collect();
    let command = MediaCommand::SetMirrors { transport: OWNER, worker: 0, mirrors };
    world.command(command);
}

fn sender_of(track: TrackKey) -> Sender {
    Sender { track, ..sender(Some(VideoQuality::High)) }
}

#[test]
fn a_mirror_has_subscribers_of_its_own_who_get_key_frames_and_repairs() {
    let mut world = World::new();
    let (publisher, subscriber) = (world.connect(), world.connect());
    // In whichever order the rooms say so.
    set_mirrors(&mut world, &[TRACK]);
    world.set_senders(subscriber, vec![sender_of(MIRROR)]);
    world.set_receivers(publisher, vec![receiver(&[])]);
    let mut source = Source::new(1000, None);
    source.send(&mut world, publisher, &DELTA);
    assert!(world.peers[subscriber].media.is_empty());
    world.advance(Duration::from_millis(20));
    assert_eq!(requests(&mut world, publisher), [(1000, None)], "asked through the track itself");
    for payload in [KEY, DELTA, DELTA] {
        source.send(&mut world, publisher, &payload);
    }
    let media = world.peers[subscriber].media.clone();
    assert_eq!(last_bytes(&media), [0xAA, 0xBB, 0xBB]);
    assert_continuous(&media);
    let mut nack = Vec::new();
    write_nack(&mut nack, 1, SSRC, &[media[1].sequence]);
    world.send_control(subscriber, nack);
    assert_eq!(world.engine.counters().retransmitted, 1);
}

#[test]
fn a_mirror_goes_to_other_workers_as_any_track() {
    let mut world = World::new();
    let publisher = world.connect();
    world.set_receivers(publisher, vec![receiver(&[])]);
    set_mirrors(&mut world, &[TRACK]);
    world.engine.set_exports(MIRROR, vec![1]);
    Source::new(1000, None).send(&mut world, publisher, &KEY);
    let (worker, message) = world.engine.poll_sibling().unwrap();
    assert_eq!((worker, message.track), (1, MIRROR));
    assert!(world.engine.poll_sibling().is_none());
}

#[test]
fn an_ended_mirror_gets_nothing_more() {
    let mut world = World::new();
    let (publisher, subscriber) = (world.connect(), world.connect());
    world.set_receivers(publisher, vec![receiver(&[])]);
    set_mirrors(&mut world, &[TRACK]);
    world.set_senders(subscriber, vec![sender_of(MIRROR)]);
    let mut source = Source::new(1000, None);
    source.send(&mut world, publisher, &KEY);
    assert_eq!(world.peers[subscriber].media.len(), 1);
    set_mirrors(&mut world, &[]);
    source.send(&mut world, publisher, &DELTA);
    assert_eq!(world.peers[subscriber].media.len(), 1);
    // The other room's end is not the track's.
    set_mirrors(&mut world, &[TRACK]);
    source.send(&mut world, publisher, &KEY);
    assert_eq!(world.peers[subscriber].media.len(), 2);
}
