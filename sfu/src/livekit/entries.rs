//! Where a value comes from: flags win over environment variables, these over the file.

use std::collections::BTreeMap;

use serde_json::Value;

use super::known::{CARRIED, is_map};

/// Values by their path in LiveKit's configuration (`rtc.tcp_port`).
pub type Entries = BTreeMap<String, Value>;

/// Flags with a value: name, and path in the configuration.
const VALUE_FLAGS: [(&str, &str); 8] = [
    ("bind", "bind_addresses"),
    ("key-file", "key_file"),
    ("keys", "keys"),
    ("region", "region"),
    ("node-ip", "rtc.node_ip"),
    ("udp-port", "rtc.udp_port"),
    ("redis-host", "redis.address"),
    ("redis-password", "redis.password"),
];
/// Flags of what is not here.
const FOREIGN_FLAGS: [(&str, &str); 4] = [
    ("turn-cert", "turn.cert_file"),
    ("turn-key", "turn.key_file"),
    ("cpuprofile", "cpuprofile"),
    ("memprofile", "memprofile"),
];
/// Environment variables of the flags that have one.
const VARIABLES: [(&str, &str); 8] = [
    ("LIVEKIT_KEYS", "keys"),
    ("LIVEKIT_REGION", "region"),
    ("NODE_IP", "rtc.node_ip"),
    ("UDP_PORT", "rtc.udp_port"),
    ("REDIS_HOST", "redis.address"),
    ("REDIS_PASSWORD", "redis.password"),
    ("LIVEKIT_TURN_CERT", "turn.cert_file"),
    ("LIVEKIT_TURN_KEY", "turn.key_file"),
];
/// The whole configuration in a variable.
const BODY_VARIABLE: &str = "LIVEKIT_CONFIG";

/// What the command line says.
#[derive(Debug, Default, PartialEq)]
pub struct Sources {
    /// `--config`
    pub config: Option<String>,
    /// `--config-body`
    pub body: Option<String>,
    /// `--disable-strict-config`: what LiveKit does not know is only said.
    pub is_lenient: bool,
    flags: Entries,
}

impl Sources {
    /// Reads flags, `--name value` or `--name=value`.
    ///
    /// # Errors
    ///
    /// With the flag that is unknown or lacks its value.
    pub fn parse(arguments: &[String]) -> Result<Self, String> {
        let mut sources = Self::default();
        let mut arguments = arguments.iter();
        while let Some(argument) = arguments.next() {
            let Some(flag) = argument.strip_prefix("--") else {
                return Err(format!("{argument} is not a flag"));
            };
            let (name, given) = match flag.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (flag, None),
            };
            match name {
                "dev" | "disable-strict-config" => {
                    let is_set = given.is_none_or(|value| value == "true");
                    sources.set_switch(name, is_set);
                    continue;
                }
                _ => {}
            }
            let value = given.or_else(|| arguments.next().cloned());
            let value = value.ok_or_else(|| format!("--{name} needs a value"))?;
            sources.set(name, &value)?;
        }
        Ok(sources)
    }

    fn set_switch(&mut self, name: &str, is_set: bool) {
        if name == "dev" {
            self.flags.insert("development".to_owned(), Value::Bool(is_set));
        } else {
            self.is_lenient = is_set;
        }
    }

    fn set(&mut self, name: &str, value: &str) -> Result<(), String> {
        let named = VALUE_FLAGS.iter().chain(&FOREIGN_FLAGS).find(|(flag, _)| *flag == name);
        match (name, named) {
            ("config", _) => self.config = Some(value.to_owned()),
            ("config-body", _) => self.body = Some(value.to_owned()),
            ("bind", _) => {
                let list = self.flags.entry("bind_addresses".to_owned());
                if let Value::Array(list) = list.or_insert_with(|| Value::Array(Vec::new())) {
                    list.push(Value::String(value.to_owned()));
                }
            }
            (_, Some((_, path))) => {
                self.flags.insert((*path).to_owned(), scalar(path, value));
            }
            // Every key of the configuration is a flag, too.
            (_, None) if name.contains('.') || CARRIED.contains(&name) => {
                self.flags.insert(name.to_owned(), scalar(name, value));
            }
            (_, None) => return Err(format!("--{name} is unknown")),
        }
        Ok(())
    }

    /// Joins the file (or the body that stands for it), the environment and the flags.
    ///
    /// # Errors
    ///
    /// When the configuration is no YAML map.
    pub fn merge(
        self,
        file: Option<&str>,
        environment: impl Iterator<Item = (String, String)>,
    ) -> Result<Entries, String> {
        let mut variables = Entries::new();
        let mut body = self.body;
        for (name, value) in environment.filter(|(_, value)| !value.is_empty()) {
            if name == BODY_VARIABLE {
                body.get_or_insert(value);
            } else if let Some(path) = path_of(&name) {
                variables.insert(path.to_owned(), scalar(path, &value));
            }
        }
        let text = file.or(body.as_deref()).unwrap_or_default();
        let mut entries = Entries::new();
        if !text.trim().is_empty() {
            let value: Value = serde_saphyr::from_str(text).map_err(|error| error.to_string())?;
            if !value.is_object() && !value.is_null() {
                return Err("the configuration must be a map".to_owned());
            }
            flatten("", value, &mut entries);
        }
        entries.extend(variables);
        entries.extend(self.flags);
        if self.is_lenient {
            entries.insert(LENIENT.to_owned(), Value::Bool(true));
        }
        Ok(entries)
    }
}

/// Stands for `--disable-strict-config` among the entries; no key of LiveKit's has a dash.
pub(super) const LENIENT: &str = "disable-strict-config";

/// The path that a variable is for: one of the flags', or `LIVEKIT_RTC_TCP_PORT`.
fn path_of(variable: &str) -> Option<&'static str> {
    let named = VARIABLES.iter().find(|(name, _)| *name == variable).map(|(_, path)| *path);
    let generated = || {
        let rest = variable.strip_prefix("LIVEKIT_")?;
        let is_it = |path: &&&str| path.replace('.', "_").eq_ignore_ascii_case(rest);
        CARRIED.iter().find(is_it).copied()
    };
    named.or_else(generated)
}

/// A value that came as text; what looks like no other type is text.
fn scalar(path: &str, text: &str) -> Value {
    let is_text = matches!(path, "redis.password" | "redis.username" | "region");
    if is_text {
        return Value::String(text.to_owned());
    }
    serde_saphyr::from_str(text).unwrap_or_else(|_| Value::String(text.to_owned()))
}

fn flatten(path: &str, value: Value, entries: &mut Entries) {
    match value {
        Value::Object(fields) if path.is_empty() || !is_map(path) => {
            for (name, value) in fields {
                let path = if path.is_empty() { name } else { format!("{path}.{name}") };
                flatten(&path, value, entries);
            }
        }
        // A section without anything in it.
        Value::Null => {}
        value => {
            entries.insert(path.to_owned(), value);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn strings(values: &[&str]) -> Vec<String> {
        values.iter().map(|value| (*value).to_owned()).collect()
    }

    fn merged(flags: &[&str], file: Option<&str>, variables: &[(&str, &str)]) -> Entries {
        let variables =
            variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Sources::parse(&strings(flags)).unwrap().merge(file, variables).unwrap()
    }

    #[test]
    fn flags_win_over_variables_and_these_over_the_file() {
        let file = "port: 1\nrtc: {tcp_port: 2, node_ip: 192.0.2.1}\nredis:\nkeys: {a: b}\n";
        let variables = [("LIVEKIT_PORT", "3"), ("NODE_IP", "192.0.2.2"), ("LIVEKIT_URL", "x")];
        let found = merged(&["--port", "4", "--rtc.tcp_port=5", "--dev"], Some(file), &variables);
        let expected = [
            ("development", json!(true)),
            ("keys", json!({"a": "b"})),
            ("port", json!(4)),
            ("rtc.node_ip", json!("192.0.2.2")),
            ("rtc.tcp_port", json!(5)),
        ];
        assert_eq!(found, expected.map(|(path, value)| (path.to_owned(), value)).into());
    }

    #[test]
    fn each_of_livekits_flags_and_variables_is_known_by_its_name() {
        let cases: [(&[&str], &str, Value); 6] = [
            (&["--bind", "127.0.0.1", "--bind=::1"], "bind_addresses", json!(["127.0.0.1", "::1"])),
            (&["--keys", "key: secret"], "keys", json!({"key": "secret"})),
            (&["--udp-port", "7882-7892"], "rtc.udp_port", json!("7882-7892")),
            (&["--redis-password", "123"], "redis.password", json!("123")),
            (&["--room.max_participants", "5"], "room.max_participants", json!(5)),
            (&["--turn-cert", "x"], "turn.cert_file", json!("x")),
        ];
        for (flags, path, value) in cases {
            assert_eq!(merged(flags, None, &[]).get(path), Some(&value), "{flags:?}");
        }
        let cases = [
            ("LIVEKIT_KEYS", "key: secret", "keys", json!({"key": "secret"})),
            ("REDIS_HOST", "redis:6379", "redis.address", json!("redis:6379")),
            ("LIVEKIT_ROOM_AUTO_CREATE", "false", "room.auto_create", json!(false)),
            ("LIVEKIT_CONFIG", "log_level: debug", "log_level", json!("debug")),
        ];
        for (name, text, path, value) in cases {
            assert_eq!(merged(&[], None, &[(name, text)]).get(path), Some(&value), "{name}");
        }
    }

    #[test]
    fn a_flag_that_is_wrong_is_named() {
        for (flags, expected) in [
            (["--prot", "1"].as_slice(), "--prot is unknown"),
            (&["--port"], "--port needs a value"),
            (&["livekit.yaml"], "livekit.yaml is not a flag"),
        ] {
            assert_eq!(Sources::parse(&strings(flags)).unwrap_err(), expected);
        }
    }
}
