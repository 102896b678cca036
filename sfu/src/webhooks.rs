//! Webhooks: what happens in rooms, told to the application by signed requests.
//!
//! Every room has a queue for each receiver, so that events of a room arrive in order and a
//! receiver that is slow or dead delays neither rooms nor other receivers: its queue fills, and
//! what does not fit or gets too old is dropped.

mod delivery;

use std::sync::Arc;
use std::time::Instant;

use contract::ids::{RoomName, generate_id};
use contract::sfu_config::WebhookConfig;
use hyper::Uri;
use livekit_protocol::WebhookEvent;
use thiserror::Error;
use tokio::sync::mpsc;

use crate::keys::Keys;
use crate::session::now;
use delivery::{Deliverer, Queued};

/// Events that wait for a receiver (LiveKit's depth).
const QUEUE: usize = 200;

/// Why webhooks cannot be sent as configured.
#[derive(Debug, Error)]
pub enum WebhookError {
    /// Not an address that requests can go to.
    #[error("webhook.urls: {0:?} is not an http or https URL")]
    Url(String),
    /// An event that does not exist: nobody would ever miss it.
    #[error("webhook: {0:?} is not the name of an event")]
    Event(String),
    /// The system's authorities.
    #[error("failed to read the system's certificate authorities")]
    Authorities(#[source] std::io::Error),
}

/// Names of all events.
const EVENTS: [&str; 9] = [
    "room_started",
    "room_finished",
    "participant_joined",
    "participant_left",
    "participant_connection_aborted",
    "track_published",
    "track_unpublished",
    "agent_job_started",
    "agent_job_ended",
];

/// All receivers.
#[derive(Clone)]
pub struct Webhooks {
    config: Arc<WebhookConfig>,
    deliverers: Vec<Arc<Deliverer>>,
}

impl Webhooks {
    /// Prepares deliveries; without URLs nothing is ever sent.
    ///
    /// # Errors
    ///
    /// With what is wrong in the configuration.
    pub fn new(config: WebhookConfig, keys: Arc<Keys>) -> Result<Self, WebhookError> {
        let named = config.include_events.iter().chain(&config.exclude_events);
        for event in named {
            if !EVENTS.contains(&event.as_str()) {
                return Err(WebhookError::Event(event.clone()));
            }
        }
        let mut deliverers = Vec::new();
        for url in &config.urls {
            let uri = url.parse::<Uri>().ok().filter(|uri| {
                uri.host().is_some() && matches!(uri.scheme_str(), Some("http" | "https"))
            });
            let uri = uri.ok_or_else(|| WebhookError::Url(url.clone()))?;
            let key = config.api_key.clone();
            deliverers.push(Arc::new(Deliverer::new(uri, key, Arc::clone(&keys))?));
        }
        Ok(Self { config: Arc::new(config), deliverers })
    }

    /// The queues of a room.
    pub fn of_room(&self, room: &RoomName) -> RoomWebhooks {
        let queues = self.deliverers.iter().map(|deliverer| {
            let (queue, events) = mpsc::channel(QUEUE);
            tokio::spawn(Arc::clone(deliverer).run(events));
            queue
        });
        RoomWebhooks {
            room: room.clone(),
            config: Arc::clone(&self.config),
            queues: queues.collect(),
        }
    }
}

/// The queues of one room; what is in them is delivered after the room's end, too.
pub struct RoomWebhooks {
    room: RoomName,
    config: Arc<WebhookConfig>,
    queues: Vec<mpsc::Sender<Queued>>,
}

impl RoomWebhooks {
    /// Queues an event for every receiver. Never waits.
    pub fn send(&self, mut event: WebhookEvent) {
        if self.queues.is_empty() || !is_wanted(&self.config, &event.event) {
            return;
        }
        event.id = generate_id("EV_", &mut rand::rng());
        event.created_at = i64::try_from(now().unix_seconds()).unwrap_or(i64::MAX);
        let body = match serde_json::to_vec(&event) {
            Ok(body) => hyper::body::Bytes::from(body),
            Err(error) => return tracing::error!(%error, "Failed to write an event"),
        };
        for queue in &self.queues {
            let queued =
                Queued { at: Instant::now(), event: event.event.clone(), body: body.clone() };
            if queue.try_send(queued).is_err() {
                tracing::debug!(room = %self.room, event = event.event, "Event dropped: queue full");
            }
        }
    }
}

fn is_wanted(config: &WebhookConfig, event: &str) -> bool {
    let has = |list: &[String]| list.iter().any(|name| name == event);
    (config.include_events.is_empty() || has(&config.include_events))
        && !has(&config.exclude_events)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_say_which_events_are_sent() {
        let list = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let cases: [(&[&str], &[&str], bool); 4] = [
            (&[], &[], true),
            (&["room_started"], &[], true),
            (&["room_finished"], &[], false),
            (&["room_started"], &["room_started"], false),
        ];
        for (include, exclude, wanted) in cases {
            let config = WebhookConfig {
                include_events: list(include),
                exclude_events: list(exclude),
                ..WebhookConfig::default()
            };
            assert_eq!(is_wanted(&config, "room_started"), wanted, "{include:?} {exclude:?}");
        }
    }
}
