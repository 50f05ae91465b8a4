//! Ready; the own pods gone; healed; the own pods back.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::time::sleep;

use crate::clock;
use crate::demo::load::Load;
use crate::demo::orders::order;
use crate::demo::report::Bound;
use crate::demo::world::{Cloud, WEB_DIRECT};
use crate::health::PeerState;

use super::{EXPLAINED, LOAD_PERIOD, Script, dns_name, eventually, seconds};
use Cloud::{Oregon, Paris, Tokyo};

/// Longest start of all three agents, until each sees the others.
const START_WITHIN: Duration = Duration::from_secs(15);

impl Script {
    /// Starts the agents, then the load; returns the address that the load goes to.
    pub(super) async fn start(&mut self) -> anyhow::Result<SocketAddr> {
        let (network, path) = (self.world.block.network(), self.world.path().display());
        self.narrator.step(&format!("three clouds on {network}, files in {path}"))?;
        self.narrator.line(
            "round trips of the delay line: paris-oregon 20, oregon-tokyo 80, paris-tokyo 110 ms",
        )?;
        let begun = clock::now();
        for cloud in Cloud::ALL {
            self.world.start(cloud)?;
        }
        for cloud in Cloud::ALL {
            self.until_ready(cloud, begun + START_WITHIN).await?;
        }
        let took = (clock::now() - begun).as_secs_f64();
        self.check("ready", took, "s", Bound::AtMost(10.0))?;
        for (cloud, wanted) in [
            (Paris, [Paris, Oregon, Tokyo]),
            (Oregon, [Oregon, Paris, Tokyo]),
            (Tokyo, [Tokyo, Oregon, Paris]),
        ] {
            self.until_order(cloud, &wanted, begun + START_WITHIN).await?;
            self.orders.expect(cloud, &wanted);
            let orders = self.orders.clone();
            self.world.spawn(orders.watch_order(self.world.clone(), cloud, EXPLAINED));
        }
        let answers = self.orders.clone();
        self.world.spawn(answers.watch_answers(self.world.clone(), dns_name(WEB_DIRECT)));

        let address = SocketAddr::new(self.resolve(Paris).await?, self.world.block.ports.service);
        self.load = Load::new(address, "/load");
        self.load_begun = clock::now();
        self.world.spawn(self.load.clone().run(LOAD_PERIOD));
        self.narrator.step(&format!(
            "50 new connections a second go to {EXPLAINED}, which is {address} in paris; {}",
            "who would answer, and why:"
        ))?;
        self.explain(Paris).await?;
        let begun = clock::now();
        self.narrate_load(begun + Duration::from_secs(4)).await?;
        let tally = self.tally(begun, clock::now()).await;
        self.check("local_first", tally.share("paris"), "%", Bound::Exactly(100.0))?;
        Ok(address)
    }

    /// The pods of Paris go, manifests and servers alike.
    pub(super) async fn local_pods_gone(&mut self) -> anyhow::Result<()> {
        self.narrator.step("the pods of paris are gone: manifest rewritten, servers stopped")?;
        self.orders.expect(Paris, &[Oregon, Tokyo]);
        self.orders.expect(Oregon, &[Oregon, Tokyo]);
        self.orders.expect(Tokyo, &[Tokyo, Oregon]);
        let gone = clock::now();
        self.world.remove_pods(Paris)?;
        let moved = eventually(Duration::from_secs(5), || {
            self.orders.when(Paris, gone, |order| first_is(order, Oregon))
        })
        .await;
        self.check("local_gone_moved", seconds(gone, moved), "s", Bound::AtMost(1.0))?;
        self.narrate_load(gone + Duration::from_secs(8)).await?;
        self.explain(Paris).await
    }

    /// Oregon's links pass again.
    pub(super) async fn healed(&mut self) -> anyhow::Result<()> {
        self.narrator.step("both links of oregon pass again; it has to prove itself first")?;
        for cloud in [Paris, Tokyo] {
            let wanted = if cloud == Paris { [Oregon, Tokyo] } else { [Tokyo, Oregon] };
            self.orders.expect(cloud, &wanted);
        }
        let healed = clock::now();
        self.world.heal(Oregon);
        let back = eventually(Duration::from_secs(20), || {
            self.orders.when(Paris, healed, |order| first_is(order, Oregon))
        })
        .await;
        self.check("healed_back", seconds(healed, back), "s", Bound::Between(5.0, 10.0))?;
        let answered =
            eventually(Duration::from_secs(10), || self.load.first_answer("oregon", healed)).await;
        self.check("healed_answers", seconds(healed, answered), "s", Bound::Between(5.0, 12.0))?;
        self.narrate_load(clock::now() + Duration::from_secs(4)).await?;
        self.explain(Paris).await
    }

    /// The pods of Paris come back.
    pub(super) async fn local_pods_back(&mut self) -> anyhow::Result<()> {
        self.narrator.step("the pods of paris are back")?;
        self.orders.expect(Paris, &[Paris, Oregon, Tokyo]);
        self.orders.expect(Oregon, &[Oregon, Paris, Tokyo]);
        self.orders.expect(Tokyo, &[Tokyo, Oregon, Paris]);
        let back = clock::now();
        self.world.restore_pods(Paris).await?;
        let moved = eventually(Duration::from_secs(5), || {
            self.orders.when(Paris, back, |order| first_is(order, Paris))
        })
        .await;
        self.check("local_back_moved", seconds(back, moved), "s", Bound::AtMost(1.0))?;
        let steady = clock::now();
        self.narrate_load(steady + Duration::from_secs(2)).await?;
        let tally = self.tally(steady, clock::now()).await;
        self.check("local_back_first", tally.share("paris"), "%", Bound::Exactly(100.0))
    }

    /// Waits until a cloud's agent says that it is ready.
    pub(super) async fn until_ready(&self, cloud: Cloud, deadline: Instant) -> anyhow::Result<()> {
        while !self.world.admin(cloud).ready().await {
            anyhow::ensure!(clock::now() < deadline, "the agent of {} is not ready", cloud.name());
            sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// Waits until a cloud's agent has all candidates measured and in this order.
    pub(super) async fn until_order(
        &self,
        cloud: Cloud,
        wanted: &[Cloud],
        deadline: Instant,
    ) -> anyhow::Result<()> {
        loop {
            let explained = self.world.admin(cloud).explain(EXPLAINED).await;
            let found = explained.as_ref().map(order).unwrap_or_default();
            let measured = explained.as_ref().is_ok_and(|service| {
                service.candidates.iter().all(|candidate| candidate.state == PeerState::Up)
            });
            if measured
                && found.iter().map(String::as_str).eq(wanted.iter().map(|cloud| cloud.name()))
            {
                return Ok(());
            }
            if clock::now() >= deadline {
                let found = found.join(", ");
                let explained = explained.map(|_| ());
                return explained.context("explain does not answer").and_then(|()| {
                    anyhow::bail!(
                        "{} orders [{found}] instead of {wanted:?}, all of them up",
                        cloud.name()
                    )
                });
            }
            sleep(Duration::from_millis(50)).await;
        }
    }
}

/// Whether that cloud is the first of an order.
fn first_is(order: &[String], cloud: Cloud) -> bool {
    order.first().is_some_and(|first| first == cloud.name())
}
