//! Replicas of one cluster in process, over loopback.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use prometheus::Registry;
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::link::{Reader, Writer, hello};
use super::*;
use crate::clock;
use crate::drain::{Phase, Trigger};
use crate::model::{PortNumber, Protocol};
use crate::testing::trust;
use crate::tls::{Handlers, Limits, Listener};
use crate::wire::sibling::{Body, Pong, State};

/// Longer than anything here takes on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(30);

async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("it happens")
}

fn ports(numbers: &[u16]) -> Arc<OpenPorts> {
    let number = |n: &u16| (Protocol::Tcp, PortNumber::new((*n).into()).unwrap());
    Arc::new(numbers.iter().map(number).collect())
}

fn folder() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    trust::init(dir.path(), "paris");
    dir
}

/// The gateway port of a replica, and what siblings send there.
struct Port {
    trust: Trust,
    listener: Listener,
    handlers: Handlers,
    accepted: mpsc::Receiver<Accepted>,
    registry: Registry,
}

fn port(dir: &Path) -> Port {
    let (trust, registry) = trust::open(dir, "paris");
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let listener = Listener::bind(any, trust.clone(), Limits::default()).unwrap();
    let (sibling, accepted) = mpsc::channel(64);
    let (control, data) = (mpsc::channel(1).0, mpsc::channel(1).0);
    let handlers = Handlers { control, data, sibling: Some(sibling) };
    Port { trust, listener, handlers, accepted, registry }
}

fn config(uid: &str) -> Config {
    let replica = ReplicaId::from_u64(rand::random());
    Config { replica, uid: uid.into(), addresses: Vec::new() }
}

struct Replica {
    member: Member,
    open: watch::Sender<Arc<OpenPorts>>,
    members: watch::Sender<Arc<Vec<Member>>>,
    view: watch::Receiver<Arc<SiblingView>>,
    registry: Registry,
    trigger: Trigger,
    tasks: JoinSet<()>,
}

impl Replica {
    fn start(dir: &Path, uid: &str) -> Self {
        Self::with(dir, config(uid))
    }

    fn with(dir: &Path, config: Config) -> Self {
        let Port { trust, listener, handlers, accepted, registry } = port(dir);
        let uid = config.uid.clone();
        let name = format!("portolan-{uid}").into();
        let member = Member { name, uid, addresses: vec![listener.local_addr()] };
        let (open, opened) = watch::channel(Arc::default());
        let (members, listed) = watch::channel(Arc::default());
        let (seen, view) = watch::channel(Arc::default());
        let (trigger, drain) = drain::channel();
        let metrics = Metrics::register(&registry).unwrap();
        let dialer = Dialer::new(trust.clone());
        let siblings = Siblings::new(config, dialer, trust, listed, opened, metrics);
        let mut tasks = JoinSet::new();
        tasks.spawn(siblings.run(accepted, seen, drain.clone()));
        tasks.spawn(async move { listener.run(handlers, drain).await.unwrap() });
        Self { member, open, members, view, registry, trigger, tasks }
    }

    fn know(&self, members: &[&Member]) {
        self.members.send_replace(Arc::new(members.iter().copied().cloned().collect()));
    }

    /// Waits until this is seen of a sibling.
    async fn sees(&mut self, uid: &str, mut test: impl FnMut(&Sibling) -> bool) -> Sibling {
        let view = self.view.wait_for(|view| view.siblings.get(uid).is_some_and(&mut test));
        soon(view).await.unwrap().siblings[uid].clone()
    }

    fn silences(&self, reason: &str) -> f64 {
        let families = self.registry.gather();
        let all = families.iter().filter(|f| f.name() == "portolan_sibling_silences_total");
        all.flat_map(|family| family.get_metric())
            .filter(|metric| metric.get_label()[0].value() == reason)
            .map(|metric| metric.get_counter().get_value())
            .sum()
    }
}

/// Two that know one another.
async fn pair() -> (TempDir, Replica, Replica) {
    let dir = folder();
    let (mut one, mut two) = (Replica::start(dir.path(), "one"), Replica::start(dir.path(), "two"));
    for replica in [&one, &two] {
        replica.know(&[&one.member, &two.member]);
    }
    one.sees("two", Sibling::is_alive).await;
    two.sees("one", Sibling::is_alive).await;
    (dir, one, two)
}

#[tokio::test]
async fn each_sees_the_other_and_itself_and_what_is_open() {
    let (_dir, mut one, mut two) = pair().await;
    for open in [ports(&[20_000, 20_001]), ports(&[20_001]), ports(&[])] {
        two.open.send_replace(Arc::clone(&open));
        let seen = one.sees("two", |two| two.open == open).await;
        assert!(seen.is_alive() && !seen.draining);
        assert_eq!(seen.name, two.member.name);
        let own = two.sees("two", |own| own.open == open).await;
        assert!(own.is_alive());
    }
    let view = Arc::clone(&one.view.borrow());
    assert_eq!(view.siblings.len(), 2);
    let count = |registry: &Registry, state: &str| {
        let families = registry.gather();
        let all = families.iter().find(|family| family.name() == "portolan_siblings").unwrap();
        let of = |m: &&prometheus::proto::Metric| m.get_label()[0].value() == state;
        all.get_metric().iter().find(of).unwrap().get_gauge().get_value()
    };
    assert_eq!((count(&one.registry, "alive"), count(&one.registry, "new")), (1.0, 0.0));
}

#[tokio::test]
async fn one_that_drains_says_so_and_goes_on_answering() {
    let (_dir, mut one, mut two) = pair().await;
    two.open.send_replace(ports(&[20_000]));
    one.sees("two", |two| two.open == ports(&[20_000])).await;
    two.trigger.advance(Phase::Announced);
    assert!(one.sees("two", |two| two.draining).await.is_alive());
    assert!(two.sees("two", |own| own.draining).await.is_alive());
    // It listens no more, but what is connected stays so.
    two.trigger.advance(Phase::Draining);
    soon(two.tasks.join_next()).await.unwrap().unwrap();
    two.open.send_replace(ports(&[]));
    assert!(one.sees("two", |two| two.open.is_empty()).await.is_alive());
}

#[tokio::test]
async fn a_dead_process_is_silent_at_once_and_its_successor_starts_with_nothing_open() {
    let (dir, mut one, two) = pair().await;
    two.open.send_replace(ports(&[20_000]));
    one.sees("two", |two| two.open == ports(&[20_000])).await;
    let Replica { mut tasks, member, .. } = two;
    tasks.shutdown().await;
    let silent = one.sees("two", |two| two.silent_since().is_some()).await;
    assert_eq!(silent.open, ports(&[20_000]), "what it had last");
    assert_eq!((one.silences("refused"), one.silences("unanswered")), (1.0, 0.0));

    // The same pod, another process: it is found at its new port.
    let again = Replica::start(dir.path(), "two");
    one.know(&[&one.member, &again.member]);
    assert!(one.sees("two", Sibling::is_alive).await.open.is_empty());
    assert_ne!(again.member.addresses, member.addresses);
}

#[tokio::test]
async fn one_that_is_no_member_any_more_is_not_seen() {
    let (_dir, mut one, _two) = pair().await;
    one.know(&[&one.member]);
    soon(one.view.wait_for(|view| !view.siblings.contains_key("two"))).await.unwrap();
    assert!(one.view.borrow().siblings.contains_key("one"));
}

#[tokio::test]
async fn an_address_of_our_own_or_of_another_pod_is_no_sibling() {
    let dir = folder();
    let own = Config { addresses: vec![Ipv4Addr::LOCALHOST.into()], ..config("one") };
    let mut one = Replica::with(dir.path(), own);
    let nameless = Member { uid: "unknown".into(), ..one.member.clone() };
    one.know(&[&nameless]);
    // This process under a UID that it does not know itself by.
    assert!(one.sees("unknown", Sibling::is_alive).await.is_alive());

    let mut watcher = Replica::start(dir.path(), "watcher");
    let gone = Member { uid: "gone".into(), ..one.member.clone() };
    watcher.know(&[&gone, &one.member]);
    watcher.sees("one", Sibling::is_alive).await;
    assert_eq!(watcher.view.borrow().siblings["gone"].condition, Condition::New);
}

/// A replica that answers as long as it is told to, and otherwise only accepts, as a process does
/// that is stopped.
struct Fake {
    member: Member,
    answers: Arc<AtomicBool>,
    /// When it last answered.
    answered: watch::Receiver<Instant>,
    _tasks: JoinSet<()>,
    _trigger: Trigger,
}

impl Fake {
    fn start(dir: &Path) -> Self {
        let Port { listener, handlers, mut accepted, registry, .. } = port(dir);
        let addresses = vec![listener.local_addr()];
        let member = Member { name: "fake".into(), uid: "fake".into(), addresses };
        let answers = Arc::new(AtomicBool::new(true));
        let (told, answered) = watch::channel(clock::now());
        let (trigger, drain) = drain::channel();
        let metrics = Metrics::register(&registry).unwrap();
        let config = Arc::new(config("fake"));
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { listener.run(handlers, drain).await.unwrap() });
        let willing = Arc::clone(&answers);
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Some(connection) = accepted.recv().await {
                let (reader, writer) = tokio::io::split(connection.stream);
                let mut reader = Reader::new(reader, metrics.clone());
                let mut writer = Writer::new(writer, metrics.clone());
                let (willing, told) = (Arc::clone(&willing), told.clone());
                let config = Arc::clone(&config);
                connections.spawn(async move {
                    let is_willing = || willing.load(Ordering::Relaxed);
                    while let Ok(body) = reader.next(PATIENCE).await {
                        let sent = match body {
                            _ if !is_willing() => Ok(()),
                            Body::Hello(_) => match writer.send(hello(&config)).await {
                                Ok(()) => {
                                    let open = ports(&[20_000]);
                                    let state = State::new(open.iter(), false);
                                    writer.send(Body::State(state)).await
                                }
                                failed => failed,
                            },
                            Body::Ping(ping) => {
                                told.send_replace(clock::now());
                                writer.send(Body::Pong(Pong { number: ping.number })).await
                            }
                            Body::State(_) | Body::Pong(_) => panic!("only questions"),
                        };
                        if sent.is_err() {
                            return;
                        }
                    }
                });
            }
        });
        Self { member, answers, answered, _tasks: tasks, _trigger: trigger }
    }
}

#[tokio::test]
async fn a_stopped_process_is_silent_in_time_and_alive_once_it_runs_again() {
    let dir = folder();
    let mut one = Replica::start(dir.path(), "one");
    let fake = Fake::start(dir.path());
    one.know(&[&one.member, &fake.member]);
    one.sees("fake", Sibling::is_alive).await;
    fake.answers.store(false, Ordering::Relaxed);
    let silent = one.sees("fake", |fake| fake.silent_since().is_some()).await;
    let took = silent.silent_since().unwrap().duration_since(*fake.answered.borrow());
    // 1.5 s, and what a loaded machine adds.
    let bounds = Duration::from_millis(1_400)..Duration::from_millis(2_500);
    assert!(bounds.contains(&took), "{took:?}");
    assert_eq!((one.silences("refused"), one.silences("unanswered")), (0.0, 1.0));
    assert_eq!(silent.open, ports(&[20_000]));
    fake.answers.store(true, Ordering::Relaxed);
    one.sees("fake", Sibling::is_alive).await;
}

#[tokio::test]
async fn one_that_never_answered_is_new() {
    let dir = folder();
    let mut one = Replica::start(dir.path(), "one");
    let fake = Fake::start(dir.path());
    fake.answers.store(false, Ordering::Relaxed);
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let nobody = Member { name: "x".into(), uid: "x".into(), addresses: vec![closed] };
    let nowhere = Member { name: "y".into(), uid: "y".into(), addresses: vec![] };
    let (_dir, two) = (folder(), Replica::start(dir.path(), "two"));
    one.know(&[&fake.member, &nobody, &nowhere, &two.member]);
    one.sees("two", Sibling::is_alive).await;
    for uid in ["fake", "x", "y"] {
        assert_eq!(one.view.borrow().siblings[uid].condition, Condition::New);
    }
}

#[tokio::test]
async fn hostile_bytes_end_a_session_and_nothing_else() {
    let (dir, mut one, two) = pair().await;
    let (trust, _) = trust::open(dir.path(), "paris");
    let dialer = Dialer::new(trust);
    let hello = {
        let mut bytes = bytes::BytesMut::new();
        crate::wire::sibling::encode(hello(&config("evil")), &mut bytes);
        bytes
    };
    // Over the cap; no message; a State where a question belongs; a second Hello.
    for bytes in [&[0xff, 0xff, 0xff, 0x7f][..], &[2, 0x0a, 9], &[2, 0x12, 0], &hello[..]] {
        let to = two.member.addresses[0];
        let dialed = dialer.dial(&trust::cluster("paris"), to, crate::tls::Kind::Sibling).await;
        let mut stream = dialed.unwrap().stream;
        stream.write_all(&hello).await.unwrap();
        // It may be gone before it was all written.
        let _gone = stream.write_all(bytes).await;
        let ended = async {
            let mut scratch = [0; 1024];
            while !matches!(
                tokio::io::AsyncReadExt::read(&mut stream, &mut scratch).await,
                Ok(0) | Err(_)
            ) {}
        };
        soon(ended).await;
    }
    two.open.send_replace(ports(&[20_000]));
    assert!(one.sees("two", |two| two.open == ports(&[20_000])).await.is_alive());
}
