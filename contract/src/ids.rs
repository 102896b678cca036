//! Identifiers that cross process borders, as types that cannot be confused or be too long.

use std::fmt;

use rand::Rng;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Longest room name, participant identity or display name, in bytes (LiveKit's limit).
pub const MAX_NAME_BYTES: usize = 256;

/// Random characters after the prefix of a generated id.
const ID_LENGTH: usize = 12;

/// The characters of generated ids: letters and digits without look-alikes.
const ID_ALPHABET: &[u8] = b"23456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz";

/// Why a name was refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum NameError {
    /// The name has no characters.
    #[error("{field} must not be empty")]
    Empty {
        /// What was being named.
        field: &'static str,
    },
    /// The name is longer than [`MAX_NAME_BYTES`].
    #[error("{field} is {length} bytes long, at most {MAX_NAME_BYTES} are allowed")]
    TooLong {
        /// What was being named.
        field: &'static str,
        /// Its length in bytes.
        length: usize,
    },
}

fn checked(field: &'static str, value: String) -> Result<String, NameError> {
    match value.len() {
        0 => Err(NameError::Empty { field }),
        1..=MAX_NAME_BYTES => Ok(value),
        length => Err(NameError::TooLong { field, length }),
    }
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident, $field:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Takes a name of 1 to [`MAX_NAME_BYTES`] bytes.
            pub fn new(value: impl Into<String>) -> Result<Self, NameError> {
                checked($field, value.into()).map(Self)
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(value: String) -> Result<Self, NameError> {
                Self::new(value)
            }
        }

        impl From<$name> for String {
            fn from(value: $name) -> String {
                value.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name_type!(
    /// The name of a room, chosen by the application.
    RoomName,
    "room name"
);
name_type!(
    /// Who a participant is, chosen by the application; unique in a room.
    Identity,
    "participant identity"
);

macro_rules! generated_id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(String);

        impl $name {
            /// Makes a new id from `rng`.
            pub fn generate<R: Rng + ?Sized>(rng: &mut R) -> Self {
                Self(generate_id($prefix, rng))
            }

            /// The id as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl From<String> for $name {
            fn from(value: String) -> Self {
                Self(value)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

generated_id!(
    /// One life of a media node: new at every process start (`ND_…`).
    NodeId,
    "ND_"
);
generated_id!(
    /// One life of a room (`RM_…`).
    RoomSid,
    "RM_"
);
generated_id!(
    /// One session of a participant (`PA_…`).
    ParticipantSid,
    "PA_"
);

/// Makes `prefix` followed by 12 random characters (about 69 bits).
pub fn generate_id<R: Rng + ?Sized>(prefix: &str, rng: &mut R) -> String {
    use rand::RngExt as _;
    let mut id = String::with_capacity(prefix.len() + ID_LENGTH);
    id.push_str(prefix);
    for _ in 0..ID_LENGTH {
        id.push(char::from(ID_ALPHABET[rng.random_range(0..ID_ALPHABET.len())]));
    }
    id
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{SeedableRng as _, rngs::StdRng};

    #[test]
    fn names_are_refused_at_the_bounds() {
        assert_eq!(RoomName::new(""), Err(NameError::Empty { field: "room name" }));
        assert!(RoomName::new("x".repeat(MAX_NAME_BYTES)).is_ok());
        assert_eq!(
            Identity::new("x".repeat(MAX_NAME_BYTES + 1)),
            Err(NameError::TooLong { field: "participant identity", length: MAX_NAME_BYTES + 1 })
        );
    }

    #[test]
    fn generated_ids_carry_their_prefix_and_differ() {
        let mut rng = StdRng::seed_from_u64(7);
        let first = NodeId::generate(&mut rng);
        let second = NodeId::generate(&mut rng);
        assert!(first.as_str().starts_with("ND_"));
        assert_eq!(first.as_str().len(), 15);
        assert_ne!(first, second);
    }
}
