//! What a room tells the application's webhooks.

use livekit_protocol::{Job, ParticipantInfo, TrackInfo, WebhookEvent};

use super::{Room, RoomOutput};

impl Room {
    pub(super) fn emit(
        &mut self,
        event: &str,
        participant: Option<ParticipantInfo>,
        track: Option<TrackInfo>,
    ) {
        let event = WebhookEvent {
            event: event.to_owned(),
            room: Some(self.info()),
            participant,
            track,
            ..WebhookEvent::default()
        };
        self.output.push_back(RoomOutput::Event(Box::new(event)));
    }

    pub(super) fn emit_track(
        &mut self,
        event: &str,
        participant: ParticipantInfo,
        track: TrackInfo,
    ) {
        self.emit(event, Some(participant), Some(track));
    }

    pub(super) fn emit_job(&mut self, event: &str, job: Job) {
        let event = WebhookEvent {
            event: event.to_owned(),
            room: Some(self.info()),
            job: Some(job),
            ..WebhookEvent::default()
        };
        self.output.push_back(RoomOutput::Event(Box::new(event)));
    }
}
