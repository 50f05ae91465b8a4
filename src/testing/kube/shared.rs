//! What the connections and the test share.

use std::sync::{Mutex, MutexGuard};

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

    /// For short, synchronous work; lock the script first where both are needed.
    pub(super) fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock().expect("no panic while locked")
    }

    pub(super) fn script(&self) -> MutexGuard<'_, Script> {
        self.script.lock().expect("no panic while locked")
    }

    /// Something changed that a test may wait for.
    pub(super) fn poke(&self) {
        self.moved.send_replace(());
    }
}
