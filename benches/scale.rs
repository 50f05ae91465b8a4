//! Ten thousand services: how long a start takes and how fast a change is seen in DNS.
//!
//! `cargo bench --bench scale` prints each figure with its bound: start to ready (from nothing,
//! and again from saved state), as one file each and as one file; a changed manifest until DNS
//! answers it, median and worst of ten, a second apart (changes in a row share ten tables a second).

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use portolan::clock;
use portolan::testing::{Process, World, dns_query};

const SERVICES: usize = 10_000;
const CHANGES: usize = 10;
const APART: Duration = Duration::from_secs(1);
const MAX_START: Duration = Duration::from_secs(3);
const PATIENCE: Duration = Duration::from_secs(60);

fn manifest(name: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{ namespace: shop, name: {name} }}\n\
         spec: {{ ports: [ {{ name: http, port: 80 }} ] }}\n---\n\
         apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  namespace: shop\n  \
         name: {name}-1\n  labels: {{ kubernetes.io/service-name: {name} }}\naddressType: IPv4\n\
         ports: [ {{ name: http, port: 8080 }} ]\nendpoints: [ {{ addresses: [\"10.1.2.3\"] }} ]\n\
         ---\napiVersion: multicluster.x-k8s.io/v1beta1\nkind: ServiceExport\n\
         metadata: {{ namespace: shop, name: {name} }}\n"
    )
}

struct Row {
    what: String,
    took: Duration,
    bound: Duration,
}

async fn start(world: &World) -> (Process, Duration) {
    let config = world.write_config("paris", |_| Vec::new());
    let mut agent = Process::start(env!("CARGO_BIN_EXE_portolan"), &config, world.admin("paris"));
    let took = agent.ready(PATIENCE).await;
    (agent, took)
}

/// Until the name has an address.
async fn seen(dns: SocketAddr, name: &str, since: Instant) -> Duration {
    loop {
        let answer = dns_query(dns, &format!("{name}.shop.svc.clusterset.local")).await;
        if answer.is_ok_and(|addresses| !addresses.is_empty()) {
            return clock::now() - since;
        }
        assert!(clock::now() - since < PATIENCE, "{name} was never answered");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

async fn many_files(rows: &mut Vec<Row>) {
    let world = wide_world();
    for number in 0..SERVICES {
        world.manifest("paris", &format!("s{number}.yaml"), &manifest(&format!("s{number}")));
    }
    let (mut agent, took) = start(&world).await;
    rows.push(Row { what: "start, one file each".into(), took, bound: MAX_START });
    agent.kill();
    let (agent, took) = start(&world).await;
    rows.push(Row { what: "start again, from saved state".into(), took, bound: MAX_START });
    let mut times = Vec::new();
    for number in 0..CHANGES {
        let name = format!("new{number}");
        tokio::time::sleep(APART).await;
        let since = clock::now();
        world.manifest("paris", &format!("{name}.yaml"), &manifest(&name));
        times.push(seen(world.dns("paris"), &name, since).await);
    }
    push_changes(rows, "change, one file each", times, Duration::from_millis(200));
    drop(agent);
}

async fn one_file(rows: &mut Vec<Row>) {
    let world = wide_world();
    let mut text = String::new();
    for number in 0..SERVICES {
        writeln!(text, "{}---", manifest(&format!("s{number}"))).expect("a string takes text");
    }
    world.manifest("paris", "all.yaml", &text);
    let (agent, took) = start(&world).await;
    rows.push(Row { what: "start, one file".into(), took, bound: MAX_START });
    let mut times = Vec::new();
    for number in 0..CHANGES {
        let name = format!("new{number}");
        writeln!(text, "{}---", manifest(&name)).expect("a string takes text");
        tokio::time::sleep(APART).await;
        let since = clock::now();
        world.manifest("paris", "all.yaml", &text);
        times.push(seen(world.dns("paris"), &name, since).await);
    }
    push_changes(rows, "change, one file", times, Duration::from_secs(1));
    drop(agent);
}

/// A world with room for every address; nothing listens on them.
fn wide_world() -> World {
    let mut world = World::new(&["paris"]);
    world.set_vips("10.255.0.0/16");
    world
}

fn push_changes(rows: &mut Vec<Row>, what: &str, mut times: Vec<Duration>, bound: Duration) {
    times.sort();
    rows.push(Row { what: format!("{what}, median"), took: times[times.len() / 2], bound });
    rows.push(Row { what: format!("{what}, worst"), took: times[times.len() - 1], bound });
}

#[tokio::main]
async fn main() -> ExitCode {
    let mut rows = Vec::new();
    many_files(&mut rows).await;
    one_file(&mut rows).await;
    let mut out = std::io::stdout().lock();
    let mut good = true;
    for row in &rows {
        let ok = row.took <= row.bound;
        good &= ok;
        let mark = if ok { "ok" } else { "MISSED" };
        let _written = writeln!(
            out,
            "{SERVICES} services: {:<36} {:>7.0} ms (bound {:>5} ms) {mark}",
            row.what,
            row.took.as_secs_f64() * 1e3,
            row.bound.as_millis()
        );
    }
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
