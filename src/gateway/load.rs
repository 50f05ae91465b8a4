//! The streams under way per exported service and per backend, shared by all connections: the
//! caps, and what [`balance`](super::balance) goes by.
//!
//! A stream holds a [`Place`] of its service and a [`Seat`] at its backend; dropping them gives
//! them back. Counted are the streams of this replica, from peers and from clients here alike.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use prometheus::{Gauge, IntCounter};

use super::affinity::Client;
use super::balance::Pods;
use super::metrics::as_gauge;
use crate::catalog::{LocalCatalog, LocalExport};
use crate::clock;
use crate::model::{PortKey, ServiceKey};

/// Everything that is under way here.
#[derive(Debug)]
pub(super) struct Loads {
    book: Mutex<Book>,
    ejected: Gauge,
    ejections: IntCounter,
}

#[derive(Debug, Default)]
struct Book {
    services: HashMap<ServiceKey, Service>,
    /// Of which services were last looked over.
    catalog: Weak<LocalCatalog>,
}

#[derive(Debug, Default)]
struct Service {
    streams: u32,
    ports: Vec<Port>,
}

#[derive(Debug)]
struct Port {
    key: PortKey,
    /// Whose backends `pods` has.
    of: Weak<LocalExport>,
    /// Of which table that was.
    revision: u64,
    pods: Pods,
}

/// One stream of a service, until it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    loads: Arc<Loads>,
    key: ServiceKey,
}

/// One stream at a backend, until it is dropped.
#[derive(Debug)]
pub(super) struct Seat {
    loads: Arc<Loads>,
    key: ServiceKey,
    port: PortKey,
    /// The backend.
    pub(super) address: SocketAddr,
    answered: AtomicBool,
}

/// For which stream a backend is wanted.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted<'a> {
    /// The service.
    pub(super) key: &'a ServiceKey,
    /// Its port.
    pub(super) port: PortKey,
    /// What is exported under that name.
    pub(super) export: &'a Arc<LocalExport>,
    /// The revision of the table that says so.
    pub(super) revision: u64,
    /// Whose stream it is, where the service wants its clients to stay where they are.
    pub(super) stays: Option<Client>,
}

impl Loads {
    /// Nothing is under way.
    pub(super) fn new(ejected: Gauge, ejections: IntCounter) -> Self {
        Self { book: Mutex::default(), ejected, ejections }
    }

    fn lock(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for one more stream of the service; `None` when it has as many as it may have.
    pub(super) fn admit(self: &Arc<Self>, key: &ServiceKey, most: Option<u32>) -> Option<Place> {
        let mut book = self.lock();
        let service = book.service(key);
        if most.is_some_and(|most| service.streams >= most) {
            return None;
        }
        service.streams += 1;
        Some(Place { loads: Arc::clone(self), key: key.clone() })
    }

    /// A seat at a backend that `fits` lets through. A stream that began under an older table takes
    /// one of those that the newer has: else backends would be gone and new again with each.
    pub(super) fn seat(
        self: &Arc<Self>,
        wanted: Wanted<'_>,
        fits: impl Fn(SocketAddr) -> bool,
    ) -> Option<Seat> {
        let now = clock::now();
        let mut book = self.lock();
        let port = book.service(wanted.key).port(wanted.port);
        let is_other = !std::ptr::eq(port.of.as_ptr(), Arc::as_ptr(wanted.export));
        if is_other && wanted.revision >= port.revision {
            port.of = Arc::downgrade(wanted.export);
            let backends = wanted.export.backends.get(&wanted.port);
            let addresses: Vec<SocketAddr> =
                backends.into_iter().flatten().map(|backend| backend.address).collect();
            port.pods.sync(&addresses, now);
        }
        port.revision = port.revision.max(wanted.revision);
        let address = port.pods.take(wanted.stays, fits, now, rand::random::<f64>)?;
        let (loads, key) = (Arc::clone(self), wanted.key.clone());
        Some(Seat { loads, key, port: wanted.port, address, answered: AtomicBool::new(false) })
    }

    /// Forgets services that are not exported any more, and counts who is ejected.
    pub(super) fn look_over(&self, catalog: &Arc<LocalCatalog>) {
        let mut book = self.lock();
        if !std::ptr::eq(book.catalog.as_ptr(), Arc::as_ptr(catalog)) {
            book.catalog = Arc::downgrade(catalog);
            book.services
                .retain(|key, service| catalog.exports.contains_key(key) || !service.is_unused());
        }
        let ports = book.services.values().flat_map(|service| &service.ports);
        self.ejected.set(as_gauge(ports.map(|port| port.pods.ejected()).sum()));
    }

    fn with_pods<T>(
        &self,
        key: &ServiceKey,
        port: PortKey,
        act: impl FnOnce(&mut Pods) -> T,
    ) -> Option<T> {
        let mut book = self.lock();
        let mut ports = book.services.get_mut(key)?.ports.iter_mut();
        ports.find(|known| known.key == port).map(|port| act(&mut port.pods))
    }
}

impl Book {
    fn service(&mut self, key: &ServiceKey) -> &mut Service {
        if !self.services.contains_key(key) {
            self.services.insert(key.clone(), Service::default());
        }
        self.services.get_mut(key).expect("it was put there above")
    }
}

impl Service {
    fn port(&mut self, key: PortKey) -> &mut Port {
        let place = self.ports.iter().position(|port| port.key == key).unwrap_or_else(|| {
            self.ports.push(Port { key, of: Weak::new(), revision: 0, pods: Pods::default() });
            self.ports.len() - 1
        });
        &mut self.ports[place]
    }

    fn is_unused(&self) -> bool {
        self.streams == 0 && self.ports.iter().all(|port| port.pods.is_unused())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(service) = self.loads.lock().services.get_mut(&self.key) {
            service.streams = service.streams.saturating_sub(1);
        }
    }
}

impl Seat {
    /// The backend sent something, or ended as it should.
    pub(super) fn went_well(&self) {
        if !self.answered.swap(true, Ordering::Relaxed) {
            self.loads.with_pods(&self.key, self.port, |pods| pods.went_well(self.address));
        }
    }

    /// The backend could not be reached, or reset the stream. One that had answered before did
    /// its work.
    pub(super) fn went_wrong(&self) {
        if self.answered.load(Ordering::Relaxed) {
            return;
        }
        let now = clock::now();
        let wrong = |pods: &mut Pods| pods.went_wrong(self.address, now);
        let ejected: Option<Duration> = self.loads.with_pods(&self.key, self.port, wrong).flatten();
        if let Some(time) = ejected {
            self.loads.ejections.inc();
            tracing::warn!(
                service = %self.key, port = %self.port, backend = %self.address,
                seconds = time.as_secs(),
                "a backend failed time after time and is left out for a while"
            );
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.loads.with_pods(&self.key, self.port, |pods| pods.ended(self.address));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::tests::{key, local_export, port_key};

    #[tokio::test(start_paused = true)]
    async fn a_stream_of_an_older_table_makes_no_backend_new_again() {
        let (ejected, ejections) =
            (Gauge::new("a", "a").unwrap(), IntCounter::new("b", "b").unwrap());
        let loads = Arc::new(Loads::new(ejected, ejections));
        let (key, port) = (key(), port_key());
        let export = |hosts: std::ops::RangeInclusive<u8>| {
            let addresses: Vec<_> = hosts.map(|host| ([10, 0, 0, host], 80).into()).collect();
            Arc::new(local_export(&addresses))
        };
        let (older, newer) = (export(1..=4), export(1..=5));
        let seat = |export, revision| {
            let wanted = Wanted { key: &key, port, export, revision, stays: None };
            loads.seat(wanted, |_| true).unwrap()
        };
        drop(seat(&older, 1));
        drop(seat(&newer, 2));
        tokio::time::advance(Duration::from_secs(60)).await;
        drop(seat(&newer, 2));
        let new = || loads.with_pods(&key, port, |pods| pods.rising()).unwrap();
        assert_eq!(new(), 0, "the fifth has been there for long");
        for _ in 0..3 {
            drop(seat(&older, 1));
            drop(seat(&newer, 2));
        }
        assert_eq!(new(), 0);
        // What a newer table says counts, though it leads back.
        drop(seat(&older, 3));
        drop(seat(&newer, 4));
        assert_eq!(new(), 1);
    }
}
