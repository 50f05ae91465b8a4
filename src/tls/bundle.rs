//! Bundles: the certificate authorities pinned for one cluster.

use std::fmt;
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::client::WebPkiServerVerifier;
use rustls::crypto::CryptoProvider;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use super::fingerprint::{Fingerprint, fingerprint};
use super::identity::spiffe_id;
use crate::model::{ClusterId, DnsName};

/// Most authorities in one bundle; a rotation needs two.
const MAX_AUTHORITIES: usize = 16;

/// The authorities pinned for one cluster, with the stock verifiers over them alone.
pub(super) struct Bundle {
    /// Whom they speak for.
    pub(super) cluster: ClusterId,
    /// The URI its leaves must carry.
    pub(super) spiffe_id: String,
    /// What tells this bundle from another of the same cluster.
    pub(super) fingerprint: Fingerprint,
    /// Verifies its leaves as clients'.
    pub(super) client: Arc<dyn ClientCertVerifier>,
    /// Verifies its leaves as servers'.
    pub(super) server: Arc<WebPkiServerVerifier>,
}

impl Bundle {
    /// Reads the PEM of `peers/<cluster>.pem`; the error says what to do.
    pub(super) fn parse(
        cluster: &ClusterId,
        clusterset: &DnsName,
        pem: &[u8],
        provider: &Arc<CryptoProvider>,
    ) -> Result<Self, String> {
        let authorities = authorities(pem)?;
        let mut roots = RootCertStore::empty();
        for authority in &authorities {
            roots
                .add(authority.clone())
                .map_err(|error| format!("an authority cannot be used: {error}"))?;
        }
        let roots = Arc::new(roots);
        let client =
            WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(provider))
                .clear_root_hint_subjects()
                .build()
                .map_err(|error| format!("the bundle cannot be used: {error}"))?;
        let server = WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(provider))
            .build()
            .map_err(|error| format!("the bundle cannot be used: {error}"))?;
        Ok(Self {
            cluster: cluster.clone(),
            spiffe_id: spiffe_id(clusterset, cluster),
            fingerprint: fingerprint(&authorities),
            client,
            server,
        })
    }
}

impl fmt::Debug for Bundle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bundle")
            .field("cluster", &self.cluster)
            .field("fingerprint", &self.fingerprint)
            .finish_non_exhaustive()
    }
}

/// The certificates of a bundle; each must be an authority's.
pub(super) fn authorities(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|error| format!("not PEM: {error}; copy the cluster's ca.pem again"))?;
    if found.is_empty() {
        return Err("there is no certificate in it; copy the cluster's ca.pem".to_owned());
    }
    if found.len() > MAX_AUTHORITIES {
        return Err(format!("{} certificates in it; keep at most {MAX_AUTHORITIES}", found.len()));
    }
    for certificate in &found {
        let (_, parsed) = X509Certificate::from_der(certificate)
            .map_err(|error| format!("a certificate cannot be read: {error}"))?;
        if !parsed.is_ca() {
            return Err("a certificate in it is no authority's; copy ca.pem, not cert.pem".into());
        }
    }
    Ok(found)
}
