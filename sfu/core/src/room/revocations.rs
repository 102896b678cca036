//! Tokens that are not valid any more although their time has not come: whoever was removed from a
//! room does not come back with what it has.

use std::collections::BTreeMap;

use contract::access_token::Claims;
use contract::ids::Identity;
use serde::{Deserialize, Serialize};

use super::Room;
use crate::signal::join::JoinError;
use crate::time::Now;

/// Most identities that are remembered; the earliest to be forgotten gives way.
const MAX_IDENTITIES: usize = 256;
/// Seconds for which a cutoff is kept at least: SDKs make tokens for six hours.
const LEAST_SECONDS: u64 = 6 * 3600;
/// Seconds by which clocks of those who make tokens may be ahead: of the protocol.
const LEEWAY_SECONDS: u64 = 60;
/// Seconds of the year 9999: later, it is milliseconds.
const LATEST: i64 = 253_402_300_799;

/// From when on a token of an identity must be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Revocation {
    identity: Identity,
    /// Unix seconds; tokens whose `nbf` is before are refused.
    not_before: u64,
    /// Unix seconds; by then such tokens have ended by themselves.
    forget_at: u64,
}

/// The revocations of a room.
#[derive(Debug, Default)]
pub(super) struct Revocations(BTreeMap<Identity, Revocation>);

/// `revoke_token_ts` of the server API makes no sense.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("revoke_token_ts must be seconds since 1970")]
pub struct NoTimestamp;

/// From when on tokens of a participant are valid that is removed at `now`; `asked` is the caller's
/// `revoke_token_ts`, 0 where it says nothing.
///
/// # Errors
///
/// When that is no time in seconds.
pub fn cutoff(asked: i64, now: Now) -> Result<u64, NoTimestamp> {
    match asked {
        0 => Ok(now.unix_seconds() + LEEWAY_SECONDS),
        1..=LATEST => Ok(asked.unsigned_abs()),
        _ => Err(NoTimestamp),
    }
}

impl Revocations {
    pub(super) fn restore(list: Vec<Revocation>) -> Self {
        let list = list.into_iter().take(MAX_IDENTITIES);
        Self(list.map(|entry| (entry.identity.clone(), entry)).collect())
    }

    pub(super) fn list(&self) -> Vec<Revocation> {
        self.0.values().cloned().collect()
    }

    fn add(&mut self, new: Revocation, unix_seconds: u64) {
        self.0.retain(|_, known| known.forget_at > unix_seconds);
        // What was revoked stays so, whatever later calls say.
        if let Some(known) = self.0.get_mut(&new.identity) {
            known.not_before = known.not_before.max(new.not_before);
            known.forget_at = known.forget_at.max(new.forget_at);
            return;
        }
        if self.0.len() >= MAX_IDENTITIES
            && let Some(earliest) = self.0.values().min_by_key(|known| known.forget_at)
        {
            let identity = earliest.identity.clone();
            tracing::warn!("Too many participants were removed: tokens of one are valid again");
            self.0.remove(&identity);
        }
        self.0.insert(new.identity.clone(), new);
    }
}

impl Room {
    /// Whether a token may be used.
    ///
    /// # Errors
    ///
    /// When its owner was removed and it was made before.
    pub fn check_token(
        &self,
        identity: &Identity,
        claims: &Claims,
        now: Now,
    ) -> Result<(), JoinError> {
        let known = self.revocations.0.get(identity);
        let known = known.filter(|known| known.forget_at > now.unix_seconds());
        if known.is_some_and(|known| (claims.nbf as u64) < known.not_before) {
            return Err(JoinError::new(401, "invalid authorization token: it was revoked"));
        }
        Ok(())
    }

    /// Refuses tokens of an identity from before `not_before`. `claims` are those that it has.
    pub(super) fn revoke_tokens(
        &mut self,
        identity: Identity,
        claims: &Claims,
        not_before: u64,
        now: Now,
    ) {
        let unix_seconds = now.unix_seconds();
        let forget_at = (claims.exp as u64).max(unix_seconds + LEAST_SECONDS);
        self.revocations.add(Revocation { identity, not_before, forget_at }, unix_seconds);
        self.state_changed();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    fn entry(name: &str, not_before: u64, forget_at: u64) -> Revocation {
        Revocation { identity: Identity::new(name).unwrap(), not_before, forget_at }
    }

    #[test]
    fn the_list_is_bounded_and_forgets_what_ended_by_itself() {
        let mut list = Revocations::default();
        for number in 0..MAX_IDENTITIES as u64 + 1 {
            list.add(entry(&format!("p{number}"), 5, 1000 + number), 10);
        }
        assert_eq!(list.0.len(), MAX_IDENTITIES);
        assert!(!list.0.contains_key(&Identity::new("p0").unwrap()), "it ended first");
        list.add(entry("late", 5, 9000), 5000);
        assert_eq!(list.list(), [entry("late", 5, 9000)]);
    }

    #[test]
    fn a_later_call_revokes_no_less() {
        let mut list = Revocations::default();
        list.add(entry("anna", 100, 500), 10);
        list.add(entry("anna", 50, 900), 20);
        assert_eq!(list.list(), [entry("anna", 100, 900)]);
    }

    #[test]
    fn a_time_is_in_seconds_and_of_the_server_with_leeway_when_not_given() {
        let now = Now { instant: Instant::now(), unix_ms: 1_700_000_000_000 };
        assert_eq!(cutoff(0, now), Ok(1_700_000_060));
        assert_eq!(cutoff(1_600_000_000, now), Ok(1_600_000_000));
        for wrong in [-1, 1_700_000_000_000] {
            assert_eq!(cutoff(wrong, now), Err(NoTimestamp));
        }
    }
}
