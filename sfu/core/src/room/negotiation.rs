//! Offers and answers (RFC 8829), with one peer connection or two.
//!
//! With one, only the client offers: tracks go on sections where it only receives, and when
//! our last answer no longer says what is wanted, `media_sections_requirement` asks for the
//! next offer. With two, we offer on the subscriber's, one offer at a time.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use contract::sfu_config::RoomConfig;
use livekit_protocol::{self as proto, SessionDescription, SignalTarget, signal_response};
use tracing::{debug, info};

use super::Room;
use super::codecs;
use super::participant::{Participant, ParticipantKey, PeerTransport, TransportRole, credentials};
use super::publishing::Track;
use super::sections::{self, SendSection, WantedTracks};
use crate::media::{
    Codec, DtlsRole, ExtensionIds, MediaCommand, MediaKind, Mid, RemoteTransport, Rid, SsrcPair,
    TrackKey,
};
use crate::sdp::{self, Description, LocalMedia, LocalSection, LocalTransport, SectionKind, Setup};
use crate::signal::join::PeerConnectionMode;
use crate::time::Now;

/// Changes within this time are negotiated together.
const DEBOUNCE: Duration = Duration::from_millis(10);
/// A client that does not answer an offer, or does not offer when asked, for so long is asked
/// to connect anew.
pub(super) const NEGOTIATION_TIMEOUT: Duration = Duration::from_secs(15);

/// Where negotiation stands.
#[derive(Debug, Default)]
pub(super) struct Negotiation {
    /// The next one begins.
    pub(super) due: Option<Instant>,
    /// The client has to act until then.
    pub(super) pending: Option<Instant>,
    /// Id of our last offer.
    offer_id: u32,
    /// Two connections: the first offer went out. One: the first offer came.
    pub(super) begun: bool,
}

/// A section on which the client sends.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Inbound {
    pub(super) mid: Mid,
    pub(super) kind: MediaKind,
    pub(super) cid: Option<String>,
    pub(super) codecs: Vec<Codec>,
    pub(super) extensions: ExtensionIds,
    pub(super) rids: Vec<Rid>,
    pub(super) ssrcs: Vec<SsrcPair>,
}

impl Inbound {
    /// Whether the section still carries the track that was published on it.
    pub(super) fn carries(&self, track: &Track) -> bool {
        self.cid.as_ref().is_none_or(|cid| track.cids.contains(cid))
    }
}

impl Room {
    /// The client's offer on its publisher connection, or its only one.
    pub(super) fn handle_offer(
        &mut self,
        key: ParticipantKey,
        offer: &SessionDescription,
        now: Now,
    ) {
        let parsed = Description::parse(&offer.sdp)
            .and_then(|description| Ok((description.transport()?, description)));
        let (remote, description) = match parsed {
            Ok(parsed) => parsed,
            Err(error) => {
                info!(room = %self.options.name, %error, "Refused an offer");
                return self.refuse(key, &error.to_string());
            }
        };
        self.accept_remote(key, TransportRole::Publisher, remote);
        let Self { participants, options, rng, .. } = self;
        let Some(participant) = participants.get_mut(&key) else { return };
        let mut failed = Vec::new();
        if participant.subscriber.is_none() {
            let Participant { outbound, wanted, .. } = participant;
            update_outbound(outbound, &description);
            sections::release(outbound, wanted);
            sections::place(outbound, wanted, rng);
            failed = sections::unfit(outbound, wanted);
        }
        let (local, inbound) = answer_sections(participant, &description, &options.config);
        participant.inbound = inbound;
        let dual = participant.subscriber.is_some();
        let mut mid_to_track_id = HashMap::new();
        if !dual {
            confirm_single(&mut participant.outbound, &local);
            mid_to_track_id = track_ids(&participant.outbound);
            participant.negotiation.begun = true;
            participant.negotiation.pending = None;
        }
        let sdp = self.describe(key, TransportRole::Publisher, &local);
        let answer =
            SessionDescription { r#type: "answer".to_owned(), sdp, id: offer.id, mid_to_track_id };
        self.send(key, signal_response::Message::Answer(answer));
        self.give_up(key, failed);
        self.match_tracks(key, now);
    }

    /// The client's answer to our offer on its subscriber connection.
    pub(super) fn handle_answer(&mut self, key: ParticipantKey, answer: &SessionDescription) {
        let Some(participant) = self.participants.get(&key) else { return };
        let negotiation = &participant.negotiation;
        let expected = negotiation.pending.is_some()
            && participant.subscriber.is_some()
            && (answer.id == 0 || answer.id == negotiation.offer_id);
        if !expected {
            debug!(id = answer.id, "Answer to no open offer");
            return;
        }
        let parsed = Description::parse(&answer.sdp)
            .and_then(|description| Ok((description.transport()?, description)));
        let (remote, description) = match parsed {
            Ok(parsed) => parsed,
            Err(error) => {
                info!(room = %self.options.name, %error, "Refused an answer");
                return self.refuse(key, &error.to_string());
            }
        };
        self.accept_remote(key, TransportRole::Subscriber, remote);
        let Some(participant) = self.participants.get_mut(&key) else { return };
        participant.negotiation.pending = None;
        let failed = confirm_dual(&mut participant.outbound, &description);
        self.give_up(key, failed);
        self.dirty.insert(key);
    }

    /// Takes the peer's side of a transport; new credentials of a known peer are an ICE restart,
    /// which gets new ones of ours where we answer.
    fn accept_remote(&mut self, key: ParticipantKey, role: TransportRole, remote: RemoteTransport) {
        let Some(participant) = self.participants.get_mut(&key) else { return };
        let Some(transport) = participant.transport_mut(role) else { return };
        if transport.remote.as_ref() == Some(&remote) {
            return;
        }
        let id = transport.id;
        let restart = transport.remote.as_ref().is_some_and(|known| known.ice != remote.ice);
        let first = transport.remote.is_none();
        if role == TransportRole::Publisher {
            if restart {
                transport.local = credentials(&mut self.rng);
            }
            if restart || first {
                let (worker, local) = (transport.worker, transport.local.clone());
                self.output.push_back(super::RoomOutput::Media(MediaCommand::OpenTransport {
                    transport: id,
                    worker,
                    local,
                }));
            }
        }
        transport.remote = Some(remote.clone());
        self.media(MediaCommand::ConnectTransport { transport: id, remote });
    }

    /// Begins a negotiation soon when our last description is no longer what is wanted.
    pub(super) fn schedule_negotiation(&mut self, key: ParticipantKey, now: Now) {
        let Some(participant) = self.participants.get(&key) else { return };
        let negotiation = &participant.negotiation;
        let idle = negotiation.due.is_none() && negotiation.pending.is_none();
        if !idle || !negotiation.begun {
            return;
        }
        let stale = sections::is_stale(&participant.outbound, &participant.wanted);
        if stale && let Some(participant) = self.participants.get_mut(&key) {
            participant.negotiation.due = Some(now.instant + DEBOUNCE);
        }
    }

    /// Offers, or asks for an offer.
    pub(super) fn negotiate(&mut self, key: ParticipantKey, now: Now) {
        let Some(participant) = self.participants.get(&key) else { return };
        // Nobody hears it; when the client resumes, the state is compared again.
        if participant.session.is_none() {
            return;
        }
        if participant.subscriber.is_some() {
            return self.offer(key, now);
        }
        if !sections::is_stale(&participant.outbound, &participant.wanted) {
            return;
        }
        let missing = |kind| {
            let unplaced = sections::unplaced(&participant.outbound, &participant.wanted);
            let tracks = unplaced.iter().filter(|(_, wanted)| wanted.kind == kind).count();
            let free =
                participant.outbound.iter().filter(|s| s.kind == kind && s.is_free()).count();
            u32::try_from(tracks.saturating_sub(free)).unwrap_or(u32::MAX)
        };
        let requirement = proto::MediaSectionsRequirement {
            num_audios: missing(MediaKind::Audio),
            num_videos: missing(MediaKind::Video),
        };
        debug!(room = %self.options.name, ?requirement, "Asks for an offer");
        self.send(key, signal_response::Message::MediaSectionsRequirement(requirement));
        self.await_client(key, now);
    }

    fn await_client(&mut self, key: ParticipantKey, now: Now) {
        if let Some(participant) = self.participants.get_mut(&key) {
            participant.negotiation.pending = Some(now.instant + NEGOTIATION_TIMEOUT);
        }
    }

    /// Our offer on the subscriber connection.
    fn offer(&mut self, key: ParticipantKey, now: Now) {
        let Some(participant) = self.participants.get_mut(&key) else { return };
        let Participant { outbound, wanted, .. } = &mut *participant;
        sections::release(outbound, wanted);
        let left = sections::place(outbound, wanted, &mut self.rng);
        for (track, wanted) in left {
            // The data channels have the first section.
            let index = outbound.len() + 1;
            if index == sdp::MAX_SECTIONS {
                break;
            }
            outbound.push(SendSection {
                mid: Mid(index.to_string()),
                kind: wanted.kind,
                placed: Some(wanted.place(track, &mut self.rng)),
                live: false,
                codecs: Vec::new(),
                extensions: ExtensionIds::default(),
                ready: false,
            });
        }
        let mut local = vec![LocalSection::offer_data(Mid("0".to_owned()))];
        for section in &mut *outbound {
            section.live = section.placed.is_some();
            local.push(offered_section(section, wanted));
        }
        let first = !std::mem::replace(&mut participant.negotiation.begun, true);
        participant.negotiation.offer_id += 1;
        let id = participant.negotiation.offer_id;
        let mid_to_track_id = track_ids(&participant.outbound);
        if first {
            self.open_subscriber(key);
        }
        let sdp = self.describe(key, TransportRole::Subscriber, &local);
        let offer = SessionDescription { r#type: "offer".to_owned(), sdp, id, mid_to_track_id };
        self.send(key, signal_response::Message::Offer(offer));
        if first {
            self.trickle(key);
        }
        self.await_client(key, now);
    }

    /// Somebody who joined without the right to subscribe got it: the client of two connections
    /// has its second one by our offer.
    pub(super) fn open_missing_subscriber(&mut self, key: ParticipantKey, now: Now) {
        let Some(participant) = self.participants.get_mut(&key) else { return };
        let is_missing = participant.mode == PeerConnectionMode::Dual
            && participant.permission.can_subscribe
            && participant.subscriber.is_none();
        if !is_missing {
            return;
        }
        let subscriber = PeerTransport::new(participant.publisher.worker, &mut self.rng);
        self.transports.insert(subscriber.id, (key, TransportRole::Subscriber));
        participant.subscriber = Some(subscriber);
        participant.outbound.clear();
        participant.negotiation = Negotiation::default();
        self.refresh_wanted(key);
        self.negotiate(key, now);
    }

    fn open_subscriber(&mut self, key: ParticipantKey) {
        let Some(subscriber) = self.participants.get(&key).and_then(|p| p.subscriber.as_ref())
        else {
            return;
        };
        let (transport, worker, local) =
            (subscriber.id, subscriber.worker, subscriber.local.clone());
        self.media(MediaCommand::OpenTransport { transport, worker, local });
        self.media(MediaCommand::OpenDataChannels { transport });
    }

    /// A new offer with new credentials: after the client resumed.
    pub(super) fn restart_subscriber(&mut self, key: ParticipantKey, now: Now) {
        let Some(participant) = self.participants.get_mut(&key) else { return };
        let Some(subscriber) = participant.subscriber.as_mut() else { return };
        subscriber.local = credentials(&mut self.rng);
        let (transport, worker, local) =
            (subscriber.id, subscriber.worker, subscriber.local.clone());
        participant.negotiation.due = None;
        self.media(MediaCommand::OpenTransport { transport, worker, local });
        self.negotiate(key, now);
        self.trickle(key);
    }

    /// Our candidates, which stand in the description too, for clients that wait for the last.
    fn trickle(&mut self, key: ParticipantKey) {
        let Some(participant) = self.participants.get(&key) else { return };
        let Some(subscriber) = &participant.subscriber else { return };
        let ufrag = subscriber.local.ufrag.clone();
        let candidates = self.candidates_for(&participant.identity, subscriber.worker);
        for (index, candidate) in candidates.iter().enumerate() {
            let init = serde_json::json!({
                "candidate": sdp::candidate_line(index, candidate),
                "sdpMid": "0",
                "sdpMLineIndex": 0,
                "usernameFragment": ufrag,
            });
            let trickle = proto::TrickleRequest {
                candidate_init: init.to_string(),
                target: SignalTarget::Subscriber.into(),
                r#final: index + 1 == candidates.len(),
            };
            self.send(key, signal_response::Message::Trickle(trickle));
        }
    }

    fn describe(
        &mut self,
        key: ParticipantKey,
        role: TransportRole,
        sections: &[LocalSection],
    ) -> String {
        let fingerprint = self.options.fingerprint;
        let candidates = match self.participants.get(&key) {
            Some(participant) => {
                // All transports of a participant are opened on the same worker.
                self.candidates_for(&participant.identity, participant.publisher.worker)
            }
            None => return String::new(),
        };
        let Some(transport) = self.participants.get_mut(&key).and_then(|p| p.transport_mut(role))
        else {
            return String::new();
        };
        transport.sdp_version += 1;
        let role_in_handshake = transport.remote.as_ref().map(|remote| remote.role);
        let setup = match (role, role_in_handshake) {
            (TransportRole::Publisher, Some(DtlsRole::Client)) => Setup::Active,
            (TransportRole::Publisher, Some(DtlsRole::Server) | None) => Setup::Passive,
            (TransportRole::Subscriber, _) => Setup::ActPass,
        };
        let local =
            LocalTransport { ice: &transport.local, fingerprint, setup, candidates: &candidates };
        sdp::write(transport.sdp_id, transport.sdp_version, &local, sections)
    }
}

/// Sections of a client's offer on which it only receives; in single mode we may send there.
fn update_outbound(outbound: &mut Vec<SendSection>, offer: &Description) {
    let receiving = |mid: &Mid| {
        offer.section(mid).is_some_and(|section| {
            !section.rejected && section.direction == sdp::Direction::RecvOnly
        })
    };
    outbound.retain(|section| receiving(&section.mid));
    for section in &offer.sections {
        let SectionKind::Rtp(kind) = section.kind else { continue };
        if !receiving(&section.mid) {
            continue;
        }
        match outbound.iter_mut().find(|known| known.mid == section.mid) {
            Some(known) => known.codecs.clone_from(&section.codecs),
            None => outbound.push(SendSection {
                mid: section.mid.clone(),
                kind,
                placed: None,
                live: false,
                codecs: section.codecs.clone(),
                extensions: ExtensionIds::default(),
                ready: false,
            }),
        }
    }
}

/// Our answer to each section, and those on which the client sends.
fn answer_sections(
    participant: &Participant,
    offer: &Description,
    config: &RoomConfig,
) -> (Vec<LocalSection>, Vec<Inbound>) {
    let mut inbound = Vec::new();
    let local = offer
        .sections
        .iter()
        .map(|section| match section.kind {
            SectionKind::Data => LocalSection::answer(section, LocalMedia::Data, Vec::new()),
            SectionKind::Unknown => LocalSection::answer(section, LocalMedia::Rejected, Vec::new()),
            SectionKind::Rtp(kind) if section.direction.sends() => {
                let cid = section.msid.as_ref().map(|msid| &msid.track);
                let track = participant
                    .tracks
                    .iter()
                    .find(|track| cid.is_some_and(|cid| track.cids.contains(cid)));
                let codecs = codecs::answered(section.codecs.clone(), kind, track, config);
                let body = LocalMedia::Receive { rids: section.send_rids.clone() };
                let answer = LocalSection::answer(section, body, codecs);
                if answer.body != LocalMedia::Rejected && participant.permission.can_publish {
                    inbound.push(Inbound {
                        mid: section.mid.clone(),
                        kind,
                        cid: cid.cloned(),
                        codecs: answer.codecs.clone(),
                        extensions: answer.extensions,
                        rids: rising(section.send_rids.clone()),
                        ssrcs: section.ssrcs.clone(),
                    });
                }
                answer
            }
            SectionKind::Rtp(_) => answer_receiving(participant, section),
        })
        .collect();
    (local, inbound)
}

fn answer_receiving(participant: &Participant, section: &sdp::Section) -> LocalSection {
    let outbound = participant.outbound.iter().find(|known| known.mid == section.mid);
    let body = match outbound.and_then(|known| known.placed.as_ref()) {
        Some(placed) => LocalMedia::Send { msid: placed.msid.clone(), ssrc: placed.ssrc },
        None => LocalMedia::Inactive,
    };
    LocalSection::answer(section, body, sdp::accepted_codecs(&section.codecs, &[]))
}

/// LiveKit's clients name layers `q`, `h`, `f`; other names are taken as rising.
fn rising(mut rids: Vec<Rid>) -> Vec<Rid> {
    let rank = |rid: &Rid| ["q", "h", "f"].iter().position(|name| *name == rid.0);
    if rids.iter().all(|rid| rank(rid).is_some()) {
        rids.sort_by_key(rank);
    }
    rids
}

/// After our answer: what it says holds at once.
fn confirm_single(outbound: &mut [SendSection], local: &[LocalSection]) {
    for section in outbound {
        let Some(answer) = local.iter().find(|answer| answer.mid == section.mid) else { continue };
        section.live = section.placed.is_some();
        section.ready = section.live && matches!(answer.body, LocalMedia::Send { .. });
        section.codecs.clone_from(&answer.codecs);
        section.extensions = sdp::sending_extensions(answer.extensions);
    }
}

/// After the client's answer; returns the tracks that it cannot receive.
fn confirm_dual(outbound: &mut [SendSection], answer: &Description) -> Vec<(TrackKey, String)> {
    let mut failed = Vec::new();
    for section in outbound.iter_mut().filter(|section| section.live) {
        let accepted = answer.section(&section.mid).filter(|answer| {
            !answer.rejected && answer.direction.receives() && !answer.codecs.is_empty()
        });
        match (accepted, section.placed.as_ref()) {
            (Some(answer), Some(_)) => {
                section.codecs.clone_from(&answer.codecs);
                section.extensions = sdp::sending_extensions(answer.extensions);
                section.ready = true;
            }
            (None, Some(placed)) => failed.push((placed.track, placed.sid.clone())),
            (_, None) => {}
        }
    }
    failed
}

fn offered_section(section: &mut SendSection, wanted: &WantedTracks) -> LocalSection {
    let body = match &section.placed {
        Some(placed) => {
            if let Some(wanted) = wanted
                .get(&placed.track)
                .filter(|wanted| !section.ready || !wanted.fits(&section.codecs))
            {
                section.codecs = sdp::offered_codecs(&wanted.codecs);
            }
            LocalMedia::Send { msid: placed.msid.clone(), ssrc: placed.ssrc }
        }
        None => LocalMedia::Inactive,
    };
    LocalSection::offer_media(section.mid.clone(), section.kind, body, section.codecs.clone())
}

fn track_ids(outbound: &[SendSection]) -> HashMap<String, String> {
    outbound
        .iter()
        .filter_map(|section| Some((section.mid.0.clone(), section.placed.as_ref()?.sid.clone())))
        .collect()
}
