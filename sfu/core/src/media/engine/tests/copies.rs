//! A track and its copy in another codec, one after the other on one source.

use super::*;

const COPY: TrackKey = TrackKey(8);

#[test]
fn a_copy_goes_on_with_the_numbers_and_times_of_the_track() {
    let mut world = World::new();
    let (publisher, subscriber) = (world.connect(), world.connect());
    let other = Receiver { mid: Mid("w".to_owned()), track: COPY, ..receiver(&[]) };
    world.set_receivers(publisher, vec![receiver(&[]), other]);
    world.set_senders(subscriber, vec![sender(Some(VideoQuality::High))]);
    let frame = |world: &mut World, mid: &[u8], ssrc, sequence: u16, timestamp, payload: &[u8]| {
        let fields = HeaderFields { marker: true, payload_type: THEIRS, sequence, timestamp, ssrc };
        world.send(publisher, fields, &[(MID_ID, mid)], payload);
        world.advance(Duration::from_millis(33));
    };
    // The copy's clock is far behind the track's.
    frame(&mut world, b"v", 1000, 10, 3_000_000, &KEY);
    frame(&mut world, b"v", 1000, 11, 3_003_000, &DELTA);
    let lost = world.peers[subscriber].media[1].sequence;
    let copy = Sender { track: COPY, ..sender(Some(VideoQuality::High)) };
    world.set_senders(subscriber, vec![copy]);
    frame(&mut world, b"w", 2000, 500, 1_000, &KEY);
    frame(&mut world, b"w", 2000, 501, 4_000, &DELTA);
    let media = world.peers[subscriber].media.clone();
    assert_eq!(last_bytes(&media), [0xAA, 0xBB, 0xAA, 0xBB]);
    assert_continuous(&media);
    for pair in media.windows(2) {
        let ahead = pair[1].timestamp.wrapping_sub(pair[0].timestamp);
        assert!((1..90_000).contains(&ahead), "{media:?}");
    }
    // What was sent before is not asked of the copy.
    let mut nack = Vec::new();
    write_nack(&mut nack, 1, SSRC, &[lost]);
    world.send_control(subscriber, nack);
    let answer = world.peers[subscriber].media.last().unwrap();
    assert_eq!((answer.ssrc, &answer.payload[..]), (RTX_SSRC, &lost.to_be_bytes()[..]));
}
