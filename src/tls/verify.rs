//! Who may come in: the verifier of client certificates, and the words for what it refuses.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError,
    PeerIncompatible, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, UnixTime};

use super::bundle::Bundle;
use super::identity::{Claims, IdentityError, PeerIdentity};
use super::kind::Kind;
use super::refusal::Refusal;
use crate::model::ClusterId;

/// The pinned bundles, by cluster.
pub(super) type Bundles = BTreeMap<ClusterId, Arc<Bundle>>;

/// Whom a server configuration lets in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Admits {
    /// Other clusters.
    Peers,
    /// The own cluster.
    Siblings,
}

impl Admits {
    /// Whether connections of that kind are its.
    pub(super) fn serves(self, kind: Kind) -> bool {
        (self == Self::Siblings) == (kind == Kind::Sibling)
    }
}

/// Verifies a client's leaf against the bundle pinned for the name it carries, and that alone:
/// no authority can speak for another cluster.
#[derive(Debug)]
pub(super) struct InboundVerifier {
    own: ClusterId,
    admits: Admits,
    bundles: Arc<Bundles>,
    provider: Arc<CryptoProvider>,
}

impl InboundVerifier {
    pub(super) fn new(
        own: ClusterId,
        admits: Admits,
        bundles: Arc<Bundles>,
        provider: Arc<CryptoProvider>,
    ) -> Self {
        Self { own, admits, bundles, provider }
    }

    /// The other cluster whose authority signed this leaf, if any did.
    fn signer(
        &self,
        named: &ClusterId,
        leaf: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Option<ClusterId> {
        self.bundles
            .values()
            .filter(|bundle| bundle.cluster != *named)
            .find(|bundle| bundle.client.verify_client_cert(leaf, chain, now).is_ok())
            .map(|bundle| bundle.cluster.clone())
    }
}

impl ClientCertVerifier for InboundVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let claims = Claims::read(leaf).map_err(refused)?;
        let cluster = &claims.cluster;
        match (self.admits, *cluster == self.own) {
            (Admits::Peers, true) => {
                return Err(refused(IdentityError::OurOwn(cluster.clone())));
            }
            (Admits::Siblings, false) => {
                return Err(refused(IdentityError::NotOurs(cluster.clone())));
            }
            _ => {}
        }
        let Some(bundle) = self.bundles.get(cluster) else {
            return Err(refused(IdentityError::Unpinned(cluster.clone())));
        };
        let verified = bundle.client.verify_client_cert(leaf, chain, now).map_err(|error| {
            let foreign = matches!(
                error,
                Error::InvalidCertificate(
                    CertificateError::UnknownIssuer | CertificateError::BadSignature
                )
            );
            match foreign.then(|| self.signer(cluster, leaf, chain, now)).flatten() {
                Some(signed_by) => {
                    refused(IdentityError::SignedByAnother { named: cluster.clone(), signed_by })
                }
                None => error,
            }
        })?;
        claims.check_uri(&bundle.spiffe_id).map_err(refused)?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, leaf, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, leaf, signed, algorithms)
            .map_err(|_| refused(IdentityError::NoPossession))
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// The proof, once the handshake has verified `leaf` against `bundle`.
pub(super) fn identify(
    leaf: &CertificateDer<'_>,
    bundle: &Bundle,
) -> Result<PeerIdentity, IdentityError> {
    let claims = Claims::read(leaf)?;
    claims.check_uri(&bundle.spiffe_id)?;
    if claims.cluster != bundle.cluster {
        let (named, signed_by) = (claims.cluster, bundle.cluster.clone());
        return Err(IdentityError::SignedByAnother { named, signed_by });
    }
    Ok(PeerIdentity::new(claims.cluster, claims.expires, bundle.fingerprint))
}

fn refused(error: IdentityError) -> Error {
    Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(error))))
}

/// How an identity that was refused is counted.
pub(super) fn identity_reason(error: &IdentityError) -> Refusal {
    match error {
        IdentityError::Unreadable(_)
        | IdentityError::DnsNames(_)
        | IdentityError::Uris(_)
        | IdentityError::DnsName(_)
        | IdentityError::Uri(_)
        | IdentityError::NoPossession => Refusal::BadIdentity,
        IdentityError::Unpinned(_) => Refusal::UnknownCa,
        IdentityError::OurOwn(_)
        | IdentityError::NotOurs(_)
        | IdentityError::SignedByAnother { .. }
        | IdentityError::OtherUri { .. } => Refusal::WrongCluster,
    }
}

/// The rustls error inside what a handshake returned.
pub(super) fn tls_error(error: &io::Error) -> Option<&Error> {
    error.get_ref().and_then(|inner| inner.downcast_ref::<Error>())
}

/// How a failed handshake is counted.
pub(super) fn reason(error: &Error) -> Refusal {
    match error {
        Error::NoCertificatesPresented => Refusal::NoClientCertificate,
        Error::InvalidCertificate(error) => certificate_reason(error),
        Error::NoApplicationProtocol => Refusal::Alpn,
        Error::PeerIncompatible(
            PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig
            | PeerIncompatible::ServerDoesNotSupportTls12Or13
            | PeerIncompatible::SupportedVersionsExtensionRequired
            | PeerIncompatible::Tls12NotOffered
            | PeerIncompatible::Tls12NotOfferedOrEnabled,
        ) => Refusal::TlsVersion,
        _ => Refusal::Other,
    }
}

fn certificate_reason(error: &CertificateError) -> Refusal {
    match error {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => Refusal::Expired,
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            Refusal::NotYetValid
        }
        // A namesake of the pinned authority fails by its signature.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => Refusal::UnknownCa,
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            Refusal::WrongCluster
        }
        CertificateError::Other(OtherError(inner)) => {
            inner.downcast_ref::<IdentityError>().map_or(Refusal::BadIdentity, identity_reason)
        }
        _ => Refusal::BadIdentity,
    }
}
