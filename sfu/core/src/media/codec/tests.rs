//! Payloads of each codec.

use proptest::prelude::*;

use super::*;

fn read(codec: CodecKind, payload: &[u8]) -> PacketInfo {
    PayloadReader::default().read(codec, payload, None)
}

#[test]
fn key_frames_are_found() {
    let cases: [(CodecKind, &[u8], bool); 14] = [
        (CodecKind::Vp8, &[0x90, 0x80, 0x81, 0x02, 0x10], true),
        (CodecKind::Vp8, &[0x90, 0x80, 0x81, 0x02, 0x11], false),
        (CodecKind::Vp8, &[0x80, 0x80, 0x81, 0x02, 0x10], false),
        (CodecKind::H264, &[0x67, 1], true),
        (CodecKind::H264, &[0x41, 1], false),
        (CodecKind::H264, &[0x78, 0, 1, 0x09, 0, 1, 0x67], true),
        (CodecKind::H264, &[0x7C, 0x85, 0], true),
        (CodecKind::H264, &[0x7C, 0x05, 0], false),
        (CodecKind::Vp9, &[0xA8, 0x80, 0x01, 0x00], true),
        (CodecKind::Vp9, &[0xA8, 0x80, 0x01, 0x02], false),
        (CodecKind::Vp9, &[0xE8, 0x80, 0x01, 0x00], false),
        (CodecKind::H265, &[0x40, 0x01], true),
        (CodecKind::Av1, &[0x18], true),
        (CodecKind::Av1, &[0x10], false),
    ];
    for (codec, payload, expected) in cases {
        assert_eq!(read(codec, payload).key_frame, expected, "{codec:?} {payload:x?}");
    }
}

#[test]
fn picture_ids_continue_over_a_switch_and_wrap() {
    let packet = |id: u16, tl0: u8| {
        let [high, low] = (id | 0x8000).to_be_bytes();
        vec![0x90, 0xE0, high, low, tl0, 0x20, 0]
    };
    let mut continuity = Vp8Continuity::default();
    let mut send = |payload: &mut Vec<u8>, switch: bool| {
        let descriptor = Vp8Descriptor::parse(payload).unwrap();
        if switch {
            continuity.switch(&descriptor);
        }
        let (id, tl0) = continuity.map(&descriptor);
        descriptor.rewrite(payload, id, tl0);
        let written = Vp8Descriptor::parse(payload).unwrap();
        (written.picture_id.unwrap().0, written.tl0_index.unwrap())
    };
    assert_eq!(send(&mut packet(0x7FFE, 255), true), (0x7FFE, 255));
    assert_eq!(send(&mut packet(0x7FFF, 0), false), (0x7FFF, 0));
    assert_eq!(send(&mut packet(500, 9), true), (0, 1));
    assert_eq!(send(&mut packet(501, 9), false), (1, 1));
    assert_eq!(send(&mut packet(500, 9), false), (0, 1));
}

proptest! {
    #[test]
    fn random_payloads_never_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..40)) {
        for codec in [CodecKind::Vp8, CodecKind::Vp9, CodecKind::H264, CodecKind::H265, CodecKind::Av1] {
            let _ = PayloadReader::default().read(codec, &bytes, Some(&bytes));
        }
        if let Some(descriptor) = Vp8Descriptor::parse(&bytes) {
            descriptor.rewrite(&mut bytes, 1, 2);
        }
    }
}

/// A structure of two spatial and two temporal layers, upper ones predicted from lower ones at
/// key frames only: targets S0T0, S0T1, S1T0, S1T1.
fn key_dependent_structure() -> Vec<u8> {
    let mut bits = String::new();
    let mut put = |value: u32, width: usize| bits.push_str(&format!("{value:0width$b}"));
    // Start and end of a frame, template 0, frame 1; structure present.
    for (value, width) in [(1, 1), (1, 1), (0, 6), (1, 16), (1, 1), (0, 4), (0, 6), (3, 5)] {
        put(value, width);
    }
    // Templates: S0T0 (key), S0T0, S0T1, S1T0, S1T1.
    for next_layer in [0, 1, 2, 1, 3] {
        put(next_layer, 2);
    }
    for indications in [[2, 2, 2, 2], [2, 2, 0, 0], [0, 2, 0, 0], [0, 0, 2, 2], [0, 0, 0, 2]] {
        for indication in indications {
            put(indication, 2);
        }
    }
    // No frame differences, no chains, no resolutions.
    for (value, width) in [(0, 5), (0, 2), (0, 1)] {
        put(value, width);
    }
    let padded = format!("{bits:0<width$}", width = bits.len().next_multiple_of(8));
    padded
        .as_bytes()
        .chunks(8)
        .map(|byte| u8::from_str_radix(std::str::from_utf8(byte).unwrap(), 2).unwrap())
        .collect()
}

#[test]
fn a_dependency_descriptor_tells_who_needs_a_frame() {
    let mut reader = PayloadReader::default();
    let mut read = |descriptor: &[u8]| reader.read(CodecKind::Av1, &[0x10], Some(descriptor));
    let key = read(&key_dependent_structure());
    assert!(key.key_frame && key.needed == u16::MAX);
    // (template, spatial, temporal, needed by S0T0 S0T1 S1T0 S1T1)
    let cases = [
        (1, 0, 0, [true, true, false, false]),
        (2, 0, 1, [false, true, false, false]),
        (3, 1, 0, [false, false, true, true]),
        (4, 1, 1, [false, false, false, true]),
    ];
    for (template, spatial, temporal, needed) in cases {
        let info = read(&[0xC0 | template, 0, 2]);
        assert_eq!((info.spatial, info.temporal), (spatial, temporal));
        let targets = [(0, 0), (0, 1), (1, 0), (1, 1)].map(|(s, t)| info.is_needed(s, t));
        assert_eq!(targets, needed, "template {template}");
        assert_eq!(info.is_needed(3, 3), needed[3], "more than there is means all");
        assert!(!info.key_frame && info.begins_frame && info.ends_frame);
    }
    assert_eq!(reader.max_spatial(), Some(1));
}

#[test]
fn vp9_layers_are_read_from_the_payload_where_no_descriptor_is() {
    let mut reader = PayloadReader::default();
    let mut read = |payload: &[u8]| reader.read(CodecKind::Vp9, payload, None);
    // I, L, B and E; picture id 1; TID and SID.
    let key = read(&[0xAC, 0x01, 0x00, 0x00]);
    assert!(key.key_frame && key.is_needed(0, 0) && key.is_needed(2, 2));
    let upper = read(&[0xAC, 0x01, 0x03, 0x00]);
    assert!(!upper.key_frame && !upper.is_needed(0, 2) && upper.is_needed(1, 0));
    // Predicted, second layer without reference to the first: each layer stands alone.
    read(&[0xEC, 0x02, 0x42, 0x00]);
    let base = read(&[0xEC, 0x03, 0x40, 0x00]);
    assert_eq!((base.spatial, base.temporal), (0, 2));
    assert!(base.is_needed(0, 2) && !base.is_needed(0, 1) && !base.is_needed(1, 2));
}

#[test]
fn vp8_pictures_that_are_left_out_close_up() {
    let packet = |id: u16, temporal: u8| {
        let [high, low] = (id | 0x8000).to_be_bytes();
        vec![0x90, 0xE0, high, low, 1, temporal << 6 | 0x20, 1]
    };
    let mut continuity = Vp8Continuity::default();
    let mut ids = Vec::new();
    for (id, temporal) in [(10, 0), (11, 2), (11, 2), (12, 1), (13, 2), (14, 0)] {
        let payload = packet(id, temporal);
        let info = read(CodecKind::Vp8, &payload);
        assert!(info.temporal_sync && info.temporal == temporal);
        let descriptor = Vp8Descriptor::parse(&payload).unwrap();
        if info.is_needed(0, 1) {
            ids.push(continuity.map(&descriptor).0);
        } else {
            continuity.skip(&descriptor);
        }
    }
    assert_eq!(ids, [10, 11, 12]);
}
