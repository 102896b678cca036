//! What one client, user or address may use.

use serde::{Deserialize, Serialize};

/// What one client, user or address may use. 0 is no limit where the field says so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TurnLimits {
    /// Allocations of the server (error 508).
    pub allocations: u32,
    /// Allocations of a user (error 486).
    pub allocations_per_user: u32,
    /// Allocations of a client address (error 486).
    pub allocations_per_address: u32,
    /// Permissions of an allocation (error 508).
    pub permissions: u32,
    /// Channels of an allocation (error 508).
    pub channels: u32,
    /// Peers that an allocation may add in a second (error 508).
    pub new_peers_per_second: u32,
    /// Bytes a second of an allocation, both directions; more is dropped; 0: no limit.
    pub bytes_per_second: u64,
    /// Packets a second of an allocation, both directions; more is dropped; 0: no limit.
    pub packets_per_second: u32,
    /// Answers without a signature a second to one address by UDP and DTLS; more requests get
    /// none.
    pub challenges_per_second: u32,
    /// TCP and TLS connections of the server.
    pub connections: u32,
    /// TCP and TLS connections of a client address.
    pub connections_per_address: u32,
    /// TLS and DTLS handshakes under way.
    pub handshakes: u32,
    /// Seconds until a connection must have its handshake done and an allocation made.
    pub connection_setup_s: u32,
    /// Bytes that wait for a slow TCP or TLS client; then packets are dropped.
    pub connection_queue_bytes: u32,
}

impl Default for TurnLimits {
    fn default() -> Self {
        Self {
            allocations: 16_000,
            allocations_per_user: 12,
            allocations_per_address: 1_000,
            permissions: 64,
            channels: 64,
            new_peers_per_second: 20,
            bytes_per_second: 0,
            packets_per_second: 0,
            challenges_per_second: 20,
            connections: 8_192,
            connections_per_address: 1_000,
            handshakes: 512,
            connection_setup_s: 10,
            connection_queue_bytes: 512 * 1024,
        }
    }
}

impl TurnLimits {
    pub(super) fn validate(&self) -> Result<(), String> {
        for (name, value) in [
            ("allocations", self.allocations),
            ("allocations_per_user", self.allocations_per_user),
            ("allocations_per_address", self.allocations_per_address),
            ("permissions", self.permissions),
            ("channels", self.channels),
            ("new_peers_per_second", self.new_peers_per_second),
            ("challenges_per_second", self.challenges_per_second),
            ("connections", self.connections),
            ("connections_per_address", self.connections_per_address),
            ("handshakes", self.handshakes),
            ("connection_setup_s", self.connection_setup_s),
        ] {
            if value == 0 {
                return Err(format!("limits.{name}: must be at least 1"));
            }
        }
        if self.connection_queue_bytes < 128 * 1024 {
            return Err(
                "limits.connection_queue_bytes: must be at least 131072, two packets".into()
            );
        }
        Ok(())
    }
}
