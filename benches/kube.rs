//! A cluster with a thousand exported Services of ten endpoints each, held by a fake API server.
//!
//! `cargo bench --bench kube` prints each figure with its bound: how long the server takes to be
//! filled, to be listed in pages, and how many changes of slices in a second reach a watch (the
//! server runs in this process; these are the bounds within which an agent can be measured); then
//! what an agent of that cluster, which imports all it exports, holds in memory and costs idle; and
//! of two families how long it takes to rewrite all imports, to follow a burst of changes, and to
//! switch all of them from the own pods to the gateway.

use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use futures_util::{Stream, StreamExt};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, Config};
use portolan::clock;
use portolan::testing::Process;
use portolan::testing::kube::ApiServer;
use serde_json::{Value, json};
use tempfile::TempDir;

const SERVICES: u32 = 1_000;
const ENDPOINTS: u32 = 10;
/// Changes of slices in the burst; a second is given to make them.
const CHANGES: u32 = 1_000;
/// What one slice may hold in no real cluster.
const HOSTILE: u32 = 100_000;
const PORT: u16 = 80;
const TARGET_PORT: u16 = 8080;

/// The agent writes five times per import of one family, at 400 a second after the first 2 000.
const SETTLE: Duration = Duration::from_secs(30);
const WATCH: Duration = Duration::from_secs(20);
const MAX_RESIDENT_KIB: u64 = 64 * 1024;
const MAX_CPU_SHARE: f64 = 0.02;
/// Until all imports of two families are made for the first time, and how often that is looked at.
const MADE: Duration = Duration::from_secs(120);
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// So many Services change in the burst, round after round.
const CHANGING: u32 = 50;
/// The slices of an import of two families: for kube-proxy and for people.
const SLICES_EACH: usize = 4;

struct Row {
    what: &'static str,
    took: Duration,
    bound: Duration,
}

fn key(number: u32) -> String {
    format!("shop/s{number}")
}

/// The endpoints of a Service; another generation (below 64) has other ones.
fn endpoints(number: u32, generation: u32, count: u32) -> Vec<IpAddr> {
    let first = 0x0a00_0000 + (generation << 16) + number * ENDPOINTS;
    (first..first + count).map(|bits| Ipv4Addr::from_bits(bits).into()).collect()
}

/// The same in both families.
fn dual_stack(number: u32, generation: u32) -> Vec<IpAddr> {
    let v4 = endpoints(number, generation, ENDPOINTS);
    let in_v6 = |address: &IpAddr| match address {
        IpAddr::V4(v4) => {
            IpAddr::V6(Ipv6Addr::from_bits((0xfd00 << 112) | u128::from(v4.to_bits())))
        }
        IpAddr::V6(_) => *address,
    };
    let v6: Vec<_> = v4.iter().map(in_v6).collect();
    v4.into_iter().chain(v6).collect()
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

/// An agent of the cluster that `server` holds, on a loopback address of its own.
fn start(server: &ApiServer, dir: &TempDir, host: &str) -> Process {
    let namespace = json!({ "name": "portolan-system" });
    server.put(json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": namespace }));
    let config = dir.path().join("paris.yaml");
    let text = format!(
        "cluster: paris\n\
         source: {{ kubernetes: {{ server: '{}', namespace: portolan-system }} }}\n\
         gateway: {{ listen: '{host}:8443' }}\n\
         dns: {{ listen: '{host}:5353' }}\n\
         admin: {{ listen: '{host}:9900' }}\n",
        server.url()
    );
    std::fs::write(&config, text).expect("a writable directory");
    let admin = format!("{host}:9900").parse().expect("an address");
    Process::start(env!("CARGO_BIN_EXE_portolan"), &config, admin)
}

/// An agent of the cluster; whether it kept its bounds.
async fn agent() -> bool {
    let server = ApiServer::start().await;
    fill(&server);
    let dir = TempDir::new().expect("a temporary directory");
    let mut agent = start(&server, &dir, "127.90.0.1");
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

/// The slices that the agent wrote.
fn ours(server: &ApiServer) -> Vec<Value> {
    let label = "/metadata/labels/endpointslice.kubernetes.io~1managed-by";
    let ours = |slice: &Value| slice.pointer(label).is_some_and(|by| by == "portolan.dev");
    server.list("endpointslices").into_iter().filter(ours).collect()
}

fn feeds_proxy(slice: &Value) -> bool {
    slice.pointer("/metadata/labels/kubernetes.io~1service-name").is_some()
}

/// Whether a slice begins with an address of that generation.
fn is_of(slice: &Value, generation: u32) -> bool {
    let bits = match first(slice) {
        Some(IpAddr::V4(v4)) => v4.to_bits(),
        Some(IpAddr::V6(v6)) => u32::try_from(v6.to_bits() & 0xffff_ffff).unwrap_or_default(),
        None => return false,
    };
    bits >> 16 == 0x0a00 + generation
}

fn first(slice: &Value) -> Option<IpAddr> {
    slice.pointer("/endpoints/0/addresses/0")?.as_str()?.parse().ok()
}

/// How long it takes from `since` until all slices of the agent are as they should be.
async fn until(
    server: &ApiServer,
    since: Instant,
    patience: Duration,
    are: impl Fn(&[Value]) -> bool,
) -> Duration {
    loop {
        let looked = clock::now();
        if are(&ours(server)) {
            return looked - since;
        }
        if looked - since > patience {
            return patience;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// A cluster of two families that imports what it exports, with one gateway pod.
fn fill_two_families(server: &ApiServer, gateway: [&str; 2]) {
    for number in 0..SERVICES {
        let metadata = json!({ "namespace": "shop", "name": format!("s{number}") });
        server.put(json!({
            "apiVersion": "v1", "kind": "Service", "metadata": metadata,
            "spec": {
                "ipFamilyPolicy": "PreferDualStack",
                "ports": [{ "name": "http", "port": PORT, "targetPort": TARGET_PORT }],
            },
        }));
        server.endpoints(&key(number), TARGET_PORT, &dual_stack(number, 0));
        server.put(json!({
            "apiVersion": "multicluster.x-k8s.io/v1beta1", "kind": "ServiceExport",
            "metadata": metadata,
        }));
    }
    server.put(json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": { "namespace": "portolan-system", "name": "portolan" },
        "spec": { "ports": [{ "name": "gateway", "port": 8443 }] },
    }));
    // Without a pod's name: that is how the agent, which knows of no pod of its own, finds itself.
    for (family, address) in ["IPv4", "IPv6"].into_iter().zip(gateway) {
        server.put(json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": family,
            "metadata": {
                "namespace": "portolan-system", "name": format!("portolan-{}", family.to_lowercase()),
                "labels": { "kubernetes.io/service-name": "portolan" },
            },
            "ports": [{ "name": "gateway", "port": 8443 }],
            "endpoints": [{ "addresses": [address], "conditions": { "ready": true } }],
        }));
    }
}

/// What an agent rewrites, and how fast.
async fn rewrite(rows: &mut Vec<Row>) {
    let server = ApiServer::start().await;
    let gateway = ["127.91.0.1", "fd00:9::1"];
    fill_two_families(&server, gateway);
    let dir = TempDir::new().expect("a temporary directory");
    let mut agent = start(&server, &dir, gateway[0]);
    let since = clock::now();
    agent.ready(Duration::from_secs(30)).await;
    let all = SERVICES as usize * SLICES_EACH;
    let of = |generation: u32| {
        move |slices: &[Value]| {
            slices.len() == all && slices.iter().all(|slice| is_of(slice, generation))
        }
    };
    let took = until(&server, since, MADE, of(0)).await;
    rows.push(Row { what: "imports of two families made", took, bound: MADE });

    // The budget is whole again.
    tokio::time::sleep(WATCH).await;
    let since = clock::now();
    for number in 0..SERVICES {
        server.endpoints(&key(number), TARGET_PORT, &dual_stack(number, 1));
    }
    let took = until(&server, since, MADE, of(1)).await;
    rows.push(Row { what: "all of them rewritten", took, bound: Duration::from_secs(15) });

    tokio::time::sleep(WATCH).await;
    rows.push(Row {
        what: "after 1 000 changes in a second",
        took: burst(&server).await,
        bound: Duration::from_millis(500),
    });

    tokio::time::sleep(WATCH).await;
    let since = clock::now();
    for number in 0..SERVICES {
        server.change("serviceexports", &key(number), |export| {
            export["metadata"]["annotations"] = json!({ "portolan.dev/local": "gateway" });
        });
    }
    let led = |slice: &Value| first(slice).is_some_and(|to| gateway.contains(&&*to.to_string()));
    let took = until(&server, since, MADE, |slices| {
        let proxied = || slices.iter().filter(|slice| feeds_proxy(slice));
        proxied().count() == all / 2 && proxied().all(led)
    });
    rows.push(Row {
        what: "all of them switched",
        took: took.await,
        bound: Duration::from_secs(6),
    });
}

/// Changes some Services again and again for a second; how long after the last change all of their
/// slices are right.
async fn burst(server: &ApiServer) -> Duration {
    let services: Vec<String> = (0..CHANGING).map(|number| format!("s{number}")).collect();
    let label = "/metadata/labels/portolan.dev~1service";
    let name = |slice: &Value| {
        let service = slice.pointer(label)?.as_str()?;
        let known = services.iter().any(|known| known == service);
        known.then(|| format!("shop/{}", slice["metadata"]["name"].as_str().unwrap_or_default()))
    };
    let names: Vec<String> = ours(server).iter().filter_map(name).collect();
    let begun = clock::now();
    for change in 0..CHANGES {
        tokio::time::sleep_until((begun + Duration::from_millis(change.into())).into()).await;
        let (number, round) = (change % CHANGING, change / CHANGING);
        server.endpoints(&key(number), TARGET_PORT, &dual_stack(number, 2 + round));
    }
    let last = 2 + (CHANGES - 1) / CHANGING;
    let since = clock::now();
    let right =
        |name: &String| server.get("endpointslices", name).is_some_and(|slice| is_of(&slice, last));
    while !names.iter().all(right) && clock::now() - since < MADE {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    clock::now() - since
}

#[tokio::main]
async fn main() -> ExitCode {
    let agent = agent().await;
    let server = ApiServer::start().await;
    let mut rows = Vec::new();
    let since = clock::now();
    fill(&server);
    measure(&server, since, &mut rows).await;
    rewrite(&mut rows).await;
    let mut out = std::io::stdout().lock();
    let mut good = agent;
    for row in &rows {
        let ok = row.took <= row.bound;
        good &= ok;
        let _written = writeln!(
            out,
            "{SERVICES} services x {ENDPOINTS}: {:<34} {:>7.1} ms (bound {:>5} ms) {}",
            row.what,
            row.took.as_secs_f64() * 1e3,
            row.bound.as_millis(),
            if ok { "ok" } else { "MISSED" }
        );
    }
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
