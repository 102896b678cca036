//! The tables: what a subscriber must see on each kind of network.
//!
//! A track takes 165, 530 and 1760 kbit/s of the way in its three layers, audio 57.

use sfu_core::media::VideoQuality;

use crate::cross::CrossConfig;
use crate::link::{LinkConfig, Loss};
use crate::scalable::Form;
use crate::scenario::Bound::*;
use crate::scenario::{Event, Scenario, ms, play, s};
use crate::subscriber::FeedbackMode;

const HIGH: Option<VideoQuality> = Some(VideoQuality::High);

fn path() -> LinkConfig {
    LinkConfig::clean(20)
}

#[test]
fn a_clean_network_shows_the_best_layer_at_once_and_every_picture() {
    play(vec![
        Scenario::new("clean", s(20))
            .expect(LayerIn(0, 0, (s(0), ms(500))))
            .expect(LayerIn(0, 2, (s(0), s(3))))
            .expect(LayerChanges(0, 2, (s(0), s(20))))
            .expect(Freezes(0, s(3)))
            .expect(PicturesPerSecond(0, 29.5, (s(4), s(20))))
            .expect(Audio(0.999, (s(0), s(19))))
            .expect(Latency(0, ms(120), (s(4), s(20))))
            .expect(KeyFrameRequests(2)),
        Scenario::new("clean, far away", s(20))
            .down(LinkConfig::clean(150))
            .expect(LayerIn(0, 2, (s(0), s(4))))
            .expect(Freezes(0, s(4)))
            .expect(Latency(0, ms(250), (s(5), s(20)))),
        Scenario { has_rtx: false, ..Scenario::new("without retransmission stream", s(20)) }
            .down(path().loss(Loss::Random(0.02)))
            .expect(NoFreezeOver(s(1), s(0)))
            .expect(PicturesPerSecond(0, 28.0, (s(4), s(20)))),
    ]);
}

#[test]
fn lost_packets_are_repaired_before_they_are_seen() {
    let burst = Loss::Burst { enter: 0.01, leave: 0.2, loss: 0.85 };
    let row = |name, loss, pictures| {
        Scenario::new(name, s(40))
            .down(path().loss(loss))
            .expect(NoFreezeOver(s(1), s(0)))
            .expect(PicturesPerSecond(0, pictures, (s(3), s(40))))
            .expect(LayerChanges(0, 4, (s(10), s(40))))
    };
    let top = (s(5), s(40));
    let publisher = LinkConfig::clean(15).loss(Loss::Random(0.05));
    play(vec![
        row("1 % loss", Loss::Random(0.01), 29.0).expect(Share(0, 2, 0.95, top)),
        row("5 % loss", Loss::Random(0.05), 27.0).expect(Share(0, 2, 0.95, top)),
        row("10 % loss", Loss::Random(0.10), 26.0),
        row("loss in bursts", burst, 26.0),
        Scenario { publisher, ..row("5 % loss at the publisher", Loss::None, 26.5) },
        row("2 % loss, far away", Loss::Random(0.02), 26.0)
            .down(LinkConfig::clean(150).loss(Loss::Random(0.02))),
    ]);
}

#[test]
fn a_receiver_that_puts_packets_in_order_and_asks_once_goes_on() {
    let row = |name, loss| {
        let strict = Scenario { in_order: true, ..Scenario::new(name, s(60)) };
        let lossy = path().loss(loss);
        let row = Scenario { feedback: FeedbackMode::Reports, up: lossy, ..strict }.down(lossy);
        // Each switch of layers leaves numbers behind that carry nothing any more.
        let switches = (5..55).map(|second| {
            let quality = if second % 2 == 0 { VideoQuality::High } else { VideoQuality::Low };
            (s(second), Event::Want(vec![(Some(quality), 0)]))
        });
        switches
            .fold(row, |row, (time, event)| row.at(time, event))
            .expect(NoFreezeOver(ms(1500), s(2)))
            .expect(PicturesPerSecond(0, 27.0, (s(2), s(60))))
    };
    play(vec![
        row("in order, 2 % loss each way", Loss::Random(0.02)),
        row("in order, 5 % loss each way", Loss::Random(0.05)),
    ]);
}

#[test]
fn jitter_and_reordering_are_neither_congestion_nor_loss() {
    let row = |name, down| {
        Scenario::new(name, s(40))
            .down(down)
            .expect(NoFreezeOver(ms(500), s(3)))
            .expect(Freezes(2, s(3)))
            .expect(LayerIn(0, 2, (s(0), s(10))))
            .expect(LayerChanges(0, 2, (s(10), s(40))))
            .expect(Share(0, 2, 0.9, (s(10), s(40))))
            .expect(PicturesPerSecond(0, 28.5, (s(3), s(40))))
            .expect(KeyFrameRequests(3))
    };
    play(vec![
        row("30 ms jitter", path().jitter(30)),
        row("100 ms jitter", path().jitter(100)),
        row("1 % overtaken", path().reordered(0.01)),
        row("10 % overtaken", path().reordered(0.10)),
    ]);
}

#[test]
fn a_narrow_bottleneck_is_watchable_soon_and_a_wide_one_is_used_soon() {
    play(vec![
        Scenario::new("300 kbit/s, then 5 Mbit/s", s(70))
            .down(path().limited(300, 300))
            .at(s(25), Event::Down(path().limited(5000, 300)))
            .expect(LayerIn(0, 0, (s(0), s(3))))
            .expect(PicturesPerSecond(0, 28.0, (s(4), s(25))))
            .expect(NoFreezeOver(s(1), s(3)))
            .expect(Audio(0.99, (s(0), s(25))))
            .expect(Silence(ms(400), (s(0), s(25))))
            .expect(LayerChanges(0, 2, (s(3), s(25))))
            .expect(Queue(ms(200), 0.05, (s(3), s(25))))
            .expect(LayerIn(0, 2, (s(25), s(35))))
            .expect(LayerChanges(0, 2, (s(35), s(70))))
            .expect(Share(0, 2, 0.95, (s(36), s(70)))),
        Scenario::new("300 kbit/s with a long queue", s(30))
            .down(path().limited(300, 2000))
            .expect(LayerIn(0, 0, (s(0), s(3))))
            .expect(Audio(0.99, (s(0), s(28))))
            .expect(Queue(ms(250), 0.05, (s(4), s(30)))),
    ]);
}

#[test]
fn a_layer_that_fits_is_kept() {
    let row = |name, kbps| {
        Scenario::new(name, s(75))
            .down(path().limited(kbps, 200))
            .expect(NoFreezeOver(s(1), s(3)))
            .expect(LayerChanges(0, 2, (s(12), s(42))))
            .expect(LayerChanges(0, 2, (s(42), s(72))))
            .expect(Audio(0.99, (s(0), s(72))))
            .expect(Queue(ms(150), 0.05, (s(12), s(72))))
    };
    play(vec![
        row("700 kbit/s", 700),
        row("800 kbit/s", 800).expect(Share(0, 1, 0.9, (s(12), s(72)))),
        row("1 Mbit/s", 1000).expect(Share(0, 1, 0.9, (s(12), s(72)))),
        row("1.5 Mbit/s", 1500).expect(Share(0, 1, 0.9, (s(12), s(72)))),
        row("2.5 Mbit/s", 2500).expect(Share(0, 2, 0.9, (s(12), s(72)))),
        row("500 kbit/s", 500).expect(Share(0, 0, 0.9, (s(12), s(72)))),
    ]);
}

#[test]
fn the_estimate_is_near_what_the_network_carries() {
    let row = |name, kbps: u64| {
        // The estimate does not count headers of IP and UDP.
        let net = kbps * 94 / 100;
        Scenario::new(name, s(61)).down(path().limited(kbps, 200)).expect(Estimate(
            net * 3 / 4,
            net * 5 / 4,
            (s(35), s(61)),
        ))
    };
    play(vec![
        row("estimate of 300 kbit/s", 300),
        row("estimate of 700 kbit/s", 700),
        row("estimate of 1 Mbit/s", 1000),
        row("estimate of 1.5 Mbit/s", 1500),
    ]);
}

#[test]
fn a_network_that_gets_narrow_has_no_long_queue_and_no_long_freeze() {
    // The bottleneck's memory stays: 133 ms at 3 Mbit/s are 800 ms at 500 kbit/s.
    let narrow = LinkConfig { queue: 50_000, ..path().limited(500, 200) };
    let tight = LinkConfig { queue: 50_000, ..path().limited(800, 200) };
    let row = |name, to| {
        Scenario::new(name, s(45))
            .down(LinkConfig { queue: 50_000, ..path().limited(3000, 200) })
            .at(s(15), Event::Down(to))
            .expect(Share(0, 2, 0.95, (s(5), s(15))))
            .expect(Queue(ms(200), 0.03, (s(17), s(45))))
            .expect(NoFreezeOver(s(1), s(3)))
            .expect(Audio(0.97, (s(15), s(44))))
            .expect(Silence(ms(1000), (s(15), s(44))))
            .expect(LayerChanges(0, 2, (s(18), s(45))))
    };
    play(vec![
        row("3 Mbit/s to 500 kbit/s", narrow),
        row("3 Mbit/s to 800 kbit/s", tight).expect(Share(0, 1, 0.8, (s(22), s(45)))),
    ]);
}

#[test]
fn other_traffic_gets_its_share_and_leaves_ours() {
    let tcp = CrossConfig::Aimd { back: ms(20) };
    let pulse = CrossConfig::Pulse { kbps: 1000, on: s(5), off: s(5) };
    let steady = CrossConfig::Pulse { kbps: 1000, on: s(1), off: s(0) };
    play(vec![
        Scenario::new("3 Mbit/s with TCP", s(70))
            .down(path().limited(3000, 150))
            .at(s(10), Event::Cross(Some(tcp)))
            .expect(Rate(400, 2000, (s(20), s(70))))
            .expect(CrossRate(500, 2600, (s(20), s(70))))
            .expect(NoFreezeOver(s(1), s(3))),
        Scenario::new("1.2 Mbit/s with TCP", s(70))
            .down(path().limited(1200, 200))
            .at(s(10), Event::Cross(Some(tcp)))
            .expect(Rate(200, 1000, (s(20), s(70))))
            .expect(CrossRate(200, 1000, (s(20), s(70))))
            .expect(NoFreezeOver(s(2), s(3))),
        Scenario::new("2 Mbit/s with pulses of 1 Mbit/s", s(60))
            .down(path().limited(2000, 200))
            .at(s(10), Event::Cross(Some(pulse)))
            .expect(NoFreezeOver(s(1), s(3)))
            .expect(Audio(0.98, (s(10), s(58))))
            .expect(Rate(400, 1900, (s(20), s(60)))),
        Scenario::new("2 Mbit/s with steady 1 Mbit/s", s(60))
            .down(path().limited(2000, 200))
            .at(s(10), Event::Cross(Some(steady)))
            .expect(NoFreezeOver(s(1), s(3)))
            .expect(Share(0, 1, 0.9, (s(20), s(60))))
            .expect(LayerChanges(0, 2, (s(25), s(55))))
            .expect(Queue(ms(150), 0.05, (s(15), s(60)))),
    ]);
}

#[test]
fn several_tracks_share_by_priority() {
    let first = |first: usize| {
        (0..3).map(|track| (HIGH, if track == first { 1 } else { 2 })).collect::<Vec<_>>()
    };
    let row = Scenario { video: first(1), ..Scenario::new("three tracks, 1.2 Mbit/s", s(70)) };
    let (before, after) = ((s(15), s(35)), (s(45), s(70)));
    play(vec![
        row.down(path().limited(1200, 200))
            .at(s(35), Event::Want(first(2)))
            .expect(Share(0, 0, 0.9, before))
            .expect(Share(1, 1, 0.9, before))
            .expect(Share(2, 0, 0.9, before))
            .expect(Share(1, 0, 0.9, after))
            .expect(Share(2, 1, 0.9, after))
            .expect(NoFreezeOver(s(1), s(5)))
            .expect(Running(0, (s(5), s(70))))
            .expect(Audio(0.99, (s(0), s(68)))),
    ]);
}

#[test]
fn video_that_does_not_fit_is_paused_aloud_and_comes_back() {
    let three = vec![(HIGH, 1), (HIGH, 2), (HIGH, 3)];
    play(vec![
        Scenario::new("120 kbit/s, then 3 Mbit/s", s(50))
            .down(path().limited(120, 400))
            .at(s(25), Event::Down(path().limited(3000, 300)))
            .expect(Paused(0, (s(6), s(25))))
            .expect(Audio(0.99, (s(4), s(50))))
            .expect(Queue(ms(200), 0.05, (s(6), s(25))))
            .expect(LayerIn(0, 0, (s(25), s(32))))
            .expect(Running(0, (s(33), s(50))))
            .expect(LayerIn(0, 2, (s(25), s(40)))),
        Scenario { video: three, ..Scenario::new("three tracks, 330 kbit/s", s(50)) }
            .down(path().limited(330, 400))
            .expect(Running(0, (s(4), s(50))))
            .expect(Paused(1, (s(15), s(28))))
            .expect(Paused(2, (s(15), s(28))))
            .expect(PicturesPerSecond(0, 28.0, (s(10), s(50))))
            .expect(Audio(0.99, (s(4), s(48)))),
    ]);
}

#[test]
fn a_receivers_own_estimate_serves_where_it_sends_no_transport_wide_feedback() {
    let remb =
        |name, length| Scenario { feedback: FeedbackMode::Remb, ..Scenario::new(name, length) };
    let kept = |name, kbps| {
        remb(name, s(75))
            .down(path().limited(kbps, 200))
            .expect(NoFreezeOver(s(1), s(3)))
            .expect(LayerChanges(0, 2, (s(12), s(42))))
            .expect(LayerChanges(0, 2, (s(42), s(72))))
            .expect(Audio(0.97, (s(0), s(72))))
            .expect(Queue(ms(150), 0.05, (s(12), s(72))))
    };
    play(vec![
        remb("REMB, clean", s(30))
            .expect(LayerIn(0, 2, (s(0), s(10))))
            .expect(LayerChanges(0, 0, (s(10), s(30))))
            .expect(NoFreezeOver(s(1), s(0))),
        remb("REMB, 300 kbit/s, then 5 Mbit/s", s(70))
            .down(path().limited(300, 300))
            .at(s(25), Event::Down(path().limited(5000, 300)))
            .expect(LayerIn(0, 0, (s(0), s(3))))
            .expect(Running(0, (s(0), s(70))))
            .expect(PicturesPerSecond(0, 26.0, (s(4), s(25))))
            .expect(Audio(0.97, (s(0), s(25))))
            .expect(LayerIn(0, 1, (s(25), s(32))))
            .expect(LayerIn(0, 2, (s(25), s(35))))
            .expect(LayerChanges(0, 0, (s(36), s(70))))
            .expect(NoFreezeOver(s(1), s(3))),
        remb("REMB, 120 kbit/s", s(30))
            .down(path().limited(120, 400))
            .expect(Paused(0, (s(10), s(14))))
            .expect(Audio(0.97, (s(4), s(29))))
            .expect(Queue(ms(250), 0.2, (s(4), s(30)))),
        kept("REMB, 500 kbit/s", 500).expect(Share(0, 0, 0.9, (s(12), s(72)))),
        kept("REMB, 800 kbit/s", 800).expect(Share(0, 1, 0.9, (s(12), s(72)))),
        kept("REMB, 1.5 Mbit/s", 1500).expect(Share(0, 1, 0.9, (s(12), s(72)))),
        kept("REMB, 2.5 Mbit/s", 2500).expect(Share(0, 2, 0.9, (s(12), s(72)))),
        Scenario { feedback: FeedbackMode::Reports, ..Scenario::new("reports only", s(20)) }
            .expect(LayerIn(0, 2, (s(0), s(3))))
            .expect(NoFreezeOver(s(1), s(0)))
            .expect(Running(0, (s(0), s(20)))),
    ]);
}

#[test]
fn an_estimate_survives_a_time_of_audio_alone() {
    let silent = |name, length| Scenario {
        video: vec![(None, 0)],
        ..Scenario::new(name, length).at(s(20), Event::Want(vec![(HIGH, 0)]))
    };
    play(vec![
        silent("audio alone, then video over 5 Mbit/s", s(40))
            .down(path().limited(5000, 200))
            .expect(LayerIn(0, 0, (s(20), ms(20_800))))
            .expect(LayerIn(0, 2, (s(20), s(24))))
            .expect(NoFreezeOver(s(1), s(20)))
            .expect(Audio(0.995, (s(0), s(40)))),
        silent("audio alone, then video over 300 kbit/s", s(40))
            .down(path().limited(300, 300))
            .expect(LayerIn(0, 0, (s(20), s(23))))
            .expect(NoFreezeOver(s(1), s(23)))
            .expect(Audio(0.985, (s(0), s(39))))
            .expect(Queue(ms(200), 0.05, (s(23), s(40)))),
    ]);
}

#[test]
fn a_layer_that_the_publisher_stops_is_replaced_and_taken_again() {
    play(vec![
        Scenario::new("the best layer stops for ten seconds", s(40))
            .at(s(10), Event::Layer(2, false))
            .at(s(20), Event::Layer(2, true))
            .expect(NoFreezeOver(ms(600), s(0)))
            .expect(Share(0, 1, 0.99, (s(11), s(20))))
            .expect(LayerIn(0, 2, (s(20), s(24))))
            .expect(LayerChanges(0, 2, (s(9), s(40)))),
    ]);
}

#[test]
fn layers_on_one_source_are_followed_as_simulcast_is() {
    let mut table = Vec::new();
    for (form, [clean, lossy, narrow, middle]) in [
        (Form::Vp9, ["VP9", "VP9, 5 % loss", "VP9, 300 kbit/s, then 5 Mbit/s", "VP9, 800 kbit/s"]),
        (Form::Av1, ["AV1", "AV1, 5 % loss", "AV1, 300 kbit/s, then 5 Mbit/s", "AV1, 800 kbit/s"]),
    ] {
        let row = |name, length| Scenario { form, ..Scenario::new(name, length) };
        table.extend([
            row(clean, s(20))
                .expect(LayerIn(0, 0, (s(0), ms(500))))
                .expect(LayerIn(0, 2, (s(0), s(3))))
                .expect(Freezes(0, s(3)))
                .expect(InVain(0, 0))
                .expect(PicturesPerSecond(0, 29.5, (s(4), s(20)))),
            row(lossy, s(40))
                .down(path().loss(Loss::Random(0.05)))
                .expect(NoFreezeOver(s(1), s(0)))
                .expect(Share(0, 2, 0.95, (s(5), s(40))))
                // A picture of three layers has more packets to lose.
                .expect(PicturesPerSecond(0, 26.0, (s(3), s(40)))),
            row(narrow, s(60))
                .down(path().limited(300, 300))
                .at(s(25), Event::Down(path().limited(5000, 300)))
                .expect(LayerIn(0, 0, (s(0), s(3))))
                .expect(PicturesPerSecond(0, 27.0, (s(4), s(25))))
                .expect(Audio(0.99, (s(0), s(25))))
                .expect(LayerIn(0, 2, (s(25), s(35))))
                .expect(NoFreezeOver(s(1), s(3)))
                .expect(LayerChanges(0, 2, (s(35), s(60)))),
            row(middle, s(60))
                .down(path().limited(800, 200))
                .expect(Share(0, 1, 0.9, (s(12), s(60))))
                .expect(Queue(ms(150), 0.05, (s(12), s(60))))
                .expect(NoFreezeOver(s(1), s(3))),
        ]);
    }
    play(table);
}

#[test]
fn each_of_several_subscribers_gets_what_its_own_network_carries() {
    let lossy = path().loss(Loss::Random(0.05));
    for form in [Form::Simulcast, Form::Vp9] {
        let name = if form == Form::Simulcast { "four networks" } else { "four networks, VP9" };
        let others = vec![path().limited(800, 200), path().limited(300, 300), lossy];
        let span = (s(15), s(60));
        let whole = |subscriber, layer| {
            move |row: Scenario| {
                row.expect_of(subscriber, Share(0, layer, 0.9, span))
                    .expect_of(subscriber, NoFreezeOver(s(1), s(5)))
                    .expect_of(subscriber, PicturesPerSecond(0, 27.0, span))
            }
        };
        // Who has a wide network does not suffer from those who have not.
        let row = Scenario { form, others, ..Scenario::new(name, s(60)) }
            .expect(Freezes(0, s(5)))
            .expect(LayerChanges(0, 0, span));
        let row = whole(0, 2)(row);
        let row = whole(1, 1)(row);
        let row = whole(2, 0)(row);
        play(vec![whole(3, 2)(row)]);
    }
}
