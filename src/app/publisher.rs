//! Putting a route table in force, with all that is compiled from it.

use std::sync::Arc;

use super::settings;
use crate::config::Config;
use crate::dns;
use crate::routes::{RouteTable, SharedTable, TableWriter};

/// The only writer of the table and of the answers made from it.
#[derive(Debug)]
pub(super) struct Publisher {
    table: TableWriter,
    answers: dns::Compiler,
}

impl Publisher {
    /// A first table in force, and what reads it.
    pub(super) fn new(
        first: &RouteTable,
        config: &Config,
    ) -> (Self, SharedTable, dns::SharedAnswers) {
        let (zone, localities) = (&config.clusterset, settings::localities(config));
        let (compiler, answers) = dns::SharedAnswers::for_places(first, zone, localities);
        let (writer, table) = SharedTable::new(first.clone());
        (Self { table: writer, answers: compiler }, table, answers)
    }

    /// Puts a table in force, its answers first: a name is never known to `explain` alone.
    pub(super) fn publish(&mut self, table: Arc<RouteTable>) {
        self.answers.publish(&table);
        self.table.publish(table);
    }
}
