//! A cluster with a thousand exported Services of ten endpoints each, held by a fake API server.
//!
//! `cargo bench --bench kube` prints each figure with its bound: how long the server takes to be
//! filled, to be listed in pages, and how many changes of slices in a second reach a watch (the
//! server runs in this process; these are the bounds within which an agent can be measured); then
//! what an agent of that cluster, which imports all it exports, holds in memory and costs idle.

use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use futures_util::{Stream, StreamExt};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, Config};
use portolan::clock;
use portolan::testing::Process;
use portolan::testing::kube::ApiServer;

const SERVICES: u32 = 1_000;
const ENDPOINTS: u32 = 10;
/// Changes of slices in the burst; a second is given to make them.
const CHANGES: u32 = 1_000;
/// What one slice may hold in no real cluster.
const HOSTILE: u32 = 100_000;
const PORT: u16 = 80;
const TARGET_PORT: u16 = 8080;

/// The agent writes six objects per import at 200 a second.
const SETTLE: Duration = Duration::from_secs(45);
const WATCH: Duration = Duration::from_secs(20);
const MAX_RESIDENT_KIB: u64 = 64 * 1024;
const MAX_CPU_SHARE: f64 = 0.02;

struct Row {
    what: &'static str,
    took: Duration,
    bound: Duration,
}

fn key(number: u32) -> String {
    format!("shop/s{number}")
}

/// The endpoints of a Service; another generation has other ones.
fn endpoints(number: u32, generation: u32, count: u32) -> Vec<IpAddr> {
    let first = 0x0a80_0000 + (generation % 2) * (1 << 20) + number * ENDPOINTS;
    (first..first + count).map(|bits| Ipv4Addr::from_bits(bits).into()).collect()
}

fn fill(server: &ApiServer) {
    for number in 0..SERVICES {
        server.export(&key(number), PORT, TARGET_PORT, &endpoints(number, 0, ENDPOINTS));
    }
}

/// A slice that no server would take from a client.
fn hostile(server: &ApiServer) {
    let mut slice = server.get("endpointslices", "shop/s0-ipv4").expect("filled");
    let addresses = endpoints(0, 1, HOSTILE);
    slice["metadata"]["name"] = "hostile".into();
    slice["endpoints"] =
        addresses.iter().map(|a| serde_json::json!({ "addresses": [a.to_string()] })).collect();
    server.raw(slice);
}

async fn until_listed(
    events: &mut (impl Stream<Item = watcher::Result<Event<EndpointSlice>>> + Unpin),
) {
    while let Some(event) = events.next().await {
        if matches!(event.expect("nothing fails"), Event::InitDone) {
            return;
        }
    }
}

async fn measure(server: &ApiServer, since: Instant, rows: &mut Vec<Row>) {
    let filled = clock::now();
    rows.push(Row { what: "filled", took: filled - since, bound: Duration::from_secs(2) });
    let config = Config::new(server.url().parse().expect("a URL"));
    let client = Client::try_from(config).expect("a client");
    let slices: Api<EndpointSlice> = Api::all(client);
    let mut events = Box::pin(watcher(slices, watcher::Config::default()));
    until_listed(&mut events).await;
    let listed = clock::now();
    rows.push(Row { what: "listed", took: listed - filled, bound: Duration::from_secs(1) });
    tokio::select! {
        event = events.next() => panic!("nothing changes yet: {event:?}"),
        () = server.await_watches("endpointslices", 1) => {}
    }
    let before = clock::now();
    for number in 0..CHANGES {
        let service = number % SERVICES;
        server.endpoints(&key(service), TARGET_PORT, &endpoints(service, 1, ENDPOINTS));
    }
    rows.push(Row {
        what: "burst made",
        took: clock::now() - before,
        bound: Duration::from_secs(1),
    });
    for _ in 0..CHANGES {
        let event = events.next().await;
        assert!(matches!(event, Some(Ok(Event::Apply(_)))), "a change: {event:?}");
    }
    rows.push(Row {
        what: "burst seen",
        took: clock::now() - before,
        bound: Duration::from_secs(2),
    });
    let before = clock::now();
    hostile(server);
    let event = events.next().await;
    assert!(matches!(event, Some(Ok(Event::Apply(_)))), "the hostile slice");
    rows.push(Row {
        what: "100 000 endpoints in a slice",
        took: clock::now() - before,
        bound: Duration::from_secs(2),
    });
}

/// An agent of the cluster; whether it kept its bounds.
async fn agent() -> bool {
    let server = ApiServer::start().await;
    fill(&server);
    let namespace = serde_json::json!({ "name": "portolan-system" });
    server
        .put(serde_json::json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": namespace }));
    let dir = tempfile::TempDir::new().expect("a temporary directory");
    let config = dir.path().join("paris.yaml");
    let text = format!(
        "cluster: paris\n\
         source: {{ kubernetes: {{ server: '{}', namespace: portolan-system }} }}\n\
         gateway: {{ listen: '127.90.0.1:8443' }}\n\
         dns: {{ listen: '127.90.0.1:5353' }}\n\
         admin: {{ listen: '127.90.0.1:9900' }}\n",
        server.url()
    );
    std::fs::write(&config, text).expect("a writable directory");
    let admin = "127.90.0.1:9900".parse().expect("an address");
    let mut agent = Process::start(env!("CARGO_BIN_EXE_portolan"), &config, admin);
    let begun = clock::now();
    agent.ready(Duration::from_secs(30)).await;
    let ready = clock::now() - begun;
    tokio::time::sleep(SETTLE).await;
    let before = agent.cpu();
    tokio::time::sleep(WATCH).await;
    let share = (agent.cpu() - before).as_secs_f64() / WATCH.as_secs_f64();
    let resident = agent.resident_kib();
    let imports = server.list("serviceimports").len();
    let good = resident <= MAX_RESIDENT_KIB && share < MAX_CPU_SHARE;
    let mut out = std::io::stdout().lock();
    let _written = writeln!(
        out,
        "agent, {imports} imports: ready {:.2} s, {resident} KiB resident (bound {MAX_RESIDENT_KIB}), \
         idle {:.2} % of a core (bound {} %): {}",
        ready.as_secs_f64(),
        share * 100.0,
        MAX_CPU_SHARE * 100.0,
        if good { "ok" } else { "MISSED" }
    );
    good
}

#[tokio::main]
async fn main() -> ExitCode {
    let agent = agent().await;
    let server = ApiServer::start().await;
    let mut rows = Vec::new();
    let since = clock::now();
    fill(&server);
    measure(&server, since, &mut rows).await;
    let mut out = std::io::stdout().lock();
    let mut good = agent;
    for row in &rows {
        let ok = row.took <= row.bound;
        good &= ok;
        let _written = writeln!(
            out,
            "{SERVICES} services x {ENDPOINTS}: {:<28} {:>7.1} ms (bound {:>5} ms) {}",
            row.what,
            row.took.as_secs_f64() * 1e3,
            row.bound.as_millis(),
            if ok { "ok" } else { "MISSED" }
        );
    }
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
