//! What must hold over any history of losses, switches and pauses, whatever the bandwidth code
//! decides. That every packet decrypts and that no nonce protects two contents is checked for
//! every datagram of every test, by [`crate::audit`] and [`crate::endpoint`].

use std::time::Duration;

use proptest::prelude::*;
use sfu_core::media::rtcp::{write_nack, write_pli};
use sfu_core::media::{MediaKind, TrackKey, VideoQuality};

use crate::audit::Sent;
use crate::cross::{Cross, CrossConfig};
use crate::endpoint::Send;
use crate::link::{Cargo, LinkConfig, Loss};
use crate::scalable::Form;
use crate::scenario::ms;
use crate::subscriber::{FeedbackMode, Wanted};
use crate::world::World;

const AUDIO: TrackKey = TrackKey(1);
const VIDEO: TrackKey = TrackKey(10);

/// Something that happens to a call.
#[derive(Debug, Clone)]
enum Step {
    Want(Option<VideoQuality>),
    Down(LinkConfig),
    Cross(bool),
    Layer(usize, bool),
    /// Asks for packets again, counted back from the last one.
    Nack(Vec<u16>),
    KeyFrame,
}

fn any_loss() -> impl Strategy<Value = Loss> {
    prop_oneof![
        Just(Loss::None),
        (0.0..0.3f64).prop_map(Loss::Random),
        (0.001..0.05f64).prop_map(|enter| Loss::Burst { enter, leave: 0.1, loss: 0.9 }),
    ]
}

fn any_link() -> impl Strategy<Value = LinkConfig> {
    let limits = prop::option::of((80u64..4000, 20u64..1500));
    (1u64..200, 0u64..150, 0.0..0.3f64, 0.0..0.1f64, any_loss(), limits).prop_map(
        |(delay, jitter, reordered, duplicated, loss, limits)| {
            let link = LinkConfig {
                duplicated,
                ..LinkConfig::clean(delay).jitter(jitter).reordered(reordered).loss(loss)
            };
            limits.map_or(link, |(kbps, queue_ms)| link.limited(kbps, queue_ms))
        },
    )
}

fn any_step() -> impl Strategy<Value = (Step, Duration)> {
    let quality = prop_oneof![
        Just(None),
        Just(Some(VideoQuality::Low)),
        Just(Some(VideoQuality::Medium)),
        Just(Some(VideoQuality::High)),
        Just(Some(VideoQuality::High)),
    ];
    let step = prop_oneof![
        3 => quality.prop_map(Step::Want),
        2 => any_link().prop_map(Step::Down),
        1 => any::<bool>().prop_map(Step::Cross),
        2 => (0usize..3, any::<bool>()).prop_map(|(layer, is_on)| Step::Layer(layer, is_on)),
        2 => prop::collection::vec(0u16..1200, 1..60).prop_map(Step::Nack),
        1 => Just(Step::KeyFrame),
    ];
    (step, (1u64..1500).prop_map(ms))
}

fn wanted(quality: Option<VideoQuality>, has_rtx: bool) -> [Wanted; 2] {
    let wanted = |track, kind, quality| Wanted {
        track,
        kind,
        form: Form::Simulcast,
        in_order: false,
        quality,
        priority: 0,
        has_rtx,
    };
    [
        wanted(AUDIO, MediaKind::Audio, Some(VideoQuality::High)),
        wanted(VIDEO, MediaKind::Video, quality),
    ]
}

/// A call that goes through `steps`.
fn call(
    seed: u64,
    publisher: LinkConfig,
    (mode, has_rtx): (FeedbackMode, bool),
    steps: &[(Step, Duration)],
) -> World {
    let mut world = World::new(seed);
    world.publish(&[AUDIO], (&[VIDEO], Form::Simulcast), publisher);
    world.subscribe(mode, LinkConfig::clean(10), LinkConfig::clean(10));
    world.want(0, &wanted(Some(VideoQuality::High), has_rtx));
    for (step, length) in steps {
        let now = world.now;
        let to = &mut world.subscribers[0];
        let ssrc = to.site.client.streams[1].ssrc.ssrc;
        let mut compound = Vec::new();
        match step {
            Step::Want(quality) => world.want(0, &wanted(*quality, has_rtx)),
            Step::Down(link) => to.site.down.set(*link, now),
            Step::Cross(is_on) => {
                let aimd = CrossConfig::Aimd { back: ms(30) };
                to.cross = is_on.then(|| Cross::new(aimd, now));
            }
            Step::Layer(layer, is_on) => world.publishers[0].client.set_layer(*layer, *is_on),
            Step::Nack(behind) => {
                let last = to.audit.stream(ssrc).last().map_or(0, |(index, _)| index as u16);
                let lost: Vec<u16> = behind.iter().map(|back| last.wrapping_sub(*back)).collect();
                write_nack(&mut compound, 1, ssrc, &lost);
            }
            Step::KeyFrame => write_pli(&mut compound, 1, ssrc),
        }
        if !compound.is_empty() {
            let site = &mut world.subscribers[0].site;
            let datagram = site.endpoint.seal(Send::Rtcp(compound));
            site.up.send(Cargo::Datagram(datagram), now);
        }
        world.run_until(world.elapsed() + *length);
    }
    world
}

/// The video packets that left for the subscriber, in the order of their numbers.
fn sent(world: &World) -> Vec<(u64, Sent)> {
    let to = &world.subscribers[0];
    to.audit.stream(to.site.client.streams[1].ssrc.ssrc).collect()
}

/// Timestamps never go back, stay within a picture, and follow the time of capture. Those of
/// padding mean nothing.
fn check_timestamps(packets: &[(u64, Sent)]) -> Result<(), TestCaseError> {
    let pictures: Vec<_> = packets
        .iter()
        .filter_map(|(index, sent)| Some((index, sent.timestamp, sent.video?.frame)))
        .collect();
    for pair in pictures.windows(2) {
        let [(before, then, old), (after, now, new)] = pair else { continue };
        let ticks = now.wrapping_sub(*then) as i32;
        prop_assert!(ticks >= 0, "{ticks} ticks from {before} to {after}");
        let millis = ticks / 90;
        let captured = new.captured_ms as i32 - old.captured_ms as i32;
        let slack = if old == new { 0 } else { 1000 };
        let error = (millis - captured).abs();
        prop_assert!(error <= slack, "{millis} ms from {before} to {after}, captured {captured}");
    }
    Ok(())
}

/// A number that follows another of the same layer stands for a later packet of the publisher;
/// no packet has two numbers.
fn check_sources(packets: &[(u64, Sent)]) -> Result<(), TestCaseError> {
    let sources: Vec<(u8, u32)> = packets
        .iter()
        .filter_map(|(_, sent)| sent.video.map(|video| (video.frame.layer, video.source)))
        .collect();
    for pair in sources.windows(2) {
        if pair[0].0 == pair[1].0 {
            prop_assert!(pair[0].1 < pair[1].1, "{:?} before {:?}", pair[0], pair[1]);
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 24,
        failure_persistence: None,
        max_shrink_iters: 100,
        ..ProptestConfig::default()
    })]

    /// From a publisher that loses nothing, a subscriber gets numbers without a hole, and
    /// picture ids too but before a key frame, however its own network is and whatever it asks
    /// for.
    #[test]
    fn numbers_are_continuous_over_any_history_of_the_subscriber(
        seed in any::<u64>(),
        has_rtx in any::<bool>(),
        has_feedback in any::<bool>(),
        steps in prop::collection::vec(any_step(), 1..16),
    ) {
        let mode = match has_feedback {
            true => FeedbackMode::TransportWide(ms(80)),
            false => FeedbackMode::Remb,
        };
        let world = call(seed, LinkConfig::clean(10), (mode, has_rtx), &steps);
        let packets = sent(&world);
        for pair in packets.windows(2) {
            prop_assert_eq!(pair[1].0, pair[0].0 + 1);
        }
        let frames: Vec<_> =
            packets.iter().filter_map(|(_, sent)| sent.video.map(|video| video.frame)).collect();
        for pair in frames.windows(2) {
            let step = pair[1].picture_id.wrapping_sub(pair[0].picture_id) & 0x7FFF;
            let is_next = step == 1 || (pair[1].is_key && (1..0x4000).contains(&step));
            prop_assert!(pair[0] == pair[1] || is_next, "{:?}", pair);
        }
        check_timestamps(&packets)?;
        check_sources(&packets)?;
        let to = &world.subscribers[0];
        let audio: Vec<u64> =
            to.audit.stream(to.site.client.streams[0].ssrc.ssrc).map(|(index, _)| index).collect();
        prop_assert!(audio.windows(2).all(|pair| pair[1] == pair[0] + 1));
        prop_assert!(audio.len() as u64 * 20 + 100 >= world.elapsed().as_millis() as u64);
    }

    /// Whatever happens on the way from the publisher, a number means one packet, and the order
    /// of numbers is the order of the publisher's packets.
    #[test]
    fn a_number_means_one_packet_over_any_history_of_the_publisher(
        seed in any::<u64>(),
        has_rtx in any::<bool>(),
        publisher in any_link(),
        steps in prop::collection::vec(any_step(), 1..16),
    ) {
        let mode = FeedbackMode::TransportWide(ms(100));
        let publisher = LinkConfig { rate: None, ..publisher };
        let world = call(seed, publisher, (mode, has_rtx), &steps);
        let packets = sent(&world);
        check_sources(&packets)?;
        check_timestamps(&packets)?;
    }
}
