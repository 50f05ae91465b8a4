//! Which backend serves: bad ones are left out, full services send the importer elsewhere.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::sites::{Loops, Mesh, Site, pair};
use super::{accept, read_some, soon, until, write};
use crate::catalog::CallerRules;
use crate::clock;
use crate::health::Fact;
use crate::testing::Backend;

const HOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// What a client hears that sends a word and no more.
async fn call(site: &Site) -> std::io::Result<String> {
    let mut client = site.client().await;
    client.write_all(b"hello").await?;
    client.shutdown().await?;
    let mut heard = String::new();
    soon(client.read_to_string(&mut heard)).await?;
    Ok(heard)
}

/// Resets every connection without a word.
async fn resetting() -> Backend {
    Backend::start(HOST, |stream| async move {
        SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
    })
    .await
}

#[tokio::test]
async fn a_pod_that_resets_every_connection_is_left_out_after_three() {
    let mut pair = pair().await;
    let bad = resetting().await;
    let mut good = Vec::new();
    for _ in 0..9 {
        good.push(Backend::naming(HOST, "good").await);
    }
    let all: Vec<SocketAddr> = good.iter().chain([&bad]).map(|backend| backend.address).collect();
    pair.oregon.export(&all, CallerRules::default());
    let mut errors = 0;
    for _ in 0..400 {
        match call(&pair.paris).await {
            Ok(heard) => assert_eq!(heard, "good"),
            Err(_) => errors += 1,
        }
    }
    // Beside the three, the trials of a run that lasts longer than an ejection.
    assert!((3..=6).contains(&errors), "{errors} errors, {} reached it", bad.accepted());
    let ejected = &pair.oregon.gateway.shared.metrics.ejected;
    until(|| ejected.get() > 0.0).await;
    assert!(good.iter().all(|pod| pod.accepted() > 20), "{good:?}");
}

#[tokio::test]
async fn a_pod_of_the_own_cluster_that_resets_is_left_out_as_well() {
    let mut pair = pair().await;
    let (bad, good) = (resetting().await, Backend::naming(HOST, "good").await);
    pair.paris.export(&[bad.address, good.address], CallerRules::default());
    pair.paris.set_candidates(&["paris"]);
    let mut errors = 0;
    for _ in 0..40 {
        errors += u32::from(call(&pair.paris).await.is_err());
    }
    assert!((3..=5).contains(&errors), "{errors} errors");
}

#[tokio::test]
async fn a_pod_that_refuses_costs_no_client_anything() {
    let mut pair = pair().await;
    let good = Backend::naming(HOST, "good").await;
    let (closed, gone) = super::backend().await;
    drop(closed);
    pair.oregon.export(&[gone, good.address], CallerRules::default());
    for _ in 0..40 {
        assert_eq!(call(&pair.paris).await.unwrap(), "good");
    }
    assert_eq!(pair.oregon.ended("inbound", "paris", "no_endpoint"), 0);
}

/// The cap of a service is reached at the first candidate: each further client is at the second
/// within a round trip and 50 ms, and none fails.
#[tokio::test]
async fn a_full_service_sends_the_importer_elsewhere_at_once() {
    let mesh = Mesh::new(&["paris", "oregon", "tokyo"]);
    let mut paris = Site::start(&mesh, "paris", Loops::Quiet);
    let mut oregon = Site::start(&mesh, "oregon", Loops::Quiet);
    let mut tokyo = Site::start(&mesh, "tokyo", Loops::Quiet);
    let (near, address) = super::backend().await;
    oregon.export_with(&[address], |local| local.most_streams = Some(4));
    let far = Backend::naming(HOST, "tokyo").await;
    tokyo.export(&[far.address], CallerRules::default());
    for (name, site) in [("oregon", &oregon), ("tokyo", &tokyo)] {
        paris.know(name, site.address, Some(site.replica));
    }
    paris.import(&["oregon", "tokyo"]).await;
    let mut held = Vec::new();
    for _ in 0..4 {
        let mut client = paris.client().await;
        let server = accept(&near).await;
        write(&mut client, b"x").await;
        held.push((client, server));
    }
    paris.stocked("oregon").await;
    paris.stocked("tokyo").await;
    let mut took = Vec::new();
    for _ in 0..41 {
        let begun = clock::now();
        let mut client = paris.client().await;
        assert_eq!(read_some(&mut client, 5).await, b"tokyo");
        took.push(clock::now() - begun);
    }
    took.sort();
    assert!(took[20] <= Duration::from_millis(50), "half of them within {:?}", took[20]);
    until(|| oregon.ended("inbound", "paris", "overloaded") == 41).await;
    while let Ok(fact) = paris.facts.try_recv() {
        let fails = matches!(fact, Fact::OpenUnanswered { .. } | Fact::DialFailed { .. });
        assert!(!fails, "a full service is no fault of its gateway: {fact:?}");
    }

    drop(held.pop());
    until(|| {
        oregon.ended("inbound", "paris", "ok")
            + oregon.ended("inbound", "paris", "peer_reset")
            + oregon.ended("inbound", "paris", "app_reset")
            == 1
    })
    .await;
    let mut client = paris.client().await;
    let mut server = accept(&near).await;
    write(&mut server, b"again").await;
    assert_eq!(read_some(&mut client, 5).await, b"again");
}
