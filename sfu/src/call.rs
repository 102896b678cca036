//! `sfu call`: does a call through a LiveCluster work?
//!
//! Two participants join a room as any client would: signalling, ICE, DTLS, SRTP and SCTP. The call
//! works when each hears and reads the other. Their WebRTC is str0m's and shares nothing with the
//! media node's own, so that a mistake of one does not hide in the other. TURN is not tried.

mod connection;
mod participant;
mod websocket;

use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use contract::access_token::{ApiKeys, TokenError, VideoGrants, claims};
use hyper::Uri;
use thiserror::Error;
use tokio::sync::watch;

pub use self::connection::ConnectionError;
pub use self::participant::ParticipantError;
use self::participant::{Participant, Progress};
pub use self::websocket::ConnectError;
use crate::settings::{SettingsError, read};

/// Lifetime of the participants' tokens.
const TOKEN_LIFETIME: Duration = Duration::from_secs(600);
/// A call that does not work after so long is begun anew.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(20);
/// Pause between two attempts.
const PAUSE: Duration = Duration::from_secs(1);

/// Who calls whom.
#[derive(Debug, Clone, clap::Args)]
pub struct CallArgs {
    /// Address of the LiveCluster, such as `https://live.example.com`.
    #[arg(long, value_name = "URL")]
    pub url: Uri,
    /// File with API keys, `key: secret` a line.
    #[arg(long, value_name = "FILE")]
    pub keys_file: PathBuf,
    /// Room of the call; it is made by the first join and ends after it.
    #[arg(long, default_value = "test-call")]
    pub room: String,
    /// Seconds in which a call must have worked.
    #[arg(long, default_value_t = 60)]
    pub timeout: u64,
}

/// Why there was no call.
#[derive(Debug, Error)]
pub enum CallError {
    /// The keys cannot be read.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// No token can be made.
    #[error("no token can be made")]
    Token(#[from] TokenError),
    /// A participant gave up.
    #[error(transparent)]
    Participant(#[from] ParticipantError),
    /// What was missing when time was up.
    #[error("no call in time: {0}")]
    Silent(String),
}

/// How long the parts of a call took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CallReport {
    /// From the beginning until both are connected.
    pub connected: Duration,
    /// From the beginning until each has heard and read the other.
    pub complete: Duration,
}

/// Calls until a call works, or fails with the reason of the last one.
///
/// # Errors
///
/// With what went wrong in the last attempt.
pub async fn run(args: &CallArgs) -> Result<CallReport, CallError> {
    let deadline = Instant::now() + Duration::from_secs(args.timeout);
    let mut told = String::new();
    loop {
        let end = deadline.min(Instant::now() + ATTEMPT_TIMEOUT);
        match attempt(args, end).await {
            Ok(report) => return Ok(report),
            Err(error) if Instant::now() + PAUSE >= deadline => return Err(error),
            Err(error) => {
                let error = chain(&error);
                // Once for each reason: a LiveCluster that starts takes a while.
                if told != error {
                    tracing::warn!(error, "No call yet");
                    told = error;
                }
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// An error with its causes in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    let mut texts: Vec<String> = causes.map(ToString::to_string).collect();
    // A transparent error says what its cause says.
    texts.dedup();
    texts.join(": ")
}

async fn attempt(args: &CallArgs, end: Instant) -> Result<CallReport, CallError> {
    let keys = load_keys(args)?;
    let begun = Instant::now();
    let (caller_tells, mut caller) = watch::channel(Progress::default());
    let (callee_tells, mut callee) = watch::channel(Progress::default());
    let caller_token = token(&keys, "caller", &args.room)?;
    let callee_token = token(&keys, "callee", &args.room)?;
    let both = async {
        // Neither leaves before both are done. The channels live as long as the participants.
        let _ = caller.wait_for(|progress| progress.connected).await;
        let _ = callee.wait_for(|progress| progress.connected).await;
        let connected = begun.elapsed();
        let _ = caller.wait_for(Progress::is_complete).await;
        let _ = callee.wait_for(Progress::is_complete).await;
        CallReport { connected, complete: begun.elapsed() }
    };
    let result = tokio::select! {
        report = both => return Ok(report),
        result = Participant::run(&args.url, &caller_token, &caller_tells) => result,
        result = Participant::run(&args.url, &callee_token, &callee_tells) => result,
        () = tokio::time::sleep_until(end.into()) => {
            let missing = format!(
                "the caller {}, the callee {}", *caller_tells.borrow(), *callee_tells.borrow()
            );
            return Err(CallError::Silent(missing));
        }
    };
    match result {
        Err(error) => Err(error.into()),
        Ok(never) => match never {},
    }
}

fn load_keys(args: &CallArgs) -> Result<ApiKeys, CallError> {
    let path = &args.keys_file;
    let keys = ApiKeys::from_yaml(&read(path)?)
        .map_err(|reason| SettingsError::Invalid { path: path.clone(), reason })?;
    Ok(keys)
}

fn token(keys: &ApiKeys, identity: &str, room: &str) -> Result<String, TokenError> {
    // A clock before 1970 makes a token that nobody takes, which the answer says.
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut claims = claims(identity, now, TOKEN_LIFETIME);
    claims.video = VideoGrants {
        room_join: true,
        room: room.to_owned(),
        can_publish: Some(true),
        can_subscribe: Some(true),
        can_publish_data: Some(true),
        ..VideoGrants::default()
    };
    let (key, _) = keys.signing().ok_or_else(|| TokenError::UnknownKey(String::new()))?;
    keys.sign(key, claims)
}
