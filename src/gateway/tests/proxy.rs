//! The PROXY protocol towards backends, between real gateways.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpStream;

use super::sites::{Pair, Site, pair};
use super::{accept, read_some, write};
use crate::catalog::{LocalExport, ProxyProtocol};

fn with_header(local: &mut LocalExport) {
    Arc::make_mut(&mut local.export).settings.proxy_protocol = ProxyProtocol::V2;
}

/// Exports the pair's backend, or a site's own, with the header.
fn export(site: &mut Site, backend: SocketAddr) {
    site.export_with(&[backend], with_header);
}

fn header(client: &TcpStream, backend: SocketAddr) -> Vec<u8> {
    let (from, SocketAddr::V4(to)) = (client.local_addr().unwrap(), backend) else {
        panic!("IPv4")
    };
    let SocketAddr::V4(from) = from else { panic!("IPv4") };
    let mut wanted = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".to_vec();
    wanted.extend(from.ip().octets());
    wanted.extend(to.ip().octets());
    wanted.extend(from.port().to_be_bytes());
    wanted.extend(to.port().to_be_bytes());
    wanted
}

async fn called(pair: &Pair, listener: &tokio::net::TcpListener) {
    let backend = listener.local_addr().unwrap();
    let mut client = pair.paris.client().await;
    write(&mut client, b"hello").await;
    let mut server = accept(listener).await;
    assert_eq!(read_some(&mut server, 28).await, header(&client, backend));
    assert_eq!(read_some(&mut server, 5).await, b"hello");
    write(&mut server, b"bye").await;
    assert_eq!(read_some(&mut client, 3).await, b"bye");
}

#[tokio::test]
async fn a_backend_is_told_who_the_client_in_the_other_cluster_is() {
    let mut pair = pair().await;
    export(&mut pair.oregon, pair.backend.local_addr().unwrap());
    for _ in 0..3 {
        called(&pair, &pair.backend).await;
    }
    pair.paris.change_route(|route| route.early_data = true);
    for _ in 0..3 {
        pair.paris.stocked("oregon").await;
        called(&pair, &pair.backend).await;
    }
}

#[tokio::test]
async fn a_backend_of_the_own_cluster_is_told_as_well() {
    let mut pair = pair().await;
    let (local, address) = super::backend().await;
    export(&mut pair.paris, address);
    pair.paris.set_candidates(&["paris"]);
    called(&pair, &local).await;
}
