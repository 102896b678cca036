//! Which subscribed track goes out on which media section.
//!
//! A section never changes from one track to another in one step: browsers announce a new
//! track only after the section was inactive, so a freed section is used again one negotiation
//! later.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

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

/// Tracks that a participant shall get. What each needs of a section is made once and shared by
/// all who want it.
pub(super) type WantedTracks = BTreeMap<TrackKey, Arc<Wanted>>;

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
pub(super) fn release(sections: &mut [SendSection], wanted: &WantedTracks) {
    take_off(sections, |track| !wanted.contains_key(&track));
}

/// Takes a track off its section at once, because the client gave it up: who subscribes again
/// before the next negotiation has forgotten the old section and waits for a new one.
pub(super) fn release_track(sections: &mut [SendSection], track: TrackKey) {
    take_off(sections, |placed| placed == track);
}

fn take_off(sections: &mut [SendSection], is_over: impl Fn(TrackKey) -> bool) {
    for section in sections {
        if section.placed.as_ref().is_some_and(|placed| is_over(placed.track)) {
            section.placed = None;
            section.ready = false;
        }
    }
}

/// Puts tracks on free sections; returns those that found none.
pub(super) fn place<'a>(
    sections: &mut [SendSection],
    wanted: &'a WantedTracks,
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
    wanted: &'a WantedTracks,
) -> Vec<(TrackKey, &'a Wanted)> {
    let placed: BTreeSet<TrackKey> =
        sections.iter().filter_map(|section| section.placed.as_ref()).map(|p| p.track).collect();
    wanted
        .iter()
        .filter(|(track, _)| !placed.contains(track))
        .map(|(track, wanted)| (*track, wanted.as_ref()))
        .collect()
}

/// Tracks without a section although one of their kind is free: the client has no codec for them.
pub(super) fn unfit(sections: &[SendSection], wanted: &WantedTracks) -> Vec<(TrackKey, String)> {
    unplaced(sections, wanted)
        .into_iter()
        .filter(|(_, wanted)| {
            let mut free = sections.iter().filter(|s| s.is_free() && s.kind == wanted.kind);
            free.clone().next().is_some() && !free.any(|section| wanted.fits(&section.codecs))
        })
        .map(|(track, wanted)| (track, wanted.sid.clone()))
        .collect()
}

/// Whether our last description no longer says what is wanted.
pub(super) fn is_stale(sections: &[SendSection], wanted: &WantedTracks) -> bool {
    sections.iter().any(|section| match &section.placed {
        Some(placed) => {
            !section.live || wanted.get(&placed.track).is_none_or(|w| !w.fits(&section.codecs))
        }
        None => section.live,
    }) || !unplaced(sections, wanted).is_empty()
}
