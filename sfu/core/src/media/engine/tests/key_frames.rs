//! A subscriber comes to a key frame, whatever is lost on the way of the request and of the frame.

use super::*;
use crate::media::rtcp::write_pli;

/// Time between requests for the same key frame.
const TURN: Duration = Duration::from_millis(500);

/// A subscriber asks for a key frame.
fn ask(world: &mut World, subscriber: usize) {
    let mut pli = Vec::new();
    write_pli(&mut pli, 1, SSRC);
    world.send_control(subscriber, pli);
}

#[test]
fn many_requests_become_one() {
    let (mut world, publisher, subscriber) = call(&[]);
    let mut source = Source::new(1000, None);
    source.send(&mut world, publisher, &KEY);
    for _ in 0..5 {
        ask(&mut world, subscriber);
        world.advance(Duration::from_millis(20));
    }
    assert_eq!(requests(&mut world, publisher), [(1000, None)]);
}

#[test]
fn a_request_that_gets_lost_is_repeated_until_the_key_frame_comes_and_not_for_ever() {
    let (mut world, publisher, subscriber) = call(&[]);
    let mut source = Source::new(1000, None);
    source.send(&mut world, publisher, &KEY);
    // The subscriber asks once: the network loses what it asks afterwards.
    ask(&mut world, subscriber);
    for _ in 0..4 {
        world.advance(TURN);
        source.send(&mut world, publisher, &DELTA);
        assert_eq!(requests(&mut world, publisher), [(1000, None)]);
    }
    source.send(&mut world, publisher, &KEY);
    world.advance(2 * TURN);
    assert_eq!(requests(&mut world, publisher), []);
    ask(&mut world, subscriber);
    for _ in 0..20 {
        source.send(&mut world, publisher, &DELTA);
        world.advance(TURN);
    }
    assert_eq!(requests(&mut world, publisher).len(), 10, "a publisher may have none");
}

#[test]
fn who_waits_for_the_begin_of_a_stream_has_it_asked_for_without_saying_so() {
    let (mut world, publisher, subscriber) = call(&[]);
    let mut source = Source::new(1000, None);
    for _ in 0..30 {
        source.send(&mut world, publisher, &DELTA);
        world.advance(TURN);
        assert_eq!(requests(&mut world, publisher), [(1000, None)]);
    }
    source.send(&mut world, publisher, &KEY);
    assert_eq!(last_bytes(&world.peers[subscriber].media), [0xAA]);
    world.advance(4 * TURN);
    assert_eq!(requests(&mut world, publisher), []);
}

#[test]
fn a_subscriber_whose_handshake_ends_late_begins_with_a_key_frame() {
    let mut world = World::new();
    let (publisher, subscriber) = (world.connect(), world.add());
    world.set_receivers(publisher, vec![receiver(&[])]);
    world.set_senders(subscriber, vec![sender(Some(VideoQuality::High))]);
    let mut source = Source::new(1000, None);
    source.send(&mut world, publisher, &KEY);
    world.advance(TURN);
    requests(&mut world, publisher);
    world.finish(subscriber);
    source.send(&mut world, publisher, &DELTA);
    world.advance(TURN);
    assert!(world.peers[subscriber].media.is_empty());
    assert_eq!(requests(&mut world, publisher), [(1000, None)]);
    source.send(&mut world, publisher, &KEY);
    assert_eq!(last_bytes(&world.peers[subscriber].media), [0xAA]);
}

#[test]
fn a_track_published_anew_on_another_transport_begins_with_its_own_key_frame_and_clock() {
    let (mut world, publisher, subscriber) = call(&[]);
    let mut before = Source::new(60_000, None);
    before.send(&mut world, publisher, &KEY);
    before.send(&mut world, publisher, &DELTA);
    // The publisher comes back before its old transport is gone, as another track on another
    // source, and its first key frame is lost.
    let again = world.connect();
    let new = TrackKey(8);
    world.set_receivers(again, vec![Receiver { track: new, ..receiver(&[]) }]);
    let ssrc = SsrcPair { ssrc: 6000, rtx: Some(6001) };
    let of_new = Sender { track: new, ssrc, ..sender(Some(VideoQuality::High)) };
    world.set_senders(subscriber, vec![of_new]);
    let mut source = Source::new(2000, None);
    source.next();
    source.send(&mut world, again, &DELTA);
    world.hang_up(publisher);
    for _ in 0..3 {
        world.advance(TURN);
        source.send(&mut world, again, &DELTA);
        assert_eq!(requests(&mut world, again).last(), Some(&(2000, None)));
    }
    source.send(&mut world, again, &KEY);
    source.send(&mut world, again, &DELTA);
    let media = &world.peers[subscriber].media[2..];
    assert_eq!(last_bytes(media), [0xAA, 0xBB]);
    assert!(media.iter().all(|got| got.ssrc == 6000 && got.sequence < 1 << 15));
    assert_eq!(media[1].timestamp, source.timestamp);
    assert_continuous(media);
    // The client had no place for it when it came: it asks under the new source.
    let mut pli = Vec::new();
    write_pli(&mut pli, 1, 6000);
    world.send_control(subscriber, pli);
    world.advance(TURN);
    assert_eq!(requests(&mut world, again), [(2000, None)]);
}

#[test]
fn a_key_frame_whose_first_packet_comes_late_brings_what_came_before_it() {
    let (mut world, publisher, subscriber) = call(&["q"]);
    let mut source = Source::new(1000, Some("q"));
    source.send(&mut world, publisher, &DELTA);
    let lost = source.next();
    for part in [1, 2] {
        // Parts of the same picture, which do not begin it.
        let fields =
            HeaderFields { marker: part == 2, sequence: lost.sequence + u16::from(part), ..lost };
        world.send(publisher, fields, &[(MID_ID, b"v"), (RID_ID, b"q")], &[0x00, 0xCC, part]);
    }
    assert!(world.peers[subscriber].media.is_empty());
    let mut repair = lost.sequence.to_be_bytes().to_vec();
    repair.extend_from_slice(&KEY);
    let fields = HeaderFields { ssrc: 1001, payload_type: THEIRS_RTX, sequence: 1, ..lost };
    world.send(publisher, fields, &[(MID_ID, b"v"), (REPAIRED_RID_ID, b"q")], &repair);
    let media = &world.peers[subscriber].media;
    assert_eq!(last_bytes(media), [0xAA, 1, 2]);
    assert!(media.iter().all(|got| got.timestamp == lost.timestamp));
    let numbers: Vec<u16> = media.iter().map(|got| got.sequence - media[0].sequence).collect();
    assert_eq!(numbers, [0, 1, 2]);
}

#[test]
fn every_number_that_a_subscriber_misses_has_an_answer() {
    let (mut world, publisher, subscriber) = call(&["q", "f"]);
    let mut low = Source::new(1000, Some("q"));
    low.send(&mut world, publisher, &KEY);
    low.send(&mut world, publisher, &DELTA);
    let before = world.peers[subscriber].media[1].sequence;
    let mut high = Source::new(3000, Some("f"));
    high.send(&mut world, publisher, &KEY);
    let after = world.peers[subscriber].media[2].sequence;
    assert_eq!(after, before.wrapping_add(1));
    let mut nack = Vec::new();
    write_nack(&mut nack, 1, SSRC, &[before, after, after.wrapping_add(1)]);
    world.send_control(subscriber, nack);
    // The picture of the layer before is of no use any more, its number is.
    let answers = &world.peers[subscriber].media[3..];
    assert_eq!(answers.len(), 2);
    assert!(answers.iter().all(|got| (got.ssrc, got.payload_type) == (RTX_SSRC, OURS_RTX)));
    assert_eq!(answers[0].payload, before.to_be_bytes());
    assert_eq!(answers[0].timestamp, world.peers[subscriber].media[1].timestamp);
    assert_eq!(answers[1].payload[..2], after.to_be_bytes());
    assert_eq!(answers[1].payload[2..], KEY);
}

#[test]
fn a_number_that_the_publisher_may_still_repair_is_not_answered_with_nothing() {
    let (mut world, publisher, subscriber) = call(&[]);
    let mut source = Source::new(1000, None);
    source.send(&mut world, publisher, &KEY);
    source.next();
    source.send(&mut world, publisher, &DELTA);
    let hole = world.peers[subscriber].media[1].sequence.wrapping_sub(1);
    let answers = |world: &mut World| {
        let mut nack = Vec::new();
        write_nack(&mut nack, 1, SSRC, &[hole]);
        world.peers[subscriber].media.clear();
        world.send_control(subscriber, nack);
        world.peers[subscriber].media.iter().map(|got| got.payload.clone()).collect::<Vec<_>>()
    };
    assert!(answers(&mut world).is_empty());
    // It was asked for six times.
    world.advance(Duration::from_millis(400));
    assert_eq!(answers(&mut world), [hole.to_be_bytes()]);
}
