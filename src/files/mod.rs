//! The source that reads a directory of Kubernetes manifests.
//!
//! Every `*.yaml`, `*.yml` and `*.json` directly in the directory (not in its subdirectories, not
//! hidden ones) is read: many documents per file, lists unpacked, of the kinds Service,
//! EndpointSlice (`discovery.k8s.io/v1`) and ServiceExport (`multicluster.x-k8s.io`); others are
//! passed over. Every namespace counts as existing, and a missing `creationTimestamp` is the epoch.
//!
//! Invariants: only changed files are read again, of those only changed documents are parsed,
//! and only changed objects are reported. A file that goes bad keeps its last good objects until
//! its next good state, or until it is removed. Of an object defined twice the first counts, by
//! file name and then by place in the file; the other is reported. A change is taken when its
//! writer closes or renames the file; a link's target outside the directory is looked at every
//! [`RESCAN`].
//!
//! Not here: what the objects mean (`catalog`). All file access is on the blocking pool.

mod directory;
mod document;
mod manifest;
mod object;
mod spread;
mod watch;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use prometheus::{IntCounterVec, Opts};
use thiserror::Error as ThisError;
use tokio::sync::mpsc;
use tokio::time::{Interval, MissedTickBehavior, interval, sleep};

use self::directory::{Directory, Work};
use self::document::{MAX_FILE_BYTES, Mistake};
use self::watch::DirWatch;
use crate::catalog::{SourceEvent, SourceUpdate};
use crate::drain::{Phase, Watch};

/// How often the directory is looked at whatever the kernel tells.
pub const RESCAN: Duration = Duration::from_secs(30);
/// How often where the kernel tells nothing.
const RESCAN_UNWATCHED: Duration = Duration::from_secs(1);
/// How long changes collect before they are read: one save is several events, one deployment
/// several files.
const DEBOUNCE: Duration = Duration::from_millis(25);
/// Most troubles that one text names.
const MAX_NAMED: usize = 10;

/// Where the manifests are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The directory; it must exist.
    pub dir: PathBuf,
}

/// Why the source could not be opened, or ended.
#[derive(Debug, ThisError)]
pub enum Error {
    /// The directory cannot be read, or files in it cannot be read or understood.
    #[error("{}", listed(.0))]
    Refused(Vec<Trouble>),
    /// A defect of ours: the reading task panicked.
    #[error("the task that reads the manifests failed: {0}; please report this")]
    Reader(#[from] tokio::task::JoinError),
}

/// What kind of trouble, for the metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The directory or a file cannot be read.
    Read,
    /// A file is not understood.
    Parse,
    /// A file is over its cap.
    TooLarge,
    /// An object is defined twice.
    Duplicate,
}

impl Reason {
    /// The metric's label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Parse => "parse",
            Self::TooLarge => "too_large",
            Self::Duplicate => "duplicate",
        }
    }
}

/// One thing that is wrong with the directory: where, what, and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// What kind of trouble.
    pub reason: Reason,
    /// The file, or the directory itself.
    pub path: PathBuf,
    /// The line, from 1, where known.
    pub line: Option<usize>,
    /// The column, from 1, where known.
    pub column: Option<usize>,
    /// What is wrong and what to do.
    pub what: String,
}

impl Trouble {
    fn io(path: &Path, error: &io::Error) -> Self {
        let what = format!("cannot be read: {error}; make it readable or remove it");
        Self { reason: Reason::Read, path: path.into(), line: None, column: None, what }
    }

    fn dir(path: &Path, error: &io::Error) -> Self {
        let what =
            format!("cannot be listed: {error}; make the directory or correct 'source.files'");
        Self { what, ..Self::io(path, error) }
    }

    fn too_large(path: &Path) -> Self {
        let what =
            format!("is larger than the {} MiB that are read; split it", MAX_FILE_BYTES >> 20);
        Self { reason: Reason::TooLarge, path: path.into(), line: None, column: None, what }
    }

    fn mistake(reason: Reason, path: &Path, mistake: &Mistake) -> Self {
        Self {
            reason,
            path: path.into(),
            line: Some(mistake.line),
            column: mistake.column,
            what: mistake.what.clone(),
        }
    }
}

impl fmt::Display for Trouble {
    /// `file:line:column: what`, as compilers write it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path.display())?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
            if let Some(column) = self.column {
                write!(f, ":{column}")?;
            }
        }
        write!(f, ": {}", self.what)
    }
}

fn listed(troubles: &[Trouble]) -> String {
    let mut lines: Vec<String> = troubles.iter().take(MAX_NAMED).map(Trouble::to_string).collect();
    if let Some(more) = troubles.len().checked_sub(MAX_NAMED).filter(|more| *more > 0) {
        lines.push(format!("and {more} more"));
    }
    lines.join("\n")
}

/// What the source counts.
#[derive(Debug, Clone)]
pub struct Metrics {
    errors: IntCounterVec,
}

impl Metrics {
    /// Registers the metrics of this source.
    pub fn register(registry: &prometheus::Registry) -> Result<Self, prometheus::Error> {
        let errors = IntCounterVec::new(
            Opts::new("portolan_source_errors_total", "Troubles met in the own source, by reason"),
            &["reason"],
        )?;
        for reason in [Reason::Read, Reason::Parse, Reason::TooLarge, Reason::Duplicate] {
            errors.with_label_values(&[reason.as_str()]);
        }
        registry.register(Box::new(errors.clone()))?;
        Ok(Self { errors })
    }
}

/// An open directory of manifests.
#[derive(Debug)]
pub struct Source {
    watch: DirWatch,
    directory: Directory,
    /// What was wrong at the last look.
    troubles: Vec<Trouble>,
    metrics: Option<Metrics>,
}

impl Source {
    /// Reads the directory (this blocks: at start only, or on the blocking pool) and returns its
    /// objects. What cannot be read or understood refuses; a double definition is only reported.
    /// Changes from now on are noticed.
    pub fn open(config: Config) -> Result<(Self, Vec<SourceEvent>), Error> {
        let dir = std::path::absolute(&config.dir)
            .map_err(|error| Error::Refused(vec![Trouble::dir(&config.dir, &error)]))?;
        // Watching first: a change while we read is then seen as one.
        let watch = DirWatch::new(dir.clone());
        let mut directory = Directory::new(dir);
        let events = directory.refresh(Work { all: true, ..Work::default() });
        let refused = directory.troubles();
        let fatal: Vec<Trouble> =
            refused.into_iter().filter(|trouble| trouble.reason != Reason::Duplicate).collect();
        if !fatal.is_empty() {
            return Err(Error::Refused(fatal));
        }
        let (files, objects) = directory.counts();
        tracing::info!(files, objects, dir = %config.dir.display(), "manifests read");
        Ok((Self { watch, directory, troubles: Vec::new(), metrics: None }, events))
    }

    /// Counts troubles from now on.
    #[must_use]
    pub fn with_metrics(mut self, metrics: Metrics) -> Self {
        self.metrics = Some(metrics);
        self
    }

    /// Reports [`SourceUpdate::Synced`] and then every change until the drain begins or nobody
    /// listens any more.
    pub async fn run(
        mut self,
        updates: mpsc::Sender<SourceUpdate>,
        mut drain: Watch,
    ) -> Result<(), Error> {
        let pending = self.watch.pending();
        let mut regular = regular(&self.watch);
        let mut news = vec![SourceUpdate::Synced];
        news.extend(self.report());
        loop {
            for update in news.drain(..) {
                tokio::select! {
                    sent = updates.send(update) => if sent.is_err() { return Ok(()) },
                    () = drain.reached(Phase::Draining) => return Ok(()),
                }
            }
            let mut work = tokio::select! {
                () = pending.some() => {
                    sleep(DEBOUNCE).await;
                    pending.take()
                }
                _ = regular.tick() => Work { all: true, ..pending.take() },
                () = updates.closed() => return Ok(()),
                () = drain.reached(Phase::Draining) => return Ok(()),
            };
            work.all |= !self.watch.is_live();
            let watched = self.watch.is_live();
            (self, news) = tokio::task::spawn_blocking(move || {
                let news = self.look(work);
                (self, news)
            })
            .await?;
            if self.watch.is_live() != watched {
                regular = self::regular(&self.watch);
            }
        }
    }

    /// Looks again; blocks.
    fn look(&mut self, work: Work) -> Vec<SourceUpdate> {
        if work.all {
            self.watch.renew();
        }
        let events = self.directory.refresh(work);
        let mut news = Vec::new();
        if !events.is_empty() {
            tracing::info!(objects = events.len(), "manifests changed");
            news.push(SourceUpdate::Changed(events));
        }
        news.extend(self.report());
        news
    }

    /// What to say of the troubles, if they are others than at the last look.
    fn report(&mut self) -> Option<SourceUpdate> {
        let troubles = self.directory.troubles();
        if troubles == self.troubles {
            return None;
        }
        for trouble in troubles.iter().filter(|trouble| !self.troubles.contains(trouble)) {
            tracing::warn!(reason = trouble.reason.as_str(), "{trouble}");
            if let Some(metrics) = &self.metrics {
                metrics.errors.with_label_values(&[trouble.reason.as_str()]).inc();
            }
        }
        self.troubles = troubles;
        if self.troubles.is_empty() {
            tracing::info!("every manifest is good again");
            return Some(SourceUpdate::Recovered);
        }
        let away = self.troubles.iter().any(|trouble| trouble.reason == Reason::Read);
        Some(SourceUpdate::Failed { error: listed(&self.troubles), away })
    }
}

/// Ticks when the whole directory is to be looked at.
fn regular(watch: &DirWatch) -> Interval {
    let period = if watch.is_live() { RESCAN } else { RESCAN_UNWATCHED };
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // The directory has just been read, under watch.
    ticks.reset();
    ticks
}

#[cfg(test)]
mod tests;
