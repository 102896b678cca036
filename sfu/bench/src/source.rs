//! Generated media with the packet sizes and payload headers of real encoders. The last bytes
//! of each payload tell when it was sent, so that latency can be measured at the other end.

mod h264;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde::{Deserialize, Serialize};

use crate::workload::Quality;

/// Largest payload: with the largest header and SRTP's tag, a packet stays below 1200 bytes.
const MAX_PAYLOAD: usize = 1120;
/// Bytes at the end of a payload that hold the time of sending.
pub(crate) const STAMP: usize = 8;
/// A key frame is so many times as large as an average frame.
const KEY_FRAME_FACTOR: usize = 5;
/// Time between key frames that nobody asked for.
const KEY_INTERVAL_SECONDS: u32 = 3;

/// What a track carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Media {
    /// 720p in one layer.
    H264,
    /// The same at a third of the frame rate, so that a frame has as many packets.
    H264Slow,
    /// VP8 in three layers.
    Simulcast,
    /// Speech.
    Opus,
}

/// One encoding of a track.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LayerSpec {
    pub(crate) media: Media,
    /// Empty without simulcast.
    pub(crate) rid: &'static str,
    pub(crate) width: u32,
    pub(crate) height: u32,
    pub(crate) bitrate: u32,
    /// Frames (packets of audio) a second.
    pub(crate) frame_rate: u32,
}

const H264: [LayerSpec; 1] = [LayerSpec {
    media: Media::H264,
    rid: "",
    width: 1280,
    height: 720,
    bitrate: 1_500_000,
    frame_rate: 30,
}];
const H264_SLOW: [LayerSpec; 1] =
    [LayerSpec { media: Media::H264Slow, bitrate: 500_000, frame_rate: 10, ..H264[0] }];
/// Rates and frame rates of livekit-client's presets, rounded.
const SIMULCAST: [LayerSpec; 3] = [
    LayerSpec {
        media: Media::Simulcast,
        rid: "q",
        width: 320,
        height: 180,
        bitrate: 150_000,
        frame_rate: 20,
    },
    LayerSpec {
        media: Media::Simulcast,
        rid: "h",
        width: 640,
        height: 360,
        bitrate: 500_000,
        frame_rate: 20,
    },
    LayerSpec {
        media: Media::Simulcast,
        rid: "f",
        width: 1280,
        height: 720,
        bitrate: 1_500_000,
        frame_rate: 30,
    },
];
const OPUS: [LayerSpec; 1] = [LayerSpec {
    media: Media::Opus,
    rid: "",
    width: 0,
    height: 0,
    bitrate: 32_000,
    frame_rate: 50,
}];

impl Media {
    /// Its encodings in rising quality.
    pub(crate) fn layers(self) -> &'static [LayerSpec] {
        match self {
            Self::H264 => &H264,
            Self::H264Slow => &H264_SLOW,
            Self::Simulcast => &SIMULCAST,
            Self::Opus => &OPUS,
        }
    }

    /// Index of the layer that somebody who asks for `quality` gets.
    pub(crate) fn layer_of(self, quality: Quality) -> usize {
        match (self, quality) {
            (Self::Simulcast, Quality::Medium) => 1,
            (Self::Simulcast, Quality::High) => 2,
            (Self::Simulcast | Self::H264 | Self::H264Slow | Self::Opus, _) => 0,
        }
    }

    /// Whether it is sound.
    pub(crate) fn is_audio(self) -> bool {
        self == Self::Opus
    }

    /// RTP ticks a second.
    pub(crate) fn clock_rate(self) -> u32 {
        if self.is_audio() { 48_000 } else { 90_000 }
    }
}

/// An encoder of one layer.
#[derive(Debug)]
pub(crate) struct Encoder {
    pub(crate) spec: LayerSpec,
    rng: StdRng,
    frame: u32,
    /// Frames until a key frame comes by itself.
    until_key: u32,
    picture_id: u16,
    tl0: u8,
    noise: Vec<u8>,
}

impl Encoder {
    /// An encoder whose frame sizes follow from `seed`.
    pub(crate) fn new(spec: LayerSpec, seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let noise = (0..MAX_PAYLOAD).map(|_| rng.random()).collect();
        Self { spec, rng, frame: 0, until_key: 0, picture_id: 0, tl0: 0, noise }
    }

    /// Time between frames.
    pub(crate) fn interval(&self) -> Duration {
        Duration::from_secs(1) / self.spec.frame_rate
    }

    /// RTP ticks between frames.
    pub(crate) fn ticks(&self) -> u32 {
        self.spec.media.clock_rate() / self.spec.frame_rate
    }

    /// Makes the next frame a key frame.
    pub(crate) fn request_key_frame(&mut self) {
        self.until_key = 0;
    }

    /// Encodes the next frame into payloads, the last of which ends it.
    pub(crate) fn encode(&mut self) -> Vec<Vec<u8>> {
        let is_key = self.until_key == 0;
        self.until_key = match is_key {
            true => KEY_INTERVAL_SECONDS * self.spec.frame_rate - 1,
            false => self.until_key - 1,
        };
        self.frame += 1;
        let size = self.frame_size(is_key);
        match self.spec.media {
            Media::Opus => vec![self.opus(size)],
            Media::H264 | Media::H264Slow => h264::packetize(&self.spec, is_key, size, &self.noise),
            Media::Simulcast => self.vp8(is_key, size),
        }
    }

    /// Bytes of a frame: key frames are large, and the others share the rest of the bit rate
    /// and differ by up to a fifth.
    fn frame_size(&mut self, is_key: bool) -> usize {
        let average = (self.spec.bitrate / 8 / self.spec.frame_rate) as usize;
        if self.spec.media.is_audio() {
            return average * self.rng.random_range(80..=120) / 100;
        }
        let frames = (KEY_INTERVAL_SECONDS * self.spec.frame_rate) as usize;
        if is_key {
            return average * KEY_FRAME_FACTOR;
        }
        let delta = average * (frames - KEY_FRAME_FACTOR) / (frames - 1);
        delta * self.rng.random_range(80..=120) / 100
    }

    /// A CELT packet of 20 ms, full band (RFC 6716 section 3.1).
    fn opus(&self, size: usize) -> Vec<u8> {
        const TABLE_OF_CONTENTS: u8 = 31 << 3;
        let mut payload = vec![TABLE_OF_CONTENTS];
        payload.extend_from_slice(&self.noise[..size.max(STAMP + 1) - 1]);
        payload
    }

    /// RFC 7741: descriptor with picture id and temporal index, then the frame's header.
    fn vp8(&mut self, is_key: bool, size: usize) -> Vec<Vec<u8>> {
        const DESCRIPTOR: usize = 6;
        self.picture_id = (self.picture_id + 1) & 0x7FFF;
        self.tl0 = self.tl0.wrapping_add(1);
        let [high, low] = (self.picture_id | 0x8000).to_be_bytes();
        let mut payloads = Vec::new();
        for (index, length) in split(size, MAX_PAYLOAD - DESCRIPTOR).enumerate() {
            let starts = if index == 0 { 0x10 } else { 0 };
            let mut payload = vec![0x80 | starts, 0xE0, high, low, self.tl0, 0];
            let begin = payload.len();
            payload.extend_from_slice(&self.noise[..length]);
            if index == 0 {
                let (width, height) = (self.spec.width as u16, self.spec.height as u16);
                payload[begin..begin + 10].copy_from_slice(&vp8_header(is_key, width, height));
            }
            payloads.push(payload);
        }
        payloads
    }
}

/// RFC 6386 section 9.1; a delta frame's last seven bytes are its data.
fn vp8_header(is_key: bool, width: u16, height: u16) -> [u8; 10] {
    // Shown, partition of 1 kB; the lowest bit tells delta frames.
    let tag: u32 = 1024 << 5 | 1 << 4 | u32::from(!is_key);
    let [a, b, c, _] = tag.to_le_bytes();
    let [w0, w1] = width.to_le_bytes();
    let [h0, h1] = height.to_le_bytes();
    [a, b, c, 0x9D, 0x01, 0x2A, w0, w1, h0, h1]
}

/// Splits a frame as libwebrtc's packetizer does: about equally, the larger ones last. No part
/// is too short for what goes into each.
fn split(size: usize, most: usize) -> impl Iterator<Item = usize> {
    let size = size.max(10 + STAMP);
    let count = size.div_ceil(most);
    let (each, larger) = (size / count, size % count);
    (0..count).map(move |index| each + usize::from(index >= count - larger))
}

/// Writes the time into the end of a payload.
pub(crate) fn stamp(payload: &mut [u8], nanos: u64) {
    if let Some(end) = payload.last_chunk_mut::<STAMP>() {
        *end = nanos.to_be_bytes();
    }
}

/// Reads what [`stamp`] wrote.
pub(crate) fn stamped(payload: &[u8]) -> Option<u64> {
    payload.last_chunk::<STAMP>().map(|end| u64::from_be_bytes(*end))
}

/// The clock of stamps, which is that of the kernel's receive times: nanoseconds since 1970.
pub(crate) fn clock() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Media; 4] = [Media::H264, Media::H264Slow, Media::Simulcast, Media::Opus];

    #[test]
    fn rates_are_met_and_packets_are_small() {
        for spec in ALL.iter().flat_map(|media| media.layers()) {
            let mut encoder = Encoder::new(*spec, 7);
            let seconds = 2 * KEY_INTERVAL_SECONDS;
            let frames = seconds * spec.frame_rate;
            let payloads: Vec<_> = (0..frames).flat_map(|_| encoder.encode()).collect();
            let bits: usize = payloads.iter().map(|payload| 8 * payload.len()).sum();
            let rate = bits as f64 / f64::from(seconds);
            let error = (rate / f64::from(spec.bitrate) - 1.0).abs();
            assert!(error < 0.05, "{spec:?}: {rate}");
            assert!(payloads.iter().all(|p| (STAMP + 1..=MAX_PAYLOAD).contains(&p.len())));
        }
    }

    #[test]
    fn key_frames_come_first_on_request_and_every_three_seconds() {
        // An aggregate of parameter sets; a VP8 frame without the bit of delta frames.
        let is_h264_key: fn(&[u8]) -> bool = |payload| payload[0] & 0x1F == 24;
        let is_vp8_key: fn(&[u8]) -> bool = |payload| payload[0] & 0x10 != 0 && payload[6] & 1 == 0;
        for (media, is_key) in [(Media::H264, is_h264_key), (Media::Simulcast, is_vp8_key)] {
            let mut encoder = Encoder::new(media.layers()[0], 1);
            let per_interval = KEY_INTERVAL_SECONDS * encoder.spec.frame_rate;
            let keys: Vec<u32> = (0..2 * per_interval)
                .filter(|frame| {
                    if *frame == 10 {
                        encoder.request_key_frame();
                    }
                    is_key(&encoder.encode()[0])
                })
                .collect();
            assert_eq!(keys, [0, 10, 10 + per_interval], "{media:?}");
        }
    }

    #[test]
    fn picture_ids_rise_by_one() {
        let mut encoder = Encoder::new(Media::Simulcast.layers()[2], 1);
        let mut last = None;
        for _ in 0..40 {
            for payload in encoder.encode() {
                let id = u16::from_be_bytes([payload[2], payload[3]]) & 0x7FFF;
                assert!(last.is_none_or(|last| last == id || last + 1 == id));
                last = Some(id);
            }
        }
        assert_eq!(last, Some(40));
    }

    #[test]
    fn a_frame_is_split_evenly_with_the_larger_parts_last() {
        assert_eq!(split(2500, 1000).collect::<Vec<_>>(), [833, 833, 834]);
        assert_eq!(split(1, 1000).collect::<Vec<_>>(), [18]);
    }

    #[test]
    fn a_stamp_is_read_back() {
        let mut payload = vec![0; 20];
        stamp(&mut payload, 0x0102_0304_0506_0708);
        assert_eq!(stamped(&payload), Some(0x0102_0304_0506_0708));
    }
}
