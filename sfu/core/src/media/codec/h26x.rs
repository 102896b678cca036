//! Where decoders of H264 (RFC 6184) and H265 (RFC 7798) can start.

/// RFC 6184: a sequence parameter set or an IDR slice, alone, aggregated or as the first
/// fragment.
pub(super) fn h264_starts_key_frame(payload: &[u8]) -> bool {
    const IDR: u8 = 5;
    const SPS: u8 = 7;
    const STAP_A: u8 = 24;
    const FU_A: u8 = 28;
    let is_key = |kind: u8| matches!(kind & 0x1F, IDR | SPS);
    let Some(&first) = payload.first() else { return false };
    match first & 0x1F {
        IDR | SPS => true,
        STAP_A => aggregated(&payload[1..]).any(|unit| unit.first().is_some_and(|&k| is_key(k))),
        FU_A => payload.get(1).is_some_and(|&header| header & 0x80 != 0 && is_key(header)),
        _ => false,
    }
}

/// RFC 7798: the same for random access pictures and parameter sets.
pub(super) fn h265_starts_key_frame(payload: &[u8]) -> bool {
    const AGGREGATION: u8 = 48;
    const FRAGMENTATION: u8 = 49;
    let is_key = |kind: u8| (16..=21).contains(&kind) || (32..=34).contains(&kind);
    let Some(&first) = payload.first() else { return false };
    match first >> 1 & 0x3F {
        AGGREGATION => payload.get(2..).is_some_and(|units| {
            aggregated(units).any(|unit| unit.first().is_some_and(|&k| is_key(k >> 1 & 0x3F)))
        }),
        FRAGMENTATION => {
            payload.get(2).is_some_and(|&header| header & 0x80 != 0 && is_key(header & 0x3F))
        }
        kind => is_key(kind),
    }
}

/// Units of an aggregation packet: a length of two bytes before each.
fn aggregated(mut units: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_be_bytes(*units.first_chunk()?));
        let unit = units.get(2..2 + length)?;
        units = &units[2 + length..];
        Some(unit)
    })
}
