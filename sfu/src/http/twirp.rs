//! Twirp: protobuf or JSON bodies, errors as JSON. Replies in JSON have snake_case names and
//! zero values, as Twirp's servers in Go write them and their users read them.

use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use prost::Message;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

/// A Twirp error (<https://twitchtv.github.io/twirp/docs/errors.html>).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TwirpError {
    status: StatusCode,
    code: &'static str,
    message: String,
    details: Map<String, Value>,
}

impl TwirpError {
    pub(super) fn unauthenticated() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "unauthenticated", "permissions denied")
    }

    pub(super) fn not_found(message: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", message)
    }

    pub(super) fn invalid_argument(message: &str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_argument", message)
    }

    pub(super) fn unavailable(message: &str) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", message)
    }

    pub(super) fn failed_precondition(message: &str) -> Self {
        Self::new(StatusCode::PRECONDITION_FAILED, "failed_precondition", message)
    }

    pub(super) fn already_exists(message: &str) -> Self {
        Self::new(StatusCode::CONFLICT, "already_exists", message)
    }

    pub(super) fn resource_exhausted(message: &str) -> Self {
        Self::new(StatusCode::TOO_MANY_REQUESTS, "resource_exhausted", message)
    }

    pub(super) fn deadline_exceeded(message: &str) -> Self {
        Self::new(StatusCode::REQUEST_TIMEOUT, "deadline_exceeded", message)
    }

    pub(super) fn unimplemented(message: &str) -> Self {
        Self::new(StatusCode::NOT_IMPLEMENTED, "unimplemented", message)
    }

    /// Adds a detail that programs read.
    pub(super) fn with(mut self, name: &'static str, value: impl ToString) -> Self {
        self.details.insert(name.to_owned(), Value::String(value.to_string()));
        self
    }

    pub(super) fn malformed(message: &str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "malformed", message)
    }

    /// The body is longer than any request needs.
    pub(super) fn too_large() -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "malformed", "the body is too long")
    }

    pub(super) fn bad_route(method: &str) -> Self {
        let message = format!("no handler for path of method {method:?}");
        Self::new(StatusCode::NOT_FOUND, "bad_route", &message)
    }

    /// A path of no service that is here.
    pub(super) fn no_service(path: &str) -> Self {
        let message = format!("no handler for path {path:?}");
        Self::new(StatusCode::NOT_FOUND, "bad_route", &message)
    }

    fn new(status: StatusCode, code: &'static str, message: &str) -> Self {
        Self { status, code, message: message.to_owned(), details: Map::new() }
    }

    pub(super) fn into_response(self) -> Response {
        let mut body = json!({ "code": self.code, "msg": self.message });
        if !self.details.is_empty() {
            body["meta"] = Value::Object(self.details);
        }
        let mut response = (self.status, axum::Json(body)).into_response();
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(header::RETRY_AFTER, super::RETRY_AFTER);
        }
        response
    }
}

/// Form of a request and its reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Protobuf,
    Json,
}

impl Form {
    /// The form of a request.
    pub(super) fn of(headers: &HeaderMap) -> Result<Self, TwirpError> {
        let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        match kind.and_then(|kind| kind.split(';').next()).map(str::trim) {
            Some("application/json") => Ok(Self::Json),
            Some("application/protobuf") => Ok(Self::Protobuf),
            other => {
                let message = format!(
                    "Content-Type must be application/json or application/protobuf, not {:?}",
                    other.unwrap_or_default()
                );
                Err(TwirpError::malformed(&message))
            }
        }
    }

    /// Reads a request.
    pub(super) fn decode<T: Message + Default + DeserializeOwned>(
        self,
        body: &[u8],
    ) -> Result<T, TwirpError> {
        match self {
            Self::Protobuf => {
                T::decode(body).map_err(|error| TwirpError::malformed(&error.to_string()))
            }
            Self::Json if body.is_empty() => Ok(T::default()),
            Self::Json => serde_json::from_slice(body)
                .map_err(|error| TwirpError::malformed(&error.to_string())),
        }
    }

    /// Writes a reply; `zero` is the JSON of a message with all its names.
    pub(super) fn encode<T: Message + Serialize>(self, reply: &T, zero: &Value) -> Response {
        match self {
            Self::Protobuf => {
                let kind = [(header::CONTENT_TYPE, "application/protobuf")];
                (kind, reply.encode_to_vec()).into_response()
            }
            Self::Json => match serde_json::to_value(reply) {
                Ok(value) => axum::Json(with_zeros(snake_case(value), zero)).into_response(),
                Err(error) => {
                    tracing::error!(%error, "Failed to write a reply");
                    TwirpError::unavailable("the reply could not be written").into_response()
                }
            },
        }
    }
}

/// Names of messages' fields in snake_case. Keys of maps that users fill (attributes) are data
/// and stay.
fn snake_case(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            let renamed = fields.into_iter().map(|(name, value)| {
                let value = if name == "attributes" { value } else { snake_case(value) };
                (to_snake_case(&name), value)
            });
            Value::Object(renamed.collect())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(snake_case).collect()),
        other => other,
    }
}

fn to_snake_case(name: &str) -> String {
    let mut snake = String::with_capacity(name.len() + 4);
    for letter in name.chars() {
        if letter.is_ascii_uppercase() {
            snake.push('_');
        }
        snake.push(letter.to_ascii_lowercase());
    }
    snake
}

/// Adds what the message left out. A list in `zero` holds the zero of its items.
fn with_zeros(value: Value, zero: &Value) -> Value {
    match (value, zero) {
        (Value::Object(mut fields), Value::Object(zeros)) => {
            let mut complete = Map::new();
            for (name, zero) in zeros {
                let value = match fields.remove(name) {
                    Some(value) => with_zeros(value, zero),
                    None if zero.is_array() => json!([]),
                    None => zero.clone(),
                };
                complete.insert(name.clone(), value);
            }
            complete.extend(fields);
            Value::Object(complete)
        }
        (Value::Array(items), Value::Array(zeros)) => match zeros.first() {
            Some(zero) => items.into_iter().map(|item| with_zeros(item, zero)).collect(),
            None => Value::Array(items),
        },
        (value, _) => value,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_snake_case_but_users_keys_stay() {
        let value = json!({"numPublishers": 1, "attributes": {"userKey": "v"}, "a": [{"bC": 1}]});
        let expected =
            json!({"num_publishers": 1, "attributes": {"userKey": "v"}, "a": [{"b_c": 1}]});
        assert_eq!(snake_case(value), expected);
    }

    #[test]
    fn what_was_left_out_is_zero() {
        let zero = json!({"rooms": [{"sid": "", "num": 0}], "next": ""});
        let value = json!({"rooms": [{"sid": "x"}]});
        let expected = json!({"rooms": [{"sid": "x", "num": 0}], "next": ""});
        assert_eq!(with_zeros(value, &zero), expected);
        assert_eq!(with_zeros(json!({}), &zero), json!({"rooms": [], "next": ""}));
    }
}
