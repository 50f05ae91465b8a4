//! The certificate of a server whose clients show none: the own leaf, or a pair of PEM files.
//!
//! Invariants: what is shown was good when it was read, and a bad replacement leaves the last
//! good in force and says so; the handshake after a replacement shows the new one, also to a
//! client that could have resumed an older session.
//! Not here: listening, and who may ask.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use aws_lc_rs::digest::{self, Digest};
use rustls::ServerConfig;
use rustls::crypto::{CryptoProvider, aws_lc_rs as rustls_aws};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use tokio::time::sleep;

use super::chain::{certified_key, expiry};
use super::error::Error;
use super::folder::{self, Readers};
use super::material::{Wall, failed, provider};
use super::trust::Trust;
use crate::{clock, drain};

/// Between looks at the files: a change is in force within twice this.
const POLL: Duration = Duration::from_secs(1);

/// Where a pair of PEM files lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateFiles {
    /// The certificate, its chain behind it.
    pub certificate: PathBuf,
    /// Its key, which nobody but its owner and group may read.
    pub key: PathBuf,
}

/// See the module.
pub struct ServerCertificate {
    source: Source,
    alpn: &'static [u8],
    provider: Arc<CryptoProvider>,
    built: ArcSwap<Built>,
}

/// Where the certificate comes from.
enum Source {
    /// Renewed and replaced as [`Trust`] says.
    Own(Trust),
    /// Read again when they change.
    Files(Watched),
}

/// Files and the last good pair of them.
struct Watched {
    files: CertificateFiles,
    good: ArcSwap<CertifiedKey>,
    /// What was judged last; locked while a change is judged.
    seen: Mutex<Vec<u8>>,
}

/// A configuration and the certificate that it shows.
struct Built {
    certified: Arc<CertifiedKey>,
    config: Arc<ServerConfig>,
}

impl fmt::Debug for ServerCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerCertificate").finish_non_exhaustive()
    }
}

impl ServerCertificate {
    /// Shows the own leaf, as the gateway does: clients verify `<cluster>.portolan.internal`
    /// against the cluster's authority.
    ///
    /// # Errors
    /// rustls refuses the leaf.
    pub fn own(trust: Trust, alpn: &'static [u8]) -> Result<Self, Error> {
        Self::new(Source::Own(trust), alpn)
    }

    /// Shows the certificate of these files.
    ///
    /// # Errors
    /// Names the file, what is wrong with it and what to do.
    pub fn open(files: CertificateFiles, alpn: &'static [u8]) -> Result<Self, Error> {
        let pair = files.read()?;
        let good = ArcSwap::from_pointee(files.certified(&pair)?);
        let seen = Mutex::new(pair.hash());
        Self::new(Source::Files(Watched { files, good, seen }), alpn)
    }

    fn new(source: Source, alpn: &'static [u8]) -> Result<Self, Error> {
        let mut provider = CryptoProvider::clone(&provider());
        // Resolvers are older than gateways; what rustls holds to be safe of TLS 1.2 may be used.
        let older = rustls_aws::ALL_CIPHER_SUITES.iter().filter(|suite| suite.tls13().is_none());
        provider.cipher_suites.extend(older);
        let provider = Arc::new(provider);
        let built = ArcSwap::from_pointee(build(source.certified(), &provider, alpn)?);
        Ok(Self { source, alpn, provider, built })
    }

    /// The configuration for the next handshake.
    #[must_use]
    pub fn config(&self) -> Arc<ServerConfig> {
        let built = self.built.load();
        let certified = self.source.certified();
        if Arc::ptr_eq(&built.certified, &certified) {
            return Arc::clone(&built.config);
        }
        // A fresh one, whose store of sessions is empty: nobody resumes what showed the old one.
        match build(certified, &self.provider, self.alpn) {
            Ok(fresh) => {
                let config = Arc::clone(&fresh.config);
                self.built.store(Arc::new(fresh));
                config
            }
            Err(error) => {
                tracing::warn!(%error, "the last good certificate stays");
                Arc::clone(&built.config)
            }
        }
    }

    /// Keeps files current until drain is forced: a change is in force within 2 s. The own leaf
    /// needs nobody to look.
    pub async fn run(self: Arc<Self>, mut drain: drain::Watch) {
        if matches!(self.source, Source::Own(_)) {
            return drain.reached(drain::Phase::Forced).await;
        }
        loop {
            let this = Arc::clone(&self);
            // File systems may hang; the runtime must not.
            // A panic in there is a reload that did not happen.
            let _changed = tokio::task::spawn_blocking(move || this.reload()).await;
            tokio::select! {
                () = sleep(POLL) => {}
                () = drain.reached(drain::Phase::Forced) => return,
            }
        }
    }

    /// Takes in what changed in the files, if anything did: whether another certificate is in
    /// force now. `run` calls it every second.
    pub fn reload(&self) -> bool {
        match &self.source {
            Source::Own(_) => false,
            Source::Files(watched) => watched.reload(),
        }
    }
}

impl Source {
    fn certified(&self) -> Arc<CertifiedKey> {
        match self {
            Self::Own(trust) => Arc::clone(&trust.material().own.certified),
            Self::Files(watched) => watched.good.load_full(),
        }
    }
}

impl Watched {
    fn reload(&self) -> bool {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let read = self.files.read();
        let hash = match &read {
            Ok(pair) => pair.hash(),
            Err(error) => error.to_string().into_bytes(),
        };
        if *seen == hash {
            return false;
        }
        *seen = hash;
        let before = self.good.load();
        match read.and_then(|pair| self.files.replacement(&pair, &before)) {
            Ok(certified) if certified.cert == before.cert => false,
            Ok(certified) => {
                let path = self.files.certificate.display();
                tracing::info!(%path, "certificate replaced; new connections are shown this one");
                self.good.store(Arc::new(certified));
                true
            }
            Err(error) => {
                tracing::warn!(%error, "certificate not reloaded, the last good one stays");
                false
            }
        }
    }
}

/// Both files as they were read together.
struct Pair {
    certificate: Vec<u8>,
    key: zeroize::Zeroizing<Vec<u8>>,
}

impl Pair {
    fn hash(&self) -> Vec<u8> {
        let of = |bytes: &[u8]| -> Digest { digest::digest(&digest::SHA256, bytes) };
        [of(&self.certificate).as_ref(), of(&self.key).as_ref()].concat()
    }
}

impl CertificateFiles {
    fn read(&self) -> Result<Pair, Error> {
        let missing =
            |path: &Path| Error::invalid(path, "it is missing; put the issued pair there");
        let certificate = folder::optional(&self.certificate)?;
        let certificate = certificate.ok_or_else(|| missing(&self.certificate))?;
        let key = folder::key(&self.key, Readers::Group)?.ok_or_else(|| missing(&self.key))?;
        Ok(Pair { certificate, key })
    }

    fn certified(&self, pair: &Pair) -> Result<CertifiedKey, Error> {
        certified_key((&self.certificate, &pair.certificate), (&self.key, &pair.key))
    }

    /// The pair, unless it has expired and the one before has not: clients would refuse it.
    fn replacement(&self, pair: &Pair, before: &CertifiedKey) -> Result<CertifiedKey, Error> {
        let (certified, now) = (self.certified(pair)?, clock::wall());
        let lives = |certified: &CertifiedKey| {
            let leaf = certified.cert.first();
            leaf.is_some_and(|leaf| expiry(leaf).is_ok_and(|end| end > now))
        };
        if lives(before) && !lives(&certified) {
            let problem = "it has expired; put a current one there";
            return Err(Error::invalid(&self.certificate, problem));
        }
        Ok(certified)
    }
}

fn build(
    certified: Arc<CertifiedKey>,
    provider: &Arc<CryptoProvider>,
    alpn: &'static [u8],
) -> Result<Built, Error> {
    let resolver = Arc::new(SingleCertAndKey::from(Arc::clone(&certified)));
    let mut config = ServerConfig::builder_with_details(Arc::clone(provider), Arc::new(Wall))
        .with_safe_default_protocol_versions()
        .map_err(failed)?
        .with_no_client_auth()
        .with_cert_resolver(resolver);
    config.alpn_protocols = vec![alpn.to_vec()];
    Ok(Built { certified, config: Arc::new(config) })
}
