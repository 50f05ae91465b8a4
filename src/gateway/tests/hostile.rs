//! Peers and addresses that do their worst, and permits that must come back.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::sites::{Loops, Mesh, Site, pair, pair_with};
use super::{accept, pass, read_some, read_to_reset, soon, until, write};
use crate::catalog::CallerRules;
use crate::clock;
use crate::gateway::Config;
use crate::health::{Fact, Pace, ProbeKind};
use crate::model::ClusterId;

/// Passes connections on, to one address until it is told of another.
async fn front(first: SocketAddr) -> (SocketAddr, watch::Sender<SocketAddr>, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (leads, to) = watch::channel(first);
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut passing = JoinSet::new();
        while let Ok((mut from, _)) = listener.accept().await {
            let to = *to.borrow();
            passing.spawn(async move {
                if let Ok(mut to) = TcpStream::connect(to).await {
                    let _ended = tokio::io::copy_bidirectional(&mut from, &mut to).await;
                }
            });
        }
    });
    (address, leads, tasks)
}

#[tokio::test]
async fn a_replica_that_a_shared_address_does_not_lead_to_has_not_failed() {
    let mesh = Mesh::new(&["paris", "oregon"]);
    let mut paris = Site::start(&mesh, "paris", Loops::Probing);
    let meant = Site::start(&mesh, "oregon", Loops::Quiet);
    let other = Site::start(&mesh, "oregon", Loops::Quiet);
    let (address, leads, _front) = front(meant.address).await;
    paris.know("oregon", address, Some(meant.replica));
    let peer = ClusterId::parse("oregon").unwrap();
    paris.table.peers.get_mut(&peer).unwrap().health.replicas[0].pace = Pace::Quick;
    paris.publish();
    let stands = |fact: &Fact| matches!(fact, Fact::ProbeAnswered { kind, .. } if *kind == ProbeKind::Standing);
    paris.fact(stands).await;
    leads.send_replace(other.address);
    let (mut voids, mut answers) = (0, 0);
    while voids < 3 || answers < 3 {
        let of_meant = |fact: &Fact| match fact {
            Fact::ProbeVoid { target, .. }
            | Fact::ProbeFailed { target, .. }
            | Fact::ProbeAnswered { target, .. } => target.replica == meant.replica,
            _ => false,
        };
        match paris.fact(of_meant).await {
            Fact::ProbeVoid { kind: ProbeKind::Fresh, .. } => voids += 1,
            Fact::ProbeAnswered { .. } => answers += 1,
            other => panic!("{other:?}"),
        }
    }
}

/// A way that forgets connections, as a NAT does: what comes on them is swallowed and nobody is
/// told. New ones pass.
struct Nat {
    address: SocketAddr,
    forgotten: watch::Sender<u32>,
    /// Connections that pass.
    open: Arc<AtomicUsize>,
    /// Connections that were forgotten and that the dialler keeps.
    stale: Arc<AtomicUsize>,
    _tasks: JoinSet<()>,
}

impl Nat {
    async fn before(to: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (forgotten, epoch) = watch::channel(0);
        let (open, stale) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (mut tasks, counts) = (JoinSet::new(), (Arc::clone(&open), Arc::clone(&stale)));
        tasks.spawn(async move {
            let mut passing = JoinSet::new();
            while let Ok((mut from, _)) = listener.accept().await {
                let (mut epoch, (open, stale)) = (epoch.clone(), counts.clone());
                epoch.mark_unchanged();
                passing.spawn(async move {
                    let mut to = TcpStream::connect(to).await.unwrap();
                    open.fetch_add(1, Ordering::Relaxed);
                    let passed = tokio::io::copy_bidirectional(&mut from, &mut to);
                    let is_forgotten = tokio::select! {
                        _ended = passed => false,
                        _ = epoch.changed() => true,
                    };
                    open.fetch_sub(1, Ordering::Relaxed);
                    if is_forgotten {
                        stale.fetch_add(1, Ordering::Relaxed);
                        let _ended = tokio::io::copy(&mut from, &mut tokio::io::sink()).await;
                        stale.fetch_sub(1, Ordering::Relaxed);
                    }
                });
            }
        });
        Self { address, forgotten, open, stale, _tasks: tasks }
    }

    /// Forgets all connections there are; how many.
    async fn forget(&self) -> usize {
        let count = self.open.load(Ordering::Relaxed);
        self.forgotten.send_modify(|epoch| *epoch += 1);
        until(|| self.stale.load(Ordering::Relaxed) >= count).await;
        count
    }
}

#[tokio::test]
async fn n14_a_forgotten_idle_connection_is_found_out_and_no_client_notices() {
    let mesh = Mesh::new(&["paris", "oregon"]);
    let mut paris = Site::start(&mesh, "paris", Loops::Quiet);
    let mut oregon = Site::start(&mesh, "oregon", Loops::Quiet);
    let (backend, address) = super::backend().await;
    oregon.export(&[address], CallerRules::default());
    let nat = Nat::before(oregon.address).await;
    paris.know("oregon", nat.address, Some(oregon.replica));
    paris.import(&["oregon"]).await;
    let serve = async || {
        let mut client = soon(paris.client()).await;
        let mut server = accept(&backend).await;
        write(&mut client, b"hello").await;
        assert_eq!(read_some(&mut server, 5).await, b"hello");
        (client, server)
    };
    drop(serve().await);
    let calm = || paris.gateway.shared.streams.matching(|_| true).is_empty();
    until(|| calm() && nat.open.load(Ordering::Relaxed) >= 1).await;
    // Idle connections are pinged after 10 s of silence and given up 10 s later.
    let (stale, began) = (nat.forget().await, clock::now());
    until(|| nat.stale.load(Ordering::Relaxed) == 0).await;
    let took = clock::now() - began;
    assert!(stale > 0 && took < Duration::from_secs(24), "{stale} were kept for {took:?}");
    drop(serve().await);
    // And where nothing has been found out yet, the client waits a little and that is all.
    until(|| calm() && nat.open.load(Ordering::Relaxed) >= 1).await;
    nat.forget().await;
    drop(serve().await);
}

/// Writes until the other side has taken nothing for a while.
async fn fill(socket: &mut TcpStream) {
    let chunk = vec![9; 64 * 1024];
    let calm = Duration::from_millis(500);
    while let Ok(written) = tokio::time::timeout(calm, socket.write(&chunk)).await {
        written.unwrap();
    }
}

#[tokio::test]
async fn a_stream_whose_opener_is_gone_ends_though_its_backend_reads_nothing() {
    let pair = pair().await;
    let mut client = pair.paris.client().await;
    let mut server = accept(&pair.backend).await;
    fill(&mut client).await;
    let held = |site: &Site| site.gateway.shared.streams.matching(|_| true).len();
    assert_eq!((held(&pair.paris), held(&pair.oregon)), (1, 1));
    SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
    drop(client);
    // Its octets fill every buffer on the way, so nothing that is said of its end gets through.
    until(|| held(&pair.paris) == 0).await;
    assert_eq!(pair.paris.ended("outbound", "oregon", "app_reset"), 1);
    // A minute, and as long as the rest may need to be delivered.
    pass(90).await;
    until(|| held(&pair.oregon) == 0).await;
    assert_eq!(pair.oregon.ended("inbound", "paris", "peer_lost"), 1);
    assert!(!read_to_reset(&mut server).await.is_empty(), "what had come is delivered");
}

#[tokio::test]
async fn a_stream_whose_backend_is_only_slow_lives_on() {
    let pair = pair().await;
    let mut client = pair.paris.client().await;
    let mut server = accept(&pair.backend).await;
    fill(&mut client).await;
    // Longer than a gone opener is given.
    pass(90).await;
    assert_eq!(pair.oregon.gateway.shared.streams.matching(|_| true).len(), 1);
    write(&mut server, b"still here").await;
    assert_eq!(read_some(&mut client, 10).await, b"still here");
}

#[tokio::test]
async fn a_peer_keeps_no_more_idle_connections_than_it_may() {
    let config = Config { idle_per_peer: 4, ..Config::default() };
    let pair = pair_with(config).await;
    let shared = &pair.paris.gateway.shared;
    let peer = ClusterId::parse("oregon").unwrap();
    let mut idle = Vec::new();
    while idle.len() < 10 {
        let Ok(conn) = shared.dial(&peer, pair.oregon.address).await else { panic!("not let in") };
        idle.push(conn);
    }
    let (ended, mut waiting) = (Arc::new(AtomicUsize::new(0)), JoinSet::new());
    for mut conn in idle {
        let ended = Arc::clone(&ended);
        waiting.spawn(async move {
            let mut payload = Vec::new();
            while conn.event(&mut payload).await.is_ok() {}
            ended.fetch_add(1, Ordering::Relaxed);
        });
    }
    until(|| ended.load(Ordering::Relaxed) >= 6).await;
    // A stream is served all the same, on a connection of its own.
    let mut client = soon(pair.paris.client()).await;
    let mut server = accept(&pair.backend).await;
    write(&mut client, b"hello").await;
    assert_eq!(read_some(&mut server, 5).await, b"hello");
}

#[tokio::test]
async fn all_places_of_peers_taken_are_said_at_once_and_clients_keep_theirs() {
    let mesh = Mesh::new(&["paris", "oregon"]);
    let config = Config { most_streams: 2, ..Config::default() };
    let mut paris = Site::start(&mesh, "paris", Loops::Quiet);
    let mut oregon = Site::with_config(&mesh, "oregon", Loops::Quiet, config);
    let (backend, address) = super::backend().await;
    oregon.export(&[address], CallerRules::default());
    paris.know("oregon", oregon.address, Some(oregon.replica));
    paris.import(&["oregon"]).await;
    let mut open = Vec::new();
    for _ in 0..2 {
        open.push((paris.client().await, accept(&backend).await));
    }
    let mut third = paris.client().await;
    let none = read_to_reset(&mut third).await;
    assert!(none.is_empty());
    assert!(
        paris.ended("outbound", "oregon", "overloaded") >= 1
            || oregon.ended("inbound", "paris", "overloaded") >= 1
    );
    drop(open);
    let mut client = paris.client().await;
    let mut server = accept(&backend).await;
    write(&mut client, b"again").await;
    assert_eq!(read_some(&mut server, 5).await, b"again");
}
