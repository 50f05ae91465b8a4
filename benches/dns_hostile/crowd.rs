//! 24 000 TCP clients of four addresses, and one client of a fifth.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::client::{Crowd, Seen, ask_tcp, ask_udp};
use super::{Row, Stage};

const ADDRESSES: usize = 4;
const CLIENTS_EACH: usize = 6_000;
const PER_SOURCE: usize = 256;
const WIDE_PER_SOURCE: usize = 2_000;
const TOTAL: usize = 4_096;
/// The p99 of the time that a refused client stays connected.
const MOST_TO_REFUSE_MS: f64 = 100.0;
/// What else the machine does may spoil a round, which is then made again, and counted.
const MOST_ROUNDS: u32 = 3;
/// Between two questions of the fifth client.
const PAUSE: Duration = Duration::from_millis(5);
/// Between two looks at the agent.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// The caps that the agent is started with.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Caps {
    /// 256 of one source, 4 096 in all.
    AsTheyCome,
    /// 2 000 of one source, 4 096 in all.
    Wide,
}

/// What the client of the fifth address saw.
#[derive(Default)]
struct Fifth {
    asked: usize,
    lost: usize,
    worst: Duration,
}

pub(super) async fn run(caps: Caps) -> Vec<Row> {
    let mut round = 1;
    loop {
        let mut rows = once(caps).await;
        if rows.iter().all(|row| row.good) || round == MOST_ROUNDS {
            rows.push(Row::printed("the same: rounds made", round.to_string()));
            return rows;
        }
        round += 1;
    }
}

async fn once(caps: Caps) -> Vec<Row> {
    let (dns, name) = match caps {
        Caps::AsTheyCome => (String::new(), "24 000 clients"),
        Caps::Wide => {
            (format!("tcp_per_source: {WIDE_PER_SOURCE}, "), "24 000 clients, 2 000 each")
        }
    };
    let stage = Stage::new(&dns, None).await;
    let over = Arc::new(AtomicBool::new(false));
    let fifth = tokio::task::spawn_blocking({
        let (over, server) = (Arc::clone(&over), stage.dns);
        move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(ask_until(&over, server, caps))
        }
    });
    let crowd = tokio::task::spawn_blocking({
        let server = stage.dns;
        move || {
            let source = |last| Ipv4Addr::new(127, 0, 0, last);
            let start = |last| Crowd::start(source(last), server, CLIENTS_EACH);
            let mut crowd: Vec<Crowd> = (11..).take(ADDRESSES).map(start).collect();
            let seen: Vec<Seen> = crowd.iter_mut().map(Crowd::settled).collect();
            (crowd, seen)
        }
    });
    let (mut most_held, mut most_kib) = (0.0_f64, 0);
    let queued = stage.queued();
    while !crowd.is_finished() {
        most_held = most_held.max(stage.held().await.unwrap_or_default());
        most_kib = most_kib.max(stage.agent.resident_kib());
        tokio::time::sleep(LOOK_EVERY).await;
    }
    let (crowd, seen) = crowd.await.expect("it does not panic");
    most_kib = most_kib.max(stage.agent.resident_kib());
    let queued_until = stage.queued();
    over.store(true, Ordering::Relaxed);
    let fifth = fifth.await.expect("it does not panic");
    drop(crowd);
    let mut rows = rows(name, caps, &seen, &fifth);
    let most = if caps == Caps::Wide { TOTAL } else { ADDRESSES * PER_SOURCE + 1 };
    rows.push(Row::at_most(
        format!("{name}: held in all, by the agent"),
        most_held,
        most as f64,
        "",
    ));
    rows.push(stage.memory(name, most_kib));
    let queued = (queued_until - queued).as_secs_f64() * 1e3;
    let what = format!("{name}: the agent's threads waited for a processor");
    rows.push(Row::printed(what, format!("{queued:.0} ms")));
    rows
}

/// Over TCP where its address has places, by datagram else.
async fn ask_until(over: &AtomicBool, server: std::net::SocketAddr, caps: Caps) -> Fifth {
    let mut seen = Fifth::default();
    while !over.load(Ordering::Relaxed) {
        let took = match caps {
            Caps::AsTheyCome => ask_tcp(Ipv4Addr::new(127, 0, 0, 15).into(), server).await,
            Caps::Wide => ask_udp(server).await,
        };
        seen.asked += 1;
        match took {
            Some(took) => seen.worst = seen.worst.max(took),
            None => seen.lost += 1,
        }
        tokio::time::sleep(PAUSE).await;
    }
    seen
}

fn rows(name: &str, caps: Caps, seen: &[Seen], fifth: &Fifth) -> Vec<Row> {
    let mut refused: Vec<Duration> = seen.iter().flat_map(|seen| seen.refused.clone()).collect();
    refused.sort_unstable();
    let ms = |share: usize| {
        let at = (refused.len() * share / 1_000).min(refused.len().saturating_sub(1));
        refused.get(at).copied().unwrap_or_default().as_secs_f64() * 1e3
    };
    let lost: usize = seen.iter().map(|seen| seen.lost).sum();
    let each: Vec<usize> = seen.iter().map(|seen| seen.held).collect();
    let all: usize = each.iter().sum();
    let held = match caps {
        Caps::AsTheyCome => {
            let most = each.iter().copied().max().unwrap_or(0);
            Row::exactly(format!("{name}: held per address, at most"), most, PER_SOURCE)
        }
        Caps::Wide => Row::exactly(format!("{name}: held in all, of {each:?}"), all, TOTAL),
    };
    let by = if caps == Caps::Wide { "by datagram" } else { "over TCP" };
    let refuse = format!("{name}: {} refused, p99 of the time to that", refused.len());
    let worst = format!("{:.1} ms", fifth.worst.as_secs_f64() * 1e3);
    vec![
        held,
        Row::exactly(format!("{name}: neither answered nor closed"), lost, 0),
        Row::at_most(refuse, ms(990), MOST_TO_REFUSE_MS, "ms"),
        Row::printed(
            format!("{name}: the same, p50 and worst"),
            format!("{:.1}, {:.1} ms", ms(500), ms(1_000)),
        ),
        Row::exactly(
            format!("{name}: a fifth address, {} asked {by}, lost", fifth.asked),
            fifth.lost,
            0,
        ),
        Row::printed(format!("{name}: a fifth address, worst"), worst),
    ]
}
