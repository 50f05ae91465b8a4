//! A certificate with its chain and its key, from PEM texts to what a handshake uses.

use std::path::Path;
use std::time::{Duration, SystemTime};

use rustls::crypto::aws_lc_rs;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;
use zeroize::Zeroize;

use super::error::Error;

/// The certificates of one text with the key of the other, which must be that of the first of
/// them; there is at least one. The paths are what messages call them.
pub(super) fn certified_key(
    (certificate, certificates): (&Path, &[u8]),
    (key, key_pem): (&Path, &[u8]),
) -> Result<CertifiedKey, Error> {
    let chain: Vec<_> = CertificateDer::pem_slice_iter(certificates)
        .collect::<Result<_, _>>()
        .map_err(|error| Error::invalid(certificate, format!("not PEM: {error}")))?;
    if chain.is_empty() {
        let problem = "there is no certificate in it; issue it again";
        return Err(Error::invalid(certificate, problem));
    }
    let mut der = PrivateKeyDer::from_pem_slice(key_pem)
        .map_err(|error| Error::invalid(key, format!("not a PEM key: {error}")))?;
    let signer = aws_lc_rs::sign::any_supported_type(&der);
    der.zeroize();
    let signer = signer.map_err(|error| Error::invalid(key, error.to_string()))?;
    let certified = CertifiedKey::new(chain, signer);
    certified.keys_match().map_err(|_| {
        let of = certificate.file_name().unwrap_or(certificate.as_os_str()).display();
        let problem = format!("it is not the key of {of}; put the matching pair there");
        Error::invalid(key, problem)
    })?;
    Ok(certified)
}

/// When a certificate ends (wall time); before 1970 is 1970.
pub(super) fn expiry(leaf: &CertificateDer<'_>) -> Result<SystemTime, String> {
    let (_, leaf) = X509Certificate::from_der(leaf).map_err(|error| error.to_string())?;
    let seconds = u64::try_from(leaf.validity().not_after.timestamp()).unwrap_or(0);
    Ok(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
}
