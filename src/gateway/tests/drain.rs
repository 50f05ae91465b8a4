//! Shutdown (P04): announced, then refused, then ended; no stream is lost inside the deadline.

use tokio::io::AsyncWriteExt;

use super::sites::{Loops, Mesh, Pair, Site, pair};
use super::{accept, read_all, read_some, read_to_reset, soon, until, write};
use crate::catalog::CallerRules;
use crate::drain::Phase;
use crate::health::Fact;
use crate::wire::frame::{Asked, Client, Control, Open};

fn advance(site: &Site, phase: Phase) {
    site.trigger.as_ref().unwrap().advance(phase);
}

#[tokio::test]
async fn streams_run_on_while_the_acceptor_drains_and_it_ends_when_they_have() {
    let mut pair = pair().await;
    let mut client = pair.paris.client().await;
    let mut server = accept(&pair.backend).await;
    write(&mut client, b"before").await;
    assert_eq!(read_some(&mut server, 6).await, b"before");
    advance(&pair.oregon, Phase::Announced);
    let draining = |fact: &Fact| matches!(fact, Fact::Draining { draining: true, .. });
    pair.paris.fact(draining).await;
    // Announced is not refused: what comes all the same is served.
    let mut late = pair.paris.client().await;
    let mut late_server = accept(&pair.backend).await;
    write(&mut late_server, b"served").await;
    assert_eq!(read_some(&mut late, 6).await, b"served");
    drop((late, late_server));
    advance(&pair.oregon, Phase::Draining);
    write(&mut client, b"during").await;
    assert_eq!(read_some(&mut server, 6).await, b"during");
    client.shutdown().await.unwrap();
    assert_eq!(read_all(&mut server).await, b"");
    write(&mut server, b"bye").await;
    drop(server);
    assert_eq!(read_all(&mut client).await, b"bye");
    // The pool's loops run to the deadline; inbound, outbound and the listener end by themselves.
    for _ in 0..3 {
        soon(pair.oregon.tasks.join_next()).await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn an_echo_that_never_ends_is_ended() {
    let mut pair = pair().await;
    let shared = std::sync::Arc::clone(&pair.paris.gateway.shared);
    let mut conn = shared.dial(&pair.oregon.name, pair.oregon.address).await.unwrap();
    let stream = conn.role().open().unwrap();
    let (hops, client, trace, deadline_ms, early) = (0, Client::default(), [0; 16], 0, false);
    let asked = Asked::Echo;
    conn.queue(&Control::Open(Open { stream, asked, hops, client, trace, deadline_ms, early }));
    let mut payload = Vec::new();
    while soon(conn.event(&mut payload)).await.is_ok() {}
    // Nor does it hold up the drain.
    drop(pair.paris);
    advance(&pair.oregon, Phase::Draining);
    for _ in 0..3 {
        soon(pair.oregon.tasks.join_next()).await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn what_is_left_at_the_deadline_is_reset_on_both_sides() {
    let Pair { paris, oregon, backend, mesh: _mesh } = pair().await;
    let mut client = paris.client().await;
    let mut server = accept(&backend).await;
    write(&mut server, b"x").await;
    assert_eq!(read_some(&mut client, 1).await, b"x");
    advance(&oregon, Phase::Forced);
    read_to_reset(&mut client).await;
    read_to_reset(&mut server).await;
    until(|| oregon.ended("inbound", "paris", "shutdown") == 1).await;
}

#[tokio::test]
async fn the_opener_moves_to_another_candidate_once_told() {
    let mesh = Mesh::new(&["paris", "oregon", "tokyo"]);
    let mut paris = Site::start(&mesh, "paris", Loops::Quiet);
    let mut oregon = Site::start(&mesh, "oregon", Loops::Quiet);
    let mut tokyo = Site::start(&mesh, "tokyo", Loops::Quiet);
    let (first, first_address) = super::backend().await;
    let (second, second_address) = super::backend().await;
    oregon.export(&[first_address], CallerRules::default());
    tokyo.export(&[second_address], CallerRules::default());
    paris.know("oregon", oregon.address, Some(oregon.replica));
    paris.know("tokyo", tokyo.address, Some(tokyo.replica));
    paris.import(&["oregon", "tokyo"]).await;
    let mut client = paris.client().await;
    drop(accept(&first).await);
    assert_eq!(read_all(&mut client).await, b"");
    advance(&oregon, Phase::Draining);
    let mut client = paris.client().await;
    let mut server = accept(&second).await;
    write(&mut server, b"tokyo").await;
    assert_eq!(read_some(&mut client, 5).await, b"tokyo");
}

#[tokio::test]
async fn own_clients_run_on_to_the_deadline_and_new_ones_are_refused() {
    let mut pair = pair().await;
    let mut client = pair.paris.client().await;
    let mut server = accept(&pair.backend).await;
    advance(&pair.paris, Phase::Announced);
    let another = pair.paris.client().await;
    drop((another, accept(&pair.backend).await));
    advance(&pair.paris, Phase::Draining);
    soon(async {
        while tokio::net::TcpStream::connect(pair.paris.vip).await.is_ok() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    write(&mut server, b"still").await;
    assert_eq!(read_some(&mut client, 5).await, b"still");
    advance(&pair.paris, Phase::Forced);
    read_to_reset(&mut client).await;
    while let Some(ended) = soon(pair.paris.tasks.join_next()).await {
        ended.unwrap();
    }
}
