//! More than fits (O09): told at once, never queued, and over when the load is.

use std::time::Duration;

use tokio::net::TcpStream;

use super::sites::{Loops, Mesh, Site, key};
use super::{read_some, read_to_reset, until};
use crate::catalog::CallerRules;
use crate::clock;
use crate::gateway::Config;
use crate::testing::Backend;

/// What the far cluster bears; the least cap that there is.
const CAP: usize = 16;

async fn naming(name: &'static str) -> Backend {
    Backend::start([127, 0, 0, 1].into(), move |mut stream| async move {
        super::write(&mut stream, name.as_bytes()).await;
        crate::testing::drain(&mut stream).await;
    })
    .await
}

#[tokio::test]
async fn o09_twice_the_load_moves_on_at_once_and_what_fits_nowhere_is_not_queued() {
    let mesh = Mesh::new(&["paris", "near", "far", "last"]);
    let mut paris = Site::start(&mesh, "paris", Loops::Quiet);
    let small = Config { most_streams: CAP, ..Config::default() };
    let mut far = Site::with_config(&mesh, "far", Loops::Quiet, small);
    let mut last = Site::start(&mesh, "last", Loops::Quiet);
    let (far_backend, last_backend) = (naming("far_").await, naming("last").await);
    far.export(&[far_backend.address], CallerRules::default());
    last.export(&[last_backend.address], CallerRules::default());
    // The near cluster is dead: nothing listens there any more.
    let (gone, dead) = super::backend().await;
    drop(gone);
    paris.know("near", dead, None);
    paris.know("far", far.address, Some(far.replica));
    paris.know("last", last.address, Some(last.replica));
    paris.import(&["near", "far", "last"]).await;

    let mut held: Vec<(TcpStream, String)> = Vec::new();
    for _ in 0..2 * CAP {
        let began = clock::now();
        let mut client = paris.client().await;
        let name = read_some(&mut client, 4).await;
        let took = clock::now() - began;
        assert!(took < Duration::from_secs(2), "it waited in a queue for {took:?}");
        held.push((client, String::from_utf8(name).unwrap()));
    }
    let at_far = held.iter().filter(|(_, name)| name == "far_").count();
    assert_eq!((at_far, held.len() - at_far), (CAP, CAP), "what did not fit went on");
    assert!(far.ended("inbound", "paris", "overloaded") >= u32::try_from(CAP).unwrap());
    let answers = far.gateway.take_answers();
    assert!(answers[&key()].overloaded >= u64::try_from(CAP).unwrap(), "{answers:?}");

    // With nowhere else to go a client is told so; no byte of it waits anywhere.
    paris.set_candidates(&["near", "far"]);
    let mut refused = paris.client().await;
    assert!(read_to_reset(&mut refused).await.is_empty());
    assert_eq!(far_backend.accepted(), u64::try_from(CAP).unwrap());

    // The load falls, and at once there is room.
    held.retain(|(_, name)| name != "far_");
    until(|| far.gateway.connections(&crate::routes::Drained::Service(key())) == 0).await;
    let mut served = paris.client().await;
    assert_eq!(read_some(&mut served, 4).await, b"far_");
}
