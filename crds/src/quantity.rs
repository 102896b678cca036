//! Amounts of a resource, such as `250m` CPU or `128Mi` memory.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize};

/// An amount as the Kubernetes API writes it. A number in YAML (`cpu: 2`) is one too.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Quantity(String);

/// Decimal and binary multipliers of the Kubernetes API, in thousandths.
const SUFFIXES: [(&str, u128); 13] = [
    ("Ki", 1024 * 1000),
    ("Mi", 1024 * 1024 * 1000),
    ("Gi", 1024 * 1024 * 1024 * 1000),
    ("Ti", 1024 * 1024 * 1024 * 1024 * 1000),
    ("Pi", 1024 * 1024 * 1024 * 1024 * 1024 * 1000),
    ("m", 1),
    ("k", 1_000_000),
    ("M", 1_000_000_000),
    ("G", 1_000_000_000_000),
    ("T", 1_000_000_000_000_000),
    ("P", 1_000_000_000_000_000_000),
    ("E", 1_000_000_000_000_000_000_000),
    ("", 1000),
];

impl Quantity {
    /// The amount as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The amount in thousandths, rounded up; `None` for what is not a quantity.
    #[must_use]
    pub fn as_millis(&self) -> Option<u128> {
        let (suffix, factor) =
            SUFFIXES.iter().find(|(suffix, _)| self.0.ends_with(suffix)).copied()?;
        let number = &self.0[..self.0.len() - suffix.len()];
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        // Nine digits behind the point are more than the Kubernetes API keeps.
        let digits = fraction.get(..fraction.len().min(9))?;
        if whole.is_empty() && digits.is_empty() {
            return None;
        }
        let scale = 10_u128.pow(u32::try_from(digits.len()).ok()?);
        let whole: u128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
        let part: u128 = if digits.is_empty() { 0 } else { digits.parse().ok()? };
        let total = whole.checked_mul(scale)?.checked_add(part)?.checked_mul(factor)?;
        Some(total.div_ceil(scale))
    }
}

impl From<&str> for Quantity {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl<'de> Deserialize<'de> for Quantity {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum TextOrNumber {
            Integer(u64),
            Float(f64),
            Text(String),
        }
        Ok(Self(match TextOrNumber::deserialize(deserializer)? {
            TextOrNumber::Integer(number) => number.to_string(),
            TextOrNumber::Float(number) => number.to_string(),
            TextOrNumber::Text(text) => text,
        }))
    }
}

impl JsonSchema for Quantity {
    fn schema_name() -> Cow<'static, str> {
        "Quantity".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "An amount such as `250m` or `128Mi`.",
            "x-kubernetes-int-or-string": true,
            "maxLength": 32,
            "pattern": "^([0-9]+([.][0-9]*)?|[.][0-9]+)(([KMGTP]i)|[mkMGTPE])?$"
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_read_as_kubernetes_reads_them() {
        let cases = [
            ("250m", Some(250)),
            ("2", Some(2000)),
            ("1.5", Some(1500)),
            ("0.0001", Some(1)),
            (".5", Some(500)),
            ("128Mi", Some(128 * 1024 * 1024 * 1000)),
            ("1k", Some(1_000_000)),
            ("", None),
            (".", None),
            ("-1", None),
            ("two", None),
        ];
        for (text, expected) in cases {
            assert_eq!(Quantity::from(text).as_millis(), expected, "{text}");
        }
    }

    #[test]
    fn numbers_in_yaml_are_amounts() {
        let amounts: Vec<Quantity> = serde_saphyr::from_str("[2, 0.5, 100m]").unwrap();
        assert_eq!(amounts, ["2", "0.5", "100m"].map(Quantity::from));
    }
}
