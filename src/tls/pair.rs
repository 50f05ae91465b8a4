//! A Secret of type `kubernetes.io/tls`: an authority with its key, or a leaf with its key.
//!
//! cert-manager writes both in the same three entries. Which it is, the certificate says.

use std::fmt;
use std::path::{Path, PathBuf};

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;
use zeroize::Zeroizing;

use super::error::Error;
use super::folder::{self, OwnFiles, Paths, Readers};

/// The entry of the certificate, its chain behind it.
pub(super) const CERTIFICATE: &str = "tls.crt";
/// The entry of its key.
pub(super) const KEY: &str = "tls.key";
/// The entry of the authorities by which others verify it.
pub(super) const BUNDLE: &str = "ca.crt";

/// What ends a certificate in a PEM text.
const PEM_END: &str = "-----END CERTIFICATE-----";

/// A certificate with its key, as a Secret holds them. If the certificate is an authority's, each
/// replica issues its own leaves from it; else it is the leaf. The key is wiped when dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct Pair {
    /// `tls.crt`, PEM.
    pub certificate: Vec<u8>,
    /// `tls.key`, PEM.
    pub key: Zeroizing<Vec<u8>>,
    /// `ca.crt`, PEM.
    pub bundle: Option<Vec<u8>>,
}

impl Pair {
    /// Reads a folder where a Secret is mounted; `None`: nothing is, or it has no certificate or
    /// no key. The key may be readable by its group: the kubelet gives the files of a Secret
    /// volume to root and the `fsGroup` of the pod, and a pod that is not root reads them only so.
    ///
    /// # Errors
    /// A file cannot be read, or anybody else may read the key.
    pub fn mounted(dir: &Path) -> Result<Option<Self>, Error> {
        folder::pair(dir, Readers::Group)
    }

    /// From the entries of a Secret, looked up by name.
    ///
    /// # Errors
    /// Names the entry that is missing.
    pub fn of_entries<'a>(
        entry: impl Fn(&str) -> Option<&'a [u8]>,
        name: &Path,
    ) -> Result<Self, Error> {
        let required = |key: &str| {
            let problem =
                "it is missing; the Secret needs tls.crt and tls.key, type kubernetes.io/tls";
            entry(key).map(<[u8]>::to_vec).ok_or_else(|| Error::invalid(&name.join(key), problem))
        };
        Ok(Self {
            certificate: required(CERTIFICATE)?,
            key: Zeroizing::new(required(KEY)?),
            bundle: entry(BUNDLE).map(<[u8]>::to_vec),
        })
    }

    /// As the files of a trust folder; `dir` is what messages call it.
    pub(super) fn into_files(self, dir: &Path) -> OwnFiles {
        let [certificate, key, bundle]: [PathBuf; 3] =
            [CERTIFICATE, KEY, BUNDLE].map(|name| dir.join(name));
        let Some(subject) = self.authority() else {
            let authority = self.issuers();
            return OwnFiles {
                certificate: Some(self.certificate),
                key: Some(self.key),
                authority,
                authority_key: None,
                paths: Paths { certificate, authority: bundle, authority_key: key.clone(), key },
            };
        };
        // In a rotation `ca.crt` has the one before, of the same name. Whatever stands above, in
        // either entry, may stand above another cluster's authority too, which would then speak
        // for this cluster.
        let mut authority = of_subject(&self.certificate, &subject);
        if let Some(bundle) = &self.bundle {
            authority.push(b'\n');
            authority.extend_from_slice(&of_subject(bundle, &subject));
        }
        OwnFiles {
            certificate: None,
            key: None,
            authority: Some(authority),
            authority_key: Some(self.key),
            paths: Paths {
                authority: certificate.clone(),
                authority_key: key.clone(),
                certificate,
                key,
            },
        }
    }

    /// The subject of the authority that this is. Anything unreadable is none, and is refused as a
    /// leaf with the reason.
    fn authority(&self) -> Option<Vec<u8>> {
        let first = CertificateDer::from_pem_slice(&self.certificate).ok()?;
        let (_, parsed) = X509Certificate::from_der(&first).ok()?;
        parsed.is_ca().then(|| parsed.subject().as_raw().to_vec())
    }

    /// Who vouches for leaves like this one: the authority that issued it where it stands in the
    /// chain, rather than one above it, which others may share.
    fn issuers(&self) -> Option<Vec<u8>> {
        let issuer = || {
            let first = CertificateDer::from_pem_slice(&self.certificate).ok()?;
            let (_, leaf) = X509Certificate::from_der(&first).ok()?;
            Some(leaf.issuer().as_raw().to_vec())
        };
        let above = |issuer: Vec<u8>| {
            let chain = parts(&self.certificate).skip(1).filter(|part| is_of(part, &issuer));
            let pem: Vec<u8> = chain.flat_map(str::bytes).collect();
            (!pem.is_empty()).then_some(pem)
        };
        issuer().and_then(above).or_else(|| self.bundle.clone())
    }
}

/// The certificates of this subject in a PEM text. What cannot be read stays, to be refused with
/// its reason.
fn of_subject(pem: &[u8], subject: &[u8]) -> Vec<u8> {
    if std::str::from_utf8(pem).is_err() {
        return pem.to_vec();
    }
    let kept = parts(pem).filter(|part| is_of(part, subject) || subject_of(part).is_none());
    kept.flat_map(str::bytes).collect()
}

/// A PEM text, certificate by certificate; nothing of what is no text.
fn parts(pem: &[u8]) -> impl Iterator<Item = &str> {
    std::str::from_utf8(pem).unwrap_or_default().split_inclusive(PEM_END)
}

fn is_of(part: &str, subject: &[u8]) -> bool {
    subject_of(part).is_some_and(|of| *of == *subject)
}

fn subject_of(part: &str) -> Option<Vec<u8>> {
    let certificate = CertificateDer::from_pem_slice(part.as_bytes()).ok()?;
    let (_, parsed) = X509Certificate::from_der(&certificate).ok()?;
    Some(parsed.subject().as_raw().to_vec())
}

impl fmt::Debug for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pair(redacted)")
    }
}
