//! What two programs of LiveCluster must agree on: identifiers, the configuration that the
//! operator writes and the programs read, access tokens, Redis keys and scripts, metric names, and how
//! their workers gather datagrams.
//!
//! Pure: never reads a clock, a random source, a file or a socket. Time and randomness are
//! arguments. A change here touches at least two programs.

pub mod access_token;
pub mod gathering;
pub mod ids;
pub mod metrics;
pub mod node_state;
pub mod redis;
pub mod sfu_config;
pub mod turn_config;
pub mod turn_credentials;
pub mod turn_metrics;
