//! What a session description says, without what differs from one connection to the next:
//! addresses, credentials, numbers of payload types and header extensions.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

/// Makes a description comparable. Sections are in the order of kind and track: which section a
/// track is on means nothing.
pub(crate) fn summary(sdp: &str) -> Value {
    let mut sections: Vec<Vec<&str>> = vec![Vec::new()];
    for line in sdp.lines().map(str::trim_end) {
        if line.starts_with("m=") {
            sections.push(Vec::new());
        }
        if let Some(section) = sections.last_mut() {
            section.push(line);
        }
    }
    let media: Vec<Value> = sections[1..].iter().map(|lines| section(lines)).collect();
    let session = &sections[0];
    json!({
        "iceLite": session.contains(&"a=ice-lite"),
        "bundle": attribute(session, "group:BUNDLE").is_some(),
        "extmapAllowMixed": session.contains(&"a=extmap-allow-mixed"),
        "media": media,
    })
}

fn section(lines: &[&str]) -> Value {
    let head: Vec<&str> = lines[0].trim_start_matches("m=").split(' ').collect();
    let mut summary = Map::new();
    summary.insert("kind".into(), json!(head[0]));
    if head[1] == "0" {
        summary.insert("rejected".into(), json!(true));
        return Value::Object(summary);
    }
    summary.insert("setup".into(), json!(attribute(lines, "setup:")));
    if head[0] == "application" {
        return Value::Object(summary);
    }
    let directions = ["sendrecv", "sendonly", "recvonly", "inactive"];
    let direction = directions.iter().find(|name| lines.contains(&format!("a={name}").as_str()));
    summary.insert("direction".into(), json!(direction));
    if let Some(msid) = attribute(lines, "msid:") {
        summary.insert("msid".into(), json!(msid));
    }
    summary.insert("codecs".into(), json!(codecs(lines, &head[3..])));
    summary.insert("feedback".into(), json!(feedback(lines, head[0])));
    let mut extensions: Vec<&str> =
        attributes(lines, "extmap:").filter_map(|value| value.split(' ').nth(1)).collect();
    extensions.sort_unstable();
    summary.insert("extensions".into(), json!(extensions));
    Value::Object(summary)
}

/// Codecs with their parameters, in no order: livekit-server answers now in one, now in another.
fn codecs(lines: &[&str], payload_types: &[&str]) -> Vec<String> {
    let names: BTreeMap<&str, &str> =
        attributes(lines, "rtpmap:").filter_map(|value| value.split_once(' ')).collect();
    let parameters: BTreeMap<&str, &str> =
        attributes(lines, "fmtp:").filter_map(|value| value.split_once(' ')).collect();
    let codec = |payload_type: &&str| {
        let name = names.get(payload_type).copied().unwrap_or_default();
        // Discontinuous transmission is answered now and then.
        let of_codec = parameters.get(payload_type).unwrap_or(&"").split(';');
        let mut of_codec = sorted(of_codec.filter(|parameter| *parameter != "usedtx=1"));
        for parameter in &mut of_codec {
            // The retransmissions of a codec are named after it.
            if let Some(of) = parameter.strip_prefix("apt=") {
                *parameter = format!("apt={}", names.get(of).copied().unwrap_or_default());
            }
        }
        format!("{name} [{}]", of_codec.join("; "))
    };
    let mut codecs: Vec<String> = payload_types.iter().map(codec).collect();
    codecs.sort_unstable();
    codecs
}

/// Feedback of any codec.
fn feedback(lines: &[&str], kind: &str) -> Vec<String> {
    let all: BTreeSet<String> = attributes(lines, "rtcp-fb:")
        .filter_map(|value| Some(format!("{kind} {}", value.split_once(' ')?.1)))
        .collect();
    all.into_iter().collect()
}

fn sorted<'a>(words: impl Iterator<Item = &'a str>) -> Vec<String> {
    let mut words: Vec<String> =
        words.map(str::trim).filter(|word| !word.is_empty()).map(str::to_owned).collect();
    words.sort_unstable();
    words
}

fn attribute<'a>(lines: &[&'a str], name: &str) -> Option<&'a str> {
    attributes(lines, name).next()
}

fn attributes<'a>(lines: &[&'a str], name: &str) -> impl Iterator<Item = &'a str> {
    lines.iter().filter_map(move |line| line.strip_prefix("a=")?.strip_prefix(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_credentials_do_not_matter() {
        let offer = |pt: u8, ufrag: &str| {
            format!(
                "v=0\r\na=group:BUNDLE 0\r\nm=video 9 UDP/TLS/RTP/SAVPF {pt} 97\r\n\
                 a=ice-ufrag:{ufrag}\r\na=setup:actpass\r\na=sendonly\r\na=msid:PA TR\r\n\
                 a=rtpmap:{pt} VP8/90000\r\na=rtcp-fb:{pt} nack\r\na=rtpmap:97 rtx/90000\r\n\
                 a=fmtp:97 apt={pt}\r\na=extmap:{pt} urn:x\r\n"
            )
        };
        let first = summary(&offer(96, "a"));
        assert_eq!(first, summary(&offer(100, "b")));
        let codecs = &first["media"][0]["codecs"];
        assert_eq!(*codecs, json!(["VP8/90000 []", "rtx/90000 [apt=VP8/90000]"]));
        assert_eq!(first["media"][0]["feedback"], json!(["video nack"]));
        assert_eq!(first["media"][0]["extensions"], json!(["urn:x"]));
    }
}
