//! What a changed file changes while running.
//!
//! `peers`, `locality`, `dns.ttl` and `log.filter` apply live; whatever else differs is named as
//! needing a restart, and the running value stays. A file that is faulty, half written or gone
//! changes nothing: the configuration in force stays, and the reason is logged and kept.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::{Config, Errors, Problem, load};
use crate::drain;

/// How often the file is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A changed file is taken when it has stood still this long: writers are seldom atomic.
const SETTLE: Duration = Duration::from_millis(100);

/// A part of the configuration that applies without a restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Live {
    /// `peers`.
    Peers,
    /// `locality`.
    Locality,
    /// `dns.ttl`.
    DnsTtl,
    /// `log.filter`.
    LogFilter,
}

impl Live {
    /// The key in the file.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Peers => "peers",
            Self::Locality => "locality",
            Self::DnsTtl => "dns.ttl",
            Self::LogFilter => "log.filter",
        }
    }
}

/// How two configurations differ.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Change {
    /// What applies at once.
    pub live: Vec<Live>,
    /// The keys that need a restart.
    pub restart: Vec<&'static str>,
}

impl Change {
    /// Nothing differs.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.live.is_empty() && self.restart.is_empty()
    }
}

/// Compares the configuration in force with the file's.
#[must_use]
pub fn changes(old: &Config, new: &Config) -> Change {
    let restart = [
        ("cluster", old.cluster == new.cluster),
        ("clusterset", old.clusterset == new.clusterset),
        ("network", old.network == new.network),
        ("source", old.source == new.source),
        ("state.dir", old.state_dir == new.state_dir),
        ("vips", old.vips == new.vips),
        ("gateway.listen", old.gateway.listen == new.gateway.listen),
        ("gateway.advertise", old.gateway.advertise == new.gateway.advertise),
        ("gateway.outbound", old.gateway.outbound == new.gateway.outbound),
        ("gateway.congestion", old.gateway.congestion == new.gateway.congestion),
        ("gateway.drain", old.gateway.drain == new.gateway.drain),
        ("gateway.shutdown_delay", old.gateway.shutdown_delay == new.gateway.shutdown_delay),
        ("dns.listen", old.dns.listen == new.dns.listen),
        ("dns.io", old.dns.io == new.dns.io),
        ("dns.allow", old.dns.allow == new.dns.allow),
        ("dns.forwarders", old.dns.forwarders == new.dns.forwarders),
        ("dns.localities", old.dns.localities == new.dns.localities),
        ("dns.tcp_per_source", old.dns.tcp_per_source == new.dns.tcp_per_source),
        ("dns.tcp_total", old.dns.tcp_total == new.dns.tcp_total),
        ("dns.tls_listen", old.dns.tls.listen == new.dns.tls.listen),
        ("dns.tls_certificate", old.dns.tls.files == new.dns.tls.files),
        ("dns.shutdown_delay", old.dns.shutdown_delay == new.dns.shutdown_delay),
        ("admin.listen", old.admin.listen == new.admin.listen),
        ("admin.probes", old.admin.probes == new.admin.probes),
        ("trust.dir", old.trust_dir == new.trust_dir),
        ("log.format", old.log.format == new.log.format),
    ];
    let live = [
        (Live::Peers, old.peers == new.peers),
        (Live::Locality, old.locality == new.locality),
        (Live::DnsTtl, old.dns.ttl == new.dns.ttl),
        (Live::LogFilter, old.log.filter == new.log.filter),
    ];
    Change {
        live: live.into_iter().filter(|(_, same)| !same).map(|(part, _)| part).collect(),
        restart: restart.into_iter().filter(|(_, same)| !same).map(|(key, _)| key).collect(),
    }
}

/// The configuration in force after the live parts of `new` were taken into `old`.
#[must_use]
fn applied(old: &Config, new: &Config) -> Config {
    let mut config = old.clone();
    config.peers.clone_from(&new.peers);
    config.locality.clone_from(&new.locality);
    config.dns.ttl = new.dns.ttl;
    config.log.filter.clone_from(&new.log.filter);
    config
}

/// How the file stands to what is in force.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Status {
    /// How many changes were taken since start.
    pub generation: u64,
    /// Why the file as it stands now is not in force, all faults.
    pub error: Option<Arc<str>>,
    /// Keys of the file that differ from what runs until a restart.
    pub restart: Vec<&'static str>,
}

/// What a look at the file came to.
#[derive(Debug, PartialEq)]
enum Outcome {
    /// The file is as it was at the last look.
    Unchanged,
    /// It differs, and the configuration in force does not change by it.
    Kept(Change),
    /// It is faulty; what was in force stays.
    Refused(Errors),
    /// Its live parts are in force now.
    Taken(Change),
}

/// The decisions of a reload, without the file.
#[derive(Debug)]
struct Reload {
    path: PathBuf,
    in_force: Arc<Config>,
    seen: Option<Result<String, Problem>>,
    status: Status,
}

impl Reload {
    fn new(path: PathBuf, in_force: Arc<Config>) -> Self {
        Self { path, in_force, seen: None, status: Status::default() }
    }

    /// Judges what the file holds now; the same content is judged once.
    fn consider(&mut self, content: Result<String, Problem>) -> Outcome {
        if self.seen.as_ref() == Some(&content) {
            return Outcome::Unchanged;
        }
        self.seen = Some(content.clone());
        let parsed = content
            .map_err(|problem| Errors::new(&self.path, vec![problem]))
            .and_then(|source| Config::parse(&source, &self.path));
        let new = match parsed {
            Ok(new) => new,
            Err(errors) => {
                self.status.error = Some(errors.to_string().into());
                return Outcome::Refused(errors);
            }
        };
        let change = changes(&self.in_force, &new);
        self.status.error = None;
        self.status.restart.clone_from(&change.restart);
        // The peers of a file were checked against its own `cluster`; under another name they
        // may hold ourselves.
        if change.live.is_empty() || new.cluster != self.in_force.cluster {
            return Outcome::Kept(change);
        }
        self.in_force = Arc::new(applied(&self.in_force, &new));
        self.status.generation += 1;
        Outcome::Taken(change)
    }
}

/// Watches the file.
#[derive(Debug)]
pub struct Watcher {
    reload: Reload,
    configs: watch::Sender<Arc<Config>>,
    status: watch::Sender<Status>,
}

/// What the watcher finds.
#[derive(Debug, Clone)]
pub struct Watched {
    /// The configuration in force: the one given at start with the live parts of the file.
    pub configs: watch::Receiver<Arc<Config>>,
    /// How the file stands to it.
    pub status: watch::Receiver<Status>,
}

/// A watcher of `path`, from which `in_force` was loaded; the caller runs it.
#[must_use]
pub fn watch(path: PathBuf, in_force: Arc<Config>) -> (Watcher, Watched) {
    let (configs, seen_configs) = watch::channel(Arc::clone(&in_force));
    let (status, seen_status) = watch::channel(Status::default());
    let watcher = Watcher { reload: Reload::new(path, in_force), configs, status };
    (watcher, Watched { configs: seen_configs, status: seen_status })
}

impl Watcher {
    /// Looks at the file until shutdown begins.
    pub async fn run(mut self, mut drain: drain::Watch) {
        let mut ticks = tokio::time::interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => self.look().await,
                () = drain.reached(drain::Phase::Announced) => return,
            }
        }
    }

    async fn look(&mut self) {
        let content = self.read().await;
        if self.reload.seen.as_ref() == Some(&content) {
            return;
        }
        tokio::time::sleep(SETTLE).await;
        if self.read().await != content {
            // Still being written: the next look takes it.
            return;
        }
        let outcome = self.reload.consider(content);
        log(&self.reload, &outcome);
        if outcome == Outcome::Unchanged {
            return;
        }
        self.status.send_replace(self.reload.status.clone());
        if matches!(outcome, Outcome::Taken(_)) {
            self.configs.send_replace(Arc::clone(&self.reload.in_force));
        }
    }

    async fn read(&self) -> Result<String, Problem> {
        let path = self.reload.path.clone();
        let reading = tokio::task::spawn_blocking(move || load::read(&path)).await;
        reading.unwrap_or_else(|e| Err(Problem::new(None, "", format!("not read: {e}"))))
    }
}

fn log(reload: &Reload, outcome: &Outcome) {
    let file = reload.path.display();
    let change = match outcome {
        Outcome::Unchanged => return,
        Outcome::Refused(errors) => {
            tracing::warn!(%errors, "the changed configuration is faulty; the old one stays");
            return;
        }
        Outcome::Kept(change) if change.is_empty() => return,
        Outcome::Kept(change) => change,
        Outcome::Taken(change) => {
            let live: Vec<_> = change.live.iter().map(|part| part.as_str()).collect();
            tracing::info!(%file, changed = live.join(", "), "configuration taken");
            change
        }
    };
    if !change.restart.is_empty() {
        let keys = change.restart.join(", ");
        tracing::warn!(%file, keys, "restart needed: these keys do not change while running");
    }
}

#[cfg(test)]
mod tests;
