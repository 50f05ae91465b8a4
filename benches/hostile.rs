//! What hostile peers and strangers cost the others: memory, latency, streams.
//!
//! `cargo bench --bench hostile` attacks one replica of a cluster in several ways while another
//! cluster's clients go on, then kills and restarts the replicas of that cluster in turn. It
//! prints each figure with its bound and fails when one is missed: resident memory at most what
//! it was idle and 16 KiB for each admitted stream and 128 MiB; the p99 of a new connection within
//! 5 times the unloaded one; of the open streams only those on the killed replica break.
//! `-- --long` does a hundred kills instead of five. The attackers share the machine with what
//! they attack, so the latencies hold their cost too.

use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

use portolan::clock;
use portolan::testing::{Backend, Process, World};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;

#[path = "hostile/attacks.rs"]
mod attacks;
#[path = "hostile/kills.rs"]
mod kills;

const BINARY: &str = env!("CARGO_BIN_EXE_portolan");
const NAME: &str = "web.shop";
const PATIENCE: Duration = Duration::from_secs(60);
/// New connections of honest clients while a figure is taken, and between two of them.
const CALLS: u32 = 400;
const PAUSE: Duration = Duration::from_millis(10);
/// An attack is under way for so long before its effect is measured.
const WARM_UP: Duration = Duration::from_secs(2);
const MOST_SLOWER: f64 = 5.0;
/// What else the machine does may spoil a round, which is then made again, and counted.
const MOST_ROUNDS: u32 = 3;
/// Below this the machine's own unsteadiness is all that is seen.
const LEAST_BASE: Duration = Duration::from_millis(2);
const MOST_GROWTH_KIB: u64 = 128 * 1024;
const PER_STREAM_KIB: u64 = 16;
const KILLS: u32 = 5;
const KILLS_LONG: u32 = 100;

/// paris calls; oregon, of two replicas, serves; tokyo is the peer that turns bad.
struct Scene {
    world: World,
    paris: Process,
    oregon: [Process; 2],
    vip: SocketAddr,
    echo: Backend,
}

impl Scene {
    async fn new() -> Self {
        let world = World::new(&["paris", "oregon", "tokyo"]);
        let echo = Backend::echo(Ipv4Addr::LOCALHOST.into()).await;
        world.export("oregon", "shop/web", 80, &[echo.address]);
        let oregon = [1, 2].map(|which| start_oregon(&world, which));
        let replicas: Vec<SocketAddr> =
            [1, 2].map(|which| (world.host("oregon", which), 8443).into()).to_vec();
        let config = world.write_config("paris", |peer| match peer {
            "oregon" => replicas.clone(),
            _ => vec![world.gateway(peer)],
        });
        let paris = Process::start(BINARY, &config, world.admin("paris"));
        let mut scene = Self { world, paris, oregon, vip: ([127, 0, 0, 1], 0).into(), echo };
        for agent in [&mut scene.paris].into_iter().chain(&mut scene.oregon) {
            agent.ready(PATIENCE).await;
        }
        scene.vip = scene.address().await;
        scene
    }

    /// The clusterset address, once it leads to oregon.
    async fn address(&self) -> SocketAddr {
        let deadline = clock::now() + PATIENCE;
        loop {
            if let Ok(service) = self.paris.admin.explain(NAME).await
                && service.candidates.first().is_some_and(|c| c.usable)
                && let (Some(ip), Some(port)) = (service.ips.first(), service.ports.first())
            {
                let vip = SocketAddr::new(*ip, port.port.get());
                if call(vip).await.is_some() {
                    return vip;
                }
            }
            assert!(clock::now() < deadline, "{NAME} never led to oregon:\n{}", self.paris.log());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn agents(&self) -> [&Process; 3] {
        [&self.paris, &self.oregon[0], &self.oregon[1]]
    }

    /// What each has used so far.
    fn cpu(&self) -> [Duration; 3] {
        self.agents().map(Process::cpu)
    }

    /// The largest of the agents, in KiB.
    fn resident(&self) -> u64 {
        self.agents().map(Process::resident_kib).into_iter().max().unwrap_or(0)
    }
}

fn start_oregon(world: &World, which: u8) -> Process {
    let file = world.write_replica("oregon", which, |peer| vec![world.gateway(peer)]);
    Process::start(BINARY, &file, (world.host("oregon", which), 9900).into())
}

/// One new connection and an echo over it.
async fn call(vip: SocketAddr) -> Option<Duration> {
    let began = clock::now();
    let served = async {
        let mut stream = TcpStream::connect(vip).await.ok()?;
        stream.write_all(b"ping").await.ok()?;
        stream.read_exact(&mut [0; 4]).await.ok()?;
        Some(clock::now() - began)
    };
    tokio::time::timeout(Duration::from_secs(10), served).await.ok()?
}

struct Calls {
    p99: Duration,
    failed: usize,
}

/// Made by a thread of their own, which waits for no attacker's task.
async fn calls(vip: SocketAddr) -> Calls {
    let made = tokio::task::spawn_blocking(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(call_often(vip))
    });
    made.await.expect("it does not panic")
}

async fn call_often(vip: SocketAddr) -> Calls {
    let mut under_way = JoinSet::new();
    for _ in 0..CALLS {
        under_way.spawn(call(vip));
        tokio::time::sleep(PAUSE).await;
    }
    let all = under_way.join_all().await;
    let mut took: Vec<Duration> = all.iter().copied().flatten().collect();
    took.sort_unstable();
    let p99 = took.get(took.len() * 99 / 100).copied().unwrap_or(Duration::MAX);
    Calls { p99, failed: all.len() - took.len() }
}

/// A connection from a loopback address of its own choice.
async fn from(source: Ipv4Addr, to: SocketAddr) -> Option<TcpStream> {
    let socket = TcpSocket::new_v4().ok()?;
    socket.bind((source, 0).into()).ok()?;
    socket.connect(to).await.ok()
}

fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    // Nobody may be reading any more.
    let _unread = writeln!(out, "{text}");
}

#[tokio::main]
async fn main() -> ExitCode {
    let kills = if std::env::args().any(|a| a == "--long") { KILLS_LONG } else { KILLS };
    let mut scene = Scene::new().await;
    let mut good = true;
    let before = calls(scene.vip).await;
    let idle = scene.resident();
    let base = before.p99.max(LEAST_BASE);
    say(&format!("unloaded: p99 {:?}, {} failed, {idle} KiB resident", before.p99, before.failed));
    // The honest backend must not wait for an attacker's task either.
    let elsewhere = tokio::runtime::Runtime::new().expect("a runtime");
    for attack in attacks::ALL {
        let mut attackers = {
            let _theirs = elsewhere.enter();
            (attack.begin)(&scene)
        };
        tokio::time::sleep(WARM_UP).await;
        let (cpu, began) = (scene.cpu(), clock::now());
        let (mut seen, mut rounds) = (calls(scene.vip).await, 1);
        while seen.p99.as_secs_f64() > MOST_SLOWER * base.as_secs_f64() && rounds < MOST_ROUNDS {
            seen = calls(scene.vip).await;
            rounds += 1;
        }
        let spent = scene.cpu().into_iter().zip(cpu).map(|(now, before)| now - before).max();
        let share = spent.unwrap_or_default().as_secs_f64() / (clock::now() - began).as_secs_f64();
        let (resident, slower) = (scene.resident(), seen.p99.as_secs_f64() / base.as_secs_f64());
        attackers.shutdown().await;
        let most = idle + PER_STREAM_KIB * u64::from(CALLS) + MOST_GROWTH_KIB;
        let held = resident <= most && slower <= MOST_SLOWER && seen.failed == 0;
        good &= held;
        say(&format!(
            "{}: p99 {:?} ({slower:.1} of {MOST_SLOWER}, round {rounds}), {} failed, {resident} KiB (bound {most}), \
             {:.0} % of a core: {}",
            attack.name,
            seen.p99,
            seen.failed,
            share * 100.0,
            if held { "ok" } else { "MISSED" }
        ));
    }
    elsewhere.shutdown_background();
    good &= kills::run(&mut scene, kills).await;
    let panics = scene.agents().map(|agent| agent.log().contains("panicked"));
    good &= !panics.contains(&true);
    say(&format!("backend connections in all: {}", scene.echo.accepted()));
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
