use std::io::Write as _;
use std::time::Duration;

use livekit_protocol::ConnectionSettings;
use proptest::prelude::*;

use super::*;

fn claims() -> Claims {
    let mut claims = contract::access_token::claims(
        "anna",
        Duration::from_secs(1_800_000_000),
        Duration::from_secs(3600),
    );
    claims.video.room_join = true;
    claims.video.room = "lobby".to_owned();
    claims
}

fn query(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

fn base64_of(bytes: &[u8]) -> String {
    base64::engine::general_purpose::URL_SAFE.encode(bytes)
}

fn wrap(compression: i32, join_request: Vec<u8>) -> String {
    base64_of(&WrappedJoinRequest { compression, join_request }.encode_to_vec())
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn a_query_of_a_go_client_is_dual_and_subscribes() {
    let pairs = query(&[("protocol", "16"), ("sdk", "go"), ("version", "2.18.1")]);
    let params = JoinParams::from_query(&pairs, claims()).unwrap();
    assert_eq!(params.mode, PeerConnectionMode::Dual);
    assert_eq!((params.identity.as_str(), params.room.as_str()), ("anna", "lobby"));
    assert!(params.auto_subscribe && !params.adaptive_stream);
    assert_eq!((params.client.sdk(), params.client.protocol), (client_info::Sdk::Go, 16));
    assert_eq!(params.reconnect, None);
}

#[test]
fn a_reconnect_names_its_session() {
    let pairs = query(&[("reconnect", "1"), ("sid", "PA_x"), ("reconnect_reason", "1")]);
    let reconnect = JoinParams::from_query(&pairs, claims()).unwrap().reconnect.unwrap();
    assert_eq!(reconnect.participant_sid.as_deref(), Some("PA_x"));
    assert_eq!(reconnect.reason, ReconnectReason::RrSignalDisconnected);
}

#[test]
fn join_requests_are_read_with_and_without_gzip_and_padding() {
    let request = JoinRequest {
        connection_settings: Some(ConnectionSettings {
            auto_subscribe: true,
            adaptive_stream: true,
            ..ConnectionSettings::default()
        }),
        ..JoinRequest::default()
    }
    .encode_to_vec();
    let plain = wrap(0, request.clone());
    for encoded in [plain.trim_end_matches('=').to_owned(), plain, wrap(1, gzip(&request))] {
        let params = JoinParams::from_join_request(&encoded, claims()).unwrap();
        assert_eq!(params.mode, PeerConnectionMode::Single);
        assert!(params.auto_subscribe && params.adaptive_stream);
        let same = JoinParams::from_query(&query(&[("join_request", &encoded)]), claims());
        assert_eq!(same.unwrap(), params);
    }
}

#[test]
fn bad_joins_have_their_status_and_text() {
    let large = vec![0; MAX_JOIN_REQUEST_BYTES + 1];
    let long = "x".repeat(257);
    type Change = fn(&mut Claims);
    let tokens: [(Change, u16, &str); 4] = [
        (|c| c.video.room_join = false, 401, "no permissions to access the room"),
        (|c| c.sub.clear(), 400, "identity cannot be empty"),
        (|c| c.video.room.clear(), 400, "no room name"),
        (|c| c.metadata = "x".repeat(512 * 1024 + 1), 400, "metadata size exceeds limits"),
    ];
    for (change, status, message) in tokens {
        let mut claims = claims();
        change(&mut claims);
        let error = JoinParams::from_query(&[], claims).unwrap_err();
        assert_eq!((error.status, error.message.as_str()), (status, message));
    }
    let requests = [
        (String::new(), "join_request is required"),
        ("*".to_owned(), "cannot base64 decode wrapped join request"),
        (base64_of(&[0xff; 9]), "cannot unmarshal wrapped join request"),
        (wrap(0, vec![0xff; 9]), "cannot unmarshal join request"),
        (wrap(1, vec![1, 2, 3]), "cannot read decompressed join request"),
        (wrap(1, gzip(&large)), "join request too large"),
        (wrap(7, Vec::new()), "unknown join request compression"),
    ];
    for (request, message) in requests {
        let error = JoinParams::from_join_request(&request, claims()).unwrap_err();
        assert_eq!((error.status, error.message.as_str()), (400, message));
    }
    let mut token = claims();
    token.sub = long;
    assert_eq!(JoinParams::from_query(&[], token).unwrap_err().status, 400);
    let bad = query(&[("attributes", "%%")]);
    let error = JoinParams::from_query(&bad, claims()).unwrap_err();
    assert_eq!(error, JoinError::new(400, "cannot decode attributes"));
}

#[test]
fn own_attributes_need_the_right_and_override_the_tokens() {
    let encoded = base64_of(br#"{"mood":"good","empty":""}"#);
    let pairs = query(&[("attributes", &encoded)]);
    let error = JoinParams::from_query(&pairs, claims()).unwrap_err();
    assert_eq!(error, JoinError::permission_denied());

    let mut allowed = claims();
    allowed.video.can_update_own_metadata = Some(true);
    allowed.attributes =
        [("mood", "bad"), ("empty", "kept")].map(|(k, v)| (k.to_owned(), v.to_owned())).into();
    let params = JoinParams::from_query(&pairs, allowed).unwrap();
    assert_eq!(params.attributes["mood"], "good");
    assert_eq!(params.attributes["empty"], "kept");
}

proptest! {
    #[test]
    fn random_join_requests_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), text in ".*") {
        let _ = JoinParams::from_join_request(&base64_of(&bytes), claims());
        let _ = JoinParams::from_join_request(&text, claims());
        let _ = JoinParams::from_query(&query(&[("attributes", &text)]), claims());
    }
}

#[test]
fn what_a_token_asks_for_and_is_not_done_is_refused_by_name() {
    let preset = MoreClaims { room_preset: "webinar".to_owned(), ..MoreClaims::default() };
    let join = |claims: Claims| JoinParams::from_query(&[], claims).unwrap().with(preset.clone());
    assert_eq!(join(claims()).unwrap().more_claims, preset);
    let mut recorded = claims();
    recorded.room_config = Some(livekit_protocol::RoomConfiguration {
        egress: Some(livekit_protocol::RoomEgress::default()),
        ..Default::default()
    });
    let error = join(recorded).unwrap_err();
    assert!(error.status == 400 && error.message.contains("roomConfig.egress"), "{error:?}");
}
