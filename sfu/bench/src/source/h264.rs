//! H264 in RTP (RFC 6184): parameter sets aggregated before each key frame, slices in
//! fragmentation units.

use super::{LayerSpec, MAX_PAYLOAD, split};

const STAP_A: u8 = 24;
const FU_A: u8 = 28;
/// NRI 3 (a key frame) and NRI 2, with the types of IDR and other slices.
const IDR: u8 = 0x65;
const SLICE: u8 = 0x41;

/// One frame of `size` bytes; `noise` is what slices are filled with.
pub(super) fn packetize(spec: &LayerSpec, is_key: bool, size: usize, noise: &[u8]) -> Vec<Vec<u8>> {
    let mut payloads = Vec::new();
    if is_key {
        payloads.push(parameter_sets(spec.width, spec.height));
    }
    let unit = if is_key { IDR } else { SLICE };
    let parts: Vec<usize> = split(size, MAX_PAYLOAD - 2).collect();
    let last = parts.len() - 1;
    for (index, length) in parts.iter().enumerate() {
        let mut payload = if last == 0 {
            vec![unit]
        } else {
            let start = u8::from(index == 0) << 7;
            let end = u8::from(index == last) << 6;
            vec![(unit & 0xE0) | FU_A, start | end | (unit & 0x1F)]
        };
        payload.extend_from_slice(&noise[..*length]);
        payloads.push(payload);
    }
    payloads
}

/// Both parameter sets in one packet, with room for a time stamp behind them.
fn parameter_sets(width: u32, height: u32) -> Vec<u8> {
    /// Supplemental enhancement information: its content is nobody's business.
    const SEI: u8 = 6;
    let sets = [sequence_parameter_set(width, height), picture_parameter_set(), vec![SEI; 16]];
    let mut payload = vec![0x60 | STAP_A];
    for set in sets {
        payload.extend_from_slice(&(set.len() as u16).to_be_bytes());
        payload.extend_from_slice(&set);
    }
    payload
}

/// Section 7.3.2.1 of H.264: constrained baseline, level 3.1, one reference frame.
fn sequence_parameter_set(width: u32, height: u32) -> Vec<u8> {
    let mut bits = Bits(vec![0x67, 0x42, 0xE0, 0x1F], 0);
    // Id, log2_max_frame_num_minus4, pic_order_cnt_type, max_num_ref_frames.
    for value in [0, 0, 2, 1] {
        bits.exp_golomb(value);
    }
    bits.put(0);
    bits.exp_golomb(width / 16 - 1);
    bits.exp_golomb(height.div_ceil(16) - 1);
    // Frames only, direct 8x8 inference, no cropping, no VUI.
    for bit in [1, 1, 0, 0] {
        bits.put(bit);
    }
    bits.finish()
}

/// Section 7.3.2.2 of H.264: the simplest one.
fn picture_parameter_set() -> Vec<u8> {
    let mut bits = Bits(vec![0x68], 0);
    // Ids, CAVLC, one slice group, one reference, no weights, no offsets, no extras.
    let fields = [(2, true), (2, false), (3, true), (3, false), (3, true), (3, false)];
    for (count, is_golomb) in fields {
        for _ in 0..count {
            if is_golomb { bits.exp_golomb(0) } else { bits.put(0) }
        }
    }
    bits.finish()
}

/// Bytes and the number of bits used of the last one.
struct Bits(Vec<u8>, u32);

impl Bits {
    fn put(&mut self, bit: u8) {
        if self.1.is_multiple_of(8) {
            self.0.push(0);
        }
        if let Some(last) = self.0.last_mut() {
            *last |= bit << (7 - self.1 % 8);
        }
        self.1 += 1;
    }

    fn exp_golomb(&mut self, value: u32) {
        let length = (value + 1).ilog2();
        for _ in 0..length {
            self.put(0);
        }
        for shift in (0..=length).rev() {
            self.put(((value + 1) >> shift & 1) as u8);
        }
    }

    /// Appends the stop bit.
    fn finish(mut self) -> Vec<u8> {
        self.put(1);
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exponential_golomb_codes_are_those_of_the_table() {
        let code = |value| {
            let mut bits = Bits(Vec::new(), 0);
            bits.exp_golomb(value);
            (bits.0, bits.1)
        };
        assert_eq!(code(0), (vec![0b1000_0000], 1));
        assert_eq!(code(2), (vec![0b0110_0000], 3));
        assert_eq!(code(7), (vec![0b0001_0000], 7));
    }

    #[test]
    fn fragments_begin_and_end_once() {
        let noise = vec![0; 1200];
        let spec = super::super::H264[0];
        let payloads = packetize(&spec, true, 5000, &noise);
        assert_eq!(payloads[0][0] & 0x1F, STAP_A);
        let flags: Vec<u8> = payloads[1..].iter().map(|payload| payload[1]).collect();
        assert_eq!(flags, [0x85, 5, 5, 5, 0x45]);
        assert_eq!(packetize(&spec, false, 500, &noise)[0][0], SLICE);
    }
}
