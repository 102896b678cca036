//! Redundant audio (RFC 2198): which part of a payload is the newest frame.

/// Where the primary block of a payload begins: what a receiver without redundancy decodes.
/// `None` where there is none.
pub fn primary_block(payload: &[u8]) -> Option<usize> {
    let (mut header, mut redundant) = (0, 0);
    loop {
        let first = *payload.get(header)?;
        // F bit: another header follows this block's.
        if first & 0x80 == 0 {
            let start = header + 1 + redundant;
            return (start < payload.len()).then_some(start);
        }
        // 14 bits of time offset, 10 bits of length.
        let length = payload.get(header + 2..header + 4)?;
        redundant += (usize::from(length[0] & 0x03) << 8) | usize::from(length[1]);
        header += 4;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_primary_block_follows_all_headers_and_redundant_blocks() {
        let cases: [(&[u8], Option<usize>); 7] = [
            (&[111, 1, 2], Some(1)),
            // One redundant block of two bytes.
            (&[0x80 | 111, 0, 0, 2, 111, 9, 9, 1], Some(7)),
            // Two, the first empty.
            (&[0x80 | 111, 0, 0, 0, 0x80 | 111, 0, 0, 1, 111, 9, 1], Some(10)),
            (&[0x80 | 111, 0, 1, 0, 111, 9, 1], None),
            (&[111], None),
            (&[0x80 | 111, 0, 0], None),
            (&[], None),
        ];
        for (payload, expected) in cases {
            assert_eq!(primary_block(payload), expected, "{payload:?}");
        }
    }
}
