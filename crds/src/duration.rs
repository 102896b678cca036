//! Lengths of time, such as `1h30m`.

use std::borrow::Cow;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// A length of time in whole hours, minutes and seconds, in this order: `1h`, `90m`, `1h30m`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Period(String);

/// Units in the order in which they may come, in seconds.
const UNITS: [(char, u64); 3] = [('h', 3600), ('m', 60), ('s', 1)];
/// Most digits of a number, as the pattern says.
const MAX_DIGITS: usize = 6;

impl Period {
    /// The length; `None` for what the schema would have refused.
    #[must_use]
    pub fn as_duration(&self) -> Option<Duration> {
        let (mut rest, mut seconds) = (self.0.as_str(), 0_u64);
        for (unit, factor) in UNITS {
            let Some((number, behind)) = rest.split_once(unit) else { continue };
            let digits = number.bytes().all(|byte| byte.is_ascii_digit());
            if !digits || number.len() > MAX_DIGITS {
                return None;
            }
            seconds += number.parse::<u64>().ok()? * factor;
            rest = behind;
        }
        (rest.is_empty() && !self.0.is_empty()).then(|| Duration::from_secs(seconds))
    }
}

impl From<&str> for Period {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl JsonSchema for Period {
    fn schema_name() -> Cow<'static, str> {
        "Period".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "minLength": 2,
            "maxLength": 21,
            "pattern": "^([0-9]{1,6}h)?([0-9]{1,6}m)?([0-9]{1,6}s)?$",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn periods_are_read_as_people_write_them() {
        let cases = [
            ("0s", Some(0)),
            ("45s", Some(45)),
            ("90m", Some(5400)),
            ("1h", Some(3600)),
            ("1h30m", Some(5400)),
            ("2h0m1s", Some(7201)),
            ("", None),
            ("5", None),
            ("h", None),
            ("-1s", None),
            ("+1s", None),
            ("1.5h", None),
            ("1s1h", None),
            ("1d", None),
            ("1234567s", None),
        ];
        for (text, seconds) in cases {
            let period = Period::from(text).as_duration();
            assert_eq!(period, seconds.map(Duration::from_secs), "{text:?}");
        }
    }
}
