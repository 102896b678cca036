use serde_json::json;

use super::super::entries::Sources;
use super::super::known::CARRIED;
use super::*;

fn read(yaml: &str) -> Result<Translation, Vec<String>> {
    let entries = Sources::default().merge(Some(yaml), std::iter::empty());
    translate(entries.map_err(|error| vec![error])?, 4)
}

fn taken(yaml: &str) -> Translation {
    read(yaml).unwrap_or_else(|problems| panic!("{yaml}: {problems:?}"))
}

#[test]
fn what_is_not_said_is_livekits_default() {
    let found = taken("");
    assert_eq!(found.config.http.port, 7880);
    assert_eq!((found.udp_ports, found.tcp_port), (vec![7882], Some(7881)));
    assert!(found.bind.is_unspecified());
    assert_eq!(found.config.room, RoomConfig::default());
    assert_eq!(found.config.log, LogConfig { level: "info".into(), format: LogFormat::Text });
    assert!(!found.config.http.pages && found.notes.is_empty());
    let dev = taken("development: true");
    assert!(dev.is_dev && dev.bind.is_loopback());
    assert_eq!(dev.config.log.level, "debug");
}

#[test]
fn keys_that_carry_over_mean_the_same() {
    type Shown = fn(&Translation) -> String;
    let room: Shown = |found| {
        let room = &found.config.room;
        format!(
            "{} {} {} {} {} {} {} {}",
            room.auto_create,
            room.empty_timeout,
            room.departure_timeout,
            room.max_participants,
            room.subscription_limit_audio,
            room.min_playout_delay,
            room.max_playout_delay,
            room.sync_streams,
        )
    };
    let ports: Shown = |found| format!("{:?} {:?}", found.udp_ports, found.tcp_port);
    let cases: [(&str, Shown, &str); 13] = [
        ("port: 80", |f| f.config.http.port.to_string(), "80"),
        ("bind_addresses: ['']", |f| f.bind.to_string(), "0.0.0.0"),
        ("bind_addresses: [127.0.0.1, '::1']", |f| f.bind.to_string(), "127.0.0.1"),
        ("keys: {a: b}", |f| format!("{:?}", f.keys), r#"{"a": "b"}"#),
        ("prometheus_port: 6789", |f| f.config.admin.port.to_string(), "6789"),
        ("rtc: {udp_port: 7000-7999, tcp_port: 0}", ports, "[7000, 7001, 7002, 7003] None"),
        ("rtc: {udp_port: 7000}", ports, "[7000] Some(7881)"),
        (
            "rtc: {port_range_start: 50000, port_range_end: 50001}",
            ports,
            "[50000, 50001] Some(7881)",
        ),
        ("rtc: {node_ip: 192.0.2.1}", |f| f.config.public_url.clone(), "http://192.0.2.1:7880"),
        (
            "room: {auto_create: false, empty_timeout: 1, departure_timeout: 2, max_participants: 3,
                sync_streams: true, playout_delay: {enabled: true, min: 100, max: 200}}
limit: {subscription_limit_audio: 4}",
            room,
            "false 1 2 3 4 100 200 true",
        ),
        ("room: {playout_delay: {min: 100}}", room, "true 300 20 0 0 0 0 false"),
        (
            "webhook: {api_key: a, urls: [http://x], filter_params: {exclude_events: [room_started]}}",
            |f| format!("{:?} {:?}", f.config.webhook.urls, f.config.webhook.exclude_events),
            r#"["http://x"] ["room_started"]"#,
        ),
        (
            "rtc: {stun_servers: ['a:3478'], turn_servers: [{host: t, port: 443, protocol: tls,
                username: u, credential: c}]}",
            |f| f.ice_servers.iter().map(|s| s.urls.join(" ")).collect::<Vec<_>>().join(" "),
            "stun:a:3478 turns:t:443?transport=tcp",
        ),
    ];
    for (yaml, show, expected) in cases {
        assert_eq!(show(&taken(yaml)), expected, "{yaml}");
    }
}

#[test]
fn room_configurations_are_presets_and_what_they_cannot_do_is_named() {
    let found = taken(
        "room: {room_configurations: {webinar: {name: w, emptyTimeout: 5, max_participants: 9, \
         tags: {a: b}, agents: [{agentName: notes, attributes: {c: d}}]}, empty: {}}}",
    );
    let presets = found.config.room.presets;
    let webinar = &presets["webinar"];
    assert_eq!((webinar.empty_timeout, webinar.max_participants), (5, 9));
    assert_eq!(webinar.agents[0].agent_name, "notes");
    assert_eq!(webinar.agents[0].attributes["c"], "d");
    assert_eq!(presets["empty"], RoomPreset::default());
    for (fields, name) in [
        ("egress: {}", "room.room_configurations.webinar.egress"),
        ("emptyTimeuot: 5", "room.room_configurations.webinar"),
        ("agents: [{agent: notes}]", "room.room_configurations.webinar"),
    ] {
        let yaml = format!("room: {{room_configurations: {{webinar: {{{fields}}}}}}}");
        let problems = read(&yaml).unwrap_err();
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(problems[0].starts_with(&format!("{name}: ")), "{problems:?}");
    }
}

#[test]
fn redis_needs_what_nodes_reach_each_other_with() {
    let redis = "redis: {address: 'redis:6379', username: u, password: p, tls: {enabled: true}}\n";
    let problems = read(redis).unwrap_err();
    assert!(problems[0].starts_with("redis.address: ") && problems.len() == 1, "{problems:?}");
    let peer = "livecluster: {peer: {ca_file: a, certificate_file: b, key_file: c}}";
    let found = taken(&format!("{redis}{peer}")).config;
    assert_eq!(found.peer.unwrap().port, 7890);
    let redis = found.redis.unwrap();
    assert_eq!((redis.address.as_str(), redis.tls), ("redis:6379", true));
    assert_eq!(redis.password, Some(Password("p".to_owned())));
    assert!(!format!("{redis:?}").contains("\"p\""), "it is not shown");
}

#[test]
fn what_is_wrong_is_named_all_at_once() {
    let problems =
        read("prot: 1\nport: x\nturn: {enabled: true, domain: t}\nrtc: {use_external_ip: true}")
            .unwrap_err();
    let names: Vec<&str> = problems.iter().filter_map(|line| line.split(':').next()).collect();
    let expected = ["port", "rtc.use_external_ip", "turn.enabled", "prot"];
    assert_eq!(names, expected, "{problems:?}");
    for (yaml, name) in [
        ("rtc: {udp_port: 9-7}", "rtc.udp_port"),
        ("rtc: {turn_servers: [{host: t, port: 1, secret: s}]}", "rtc.turn_servers"),
        ("room: {enabled_codecs: [{mime: video/theora}]}", "room.enabled_codecs"),
        ("bind_addresses: [192.0.2.1, 192.0.2.2]", "bind_addresses"),
        ("redis: {db: 3}", "redis.db"),
        ("limit: {num_tracks: 400}", "limit.num_tracks"),
        ("enable_data_tracks: false", "enable_data_tracks"),
    ] {
        let problems = read(yaml).unwrap_err();
        assert!(problems[0].starts_with(&format!("{name}: ")), "{problems:?}");
    }
}

#[test]
fn what_has_no_meaning_is_said_with_the_reason() {
    let found =
        taken("region: eu\npsrpc: {timeout: 1s}\nlimit: {num_tracks: 0}\nturn: {enabled: false}");
    let notes: Vec<&str> = found.notes.iter().filter_map(|note| note.split(' ').next()).collect();
    assert_eq!(notes, ["psrpc.timeout", "region"], "{:?}", found.notes);
    let flags = ["--disable-strict-config".to_owned()];
    let entries = Sources::parse(&flags).unwrap().merge(Some("prot: 1"), std::iter::empty());
    assert_eq!(translate(entries.unwrap(), 1).unwrap().notes, ["prot is unknown"]);
}

#[test]
fn every_key_that_is_listed_as_carried_is_read() {
    let entries: Entries =
        CARRIED.iter().map(|path| ((*path).to_owned(), json!({"not": ["a value"]}))).collect();
    let problems = translate(entries, 1).unwrap_err();
    for path in CARRIED.iter().filter(|path| **path != "keys") {
        assert!(problems.iter().any(|line| line.starts_with(&format!("{path}: "))), "{path}");
    }
    assert!(problems.iter().all(|line| !line.contains("unknown key")), "{problems:?}");
}
