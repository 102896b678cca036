//! HTTP paths beside signalling, and log output.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::SECRET_NAME;

/// HTTP paths beside signalling.
#[derive(KubeSchema, Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.createRoom != 'Token' || has(self.tokenSecretName)")
        .message("spec.http.createRoom: Token needs spec.http.tokenSecretName, a Secret with the entry token"),
    validation = Rule::new("!has(self.tokenSecretName) || self.createRoom == 'Token'")
        .message("spec.http.tokenSecretName is for spec.http.createRoom: Token only")
)]
pub struct HttpSpec {
    /// Who may call `POST /api/create-room`, which answers with a token: `Disabled` (nobody),
    /// `Token` (callers with the bearer token of `tokenSecretName`), `Open` (everybody who
    /// reaches the domain).
    #[serde(default)]
    pub create_room: CreateRoom,
    /// Serve the web page at `/`.
    #[serde(default = "default_pages")]
    pub pages: bool,
    /// Secret with the entry `token`, for `createRoom: Token`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), regex(pattern = SECRET_NAME))]
    pub token_secret_name: Option<String>,
}

fn default_pages() -> bool {
    true
}

impl Default for HttpSpec {
    fn default() -> Self {
        Self { create_room: CreateRoom::default(), pages: default_pages(), token_secret_name: None }
    }
}

/// Who may call `POST /api/create-room`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum CreateRoom {
    /// Nobody.
    #[default]
    Disabled,
    /// Callers with the bearer token.
    Token,
    /// Everybody who reaches the domain.
    Open,
}

/// Log output of media nodes.
#[derive(KubeSchema, Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogSpec {
    /// Least severe level that is written.
    #[serde(default)]
    pub level: LogLevel,
    /// Form of a line: `json` or `text`.
    #[serde(default)]
    pub format: LogFormat,
}

/// Severity of a log line.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// Every packet.
    Trace,
    /// Every decision.
    Debug,
    /// Every change of state.
    #[default]
    Info,
    /// What is worth a look.
    Warn,
    /// What must not happen.
    Error,
}

impl LogLevel {
    /// The word in a configuration file.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Trace => "trace",
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warn => "warn",
            Self::Error => "error",
        }
    }
}

/// Form of a log line.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One JSON object a line.
    #[default]
    Json,
    /// For a person at a terminal.
    Text,
}
