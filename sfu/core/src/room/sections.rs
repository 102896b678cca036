//! Which subscribed track goes out on which media section.
//!
//! A section never changes from one track to another in one step: browsers announce a new
//! track only after the section was inactive, so a freed section is used again one negotiation
//! later.

use std::collections::BTreeMap;

use rand::RngExt as _;
use rand::rngs::StdRng;

use crate::media::{Codec, ExtensionIds, MediaKind, Mid, SsrcPair, TrackKey};
use crate::sdp::Msid;

/// A track on a section.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Placed {
    pub(super) track: TrackKey,
    pub(super) sid: String,
    pub(super) msid: Msid,
    pub(super) ssrc: SsrcPair,
}

/// A section on which we may send.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct SendSection {
    pub(super) mid: Mid,
    pub(super) kind: MediaKind,
    pub(super) placed: Option<Placed>,
    /// Our last description announced a track here.
    pub(super) live: bool,
    /// Negotiated, or offered while that is open.
    pub(super) codecs: Vec<Codec>,
    pub(super) extensions: ExtensionIds,
    /// The description that announces the placed track was accepted.
    pub(super) ready: bool,
}

impl SendSection {
    pub(super) fn is_free(&self) -> bool {
        self.placed.is_none() && !self.live
    }
}

/// A track that wants a section.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Wanted {
    pub(super) kind: MediaKind,
    pub(super) sid: String,
    pub(super) msid: Msid,
    pub(super) codecs: Vec<Codec>,
}

impl Wanted {
    /// Whether a section with these codecs can carry the track.
    pub(super) fn fits(&self, codecs: &[Codec]) -> bool {
        codecs.iter().any(|codec| self.codecs.iter().any(|track| codec.matches(track)))
    }

    pub(super) fn place(&self, track: TrackKey, rng: &mut StdRng) -> Placed {
        let rtx = match self.kind {
            MediaKind::Audio => None,
            MediaKind::Video => Some(rng.random_range(1..=u32::MAX)),
        };
        let ssrc = SsrcPair { ssrc: rng.random_range(1..=u32::MAX), rtx };
        Placed { track, sid: self.sid.clone(), msid: self.msid.clone(), ssrc }
    }
}

/// Takes tracks that nobody wants any more off their sections.
pub(super) fn release(sections: &mut [SendSection], wanted: &BTreeMap<TrackKey, Wanted>) {
    for section in sections {
        if section.placed.as_ref().is_some_and(|placed| !wanted.contains_key(&placed.track)) {
            section.placed = None;
            section.ready = false;
        }
    }
}

/// Puts tracks on free sections; returns those that found none.
pub(super) fn place<'a>(
    sections: &mut [SendSection],
    wanted: &'a BTreeMap<TrackKey, Wanted>,
    rng: &mut StdRng,
) -> Vec<(TrackKey, &'a Wanted)> {
    let mut left = unplaced(sections, wanted);
    left.retain(|(track, wanted)| {
        let section = sections.iter_mut().find(|section| {
            section.is_free() && section.kind == wanted.kind && wanted.fits(&section.codecs)
        });
        match section {
            Some(section) => {
                section.placed = Some(wanted.place(*track, rng));
                false
            }
            None => true,
        }
    });
    left
}

/// Wanted tracks that are on no section.
pub(super) fn unplaced<'a>(
    sections: &[SendSection],
    wanted: &'a BTreeMap<TrackKey, Wanted>,
) -> Vec<(TrackKey, &'a Wanted)> {
    wanted
        .iter()
        .map(|(track, wanted)| (*track, wanted))
        .filter(|(track, _)| {
            !sections.iter().any(|s| s.placed.as_ref().is_some_and(|p| p.track == *track))
        })
        .collect()
}

/// Whether our last description no longer says what is wanted.
pub(super) fn is_stale(sections: &[SendSection], wanted: &BTreeMap<TrackKey, Wanted>) -> bool {
    sections.iter().any(|section| match &section.placed {
        Some(placed) => !wanted.contains_key(&placed.track) || !section.live,
        None => section.live,
    }) || !unplaced(sections, wanted).is_empty()
}
