//! Does `docs/signal-messages.md` say of every field of the signalling protocol what is done with it?

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use anyhow::{Context as _, Result, ensure};
use e2e::clients::node;
use e2e::repository;

/// Prints messages and their fields as the protocol that livekit-client is made with has them.
const LIST: &str = "
    import { DataPacket, JoinRequest, SignalRequest, SignalResponse } from '@livekit/protocol';
    const names = (type) => type.fields.list().map((field) => field.name);
    const fields = (type) => Object.fromEntries(type.fields.list().map(
        (field) => [field.name, field.kind === 'message' ? names(field.T) : []]));
    console.log(JSON.stringify({
        requests: fields(SignalRequest),
        responses: fields(SignalResponse),
        join: fields(JoinRequest),
        data: fields(DataPacket),
    }));";

/// Messages with the names of their fields.
type Messages = BTreeMap<String, BTreeSet<String>>;

#[test]
fn every_field_of_every_message_is_on_the_page() -> Result<()> {
    let protocol: BTreeMap<String, Messages> = serde_json::from_str(&node::evaluate(LIST)?)?;
    let page = fs::read_to_string(repository().join("docs/signal-messages.md"))?;
    let mut missing = Vec::new();
    let requests = rows(section(&page, "## From clients")?);
    for (message, fields) in &protocol["requests"] {
        let Some(text) = requests.get(message.as_str()) else {
            missing.push(message.clone());
            continue;
        };
        let has_all = text.contains("| all |");
        let is_named = |field: &&String| has_all || text.contains(&format!("`{field}"));
        missing.extend(fields.iter().filter(|f| !is_named(f)).map(|f| format!("{message}.{f}")));
    }
    let responses = section(&page, "## To clients")?;
    let data = section(&page, "## Data packets")?;
    let join = section(&page, "## Joining")?;
    let settings = &protocol["join"]["connection_settings"];
    for (text, names) in [
        (responses, protocol["responses"].keys().collect::<Vec<_>>()),
        (data, protocol["data"].keys().collect()),
        (join, protocol["join"].keys().chain(settings).collect()),
    ] {
        // `name`, `name.of_a_part`, or the part itself.
        let forms = |name: &str| [format!("`{name}`"), format!("`{name}."), format!(".{name}`")];
        let is_named = |name: &str| forms(name).iter().any(|form| text.contains(form));
        missing.extend(
            names.iter().filter(|name| !is_named(name.as_str())).map(|name| (*name).clone()),
        );
    }
    ensure!(missing.is_empty(), "the page does not name {missing:?}");
    let unknown: Vec<_> =
        requests.keys().filter(|name| !protocol["requests"].contains_key(**name)).collect();
    ensure!(unknown.is_empty(), "the protocol has no messages {unknown:?}");
    Ok(())
}

/// What stands under a heading.
fn section<'a>(page: &'a str, heading: &str) -> Result<&'a str> {
    let (_, rest) = page.split_once(heading).with_context(|| format!("no {heading}"))?;
    Ok(rest.split("\n## ").next().unwrap_or(rest))
}

/// The rows of each message: those without a name in the first column are of the one before.
fn rows(table: &str) -> BTreeMap<&str, String> {
    let mut rows: BTreeMap<&str, String> = BTreeMap::new();
    let mut current: Vec<&str> = Vec::new();
    for row in table.lines().filter(|line| line.starts_with('|')).skip(2) {
        let first = row.split('|').nth(1).unwrap_or_default();
        let named: Vec<&str> = first.split('`').skip(1).step_by(2).collect();
        if !named.is_empty() {
            current = named;
        }
        for name in &current {
            *rows.entry(name).or_default() += row;
        }
    }
    rows
}
