//! A cloud is swallowed: its packets vanish in both directions and nobody is told.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use tokio::time::sleep;

use crate::clock;
use crate::demo::load::{Load, Record, Tally};
use crate::demo::report::Bound;
use crate::demo::world::Cloud;

use super::{FORGOTTEN_WITHIN, Script, eventually, seconds};
use Cloud::{Oregon, Paris, Tokyo};

/// Connections scheduled in this stretch after the cut are judged: 1 000.
const JUDGED: Duration = Duration::from_secs(20);
/// The stretch before the cut in which Oregon has to have answered everything.
const BEFORE: Duration = Duration::from_secs(5);
/// Streams that are open at the cut, beside what the load has in flight.
const HELD: usize = 20;
/// What was already inside Oregon at the cut has been counted there after this.
const SETTLED: Duration = Duration::from_millis(200);

impl Script {
    /// Swallows Oregon for 20 s.
    pub(super) async fn swallowed(&mut self, address: SocketAddr) -> anyhow::Result<()> {
        let held = Load::new(address, "/hold");
        let holding = held.clone();
        self.world.spawn(async move { holding.burst(HELD).await });
        sleep(Duration::from_secs(1)).await;
        let before = self.world.swallowed(Oregon);
        self.orders.expect(Paris, &[Tokyo]);
        self.orders.expect(Tokyo, &[Tokyo]);

        let cut = clock::now();
        self.world.swallow(Oregon);
        self.breaks.push(cut);
        self.narrator
            .step("oregon is swallowed: both of its links move no byte, nothing is closed")?;
        let earlier = Tally::of(&self.load.scheduled(cut - BEFORE, cut));
        let answered = share_of_ended(&earlier, &self.load.open_at(cut));
        self.check("cut_answered_before", answered, "%", Bound::Exactly(100.0))?;
        sleep((cut + SETTLED).saturating_duration_since(clock::now())).await;
        let begun = self.inbound_streams(Oregon).await?;
        self.narrate_load(cut + JUDGED).await?;

        let after = self.inbound_streams(Oregon).await?;
        self.judge_connections(cut).await?;
        self.judge_in_flight(cut, &held)?;
        self.judge_names(cut).await?;
        let swallowed = (self.world.swallowed(Oregon).chunks - before.chunks) as f64;
        self.check("cut_swallowed", swallowed, "chunks", Bound::AtLeast(1.0))?;
        self.check("cut_streams_in_oregon", after - begun, "streams", Bound::Exactly(0.0))?;
        self.explain(Paris).await
    }

    async fn judge_connections(&mut self, cut: Instant) -> anyhow::Result<()> {
        let tally = self.tally(cut, cut + JUDGED).await;
        self.narrator.tally("scheduled in the 20 s after the cut", &tally)?;
        self.check("cut_connections", tally.total as f64, "connections", Bound::Exactly(1000.0))?;
        self.check("cut_failed", tally.failed() as f64, "connections", Bound::Exactly(0.0))?;
        let (p99, all) = (tally.first_byte(99.0), tally.first_byte(100.0));
        self.check("cut_first_byte_p99", p99, "s", Bound::AtMost(0.7))?;
        self.check("cut_first_byte_max", all, "s", Bound::AtMost(1.5))
    }

    /// What was open at the cut, apart: some of it cannot be saved, all of it must have ended.
    fn judge_in_flight(&mut self, cut: Instant, held: &Load) -> anyhow::Result<()> {
        let mut open = self.load.open_at(cut);
        open.extend(held.open_at(cut));
        self.narrator.tally("in flight at the cut", &Tally::of(&open))?;
        self.check("cut_in_flight", open.len() as f64, "streams", Bound::AtLeast(HELD as f64))?;
        let last = open.iter().map(|record| record.ended).max_by_key(|ended| {
            // One that is still open ends last of all.
            (ended.is_none(), *ended)
        });
        let bound = Bound::AtMost(FORGOTTEN_WITHIN);
        self.check("cut_in_flight_ended", seconds(cut, last.flatten()), "s", bound)
    }

    /// `explain` and DNS have stopped naming Oregon.
    async fn judge_names(&mut self, cut: Instant) -> anyhow::Result<()> {
        let pods: ipnet::IpNet = self.world.block.pods(Oregon).parse()?;
        let elsewhere = |answer: &Vec<IpAddr>| {
            !answer.is_empty() && !answer.iter().any(|address| pods.contains(address))
        };
        let within = Duration::from_millis(100);
        let explained = eventually(within, || {
            self.orders.when(Paris, cut, |order| !order.iter().any(|name| name == Oregon.name()))
        })
        .await;
        let answered = eventually(within, || self.orders.when_answered(cut, elsewhere)).await;
        let bound = Bound::AtMost(FORGOTTEN_WITHIN);
        self.check("cut_explain_moved", seconds(cut, explained), "s", bound)?;
        self.check("cut_dns_moved", seconds(cut, answered), "s", bound)
    }

    /// Streams begun at a cloud's gateway for its peers, by its own counters.
    async fn inbound_streams(&self, cloud: Cloud) -> anyhow::Result<f64> {
        Ok(inbound_streams(&self.world.admin(cloud).metrics().await?))
    }
}

/// The share that Oregon answered of what had ended by the cut.
fn share_of_ended(tally: &Tally, in_flight: &[Record]) -> f64 {
    let ended = tally.total.saturating_sub(in_flight.len());
    let answered = tally.answered.get(Oregon.name()).copied().unwrap_or(0);
    if ended == 0 { 0.0 } else { 100.0 * answered.min(ended) as f64 / ended as f64 }
}

/// Streams begun inbound so far: those that ended and those that are open.
fn inbound_streams(metrics: &str) -> f64 {
    let inbound = metrics.lines().filter(|line| {
        ["portolan_streams_total{", "portolan_streams_open{"].iter().any(|n| line.starts_with(n))
            && line.contains("direction=\"inbound\"")
    });
    inbound.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inbound_streams_are_those_that_ended_and_those_that_are_open() {
        let metrics = "# TYPE portolan_streams_total counter\n\
            portolan_streams_total{direction=\"inbound\",peer=\"paris\",result=\"ok\"} 40\n\
            portolan_streams_total{direction=\"inbound\",peer=\"tokyo\",result=\"reset\"} 2\n\
            portolan_streams_total{direction=\"outbound\",peer=\"paris\",result=\"ok\"} 7\n\
            portolan_stream_bytes_total{direction=\"inbound\",peer=\"paris\"} 9\n\
            portolan_streams_open{direction=\"inbound\"} 3\n\
            portolan_streams_open{direction=\"outbound\"} 5\n";
        assert!((inbound_streams(metrics) - 45.0).abs() < f64::EPSILON);
        assert!(inbound_streams("").abs() < f64::EPSILON);
    }
}
