//! What a test needs to enter rooms: the address, tokens, and the paths of the LiveKit protocol.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use contract::access_token::{ApiKeys, Claims, claims};

/// Lifetime of the tokens of a test.
const LIFETIME: Duration = Duration::from_secs(3600);

/// Leave to make tokens for a server.
#[derive(Debug, Clone)]
pub struct Access {
    /// The address that clients connect to: `http://…` or `https://…`.
    pub url: String,
    key: String,
    keys: ApiKeys,
}

impl Access {
    /// Access with an API key and its secret.
    #[must_use]
    pub fn new(url: &str, key: &str, secret: &str) -> Self {
        let keys = [(key.to_owned(), secret.to_owned())].into_iter().collect();
        Self { url: url.trim_end_matches('/').to_owned(), key: key.to_owned(), keys }
    }

    /// The API key.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Its secret, for programs that make their tokens themselves.
    pub fn secret(&self) -> Result<&str> {
        self.keys.secret(&self.key).context("a key has a secret")
    }

    /// A token that lets `identity` into `room`, to publish and to subscribe.
    pub fn token(&self, identity: &str, room: &str) -> Result<String> {
        self.sign(join_claims(identity, room, unix_time()?))
    }

    /// The same token after its end.
    pub fn expired_token(&self, identity: &str, room: &str) -> Result<String> {
        self.sign(join_claims(identity, room, unix_time()?.saturating_sub(LIFETIME * 2)))
    }

    /// A token for `RoomService`: it may create, list and administrate `room`.
    pub fn admin_token(&self, room: &str) -> Result<String> {
        let mut claims = claims("admin", unix_time()?, LIFETIME);
        claims.video.room_create = true;
        claims.video.room_list = true;
        claims.video.room_admin = true;
        claims.video.room = room.to_owned();
        self.sign(claims)
    }

    /// A token for `RoomService` to move participants from `room` to `destination`.
    pub fn mover_token(&self, room: &str, destination: &str) -> Result<String> {
        let mut claims = claims("mover", unix_time()?, LIFETIME);
        claims.video.room_admin = true;
        room.clone_into(&mut claims.video.room);
        destination.clone_into(&mut claims.video.destination_room);
        self.sign(claims)
    }

    /// The address of a join with a token in the query, on two peer connections.
    #[must_use]
    pub fn join_url(&self, token: &str) -> String {
        format!("{}/rtc?access_token={token}&protocol=16&sdk=js&auto_subscribe=1", self.url)
    }

    /// The address at which clients ask why a join failed.
    #[must_use]
    pub fn validate_url(&self, token: &str) -> String {
        format!("{}/rtc/validate?access_token={token}&protocol=16&sdk=js", self.url)
    }

    /// The address of a method of `RoomService`.
    #[must_use]
    pub fn room_service_url(&self, method: &str) -> String {
        format!("{}/twirp/livekit.RoomService/{method}", self.url)
    }

    fn sign(&self, claims: Claims) -> Result<String> {
        self.keys.sign(&self.key, claims).context("signing a token")
    }
}

fn join_claims(identity: &str, room: &str, now: Duration) -> Claims {
    let mut claims = claims(identity, now, LIFETIME);
    identity.clone_into(&mut claims.name);
    claims.video.room_join = true;
    room.clone_into(&mut claims.video.room);
    claims.video.can_publish = Some(true);
    claims.video.can_subscribe = Some(true);
    claims.video.can_publish_data = Some(true);
    claims
}

fn unix_time() -> Result<Duration> {
    SystemTime::now().duration_since(UNIX_EPOCH).context("the clock is before 1970")
}
