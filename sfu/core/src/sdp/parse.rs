//! Reading a client's description.

use std::collections::BTreeMap;
use std::io::Cursor;

use rtc_sdp::description::common::Attribute;
use rtc_sdp::description::media::MediaDescription;
use rtc_sdp::description::session::SessionDescription;
use thiserror::Error;

use super::codecs::{self, extension_slot};
use super::{Direction, MAX_BYTES, MAX_SECTIONS, Msid, Section, SectionKind, Setup};
use crate::media::{
    DtlsRole, ExtensionIds, Fingerprint, IceCredentials, MediaKind, Mid, RemoteTransport, Rid,
    SsrcPair,
};

/// Most simulcast layers of a section; LiveKit has three.
const MAX_RIDS: usize = 3;
/// Most synchronization sources of a section: three layers.
const MAX_SSRCS: usize = 3;
/// Longest `a=mid` that fits into a header extension with one byte of head (RFC 8285).
const MAX_MID_BYTES: usize = 16;

/// Why a description was not accepted.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SdpError {
    /// Larger than [`MAX_BYTES`].
    #[error("the description is {0} bytes long, at most {MAX_BYTES} are allowed")]
    TooLong(usize),
    /// Not the grammar of RFC 8866.
    #[error("invalid session description: {0}")]
    Syntax(String),
    /// More than [`MAX_SECTIONS`].
    #[error("{0} media sections, at most {MAX_SECTIONS} are allowed")]
    TooManySections(usize),
    /// A section without a usable `a=mid`, or two with the same.
    #[error("media section {0} has no unique mid of 1 to {MAX_MID_BYTES} bytes")]
    Mid(usize),
    /// No credentials or no SHA-256 fingerprint.
    #[error("the description lacks {0}")]
    Missing(&'static str),
}

/// A client's offer or answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Description {
    /// The media sections in their order, which never changes in a session.
    pub sections: Vec<Section>,
}

impl Description {
    /// Reads `text`.
    pub fn parse(text: &str) -> Result<Self, SdpError> {
        if text.len() > MAX_BYTES {
            return Err(SdpError::TooLong(text.len()));
        }
        let session = SessionDescription::unmarshal(&mut Cursor::new(text.as_bytes()))
            .map_err(|error| SdpError::Syntax(error.to_string()))?;
        let count = session.media_descriptions.len();
        if count > MAX_SECTIONS {
            return Err(SdpError::TooManySections(count));
        }
        let mut mids = std::collections::HashSet::new();
        let mut sections = Vec::with_capacity(count);
        for (index, media) in session.media_descriptions.iter().enumerate() {
            let section = section(media, &session.attributes).ok_or(SdpError::Mid(index))?;
            if !mids.insert(section.mid.clone()) {
                return Err(SdpError::Mid(index));
            }
            sections.push(section);
        }
        Ok(Self { sections })
    }

    /// The peer's side of the one transport: that of the first section in use.
    pub fn transport(&self) -> Result<RemoteTransport, SdpError> {
        let section = self
            .sections
            .iter()
            .find(|section| !section.rejected)
            .ok_or(SdpError::Missing("a media section"))?;
        Ok(RemoteTransport {
            ice: section.ice.clone().ok_or(SdpError::Missing("ICE credentials"))?,
            fingerprint: section.fingerprint.ok_or(SdpError::Missing("a SHA-256 fingerprint"))?,
            role: match section.setup {
                Setup::Active | Setup::ActPass => DtlsRole::Server,
                Setup::Passive => DtlsRole::Client,
            },
        })
    }

    /// The section with this name.
    pub fn section(&self, mid: &Mid) -> Option<&Section> {
        self.sections.iter().find(|section| section.mid == *mid)
    }
}

/// Attributes of a section, with those of the session behind them.
struct Attributes<'a> {
    media: &'a [Attribute],
    session: &'a [Attribute],
}

impl<'a> Attributes<'a> {
    fn value(&self, key: &str) -> Option<&'a str> {
        value(self.media, key).or_else(|| value(self.session, key))
    }

    fn all(&self, key: &'static str) -> impl Iterator<Item = &'a str> {
        self.media.iter().filter(move |a| a.key == key).filter_map(|a| a.value.as_deref())
    }

    fn has(&self, key: &str) -> bool {
        self.media.iter().any(|attribute| attribute.key == key)
    }
}

fn value<'a>(attributes: &'a [Attribute], key: &str) -> Option<&'a str> {
    attributes.iter().find(|attribute| attribute.key == key)?.value.as_deref()
}

fn section(media: &MediaDescription, session: &[Attribute]) -> Option<Section> {
    let attributes = Attributes { media: &media.attributes, session };
    let mid = value(&media.attributes, "mid")?;
    if mid.is_empty() || mid.len() > MAX_MID_BYTES || !mid.is_ascii() {
        return None;
    }
    let name = &media.media_name;
    let protocol = name.protos.join("/");
    let kind = match (name.media.as_str(), protocol.ends_with("/SAVPF")) {
        ("audio", true) => SectionKind::Rtp(MediaKind::Audio),
        ("video", true) => SectionKind::Rtp(MediaKind::Video),
        ("application", _) if protocol.ends_with("DTLS/SCTP") => SectionKind::Data,
        _ => SectionKind::Unknown,
    };
    let direction = direction(&attributes);
    Some(Section {
        mid: Mid(mid.to_owned()),
        kind,
        media: name.media.clone(),
        protocol,
        rejected: name.port.value == 0 && !attributes.has("bundle-only"),
        direction,
        codecs: match kind {
            SectionKind::Rtp(kind) => {
                let lines: Vec<&str> = attributes.all("rtpmap").collect();
                let feedback: Vec<&str> = attributes.all("rtcp-fb").collect();
                let fmtp: Vec<&str> = attributes.all("fmtp").collect();
                codecs::parse(kind, &name.formats, &lines, &fmtp, &feedback)
            }
            SectionKind::Data | SectionKind::Unknown => Vec::new(),
        },
        extensions: extensions(&attributes),
        send_rids: send_rids(&attributes),
        ssrcs: ssrcs(&attributes),
        msid: direction.sends().then(|| msid(&attributes)).flatten(),
        ice: ice(&attributes),
        fingerprint: attributes.value("fingerprint").and_then(fingerprint),
        setup: match attributes.value("setup") {
            Some("active") => Setup::Active,
            Some("passive") => Setup::Passive,
            _ => Setup::ActPass,
        },
    })
}

fn direction(attributes: &Attributes<'_>) -> Direction {
    [
        ("sendonly", Direction::SendOnly),
        ("recvonly", Direction::RecvOnly),
        ("inactive", Direction::Inactive),
    ]
    .into_iter()
    .find(|(key, _)| attributes.has(key))
    .map_or(Direction::SendRecv, |(_, direction)| direction)
}

fn extensions(attributes: &Attributes<'_>) -> ExtensionIds {
    let mut ids = ExtensionIds::default();
    for line in attributes.all("extmap") {
        let mut words = line.split_ascii_whitespace();
        let (Some(id), Some(uri)) = (words.next(), words.next()) else { continue };
        // `1/sendonly`: the direction does not matter to us.
        let id = id.split('/').next().and_then(|id| id.parse::<u8>().ok());
        if let (Some(id @ 1..=14), Some(slot)) = (id, extension_slot(&mut ids, uri)) {
            *slot = Some(id);
        }
    }
    ids
}

/// The layers of `a=simulcast:send`; alternatives after a comma are left out.
fn send_rids(attributes: &Attributes<'_>) -> Vec<Rid> {
    let Some(simulcast) = attributes.all("simulcast").next() else { return Vec::new() };
    let mut words = simulcast.split_ascii_whitespace();
    while let Some(word) = words.next() {
        let Some(list) = words.next() else { break };
        if word == "send" {
            return list
                .split(';')
                .filter_map(|layer| layer.split(',').next())
                .map(|rid| rid.trim_start_matches('~'))
                .filter(|rid| !rid.is_empty() && rid.len() <= MAX_MID_BYTES && rid.is_ascii())
                .take(MAX_RIDS)
                .map(|rid| Rid(rid.to_owned()))
                .collect();
        }
    }
    Vec::new()
}

/// Sources in the order of their SIM group, else of their lines; retransmissions by FID group.
fn ssrcs(attributes: &Attributes<'_>) -> Vec<SsrcPair> {
    let mut repair = BTreeMap::new();
    let mut layers: Vec<u32> = Vec::new();
    for line in attributes.all("ssrc-group") {
        let mut words = line.split_ascii_whitespace();
        let semantics = words.next();
        let ids: Vec<u32> = words.filter_map(|word| word.parse().ok()).collect();
        match (semantics, ids.as_slice()) {
            (Some("FID"), [media, rtx]) => {
                repair.insert(*media, *rtx);
            }
            (Some("SIM"), group) => layers = group.to_vec(),
            _ => {}
        }
    }
    if layers.is_empty() {
        for line in attributes.all("ssrc") {
            let id = line.split_ascii_whitespace().next().and_then(|id| id.parse().ok());
            if let Some(id) = id
                && !layers.contains(&id)
                && !repair.values().any(|rtx| *rtx == id)
            {
                layers.push(id);
                if layers.len() == MAX_SSRCS {
                    break;
                }
            }
        }
    }
    layers.truncate(MAX_SSRCS);
    layers.into_iter().map(|ssrc| SsrcPair { ssrc, rtx: repair.get(&ssrc).copied() }).collect()
}

/// `a=msid`, else the older `a=ssrc:… msid:`.
fn msid(attributes: &Attributes<'_>) -> Option<Msid> {
    let line = attributes.all("msid").next().or_else(|| {
        attributes.all("ssrc").find_map(|line| line.split_once(" msid:").map(|(_, msid)| msid))
    })?;
    let mut words = line.split_ascii_whitespace();
    let stream = words.next()?.to_owned();
    // A track of no stream has its id behind a dash.
    let track = words.next()?.to_owned();
    Some(Msid { stream, track })
}

fn ice(attributes: &Attributes<'_>) -> Option<IceCredentials> {
    let ufrag = attributes.value("ice-ufrag")?;
    let pwd = attributes.value("ice-pwd")?;
    let legal = (4..=256).contains(&ufrag.len()) && (22..=256).contains(&pwd.len());
    legal.then(|| IceCredentials { ufrag: ufrag.to_owned(), pwd: pwd.to_owned() })
}

fn fingerprint(line: &str) -> Option<Fingerprint> {
    let (hash, digits) = line.split_once(' ')?;
    if !hash.eq_ignore_ascii_case("sha-256") {
        return None;
    }
    let mut bytes = [0; 32];
    let mut pairs = digits.trim().split(':');
    for byte in &mut bytes {
        *byte = u8::from_str_radix(pairs.next()?, 16).ok()?;
    }
    pairs.next().is_none().then_some(Fingerprint(bytes))
}
