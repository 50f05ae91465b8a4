//! What an idle agent costs: memory and CPU beside three peers, each exporting ten services.
//!
//! `cargo bench --bench idle` prints the figures of one agent over 30 s after it has settled, and
//! fails when a bound is missed: 25 MiB resident, 1 % of a core.

use std::io::Write as _;
use std::time::Duration;

use portolan::testing::{Process, World};

const CLUSTERS: [&str; 4] = ["paris", "oregon", "tokyo", "berlin"];
const SERVICES: u16 = 10;
const SETTLE: Duration = Duration::from_secs(10);
const WATCH: Duration = Duration::from_secs(30);
const MAX_RESIDENT_KIB: u64 = 25 * 1024;
const MAX_CPU_SHARE: f64 = 0.01;

#[tokio::main]
async fn main() -> std::process::ExitCode {
    let world = World::new(&CLUSTERS);
    for cluster in CLUSTERS {
        for number in 0..SERVICES {
            let backend = (world.host(cluster, 2), 9000 + number).into();
            world.export(cluster, &format!("shop/{cluster}-{number}"), 80, &[backend]);
        }
    }
    let mut agents: Vec<Process> = CLUSTERS
        .iter()
        .map(|cluster| {
            let config = world.write_config(cluster, |peer| vec![world.gateway(peer)]);
            Process::start(env!("CARGO_BIN_EXE_portolan"), &config, world.admin(cluster))
        })
        .collect();
    for agent in &mut agents {
        agent.ready(Duration::from_secs(30)).await;
    }
    tokio::time::sleep(SETTLE).await;
    let before = agents[0].cpu();
    tokio::time::sleep(WATCH).await;
    let share = (agents[0].cpu() - before).as_secs_f64() / WATCH.as_secs_f64();
    let resident = agents[0].resident_kib();
    let state = agents[0].admin.state().await.expect("the admin port answers");
    let up = state.peers.iter().filter(|p| p.state == portolan::health::PeerState::Up).count();
    let good = resident <= MAX_RESIDENT_KIB && share < MAX_CPU_SHARE && up == 3;
    let mut out = std::io::stdout().lock();
    let _written = writeln!(
        out,
        "idle with {up} peers up, {} services: {resident} KiB resident (bound {MAX_RESIDENT_KIB}), \
         {:.2} % of a core (bound {} %): {}",
        state.services.len(),
        share * 100.0,
        MAX_CPU_SHARE * 100.0,
        if good { "ok" } else { "MISSED" }
    );
    if good { std::process::ExitCode::SUCCESS } else { std::process::ExitCode::FAILURE }
}
