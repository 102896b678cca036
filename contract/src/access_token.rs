//! LiveKit access tokens: JSON Web Tokens signed with HS256 by one of the cluster's API keys.
//!
//! The claims are those of `livekit-token`; signing and verifying take the time as an argument.

use std::collections::BTreeMap;
use std::time::Duration;

use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
pub use livekit_token::{Claims, VideoGrants};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use thiserror::Error;

/// Tolerated difference between the clocks of the token's maker and of this node.
pub const LEEWAY: Duration = Duration::from_secs(60);

/// Why a token was not accepted. The texts are safe to show to the caller.
#[derive(Debug, Error)]
pub enum TokenError {
    /// Not a JSON Web Token, or its claims have a wrong form.
    #[error("invalid token: {0}")]
    Malformed(String),
    /// Signed with a key that this cluster does not have.
    #[error("invalid API key: {0}")]
    UnknownKey(String),
    /// The signature does not fit the key.
    #[error("invalid token: the signature does not verify")]
    Signature,
    /// `exp` has passed.
    #[error("invalid token: it has expired")]
    Expired,
    /// `nbf` lies ahead.
    #[error("invalid token: it is not valid yet")]
    NotYetValid,
    /// Signing failed.
    #[error("failed to sign a token")]
    Signing(#[source] jsonwebtoken::errors::Error),
}

/// The API keys of a cluster: key → secret. The first one signs.
#[derive(Clone, Default, Deserialize)]
#[serde(transparent)]
pub struct ApiKeys(BTreeMap<String, String>);

impl std::fmt::Debug for ApiKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl FromIterator<(String, String)> for ApiKeys {
    fn from_iter<T: IntoIterator<Item = (String, String)>>(pairs: T) -> Self {
        Self(pairs.into_iter().collect())
    }
}

impl ApiKeys {
    /// Reads a YAML map `key: secret`, the form of the keys file.
    pub fn from_yaml(text: &str) -> Result<Self, String> {
        let keys: Self = serde_saphyr::from_str(text).map_err(|error| error.to_string())?;
        if keys.0.is_empty() {
            return Err("the keys file holds no API key".to_owned());
        }
        Ok(keys)
    }

    /// The secret of `key`.
    pub fn secret(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }

    /// The pair that signs tokens.
    pub fn signing(&self) -> Option<(&str, &str)> {
        self.0.first_key_value().map(|(key, secret)| (key.as_str(), secret.as_str()))
    }

    /// Signs `claims` with `key`, whose name becomes the issuer.
    pub fn sign(&self, key: &str, mut claims: Claims) -> Result<String, TokenError> {
        let secret = self.secret(key).ok_or_else(|| TokenError::UnknownKey(key.to_owned()))?;
        claims.iss = key.to_owned();
        let encoding = EncodingKey::from_secret(secret.as_bytes());
        jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &encoding)
            .map_err(TokenError::Signing)
    }

    /// The same with claims that [`Claims`] has no place for.
    pub fn sign_more(
        &self,
        key: &str,
        mut claims: Claims,
        more: &MoreClaims,
    ) -> Result<String, TokenError> {
        if *more == MoreClaims::default() {
            return self.sign(key, claims);
        }
        let secret = self.secret(key).ok_or_else(|| TokenError::UnknownKey(key.to_owned()))?;
        claims.iss = key.to_owned();
        let whole = merged(&claims, more).map_err(|error| TokenError::Signing(error.into()))?;
        let encoding = EncodingKey::from_secret(secret.as_bytes());
        jsonwebtoken::encode(&Header::new(Algorithm::HS256), &whole, &encoding)
            .map_err(TokenError::Signing)
    }

    /// Checks signature and lifetime of `token` at `unix_time` (since 1970).
    pub fn verify(&self, token: &str, unix_time: Duration) -> Result<Claims, TokenError> {
        let unverified = Claims::from_unverified(token)
            .map_err(|error| TokenError::Malformed(error.to_string()))?;
        let secret = self
            .secret(&unverified.iss)
            .ok_or_else(|| TokenError::UnknownKey(unverified.iss.clone()))?;
        let claims = decode(token, secret)?;
        let now = unix_time.as_secs();
        if now > (claims.exp as u64).saturating_add(LEEWAY.as_secs()) {
            return Err(TokenError::Expired);
        }
        if now.saturating_add(LEEWAY.as_secs()) < claims.nbf as u64 {
            return Err(TokenError::NotYetValid);
        }
        Ok(claims)
    }
}

/// Claims of LiveKit's tokens that [`Claims`] has no place for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MoreClaims {
    /// What kind of participant it is more exactly: names of `ParticipantInfo.KindDetail`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub kind_details: Vec<String>,
    /// Name of a room configuration of the server, for a room that the token's owner begins.
    pub room_preset: String,
    /// Rights in the room.
    pub video: MoreGrants,
}

/// Rights that [`VideoGrants`] has no place for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MoreGrants {
    /// May receive the metrics that others send.
    pub can_subscribe_metrics: bool,
    /// May change the sessions of agents.
    pub can_manage_agent_session: bool,
}

impl MoreClaims {
    /// Reads them from a token that was verified before; what is not there is not granted.
    pub fn of_verified(token: &str) -> Self {
        let decoded = jsonwebtoken::dangerous::insecure_decode::<Self>(token);
        decoded.map(|token| token.claims).unwrap_or_default()
    }
}

/// One JSON object of both.
fn merged(claims: &Claims, more: &MoreClaims) -> Result<Value, serde_json::Error> {
    let mut whole = serde_json::to_value(claims)?;
    let MoreClaims { kind_details, room_preset, video } = more;
    if !kind_details.is_empty() {
        whole["kindDetails"] = serde_json::to_value(kind_details)?;
    }
    if !room_preset.is_empty() {
        whole["roomPreset"] = serde_json::to_value(room_preset)?;
    }
    if let (Value::Object(granted), Value::Object(more)) =
        (&mut whole["video"], serde_json::to_value(video)?)
    {
        granted.extend(more);
    }
    Ok(whole)
}

fn decode(token: &str, secret: &str) -> Result<Claims, TokenError> {
    let mut validation = Validation::new(Algorithm::HS256);
    // The library would read the clock; the lifetime is checked by the caller.
    validation.validate_exp = false;
    validation.validate_nbf = false;
    validation.validate_aud = false;
    validation.required_spec_claims.clear();
    jsonwebtoken::decode(token, &DecodingKey::from_secret(secret.as_bytes()), &validation)
        .map(|data| data.claims)
        .map_err(|error| match error.kind() {
            jsonwebtoken::errors::ErrorKind::InvalidSignature => TokenError::Signature,
            _ => TokenError::Malformed(error.to_string()),
        })
}

/// Claims with nothing granted, valid from `unix_time` for `lifetime`.
pub fn claims(identity: &str, unix_time: Duration, lifetime: Duration) -> Claims {
    Claims {
        exp: (unix_time + lifetime).as_secs() as usize,
        iss: String::new(),
        nbf: unix_time.as_secs() as usize,
        sub: identity.to_owned(),
        name: String::new(),
        kind: String::new(),
        video: VideoGrants::default(),
        sip: Default::default(),
        agent: Default::default(),
        agent_endpoint: Default::default(),
        agent_thread: Default::default(),
        inference: Default::default(),
        observability: Default::default(),
        sha256: String::new(),
        metadata: String::new(),
        attributes: Default::default(),
        room_config: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(1_800_000_000);
    const HOUR: Duration = Duration::from_secs(3600);

    fn keys() -> ApiKeys {
        ApiKeys::from_yaml("devkey: secret\nother: another-secret\n").unwrap()
    }

    #[test]
    fn a_signed_token_verifies_and_names_its_key() {
        let token = keys().sign("other", claims("anna", NOW, HOUR)).unwrap();
        let verified = keys().verify(&token, NOW).unwrap();
        assert_eq!((verified.iss.as_str(), verified.sub.as_str()), ("other", "anna"));
    }

    #[test]
    fn claims_that_the_library_does_not_know_are_kept() {
        let more = MoreClaims {
            kind_details: vec!["cloud_agent".to_owned()],
            room_preset: "webinar".to_owned(),
            video: MoreGrants { can_subscribe_metrics: true, can_manage_agent_session: false },
        };
        let mut known = claims("anna", NOW, HOUR);
        known.video.room = "lobby".to_owned();
        let token = keys().sign_more("other", known, &more).unwrap();
        assert_eq!(keys().verify(&token, NOW).unwrap().video.room, "lobby");
        assert_eq!(MoreClaims::of_verified(&token), more);
        let plain = keys().sign("other", claims("anna", NOW, HOUR)).unwrap();
        assert_eq!(MoreClaims::of_verified(&plain), MoreClaims::default());
    }

    #[test]
    fn lifetime_is_checked_with_leeway() {
        let token = keys().sign("devkey", claims("anna", NOW, HOUR)).unwrap();
        let end = NOW + HOUR + LEEWAY;
        assert!(keys().verify(&token, end).is_ok());
        let late = keys().verify(&token, end + Duration::from_secs(1));
        assert!(matches!(late, Err(TokenError::Expired)));
        let early = keys().verify(&token, NOW - LEEWAY - Duration::from_secs(1));
        assert!(matches!(early, Err(TokenError::NotYetValid)));
    }

    #[test]
    fn foreign_keys_and_changed_signatures_are_refused() {
        let foreign: ApiKeys = [("stranger".to_owned(), "secret".to_owned())].into_iter().collect();
        let token = foreign.sign("stranger", claims("anna", NOW, HOUR)).unwrap();
        assert!(matches!(keys().verify(&token, NOW), Err(TokenError::UnknownKey(_))));

        let forged: ApiKeys = [("devkey".to_owned(), "guess".to_owned())].into_iter().collect();
        let token = forged.sign("devkey", claims("anna", NOW, HOUR)).unwrap();
        assert!(matches!(keys().verify(&token, NOW), Err(TokenError::Signature)));
        assert!(matches!(keys().verify("no.token", NOW), Err(TokenError::Malformed(_))));
    }

    #[test]
    fn secrets_are_not_in_debug_output() {
        assert!(!format!("{:?}", keys()).contains("secret"));
    }
}
