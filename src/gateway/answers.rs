//! What became of new connections to the services of this cluster, counted only while some of them
//! are answered "overloaded": at rest it costs one load.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::Gateway;
use super::live::{Live, Way};
use crate::model::ServiceKey;
use crate::routes::{Answers, Drained};

/// The counts of the window that runs.
#[derive(Debug, Default)]
pub(super) struct Window {
    /// Whether anything is counted.
    counting: AtomicBool,
    answers: Mutex<BTreeMap<ServiceKey, Answers>>,
    overloaded: Notify,
}

impl Window {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<ServiceKey, Answers>> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A backend of that service was connected.
    pub(super) fn accepted(&self, key: &ServiceKey) {
        if self.counting.load(Ordering::Relaxed)
            && let Some(answers) = self.lock().get_mut(key)
        {
            answers.accepted += 1;
        }
    }

    /// There was no room for one.
    pub(super) fn overloaded(&self, key: &ServiceKey) {
        self.lock().entry(key.clone()).or_default().overloaded += 1;
        self.counting.store(true, Ordering::Relaxed);
        self.overloaded.notify_one();
    }
}

impl Gateway {
    /// Waits until somebody was answered "overloaded" since the last window was taken.
    pub async fn overloaded(&self) {
        self.shared.window.overloaded.notified().await;
    }

    /// Takes the counts of the window that ends now; services that had an overload are counted on
    /// in the next.
    #[must_use]
    pub fn take_answers(&self) -> BTreeMap<ServiceKey, Answers> {
        let window = &self.shared.window;
        let mut answers = window.lock();
        let next = answers.iter().filter(|(_, answers)| answers.overloaded > 0);
        let next: BTreeMap<_, _> = next.map(|(key, _)| (key.clone(), Answers::default())).collect();
        window.counting.store(!next.is_empty(), Ordering::Relaxed);
        std::mem::replace(&mut *answers, next)
    }

    /// The connections and UDP sessions through this gateway that are left of what is drained: those
    /// to a peer, to the own cluster, or to one of its services.
    #[must_use]
    pub fn connections(&self, of: &Drained) -> usize {
        let own = &self.shared.cluster;
        let is_ours = |live: &Live| matches!(live.way, Way::In | Way::Local);
        let streams = self.shared.streams.count(|live| match of {
            // Connections that carry sessions, and probes, have no port.
            _ if live.port.is_none() => false,
            Drained::Cluster(cluster) if cluster == own => is_ours(live),
            Drained::Cluster(cluster) => {
                matches!(&live.way, Way::Out(target) if target.peer == *cluster)
            }
            Drained::Service(key) => {
                is_ours(live) && live.port.as_ref().is_some_and(|(service, _)| service == key)
            }
        });
        streams + self.shared.udp.sessions_of(of, own)
    }
}
