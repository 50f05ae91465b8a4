//! What one message costs between the sockets: `dns::respond` parses, looks up and writes.
//!
//! `cargo bench --bench answer` measures it with criterion over 4 096 random names of 10 000, one
//! thread, sockets and metrics left out, and fails when a median is above 250 ns. Time is the CPU
//! time of the thread, so that a busy machine changes less.

use std::fs;
use std::hint::black_box;
use std::io::{self, Write as _};
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use criterion::Criterion;
use criterion::measurement::{Measurement, ValueFormatter, WallTime};
use portolan::clock;
use portolan::dns::{Answers, Limiter, Policy, Received, Transport, respond};
use portolan::model::DnsName;
use portolan::testing::table::Tables;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use rustix::time::{ClockId, clock_gettime};
use tempfile::TempDir;

const NAMES: u32 = 10_000;
const ASKED: usize = 4_096;
const SEED: u64 = 7;
const MOST_NS: f64 = 250.0;
const GROUP: &str = "answer";
const ZONE: &str = "clusterset.local";
/// An OPT record: payload 1 232, no options.
const EDNS: [u8; 11] = [0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0];
/// Response codes, as the answers must have them.
const NOERROR: u8 = 0;
const NXDOMAIN: u8 = 3;
const REFUSED: u8 = 5;

/// One kind of question.
struct Case {
    name: &'static str,
    /// The name of service `number`.
    asks: fn(number: u32) -> String,
    edns: bool,
    rcode: u8,
}

const CASES: [Case; 4] = [
    Case { name: "hit", asks: existing, edns: false, rcode: NOERROR },
    Case { name: "hit with EDNS", asks: existing, edns: true, rcode: NOERROR },
    Case {
        name: "NXDOMAIN",
        asks: |number| format!("nosuch-{number}.ns-{}.svc.{ZONE}", number % 100),
        edns: false,
        rcode: NXDOMAIN,
    },
    Case {
        name: "REFUSED",
        asks: |number| format!("svc-{number}.ns-{}.svc.cluster.local", number % 100),
        edns: false,
        rcode: REFUSED,
    },
];

fn existing(number: u32) -> String {
    format!("svc-{number}.ns-{}.svc.{ZONE}", number % 100)
}

fn answers() -> Answers {
    let tables = (0..NAMES).fold(Tables::new("paris"), |tables, number| {
        let key = format!("ns-{}/svc-{number}", number % 100);
        let vip = Ipv4Addr::from(0x0A64_0000 + number).to_string();
        tables.vip(&key, &[&vip], &["http:TCP:80"], &["paris"])
    });
    let zone = DnsName::parse(ZONE).expect("a name");
    Answers::compile(&tables.build(), &zone, None)
}

/// A message that asks for the address of `name`.
fn message(name: &str, edns: bool) -> Vec<u8> {
    let mut octets = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, u8::from(edns)];
    for label in name.split('.') {
        octets.push(u8::try_from(label.len()).expect("a short label"));
        octets.extend(label.bytes());
    }
    octets.extend([0, 0, 1, 0, 1]);
    if edns {
        octets.extend(EDNS);
    }
    octets
}

fn measure(criterion: &mut Criterion<ThreadTime>) {
    let answers = answers();
    let policy = Policy { ttl_seconds: 5, allow: Vec::new(), forwarders: Vec::new() };
    let source = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let now = clock::now();
    let mut group = criterion.benchmark_group(GROUP);
    for Case { name, asks, edns, rcode } in CASES {
        let mut random = StdRng::seed_from_u64(SEED);
        let messages: Vec<Vec<u8>> =
            (0..ASKED).map(|_| message(&asks(random.random_range(0..NAMES)), edns)).collect();
        let mut limiter = Limiter::default();
        let mut out = Vec::with_capacity(2048);
        let mut ask = |message: &[u8]| {
            let received = Received { message, transport: Transport::Udp, source, now };
            black_box(respond(received, &policy, &answers, Some(&mut limiter), &mut out));
            black_box(out[3] & 0xF)
        };
        assert!(messages.iter().all(|message| ask(message) == rcode), "{name}: another code");
        let mut next = 0;
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                next = (next + 1) % ASKED;
                ask(black_box(&messages[next]))
            });
        });
    }
    group.finish();
}

/// CPU time of this thread, shown as time is.
struct ThreadTime(WallTime);

impl Measurement for ThreadTime {
    type Intermediate = Duration;
    type Value = Duration;

    fn start(&self) -> Duration {
        let time = clock_gettime(ClockId::ThreadCPUTime);
        Duration::try_from(time).expect("a clock that is not negative")
    }

    fn end(&self, begun: Duration) -> Duration {
        self.start() - begun
    }

    fn add(&self, one: &Duration, other: &Duration) -> Duration {
        *one + *other
    }

    fn zero(&self) -> Duration {
        Duration::ZERO
    }

    fn to_f64(&self, value: &Duration) -> f64 {
        value.as_secs_f64() * 1e9
    }

    fn formatter(&self) -> &dyn ValueFormatter {
        self.0.formatter()
    }
}

/// The median that criterion wrote down; none where it was told to measure something else.
fn median(results: &Path, case: &str) -> Option<f64> {
    let written = results.join(GROUP).join(case).join("new/estimates.json");
    let text = fs::read_to_string(written).ok()?;
    let estimates: serde_json::Value = serde_json::from_str(&text).ok()?;
    estimates["median"]["point_estimate"].as_f64()
}

fn main() -> io::Result<ExitCode> {
    let results = TempDir::new()?;
    let mut criterion = Criterion::default()
        .with_measurement(ThreadTime(WallTime))
        .output_directory(results.path())
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(3))
        .configure_from_args();
    measure(&mut criterion);
    criterion.final_summary();
    let mut good = true;
    let mut out = io::stdout().lock();
    for Case { name, .. } in CASES {
        let Some(took) = median(results.path(), name) else { continue };
        let held = took <= MOST_NS;
        good &= held;
        let verdict = if held { "ok" } else { "MISSED" };
        writeln!(out, "{name:<14} {took:>6.0} ns (bound {MOST_NS}): {verdict}")?;
    }
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
