//! A bundle's fingerprint: two bundles with the same authorities are one.

use aws_lc_rs::digest;
use rustls_pki_types::CertificateDer;

/// SHA-256 of a bundle's certificates: two bundles with one fingerprint trust the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Fingerprint([u8; 32]);

/// Independent of the order in the file: a set is what is trusted.
pub(super) fn fingerprint(authorities: &[CertificateDer<'_>]) -> Fingerprint {
    let mut each: Vec<_> = authorities
        .iter()
        .map(|certificate| digest::digest(&digest::SHA256, certificate).as_ref().to_vec())
        .collect();
    each.sort();
    each.dedup();
    let mut bytes = [0; 32];
    bytes.copy_from_slice(digest::digest(&digest::SHA256, &each.concat()).as_ref());
    Fingerprint(bytes)
}
