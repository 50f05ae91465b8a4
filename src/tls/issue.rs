//! Issuing: a cluster's authority and its leaves.

use std::fmt;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PublicKeyData, SanType,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;
use zeroize::Zeroizing;

use super::error::Error;
use super::identity::{dns_name, spiffe_id};
use crate::clock;
use crate::model::{ClusterId, DnsName};

/// The life of an authority: ten years.
const AUTHORITY_LIFE: Duration = Duration::from_secs(3653 * 24 * 3600);
/// What follows the cluster's name in the subject of its authority.
const AUTHORITY_SUFFIX: &str = " portolan authority";
/// The life of a leaf.
pub(super) const LEAF_LIFE: Duration = Duration::from_secs(24 * 3600);
/// Certificates begin this long before they are issued, for clocks that lag.
pub(super) const BACKDATE: Duration = Duration::from_secs(5 * 60);

/// A cluster's authority with its key: issues that cluster's leaves.
#[derive(Clone)]
pub(super) struct Authority(Arc<Inner>);

struct Inner {
    certificate: CertificateDer<'static>,
    key: Zeroizing<KeyPair>,
}

/// A fresh leaf with its key.
pub(super) struct Leaf {
    /// The certificate.
    certificate: rcgen::Certificate,
    /// Its key, wiped when dropped.
    key: Zeroizing<KeyPair>,
}

impl Authority {
    /// The authority of `ca.key` among the certificates of `ca.pem` (several during a rotation).
    pub(super) fn load(
        certificates: &[CertificateDer<'static>],
        key_pem: &[u8],
    ) -> Result<Self, String> {
        let text = std::str::from_utf8(key_pem).map_err(|_| "not PEM".to_owned())?;
        let key = KeyPair::from_pem(text).map_err(|error| format!("not a usable key: {error}"))?;
        let key = Zeroizing::new(key);
        let public = key.subject_public_key_info();
        let certificate = certificates
            .iter()
            .find(|certificate| {
                X509Certificate::from_der(certificate)
                    .is_ok_and(|(_, parsed)| parsed.public_key().raw == public)
            })
            .ok_or("it is not the key of a certificate in ca.pem; restore the pair")?;
        Ok(Self(Arc::new(Inner { certificate: certificate.clone(), key })))
    }

    /// The cluster for which it was made, where its name says so: only ours do.
    pub(super) fn cluster(&self) -> Option<ClusterId> {
        let (_, parsed) = X509Certificate::from_der(&self.0.certificate).ok()?;
        let name = parsed.subject().iter_common_name().next()?.as_str().ok()?;
        ClusterId::parse(name.strip_suffix(AUTHORITY_SUFFIX)?).ok()
    }

    /// What leads from a leaf to an authority above this one; a root needs nothing.
    pub(super) fn link(&self) -> Option<CertificateDer<'static>> {
        let (_, parsed) = X509Certificate::from_der(&self.0.certificate).ok()?;
        (parsed.subject() != parsed.issuer()).then(|| self.0.certificate.clone())
    }

    /// Issues a leaf for `cluster` that is valid now.
    pub(super) fn issue(&self, cluster: &ClusterId, clusterset: &DnsName) -> Result<Leaf, Error> {
        let mut params = CertificateParams::default();
        let now = clock::wall();
        params.not_before = (now - BACKDATE).into();
        params.not_after = (now + LEAF_LIFE).into();
        params.distinguished_name = common_name(&dns_name(cluster));
        params.subject_alt_names = vec![
            SanType::DnsName(text(dns_name(cluster))?),
            SanType::URI(text(spiffe_id(clusterset, cluster))?),
        ];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        let issuer = Issuer::from_ca_cert_der(&self.0.certificate, &*self.0.key).map_err(failed)?;
        let key = Zeroizing::new(KeyPair::generate().map_err(failed)?);
        let certificate = params.signed_by(&*key, &issuer).map_err(failed)?;
        Ok(Leaf { certificate, key })
    }
}

impl PartialEq for Authority {
    /// One certificate has one key.
    fn eq(&self, other: &Self) -> bool {
        self.0.certificate == other.0.certificate
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Authority(redacted)")
    }
}

impl Leaf {
    /// Its key, borrowed: whoever needs it longer makes a signer of it.
    pub(super) fn key(&self) -> PrivateKeyDer<'_> {
        PrivatePkcs8KeyDer::from(self.key.serialized_der()).into()
    }

    /// The certificate.
    pub(super) fn certificate(&self) -> CertificateDer<'static> {
        self.certificate.der().clone()
    }
}

impl fmt::Debug for Leaf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Leaf(redacted)")
    }
}

/// Makes the authority of a cluster, ten years: its certificate and its key, PEM.
///
/// # Errors
/// The system has no randomness.
pub fn new_authority(cluster: &ClusterId) -> Result<(String, Zeroizing<String>), Error> {
    let (authority, key) = authority(cluster)?;
    Ok((authority.pem(), Zeroizing::new(key.serialize_pem())))
}

fn authority(cluster: &ClusterId) -> Result<(rcgen::Certificate, Zeroizing<KeyPair>), Error> {
    let mut params = CertificateParams::default();
    let now = clock::wall();
    params.not_before = (now - BACKDATE).into();
    params.not_after = (now + AUTHORITY_LIFE).into();
    params.distinguished_name = common_name(&format!("{cluster}{AUTHORITY_SUFFIX}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let key = Zeroizing::new(KeyPair::generate().map_err(failed)?);
    Ok((params.self_signed(&*key).map_err(failed)?, key))
}

/// Makes a trust folder: `ca.pem` and `ca.key` (ten years), `cert.pem` and `key.pem` (24 h) and
/// an empty `peers/`. Keys are readable by their owner only. Nothing is ever replaced.
pub fn init(dir: &Path, cluster: &ClusterId, clusterset: &DnsName) -> Result<(), Error> {
    for name in ["ca.pem", "ca.key", "cert.pem", "key.pem"] {
        let path = dir.join(name);
        if path.symlink_metadata().is_ok() {
            return Err(Error::Exists(path));
        }
    }
    let peers = dir.join("peers");
    fs::create_dir_all(dir).map_err(Error::io("create", dir))?;
    if !peers.is_dir() {
        DirBuilder::new().mode(0o755).create(&peers).map_err(Error::io("create", &peers))?;
    }

    let (authority, key) = authority(cluster)?;
    let key_pem = Zeroizing::new(key.serialize_pem());
    write_new(&dir.join("ca.key"), key_pem.as_bytes(), 0o600)?;
    write_new(&dir.join("ca.pem"), authority.pem().as_bytes(), 0o644)?;

    let own = Authority(Arc::new(Inner { certificate: authority.der().clone(), key }));
    let leaf = own.issue(cluster, clusterset)?;
    let key_pem = Zeroizing::new(leaf.key.serialize_pem());
    write_new(&dir.join("key.pem"), key_pem.as_bytes(), 0o600)?;
    write_new(&dir.join("cert.pem"), leaf.certificate.pem().as_bytes(), 0o644)
}

/// Writes a file that must not exist yet.
fn write_new(path: &Path, content: &[u8], mode: u32) -> Result<(), Error> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)
        .map_err(Error::io("create", path))?;
    file.write_all(content).and_then(|()| file.sync_all()).map_err(Error::io("write", path))
}

fn common_name(name: &str) -> DistinguishedName {
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CommonName, name);
    subject
}

fn text(name: String) -> Result<Ia5String, Error> {
    Ia5String::try_from(name).map_err(failed)
}

fn failed(error: rcgen::Error) -> Error {
    Error::Issue(error.to_string())
}
