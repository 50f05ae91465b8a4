//! What the admin port shows: readiness, the source, routes.

use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::admin::{self, json};
use crate::clock;
use crate::gateway::Gateway;
use crate::model::{DnsName, ServiceKey};
use crate::routes::{Route, SharedTable, Steered};
use crate::zone::{self, Dump, ZoneConfig};

/// A source that is away for less is no matter: watches are begun anew all the time.
const AWAY_PATIENCE: Duration = Duration::from_secs(10);

/// How the own source is doing.
#[derive(Debug, Clone)]
pub(super) struct SourceStatus {
    synced: bool,
    last_read: Instant,
    error: Option<String>,
    /// Since when it cannot be read.
    away: Option<Instant>,
}

impl SourceStatus {
    /// A source that was just read for the first time.
    pub(super) fn new(synced: bool) -> Self {
        Self { synced, last_read: clock::now(), error: None, away: None }
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

    /// A change was refused, or nothing can be read.
    pub(super) fn failed(&mut self, error: String, away: bool) {
        self.error = Some(error);
        self.away = away.then(|| self.away.unwrap_or_else(clock::now));
    }

    /// The last fault is mended.
    pub(super) fn recovered(&mut self) {
        self.error = None;
        self.away = None;
        self.read();
    }

    /// From when on what is known of it is out of date; `None` while it is current. What an
    /// earlier run knew is so at once, until everything was read; else a source may be away for
    /// [`AWAY_PATIENCE`].
    pub(super) fn stale_from(&self) -> Option<Instant> {
        if self.synced {
            self.away.map(|since| since + AWAY_PATIENCE)
        } else {
            Some(self.last_read)
        }
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
