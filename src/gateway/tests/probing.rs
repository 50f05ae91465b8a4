//! Probes: what is reported, and what Down does to streams.

use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::fakes::{Fake, Script};
use super::sites::{Loops, Mesh, Pair, Site, pair};
use super::{accept, read_some, read_to_reset, write};
use crate::clock;
use crate::gateway::conn::Conn;
use crate::health::{Fact, Pace, PeerState, ProbeKind};
use crate::model::{ClusterId, ReplicaId};
use crate::tls::{Handlers, Limits, Listener};
use crate::wire::frame::{Acceptor, Control, Ready};

#[tokio::test]
async fn an_unknown_peer_is_found_and_pinged() {
    let mesh = Mesh::new(&["paris", "oregon"]);
    let mut paris = Site::start(&mesh, "paris", Loops::Probing);
    let oregon = Site::start(&mesh, "oregon", Loops::Quiet);
    paris.know("oregon", oregon.address, None);
    let Fact::Seen { target, .. } = paris.fact(|f| matches!(f, Fact::Seen { .. })).await else {
        unreachable!()
    };
    assert_eq!((target.replica, target.address), (oregon.replica, oregon.address));
    let answered = paris.fact(|f| matches!(f, Fact::ProbeAnswered { .. })).await;
    let Fact::ProbeAnswered { kind: ProbeKind::Standing, rtt, .. } = answered else {
        panic!("{answered:?}")
    };
    assert!(rtt < Duration::from_secs(5));
}

#[tokio::test]
async fn the_quick_pace_sends_old_and_fresh_in_turn() {
    let mesh = Mesh::new(&["paris", "oregon"]);
    let mut paris = Site::start(&mesh, "paris", Loops::Probing);
    let oregon = Site::start(&mesh, "oregon", Loops::Quiet);
    paris.know("oregon", oregon.address, Some(oregon.replica));
    let peer = ClusterId::parse("oregon").unwrap();
    paris.table.peers.get_mut(&peer).unwrap().health.replicas[0].pace = Pace::Quick;
    paris.publish();
    for kind in [ProbeKind::Standing, ProbeKind::Fresh, ProbeKind::Standing, ProbeKind::Fresh] {
        paris.fact(|f| matches!(f, Fact::ProbeAnswered { kind: k, .. } if *k == kind)).await;
    }
}

#[tokio::test]
async fn a_dead_peer_is_reported_lost_then_refused_then_failed() {
    let mesh = Mesh::new(&["paris", "oregon"]);
    let mut paris = Site::start(&mesh, "paris", Loops::Probing);
    let mut oregon = Site::start(&mesh, "oregon", Loops::Quiet);
    paris.know("oregon", oregon.address, Some(oregon.replica));
    paris.fact(|f| matches!(f, Fact::ProbeAnswered { kind: ProbeKind::Standing, .. })).await;
    oregon.tasks.abort_all();
    paris.fact(|f| matches!(f, Fact::StandingLost { .. })).await;
    paris.fact(|f| matches!(f, Fact::DialFailed { .. })).await;
    paris.fact(|f| matches!(f, Fact::ProbeFailed { kind: ProbeKind::Fresh, .. })).await;
}

#[tokio::test]
async fn another_replica_behind_the_address_is_seen_and_the_meant_one_fails() {
    let mesh = Mesh::new(&["paris", "oregon"]);
    let mut paris = Site::start(&mesh, "paris", Loops::Probing);
    let oregon = Site::start(&mesh, "oregon", Loops::Quiet);
    let gone = ReplicaId::from_u64(1);
    paris.know("oregon", oregon.address, Some(gone));
    let seen =
        |f: &Fact| matches!(f, Fact::Seen { target, .. } if target.replica == oregon.replica);
    paris.fact(seen).await;
    let failed = |f: &Fact| matches!(f, Fact::ProbeFailed { target, .. } if target.replica == gone);
    paris.fact(failed).await;
}

/// A relay that takes its time with each connection, as a long way does.
async fn far(to: std::net::SocketAddr, delay: Duration) -> (std::net::SocketAddr, JoinSet<()>) {
    let (listener, address) = super::backend().await;
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut relays = JoinSet::new();
        while let Ok((mut near, _)) = listener.accept().await {
            relays.spawn(async move {
                tokio::time::sleep(delay).await;
                let mut there = TcpStream::connect(to).await.unwrap();
                let _ended = tokio::io::copy_bidirectional(&mut near, &mut there).await;
            });
        }
    });
    (address, tasks)
}

#[tokio::test]
async fn a_replica_that_a_long_way_left_no_time_to_find_has_not_failed() {
    let mesh = Mesh::new(&["paris", "oregon"]);
    let mut paris = Site::start(&mesh, "paris", Loops::Probing);
    let oregon = Site::start(&mesh, "oregon", Loops::Quiet);
    // Two dials in the time of a probe, and both lead to the other replica.
    let (address, _relay) = far(oregon.address, Duration::from_millis(1_200)).await;
    let meant = ReplicaId::from_u64(1);
    paris.know("oregon", address, Some(meant));
    let of_it = |f: &Fact| match f {
        Fact::ProbeVoid { target, .. } | Fact::ProbeFailed { target, .. } => {
            target.replica == meant
        }
        _ => false,
    };
    let first = paris.fact(of_it).await;
    assert!(matches!(first, Fact::ProbeVoid { kind: ProbeKind::Fresh, .. }), "{first:?}");
    // It is not there all the same: enough dials, over several probes, say so.
    paris.fact(|f| of_it(f) && matches!(f, Fact::ProbeFailed { .. })).await;
}

#[tokio::test]
async fn a_peer_that_never_says_ready_fails_at_its_address() {
    let mesh = Mesh::new(&["paris", "oregon"]);
    let mut paris = Site::start(&mesh, "paris", Loops::Probing);
    let oregon = Fake::start(&mesh, "oregon", Script::CloseBeforeReady);
    paris.know("oregon", oregon.address, None);
    let failed =
        |f: &Fact| matches!(f, Fact::DialFailed { address, .. } if *address == oregon.address);
    paris.fact(failed).await;
    paris.fact(failed).await;
}

#[tokio::test]
async fn pings_under_way_when_the_leaf_ends_are_void() {
    let mesh = Mesh::new(&["paris", "oregon"]);
    let mut paris = Site::start(&mesh, "paris", Loops::Probing);
    let any = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
    let listener = Listener::bind(any, mesh.trust("oregon"), Limits::default()).unwrap();
    paris.know("oregon", listener.local_addr(), None);
    let (_trigger, drain) = crate::drain::channel();
    let ((control, _), (data, mut accepted)) = (mpsc::channel(1), mpsc::channel(64));
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        listener.run(Handlers { control, data, sibling: None }, drain).await.unwrap()
    });
    // It says who it is, and then reads nothing.
    tasks.spawn(async move {
        let mut deaf = Vec::new();
        while let Some(one) = accepted.recv().await {
            let expiry = one.peer.expires();
            let mut conn = Conn::<Acceptor>::new(one.stream, one.peer, one.remote, expiry);
            conn.queue(&Control::Ready(Ready { replica: ReplicaId::from_u64(7) }));
            conn.flush().await.unwrap();
            deaf.push(conn);
        }
    });
    let ping = paris.fact(|f| matches!(f, Fact::ProbeSent { kind: ProbeKind::Standing, .. })).await;
    let Fact::ProbeSent { id: sent, .. } = ping else { unreachable!() };
    crate::testing::trust::unpin(mesh.folder("paris").as_ref(), "oregon");
    assert!(paris.trust.reload());
    let void = paris.fact(|f| matches!(f, Fact::ProbeVoid { id, .. } if *id == sent)).await;
    assert!(matches!(void, Fact::ProbeVoid { kind: ProbeKind::Standing, .. }));
}

#[tokio::test]
async fn down_resets_what_heard_nothing_and_spares_what_answered() {
    let Pair { mut paris, oregon, backend, mesh: _mesh } = pair().await;
    let mut client = paris.client().await;
    let mut server = accept(&backend).await;
    write(&mut server, b"x").await;
    assert_eq!(read_some(&mut client, 1).await, b"x");
    let peer = ClusterId::parse("oregon").unwrap();
    // The stream heard something before the first miss: then the question reaches it, and the
    // answer is younger.
    tokio::time::sleep(Duration::from_millis(20)).await;
    let missed = clock::now();
    tokio::time::sleep(Duration::from_millis(20)).await;
    paris.table.peers.get_mut(&peer).unwrap().health.replicas[0].ask_streams = true;
    paris.publish();
    let streams = paris.gateway.shared.streams.clone();
    super::until(|| streams.matching(|live| live.heard() > missed).len() == 1).await;
    let down = |paris: &mut Site, since| {
        let health = &mut paris.table.peers.get_mut(&peer).unwrap().health;
        health.state = PeerState::Down;
        health.replicas[0].state = PeerState::Down;
        health.replicas[0].reset_unheard_since = Some(since);
        paris.publish();
    };
    down(&mut paris, missed);
    tokio::time::sleep(Duration::from_millis(700)).await;
    write(&mut server, b"y").await;
    assert_eq!(read_some(&mut client, 1).await, b"y", "it answered, so it lives on");
    down(&mut paris, clock::now() + Duration::from_secs(1));
    read_to_reset(&mut client).await;
    super::until(|| paris.ended("outbound", "oregon", "down") == 1).await;
    drop(oregon);
}

#[tokio::test]
async fn spares_are_kept_and_a_stream_takes_one() {
    let pair = pair().await;
    let peer = ClusterId::parse("oregon").unwrap();
    let pool = || pair.paris.gateway.shared.pool.stock(&peer).idle;
    super::until(|| pool() >= 4).await;
    let client = pair.paris.client().await;
    let server = accept(&pair.backend).await;
    let misses = &pair.paris.gateway.shared.metrics.pool_misses;
    assert_eq!(misses.with_label_values(&["oregon"]).get(), 0);
    drop((client, server));
}
