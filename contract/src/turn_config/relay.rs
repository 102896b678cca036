//! From where data goes to peers.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// From where data goes to peers.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RelayConfig {
    /// At most one address of each family; empty takes the pod's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<RelayAddressConfig>,
    /// Relayed ports.
    #[serde(default)]
    pub ports: RelayPorts,
}

/// An address of the machine from which data goes to peers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RelayAddressConfig {
    /// Address that sockets are bound to.
    pub bind: IpAddr,
    /// Address that clients are told (XOR-RELAYED-ADDRESS); the bound one when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub advertise: Option<IpAddr>,
}

/// Relayed ports, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RelayPorts {
    /// First port.
    pub first: u16,
    /// Last port.
    pub last: u16,
}

impl Default for RelayPorts {
    fn default() -> Self {
        Self { first: 49_152, last: 65_535 }
    }
}

impl RelayConfig {
    pub(super) fn validate(&self) -> Result<(), String> {
        let Self { addresses, ports } = self;
        let of_family = |is_ipv4| addresses.iter().filter(|a| a.bind.is_ipv4() == is_ipv4).count();
        if addresses.is_empty() || of_family(true) > 1 || of_family(false) > 1 {
            return Err("relay.addresses: one or two are needed, one of a family".into());
        }
        for RelayAddressConfig { bind, advertise } in addresses {
            if advertise.is_some_and(|advertise| advertise.is_ipv4() != bind.is_ipv4()) {
                return Err("relay.addresses.advertise: must be of bind's family".into());
            }
            if advertise.unwrap_or(*bind).is_unspecified() {
                return Err("relay.addresses.advertise: clients need an address they can reach \
                            when bind is unspecified"
                    .into());
            }
        }
        if ports.first < 1024 || ports.last < ports.first {
            return Err("relay.ports: 1024 <= first <= last is needed".into());
        }
        Ok(())
    }
}
