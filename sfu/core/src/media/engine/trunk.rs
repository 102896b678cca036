//! Tracks between nodes: what the mirrors of a track at another node must know goes there in the
//! words in which workers of one node tell each other, and their wishes come back.

use std::time::Instant;

use super::super::TrackKey;
use super::{Engine, SiblingContent, SiblingMessage};

impl Engine {
    /// A track has a part at another node from now on, or no more: mirrors of it, or the track
    /// that is mirrored here.
    pub fn set_trunk(&mut self, track: TrackKey, is_on: bool) {
        if is_on {
            self.trunks.insert(track);
        } else {
            self.trunks.remove(&track);
        }
    }

    /// The next message for another node.
    pub fn poll_trunk(&mut self) -> Option<SiblingMessage> {
        self.trunk_messages.pop_front()
    }

    /// Takes what another node says: of a track that is mirrored here, or a wish of its mirrors.
    pub fn handle_trunk(&mut self, message: SiblingMessage, now: Instant) {
        if matches!(message.content, SiblingContent::KeyFrameRequest) {
            return self.handle_sibling(message, now);
        }
        self.now = now;
        self.tell_mirrors(message.track, message.layer, &message.content, now);
    }

    pub(super) fn put_on_trunk(&mut self, track: TrackKey, layer: u8, content: &SiblingContent) {
        if self.trunks.contains(&track) {
            let content = content.clone();
            self.trunk_messages.push_back(SiblingMessage { track, layer, content });
        }
    }
}
