//! What crowds, bursts and a lack of descriptors cost the DNS server, against bounds.
//!
//! `cargo bench --bench dns_hostile` runs one agent per part, as a process of its own: 24 000 TCP
//! clients of four processes, each with a loopback address of its own, under the caps as they
//! come and under `dns.tcp_per_source: 2000`; a burst of 400 000 datagrams; an agent whose
//! descriptors are all in use. It prints each figure beside its bound and fails when one is
//! missed. `-- --long` does the crowds three times, ten times the burst, and starves for 30 s.
//!
//! A refused client counts from its `connect` to the end it sees, so its figure holds the wait
//! to be accepted and its own process's turn too. Crowds, bursts and the agent share the machine.

use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt as _;
use std::process::ExitCode;
use std::time::Duration;

use portolan::clock;
use portolan::testing::{Backend, PATIENCE, Process, World};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

#[path = "dns_hostile/burst.rs"]
mod burst;
#[path = "dns_hostile/client.rs"]
mod client;
#[path = "dns_hostile/crowd.rs"]
mod crowd;
#[path = "dns_hostile/starve.rs"]
mod starve;

const BINARY: &str = env!("CARGO_BIN_EXE_portolan");
/// Resident memory beyond what the agent had when nobody asked.
const MOST_GROWTH_KIB: u64 = 64 * 1024;
/// An agent that has just started settles for so long before it counts as idle.
const SETTLE: Duration = Duration::from_secs(2);

/// A figure with its bound.
struct Row {
    what: String,
    is: String,
    bound: String,
    good: bool,
}

impl Row {
    fn at_most(what: impl Into<String>, is: f64, most: f64, unit: &str) -> Self {
        let bound = format!("≤ {most} {unit}");
        Self { what: what.into(), is: format!("{is:.1} {unit}"), bound, good: is <= most }
    }

    fn exactly(what: impl Into<String>, is: usize, wanted: usize) -> Self {
        let (good, bound) = (is == wanted, format!("= {wanted}"));
        Self { what: what.into(), is: is.to_string(), bound, good }
    }

    fn printed(what: impl Into<String>, is: impl Into<String>) -> Self {
        Self { what: what.into(), is: is.into(), bound: "printed".into(), good: true }
    }
}

/// An agent with one name.
struct Stage {
    agent: Process,
    dns: SocketAddr,
    idle_kib: u64,
    _echo: Backend,
    /// Its folder, for as long as the agent runs.
    _world: World,
}

impl Stage {
    /// With this behind `dns:`, and at most so many open files.
    async fn new(dns: &str, descriptors: Option<u64>) -> Self {
        let world = World::new(&["paris"]);
        let echo = Backend::echo(Ipv4Addr::LOCALHOST.into()).await;
        world.export("paris", "shop/web", 80, &[echo.address]);
        let config = world.write_config("paris", |_| Vec::new());
        let text = std::fs::read_to_string(&config).expect("just written");
        let text = text.replace("dns: { ", &format!("dns: {{ {dns}"));
        std::fs::write(&config, text).expect("a writable folder");
        let binary = descriptors.map_or_else(|| BINARY.to_owned(), |most| limited(&world, most));
        let mut agent = Process::start(&binary, &config, world.admin("paris"));
        agent.ready(PATIENCE).await;
        let dns = world.dns("paris");
        let deadline = clock::now() + PATIENCE;
        while client::ask_udp(dns).await.is_none() {
            assert!(clock::now() < deadline, "DNS never answered:\n{}", agent.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        tokio::time::sleep(SETTLE).await;
        let idle_kib = agent.resident_kib();
        Self { _world: world, agent, dns, idle_kib, _echo: echo }
    }

    /// The largest resident memory, beside what the agent had idle.
    fn memory(&self, what: &str, most_kib: u64) -> Row {
        let grown = most_kib.saturating_sub(self.idle_kib);
        let what = format!("{what}: memory beyond {} KiB idle", self.idle_kib);
        Row::at_most(what, grown as f64, MOST_GROWTH_KIB as f64, "KiB")
    }

    /// How long its threads were ready to run and did not, in all.
    fn queued(&self) -> Duration {
        let tasks =
            std::fs::read_dir(format!("/proc/{}/task", self.agent.pid())).expect("it lives");
        let waited = tasks.flatten().filter_map(|task| {
            let text = std::fs::read_to_string(task.path().join("schedstat")).ok()?;
            text.split_whitespace().nth(1)?.parse::<u64>().ok()
        });
        Duration::from_nanos(waited.sum())
    }

    /// Connections that the agent holds now.
    async fn held(&self) -> Option<f64> {
        let text = self.agent.admin.metrics().await.ok()?;
        let line = text.lines().find(|line| line.starts_with("portolan_dns_tcp_connections "))?;
        line.rsplit(' ').next()?.parse().ok()
    }
}

/// The program behind a limit on its open files.
fn limited(world: &World, most: u64) -> String {
    let path = world.path().join("limited");
    let text = format!("#!/bin/sh\nulimit -n {most} && exec '{BINARY}' \"$@\"\n");
    std::fs::write(&path, text).expect("a writable folder");
    let mode = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(&path, mode).expect("own file");
    path.to_str().expect("a path in ASCII").to_owned()
}

/// As many descriptors as the system lets us.
fn raise_descriptors() {
    let maximum = getrlimit(Resource::Nofile).maximum;
    let limit = Rlimit { current: maximum, maximum };
    setrlimit(Resource::Nofile, limit).expect("the soft limit may be raised");
}

fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    // Nobody may be reading any more.
    let _unread = writeln!(out, "{text}");
}

fn main() -> ExitCode {
    raise_descriptors();
    let arguments: Vec<String> = std::env::args().collect();
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build();
    if let Some(at) = arguments.iter().position(|argument| argument == client::ROLE) {
        runtime().expect("a runtime").block_on(client::run(&arguments[at + 1..]));
        return ExitCode::SUCCESS;
    }
    let long = arguments.iter().any(|argument| argument == "--long");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let rows = runtime.block_on(async {
        let mut rows = Vec::new();
        for _ in 0..if long { 3 } else { 1 } {
            rows.extend(crowd::run(crowd::Caps::AsTheyCome).await);
            rows.extend(crowd::run(crowd::Caps::Wide).await);
        }
        rows.extend(burst::run(if long { 4_000_000 } else { 400_000 }).await);
        rows.extend(starve::run(Duration::from_secs(if long { 30 } else { 5 })).await);
        rows
    });
    for Row { what, is, bound, good } in &rows {
        let verdict = if *good { "ok" } else { "missed" };
        say(&format!("{what:<64} {is:>14}  {bound:<14} {verdict}"));
    }
    if rows.iter().all(|row| row.good) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
