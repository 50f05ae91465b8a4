//! The script: what happens to the three clouds, and what must hold.

mod cut;
mod restart;
mod steps;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::time::sleep;

use crate::clock;

use super::ask;
use super::load::{Load, Tally};
use super::narrate::Narrator;
use super::orders::Orders;
use super::report::{Bound, Report};
use super::world::{CLUSTERSET, Cloud, NAMESPACE, WEB, WEB_DIRECT, World};

/// A new connection this often: 50 a second.
const LOAD_PERIOD: Duration = Duration::from_millis(20);
/// How often a condition is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// The name behind one address, as `explain` takes it.
const EXPLAINED: &str = "web.shop";
/// No DNS or `explain` names a dead cluster longer than this, seconds.
const FORGOTTEN_WITHIN: f64 = 4.5;

/// The script while it is played.
#[derive(Debug)]
pub(super) struct Script {
    world: Arc<World>,
    narrator: Narrator,
    report: Report,
    orders: Orders,
    load: Load,
    load_begun: Instant,
    /// When connections in flight could break: the cut, and the death of an agent.
    breaks: Vec<Instant>,
}

impl Script {
    /// A script about that world.
    pub(super) fn new(world: Arc<World>, narrator: Narrator) -> Self {
        // Replaced by the address that DNS answers once somebody answers.
        let load = Load::new(world.block.gateway(Cloud::Paris), "/load");
        Self {
            world,
            narrator,
            report: Report::default(),
            orders: Orders::default(),
            load,
            load_begun: narrator.begun(),
            breaks: Vec::new(),
        }
    }

    /// Plays it to its end.
    pub(super) async fn play(&mut self) -> anyhow::Result<()> {
        let address = self.start().await?;
        self.local_pods_gone().await?;
        self.swallowed(address).await?;
        self.healed().await?;
        self.restarted().await?;
        self.local_pods_back().await?;
        self.close(address).await
    }

    /// What was checked so far.
    pub(super) fn into_report(self) -> Report {
        self.report
    }

    fn check(
        &mut self,
        name: &'static str,
        value: impl Into<Option<f64>>,
        unit: &'static str,
        bound: Bound,
    ) -> anyhow::Result<()> {
        let check = self.report.add(name, value.into(), unit, bound);
        Ok(self.narrator.check(check)?)
    }

    /// The connections scheduled in `from..until`, once all of them have ended.
    async fn tally(&self, from: Instant, until: Instant) -> Tally {
        loop {
            let tally = Tally::of(&self.load.scheduled(from, until));
            if tally.open == 0 && self.load.has_reached(until) {
                return tally;
            }
            sleep(LOOK_EVERY).await;
        }
    }

    /// Says every 2 s who answers, until `until`.
    async fn narrate_load(&self, until: Instant) -> anyhow::Result<()> {
        const EVERY: Duration = Duration::from_secs(2);
        let mut from = clock::now();
        while from + EVERY <= until + LOOK_EVERY {
            tokio::time::sleep_until((from + EVERY).into()).await;
            let tally = Tally::of(&self.load.scheduled(from, from + EVERY));
            self.narrator.tally("last 2 s", &tally)?;
            from += EVERY;
        }
        tokio::time::sleep_until(until.into()).await;
        Ok(())
    }

    async fn explain(&self, cloud: Cloud) -> anyhow::Result<()> {
        let service = self.world.admin(cloud).explain(EXPLAINED).await?;
        Ok(self.narrator.explain(&service)?)
    }

    async fn resolve(&self, cloud: Cloud) -> anyhow::Result<IpAddr> {
        let answer = ask::addresses(self.world.block.dns(cloud), &dns_name(WEB)).await;
        let answer = answer.with_context(|| format!("no DNS answer in {}", cloud.name()))?;
        answer.first().copied().with_context(|| format!("{EXPLAINED} has no address"))
    }

    /// The last step: what holds for the whole run.
    async fn close(&mut self, address: SocketAddr) -> anyhow::Result<()> {
        self.narrator.step("the whole run")?;
        let now = clock::now();
        self.tally(self.load_begun, now).await;
        let mut records = self.load.scheduled(self.load_begun, now);
        let in_flight: Vec<Instant> = self
            .breaks
            .iter()
            .flat_map(|at| self.load.open_at(*at))
            .map(|record| record.scheduled)
            .collect();
        records.retain(|record| !in_flight.contains(&record.scheduled));
        let tally = Tally::of(&records);
        self.narrator.tally("all but those in flight at the cut or the kill", &tally)?;
        self.check("failed", tally.failed() as f64, "connections", Bound::Exactly(0.0))?;
        let changed = f64::from(u8::from(self.resolve(Cloud::Paris).await? != address.ip()));
        self.check("address_changes", changed, "changes", Bound::Exactly(0.0))?;
        let unexpected = self.orders.unexpected();
        for (cloud, order) in &unexpected {
            let order = order.join(" ");
            self.narrator.line(&format!("not caused by the script: {}: {order}", cloud.name()))?;
        }
        let count = unexpected.len() as f64;
        self.check("order_changes_unexpected", count, "changes", Bound::Exactly(0.0))?;
        let took = (clock::now() - self.narrator.begun()).as_secs_f64();
        self.check("run_time", took, "s", Bound::AtMost(90.0))
    }
}

/// Waits until `look` sees something, at most `within`.
async fn eventually<T>(within: Duration, look: impl Fn() -> Option<T>) -> Option<T> {
    let deadline = clock::now() + within;
    loop {
        if let Some(seen) = look() {
            return Some(seen);
        }
        if clock::now() >= deadline {
            return None;
        }
        sleep(LOOK_EVERY).await;
    }
}

/// The complete DNS name of one of the demo's services.
fn dns_name(service: &str) -> String {
    format!("{service}.{NAMESPACE}.svc.{CLUSTERSET}.")
}

/// Seconds from `since` to `at`.
fn seconds(since: Instant, at: Option<Instant>) -> Option<f64> {
    at.map(|at| at.saturating_duration_since(since).as_secs_f64())
}

/// Commands to try while the demo stays up.
pub(super) fn invite(world: &World, narrator: Narrator) -> anyhow::Result<()> {
    let dns = world.block.dns(Cloud::Paris);
    let admin = world.block.admin(Cloud::Paris);
    let (web, direct) = (dns_name(WEB), dns_name(WEB_DIRECT));
    let port = world.block.ports.service;
    let (server, dns_port) = (dns.ip(), dns.port());
    narrator.step("everything stays up; try this in another terminal, and end with Ctrl-C")?;
    for command in [
        format!("dig +short @{server} -p {dns_port} {web}"),
        format!("dig +short @{server} -p {dns_port} {direct}"),
        format!("curl http://$(dig +short @{server} -p {dns_port} {web}):{port}/"),
        format!("portolan explain {EXPLAINED} --admin {admin}"),
        format!("portolan status --admin {admin}"),
        format!("ls {}   # configuration, manifests, logs", world.path().display()),
    ] {
        narrator.line(&command)?;
    }
    Ok(())
}
