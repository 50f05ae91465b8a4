//! Why a connection was refused: the closed set of the metric.

use std::fmt;

/// A reason of `portolan_tls_refused_total`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// The chain does not end in the bundle pinned for the name.
    UnknownCa,
    /// The leaf or its issuer has expired.
    Expired,
    /// The leaf or its issuer is not valid yet; a clock may be wrong.
    NotYetValid,
    /// A good certificate, but of another cluster than it should be.
    WrongCluster,
    /// The leaf's names are not exactly one of each kind, well formed.
    BadIdentity,
    /// The client showed none.
    NoClientCertificate,
    /// Older than TLS 1.3.
    TlsVersion,
    /// Not exactly one ALPN protocol that is served here.
    Alpn,
    /// The handshake was not finished in time.
    Timeout,
    /// Anything else: garbage, a reset, a broken record.
    Other,
}

impl Refusal {
    /// Every reason.
    pub const ALL: [Self; 10] = [
        Self::UnknownCa,
        Self::Expired,
        Self::NotYetValid,
        Self::WrongCluster,
        Self::BadIdentity,
        Self::NoClientCertificate,
        Self::TlsVersion,
        Self::Alpn,
        Self::Timeout,
        Self::Other,
    ];

    /// The metric's label value.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::UnknownCa => "unknown_ca",
            Self::Expired => "expired",
            Self::NotYetValid => "not_yet_valid",
            Self::WrongCluster => "wrong_cluster",
            Self::BadIdentity => "bad_identity",
            Self::NoClientCertificate => "no_client_certificate",
            Self::TlsVersion => "tls_version",
            Self::Alpn => "alpn",
            Self::Timeout => "timeout",
            Self::Other => "other",
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
