//! What the admin port shows: readiness, the source, routes.

use std::time::Instant;

use tokio::sync::watch;

use crate::admin::{self, json};
use crate::clock;
use crate::gateway::Gateway;
use crate::model::{DnsName, ServiceKey};
use crate::routes::{Route, SharedTable, Steered};
use crate::zone::{self, Dump, ZoneConfig};

/// How the own source is doing.
#[derive(Debug, Clone)]
pub(super) struct SourceStatus {
    synced: bool,
    last_read: Instant,
    error: Option<String>,
}

impl SourceStatus {
    /// A source that was just read for the first time.
    pub(super) fn new(synced: bool) -> Self {
        Self { synced, last_read: clock::now(), error: None }
    }

    /// A change was read.
    pub(super) fn read(&mut self) {
        self.last_read = clock::now();
    }

    /// Everything was read.
    pub(super) fn synced(&mut self) {
        self.synced = true;
        self.read();
    }

    /// A change was refused.
    pub(super) fn failed(&mut self, error: String) {
        self.error = Some(error);
    }

    /// The last fault is mended.
    pub(super) fn recovered(&mut self) {
        self.error = None;
        self.read();
    }

    /// Seconds since it was last read without a fault; a source that is watched and whole is
    /// always current.
    fn age_seconds(&self, now: Instant) -> f64 {
        match self.error {
            Some(_) => now.saturating_duration_since(self.last_read).as_secs_f64(),
            None => 0.0,
        }
    }
}

/// The agent as the admin port sees it.
#[derive(Debug)]
pub(super) struct Status {
    pub(super) table: SharedTable,
    pub(super) zone: watch::Receiver<ZoneConfig>,
    pub(super) ready: watch::Receiver<bool>,
    pub(super) draining: watch::Receiver<bool>,
    pub(super) source: watch::Receiver<SourceStatus>,
    pub(super) source_kind: &'static str,
    pub(super) gateway: Gateway,
}

impl Status {
    fn zone_name(&self) -> DnsName {
        self.zone.borrow().zone.clone()
    }
}

impl admin::View for Status {
    fn ready(&self) -> bool {
        *self.ready.borrow() && !*self.draining.borrow()
    }

    fn live(&self) -> bool {
        true
    }

    fn resolve_name(&self, text: &str) -> Result<ServiceKey, String> {
        zone::parse_name(text, &self.zone_name())
            .map(|(key, _)| key)
            .map_err(|error| error.to_string())
    }

    fn state(&self) -> json::StateJson {
        let now = clock::now();
        let table = self.table.load_full();
        let zone = self.zone.borrow().clone();
        let source = self.source.borrow().clone();
        let source = json::SourceJson {
            kind: self.source_kind.to_owned(),
            synced: source.synced,
            age_seconds: source.age_seconds(now),
            error: source.error,
        };
        let dns = |route: &Route| zone::addresses(&table, &zone, &route.key);
        json::state(&table, zone.zone.clone(), source, self.drains(), dns, now)
    }

    fn drains(&self) -> Vec<json::DrainJson> {
        let table = self.table.load_full();
        let shown = |of: &Steered| json::drain(of, self.gateway.connections(&of.of));
        table.drains.iter().map(shown).collect()
    }

    fn zone(&self) -> Dump {
        Dump::new(&self.table.load_full(), &self.zone.borrow())
    }

    fn explain(&self, key: &ServiceKey) -> Option<json::ServiceJson> {
        let table = self.table.load_full();
        let zone = self.zone.borrow().clone();
        let route = table.services.get(key)?;
        Some(json::service(route, zone::addresses(&table, &zone, key), clock::now()))
    }
}
