//! What the connections and the test share.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::script::Script;
use super::store::Store;

/// Everything behind the listener.
#[derive(Debug)]
pub(super) struct Shared {
    store: Mutex<Store>,
    script: Mutex<Script>,
    /// Poked at every change of what a test may wait for.
    pub(super) moved: watch::Sender<()>,
}

impl Shared {
    pub(super) fn new(store: Store) -> Self {
        Self {
            store: Mutex::new(store),
            script: Mutex::new(Script::default()),
            moved: watch::Sender::new(()),
        }
    }

    /// For short, synchronous work; never both at once.
    ///
    /// A test that panics inside has said why; its connections must not panic in its way.
    pub(super) fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn script(&self) -> MutexGuard<'_, Script> {
        self.script.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something changed that a test may wait for.
    pub(super) fn poke(&self) {
        self.moved.send_replace(());
    }
}
