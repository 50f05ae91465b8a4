//! Early data: what the client says at once goes with the `OPEN`, and never to two applications.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::io::AsyncWriteExt;

use super::fakes::{Fake, Script};
use super::sites::{Loops, Mesh, Pair, Site, pair};
use super::{accept, read_all, read_some, read_to_reset, soon, until, write};
use crate::catalog::CallerRules;
use crate::wire::frame::Verdict;

/// A client may be a moment late with its first word; nothing then goes with the `OPEN`.
const ROUNDS: u32 = 20;

/// paris imports from a fake oregon, and from tokyo behind it; early data is opted in.
async fn stage(script: Script) -> (Pair, Fake) {
    let mesh = Mesh::new(&["paris", "oregon", "tokyo"]);
    let fake = Fake::start(&mesh, "oregon", script);
    let mut paris = Site::start(&mesh, "paris", Loops::Quiet);
    let mut tokyo = Site::start(&mesh, "tokyo", Loops::Quiet);
    let (backend, address) = super::backend().await;
    tokyo.export(&[address], CallerRules::default());
    paris.know("oregon", fake.address, Some(fake.replica));
    paris.know("tokyo", tokyo.address, Some(tokyo.replica));
    paris.import(&["oregon", "tokyo"]).await;
    paris.change_route(|route| route.early_data = true);
    (Pair { paris, oregon: tokyo, backend, mesh }, fake)
}

#[tokio::test]
async fn what_the_client_says_at_once_goes_with_the_open() {
    let (pair, fake) = stage(Script::GiveBack).await;
    for _ in 0..ROUNDS {
        pair.paris.stocked("oregon").await;
        let mut client = pair.paris.client().await;
        write(&mut client, b"hello").await;
        assert_eq!(read_all(&mut client).await, b"hello");
        if fake.early.load(Ordering::Relaxed) > 0 {
            return;
        }
    }
    panic!("nothing ever went with an OPEN");
}

#[tokio::test]
async fn a_refusal_moves_it_to_the_next_candidate_once() {
    let (pair, fake) = stage(Script::Refuse(Verdict::Overloaded)).await;
    for _ in 0..ROUNDS {
        pair.paris.stocked("oregon").await;
        pair.paris.stocked("tokyo").await;
        let mut client = pair.paris.client().await;
        write(&mut client, b"hello").await;
        let mut server = accept(&pair.backend).await;
        assert_eq!(read_some(&mut server, 5).await, b"hello");
        write(&mut client, b" and more").await;
        client.shutdown().await.unwrap();
        assert_eq!(read_all(&mut server).await, b" and more");
        write(&mut server, b"bye").await;
        drop(server);
        assert_eq!(read_all(&mut client).await, b"bye");
    }
    assert!(fake.early.load(Ordering::Relaxed) > 0, "nothing ever went with an OPEN");
    until(|| pair.oregon.ended("inbound", "paris", "ok") == ROUNDS).await;
}

#[tokio::test]
async fn lost_after_it_was_sent_it_is_a_reset_and_nobody_else_gets_it() {
    let (pair, fake) = stage(Script::CloseAfterOpen).await;
    for _ in 0..ROUNDS {
        pair.paris.stocked("oregon").await;
        let mut client = pair.paris.client().await;
        write(&mut client, b"hello").await;
        let mut moved = None;
        let ended = tokio::select! {
            ended = read_to_reset(&mut client) => ended,
            server = accept(&pair.backend) => {
                moved = Some(server);
                Vec::new()
            }
        };
        if fake.early.load(Ordering::Relaxed) > 0 {
            assert!(moved.is_none(), "an application may have it already");
            assert_eq!(ended, b"");
            until(|| pair.paris.ended("outbound", "oregon", "unanswered") == 1).await;
            return;
        }
        assert!(moved.is_some(), "nothing was sent, so the next candidate has it");
    }
    panic!("nothing ever went with an OPEN");
}

#[tokio::test]
async fn over_a_connection_not_heard_for_a_second_nothing_goes() {
    let (mut pair, fake) = stage(Script::GiveBack).await;
    pair.paris.change_route(|route| route.early_data = false);
    pair.paris.stocked("oregon").await;
    // All spares of the rest are made within this time, and none is heard again.
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    pair.paris.change_route(|route| route.early_data = true);
    let mut client = pair.paris.client().await;
    write(&mut client, b"hello").await;
    assert_eq!(read_all(&mut client).await, b"hello");
    assert_eq!(fake.early.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn where_it_is_opted_in_some_connections_are_heard_all_the_time() {
    let (pair, fake) = stage(Script::GiveBack).await;
    for _ in 0..ROUNDS {
        pair.paris.stocked("oregon").await;
        // Long after the spares were made.
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        let before = fake.early.load(Ordering::Relaxed);
        let mut client = pair.paris.client().await;
        write(&mut client, b"hello").await;
        assert_eq!(read_all(&mut client).await, b"hello");
        if fake.early.load(Ordering::Relaxed) > before {
            return;
        }
    }
    panic!("nothing ever went with an OPEN");
}

#[tokio::test]
async fn between_two_gateways_a_long_request_arrives_whole_and_in_order() {
    let mut pair = pair().await;
    pair.paris.change_route(|route| route.early_data = true);
    let request: Vec<u8> = (0..100_000_u32).flat_map(u32::to_be_bytes).collect();
    for _ in 0..5 {
        pair.paris.stocked("oregon").await;
        let mut client = pair.paris.client().await;
        let serve = async {
            let mut server = accept(&pair.backend).await;
            assert!(read_some(&mut server, request.len()).await == request, "not what was sent");
            write(&mut server, b"answer").await;
        };
        let (sent, ()) = tokio::join!(soon(client.write_all(&request)), serve);
        sent.unwrap();
        assert_eq!(read_some(&mut client, 6).await, b"answer");
    }
    let mut patient = pair.paris.client().await;
    let mut server = accept(&pair.backend).await;
    write(&mut server, b"220 ready").await;
    assert_eq!(read_some(&mut patient, 9).await, b"220 ready", "a server may still speak first");
}

#[tokio::test]
async fn a_backend_of_the_own_cluster_gets_it_too() {
    let mut pair = pair().await;
    let (local, address) = super::backend().await;
    pair.paris.export(&[address], CallerRules::default());
    // The first refuses, so that what was read meanwhile goes to the own backend.
    pair.oregon.export(&[], CallerRules::default());
    pair.paris.set_candidates(&["oregon", "paris"]);
    pair.paris.change_route(|route| route.early_data = true);
    let mut client = pair.paris.client().await;
    write(&mut client, b"hello").await;
    let mut server = accept(&local).await;
    assert_eq!(read_some(&mut server, 5).await, b"hello");
    write(&mut server, b"bye").await;
    assert_eq!(read_some(&mut client, 3).await, b"bye");
}
