//! The state that the operator wants a media node to be in. It is an annotation of the pod, which
//! the downward API mounts as a file: media nodes hold no token of the Kubernetes API.
//!
//! The file holds one line: `open`, `cordoned`, or `draining` and the rooms to move per second
//! (`draining 5`). An absent or empty file means [`NodeState::Open`]; a line that cannot be read
//! changes nothing, so that an older node outlives a newer operator. Every state may follow every
//! other: a node that drains is opened again when load returns.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// The state that a media node shall be in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum NodeState {
    /// It takes new rooms.
    #[default]
    Open,
    /// It takes no new rooms; those that it has go on, and joins to them too.
    Cordoned,
    /// It moves its rooms to open nodes.
    Draining {
        /// Rooms to move per second, at least 1.
        rooms_per_second: u16,
    },
}

/// A line is no state of a node.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("not a state of a node: {0:?}")]
pub struct NodeStateError(String);

/// Longest part of a line that an error repeats, in characters.
const MAX_REPEATED: usize = 40;

impl fmt::Display for NodeState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open => f.write_str("open"),
            Self::Cordoned => f.write_str("cordoned"),
            Self::Draining { rooms_per_second } => write!(f, "draining {rooms_per_second}"),
        }
    }
}

impl FromStr for NodeState {
    type Err = NodeStateError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut words = text.split_whitespace();
        let state = match (words.next(), words.next()) {
            (None | Some("open"), None) => Some(Self::Open),
            (Some("cordoned"), None) => Some(Self::Cordoned),
            (Some("draining"), Some(rate)) => {
                let rate = rate.parse().ok().filter(|rate| *rate > 0);
                rate.map(|rooms_per_second| Self::Draining { rooms_per_second })
            }
            _ => None,
        };
        let state = state.filter(|_| words.next().is_none());
        state.ok_or_else(|| NodeStateError(text.chars().take(MAX_REPEATED).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let states = [
            (NodeState::Open, "open"),
            (NodeState::Cordoned, "cordoned"),
            (NodeState::Draining { rooms_per_second: 5 }, "draining 5"),
        ];
        for (state, line) in states {
            assert_eq!(state.to_string(), line);
            assert_eq!(line.parse(), Ok(state));
            assert_eq!(format!("{line}\n").parse(), Ok(state), "a file may end its line");
        }
    }

    #[test]
    fn an_empty_file_is_an_open_node_and_nonsense_is_none() {
        assert_eq!("".parse(), Ok(NodeState::Open));
        for line in ["closed", "open 5", "draining", "draining 0", "draining -1", "draining 5 6"] {
            assert!(line.parse::<NodeState>().is_err(), "{line:?}");
        }
    }
}
