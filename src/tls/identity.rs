//! Who a certificate speaks for.

use std::time::{Duration, SystemTime};

use rustls_pki_types::CertificateDer;
use thiserror::Error;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

use super::fingerprint::Fingerprint;
use crate::model::{ClusterId, DnsName};

/// What follows the cluster's name in the one DNS SAN of a leaf.
const NAME_SUFFIX: &str = ".portolan.internal";
/// The longest name of a stranger that is repeated in a log line, in characters.
const SHOWN_NAME: usize = 120;

/// A proof: the holder's leaf was verified against the bundle pinned for its cluster. Only this
/// module tree makes one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerIdentity {
    cluster: ClusterId,
    expires: SystemTime,
    bundle: Fingerprint,
}

impl PeerIdentity {
    pub(super) fn new(cluster: ClusterId, expires: SystemTime, bundle: Fingerprint) -> Self {
        Self { cluster, expires, bundle }
    }

    /// The cluster it speaks for.
    #[must_use]
    pub fn cluster(&self) -> &ClusterId {
        &self.cluster
    }

    /// When its leaf ends (wall time): control, probe and idle connections close then.
    #[must_use]
    pub fn expires(&self) -> SystemTime {
        self.expires
    }

    pub(super) fn bundle(&self) -> Fingerprint {
        self.bundle
    }
}

/// What is wrong with a leaf's names.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum IdentityError {
    /// Not an X.509 certificate.
    #[error("the certificate cannot be read: {0}")]
    Unreadable(String),
    /// Not exactly one DNS name.
    #[error("the certificate carries {0} DNS names; issue it with exactly one")]
    DnsNames(usize),
    /// Not exactly one URI.
    #[error("the certificate carries {0} URIs; issue it with exactly one")]
    Uris(usize),
    /// The DNS name is not `<cluster>.portolan.internal`.
    #[error("the certificate's DNS name '{0}' is not <cluster>.portolan.internal")]
    DnsName(String),
    /// The URI is not of the form `spiffe://<clusterset>/cluster/<cluster>`.
    #[error("the certificate's URI '{0}' is not spiffe://<clusterset>/cluster/<cluster>")]
    Uri(String),
    /// The holder did not prove that it has the key.
    #[error("the holder of the certificate did not prove that it has the key")]
    NoPossession,
    /// No bundle is pinned for the name.
    #[error(
        "no certificate authority is pinned for '{0}'; copy its ca.pem to peers/{0}.pem or to its Peer"
    )]
    Unpinned(ClusterId),
    /// It claims to be us.
    #[error("the certificate claims to be '{0}', which is this cluster")]
    OurOwn(ClusterId),
    /// It claims to be another cluster, where only our own replicas may come in.
    #[error("the certificate is of '{0}'; only replicas of this cluster are siblings")]
    NotOurs(ClusterId),
    /// It names one cluster, another one's authority signed it.
    #[error("the certificate names '{named}' but the authority of '{signed_by}' signed it")]
    SignedByAnother {
        /// The cluster in the DNS name.
        named: ClusterId,
        /// The cluster whose bundle verifies it.
        signed_by: ClusterId,
    },
    /// The URI is another cluster's or another cluster set's.
    #[error("the certificate's URI is '{found}', not '{expected}'")]
    OtherUri {
        /// What it carries.
        found: String,
        /// What the pinned cluster's must be.
        expected: String,
    },
}

/// The DNS name of a cluster's leaf, also the server name of a dial.
pub(super) fn dns_name(cluster: &ClusterId) -> String {
    format!("{cluster}{NAME_SUFFIX}")
}

/// The SPIFFE id of a cluster.
pub(super) fn spiffe_id(clusterset: &DnsName, cluster: &ClusterId) -> String {
    format!("spiffe://{clusterset}/cluster/{cluster}")
}

/// What a leaf says, unverified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Claims {
    /// The cluster of its one DNS name.
    pub(super) cluster: ClusterId,
    /// Its URIs; not yet counted, so that the chain can be verified first.
    uris: Vec<String>,
    /// Its `notBefore`.
    pub(super) begins: SystemTime,
    /// Its `notAfter`.
    pub(super) expires: SystemTime,
}

impl Claims {
    /// Reads a leaf; its DNS name must be the only one and strictly of our form.
    pub(super) fn read(leaf: &CertificateDer<'_>) -> Result<Self, IdentityError> {
        let (rest, certificate) = X509Certificate::from_der(leaf)
            .map_err(|error| IdentityError::Unreadable(error.to_string()))?;
        if !rest.is_empty() {
            return Err(IdentityError::Unreadable("bytes follow it".to_owned()));
        }
        let names = certificate
            .subject_alternative_name()
            .map_err(|error| IdentityError::Unreadable(error.to_string()))?;
        let names = names.as_ref().map_or(&[][..], |found| &found.value.general_names);
        let (mut dns, mut uris) = (Vec::new(), Vec::new());
        for name in names {
            match name {
                GeneralName::DNSName(text) => dns.push(*text),
                GeneralName::URI(text) => uris.push((*text).to_owned()),
                GeneralName::Invalid(..) => {
                    return Err(IdentityError::Unreadable("a name is not text".to_owned()));
                }
                _ => {}
            }
        }
        let &[dns] = dns.as_slice() else {
            return Err(IdentityError::DnsNames(dns.len()));
        };
        let cluster = dns
            .strip_suffix(NAME_SUFFIX)
            .and_then(|label| ClusterId::parse(label).ok())
            .ok_or_else(|| IdentityError::DnsName(shown(dns)))?;
        let validity = certificate.validity();
        Ok(Self {
            cluster,
            uris,
            begins: unix(validity.not_before.timestamp()),
            expires: unix(validity.not_after.timestamp()),
        })
    }

    /// Exactly one URI, and it is `expected`.
    pub(super) fn check_uri(&self, expected: &str) -> Result<(), IdentityError> {
        let [uri] = self.uris.as_slice() else {
            return Err(IdentityError::Uris(self.uris.len()));
        };
        if uri == expected {
            return Ok(());
        }
        let well_formed = uri
            .strip_prefix("spiffe://")
            .and_then(|rest| rest.split_once("/cluster/"))
            .is_some_and(|(set, cluster)| {
                DnsName::parse(set).is_ok_and(|parsed| parsed.as_str() == set)
                    && ClusterId::parse(cluster).is_ok()
            });
        Err(if well_formed {
            IdentityError::OtherUri { found: shown(uri), expected: expected.to_owned() }
        } else {
            IdentityError::Uri(shown(uri))
        })
    }
}

/// A stranger's text, fit for a log line.
fn shown(text: &str) -> String {
    text.chars().take(SHOWN_NAME).flat_map(char::escape_default).collect()
}

/// Unix seconds as wall time; before 1970 is 1970.
fn unix(seconds: i64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}
