//! What a client says when it joins: query parameters of `/rtc`, or the `join_request` of
//! `/rtc/v1`, both beside an access token that was verified before.

use std::collections::HashMap;
use std::io::Read as _;

use base64::Engine as _;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use contract::access_token::{Claims, MoreClaims};
use contract::ids::{Identity, RoomName};
use livekit_protocol::wrapped_join_request::Compression;
use livekit_protocol::{
    AddTrackRequest, ClientInfo, JoinRequest, ReconnectReason, SessionDescription, SyncState,
    WrappedJoinRequest, client_info,
};
use prost::Message as _;
use thiserror::Error;

/// Most bytes of a join request once inflated.
pub const MAX_JOIN_REQUEST_BYTES: usize = 1024 * 1024;
/// Most bytes of a participant's metadata.
pub const MAX_METADATA_BYTES: usize = 512 * 1024;
/// Most bytes of a participant's attributes, keys and values together.
pub const MAX_ATTRIBUTES_BYTES: usize = 64 * 1024;

/// Why somebody may not join; becomes an HTTP response.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{message}")]
pub struct JoinError {
    /// HTTP status.
    pub status: u16,
    /// Body, which clients show.
    pub message: String,
}

impl JoinError {
    /// An error with LiveKit's status and text.
    pub fn new(status: u16, message: impl Into<String>) -> Self {
        Self { status, message: message.into() }
    }

    /// The token does not allow it.
    pub fn permission_denied() -> Self {
        Self::new(401, "no permissions to access the room")
    }

    /// The room is not there and may not be made by joining.
    pub fn room_not_found() -> Self {
        Self::new(404, "requested room does not exist")
    }

    fn bad_request(message: &str) -> Self {
        Self::new(400, message)
    }
}

/// How many peer connections the client opens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeerConnectionMode {
    /// One, on which only the client makes offers.
    Single,
    /// A publisher's, where the client offers, and a subscriber's, where we do.
    Dual,
}

/// A client that lost its signal connection and wants to go on with its session.
#[derive(Debug, Clone, PartialEq)]
pub struct Reconnect {
    /// `PA_…` of the session; some clients leave it out.
    pub participant_sid: Option<String>,
    /// Why it comes back.
    pub reason: ReconnectReason,
    /// Its state, when it came with the request and not in a message of its own.
    pub sync_state: Option<Box<SyncState>>,
}

/// All that a join is about.
#[derive(Debug, Clone, PartialEq)]
pub struct JoinParams {
    /// Verified claims of the token.
    pub claims: Claims,
    /// What else the token says.
    pub more_claims: MoreClaims,
    /// Who joins.
    pub identity: Identity,
    /// Which room.
    pub room: RoomName,
    /// What the client says of itself.
    pub client: ClientInfo,
    /// How many peer connections it opens.
    pub mode: PeerConnectionMode,
    /// Subscribe to all tracks without being asked.
    pub auto_subscribe: bool,
    /// Subscribe to all data tracks without being asked.
    pub auto_subscribe_data_track: bool,
    /// The client reports what it shows, so that it gets no more than that.
    pub adaptive_stream: bool,
    /// Tracks may rest for want of bandwidth.
    pub allow_pause: bool,
    /// Attributes at the beginning: the token's, overridden by the request's.
    pub attributes: HashMap<String, String>,
    /// Metadata at the beginning.
    pub metadata: String,
    /// Offer that came with the request.
    pub publisher_offer: Option<SessionDescription>,
    /// Tracks that came with the request.
    pub add_track_requests: Vec<AddTrackRequest>,
    /// Going on with a session instead of beginning one.
    pub reconnect: Option<Reconnect>,
}

impl JoinParams {
    /// Reads the query of `/rtc` (without the token); a `join_request` in it is that of v1.
    pub fn from_query(query: &[(String, String)], claims: Claims) -> Result<Self, JoinError> {
        let get = |name: &str| {
            query.iter().find(|(key, value)| key == name && !value.is_empty()).map(|(_, v)| v)
        };
        if let Some(request) = get("join_request") {
            return Self::from_join_request(request, claims);
        }
        let flag = |name: &str, default| get(name).map_or(default, |value| is_true(value));
        let attributes = match get("attributes") {
            Some(encoded) => decode_attributes(encoded)?,
            None => HashMap::new(),
        };
        let mut params = Self::from_claims(claims, PeerConnectionMode::Dual)?;
        params.client = client_info(&get);
        params.auto_subscribe = flag("auto_subscribe", true);
        params.auto_subscribe_data_track = flag("auto_subscribe_data_track", false);
        params.adaptive_stream = flag("adaptive_stream", false);
        params.allow_pause = flag("subscriber_allow_pause", true);
        params.set_initial("", attributes)?;
        if let Some(suffix) = get("publish") {
            // A second connection of the same user, for publishing only.
            params.identity = Identity::new(format!("{}#{suffix}", params.identity))
                .map_err(|error| JoinError::bad_request(&error.to_string()))?;
            params.claims.video.can_publish = Some(true);
            params.claims.video.can_subscribe = Some(false);
        }
        if flag("reconnect", false) {
            let reason = get("reconnect_reason").and_then(|value| value.parse::<i32>().ok());
            params.reconnect = Some(Reconnect {
                participant_sid: get("sid").cloned(),
                reason: reconnect_reason(reason.unwrap_or_default()),
                sync_state: None,
            });
        }
        Ok(params)
    }

    /// Reads the `join_request` parameter of `/rtc/v1`.
    pub fn from_join_request(encoded: &str, claims: Claims) -> Result<Self, JoinError> {
        if encoded.is_empty() {
            return Err(JoinError::bad_request("join_request is required"));
        }
        let request = decode_join_request(encoded)?;
        let mut params = Self::from_claims(claims, PeerConnectionMode::Single)?;
        params.client = request.client_info.unwrap_or_default();
        let settings = request.connection_settings.unwrap_or_default();
        params.auto_subscribe = settings.auto_subscribe;
        params.auto_subscribe_data_track = settings.auto_subscribe_data_track();
        params.adaptive_stream = settings.adaptive_stream;
        params.allow_pause = settings.subscriber_allow_pause.unwrap_or(true);
        params.set_initial(&request.metadata, request.participant_attributes)?;
        params.publisher_offer = request.publisher_offer;
        params.add_track_requests = request.add_track_requests;
        if request.reconnect {
            let sid = request.participant_sid;
            params.reconnect = Some(Reconnect {
                participant_sid: (!sid.is_empty()).then_some(sid),
                reason: reconnect_reason(request.reconnect_reason),
                sync_state: request.sync_state.map(Box::new),
            });
        }
        Ok(params)
    }

    /// Takes what [`Claims`] has no place for.
    ///
    /// # Errors
    ///
    /// When the token asks for something that is not done: whoever was promised a recording must
    /// not believe that there is one.
    pub fn with(self, more_claims: MoreClaims) -> Result<Self, JoinError> {
        let config = self.claims.room_config.as_ref();
        if config.is_some_and(|config| config.egress.is_some()) {
            let message = "roomConfig.egress of the token is not supported by this server";
            return Err(JoinError::bad_request(message));
        }
        Ok(Self { more_claims, ..self })
    }

    fn from_claims(claims: Claims, mode: PeerConnectionMode) -> Result<Self, JoinError> {
        if !claims.video.room_join {
            return Err(JoinError::permission_denied());
        }
        if claims.sub.is_empty() {
            return Err(JoinError::bad_request("identity cannot be empty"));
        }
        if claims.video.room.is_empty() {
            return Err(JoinError::bad_request("no room name"));
        }
        let identity = Identity::new(claims.sub.clone())
            .map_err(|_| JoinError::bad_request("participant identity length exceeds limits"))?;
        let room = RoomName::new(claims.video.room.clone())
            .map_err(|_| JoinError::bad_request("room name length exceeds limits"))?;
        check_limits(&claims.metadata, &claims.attributes)?;
        Ok(Self {
            identity,
            room,
            client: ClientInfo::default(),
            mode,
            auto_subscribe: true,
            auto_subscribe_data_track: false,
            adaptive_stream: false,
            allow_pause: true,
            attributes: claims.attributes.clone(),
            metadata: claims.metadata.clone(),
            publisher_offer: None,
            add_track_requests: Vec::new(),
            reconnect: None,
            more_claims: MoreClaims::default(),
            claims,
        })
    }

    /// Takes metadata and attributes of the request; both need the right to change one's own.
    fn set_initial(
        &mut self,
        metadata: &str,
        attributes: HashMap<String, String>,
    ) -> Result<(), JoinError> {
        if metadata.is_empty() && attributes.is_empty() {
            return Ok(());
        }
        if !self.claims.video.can_update_own_metadata() {
            return Err(JoinError::permission_denied());
        }
        if !metadata.is_empty() {
            metadata.clone_into(&mut self.metadata);
        }
        self.attributes.extend(attributes.into_iter().filter(|(_, value)| !value.is_empty()));
        check_limits(&self.metadata, &self.attributes)
    }
}

fn check_limits(metadata: &str, attributes: &HashMap<String, String>) -> Result<(), JoinError> {
    if metadata.len() > MAX_METADATA_BYTES {
        return Err(JoinError::bad_request("metadata size exceeds limits"));
    }
    if attributes_size(attributes) > MAX_ATTRIBUTES_BYTES {
        return Err(JoinError::bad_request("attribute size exceeds limits"));
    }
    Ok(())
}

/// Bytes of all keys and values.
pub fn attributes_size(attributes: &HashMap<String, String>) -> usize {
    attributes.iter().map(|(key, value)| key.len() + value.len()).sum()
}

/// As Go's `strconv.ParseBool` in LiveKit's helper: only `1` and `true`.
fn is_true(value: &str) -> bool {
    value == "1" || value == "true"
}

fn reconnect_reason(value: i32) -> ReconnectReason {
    ReconnectReason::try_from(value).unwrap_or(ReconnectReason::RrUnknown)
}

/// base64url, with or without padding.
fn base64_url(text: &str) -> Option<Vec<u8>> {
    let config = GeneralPurposeConfig::new()
        .with_decode_padding_mode(base64::engine::DecodePaddingMode::Indifferent);
    GeneralPurpose::new(&base64::alphabet::URL_SAFE, config).decode(text).ok()
}

fn decode_attributes(encoded: &str) -> Result<HashMap<String, String>, JoinError> {
    base64_url(encoded)
        .and_then(|bytes| serde_json::from_slice(&bytes).ok())
        .ok_or_else(|| JoinError::bad_request("cannot decode attributes"))
}

fn decode_join_request(encoded: &str) -> Result<JoinRequest, JoinError> {
    let wrapped = base64_url(encoded)
        .ok_or_else(|| JoinError::bad_request("cannot base64 decode wrapped join request"))?;
    let wrapped = WrappedJoinRequest::decode(wrapped.as_slice())
        .map_err(|_| JoinError::bad_request("cannot unmarshal wrapped join request"))?;
    let request = match Compression::try_from(wrapped.compression) {
        Ok(Compression::None) => wrapped.join_request,
        Ok(Compression::Gzip) => inflate(&wrapped.join_request)?,
        Err(_) => return Err(JoinError::bad_request("unknown join request compression")),
    };
    if request.len() > MAX_JOIN_REQUEST_BYTES {
        return Err(JoinError::bad_request("join request too large"));
    }
    JoinRequest::decode(request.as_slice())
        .map_err(|_| JoinError::bad_request("cannot unmarshal join request"))
}

/// Stops one byte above the bound, whatever the stream promises.
fn inflate(compressed: &[u8]) -> Result<Vec<u8>, JoinError> {
    let mut bytes = Vec::new();
    flate2::read::MultiGzDecoder::new(compressed)
        .take(MAX_JOIN_REQUEST_BYTES as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(|_| JoinError::bad_request("cannot read decompressed join request"))?;
    Ok(bytes)
}

fn client_info<'a>(get: &impl Fn(&str) -> Option<&'a String>) -> ClientInfo {
    let text = |name: &str| get(name).cloned().unwrap_or_default();
    let number = |name: &str| get(name).and_then(|value| value.parse().ok()).unwrap_or_default();
    ClientInfo {
        sdk: sdk(&text("sdk")).into(),
        version: text("version"),
        protocol: number("protocol"),
        os: text("os"),
        os_version: text("os_version"),
        device_model: text("device_model"),
        browser: text("browser"),
        browser_version: text("browser_version"),
        address: String::new(),
        network: text("network"),
        other_sdks: String::new(),
        client_protocol: number("client_protocol"),
        capabilities: text("capabilities")
            .split(',')
            .filter_map(client_info::Capability::from_str_name)
            .map(i32::from)
            .collect(),
    }
}

fn sdk(name: &str) -> client_info::Sdk {
    client_info::Sdk::from_str_name(&match name {
        "reactnative" => "REACT_NATIVE".to_owned(),
        "unityweb" => "UNITY_WEB".to_owned(),
        name => name.to_ascii_uppercase(),
    })
    .unwrap_or(client_info::Sdk::Unknown)
}

#[cfg(test)]
mod tests;
