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
        if !self.is_authority() {
            return OwnFiles {
                certificate: Some(self.certificate),
                key: Some(self.key),
                authority: self.bundle,
                authority_key: None,
                paths: Paths { certificate, authority: bundle, authority_key: key.clone(), key },
            };
        }
        // Both: in a rotation, or below another authority, `ca.crt` alone does not hold it.
        let mut authority = self.certificate;
        if let Some(bundle) = &self.bundle {
            authority.push(b'\n');
            authority.extend_from_slice(bundle);
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

    /// Anything unreadable is no authority, and is refused as a leaf with the reason.
    fn is_authority(&self) -> bool {
        CertificateDer::from_pem_slice(&self.certificate).is_ok_and(|first| {
            X509Certificate::from_der(&first).is_ok_and(|(_, parsed)| parsed.is_ca())
        })
    }
}

impl fmt::Debug for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pair(redacted)")
    }
}
