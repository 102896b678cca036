//! Conditions: how new ones are put in the place of old ones.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;

/// Longest message; Kubernetes takes more, a person does not.
const MAX_MESSAGE: usize = 1024;

/// `True`, `False` or `Unknown`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Truth {
    /// It holds.
    True,
    /// It does not.
    False,
    /// Nobody knows yet.
    Unknown,
}

impl Truth {
    /// The word of the Kubernetes API.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        }
    }
}

impl From<bool> for Truth {
    fn from(holds: bool) -> Self {
        if holds { Self::True } else { Self::False }
    }
}

/// One aspect of the state, without the time of its change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The aspect.
    pub kind: &'static str,
    /// Whether it holds.
    pub truth: Truth,
    /// One word.
    pub reason: String,
    /// A sentence.
    pub message: String,
}

impl Finding {
    /// Takes the four together.
    #[must_use]
    pub fn new(
        kind: &'static str,
        truth: impl Into<Truth>,
        reason: impl Into<String>,
        message: impl Into<String>,
    ) -> Self {
        Self { kind, truth: truth.into(), reason: reason.into(), message: message.into() }
    }
}

/// Puts findings in the place of the conditions: the time of change moves only when the truth does.
#[must_use]
pub fn merge(
    old: &[Condition],
    findings: Vec<Finding>,
    generation: Option<i64>,
    now: Timestamp,
) -> Vec<Condition> {
    findings
        .into_iter()
        .map(|finding| {
            let status = finding.truth.as_str();
            let before = old.iter().find(|c| c.type_ == finding.kind && c.status == status);
            // Kubernetes writes whole seconds; a fraction would differ at the next look.
            let second = Timestamp::from_second(now.as_second()).unwrap_or(now);
            Condition {
                type_: finding.kind.to_owned(),
                status: status.to_owned(),
                observed_generation: generation,
                last_transition_time: before
                    .map_or(Time(second), |before| before.last_transition_time.clone()),
                reason: finding.reason,
                message: shortened(finding.message),
            }
        })
        .collect()
}

fn shortened(mut message: String) -> String {
    if message.len() > MAX_MESSAGE {
        let end = (0..=MAX_MESSAGE).rev().find(|end| message.is_char_boundary(*end));
        message.truncate(end.unwrap_or_default());
        message.push('…');
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn ready(truth: Truth, reason: &str) -> Vec<Finding> {
        vec![Finding::new("Ready", truth, reason, "")]
    }

    #[test]
    fn the_time_of_change_moves_with_the_truth_only() {
        let first = merge(&[], ready(Truth::False, "Starting"), Some(1), at(10));
        let cases = [
            (Truth::False, "Replacing", 10),
            (Truth::True, "Ready", 20),
            (Truth::Unknown, "Lost", 20),
        ];
        for (truth, reason, changed) in cases {
            let merged = merge(&first, ready(truth, reason), Some(2), at(20));
            assert_eq!(merged[0].last_transition_time, Time(at(changed)), "{reason}");
            assert_eq!(merged[0].reason, reason);
            assert_eq!(merged[0].observed_generation, Some(2));
        }
    }

    #[test]
    fn a_condition_that_was_not_found_any_more_goes() {
        let mut old = merge(&[], ready(Truth::True, "Ready"), None, at(1));
        old.extend(merge(&[], vec![Finding::new("Old", true, "Old", "")], None, at(1)));
        assert_eq!(merge(&old, ready(Truth::True, "Ready"), None, at(2)).len(), 1);
    }

    #[test]
    fn times_have_whole_seconds() {
        let now = Timestamp::from_millisecond(1_500).unwrap();
        assert_eq!(
            merge(&[], ready(Truth::True, "Ready"), None, now)[0].last_transition_time,
            Time(at(1))
        );
    }

    #[test]
    fn long_messages_are_cut_between_characters() {
        assert_eq!(shortened("é".repeat(600)).chars().count(), 513);
        assert_eq!(shortened("short".to_owned()), "short");
    }
}
