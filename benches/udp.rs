//! New UDP sessions through two gateways: a thousand a second, each answered, at the session cap of
//! a machine with 20 000 descriptors, over two connections per peer replica.
//!
//! `cargo bench --bench udp` runs for 10 s, `-- --seconds 60` for as long as the bound says. Every
//! session is a client of its own that asks once, at its instant, and never again; a figure with
//! its bound is printed for what was lost, what was dropped, how many sessions were known at the
//! end, the connections, and the time to the answer. CPU is that of both agents, per session.

use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use portolan::clock;
use portolan::testing::{PATIENCE, Process, World};
use rustix::process::{Resource, Rlimit, setrlimit};
use tokio::net::UdpSocket;
use tokio::task::JoinSet;

const DESCRIPTORS: u64 = 20_000;
const SESSIONS: f64 = 5_000.0;
const RATE: u32 = 1_000;
const SECONDS: u32 = 10;
/// An answer later than this is lost.
const ANSWER: Duration = Duration::from_secs(5);
const DATAGRAM: [u8; 512] = [7; 512];
/// What both agents may need for one session.
const MOST_CPU: Duration = Duration::from_micros(1_000);
/// Ends of sessions that may be on their way when both sides are asked.
const CROSSING: f64 = 50.0;
/// Clients come from so many addresses, so that none of their ports comes again too soon.
const SOURCES: u32 = 200;

struct Row {
    what: String,
    is: f64,
    bound: &'static str,
    good: bool,
}

fn seconds() -> u32 {
    let mut arguments = std::env::args().skip_while(|argument| argument != "--seconds");
    arguments.nth(1).and_then(|seconds| seconds.parse().ok()).unwrap_or(SECONDS)
}

async fn echo(socket: UdpSocket) {
    let mut buffer = vec![0; 2048];
    while let Ok((octets, from)) = socket.recv_from(&mut buffer).await {
        // Nobody waits for an answer that cannot be sent; the client counts it.
        let _lost = socket.send_to(&buffer[..octets], from).await;
    }
}

/// One client that asks once: the time to its answer.
async fn ask(vip: SocketAddr, number: u32) -> Option<Duration> {
    let source = Ipv4Addr::new(127, 77, 1, u8::try_from(number % SOURCES + 1).ok()?);
    let socket = UdpSocket::bind((source, 0)).await.ok()?;
    socket.connect(vip).await.ok()?;
    let begun = clock::now();
    socket.send(&DATAGRAM).await.ok()?;
    let mut buffer = [0; 1024];
    let octets = tokio::time::timeout(ANSWER, socket.recv(&mut buffer)).await.ok()?.ok()?;
    (buffer[..octets] == DATAGRAM).then(|| clock::now() - begun)
}

/// Starts one client at each instant; their times, and how many were never answered.
async fn load(vip: SocketAddr, seconds: u32) -> (Vec<Duration>, usize) {
    let begun = clock::now();
    let mut clients = JoinSet::new();
    for number in 0..RATE * seconds {
        let due: Instant = begun + Duration::from_secs(1) * number / RATE;
        tokio::time::sleep_until(due.into()).await;
        clients.spawn(ask(vip, number));
    }
    let all = clients.join_all().await;
    let lost = all.iter().filter(|took| took.is_none()).count();
    let mut took: Vec<Duration> = all.into_iter().flatten().collect();
    took.sort_unstable();
    (took, lost)
}

/// The sum of a metric over its labels, or over those that hold `label`.
async fn metric(agent: &Process, name: &str, label: &str) -> f64 {
    let text = agent.admin.metrics().await.expect("the admin port answers");
    let lines = text.lines().filter(|line| {
        line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']))
            && line.contains(label)
    });
    lines.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum()
}

/// Datagrams that the kernel dropped at a socket whose owner did not read in time.
fn kernel_drops(at: SocketAddr) -> f64 {
    let IpAddr::V4(ip) = at.ip() else { return 0.0 };
    let address = format!("{:08X}:{:04X}", u32::from_le_bytes(ip.octets()), at.port());
    let text = std::fs::read_to_string("/proc/net/udp").unwrap_or_default();
    let lines = text.lines().filter(|line| line.contains(&address));
    lines.filter_map(|line| line.split_whitespace().last()?.parse::<f64>().ok()).sum()
}

/// Why datagrams were dropped and how sessions ended, where either happened.
async fn reasons(agent: &Process) -> String {
    let text = agent.admin.metrics().await.expect("the admin port answers");
    let told = |line: &&str| {
        let counts = ["portolan_udp_dropped_total", "portolan_udp_sessions_total"];
        counts.iter().any(|name| line.starts_with(name)) && !line.ends_with(" 0")
    };
    text.lines().filter(told).map(|line| format!("  {line}\n")).collect()
}

async fn ready(agents: &mut [Process; 2]) -> SocketAddr {
    for agent in &mut *agents {
        agent.ready(PATIENCE).await;
    }
    let deadline = clock::now() + PATIENCE;
    loop {
        if let Ok(service) = agents[0].admin.explain("talk.shop").await
            && let (Some(ip), Some(port)) = (service.ips.first(), service.ports.first())
        {
            let vip = SocketAddr::new(*ip, port.port.get());
            if ask(vip, 0).await.is_some() {
                return vip;
            }
        }
        assert!(clock::now() < deadline, "the service was never answered");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn rows(took: &[Duration], lost: usize, seconds: u32) -> Vec<Row> {
    let at = |share: usize| took.get(took.len() * share / 1_000).copied().unwrap_or_default();
    let time = |what: &str, share| Row {
        what: format!("answer {what}, ms"),
        is: at(share).as_secs_f64() * 1e3,
        bound: "printed",
        good: true,
    };
    let asked = f64::from(RATE * seconds);
    vec![
        Row { what: "sessions begun".into(), is: asked, bound: "printed", good: true },
        Row { what: "not answered".into(), is: lost as f64, bound: "0", good: lost == 0 },
        time("p50", 500),
        time("p99", 990),
        time("p99.9", 999),
    ]
}

#[tokio::main]
async fn main() -> ExitCode {
    let limit = Rlimit { current: Some(DESCRIPTORS), maximum: Some(DESCRIPTORS) };
    setrlimit(Resource::Nofile, limit).expect("the limit may be lowered");
    let seconds = seconds();
    let world = World::new(&["paris", "oregon"]);
    let host: IpAddr = world.host("oregon", 2);
    let backend = UdpSocket::bind((host, 0)).await.expect("a free port");
    world.export_udp("oregon", "shop/talk", 5300, &[backend.local_addr().expect("bound")]);
    let mut tasks = JoinSet::new();
    let echoes = backend.local_addr().expect("bound");
    tasks.spawn(echo(backend));
    let mut agents = ["paris", "oregon"].map(|cluster| {
        let config = world.write_config(cluster, |peer| vec![world.gateway(peer)]);
        Process::start(env!("CARGO_BIN_EXE_portolan"), &config, world.admin(cluster))
    });
    let vip = ready(&mut agents).await;
    let before = [agents[0].cpu(), agents[1].cpu()];
    let (took, lost) = load(vip, seconds).await;
    let cpu = agents[0].cpu() + agents[1].cpu() - before[0] - before[1];
    let each = cpu / (RATE * seconds);
    let mut rows = rows(&took, lost, seconds);
    rows.push(Row {
        what: "CPU of both agents per session, µs".into(),
        is: each.as_secs_f64() * 1e6,
        bound: "1000",
        good: each <= MOST_CPU,
    });
    for (what, at) in [("paris's listener", vip), ("the backend", echoes)] {
        let what = format!("of these lost in the kernel at {what}");
        rows.push(Row { what, is: kernel_drops(at), bound: "printed", good: true });
    }
    let expected = SESSIONS.min(f64::from(RATE * seconds + 1));
    for (agent, of) in agents.iter().zip(["importer", "exporter"]) {
        let dropped = metric(agent, "portolan_udp_dropped_total", "").await;
        let open = metric(agent, "portolan_udp_sessions_open", "").await;
        let lanes = metric(agent, "portolan_udp_connections", "").await;
        for (what, is, bound, good) in [
            ("dropped", dropped, "0", dropped < 0.5),
            ("sessions known", open, "5000, the cap", (open - expected).abs() < CROSSING),
            ("connections", lanes, "2", (lanes - 2.0).abs() < 0.5),
        ] {
            rows.push(Row { what: format!("{of}: {what}"), is, bound, good });
        }
    }
    let told = [reasons(&agents[0]).await, reasons(&agents[1]).await].concat();
    let mut out = std::io::stdout().lock();
    let _written = write!(out, "{told}");
    for Row { what, is, bound, good } in &rows {
        let verdict = if *good { "ok" } else { "MISSED" };
        let _written = writeln!(out, "{what:<52} {is:>12.2}  bound {bound}: {verdict}");
    }
    if rows.iter().all(|row| row.good) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
