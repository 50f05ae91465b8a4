//! A cloud's agent is killed with SIGKILL and started again.

use std::time::{Duration, Instant};

use crate::clock;
use crate::demo::ask;
use crate::demo::report::Bound;
use crate::demo::world::{Cloud, WEB};

use super::{FORGOTTEN_WITHIN, Script, dns_name, eventually, seconds};
use Cloud::{Oregon, Paris, Tokyo};

impl Script {
    /// Tokyo's agent dies and returns.
    pub(super) async fn restarted(&mut self) -> anyhow::Result<()> {
        self.narrator.step("the agent of tokyo is killed with SIGKILL")?;
        let address = self.resolve(Tokyo).await?;
        self.orders.overlook(Tokyo, true);
        self.orders.expect(Paris, &[Oregon]);
        self.orders.expect(Oregon, &[Oregon]);
        let killed = clock::now();
        self.breaks.push(killed);
        self.world.kill(Tokyo).await?;
        let names_tokyo = |order: &Vec<String>| order.iter().any(|name| name == Tokyo.name());
        let gone = eventually(Duration::from_secs(10), || {
            let paris = self.orders.when(Paris, killed, |order| !names_tokyo(order))?;
            let oregon = self.orders.when(Oregon, killed, |order| !names_tokyo(order))?;
            Some(paris.max(oregon))
        })
        .await;
        let bound = Bound::AtMost(FORGOTTEN_WITHIN);
        self.check("killed_forgotten", seconds(killed, gone), "s", bound)?;

        self.narrator.step("the agent of tokyo is started again")?;
        for cloud in [Paris, Oregon] {
            self.orders.expect(cloud, &[Oregon, Tokyo]);
        }
        let started = self.world.start(Tokyo)?;
        let answered = self.until_answer(address, started + Duration::from_secs(10)).await;
        self.check("restart_dns", seconds(started, answered), "s", Bound::AtMost(1.0))?;
        let taken = eventually(Duration::from_secs(20), || {
            let paris = self.orders.when(Paris, started, names_tokyo)?;
            let oregon = self.orders.when(Oregon, started, names_tokyo)?;
            Some(paris.max(oregon))
        })
        .await;
        self.check("restart_taken_back", seconds(started, taken), "s", Bound::Between(5.0, 15.0))?;
        let deadline = clock::now() + Duration::from_secs(10);
        self.until_order(Tokyo, &[Tokyo, Oregon], deadline).await?;
        self.orders.overlook(Tokyo, false);
        Ok(())
    }

    /// Asks Tokyo's DNS until it answers what it answered before.
    async fn until_answer(&self, wanted: std::net::IpAddr, deadline: Instant) -> Option<Instant> {
        let server = self.world.block.dns(Tokyo);
        while clock::now() < deadline {
            if ask::addresses(server, &dns_name(WEB)).await.is_ok_and(|found| found == [wanted]) {
                return Some(clock::now());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        None
    }
}
