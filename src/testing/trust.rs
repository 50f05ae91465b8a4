//! Trust folders, flawed certificates and hostile clients.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, SanType,
};
use rustls::client::Resumption;
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::model::{ClusterId, DnsName};
use crate::{clock, tls};

/// The cluster set of every folder made here.
pub const CLUSTERSET: &str = "clusterset.local";
/// An hour.
const HOUR: Duration = Duration::from_secs(3600);

/// A cluster's name.
///
/// # Panics
/// When it is none.
#[must_use]
pub fn cluster(name: &str) -> ClusterId {
    ClusterId::parse(name).expect("a cluster's name")
}

/// Makes `dir/<cluster>/` for each cluster: trust folders that trust one another.
///
/// # Panics
/// When a folder cannot be written.
pub fn mesh(dir: &Path, clusters: &[&str]) {
    for name in clusters {
        init(&dir.join(name), name);
    }
    for name in clusters {
        for peer in clusters.iter().filter(|peer| *peer != name) {
            pin(&dir.join(name), peer, &dir.join(peer));
        }
    }
}

/// Makes one trust folder that trusts nobody.
///
/// # Panics
/// When it cannot be written.
pub fn init(dir: &Path, name: &str) {
    let clusterset = DnsName::parse(CLUSTERSET).expect("a zone");
    tls::init(dir, &cluster(name), &clusterset).expect("a new trust folder");
}

/// Pins the authority of the folder `from` for `peer`.
///
/// # Panics
/// When it cannot be copied.
pub fn pin(dir: &Path, peer: &str, from: &Path) {
    let bundle = fs::read(from.join("ca.pem")).expect("the peer's ca.pem");
    replace(&dir.join("peers").join(format!("{peer}.pem")), &bundle, 0o644);
}

/// Removes the bundle pinned for `peer`.
///
/// # Panics
/// When there is none.
pub fn unpin(dir: &Path, peer: &str) {
    fs::remove_file(dir.join("peers").join(format!("{peer}.pem"))).expect("a pinned bundle");
}

/// The settings of the folder `dir` of the cluster `name`.
#[must_use]
pub fn config(dir: &Path, name: &str) -> tls::Config {
    let clusterset = DnsName::parse(CLUSTERSET).expect("a zone");
    tls::Config { cluster: cluster(name), clusterset, dir: dir.to_path_buf() }
}

/// The folder `dir` of the cluster `name`, opened, with a registry of its own.
///
/// # Panics
/// When something in it is wrong.
#[must_use]
pub fn open(dir: &Path, name: &str) -> (tls::Trust, prometheus::Registry) {
    let registry = prometheus::Registry::new();
    let metrics = tls::Metrics::register(&registry).expect("a fresh registry");
    (tls::Trust::open(config(dir, name), metrics).expect("a good trust folder"), registry)
}

/// The authority of the folder `dir` as a Secret of type `kubernetes.io/tls` holds it.
///
/// # Panics
/// When the folder has none.
#[must_use]
pub fn authority_pair(dir: &Path) -> tls::Pair {
    let read = |name| fs::read(dir.join(name)).expect("an authority with its key");
    tls::Pair { certificate: read("ca.pem"), key: read("ca.key").into(), bundle: None }
}

/// What a leaf says; `Leaf::of` is a good one.
#[derive(Debug, Clone)]
pub struct Leaf {
    /// DNS names.
    pub dns: Vec<String>,
    /// URIs.
    pub uris: Vec<String>,
    /// First moment.
    pub begins: SystemTime,
    /// Last moment.
    pub expires: SystemTime,
    /// For what it may be used.
    pub usages: Vec<ExtendedKeyUsagePurpose>,
}

impl Leaf {
    /// A good leaf of that cluster.
    #[must_use]
    pub fn of(name: &str) -> Self {
        let now = clock::wall();
        Self {
            dns: vec![format!("{name}.portolan.internal")],
            uris: vec![format!("spiffe://{CLUSTERSET}/cluster/{name}")],
            begins: now - HOUR,
            expires: now + 23 * HOUR,
            usages: vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth],
        }
    }

    /// Ended an hour ago.
    #[must_use]
    pub fn expired(mut self) -> Self {
        self.begins = clock::wall() - 25 * HOUR;
        self.expires = clock::wall() - HOUR;
        self
    }

    /// Begins in an hour.
    #[must_use]
    pub fn not_yet_valid(mut self) -> Self {
        self.begins = clock::wall() + HOUR;
        self
    }

    /// With another DNS name beside its own.
    #[must_use]
    pub fn and_dns(mut self, name: &str) -> Self {
        self.dns.push(name.to_owned());
        self
    }

    /// With another URI beside its own.
    #[must_use]
    pub fn and_uri(mut self, uri: &str) -> Self {
        self.uris.push(uri.to_owned());
        self
    }

    /// With these URIs and no other.
    #[must_use]
    pub fn with_uris(mut self, uris: &[&str]) -> Self {
        self.uris = uris.iter().map(|&uri| uri.to_owned()).collect();
        self
    }

    /// With these DNS names and no other.
    #[must_use]
    pub fn with_dns(mut self, names: &[&str]) -> Self {
        self.dns = names.iter().map(|&name| name.to_owned()).collect();
        self
    }

    /// Signed by the authority of the trust folder `dir`.
    ///
    /// # Panics
    /// When that has no `ca.key`.
    #[must_use]
    pub fn signed_by(&self, dir: &Path) -> Credentials {
        let key = fs::read_to_string(dir.join("ca.key")).expect("an authority's key");
        let key = KeyPair::from_pem(&key).expect("a PEM key");
        let certificate = fs::read_to_string(dir.join("ca.pem")).expect("an authority");
        let issuer = Issuer::from_ca_cert_pem(&certificate, key).expect("an authority");
        self.signed(&issuer)
    }

    /// Signed by a fresh authority that nobody pinned, named as the genuine one is.
    ///
    /// # Panics
    /// Never in practice: only when no key can be made.
    #[must_use]
    pub fn signed_by_stranger(&self, namesake: &str) -> Credentials {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let name = format!("{namesake} portolan authority");
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        let issuer = Issuer::new(params, KeyPair::generate().expect("a key"));
        self.signed(&issuer)
    }

    fn signed(&self, issuer: &Issuer<'_, KeyPair>) -> Credentials {
        let ia5 = |text: &String| Ia5String::try_from(text.clone()).expect("ASCII");
        let mut params = CertificateParams::default();
        params.not_before = self.begins.into();
        params.not_after = self.expires.into();
        params.subject_alt_names =
            self.dns.iter().map(|name| SanType::DnsName(ia5(name))).collect();
        params.subject_alt_names.extend(self.uris.iter().map(|uri| SanType::URI(ia5(uri))));
        params.extended_key_usages.clone_from(&self.usages);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, issuer).expect("a certificate");
        Credentials { certificate_pem: certificate.pem(), key_pem: key.serialize_pem() }
    }
}

/// A certificate with its key, PEM.
#[derive(Clone)]
pub struct Credentials {
    /// The certificate.
    pub certificate_pem: String,
    /// Its key.
    pub key_pem: String,
}

impl Credentials {
    /// The pair in a trust folder, `cert.pem` and `key.pem`.
    ///
    /// # Panics
    /// When they cannot be read.
    #[must_use]
    pub fn read(dir: &Path) -> Self {
        let read = |name| fs::read_to_string(dir.join(name)).expect("a file of the pair");
        Self { certificate_pem: read("cert.pem"), key_pem: read("key.pem") }
    }

    /// The pair as a Secret of type `kubernetes.io/tls` holds it, verified by the `ca.pem` of the
    /// folder `dir`.
    ///
    /// # Panics
    /// When that cannot be read.
    #[must_use]
    pub fn pair(&self, dir: &Path) -> tls::Pair {
        let bundle = fs::read(dir.join("ca.pem")).expect("an authority");
        tls::Pair {
            certificate: self.certificate_pem.clone().into(),
            key: self.key_pem.clone().into_bytes().into(),
            bundle: Some(bundle),
        }
    }

    /// Makes the folder live by this pair: writes it and removes `ca.key`.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn install(&self, dir: &Path) {
        replace(&dir.join("key.pem"), self.key_pem.as_bytes(), 0o600);
        replace(&dir.join("cert.pem"), self.certificate_pem.as_bytes(), 0o644);
        match fs::remove_file(dir.join("ca.key")) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => panic!("ca.key: {error}"),
            _ => {}
        }
    }
}

/// A TLS 1.3 client that does only what it is told.
#[derive(Clone)]
pub struct Client {
    /// What it shows, if anything.
    pub credentials: Option<Credentials>,
    /// What it offers.
    pub alpn: Vec<Vec<u8>>,
    /// The `ca.pem` by which it knows the server.
    pub bundle: PathBuf,
    /// The cluster it means to reach.
    pub server: String,
}

impl Client {
    /// A client of the cluster whose folder is `server_dir`, offering one kind.
    #[must_use]
    pub fn of(server_dir: &Path, server: &str, credentials: Option<Credentials>) -> Self {
        Self {
            credentials,
            alpn: vec![tls::Kind::Data.alpn().to_vec()],
            bundle: server_dir.join("ca.pem"),
            server: server.to_owned(),
        }
    }

    /// Shakes hands, then reads: a TLS 1.3 client learns only so that it was refused.
    /// `Ok(())`: still connected after 200 ms without an alert, or a byte came.
    ///
    /// # Errors
    /// How it was refused.
    ///
    /// # Panics
    /// When its own settings are unusable.
    pub async fn knock(&self, address: SocketAddr) -> io::Result<()> {
        let mut stream = self.connect(address).await?;
        let mut byte = [0; 1];
        match tokio::time::timeout(Duration::from_millis(200), stream.read(&mut byte)).await {
            Err(_) => Ok(()),
            Ok(Ok(0)) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(error),
        }
    }

    /// Shakes hands.
    ///
    /// # Errors
    /// How it was refused, if already in the handshake.
    ///
    /// # Panics
    /// When its own settings are unusable.
    pub async fn connect(
        &self,
        address: SocketAddr,
    ) -> io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
        let tcp = TcpStream::connect(address).await?;
        let name = format!("{}.portolan.internal", self.server);
        let name = ServerName::try_from(name).expect("a server name");
        TlsConnector::from(Arc::new(self.config())).connect(name, tcp).await
    }

    fn config(&self) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_file_iter(&self.bundle).expect("the bundle") {
            roots.add(certificate.expect("a certificate")).expect("an authority");
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])
            .expect("TLS 1.3")
            .with_root_certificates(roots);
        let mut config = match &self.credentials {
            None => builder.with_no_client_auth(),
            Some(pair) => {
                let chain = CertificateDer::pem_slice_iter(pair.certificate_pem.as_bytes())
                    .collect::<Result<_, _>>()
                    .expect("a certificate");
                let key = PrivateKeyDer::from_pem_slice(pair.key_pem.as_bytes()).expect("a key");
                builder.with_client_auth_cert(chain, key).expect("a matching pair")
            }
        };
        config.alpn_protocols.clone_from(&self.alpn);
        config.resumption = Resumption::disabled();
        config
    }
}

/// Sends the hello of a client that knows TLS 1.2 at most, offering `portolan-data/1`; gives
/// what the server answered before it closed.
///
/// # Errors
/// When the connection broke.
pub async fn knock_with_tls12(address: SocketAddr) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(&tls12_hello(tls::Kind::Data.alpn())).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    Ok(answer)
}

/// A TLS 1.2 ClientHello (RFC 5246 §7.4.1.2) without `supported_versions`.
fn tls12_hello(protocol: &[u8]) -> Vec<u8> {
    let prefixed = |body: &[u8], octets: usize| {
        let length = (body.len() as u64).to_be_bytes();
        [&length[8 - octets..], body].concat()
    };
    let extension = |kind: u16, body: &[u8]| [&kind.to_be_bytes()[..], &prefixed(body, 2)].concat();
    let extensions = [
        // ALPN, supported groups (secp256r1), point formats, signature algorithms.
        extension(16, &prefixed(&prefixed(protocol, 1), 2)),
        extension(10, &prefixed(&[0, 23], 2)),
        extension(11, &[1, 0]),
        extension(13, &prefixed(&[4, 3, 8, 4, 4, 1], 2)),
        // Extended master secret.
        extension(23, &[]),
    ]
    .concat();
    let body = [
        &[3, 3][..],
        &[7; 32],
        &[0],
        // ECDHE-ECDSA and ECDHE-RSA with AES-128-GCM.
        &prefixed(&[0xc0, 0x2b, 0xc0, 0x2f], 2),
        &[1, 0],
        &prefixed(&extensions, 2),
    ]
    .concat();
    let message = [&[1][..], &prefixed(&body, 3)].concat();
    [&[22, 3, 1][..], &prefixed(&message, 2)].concat()
}

/// Writes a file so that it is never seen half written.
fn replace(path: &Path, content: &[u8], mode: u32) {
    let fresh = path.with_extension("fresh");
    fs::write(&fresh, content).expect("a writable folder");
    fs::set_permissions(&fresh, fs::Permissions::from_mode(mode)).expect("own file");
    fs::rename(&fresh, path).expect("one file system");
}
