//! From the folder's bytes to what a handshake uses: the own leaf, the bundles, the rustls
//! configurations. Immutable once built; a change builds another.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::NoServerSessionStorage;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::time_provider::TimeProvider;
use rustls::version::TLS13;
use rustls::{ClientConfig, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, UnixTime};

use super::bundle::{Bundle, authorities};
use super::chain::certified_key;
use super::config::Config;
use super::error::Error;
use super::fingerprint::Fingerprint;
use super::folder::{OwnFiles, Paths, PeerFile, PeerFiles};
use super::identity::{Claims, spiffe_id};
use super::issue::Authority;
use super::kind::Kind;
use super::verify::{Admits, Bundles, InboundVerifier};
use crate::clock;
use crate::model::ClusterId;

/// The kinds that this version serves.
pub(super) const SERVED: [Kind; 4] = [Kind::Control, Kind::Data, Kind::Udp, Kind::Sibling];

/// Wall time for certificates, from the one place where it is read.
#[derive(Debug)]
pub(super) struct Wall;

impl TimeProvider for Wall {
    fn current_time(&self) -> Option<UnixTime> {
        let since = clock::wall().duration_since(SystemTime::UNIX_EPOCH).ok()?;
        Some(UnixTime::since_unix_epoch(since))
    }
}

/// AES-128-GCM first where the processor has AES instructions (the fastest there), ChaCha20 first
/// where it has none; X25519MLKEM768 preferred.
pub(super) fn provider() -> Arc<CryptoProvider> {
    use aws_lc_rs::{cipher_suite as suite, kx_group as group};
    let mut cipher_suites = vec![
        suite::TLS13_AES_128_GCM_SHA256,
        suite::TLS13_AES_256_GCM_SHA384,
        suite::TLS13_CHACHA20_POLY1305_SHA256,
    ];
    if !has_aes() {
        cipher_suites.rotate_right(1);
    }
    Arc::new(CryptoProvider {
        cipher_suites,
        kx_groups: vec![group::X25519MLKEM768, group::X25519, group::SECP256R1, group::SECP384R1],
        ..aws_lc_rs::default_provider()
    })
}

#[cfg(target_arch = "x86_64")]
fn has_aes() -> bool {
    std::arch::is_x86_feature_detected!("aes") && std::arch::is_x86_feature_detected!("pclmulqdq")
}

#[cfg(target_arch = "aarch64")]
fn has_aes() -> bool {
    std::arch::is_aarch64_feature_detected!("aes")
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn has_aes() -> bool {
    false
}

/// The own leaf with its key.
#[derive(Debug, Clone)]
pub(super) struct Own {
    pub(super) certified: Arc<CertifiedKey>,
    pub(super) begins: SystemTime,
    pub(super) expires: SystemTime,
    /// What issued it and can issue the next; without, somebody else must.
    pub(super) authority: Option<Authority>,
    /// What vouches for leaves of the own cluster (`ca.pem`); without, no sibling is believed.
    pub(super) bundle: Option<Arc<Bundle>>,
}

/// Everything a handshake needs, of one moment.
#[derive(Debug)]
pub(super) struct Material {
    pub(super) own: Own,
    pub(super) bundles: Arc<Bundles>,
    /// For peers: whoever claims to be us is refused.
    pub(super) server: Arc<ServerConfig>,
    /// For siblings: whoever is not us is refused.
    sibling_server: Option<Arc<ServerConfig>>,
    clients: BTreeMap<ClusterId, ClientConfig>,
}

impl Own {
    /// From `ca.key` a fresh leaf in memory, else `cert.pem` with `key.pem`.
    pub(super) fn load(config: &Config, files: &OwnFiles) -> Result<Self, Error> {
        let bundle = Self::bundle(config, files, None);
        match Self::authority(config, files)? {
            Some(authority) => {
                // The leaf of the folder is not used, but it tells whose folder this is.
                if let Some(certificate) = &files.certificate
                    && let Ok(leaf) = CertificateDer::from_pem_slice(certificate)
                {
                    own_claims(config, &files.paths, &leaf)?;
                }
                Self::issue(config, authority, bundle)
            }
            None => Self::read(config, files, bundle),
        }
    }

    /// The same after a change of the folder; a leaf whose authority stayed is kept. An expired
    /// pair does not replace a leaf that is still good: peers would refuse it.
    pub(super) fn reload(config: &Config, files: &OwnFiles, before: &Self) -> Result<Self, Error> {
        let bundle = Self::bundle(config, files, before.bundle.as_ref());
        match Self::authority(config, files)? {
            Some(authority) if before.authority.as_ref() == Some(&authority) => {
                Ok(Self { bundle, ..before.clone() })
            }
            Some(authority) => Self::issue(config, authority, bundle),
            None => {
                let (read, now) = (Self::read(config, files, bundle)?, clock::wall());
                if read.expires <= now && before.expires > now {
                    let problem = "it has expired; put a current one there, or restore ca.key";
                    return Err(Error::invalid(&files.paths.certificate, problem));
                }
                Ok(read)
            }
        }
    }

    /// A fresh leaf.
    pub(super) fn issue(
        config: &Config,
        authority: Authority,
        bundle: Option<Arc<Bundle>>,
    ) -> Result<Self, Error> {
        let leaf = authority.issue(&config.cluster, &config.clusterset)?;
        let signer = aws_lc_rs::sign::any_supported_type(&leaf.key())
            .map_err(|error| Error::Issue(error.to_string()))?;
        let certificate = leaf.certificate();
        let claims = Claims::read(&certificate).map_err(|e| Error::Issue(e.to_string()))?;
        let chain = [certificate].into_iter().chain(authority.link()).collect();
        Ok(Self {
            certified: Arc::new(CertifiedKey::new(chain, signer)),
            begins: claims.begins,
            expires: claims.expires,
            authority: Some(authority),
            bundle,
        })
    }

    /// What siblings are verified against. Where `ca.pem` cannot be used, which
    /// [`warn_if_unvouched`] says, the last good one stays.
    fn bundle(
        config: &Config,
        files: &OwnFiles,
        before: Option<&Arc<Bundle>>,
    ) -> Option<Arc<Bundle>> {
        let parse = |pem| Bundle::parse(&config.cluster, &config.clusterset, pem, &provider()).ok();
        let read = files.authority.as_deref().and_then(parse);
        match (read, before) {
            (Some(read), Some(before)) if read.fingerprint == before.fingerprint => {
                Some(Arc::clone(before))
            }
            (Some(read), _) => Some(Arc::new(read)),
            (None, before) => before.cloned(),
        }
    }

    fn authority(config: &Config, files: &OwnFiles) -> Result<Option<Authority>, Error> {
        let paths = &files.paths;
        let Some(key) = &files.authority_key else {
            return Ok(None);
        };
        let pem = files.authority.as_deref().ok_or_else(|| {
            Error::invalid(&paths.authority, "it is missing; restore the pair of ca.key")
        })?;
        let certificates =
            authorities(pem).map_err(|problem| Error::invalid(&paths.authority, problem))?;
        let authority = Authority::load(&certificates, key)
            .map_err(|problem| Error::invalid(&paths.authority_key, problem))?;
        // Without a leaf beside it only its own name tells whose it is, if we made it.
        if files.certificate.is_none()
            && let Some(other) = authority.cluster().filter(|found| *found != config.cluster)
        {
            let problem = format!(
                "it is the authority of '{other}', the configuration says '{}'; correct one of them",
                config.cluster
            );
            return Err(Error::invalid(&paths.authority, problem));
        }
        Ok(Some(authority))
    }

    fn read(config: &Config, files: &OwnFiles, bundle: Option<Arc<Bundle>>) -> Result<Self, Error> {
        let paths = &files.paths;
        let (Some(certificate), Some(key)) = (&files.certificate, &files.key) else {
            let path = if files.certificate.is_none() { &paths.certificate } else { &paths.key };
            let problem = "it is missing; run: portolan trust init, or put the issued pair there";
            return Err(Error::invalid(path, problem));
        };
        let certified = certified_key((&paths.certificate, certificate), (&paths.key, key))?;
        let claims = own_claims(config, paths, &certified.cert[0])?;
        let certified = Arc::new(certified);
        let (begins, expires) = (claims.begins, claims.expires);
        Ok(Self { certified, begins, expires, authority: None, bundle })
    }
}

/// What the own leaf says; it must speak for the configured cluster.
fn own_claims(config: &Config, paths: &Paths, leaf: &CertificateDer<'_>) -> Result<Claims, Error> {
    let identity = |source| Error::Identity { path: paths.certificate.clone(), source };
    let claims = Claims::read(leaf).map_err(identity)?;
    if claims.cluster != config.cluster {
        let problem = format!(
            "it speaks for '{}', the configuration says '{}'; correct one of them",
            claims.cluster, config.cluster
        );
        return Err(Error::invalid(&paths.certificate, problem));
    }
    claims.check_uri(&spiffe_id(&config.clusterset, &config.cluster)).map_err(identity)?;
    Ok(claims)
}

/// Peers know us by `ca.pem`: says so where it does not verify the own leaf. Not an error, for in
/// a rotation peers may know the new authority already.
pub(super) fn warn_if_unvouched(
    config: &Config,
    files: &OwnFiles,
    own: &Own,
    provider: &Arc<CryptoProvider>,
) {
    let (Some(pem), [leaf, chain @ ..]) = (&files.authority, own.certified.cert.as_slice()) else {
        return;
    };
    let path = files.paths.authority.display();
    let bundle = match Bundle::parse(&config.cluster, &config.clusterset, pem, provider) {
        Ok(bundle) => bundle,
        Err(problem) => return tracing::warn!(%path, problem, "peers cannot pin this"),
    };
    let Some(now) = Wall.current_time() else {
        return;
    };
    if let Err(error) = bundle.client.verify_client_cert(leaf, chain, now) {
        tracing::warn!(%path, %error, "peers that pinned this refuse the own certificate");
    }
}

impl Material {
    /// The configurations for this leaf and these bundles.
    pub(super) fn build(
        config: &Config,
        own: Own,
        bundles: Arc<Bundles>,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Self, Error> {
        let maker = Maker {
            cluster: &config.cluster,
            resolver: Arc::new(SingleCertAndKey::from(Arc::clone(&own.certified))),
            provider,
        };
        let server = maker.server(Admits::Peers, Arc::clone(&bundles))?;
        let mut clients = BTreeMap::new();
        for bundle in bundles.values().chain(&own.bundle) {
            clients.insert(bundle.cluster.clone(), maker.client(bundle)?);
        }
        let sibling_server = match &own.bundle {
            Some(bundle) => {
                let only = Bundles::from([(config.cluster.clone(), Arc::clone(bundle))]);
                Some(maker.server(Admits::Siblings, Arc::new(only))?)
            }
            None => None,
        };
        Ok(Self { own, bundles, server, sibling_server, clients })
    }

    /// How connections of that kind are accepted; `None` without an own bundle for siblings.
    pub(super) fn server_of(&self, kind: Kind) -> Option<&Arc<ServerConfig>> {
        match kind {
            Kind::Sibling => self.sibling_server.as_ref(),
            _ => Some(&self.server),
        }
    }

    /// What verifies that cluster's leaves on connections of that kind: the own cluster's on those
    /// between siblings and nowhere else.
    pub(super) fn bundle(&self, kind: Kind, cluster: &ClusterId) -> Option<&Arc<Bundle>> {
        match kind {
            Kind::Sibling => self.own.bundle.as_ref().filter(|own| own.cluster == *cluster),
            _ => self.bundles.get(cluster),
        }
    }

    /// How connections of that kind to that cluster are made, and what verifies it.
    pub(super) fn client(
        &self,
        kind: Kind,
        cluster: &ClusterId,
    ) -> Option<(ClientConfig, &Arc<Bundle>)> {
        let bundle = self.bundle(kind, cluster)?;
        let mut config = self.clients.get(cluster)?.clone();
        config.alpn_protocols = vec![kind.alpn().to_vec()];
        Some((config, bundle))
    }

    /// Whether a leaf of that cluster is still verified by the bundle of this fingerprint.
    pub(super) fn holds(&self, cluster: &ClusterId, fingerprint: Fingerprint) -> bool {
        // Never both: no bundle is pinned for the own name.
        let own = self.bundle(Kind::Sibling, cluster);
        own.or_else(|| self.bundles.get(cluster))
            .is_some_and(|bundle| bundle.fingerprint == fingerprint)
    }
}

/// What every configuration has in common.
struct Maker<'a> {
    cluster: &'a ClusterId,
    resolver: Arc<SingleCertAndKey>,
    provider: &'a Arc<CryptoProvider>,
}

impl Maker<'_> {
    fn server(&self, admits: Admits, bundles: Arc<Bundles>) -> Result<Arc<ServerConfig>, Error> {
        let verifier =
            InboundVerifier::new(self.cluster.clone(), admits, bundles, Arc::clone(self.provider));
        let mut server =
            ServerConfig::builder_with_details(Arc::clone(self.provider), Arc::new(Wall))
                .with_protocol_versions(&[&TLS13])
                .map_err(failed)?
                .with_client_cert_verifier(Arc::new(verifier))
                .with_cert_resolver(Arc::clone(&self.resolver) as _);
        // A resumed session would skip the check of the client's certificate.
        server.send_tls13_tickets = 0;
        server.session_storage = Arc::new(NoServerSessionStorage {});
        let kinds = SERVED.iter().filter(|kind| admits.serves(**kind));
        server.alpn_protocols = kinds.map(|kind| kind.alpn().to_vec()).collect();
        Ok(Arc::new(server))
    }

    fn client(&self, bundle: &Bundle) -> Result<ClientConfig, Error> {
        let client = ClientConfig::builder_with_details(Arc::clone(self.provider), Arc::new(Wall))
            .with_protocol_versions(&[&TLS13])
            .map_err(failed)?
            .with_webpki_verifier(Arc::clone(&bundle.server));
        let mut client = client.with_client_cert_resolver(Arc::clone(&self.resolver) as _);
        client.resumption = Resumption::disabled();
        Ok(client)
    }
}

pub(super) fn failed(error: rustls::Error) -> Error {
    Error::Issue(error.to_string())
}

/// What became of the bundles of a folder.
#[derive(Debug)]
pub(super) struct Loaded {
    pub(super) bundles: Bundles,
    /// Files that could not be used; the last good bundle of that cluster stays.
    pub(super) problems: Vec<(PathBuf, String)>,
}

/// Reads the bundles; for a bad one the last good of `before` stays.
pub(super) fn load_bundles(
    config: &Config,
    files: PeerFiles,
    before: &Bundles,
    provider: &Arc<CryptoProvider>,
) -> Loaded {
    let (mut bundles, mut problems) = (Bundles::new(), files.strays);
    for (cluster, PeerFile { path, content }) in files.bundles {
        if cluster == config.cluster {
            problems.push((path, "it is this cluster's own name; remove it".to_owned()));
            continue;
        }
        let parsed =
            content.and_then(|pem| Bundle::parse(&cluster, &config.clusterset, &pem, provider));
        let last = before.get(&cluster);
        match parsed {
            Ok(bundle) => {
                let kept = last.filter(|last| last.fingerprint == bundle.fingerprint);
                let bundle = kept.map_or_else(|| Arc::new(bundle), Arc::clone);
                bundles.insert(cluster, bundle);
            }
            Err(problem) => {
                if let Some(last) = last {
                    bundles.insert(cluster, Arc::clone(last));
                }
                problems.push((path, problem));
            }
        }
    }
    Loaded { bundles, problems }
}
