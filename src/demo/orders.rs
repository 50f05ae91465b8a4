//! What changes while the script runs: the order of the candidates in every cloud, and what DNS
//! answers in Paris. Asked over and over, as a user would; kept is every change with its instant.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::time::{MissedTickBehavior, interval};

use crate::admin::json::ServiceJson;
use crate::clock;

use super::world::{Cloud, World};

/// How often `explain` is asked, in every cloud.
const EXPLAIN_EVERY: Duration = Duration::from_millis(100);
/// How often DNS is asked.
const DNS_EVERY: Duration = Duration::from_millis(50);

/// The clusters that would be used for a name, best first.
pub(super) type Order = Vec<String>;

/// The order that an answer of `explain` tells.
pub(super) fn order(service: &ServiceJson) -> Order {
    let usable = service.candidates.iter().filter(|candidate| candidate.usable);
    usable.map(|candidate| candidate.cluster.to_string()).collect()
}

/// A value over time: every change, oldest first.
#[derive(Debug, Clone)]
struct Changes<T>(Vec<(Instant, T)>);

impl<T> Default for Changes<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T: PartialEq> Changes<T> {
    fn note(&mut self, value: T) {
        if self.0.last().is_none_or(|(_, last)| *last != value) {
            self.0.push((clock::now(), value));
        }
    }

    /// The first instant from `after` on at which it was so.
    fn first(&self, after: Instant, wanted: impl Fn(&T) -> bool) -> Option<Instant> {
        let at_begin = self.0.iter().rev().find(|(at, _)| *at <= after);
        let already = at_begin.filter(|(_, value)| wanted(value)).map(|_| after);
        let later = || self.0.iter().find(|(at, v)| *at > after && wanted(v)).map(|(at, _)| *at);
        already.or_else(later)
    }
}

#[derive(Debug, Default)]
struct Seen {
    orders: BTreeMap<Cloud, Changes<Order>>,
    expected: BTreeMap<Cloud, Vec<Order>>,
    overlooked: BTreeSet<Cloud>,
    answers: Changes<Vec<IpAddr>>,
}

/// The watcher; clones share what was seen.
#[derive(Debug, Clone, Default)]
pub(super) struct Orders(Arc<Mutex<Seen>>);

impl Orders {
    /// Asks a cloud's agent for that name until dropped.
    pub(super) async fn watch_order(self, world: Arc<World>, cloud: Cloud, name: &'static str) {
        let admin = world.admin(cloud);
        let mut every = interval(EXPLAIN_EVERY);
        every.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            every.tick().await;
            let Ok(service) = admin.explain(name).await else { continue };
            let mut seen = self.seen();
            if !seen.overlooked.contains(&cloud) {
                seen.orders.entry(cloud).or_default().note(order(&service));
            }
        }
    }

    /// Asks the DNS server of Paris for that name until dropped.
    pub(super) async fn watch_answers(self, world: Arc<World>, name: String) {
        let server = world.block.dns(Cloud::Paris);
        let mut every = interval(DNS_EVERY);
        every.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            every.tick().await;
            if let Ok(addresses) = super::ask::addresses(server, &name).await {
                self.seen().answers.note(addresses);
            }
        }
    }

    /// The order that the script is about to cause in a cloud.
    pub(super) fn expect(&self, cloud: Cloud, order: &[Cloud]) {
        let order = order.iter().map(|cloud| cloud.name().to_owned()).collect();
        self.seen().expected.entry(cloud).or_default().push(order);
    }

    /// From now on what a cloud says is not noted, or noted again: its agent is being restarted.
    pub(super) fn overlook(&self, cloud: Cloud, yes: bool) {
        let mut seen = self.seen();
        if yes {
            seen.overlooked.insert(cloud);
        } else {
            seen.overlooked.remove(&cloud);
        }
    }

    /// When, from `after` on, a cloud's order first was so.
    pub(super) fn when(
        &self,
        cloud: Cloud,
        after: Instant,
        wanted: impl Fn(&Order) -> bool,
    ) -> Option<Instant> {
        self.seen().orders.get(&cloud)?.first(after, wanted)
    }

    /// When, from `after` on, DNS first answered so.
    pub(super) fn when_answered(
        &self,
        after: Instant,
        wanted: impl Fn(&Vec<IpAddr>) -> bool,
    ) -> Option<Instant> {
        self.seen().answers.first(after, wanted)
    }

    /// Every order seen that the script did not cause, in any cloud.
    pub(super) fn unexpected(&self) -> Vec<(Cloud, Order)> {
        let seen = self.seen();
        let none = Vec::new();
        let mut all = Vec::new();
        for (cloud, orders) in &seen.orders {
            let expected = seen.expected.get(cloud).unwrap_or(&none);
            let observed = orders.0.iter().map(|(_, order)| order);
            all.extend(beyond(observed, expected).map(|order| (*cloud, order.clone())));
        }
        all
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        // Each section adds or reads one thing: a panic meanwhile leaves nothing half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The observed that do not follow the expected in their order.
fn beyond<'a>(
    observed: impl Iterator<Item = &'a Order>,
    expected: &[Order],
) -> impl Iterator<Item = &'a Order> {
    let mut next = 0;
    observed.filter(move |order| {
        let found = expected[next..].iter().position(|wanted| wanted == *order);
        next += found.map_or(0, |skipped| skipped + 1);
        found.is_none()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn orders(texts: &[&str]) -> Vec<Order> {
        texts.iter().map(|text| text.split_whitespace().map(str::to_owned).collect()).collect()
    }

    #[test]
    fn changes_beyond_the_expected_are_found() {
        let expected = orders(&["p o t", "o t", "t", "o t"]);
        let cases: [(&[&str], usize); 5] = [
            (&["p o t", "o t", "t", "o t"], 0),
            (&["p o t", "o t", "t"], 0),
            (&["p o t", "o t", "t o", "t", "o t"], 1),
            (&["p o t", "p t o", "p o t", "o t", "t", "o t"], 2),
            (&["p o t", "o t", "t", "o t", "t"], 1),
        ];
        for (observed, count) in cases {
            let observed = orders(observed);
            assert_eq!(beyond(observed.iter(), &expected).count(), count, "{observed:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_has_its_instant_and_what_was_so_already_is_so_at_once() {
        let mut changes = Changes::default();
        let begin = clock::now();
        changes.note(1);
        tokio::time::sleep(Duration::from_secs(1)).await;
        changes.note(1);
        changes.note(2);
        let later = begin + Duration::from_millis(500);
        assert_eq!(changes.0.len(), 2);
        assert_eq!(changes.first(later, |v| *v == 1), Some(later));
        assert_eq!(changes.first(later, |v| *v == 2), Some(begin + Duration::from_secs(1)));
        assert_eq!(changes.first(begin + Duration::from_secs(2), |v| *v == 1), None);
    }
}
