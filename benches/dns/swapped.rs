//! The library's server in a process of its own, with two route tables made beforehand that take
//! turns 100 times a second: compiled and put in force by the product's `Compiler`, as a published
//! table is, on the same CPU as the socket's loop. A whole agent makes at most ten tables a second.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use portolan::clock::now;
use portolan::dns::{
    Answers, Compiler, Config, DEFAULT_TCP_PER_SOURCE, DEFAULT_TCP_TOTAL, Io, Metrics, Server,
    SharedAnswers,
};
use portolan::drain;
use portolan::model::{DnsName, ServiceKey};
use portolan::routes::{Route, RouteTable};
use portolan::testing::table::Tables;
use prometheus::Registry;

use crate::options::Options;
use crate::process::{Running, on_cpu};
use crate::questions::{self, NAMES, Name, ZONE};
use crate::say;

/// Names that answer another address in the second table.
const CHANGED: u32 = 1_000;
const APART: Duration = Duration::from_millis(10);
/// After so many swaps the rate is said.
const SAID_EVERY: u32 = 50;
const SAID: &str = "swaps a second: ";
const CLUSTER: &str = "paris";
const TTL: u32 = 5;

/// The names of both tables.
pub(crate) fn names() -> Vec<Name> {
    let name = |number| {
        let first = Ipv4Addr::from(0x0A64_0000 + number);
        let second = Ipv4Addr::from(0x0AC8_0000 + number);
        let addresses = [first, if number < CHANGED { second } else { first }];
        Name { text: questions::name(number), addresses }
    };
    (0..NAMES).map(name).collect()
}

/// Starts it.
pub(crate) fn start(
    listen: SocketAddr,
    names: &Path,
    options: &Options,
    log: &Path,
) -> io::Result<Running> {
    let mut command: Command = on_cpu(options.server_cpu, &std::env::current_exe()?);
    command.args(["swapped", "--listen", &listen.to_string(), "--names"]).arg(names);
    Running::start(command, "the swapped server", log)
}

/// How fast tables are swapped, as the server said last.
pub(crate) fn rate(server: &Running) -> f64 {
    let said = server.said();
    let last = said.lines().rev().find_map(|line| line.strip_prefix(SAID));
    last.and_then(|number| number.parse().ok()).unwrap_or_default()
}

/// Serves until it is killed.
pub(crate) fn serve(listen: SocketAddr, names: &Path) -> io::Result<()> {
    let names = questions::read(names)?;
    let tables = tables(&names);
    let zone = DnsName::parse(ZONE).map_err(io::Error::other)?;
    let (mut compiler, answers) = SharedAnswers::new(&tables[0], &zone);
    let compiled = tables.each_ref().map(|table| Arc::new(Answers::compile(table, &zone, None)));
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let swaps = thread::spawn(move || swap(&mut compiler, &compiled));
    let (_trigger, watch) = drain::channel();
    runtime.block_on(async {
        let config = Config {
            listen: vec![listen],
            io: Io::Auto,
            ttl_seconds: TTL,
            allow: Vec::new(),
            forwarders: Vec::new(),
            tcp_per_source: DEFAULT_TCP_PER_SOURCE,
            tcp_total: DEFAULT_TCP_TOTAL,
        };
        let metrics = Metrics::register(&Registry::new()).map_err(io::Error::other)?;
        let server = Server::bind(config, answers, metrics).map_err(io::Error::other)?;
        server.run(watch).await.map_err(io::Error::other)
    })?;
    swaps.join().map_err(|_| io::Error::other("the swapping thread panicked"))?
}

fn swap(compiler: &mut Compiler, compiled: &[Arc<Answers>; 2]) -> io::Result<()> {
    let mut due: Instant = now();
    let mut said = due;
    loop {
        for count in 1..=SAID_EVERY {
            due += APART;
            thread::sleep(due.saturating_duration_since(now()));
            compiler.put(Arc::clone(&compiled[count as usize % compiled.len()]));
        }
        let time = now();
        let rate = f64::from(SAID_EVERY) / (time - said).as_secs_f64();
        say(&format!("{SAID}{rate:.1}"))?;
        said = time;
    }
}

/// Two tables that share every route but the changed ones.
fn tables(names: &[Name]) -> [RouteTable; 2] {
    let key = |number| {
        let (namespace, name) = questions::service(number);
        format!("{namespace}/{name}")
    };
    let tables = names.iter().zip(0..).fold(Tables::new(CLUSTER), |tables, (name, number)| {
        let address = name.addresses[0].to_string();
        tables.vip(&key(number), &[&address], &["http:TCP:80"], &[CLUSTER])
    });
    let first = tables.build();
    let mut second = first.clone();
    second.revision += 1;
    for (name, number) in names.iter().zip(0..CHANGED) {
        let key = ServiceKey::parse(&key(number)).expect("namespace/name");
        if let Some(route) = second.services.get_mut(&key) {
            let mut changed = Route::clone(route);
            changed.vips = vec![name.addresses[1].into()];
            *route = Arc::new(changed);
        }
    }
    [first, second]
}
