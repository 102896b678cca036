//! Makes two plays of the script comparable: names instead of ids, no times, no secrets; and of
//! messages that tell a state, the state at the end of each step.

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde_json::{Map, Value, json};

use crate::pace::{BY_THE_CLOCK, kind};
use crate::script::Step;
use crate::sdp;

/// Name of the step that holds the messages that come by the clock.
pub(crate) const CLOCK: &str = "by the clock";

/// Fields whose value is another each time, with what stands for it.
const MASKED: [(&str, &str); 31] = [
    ("joinedAt", "time"),
    ("joinedAtMs", "time"),
    ("joined_at", "time"),
    ("joined_at_ms", "time"),
    ("creationTime", "time"),
    ("creationTimeMs", "time"),
    ("creation_time", "time"),
    ("creation_time_ms", "time"),
    ("timestamp", "time"),
    ("unixMicro", "time"),
    ("unix_micro", "time"),
    ("ticks", "number"),
    ("pong", "time"),
    ("nbf", "time"),
    ("exp", "time"),
    ("iat", "time"),
    ("jti", "id"),
    ("turnPassword", "secret"),
    ("turn_password", "secret"),
    ("sifTrailer", "random bytes"),
    ("nodeId", "id"),
    ("nonce", "id"),
    ("mid", "id"),
    ("ssrc", "number"),
    ("region", "text"),
    ("level", "number"),
    ("score", "number"),
    ("num_participants", "number"),
    ("num_publishers", "number"),
    ("lastPingTimestamp", "time"),
    ("debugInfo", "text"),
];

/// Masks a play.
pub(crate) fn mask(steps: &[Step]) -> Vec<Step> {
    let names = names(steps);
    let mut clock = BTreeSet::new();
    let mut masked: Vec<Step> =
        steps.iter().map(|step| mask_step(step, &names, &mut clock)).collect();
    let all = clock.iter().filter_map(|message| serde_json::from_str(message).ok()).collect();
    masked.push(Step { name: CLOCK.to_owned(), received: [("everybody".to_owned(), all)].into() });
    masked
}

/// Masks the last step of a play that goes on.
pub(crate) fn last(steps: &[Step]) -> Option<Step> {
    Some(mask_step(steps.last()?, &names(steps), &mut BTreeSet::new()))
}

/// Masks a step; what comes by the clock goes elsewhere.
fn mask_step(step: &Step, names: &BTreeMap<String, String>, clock: &mut BTreeSet<String>) -> Step {
    let mut received = BTreeMap::new();
    for (receiver, messages) in &step.received {
        let mut kept = Vec::new();
        for message in messages.iter().map(|message| mask_message(message, names)) {
            match kind(&message) {
                // Addresses, and what hangs on the machine's bandwidth.
                "trickle" | "streamStateUpdate" => {}
                kind if BY_THE_CLOCK.contains(&kind) => clock.extend(parts(&message)),
                _ => kept.push(message),
            }
        }
        if !kept.is_empty() {
            received.insert(receiver.clone(), last_states(kept));
        }
    }
    Step { name: step.name.clone(), received }
}

/// A message that comes by the clock, without what hangs on the machine: who is loud at the same
/// time as whom, and how good whose connection is.
fn parts(message: &Value) -> Vec<String> {
    let parts = match kind(message) {
        "speakersChanged" => {
            let speakers = as_array(&message["speakersChanged"]["speakers"]);
            let active = speakers.into_iter().filter(|speaker| speaker["active"] == json!(true));
            let anybody = active.map(|mut speaker| {
                speaker["sid"] = json!("<id>");
                json!({ "speakersChanged": speaker })
            });
            anybody.collect()
        }
        "connectionQuality" => vec![json!({ "connectionQuality": {} })],
        _ => vec![message.clone()],
    };
    parts.iter().map(Value::to_string).collect()
}

/// Names of sids: those of participants by identity, those of tracks by name.
fn names(steps: &[Step]) -> BTreeMap<String, String> {
    fn collect(value: &Value, names: &mut BTreeMap<String, String>) {
        match value {
            Value::Object(object) => {
                if let Some(sid) = object.get("sid").and_then(Value::as_str)
                    && let Some(prefix) = sid.get(..3)
                    && let Some(name) = ["identity", "name"]
                        .iter()
                        .find_map(|key| object.get(*key).and_then(Value::as_str))
                {
                    names.entry(sid.to_owned()).or_insert_with(|| format!("{prefix}{name}"));
                }
                object.values().for_each(|value| collect(value, names));
            }
            Value::Array(values) => values.iter().for_each(|value| collect(value, names)),
            _ => {}
        }
    }
    let mut names = BTreeMap::new();
    for step in steps {
        for message in step.received.values().flatten() {
            collect(message, &mut names);
        }
    }
    names
}

fn mask_message(message: &Value, names: &BTreeMap<String, String>) -> Value {
    let mut masked = mask_value(message, names);
    if let Value::Object(object) = &mut masked {
        for (kind, content) in object {
            match (kind.as_str(), content) {
                // The client checks that answers have the ids of their offers.
                ("offer" | "answer", Value::Object(description)) => {
                    if let Some(id) = description.get_mut("id") {
                        *id = json!("<number>");
                    }
                }
                ("refreshToken", content) => {
                    let claims = claims(content.as_str().unwrap_or_default());
                    *content = mask_value(&claims, names);
                }
                _ => {}
            }
        }
    }
    masked
}

fn mask_value(value: &Value, names: &BTreeMap<String, String>) -> Value {
    match value {
        Value::Object(object) => {
            let masked = object
                .iter()
                .filter_map(|(key, value)| Some((key.clone(), mask_field(key, value, names)?)));
            Value::Object(masked.collect::<Map<_, _>>())
        }
        Value::Array(values) => {
            let mut masked: Vec<Value> =
                values.iter().map(|value| mask_value(value, names)).collect();
            masked.sort_by_key(order);
            Value::Array(masked)
        }
        Value::String(text) => Value::String(rename(text, names)),
        other => other.clone(),
    }
}

/// Participants, tracks, codecs and sections of descriptions are listed in any order.
fn order(value: &Value) -> String {
    if let Some(key) = value["sid"].as_str().or_else(|| value["mime"].as_str()) {
        return key.to_owned();
    }
    let word = |key: &str| value[key].as_str();
    let is_received = word("direction") == Some("recvonly");
    format!("{:?} {} {}", word("kind"), word("msid").unwrap_or("~"), !is_received)
}

fn mask_field(key: &str, value: &Value, names: &BTreeMap<String, String>) -> Option<Value> {
    if let Some((_, stands)) = MASKED.iter().find(|(field, _)| *field == key) {
        return Some(json!(format!("<{stands}>")));
    }
    match (key, value) {
        // Told by the clock.
        ("numParticipants" | "numPublishers", _) => None,
        ("sdp", Value::String(text)) => Some(mask_value(&sdp::summary(text), names)),
        // Versions of participants and tracks count changes.
        ("version", Value::Number(_) | Value::Object(_)) => Some(json!("<number>")),
        ("midToTrackId", Value::Object(mids)) => {
            let mut tracks: Vec<String> =
                mids.values().map(|sid| rename(sid.as_str().unwrap_or_default(), names)).collect();
            tracks.sort_unstable();
            Some(json!(tracks))
        }
        _ => Some(mask_value(value, names)),
    }
}

fn rename(text: &str, names: &BTreeMap<String, String>) -> String {
    let mut renamed = text.to_owned();
    for (sid, name) in names {
        if renamed.contains(sid.as_str()) {
            renamed = renamed.replace(sid.as_str(), name);
        }
    }
    renamed
}

/// The claims of a token.
fn claims(token: &str) -> Value {
    let payload = token.split('.').nth(1).unwrap_or_default();
    let bytes = BASE64_URL_SAFE_NO_PAD.decode(payload).unwrap_or_default();
    serde_json::from_slice(&bytes).unwrap_or(Value::Null)
}

/// Of messages that tell a state keeps the last of each, as a server may tell it in one or in
/// several; sorts by kind what servers send from several threads.
fn last_states(messages: Vec<Value>) -> Vec<Value> {
    let mut last: BTreeMap<String, Value> = BTreeMap::new();
    let mut kept = Vec::new();
    for message in messages {
        let of = match kind(&message) {
            "update" => {
                for participant in as_array(&message["update"]["participants"]) {
                    let key = format!("update {}", participant["sid"]);
                    last.insert(key, json!({ "update": participant }));
                }
                continue;
            }
            "subscriptionPermissionUpdate" => {
                format!("permission {}", message["subscriptionPermissionUpdate"]["trackSid"])
            }
            "subscribedQualityUpdate" => {
                format!("quality {}", message["subscribedQualityUpdate"]["trackSid"])
            }
            "trackSubscribed" => format!("subscribed {}", message["trackSubscribed"]["trackSid"]),
            kind @ ("offer" | "answer" | "refreshToken")
                if message["answer"]["status"].is_null() =>
            {
                kind.to_owned()
            }
            "connected" | "channel" => message.to_string(),
            _ => {
                kept.push(message);
                continue;
            }
        };
        last.insert(of, message);
    }
    kept.extend(last.into_values());
    kept.sort_by(|a, b| kind(a).cmp(kind(b)));
    kept
}

fn as_array(value: &Value) -> Vec<Value> {
    value.as_array().cloned().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(messages: Vec<Value>) -> Step {
        Step { name: "step".to_owned(), received: [("anna".to_owned(), messages)].into() }
    }

    #[test]
    fn ids_become_names_and_the_last_state_stays() {
        let update = |muted: bool| {
            json!({ "update": { "participants": [{ "sid": "PA_1", "identity": "bob",
                "joinedAt": "5", "tracks": [{ "sid": "TR_2", "name": "mic", "muted": muted }] }] } })
        };
        let published = json!({ "trackSubscribed": { "trackSid": "TR_2" } });
        let masked = mask(&[step(vec![update(true), published, update(false)])]);
        let wanted = [
            json!({ "trackSubscribed": { "trackSid": "TR_mic" } }),
            json!({ "update": { "sid": "PA_bob", "identity": "bob", "joinedAt": "<time>",
                "tracks": [{ "sid": "TR_mic", "name": "mic", "muted": false }] } }),
        ];
        assert_eq!(masked[0].received["anna"], wanted);
    }
}
