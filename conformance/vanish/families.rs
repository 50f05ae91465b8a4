//! A peer behind two families of which one is broken.

use std::net::{Ipv6Addr, SocketAddr};
use std::time::Duration;

use portolan::clock;
use portolan::testing::{Agent, Backend, World};
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};

use crate::stage::{NAME, loopback, soon};

/// A connection from its first packet to the backend's last octet.
async fn timed(vip: SocketAddr) -> Duration {
    let began = clock::now();
    let mut client = TcpStream::connect(vip).await.expect("the listener is open");
    let mut answer = String::new();
    soon("an answer", client.read_to_string(&mut answer)).await.expect("served");
    assert_eq!(answer, "oregon");
    clock::now() - began
}

#[tokio::test(flavor = "multi_thread")]
async fn n17_a_broken_family_costs_a_head_start_and_is_remembered() {
    let world = World::new(&["paris", "oregon"]);
    let backend = Backend::naming(loopback(), "oregon").await;
    world.export("oregon", "shop/web", 80, &[backend.address]);
    let _oregon = world.start("oregon");
    // Whatever comes over IPv6 is swallowed: the kernel takes it and nobody ever answers.
    let broken = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).await.expect("IPv6 on loopback");
    let addresses = vec![broken.local_addr().expect("bound"), world.gateway("oregon")];
    let paris = Agent::start(&world.write_config("paris", |_| addresses.clone()));
    paris.led_by(NAME, "oregon").await;
    drop(paris.connect(NAME).await);
    let vip = paris.vip(NAME).await;
    let first = timed(vip).await;
    assert!(first < Duration::from_millis(1_500), "{first:?} for the first");
    paris.peers_up().await;
    let mut took = Vec::new();
    for _ in 0..20 {
        took.push(timed(vip).await);
    }
    took.sort_unstable();
    // Nobody pays the head start of 250 ms any more; the middle one is judged, since the machine
    // may be loaded.
    assert!(took[10] < Duration::from_millis(200), "{took:?}");
}
