//! Are joins and calls without leave refused with the statuses that LiveKit's clients know?

use anyhow::{Result, ensure};
use e2e::clients::HttpClient;
use e2e::live_cluster::LiveCluster;
use e2e::livekit::Access;
use serde_json::{Value, json};

#[test]
fn who_has_no_leave_is_told_so_by_status() -> Result<()> {
    LiveCluster::run("refusals", 1, 22_000, |live_cluster| {
        let http = live_cluster.http()?;
        let access = live_cluster.access()?;
        joins(&http, &access)?;
        room_service(&http, &access)
    })
}

fn joins(http: &HttpClient, access: &Access) -> Result<()> {
    let good = access.token("anna", "lobby")?;
    let forged = format!("{}x", good.trim_end_matches(|end: char| end != '.'));
    let stranger = Access::new(&access.url, "stranger", "a-secret-of-somebody-else");
    let cases = [
        ("a good token", good.clone(), 101, 200),
        ("no token", String::new(), 401, 401),
        ("not a token", "abc".to_owned(), 401, 401),
        ("a token of an unknown key", stranger.token("anna", "lobby")?, 401, 401),
        ("a token whose signature is wrong", forged, 401, 401),
        ("an expired token", access.expired_token("anna", "lobby")?, 401, 401),
        ("a token that grants no joining", access.admin_token("lobby")?, 401, 401),
    ];
    for (what, token, upgrade, validate) in cases {
        let joined = http.upgrade(&access.join_url(&token))?;
        ensure!(joined.status == upgrade, "{what}: {joined:?} instead of {upgrade}");
        let validated = http.get(&access.validate_url(&token))?;
        ensure!(validated.status == validate, "{what}: {validated:?} instead of {validate}");
        // Without it a browser cannot read why its join failed.
        let origin = validated.headers.get("access-control-allow-origin").map(String::as_str);
        ensure!(origin == Some("*"), "{what}: {validated:?}");
    }
    let without_request = format!("{}/rtc/v1?access_token={good}", access.url);
    let answer = http.upgrade(&without_request)?;
    ensure!(answer.status == 400, "a join without join_request: {answer:?}");
    Ok(())
}

fn room_service(http: &HttpClient, access: &Access) -> Result<()> {
    let url = access.room_service_url("ListParticipants");
    let room = json!({ "room": "lobby" });
    let own = http.post(&url, Some(&access.admin_token("lobby")?), &room)?;
    ensure!(own.status == 200, "the administrator of the room: {own:?}");
    let cases = [
        ("no token", None),
        ("a token for another room", Some(access.admin_token("cellar")?)),
        ("a token of a participant", Some(access.token("anna", "lobby")?)),
        ("an expired token", Some(access.expired_token("anna", "lobby")?)),
    ];
    for (what, token) in cases {
        let answer = http.post(&url, token.as_deref(), &room)?;
        ensure!(answer.status == 401, "{what}: {answer:?}");
        let error: Value = serde_json::from_str(&answer.body)?;
        ensure!(error["code"] == "unauthenticated", "{what}: {answer:?}");
    }
    Ok(())
}
