//! The own identity and the pinned bundles, kept current.
//!
//! Invariants: what is in force was good when it was read; a bad change leaves the last good in
//! force and says so; a bundle that was removed is out of force within 2 s.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use rand::RngExt;
use rustls::crypto::CryptoProvider;
use rustls_pki_types::CertificateDer;
use tokio::sync::watch;
use tokio::time::sleep;

use super::config::Config;
use super::error::Error;
use super::folder::{ContentHash, Folder, PeerFiles};
use super::identity::PeerIdentity;
use super::material::{Loaded, Material, Own, load_bundles, provider, warn_if_unvouched};
use super::metrics::Metrics;
use super::supply::Supply;
use super::verify::Bundles;
use crate::model::ClusterId;
use crate::{clock, drain};

/// Between looks at the folder: a change is in force within twice this.
const POLL: Duration = Duration::from_secs(1);
/// Between looks at the wall clock: never one long sleep, for clocks jump and machines sleep.
const CHECK: Duration = Duration::from_secs(30);
/// Without `ca.key`: how long before its leaf's end the operator is warned.
const WARN_BEFORE: Duration = Duration::from_secs(6 * 3600);
/// How far the moment of renewal is spread around half of the leaf's life.
const RENEW_SPREAD: f64 = 0.1;

/// A cheap handle on the own identity and the pinned bundles.
#[derive(Clone)]
pub struct Trust {
    shared: Arc<Shared>,
}

/// Where trust is read from.
#[derive(Debug)]
enum Source {
    /// The configured folder.
    Folder,
    /// Whoever watches it hands it over.
    Supply(watch::Receiver<Arc<Supply>>),
}

struct Shared {
    config: Config,
    source: Source,
    metrics: Metrics,
    provider: Arc<CryptoProvider>,
    material: ArcSwap<Material>,
    generation: watch::Sender<u64>,
    /// The folder's content as last looked at; locked while anything is put in force.
    seen: Mutex<ContentHash>,
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trust")
            .field("cluster", &self.shared.config.cluster)
            .field("dir", &self.shared.config.dir)
            .finish_non_exhaustive()
    }
}

impl Trust {
    /// Reads the folder; anything wrong in it refuses to start.
    ///
    /// # Errors
    /// Names the file, what is wrong with it and what to do.
    pub fn open(config: Config, metrics: Metrics) -> Result<Self, Error> {
        Self::new(config, Source::Folder, metrics)
    }

    /// Takes what is handed over, from its current value on; `config.dir` is not read and only
    /// what messages call the own identity. A later value is in force as soon as [`Trust::run`]
    /// has seen it, and what is bad in it leaves the last good in force.
    ///
    /// # Errors
    /// There is no usable identity yet. A bad bundle is said and left out: it is one peer's, and
    /// no reason to be without the others.
    pub fn supplied(
        config: Config,
        supply: watch::Receiver<Arc<Supply>>,
        metrics: Metrics,
    ) -> Result<Self, Error> {
        Self::new(config, Source::Supply(supply), metrics)
    }

    fn new(config: Config, source: Source, metrics: Metrics) -> Result<Self, Error> {
        let provider = provider();
        let folder = source.read(&config);
        let seen = Mutex::new(folder.hash());
        let files = folder.own?;
        let own = Own::load(&config, &files)?;
        warn_if_unvouched(&config, &files, &own, &provider);
        let files = folder.peers?.unwrap_or_default();
        let Loaded { bundles, problems } = load_bundles(&config, files, &Bundles::new(), &provider);
        for (path, problem) in problems {
            match source {
                Source::Folder => return Err(Error::invalid(&path, problem)),
                Source::Supply(_) => {
                    let path = path.display();
                    tracing::warn!(%path, problem, "bundle left out, that peer is not trusted");
                }
            }
        }
        let material = Material::build(&config, own, Arc::new(bundles), &provider)?;
        metrics.expires(&config.cluster, material.own.expires);
        let (generation, _) = watch::channel(1);
        let material = ArcSwap::from_pointee(material);
        let shared = Shared { config, source, metrics, provider, material, generation, seen };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Keeps it current until drain is forced: a changed folder is in force within 2 s, a new
    /// supply at once, the own leaf is renewed at half its life. Nothing that happens to the
    /// folder or the supplier ends it.
    pub async fn run(self, mut drain: drain::Watch) -> Result<(), Error> {
        let mut renewal = Renewal::plan(&self.shared.material.load().own);
        let mut checked: Option<Instant> = None;
        let mut news = self.shared.source.news();
        loop {
            // Before it is read: what comes in meanwhile is news again.
            if let Some(supply) = &mut news {
                supply.mark_unchanged();
            }
            let trust = self.clone();
            // File systems may hang; the runtime must not.
            // A panic in there is a reload that did not happen.
            let _changed = tokio::task::spawn_blocking(move || trust.reload()).await;
            let material = self.material();
            if material.own.certified.cert != renewal.leaf {
                renewal = Renewal::plan(&material.own);
                checked = None;
            }
            let now = clock::now();
            if checked.is_none_or(|last| now.duration_since(last) >= CHECK) {
                checked = Some(now);
                self.check(&mut renewal, clock::wall());
            }
            tokio::select! {
                () = sleep(POLL) => {}
                () = changed(&mut news) => {}
                () = drain.reached(drain::Phase::Forced) => return Ok(()),
            }
        }
    }

    /// The own cluster.
    #[must_use]
    pub fn cluster(&self) -> &ClusterId {
        &self.shared.config.cluster
    }

    /// Whether a bundle is pinned for that cluster.
    #[must_use]
    pub fn knows(&self, peer: &ClusterId) -> bool {
        self.shared.material.load().bundles.contains_key(peer)
    }

    /// Whether the bundle that verified this identity is still pinned, unchanged. Where not, its
    /// connections are closed: by their owners, who watch [`Trust::generation`].
    #[must_use]
    pub fn still_trusts(&self, peer: &PeerIdentity) -> bool {
        self.shared.material.load().holds(peer.cluster(), peer.bundle())
    }

    /// Waits until this identity is no longer good: its leaf has ended, or the trust in it.
    pub async fn lapsed(&self, peer: &PeerIdentity) {
        let mut generation = self.generation();
        while self.still_trusts(peer) {
            let Ok(left) = peer.expires().duration_since(clock::wall()) else { return };
            // Never one long sleep, for clocks jump; nor none at all at the very end.
            let pause = left.clamp(Duration::from_millis(10), CHECK);
            tokio::select! {
                () = sleep(pause) => {}
                Ok(()) = generation.changed() => {}
            }
        }
    }

    /// Rises when the bundles or the own leaf changed.
    #[must_use]
    pub fn generation(&self) -> watch::Receiver<u64> {
        self.shared.generation.subscribe()
    }

    /// When the own leaf expires (wall time).
    #[must_use]
    pub fn own_expiry(&self) -> SystemTime {
        self.shared.material.load().own.expires
    }

    /// Whether the own leaf is renewed here, from the key of its authority; else somebody else
    /// replaces it.
    #[must_use]
    pub fn renews(&self) -> bool {
        self.shared.material.load().own.authority.is_some()
    }

    /// Takes in what changed at the source, if anything did: whether it is in force now. `run`
    /// calls it every second.
    pub fn reload(&self) -> bool {
        let shared = &*self.shared;
        let mut seen = shared.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let folder = shared.source.read(&shared.config);
        let hash = folder.hash();
        if hash == *seen {
            return false;
        }
        *seen = hash;
        let before = shared.material.load_full();
        let own = folder
            .own
            .and_then(|files| {
                let own = Own::reload(&shared.config, &files, &before.own)?;
                warn_if_unvouched(&shared.config, &files, &own, &shared.provider);
                Ok(own)
            })
            .unwrap_or_else(|error| {
                tracing::warn!(%error, "own identity not reloaded, the last good one stays");
                before.own.clone()
            });
        let bundles = match folder.peers {
            Ok(Some(files)) => self.reload_bundles(files, &before.bundles),
            Ok(None) if before.bundles.is_empty() => Arc::clone(&before.bundles),
            Ok(None) => {
                let dir = shared.config.dir.display();
                tracing::warn!(%dir, "peers/ is gone, the last good bundles stay; restore it");
                Arc::clone(&before.bundles)
            }
            Err(error) => {
                tracing::warn!(%error, "bundles not reloaded, the last good ones stay");
                Arc::clone(&before.bundles)
            }
        };
        self.publish(own, bundles)
    }

    fn reload_bundles(&self, files: PeerFiles, before: &Bundles) -> Arc<Bundles> {
        let shared = &*self.shared;
        let loaded = load_bundles(&shared.config, files, before, &shared.provider);
        for (path, problem) in loaded.problems {
            let path = path.display();
            tracing::warn!(%path, problem, "bundle not reloaded, the last good one stays");
        }
        Arc::new(loaded.bundles)
    }

    /// Puts a leaf and bundles in force, where they differ from those that are.
    fn publish(&self, own: Own, bundles: Arc<Bundles>) -> bool {
        let shared = &*self.shared;
        let before = shared.material.load_full();
        let same_leaf = own.certified.cert == before.own.certified.cert;
        let fingerprint = |own: &Own| own.bundle.as_ref().map(|bundle| bundle.fingerprint);
        let same_own = same_leaf && fingerprint(&own) == fingerprint(&before.own);
        if same_own && same(&bundles, &before.bundles) {
            return false;
        }
        match Material::build(&shared.config, own, bundles, &shared.provider) {
            Ok(material) => {
                for cluster in before.bundles.keys() {
                    if !material.bundles.contains_key(cluster) {
                        tracing::info!(peer = %cluster, "no longer trusted: its bundle was removed");
                        shared.metrics.forget(cluster);
                    }
                }
                for cluster in material.bundles.keys() {
                    if !before.bundles.contains_key(cluster) {
                        tracing::info!(peer = %cluster, "trusted from now on");
                    }
                }
                shared.metrics.expires(&shared.config.cluster, material.own.expires);
                shared.material.store(Arc::new(material));
                shared.generation.send_modify(|generation| *generation += 1);
                true
            }
            Err(error) => {
                tracing::warn!(%error, "trust not reloaded; the last good stays");
                false
            }
        }
    }

    /// Renews the own leaf when it is due; without its authority's key warns before its end.
    fn check(&self, renewal: &mut Renewal, now: SystemTime) {
        let shared = &*self.shared;
        let _writing = shared.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let before = shared.material.load_full();
        let own = &before.own;
        let Some(authority) = &own.authority else {
            return renewal.warn(own.expires, now);
        };
        // Before its begin: the clock was set back since it was issued.
        if now < renewal.at && now >= own.begins {
            return;
        }
        match Own::issue(&shared.config, authority.clone(), own.bundle.clone()) {
            Ok(fresh) => {
                tracing::info!("own certificate renewed");
                *renewal = Renewal::plan(&fresh);
                self.publish(fresh, Arc::clone(&before.bundles));
            }
            Err(error) => tracing::warn!(%error, "own certificate not renewed; trying again"),
        }
    }

    pub(super) fn material(&self) -> Arc<Material> {
        self.shared.material.load_full()
    }

    pub(super) fn metrics(&self) -> &Metrics {
        &self.shared.metrics
    }
}

impl Source {
    fn read(&self, config: &Config) -> Folder {
        match self {
            Self::Folder => Folder::read(&config.dir),
            Self::Supply(supply) => {
                let supply = Arc::clone(&supply.borrow());
                supply.read(&config.dir)
            }
        }
    }

    /// What says that there is something new; a folder says nothing.
    fn news(&self) -> Option<watch::Receiver<Arc<Supply>>> {
        match self {
            Self::Folder => None,
            Self::Supply(supply) => Some(supply.clone()),
        }
    }
}

/// Waits for the next supply; without a supplier for ever.
async fn changed(news: &mut Option<watch::Receiver<Arc<Supply>>>) {
    if let Some(supply) = news
        && supply.changed().await.is_ok()
    {
        return;
    }
    // A supplier that is gone changes nothing any more; what it gave last stays.
    *news = None;
    std::future::pending().await
}

/// Whether two sets of bundles trust the same.
fn same(left: &Bundles, right: &Bundles) -> bool {
    left.len() == right.len()
        && left.iter().zip(right).all(|(a, b)| a.0 == b.0 && a.1.fingerprint == b.1.fingerprint)
}

/// When the own leaf is to be renewed, or what was said about it.
#[derive(Debug)]
struct Renewal {
    leaf: Vec<CertificateDer<'static>>,
    at: SystemTime,
    warned: Option<Warned>,
}

/// The last thing said about a leaf that nobody here can renew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Warned {
    Soon,
    Expired,
}

impl Renewal {
    /// Half of the life ± 10 %, so that replicas started together do not renew together.
    fn plan(own: &Own) -> Self {
        let life = own.expires.duration_since(own.begins).unwrap_or_default();
        let spread = rand::rng().random_range(1.0 - RENEW_SPREAD..=1.0 + RENEW_SPREAD);
        let at = own.begins + life.mul_f64(0.5 * spread);
        Self { leaf: own.certified.cert.clone(), at, warned: None }
    }

    /// Says once that the end is near, and once that it came.
    fn warn(&mut self, expires: SystemTime, now: SystemTime) {
        let left = expires.duration_since(now).ok();
        let due = match left {
            Some(left) if left > WARN_BEFORE => None,
            Some(_) => Some(Warned::Soon),
            None => Some(Warned::Expired),
        };
        if due == self.warned {
            return;
        }
        self.warned = due;
        match due {
            None => {}
            Some(Warned::Soon) => tracing::warn!(
                minutes = left.unwrap_or_default().as_secs() / 60,
                "own certificate expires soon and nothing here renews it; replace it and its key, \
                 or give the authority's key"
            ),
            Some(Warned::Expired) => tracing::error!(
                "own certificate has expired, peers refuse it; replace it and its key"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::trust::{Leaf, init, open};

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn s01_renewal_is_at_half_of_the_leaf_s_life_give_or_take_a_tenth() {
        let dir = tempfile::tempdir().unwrap();
        init(dir.path(), "paris");
        let (trust, _) = open(dir.path(), "paris");
        let own = trust.material().own.clone();
        let life = own.expires.duration_since(own.begins).unwrap();
        let moments: Vec<_> = (0..200).map(|_| Renewal::plan(&own).at).collect();
        for at in &moments {
            let share = at.duration_since(own.begins).unwrap().as_secs_f64() / life.as_secs_f64();
            assert!((0.449..=0.551).contains(&share), "{share}");
        }
        let spread = moments.iter().max().unwrap().duration_since(*moments.iter().min().unwrap());
        assert!(spread.unwrap() > HOUR);
    }

    #[test]
    fn s01_the_wall_clock_renews_also_when_it_jumped() {
        let dir = tempfile::tempdir().unwrap();
        init(dir.path(), "paris");
        let (trust, _) = open(dir.path(), "paris");
        let generation = trust.generation();
        let now = clock::wall();
        let mut renewal = Renewal::plan(&trust.material().own);
        trust.check(&mut renewal, now);
        trust.check(&mut renewal, now + 10 * HOUR);
        assert!(!generation.has_changed().unwrap(), "not yet due");
        for jump in [now + 14 * HOUR, now + 400 * HOUR, now - HOUR] {
            let before = trust.material().own.certified.cert.clone();
            trust.check(&mut renewal, jump);
            assert_ne!(trust.material().own.certified.cert, before);
        }
        assert_eq!(*generation.borrow(), 4);
    }

    #[test]
    fn s01_without_an_authority_s_key_the_end_is_announced_once() {
        let dir = tempfile::tempdir().unwrap();
        init(dir.path(), "paris");
        Leaf::of("paris").signed_by(dir.path()).install(dir.path());
        let (trust, _) = open(dir.path(), "paris");
        let before = trust.material().own.certified.cert.clone();
        let expires = trust.own_expiry();
        let mut renewal = Renewal::plan(&trust.material().own);
        let mut said = Vec::new();
        for left in [7, 6, 5, 1] {
            trust.check(&mut renewal, expires - left * HOUR);
            said.push(renewal.warned);
        }
        trust.check(&mut renewal, expires + HOUR);
        said.push(renewal.warned);
        let soon = Some(Warned::Soon);
        assert_eq!(said, [None, soon, soon, soon, Some(Warned::Expired)]);
        assert_eq!(trust.material().own.certified.cert, before);
    }
}
