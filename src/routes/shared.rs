//! One table, one swap, one writer.

use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};

use super::RouteTable;

/// A reader's handle. Load once per request (once per batch in DNS) and never hold the guard
/// across an await.
#[derive(Debug, Clone)]
pub struct SharedTable(Arc<ArcSwap<RouteTable>>);

/// The only writer; not `Clone` on purpose.
#[derive(Debug)]
pub struct TableWriter(Arc<ArcSwap<RouteTable>>);

impl SharedTable {
    /// A table in force from now on, with its one writer.
    #[must_use]
    pub fn new(first: RouteTable) -> (TableWriter, Self) {
        let swap = Arc::new(ArcSwap::from_pointee(first));
        (TableWriter(Arc::clone(&swap)), Self(swap))
    }

    /// The table in force now.
    #[must_use]
    pub fn load(&self) -> Guard<Arc<RouteTable>> {
        self.0.load()
    }

    /// The table in force now, to keep across an await.
    #[must_use]
    pub fn load_full(&self) -> Arc<RouteTable> {
        self.0.load_full()
    }
}

impl TableWriter {
    /// Puts a table in force.
    pub fn publish(&mut self, table: Arc<RouteTable>) {
        self.0.store(table);
    }
}
