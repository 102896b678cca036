//! What happens in rooms, on a stream in Redis, for other programs of whoever runs the cluster.
//!
//! Rooms never wait for it: their events go into one bounded queue of the node, and one task writes
//! what is in the queue in batches. While Redis is away the queue fills, and what does not fit is
//! dropped and counted. A batch whose answer was lost is written again; readers tell by the `id`
//! what they have seen. The fields are in `docs/room-events.md`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use contract::ids::NodeId;
use livekit_protocol::{DisconnectReason, WebhookEvent, participant_info};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use crate::placement::{Placement, StoreError};
use crate::session::now;

/// Entries that wait for Redis: some seconds of a node with thousands of people coming and going.
const QUEUE: usize = 4096;
/// Most entries of one request.
const BATCH: usize = 64;
/// Wait before a batch is written again.
const PAUSE: Duration = Duration::from_secs(1);
/// How often Redis may refuse a batch before it is dropped.
const REFUSALS: u32 = 3;
/// Time that a node which ends gives to what is in the queue.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);

/// An entry of the stream: fields and values in order.
pub type Entry = Vec<(&'static str, String)>;

/// What the task does next.
enum Item {
    Write(Entry),
    /// Tells when all before it is written.
    Flush(oneshot::Sender<()>),
}

/// The way to the stream; without one, events go nowhere.
#[derive(Clone, Default)]
pub struct RoomEvents {
    queue: Option<mpsc::Sender<Item>>,
    dropped: Arc<AtomicU64>,
}

impl RoomEvents {
    /// Starts to write what comes to the stream, which keeps about `length` entries; 0 is no stream.
    pub fn start(placement: &Arc<Placement>, length: u32) -> Self {
        if length == 0 || matches!(**placement, Placement::Memory(_)) {
            return Self::default();
        }
        let (queue, items) = mpsc::channel(QUEUE);
        let events = Self { queue: Some(queue), dropped: Arc::default() };
        let (placement, dropped) = (Arc::clone(placement), Arc::clone(&events.dropped));
        tokio::spawn(async move { Writer { placement, length, dropped }.run(items).await });
        events
    }

    /// Queues an event of a room under this epoch of its home. Never waits.
    pub fn send(&self, event: &WebhookEvent, node: &NodeId, epoch: &str) {
        let Some(queue) = &self.queue else { return };
        let Some(entry) = entry(event, node.as_str(), epoch, now().unix_ms) else { return };
        if queue.try_send(Item::Write(entry)).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Waits a moment until what was sent before is written: the process ends.
    pub async fn flush(&self) {
        let Some(queue) = &self.queue else { return };
        let (written, wait) = oneshot::channel();
        let flush = async {
            // The task lives as long as this.
            let _queued = queue.send(Item::Flush(written)).await;
            let _written = wait.await;
        };
        if timeout(FLUSH_TIMEOUT, flush).await.is_err() {
            tracing::warn!("Room events not written: Redis did not answer in time");
        }
    }

    /// Entries that did not fit into the queue, or that Redis refused.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

/// The task.
struct Writer {
    placement: Arc<Placement>,
    length: u32,
    dropped: Arc<AtomicU64>,
}

impl Writer {
    async fn run(self, mut items: mpsc::Receiver<Item>) {
        let mut batch = Vec::with_capacity(BATCH);
        while items.recv_many(&mut batch, BATCH).await > 0 {
            let (mut entries, mut waiting) = (Vec::new(), Vec::new());
            for item in batch.drain(..) {
                match item {
                    Item::Write(entry) => entries.push(entry),
                    Item::Flush(written) => waiting.push(written),
                }
            }
            self.write(&entries).await;
            for written in waiting {
                // Who waited may have gone.
                let _unheard = written.send(());
            }
        }
    }

    /// Writes entries, however long Redis is away.
    async fn write(&self, entries: &[Entry]) {
        if entries.is_empty() {
            return;
        }
        let (mut tries, mut refusals) = (0_u32, 0);
        while let Err(error) = self.placement.append_events(entries, self.length).await {
            tries = tries.saturating_add(1);
            refusals += u32::from(is_refusal(&error));
            if tries == 1 {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, "Room events not written");
            }
            if refusals == REFUSALS {
                self.dropped.fetch_add(entries.len() as u64, Ordering::Relaxed);
                return;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// Whether Redis is there and does not take the entries: no permission, no memory, another type. What
/// passes by itself is none: a server that starts, or is not in charge any more.
fn is_refusal(error: &StoreError) -> bool {
    use redis::{ErrorKind, ServerErrorKind as Server};
    let StoreError::Redis(error) = error else { return false };
    match error.kind() {
        ErrorKind::Server(
            Server::BusyLoading
            | Server::ReadOnly
            | Server::MasterDown
            | Server::ClusterDown
            | Server::TryAgain
            | Server::Moved
            | Server::Ask,
        ) => false,
        // Codes that the client does not know are of the kind `Extension`.
        ErrorKind::Server(_) | ErrorKind::Extension => true,
        _ => false,
    }
}

/// The entry of an event; `None` for events that are only for webhooks.
fn entry(event: &WebhookEvent, node: &str, epoch: &str, unix_ms: u64) -> Option<Entry> {
    let room = event.room.as_ref()?;
    let mut entry = vec![
        ("event", event.event.clone()),
        ("at", unix_ms.to_string()),
        ("node", node.to_owned()),
        ("epoch", epoch.to_owned()),
        ("room", room.name.clone()),
        ("room_sid", room.sid.clone()),
    ];
    let subject = match event.event.as_str() {
        "room_started" | "room_finished" => &room.sid,
        "participant_joined" | "participant_left" => &event.participant.as_ref()?.sid,
        "track_published" | "track_unpublished" => &event.track.as_ref()?.sid,
        _ => return None,
    };
    // Sids are never used again: whoever has seen the id has seen the event.
    entry.insert(0, ("id", format!("{}:{subject}", event.event)));
    if let Some(participant) = &event.participant {
        entry.push(("identity", participant.identity.clone()));
        entry.push(("participant_sid", participant.sid.clone()));
        let kind = participant_info::Kind::try_from(participant.kind).unwrap_or_default();
        entry.push(("participant_kind", kind.as_str_name().to_owned()));
        if event.event == "participant_left" {
            let reason = DisconnectReason::try_from(participant.disconnect_reason);
            entry.push(("reason", reason.unwrap_or_default().as_str_name().to_owned()));
        }
    }
    if let Some(track) = &event.track {
        entry.push(("track_sid", track.sid.clone()));
        entry.push(("track_type", track.r#type().as_str_name().to_owned()));
        entry.push(("track_source", track.source().as_str_name().to_owned()));
    }
    Some(entry)
}

#[cfg(test)]
mod tests {
    use livekit_protocol::{ParticipantInfo, Room, TrackInfo, TrackSource, TrackType};
    use redis::{ErrorKind, RedisError, ServerErrorKind};

    use super::*;

    fn event(name: &str) -> WebhookEvent {
        WebhookEvent {
            event: name.to_owned(),
            room: Some(Room {
                name: "lobby".to_owned(),
                sid: "RM_1".to_owned(),
                ..Room::default()
            }),
            ..WebhookEvent::default()
        }
    }

    fn text(entry: &Entry) -> String {
        let fields: Vec<String> =
            entry.iter().map(|(field, value)| format!("{field}={value}")).collect();
        fields.join(" ")
    }

    #[test]
    fn an_entry_says_who_and_what_and_is_known_by_its_id() {
        let started = entry(&event("room_started"), "ND_1", "7", 5).unwrap();
        assert_eq!(
            text(&started),
            "id=room_started:RM_1 event=room_started at=5 node=ND_1 epoch=7 room=lobby room_sid=RM_1"
        );
        let mut left = event("participant_left");
        left.participant = Some(ParticipantInfo {
            identity: "anna".to_owned(),
            sid: "PA_1".to_owned(),
            disconnect_reason: DisconnectReason::ClientInitiated.into(),
            ..ParticipantInfo::default()
        });
        let entry_of_left = text(&entry(&left, "ND_1", "7", 5).unwrap());
        assert!(entry_of_left.starts_with("id=participant_left:PA_1 "), "{entry_of_left}");
        assert!(
            entry_of_left.ends_with(
                "identity=anna participant_sid=PA_1 participant_kind=STANDARD reason=CLIENT_INITIATED"
            ),
            "{entry_of_left}"
        );
        let mut published = WebhookEvent { event: "track_published".to_owned(), ..left };
        published.track = Some(TrackInfo {
            sid: "TR_1".to_owned(),
            r#type: TrackType::Video.into(),
            source: TrackSource::Camera.into(),
            ..TrackInfo::default()
        });
        let entry_of_track = text(&entry(&published, "ND_1", "7", 5).unwrap());
        assert!(entry_of_track.starts_with("id=track_published:TR_1 "), "{entry_of_track}");
        assert!(
            entry_of_track.ends_with("track_sid=TR_1 track_type=VIDEO track_source=CAMERA"),
            "{entry_of_track}"
        );
    }

    #[test]
    fn what_only_webhooks_tell_is_no_entry() {
        for name in ["participant_connection_aborted", "agent_job_started", "agent_job_ended"] {
            assert_eq!(entry(&event(name), "ND_1", "7", 5), None, "{name}");
        }
    }

    #[test]
    fn a_refusal_is_what_does_not_pass_by_itself() {
        let cases = [
            (ErrorKind::Io, false),
            (ErrorKind::Server(ServerErrorKind::BusyLoading), false),
            (ErrorKind::Server(ServerErrorKind::ReadOnly), false),
            (ErrorKind::Server(ServerErrorKind::NoPerm), true),
            (ErrorKind::Server(ServerErrorKind::ResponseError), true),
            (ErrorKind::Extension, true),
        ];
        for (kind, expected) in cases {
            let error = StoreError::Redis(RedisError::from((kind, "refused")));
            assert_eq!(is_refusal(&error), expected, "{error:?}");
        }
        assert!(!is_refusal(&StoreError::NoServer));
    }

    #[tokio::test]
    async fn a_queue_that_nobody_empties_drops_and_counts() {
        let (queue, mut items) = mpsc::channel(1);
        let events = RoomEvents { queue: Some(queue), dropped: Arc::default() };
        let node = NodeId::from("ND_1".to_owned());
        for _ in 0..3 {
            events.send(&event("room_started"), &node, "7");
        }
        assert_eq!(events.dropped(), 2);
        assert!(matches!(items.recv().await, Some(Item::Write(_))));
        events.send(&event("agent_job_started"), &node, "7");
        assert_eq!(events.dropped(), 2);
        assert!(items.try_recv().is_err());
    }
}
