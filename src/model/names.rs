//! Names: clusters, namespaces, services, host labels and whole DNS names.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use thiserror::Error;

/// Longest DNS label, in octets (RFC 1035 §2.3.4).
pub const MAX_LABEL_OCTETS: usize = 63;
/// Longest DNS name in its text form without the final dot, in octets.
const MAX_NAME_OCTETS: usize = 253;

/// Why a name was refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ParseNameError {
    /// No character at all.
    #[error("the name is empty; give 1 to 63 of the characters a-z, 0-9 and '-'")]
    Empty,
    /// More octets than DNS allows.
    #[error("the name has {0} octets; shorten it to at most {1}")]
    TooLong(usize, usize),
    /// A character outside RFC 1123, or one at the wrong place.
    #[error(
        "'{0}' is not an RFC 1123 label; use a-z, 0-9 and '-' only, beginning and ending with a letter or digit"
    )]
    NotALabel(String),
}

/// Checks one RFC 1123 label (lower case; a leading digit is allowed).
fn check_label(text: &str) -> Result<(), ParseNameError> {
    if text.is_empty() {
        return Err(ParseNameError::Empty);
    }
    if text.len() > MAX_LABEL_OCTETS {
        return Err(ParseNameError::TooLong(text.len(), MAX_LABEL_OCTETS));
    }
    let inside = text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    if !inside || text.starts_with('-') || text.ends_with('-') {
        return Err(ParseNameError::NotALabel(text.escape_default().to_string()));
    }
    Ok(())
}

macro_rules! label {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Parses an RFC 1123 label of 1 to 63 octets.
            pub fn parse(text: &str) -> Result<Self, ParseNameError> {
                check_label(text)?;
                Ok(Self(text.into()))
            }

            /// The text, lower case.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = ParseNameError;
            fn from_str(text: &str) -> Result<Self, ParseNameError> {
                Self::parse(text)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                let text = String::deserialize(d)?;
                Self::parse(&text).map_err(serde::de::Error::custom)
            }
        }
    };
}

label!(
    /// A cluster's id, unique in the cluster set (KEP-2149): an RFC 1123 label.
    ClusterId
);
label!(
    /// A Kubernetes namespace.
    Namespace
);
label!(
    /// A Service's name. Unlike older Kubernetes, a leading digit is allowed.
    ServiceName
);
label!(
    /// One host label: a pod's hostname in a headless service.
    HostLabel
);

/// The namespaced name of a service: the same service in every cluster of the set (KEP-1645,
/// "namespace sameness").
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ServiceKey {
    /// The namespace.
    pub namespace: Namespace,
    /// The service's name.
    pub name: ServiceName,
}

impl ServiceKey {
    /// Pairs a namespace with a name.
    #[must_use]
    pub fn new(namespace: Namespace, name: ServiceName) -> Self {
        Self { namespace, name }
    }

    /// Parses `namespace/name`.
    pub fn parse(text: &str) -> Result<Self, ParseNameError> {
        let (namespace, name) = text
            .split_once('/')
            .ok_or_else(|| ParseNameError::NotALabel(text.escape_default().to_string()))?;
        Ok(Self::new(Namespace::parse(namespace)?, ServiceName::parse(name)?))
    }
}

impl fmt::Display for ServiceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl fmt::Debug for ServiceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A DNS name of one or more RFC 1123 labels, lower case, without the final dot: the zone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DnsName(Arc<str>);

impl DnsName {
    /// Parses a name such as `clusterset.local`; one final dot is accepted and dropped, upper
    /// case is folded.
    pub fn parse(text: &str) -> Result<Self, ParseNameError> {
        let text = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        if text.len() > MAX_NAME_OCTETS {
            return Err(ParseNameError::TooLong(text.len(), MAX_NAME_OCTETS));
        }
        for label in text.split('.') {
            check_label(label)?;
        }
        Ok(Self(text.into()))
    }

    /// The text, without the final dot.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The labels, leftmost first.
    pub fn labels(&self) -> impl DoubleEndedIterator<Item = &str> {
        self.0.split('.')
    }
}

impl fmt::Display for DnsName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for DnsName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for DnsName {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for DnsName {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_rfc_1123() {
        for good in ["a", "9", "web", "web-1", "1-web", &"x".repeat(63)] {
            assert!(ServiceName::parse(good).is_ok(), "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a.b", "a_b", "a b", "ü", "a\0", &"x".repeat(64)] {
            assert!(ServiceName::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_zone_folds_case_and_drops_one_final_dot() {
        assert_eq!(DnsName::parse("ClusterSet.Local.").unwrap().as_str(), "clusterset.local");
        for bad in ["", ".", "a..b", "a.local..", "-a.b"] {
            assert!(DnsName::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_service_key_needs_both_parts() {
        assert_eq!(ServiceKey::parse("shop/web").unwrap().to_string(), "shop/web");
        for bad in ["web", "/web", "shop/", "a/b/c", "shop/WEB"] {
            assert!(ServiceKey::parse(bad).is_err(), "{bad:?}");
        }
    }
}
