//! LiveKit's configuration as ours. Pure: what is wrong comes back as a list of lines.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use contract::sfu_config::{
    AdminConfig, CapacityConfig, DrainConfig, HttpConfig, LogConfig, LogFormat, MediaConfig,
    Password, PeerConfig, RedisConfig, RoomConfig, RoomPreset, SentinelConfig, SfuConfig,
    WebhookConfig,
};
use livekit_protocol::IceServer;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use sfu_core::room::is_known_codec;

use super::entries::{Entries, LENIENT};
use super::known::{Foreign, foreign};
use crate::settings::{KeySource, Settings, outward_address};

/// LiveKit's ports where nothing is said.
const HTTP_PORT: u16 = 7880;
const TCP_PORT: u16 = 7881;
const UDP_PORT: u16 = 7882;
/// Nodes that share a Redis are one cluster.
const CLUSTER: &str = "livekit";

/// What LiveKit's configuration says in our terms.
#[derive(Debug, Clone, PartialEq)]
pub struct Translation {
    /// Our configuration; without keys.
    pub config: SfuConfig,
    /// API keys that stand in the configuration.
    pub keys: BTreeMap<String, String>,
    /// The file with API keys.
    pub key_file: Option<PathBuf>,
    /// LiveKit's development mode.
    pub is_dev: bool,
    /// Address to listen on.
    pub bind: IpAddr,
    /// UDP port of each worker.
    pub udp_ports: Vec<u16>,
    /// Port of ICE over TCP.
    pub tcp_port: Option<u16>,
    /// Address to advertise.
    pub node_ip: Option<IpAddr>,
    /// STUN and TURN servers for clients.
    pub ice_servers: Vec<IceServer>,
    /// What was left out, and why.
    pub notes: Vec<String>,
}

/// Takes values one by one; what nobody took is told apart at the end.
struct Reader {
    entries: Entries,
    problems: Vec<String>,
}

impl Reader {
    fn take<T: DeserializeOwned>(&mut self, path: &str) -> Option<T> {
        let value = self.entries.remove(path)?;
        match serde_json::from_value(value) {
            Ok(value) => Some(value),
            Err(error) => {
                self.problems.push(format!("{path}: {error}"));
                None
            }
        }
    }

    fn or_default<T: DeserializeOwned + Default>(&mut self, path: &str) -> T {
        self.take(path).unwrap_or_default()
    }

    fn problem(&mut self, path: &str, reason: &str) {
        self.problems.push(format!("{path}: {reason}"));
    }

    /// Refuses what asks for more than there is: a value other than `harmless`.
    fn refuse_unless<T: DeserializeOwned + PartialEq>(
        &mut self,
        path: &str,
        harmless: T,
        reason: &str,
    ) {
        if self.take::<T>(path).is_some_and(|value| value != harmless) {
            self.problem(path, reason);
        }
    }

    /// Sorts out what is left; notes on what is left out.
    fn finish(mut self) -> Result<Vec<String>, Vec<String>> {
        let is_lenient = self.entries.remove(LENIENT).is_some();
        let mut notes = Vec::new();
        for (path, value) in std::mem::take(&mut self.entries) {
            let is_off = matches!(&value, Value::Bool(false)) || value == 0;
            match foreign(&path) {
                Some((Foreign::Ignored, reason)) => {
                    notes.push(format!("{path} has no effect: {reason}"));
                }
                // Turned off, it asks for nothing.
                Some((Foreign::Refused, _)) if is_off => {}
                Some((Foreign::Refused, reason)) => self.problem(&path, reason),
                None if is_lenient => notes.push(format!("{path} is unknown")),
                None => self.problem(&path, "unknown key"),
            }
        }
        if self.problems.is_empty() { Ok(notes) } else { Err(self.problems) }
    }
}

/// Translates LiveKit's keys for a machine that can run so many workers.
///
/// # Errors
///
/// With a line for each key that is unknown, refused or wrong.
pub fn translate(entries: Entries, workers: usize) -> Result<Translation, Vec<String>> {
    let mut reader = Reader { entries, problems: Vec::new() };
    let is_dev = reader.or_default("development");
    let port = reader.take("port").unwrap_or(HTTP_PORT);
    let bind = bind_address(&mut reader, is_dev);
    let (keys, key_file) = (reader.or_default("keys"), reader.take("key_file"));
    let udp_ports = udp_ports(&mut reader, workers.max(1));
    let tcp_port = reader.take("rtc.tcp_port").unwrap_or(TCP_PORT);
    let node_ip = node_ip(&mut reader);
    let ice_servers = ice_servers(&mut reader);
    let old_admin_port = reader.take("prometheus_port");
    let admin_port = reader.take("prometheus.port").or(old_admin_port);
    let no_switch = "data tracks cannot be turned off";
    reader.refuse_unless("enable_data_tracks", true, no_switch);
    let no_turn = "the TURN server is a program of its own; list it in rtc.turn_servers";
    reader.refuse_unless("turn.enabled", false, no_turn);
    let peer: Option<PeerConfig> = reader.take("livecluster.peer");
    let redis = redis(&mut reader, peer.is_some());
    let host = node_ip.map_or_else(|| "localhost".to_owned(), |ip| ip.to_string());
    let config = SfuConfig {
        cluster_uid: CLUSTER.to_owned(),
        public_url: format!("http://{host}:{port}"),
        keys_file: PathBuf::new(),
        http: HttpConfig { port, pages: false, ..HttpConfig::default() },
        admin: admin_port.map_or_else(AdminConfig::default, |port| AdminConfig { port }),
        redis,
        peer,
        drain: DrainConfig::default(),
        capacity: CapacityConfig::default(),
        media: MediaConfig::default(),
        turn: None,
        room: room(&mut reader),
        webhook: WebhookConfig {
            urls: reader.or_default("webhook.urls"),
            api_key: reader.take("webhook.api_key"),
            include_events: reader.or_default("webhook.filter_params.include_events"),
            exclude_events: reader.or_default("webhook.filter_params.exclude_events"),
        },
        log: log(&mut reader, is_dev),
    };
    let notes = reader.finish()?;
    let tcp_port = Some(tcp_port).filter(|port| *port > 0);
    Ok(Translation {
        config,
        keys,
        key_file,
        is_dev,
        bind,
        udp_ports,
        tcp_port,
        node_ip,
        ice_servers,
        notes,
    })
}

impl Translation {
    /// The settings of the process, with the keys that were found.
    pub(super) fn into_settings(self, keys: KeySource) -> Settings {
        let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let found = || if self.bind.is_loopback() { Some(self.bind) } else { outward_address() };
        let address = self.node_ip.or_else(found).unwrap_or(loopback);
        Settings {
            config: self.config,
            dev: false,
            bind: self.bind,
            node_name: format!("sfu-{address}"),
            pod_ip: address,
            udp_ports: self.udp_ports,
            tcp_port: self.tcp_port,
            turn_port: None,
            turn_name: None,
            host_addresses: vec![address],
            keys,
            ice_servers: self.ice_servers,
            notes: self.notes,
        }
    }
}

fn bind_address(reader: &mut Reader, is_dev: bool) -> IpAddr {
    let everywhere = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    let default = if is_dev { IpAddr::V4(Ipv4Addr::LOCALHOST) } else { everywhere };
    let addresses: Vec<String> = reader.or_default("bind_addresses");
    let parsed: Result<Vec<IpAddr>, _> = addresses
        .iter()
        // LiveKit's way to say all addresses.
        .map(|text| if text.is_empty() { Ok(everywhere) } else { text.parse() })
        .collect();
    match parsed.as_deref() {
        Ok([]) => default,
        Ok([one]) => *one,
        // LiveKit's development mode listens on both loopbacks; clients take the first.
        Ok(several) if several.iter().all(IpAddr::is_loopback) => default_loopback(several),
        Ok(_) => {
            reader.problem("bind_addresses", "one address, or none for all");
            default
        }
        Err(_) => {
            reader.problem("bind_addresses", "must be IP addresses");
            default
        }
    }
}

fn default_loopback(addresses: &[IpAddr]) -> IpAddr {
    let v4 = addresses.iter().find(|address| address.is_ipv4());
    v4.copied().unwrap_or(IpAddr::V6(Ipv6Addr::LOCALHOST))
}

/// A port of its own for each worker: LiveKit's range of ports, or the one.
fn udp_ports(reader: &mut Reader, workers: usize) -> Vec<u16> {
    let range = match reader.take::<Value>("rtc.udp_port") {
        Some(value) => {
            let text = value.as_str().map_or_else(|| value.to_string(), ToOwned::to_owned);
            let (first, last) = text.split_once('-').unwrap_or((&text, &text));
            Some((first.trim().parse().ok(), last.trim().parse().ok()))
        }
        None => None,
    };
    let start: Option<u16> = reader.take("rtc.port_range_start").filter(|port| *port > 0);
    let end: Option<u16> = reader.take("rtc.port_range_end").filter(|port| *port > 0);
    let (path, first, last) = match (range, start, end) {
        (Some((first, last)), _, _) => ("rtc.udp_port", first, last),
        (None, None, None) => ("rtc.udp_port", Some(UDP_PORT), Some(UDP_PORT)),
        (None, start, end) => ("rtc.port_range_start", start, end),
    };
    match (first, last) {
        (Some(first), Some(last)) if 0 < first && first <= last => {
            (first..=last).take(workers).collect()
        }
        _ => {
            reader.problem(path, "must be a port or a range of them, such as 7882-7892");
            Vec::new()
        }
    }
}

fn node_ip(reader: &mut Reader) -> Option<IpAddr> {
    let node_ip: Option<IpAddr> = reader.take("rtc.node_ip");
    let asks = reader.take("rtc.use_external_ip").unwrap_or(false);
    if asks && node_ip.is_none() {
        let reason = "nobody outside is asked for the address: give it as rtc.node_ip or --node-ip";
        reader.problem("rtc.use_external_ip", reason);
    }
    node_ip
}

/// One of `rtc.turn_servers`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TurnServer {
    host: String,
    port: u16,
    #[serde(default)]
    protocol: String,
    #[serde(default)]
    username: String,
    #[serde(default)]
    credential: String,
}

fn ice_servers(reader: &mut Reader) -> Vec<IceServer> {
    let stun: Vec<String> = reader.or_default("rtc.stun_servers");
    let turn: Vec<TurnServer> = reader.or_default("rtc.turn_servers");
    let mut servers = Vec::new();
    if !stun.is_empty() {
        let urls = stun.iter().map(|server| format!("stun:{server}")).collect();
        servers.push(IceServer { urls, ..IceServer::default() });
    }
    for TurnServer { host, port, protocol, username, credential } in turn {
        let url = match protocol.as_str() {
            "tls" => format!("turns:{host}:{port}?transport=tcp"),
            "tcp" => format!("turn:{host}:{port}?transport=tcp"),
            "" | "udp" => format!("turn:{host}:{port}?transport=udp"),
            _ => {
                reader.problem("rtc.turn_servers", "protocol must be tls, tcp or udp");
                continue;
            }
        };
        servers.push(IceServer { urls: vec![url], username, credential });
    }
    servers
}

fn redis(reader: &mut Reader, has_peer: bool) -> Option<RedisConfig> {
    let address: Option<String> = reader.take("redis.address").filter(|a: &String| !a.is_empty());
    let username = reader.take("redis.username").filter(|name: &String| !name.is_empty());
    let password: Option<String> = reader.take("redis.password");
    let use_tls: bool = reader.or_default("redis.use_tls");
    let tls = reader.take("redis.tls.enabled").unwrap_or(use_tls);
    reader.refuse_unless("redis.db", 0, "keys are kept in database 0, under names of their own");
    let addresses: Vec<String> = reader.or_default("redis.sentinel_addresses");
    let master = reader.take("redis.sentinel_master_name").unwrap_or_default();
    let sentinel = (!addresses.is_empty()).then_some(SentinelConfig { addresses, master });
    let cluster: Vec<String> = reader.or_default("redis.cluster_addresses");
    let ca_file: Option<PathBuf> = reader.take("redis.tls.ca_cert_file");
    let address = if sentinel.is_some() || !cluster.is_empty() { String::new() } else { address? };
    if !has_peer {
        let reason = "nodes that share rooms reach each other by mutual TLS: give livecluster.peer \
                      (port, ca_file, certificate_file, key_file), or leave Redis out for one node";
        reader.problem("redis.address", reason);
    }
    let password = password.filter(|text| !text.is_empty()).map(Password);
    Some(RedisConfig {
        address,
        sentinel,
        cluster,
        tls,
        ca_file,
        username,
        password,
        ..RedisConfig::default()
    })
}

/// One of `room.enabled_codecs`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EnabledCodec {
    mime: String,
    #[serde(default)]
    fmtp_line: String,
}

fn room(reader: &mut Reader) -> RoomConfig {
    let defaults = RoomConfig::default();
    let codecs: Vec<EnabledCodec> = reader.or_default("room.enabled_codecs");
    for EnabledCodec { mime, fmtp_line } in &codecs {
        if !is_known_codec(mime) {
            reader.problem("room.enabled_codecs", &format!("{mime} is not forwarded"));
        }
        if !fmtp_line.is_empty() {
            reader.problem("room.enabled_codecs", "codecs are enabled whole: no fmtp_line");
        }
    }
    let delays: bool = reader.or_default("room.playout_delay.enabled");
    let delay = |ms: u32| if delays { ms } else { 0 };
    RoomConfig {
        auto_create: reader.take("room.auto_create").unwrap_or(defaults.auto_create),
        empty_timeout: reader.take("room.empty_timeout").unwrap_or(defaults.empty_timeout),
        departure_timeout: reader
            .take("room.departure_timeout")
            .unwrap_or(defaults.departure_timeout),
        max_participants: reader.or_default("room.max_participants"),
        subscription_limit_audio: reader.or_default("limit.subscription_limit_audio"),
        subscription_limit_video: reader.or_default("limit.subscription_limit_video"),
        enabled_codecs: codecs.into_iter().map(|codec| codec.mime).collect(),
        min_playout_delay: delay(reader.or_default("room.playout_delay.min")),
        max_playout_delay: delay(reader.or_default("room.playout_delay.max")),
        sync_streams: reader.or_default("room.sync_streams"),
        enable_remote_unmute: reader.or_default("room.enable_remote_unmute"),
        loudest_audio_tracks: defaults.loudest_audio_tracks,
        presets: presets(reader),
    }
}

/// `room.room_configurations`, in the form of LiveKit's `RoomConfiguration`.
fn presets(reader: &mut Reader) -> BTreeMap<String, RoomPreset> {
    const PATH: &str = "room.room_configurations";
    let found: BTreeMap<String, serde_json::Map<String, Value>> = reader.or_default(PATH);
    let mut presets = BTreeMap::new();
    for (name, mut fields) in found {
        // LiveKit does nothing with them either.
        for unused in ["name", "tags"] {
            fields.remove(unused);
        }
        if fields.remove("egress").is_some() {
            reader.problem(&format!("{PATH}.{name}.egress"), "nothing is recorded here");
        }
        match serde_json::from_value(Value::Object(fields)) {
            Ok(preset) => drop(presets.insert(name, preset)),
            Err(error) => reader.problem(&format!("{PATH}.{name}"), &error.to_string()),
        }
    }
    presets
}

fn log(reader: &mut Reader, is_dev: bool) -> LogConfig {
    let default = if is_dev { "debug" } else { "info" };
    let old: Option<String> = reader.take("log_level");
    let level: Option<String> = reader.take("logging.level").or(old);
    let json: bool = reader.or_default("logging.json");
    LogConfig {
        level: level.filter(|level| !level.is_empty()).unwrap_or_else(|| default.to_owned()),
        format: if json { LogFormat::Json } else { LogFormat::Text },
    }
}

#[cfg(test)]
mod tests;
