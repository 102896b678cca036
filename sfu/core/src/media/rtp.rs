//! RTP headers (RFC 3550 section 5.1) and header extensions (RFC 8285): read where they lie,
//! written anew for each subscriber.

/// Bytes of the fixed header.
const FIXED: usize = 12;
/// `defined by profile` of extensions with one-byte headers.
const ONE_BYTE: u16 = 0xBEDE;
/// The same with two-byte headers; the low four bits are free.
const TWO_BYTE: u16 = 0x1000;

/// A parsed header. Offsets count from the start of the packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RtpHeader {
    /// Last packet of a video frame, first of a talk spurt.
    pub marker: bool,
    /// Payload type.
    pub payload_type: u8,
    /// Sequence number.
    pub sequence: u16,
    /// RTP ticks.
    pub timestamp: u32,
    /// Synchronization source.
    pub ssrc: u32,
    /// Where the payload begins.
    pub header_length: usize,
    has_padding: bool,
    extension_profile: u16,
    extension_start: usize,
    extension_end: usize,
}

impl RtpHeader {
    /// Reads the header of `packet`; `None` when it is not RTP or is cut short.
    pub fn parse(packet: &[u8]) -> Option<Self> {
        let fixed = packet.first_chunk::<FIXED>()?;
        if fixed[0] >> 6 != 2 {
            return None;
        }
        let sources = usize::from(fixed[0] & 0x0F);
        let mut header_length = FIXED + 4 * sources;
        let (mut extension_profile, mut extension_start, mut extension_end) = (0, 0, 0);
        if fixed[0] & 0x10 != 0 {
            let word = packet.get(header_length..header_length + 4)?;
            extension_profile = u16::from_be_bytes([word[0], word[1]]);
            extension_start = header_length + 4;
            extension_end =
                extension_start + 4 * usize::from(u16::from_be_bytes([word[2], word[3]]));
            header_length = extension_end;
        }
        if header_length > packet.len() {
            return None;
        }
        Some(Self {
            marker: fixed[1] & 0x80 != 0,
            payload_type: fixed[1] & 0x7F,
            sequence: u16::from_be_bytes([fixed[2], fixed[3]]),
            timestamp: u32::from_be_bytes([fixed[4], fixed[5], fixed[6], fixed[7]]),
            ssrc: u32::from_be_bytes([fixed[8], fixed[9], fixed[10], fixed[11]]),
            header_length,
            has_padding: fixed[0] & 0x20 != 0,
            extension_profile,
            extension_start,
            extension_end,
        })
    }

    /// The payload of a plain packet, without padding; `None` when the padding's length lies.
    pub fn payload<'a>(&self, packet: &'a [u8]) -> Option<&'a [u8]> {
        let padding = if self.has_padding { usize::from(*packet.last()?) } else { 0 };
        if self.has_padding && padding == 0 {
            return None;
        }
        packet.get(self.header_length..packet.len().checked_sub(padding)?)
    }

    /// The value of the extension with this id.
    pub fn extension<'a>(&self, packet: &'a [u8], id: Option<u8>) -> Option<&'a [u8]> {
        let id = id?;
        self.extensions(packet).find_map(|(found, value)| (found == id).then_some(value))
    }

    /// All extensions: id and value.
    pub fn extensions<'a>(&self, packet: &'a [u8]) -> Extensions<'a> {
        let bytes = packet.get(self.extension_start..self.extension_end).unwrap_or_default();
        let two_byte = match self.extension_profile {
            ONE_BYTE => false,
            profile if profile & 0xFFF0 == TWO_BYTE => true,
            _ => return Extensions { bytes: &[], two_byte: false },
        };
        Extensions { bytes, two_byte }
    }
}

/// Iterates over header extensions; stops at the first malformed one.
pub struct Extensions<'a> {
    bytes: &'a [u8],
    two_byte: bool,
}

impl<'a> Iterator for Extensions<'a> {
    type Item = (u8, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        while let Some((&0, rest)) = self.bytes.split_first() {
            self.bytes = rest;
        }
        let (id, length, head) = if self.two_byte {
            (*self.bytes.first()?, usize::from(*self.bytes.get(1)?), 2)
        } else {
            let byte = *self.bytes.first()?;
            // Id 15 ends the list (RFC 8285 section 4.2).
            if byte >> 4 == 15 {
                return None;
            }
            (byte >> 4, usize::from(byte & 0x0F) + 1, 1)
        };
        let value = self.bytes.get(head..head + length)?;
        self.bytes = &self.bytes[head + length..];
        Some((id, value))
    }
}

/// What a written header says.
#[derive(Debug, Clone, Copy, Default)]
pub struct HeaderFields {
    /// Marker bit.
    pub marker: bool,
    /// Payload type.
    pub payload_type: u8,
    /// Sequence number.
    pub sequence: u16,
    /// RTP ticks.
    pub timestamp: u32,
    /// Synchronization source.
    pub ssrc: u32,
}

/// Appends a header with `extensions` (at most 255 bytes each) to `out`; returns its length.
pub fn write_header(out: &mut Vec<u8>, fields: HeaderFields, extensions: &[(u8, &[u8])]) -> usize {
    let start = out.len();
    let has_extensions = !extensions.is_empty();
    out.push(0x80 | u8::from(has_extensions) << 4);
    out.push(u8::from(fields.marker) << 7 | fields.payload_type);
    out.extend_from_slice(&fields.sequence.to_be_bytes());
    out.extend_from_slice(&fields.timestamp.to_be_bytes());
    out.extend_from_slice(&fields.ssrc.to_be_bytes());
    if has_extensions {
        write_extensions(out, extensions);
    }
    out.len() - start
}

fn write_extensions(out: &mut Vec<u8>, extensions: &[(u8, &[u8])]) {
    let fits = |(id, value): &(u8, &[u8])| *id < 15 && (1..=16).contains(&value.len());
    let one_byte = extensions.iter().all(fits);
    out.extend_from_slice(&if one_byte { ONE_BYTE } else { TWO_BYTE }.to_be_bytes());
    let length_at = out.len();
    out.extend_from_slice(&[0, 0]);
    for &(id, value) in extensions {
        if one_byte {
            out.push(id << 4 | (value.len() - 1) as u8);
        } else {
            out.extend_from_slice(&[id, value.len() as u8]);
        }
        out.extend_from_slice(value);
    }
    let words = (out.len() - length_at - 2).div_ceil(4);
    out.resize(length_at + 2 + 4 * words, 0);
    out[length_at..length_at + 2].copy_from_slice(&(words as u16).to_be_bytes());
}

/// Extends 16-bit sequence numbers that wrap to 64 bits that do not.
#[derive(Debug, Default, Clone, Copy)]
pub struct Unwrapper {
    highest: Option<u64>,
}

impl Unwrapper {
    /// The extended number nearest to the highest one seen.
    pub fn unwrap(&mut self, sequence: u16) -> u64 {
        let Some(highest) = self.highest else {
            // One turn up, so that packets from before the first one have a number too.
            let first = 1 << 16 | u64::from(sequence);
            self.highest = Some(first);
            return first;
        };
        let step = sequence.wrapping_sub(highest as u16) as i16;
        let extended = highest.saturating_add_signed(i64::from(step));
        self.highest = Some(highest.max(extended));
        extended
    }

    /// Notes an extended number that was found elsewhere.
    pub fn note(&mut self, extended: u64) {
        self.highest = self.highest.max(Some(extended));
    }

    /// The highest extended number seen.
    pub fn highest(&self) -> Option<u64> {
        self.highest
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FIELDS: HeaderFields = HeaderFields {
        marker: true,
        payload_type: 96,
        sequence: 0xFFFF,
        timestamp: 5,
        ssrc: 0xDEAD_BEEF,
    };

    #[test]
    fn what_is_written_is_read() {
        let long = [7; 20];
        let cases: [&[(u8, &[u8])]; 4] =
            [&[], &[(1, b"a")], &[(3, b"abc"), (14, &[0; 16])], &[(15, b"x"), (200, &long)]];
        for extensions in cases {
            let mut packet = Vec::new();
            let length = write_header(&mut packet, FIELDS, extensions);
            packet.extend_from_slice(b"payload");
            let header = RtpHeader::parse(&packet).unwrap();
            assert_eq!(header.header_length, length);
            assert_eq!((header.sequence, header.ssrc), (FIELDS.sequence, FIELDS.ssrc));
            assert!(header.marker);
            assert_eq!(header.payload(&packet), Some(&b"payload"[..]));
            assert_eq!(header.extensions(&packet).collect::<Vec<_>>(), extensions);
        }
    }

    #[test]
    fn padding_is_cut_and_a_lying_length_is_refused() {
        let mut packet = Vec::new();
        write_header(&mut packet, FIELDS, &[]);
        packet[0] |= 0x20;
        packet.extend_from_slice(&[1, 2, 0, 0, 3]);
        let header = RtpHeader::parse(&packet).unwrap();
        assert_eq!(header.payload(&packet), Some(&[1, 2][..]));
        *packet.last_mut().unwrap() = 6;
        assert_eq!(header.payload(&packet), None);
        *packet.last_mut().unwrap() = 0;
        assert_eq!(header.payload(&packet), None);
    }

    #[test]
    fn sequence_numbers_are_extended_over_wraps_in_both_directions() {
        let mut unwrapper = Unwrapper::default();
        let extended: Vec<u64> =
            [65_534, 65_535, 1, 0, 65_533].map(|sequence| unwrapper.unwrap(sequence)).to_vec();
        assert_eq!(extended, [131_070, 131_071, 131_073, 131_072, 131_069]);
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            if let Some(header) = RtpHeader::parse(&bytes) {
                let _ = header.payload(&bytes);
                prop_assert!(header.extensions(&bytes).count() <= bytes.len());
            }
        }
    }
}
