//! Ports as the Multi-Cluster Services API sees them.

use std::fmt;
use std::num::NonZeroU16;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Why a port or protocol was refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ParsePortError {
    /// Not a number from 1 to 65535.
    #[error("'{0}' is not a port; give a number from 1 to 65535")]
    Number(String),
    /// Not one of the three transport protocols Kubernetes knows.
    #[error("'{0}' is not a protocol; use TCP, UDP or SCTP")]
    Protocol(String),
}

/// A transport protocol of a Service's port.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default,
)]
#[serde(rename_all = "UPPERCASE")]
pub enum Protocol {
    /// TCP, the default of the Kubernetes API.
    #[default]
    Tcp,
    /// UDP.
    Udp,
    /// SCTP: merged and shown, but without a gateway.
    Sctp,
}

impl Protocol {
    /// The spelling of the Kubernetes API.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        }
    }

    /// The label of an SRV owner name, without the underscore.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Protocol {
    type Err = ParsePortError;
    fn from_str(text: &str) -> Result<Self, ParsePortError> {
        match text {
            "TCP" => Ok(Self::Tcp),
            "UDP" => Ok(Self::Udp),
            "SCTP" => Ok(Self::Sctp),
            other => Err(ParsePortError::Protocol(other.escape_default().to_string())),
        }
    }
}

/// A port number, 1 to 65535.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PortNumber(NonZeroU16);

impl PortNumber {
    /// Refuses 0 and anything over 65535.
    pub fn new(number: u32) -> Result<Self, ParsePortError> {
        u16::try_from(number)
            .ok()
            .and_then(NonZeroU16::new)
            .map(Self)
            .ok_or_else(|| ParsePortError::Number(number.to_string()))
    }

    /// The number.
    #[must_use]
    pub fn get(self) -> u16 {
        self.0.get()
    }
}

impl fmt::Display for PortNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What identifies a port between clusters: names never route.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PortKey {
    /// The transport protocol.
    pub protocol: Protocol,
    /// The Service's port number (not the target port).
    pub port: PortNumber,
}

impl PortKey {
    /// Pairs a protocol with a number.
    #[must_use]
    pub fn new(protocol: Protocol, port: PortNumber) -> Self {
        Self { protocol, port }
    }
}

impl fmt::Display for PortKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.protocol, self.port)
    }
}

/// One port of an exported Service, copied verbatim: an absent `appProtocol` stays absent.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PortSpec {
    /// The port's name; empty for a Service's only, unnamed port.
    pub name: Box<str>,
    /// The transport protocol.
    pub protocol: Protocol,
    /// The Service's port number.
    pub port: PortNumber,
    /// The application protocol hint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub app_protocol: Option<Box<str>>,
}

impl PortSpec {
    /// What routes: protocol and number.
    #[must_use]
    pub fn key(&self) -> PortKey {
        PortKey::new(self.protocol, self.port)
    }
}
