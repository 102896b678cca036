//! Compares two plays field by field, and knows the differences that are meant to be: the table
//! in `docs/differences-from-livekit.md`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use anyhow::{Result, ensure};
use serde_json::Value;

use crate::pace::kind;
use crate::script::Step;

/// A difference of one field in one message, or of a whole message.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Difference {
    /// The step of the script.
    pub(crate) step: String,
    /// Who received it.
    pub(crate) receiver: String,
    /// Kind of the message.
    pub(crate) message: String,
    /// Path of the field, indices as `[]`; empty for a whole message.
    pub(crate) field: String,
    /// The recorded value, or `absent`.
    pub(crate) livekit: String,
    /// The node's value, or `absent`.
    pub(crate) ours: String,
}

/// What stands for a value that is not there.
const ABSENT: &str = "absent";
/// What stands for a whole message that is there.
const SENT: &str = "sent";

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { step, receiver, message, field, livekit, ours } = self;
        write!(f, "{step} → {receiver}: | `{message}` | `{field}` | `{livekit}` | `{ours}` |")
    }
}

/// Returns all differences.
pub(crate) fn compare(recorded: &[Step], played: &[Step]) -> Vec<Difference> {
    let mut found = BTreeSet::new();
    for (recorded, played) in recorded.iter().zip(played) {
        let names: BTreeSet<&String> =
            recorded.received.keys().chain(played.received.keys()).collect();
        for receiver in names {
            let of = |step: &Step| step.received.get(receiver).cloned().unwrap_or_default();
            let place = Place { step: &recorded.name, receiver };
            place.compare(&of(recorded), &of(played), &mut found);
        }
    }
    found.into_iter().collect()
}

struct Place<'a> {
    step: &'a str,
    receiver: &'a str,
}

impl Place<'_> {
    fn compare(&self, recorded: &[Value], played: &[Value], found: &mut BTreeSet<Difference>) {
        let (recorded, played) = (by_kind(recorded), by_kind(played));
        let kinds: BTreeSet<&String> = recorded.keys().chain(played.keys()).collect();
        for kind in kinds {
            let empty = Vec::new();
            let livekit = recorded.get(kind).unwrap_or(&empty);
            let ours = played.get(kind).unwrap_or(&empty);
            for index in 0..livekit.len().max(ours.len()) {
                match (livekit.get(index), ours.get(index)) {
                    (Some(livekit), Some(ours)) => {
                        self.compare_values(kind, "", livekit, ours, found);
                    }
                    (one, other) => {
                        let word =
                            |there: Option<&&Value>| if there.is_some() { SENT } else { ABSENT };
                        found.insert(self.difference(kind, "", word(one), word(other)));
                    }
                }
            }
        }
    }

    fn compare_values(
        &self,
        kind: &str,
        path: &str,
        livekit: &Value,
        ours: &Value,
        found: &mut BTreeSet<Difference>,
    ) {
        match (livekit, ours) {
            (Value::Object(livekit), Value::Object(ours)) => {
                let keys: BTreeSet<&String> = livekit.keys().chain(ours.keys()).collect();
                for key in keys {
                    let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                    let null = Value::Null;
                    let value =
                        |of: &serde_json::Map<String, Value>| of.get(key).unwrap_or(&null).clone();
                    self.compare_values(kind, &path, &value(livekit), &value(ours), found);
                }
            }
            (Value::Array(livekit), Value::Array(ours)) => {
                let path = format!("{path}[]");
                if livekit.iter().chain(ours).all(Value::is_string) {
                    return self.compare_words(kind, &path, livekit, ours, found);
                }
                for index in 0..livekit.len().max(ours.len()) {
                    let null = Value::Null;
                    let value = |of: &Vec<Value>| of.get(index).unwrap_or(&null).clone();
                    self.compare_values(kind, &path, &value(livekit), &value(ours), found);
                }
            }
            (livekit, ours) if livekit == ours => {}
            (livekit, ours) => {
                found.insert(self.difference(kind, path, &text(livekit), &text(ours)));
            }
        }
    }

    /// Lists of words differ by the words that only one has, else by their order.
    fn compare_words(
        &self,
        kind: &str,
        path: &str,
        livekit: &[Value],
        ours: &[Value],
        found: &mut BTreeSet<Difference>,
    ) {
        let mut only_ours = ours.to_vec();
        let mut is_same = true;
        for word in livekit {
            if let Some(index) = only_ours.iter().position(|other| other == word) {
                only_ours.remove(index);
            } else {
                is_same = false;
                found.insert(self.difference(kind, path, &text(word), ABSENT));
            }
        }
        for word in &only_ours {
            is_same = false;
            found.insert(self.difference(kind, path, ABSENT, &text(word)));
        }
        if is_same && livekit != ours {
            found.insert(self.difference(kind, path, "one order", "another order"));
        }
    }

    fn difference(&self, kind: &str, field: &str, livekit: &str, ours: &str) -> Difference {
        Difference {
            step: self.step.to_owned(),
            receiver: self.receiver.to_owned(),
            message: kind.to_owned(),
            field: field.to_owned(),
            livekit: livekit.to_owned(),
            ours: ours.to_owned(),
        }
    }
}

fn by_kind(messages: &[Value]) -> BTreeMap<String, Vec<&Value>> {
    let mut by_kind: BTreeMap<String, Vec<&Value>> = BTreeMap::new();
    for message in messages {
        let kind = kind(message);
        by_kind.entry(kind.to_owned()).or_default().push(&message[kind]);
    }
    by_kind
}

fn text(value: &Value) -> String {
    match value {
        Value::Null => ABSENT.to_owned(),
        Value::String(text) => text.clone(),
        Value::Object(_) => SENT.to_owned(),
        other => other.to_string(),
    }
}

/// A row of the table of differences.
#[derive(Debug)]
pub(crate) struct Allowed {
    message: String,
    field: String,
    livekit: String,
    ours: String,
    /// Steps in which it may be; empty: all.
    steps: Vec<String>,
}

impl Allowed {
    /// Reads the rows of the tables whose columns are message, field, the two values, step and
    /// reason.
    pub(crate) fn read(page: &str) -> Result<Vec<Self>> {
        let mut rows = Vec::new();
        for line in page.lines().filter(|line| line.starts_with("| `")) {
            let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
            let [message, field, livekit, ours, steps, reason] = cells[..] else {
                anyhow::bail!("a row needs six cells: {line}");
            };
            ensure!(!reason.is_empty(), "no reason: {line}");
            let word = |cell: &str| cell.trim_matches('`').to_owned();
            rows.push(Self {
                message: word(message),
                field: if field == "–" { String::new() } else { word(field) },
                livekit: word(livekit),
                ours: word(ours),
                steps: match steps {
                    "all" => Vec::new(),
                    steps => steps.split("; ").map(str::to_owned).collect(),
                },
            });
        }
        Ok(rows)
    }

    /// Whether it allows the difference.
    pub(crate) fn allows(&self, difference: &Difference) -> bool {
        let is_value = |allowed: &str, value: &str| allowed == "any" || allowed == value;
        self.message == difference.message
            && self.field == difference.field
            && is_value(&self.livekit, &difference.livekit)
            && is_value(&self.ours, &difference.ours)
            && self.is_in(&difference.step)
    }

    fn is_in(&self, step: &str) -> bool {
        self.steps.is_empty() || self.steps.iter().any(|allowed| allowed == step)
    }
}

impl fmt::Display for Allowed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { message, field, livekit, ours, steps } = self;
        write!(f, "`{message}` `{field}` `{livekit}` `{ours}` {}", steps.join("; "))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn step(messages: Vec<Value>) -> Step {
        Step { name: "joins".to_owned(), received: [("anna".to_owned(), messages)].into() }
    }

    #[test]
    fn fields_lists_and_messages_differ_each_for_itself() {
        let recorded =
            [step(vec![json!({ "join": { "a": 1, "list": ["x", "y"] } }), json!({ "leave": {} })])];
        let played = [step(vec![json!({ "join": { "a": 2, "list": ["y"] } })])];
        let found = compare(&recorded, &played);
        let fields: Vec<(&str, &str, &str, &str)> = found
            .iter()
            .map(|d| (d.message.as_str(), d.field.as_str(), d.livekit.as_str(), d.ours.as_str()))
            .collect();
        assert_eq!(
            fields,
            [
                ("join", "a", "1", "2"),
                ("join", "list[]", "x", "absent"),
                ("leave", "", "sent", "absent")
            ]
        );
    }

    #[test]
    fn a_row_allows_its_values_in_its_steps() {
        let row = "| `join` | `a` | `1` | `any` | joins; leaves | because |";
        let allowed = &Allowed::read(row).unwrap()[0];
        let [difference] = &compare(
            &[step(vec![json!({ "join": { "a": 1 } })])],
            &[step(vec![json!({ "join": { "a": 2 } })])],
        )[..] else {
            panic!()
        };
        assert!(allowed.allows(difference));
        assert!(!allowed.allows(&Difference { step: "goes".to_owned(), ..difference.clone() }));
        assert!(!allowed.allows(&Difference { livekit: "3".to_owned(), ..difference.clone() }));
        assert!(Allowed::read("| `join` | `a` | `1` | `2` | all |").is_err());
    }
}
