//! Which entries of the directory changed, as the kernel tells it.
//!
//! Names collect in one bounded set until they are taken, so that a slow reader costs no memory:
//! too many of them become "look at everything". Where the kernel gives no watch, the caller
//! looks at everything at short intervals instead.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use notify::event::{AccessKind, AccessMode, CreateKind, ModifyKind};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::Notify;

use super::directory::{Work, is_manifest};

/// More changed names than this at once are a look at everything.
const MAX_NAMES: usize = 4_096;
/// Whether the kernel says that a writer has closed its file; elsewhere every write counts.
const TELLS_CLOSE: bool = cfg!(target_os = "linux");

/// What changed since it was last taken.
#[derive(Debug, Default)]
pub(super) struct Pending {
    work: Mutex<Work>,
    some: Notify,
}

impl Pending {
    /// Waits until there is something to take.
    pub(super) async fn some(&self) {
        self.some.notified().await;
    }

    /// Takes it all.
    pub(super) fn take(&self) -> Work {
        std::mem::take(&mut *self.lock())
    }

    fn put(&self, name: Option<OsString>) {
        let mut work = self.lock();
        match name {
            Some(name) if work.names.len() < MAX_NAMES => _ = work.names.insert(name),
            _ => work.all = true,
        }
        drop(work);
        self.some.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, Work> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The watch over the directory, and over its parent for the case that the directory itself is
/// replaced.
#[derive(Debug)]
pub(super) struct DirWatch {
    dir: PathBuf,
    watcher: Option<RecommendedWatcher>,
    /// Device and inode of what is watched: another directory may have taken the name.
    watched: Option<(u64, u64)>,
    pending: Arc<Pending>,
}

impl DirWatch {
    /// Watches `dir`, an absolute path. When the kernel refuses, the reason is logged and
    /// [`DirWatch::is_live`] is false.
    pub(super) fn new(dir: PathBuf) -> Self {
        let pending = Arc::new(Pending::default());
        let told = (Arc::clone(&pending), dir.clone());
        let watcher = notify::recommended_watcher(move |event| tell(&told.0, &told.1, event));
        let mut watch = Self { dir, watcher: None, watched: None, pending };
        match watcher {
            Ok(watcher) => watch.watcher = Some(watcher),
            Err(error) => watch.refused(&error),
        }
        if let (Some(watcher), Some(parent)) = (&mut watch.watcher, watch.dir.parent()) {
            // Without it a replaced directory is noticed at the next regular look.
            if let Err(error) = watcher.watch(parent, RecursiveMode::NonRecursive) {
                tracing::debug!(%error, dir = %parent.display(), "the parent directory is not watched");
            }
        }
        watch.renew();
        watch
    }

    /// Whether changes are told.
    pub(super) fn is_live(&self) -> bool {
        self.watched.is_some()
    }

    /// What changed.
    pub(super) fn pending(&self) -> Arc<Pending> {
        Arc::clone(&self.pending)
    }

    /// Watches what stands under the directory's name now, if it is not what is watched.
    pub(super) fn renew(&mut self) {
        let now = fs::metadata(&self.dir).ok().map(|found| (found.dev(), found.ino()));
        if now == self.watched {
            return;
        }
        let Some(watcher) = &mut self.watcher else { return };
        if self.watched.take().is_some() {
            // The kernel may have dropped the watch with the directory; then there is none.
            let _gone = watcher.unwatch(&self.dir);
        }
        if now.is_some() {
            match watcher.watch(&self.dir, RecursiveMode::NonRecursive) {
                Ok(()) => self.watched = now,
                Err(error) => self.refused(&error),
            }
        }
    }

    fn refused(&self, error: &notify::Error) {
        tracing::warn!(
            %error,
            dir = %self.dir.display(),
            "the directory cannot be watched and is read every second instead; raise fs.inotify.max_user_instances and max_user_watches"
        );
    }
}

/// Turns one event of the kernel into names.
fn tell(pending: &Pending, dir: &Path, event: notify::Result<Event>) {
    let Ok(event) = event else { return pending.put(None) };
    if event.need_rescan() {
        return pending.put(None);
    }
    if !matters(event.kind) {
        return;
    }
    for path in &event.paths {
        if path == dir {
            // The directory itself was moved, removed or replaced.
            pending.put(None);
        } else if let Some(name) = path.file_name()
            && path.parent() == Some(dir)
        {
            if is_manifest(name) {
                if !is_unfinished(event.kind, path) {
                    pending.put(Some(name.to_owned()));
                }
            } else if is_way_to_manifests(path) {
                pending.put(None);
            }
        }
    }
}

/// Whether an event of this kind can change what a file holds.
fn matters(kind: EventKind) -> bool {
    match kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => true,
        EventKind::Access(_) => false,
        EventKind::Modify(ModifyKind::Data(_)) => !TELLS_CLOSE,
        // Permissions: an unreadable file may have become readable.
        EventKind::Modify(_)
        | EventKind::Any
        | EventKind::Create(_)
        | EventKind::Remove(_)
        | EventKind::Other => true,
    }
}

/// A file that was just created is still being written; its close is told too. Links come into
/// being whole.
fn is_unfinished(kind: EventKind, path: &Path) -> bool {
    let created = matches!(kind, EventKind::Create(CreateKind::File | CreateKind::Any));
    TELLS_CLOSE
        && created
        && fs::symlink_metadata(path).is_ok_and(|found| found.is_file() && found.nlink() == 1)
}

/// Links and directories may be what the manifests' own links lead through, as `..data` is in a
/// volume that Kubernetes mounts: swapping it changes every file. Other entries (an editor's
/// temporary files) are nothing.
fn is_way_to_manifests(path: &Path) -> bool {
    match fs::symlink_metadata(path) {
        Ok(found) => found.is_symlink() || found.is_dir(),
        Err(_) => path.file_name().is_some_and(|name| name == "..data"),
    }
}
