//! Between a question and its answer nothing is allocated: not by what answers, of whatever kind
//! the answer is, and not by a thread that answers from a real socket.

#![allow(unsafe_code, reason = "only the allocator itself sees every allocation")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicU64, Ordering};

use hickory_proto::op::ResponseCode;
use ipnet::IpNet;
use portolan::dns::{
    Answers, Config, DEFAULT_TCP_PER_SOURCE, DEFAULT_TCP_TOTAL, Io, Limiter, Metrics, Policy,
    Received, Server, SharedAnswers, Transport, respond,
};
use portolan::model::DnsName;
use portolan::routes::RouteTable;
use portolan::testing::PATIENCE;
use portolan::testing::table::Tables;
use portolan::{clock, drain};
use prometheus::Registry;
use tokio::task::JoinSet;

thread_local! {
    static OWN: Cell<u64> = const { Cell::new(0) };
    /// Whether this is the test's thread, which allocates as it likes.
    static TEST: Cell<bool> = const { Cell::new(false) };
}

/// Allocations of all threads but the test's.
static OTHERS: AtomicU64 = AtomicU64::new(0);

struct Counting;

fn count() {
    OWN.set(OWN.get() + 1);
    if !TEST.get() {
        OTHERS.fetch_add(1, Ordering::SeqCst);
    }
}

// SAFETY: the system's allocator does it; here it is only counted, in cells that need neither an
// allocation nor a destructor.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promise, handed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: likewise.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: likewise.
        unsafe { System.realloc(at, layout, size) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

const WEB: &str = "web.shop.svc.clusterset.local";
const A: u16 = 1;

/// A question with its header; `additional` is the count that the header gives.
fn question(name: &str, qtype: u16, flags: u16, additional: u16) -> Vec<u8> {
    let mut octets: Vec<u8> = [0x1234, flags, 1, 0, 0, additional]
        .iter()
        .flat_map(|number: &u16| number.to_be_bytes())
        .collect();
    for label in name.split('.').filter(|label| !label.is_empty()) {
        octets.push(u8::try_from(label.len()).expect("a label"));
        octets.extend(label.as_bytes());
    }
    octets.push(0);
    octets.extend(qtype.to_be_bytes());
    octets.extend([0, 1]);
    octets
}

/// An OPT of that version; its payload is 1232.
fn with_opt(name: &str, qtype: u16, version: u8) -> Vec<u8> {
    let opt = [0, 0, 41, 4, 208, 0, version, 0x80, 0, 0, 0];
    [question(name, qtype, 0x0100, 1), opt.to_vec()].concat()
}

/// What each kind of question comes to.
fn kinds() -> Vec<(Vec<u8>, ResponseCode)> {
    let plain = |name: &str, qtype: u16| question(name, qtype, 0x0100, 0);
    vec![
        (plain(WEB, A), ResponseCode::NoError),
        (plain("WEB.Shop.svc.CLUSTERSET.local", A), ResponseCode::NoError),
        (with_opt(WEB, A, 0), ResponseCode::NoError),
        (plain("_http._tcp.web.shop.svc.clusterset.local", 33), ResponseCode::NoError),
        (plain("many.data.svc.clusterset.local", A), ResponseCode::NoError),
        (with_opt("_sql._tcp.many.data.svc.clusterset.local", 33, 0), ResponseCode::NoError),
        (plain("clusterset.local", 6), ResponseCode::NoError),
        (plain("clusterset.local", 255), ResponseCode::NoError),
        (plain(WEB, 28), ResponseCode::NoError),
        (plain("none.shop.svc.clusterset.local", A), ResponseCode::NXDomain),
        (with_opt("none.shop.svc.clusterset.local", A, 0), ResponseCode::NXDomain),
        (plain("example.org", A), ResponseCode::Refused),
        (plain(".", 2), ResponseCode::Refused),
        (plain(WEB, 252), ResponseCode::NotImp),
        (question(WEB, A, 0x2900, 0), ResponseCode::NotImp),
        (question(WEB, A, 0x0100, 1), ResponseCode::FormErr),
        ([plain(WEB, A), vec![0; 40]].concat(), ResponseCode::FormErr),
        (plain(WEB, A)[..20].to_vec(), ResponseCode::FormErr),
        (with_opt(WEB, A, 1), ResponseCode::BADVERS),
    ]
}

fn table() -> RouteTable {
    let pods: Vec<String> =
        (0..200).map(|n| Ipv4Addr::from_bits(0x0A09_0000 + n).to_string()).collect();
    let pods: Vec<&str> = pods.iter().map(String::as_str).collect();
    Tables::new("paris")
        .vip("shop/web", &["127.64.0.1"], &["http:TCP:80"], &["paris"])
        .headless("data/many", &["sql:TCP:5432"], &[("paris", &pods)])
        .build()
}

fn zone() -> DnsName {
    DnsName::parse("clusterset.local").expect("a name")
}

/// Any kind, any source, any transport; also what gets no answer.
fn respond_allocates_nothing() {
    let answers = Answers::compile(&table(), &zone(), None);
    let nets = |text: &str| -> Vec<IpNet> { vec![text.parse().expect("a network")] };
    let open = Policy { ttl_seconds: 5, allow: Vec::new(), forwarders: nets("198.51.100.0/24") };
    let closed = Policy { allow: nets("10.0.0.0/8"), ..open.clone() };
    let mut limiter = Limiter::default();
    let mut out = Vec::with_capacity(65_535 + 1024);
    let mut kinds: Vec<_> = kinds().into_iter().map(|(wire, code)| (wire, Some(code))).collect();
    kinds.push((question(WEB, A, 0x8180, 0), None));
    kinds.push((vec![0; 11], None));
    let sources = ["10.0.0.1", "203.0.113.9", "198.51.100.9", "2001:db8::1", "::ffff:10.0.0.1"];
    let sources = sources.map(|text| text.parse().expect("an address"));
    let before = OWN.get();
    for _ in 0..300 {
        for (wire, code) in &kinds {
            for source in sources {
                for transport in [Transport::Udp, Transport::Tcp] {
                    let received = Received { message: wire, transport, source, now: clock::now() };
                    let limiter = (transport == Transport::Udp).then_some(&mut limiter);
                    let said = respond(received, &open, &answers, limiter, &mut out);
                    let said = said.map(|said| u16::from(said.code));
                    assert_eq!(said, code.map(u16::from));
                    respond(received, &closed, &answers, None, &mut out);
                }
            }
        }
    }
    assert_eq!(OWN.get() - before, 0, "allocations of respond");
}

/// Asks every kind `rounds` times, so many at once as a batch holds.
fn ask(socket: &UdpSocket, kinds: &[(Vec<u8>, ResponseCode)], rounds: usize) {
    let mut octets = [0; 1500];
    for _ in 0..rounds {
        for some in kinds.chunks(32) {
            for (wire, _) in some {
                socket.send(wire).expect("sent");
            }
            for (wire, code) in some {
                let length = socket.recv(&mut octets).expect("an answer");
                assert!(length >= 12 && octets[..2] == wire[..2]);
                assert_eq!(u16::from(octets[3] & 15), u16::from(*code) & 15);
            }
        }
    }
}

/// Whole threads, from the kernel to the kernel, their counters included.
async fn lanes_allocate_nothing() {
    let config = Config {
        listen: vec![SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0))],
        io: Io::Batch,
        ttl_seconds: 5,
        allow: Vec::new(),
        forwarders: Vec::new(),
        tcp_per_source: DEFAULT_TCP_PER_SOURCE,
        tcp_total: DEFAULT_TCP_TOTAL,
    };
    let (_compiler, answers) = SharedAnswers::new(&table(), &zone());
    let metrics = Metrics::register(&Registry::new()).expect("a registry of its own");
    let server = Server::bind(config, answers, metrics).expect("a free port");
    let port = server.local_addrs()[0].port();
    let (trigger, watch) = drain::channel();
    let mut task = JoinSet::new();
    task.spawn(server.run(watch));
    // Starts the threads; from here on nothing needs the runtime.
    tokio::task::yield_now().await;
    let kinds = kinds();
    for _ in 0..8 {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a free port");
        socket.connect((Ipv4Addr::LOCALHOST, port)).expect("a route");
        socket.set_read_timeout(Some(PATIENCE)).expect("a time");
        // The thread's first batch, and what the system's library makes for a new thread.
        ask(&socket, &kinds, 10);
        let before = OTHERS.load(Ordering::SeqCst);
        ask(&socket, &kinds, 100);
        assert_eq!(OTHERS.load(Ordering::SeqCst) - before, 0, "allocations of a lane");
    }
    trigger.advance(drain::Phase::Draining);
    let ended = task.join_next().await.expect("the server").expect("no panic");
    ended.expect("a good end");
}

/// One test, so that no other's thread is counted.
#[test]
fn between_a_question_and_its_answer_nothing_is_allocated() {
    TEST.set(true);
    let before = (OWN.get(), OTHERS.load(Ordering::SeqCst));
    drop(std::hint::black_box(vec![1]));
    assert_eq!(OWN.get(), before.0 + 1, "allocations are counted");
    std::thread::spawn(|| drop(std::hint::black_box(vec![1]))).join().expect("no panic");
    assert!(OTHERS.load(Ordering::SeqCst) > before.1, "those of other threads too");
    respond_allocates_nothing();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(lanes_allocate_nothing());
}
