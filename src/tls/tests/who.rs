//! Who may come in, and whom we believe when we dial.

use std::time::Duration;

use rcgen::ExtendedKeyUsagePurpose;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::health::DialFault;
use crate::testing::trust::{Leaf, knock_with_tls12};

/// A client with these credentials is refused for exactly this reason, in one log line, and
/// oregon is served before and after.
async fn refused(credentials: impl FnOnce(&Port) -> Option<Credentials>, reason: &str) {
    let (log, _guard) = Log::capture();
    let mut port = Port::open(Limits::default());
    port.serves_oregon().await;
    let client = port.client(credentials(&port));
    let error = client.knock(port.address).await.expect_err(reason);
    assert_eq!(refusals(&port.registry), [(reason.to_owned(), 1)], "{error}");
    assert_eq!(log.lines("connection refused").len(), 1, "{:?}", log.lines(""));
    assert_eq!(log.lines(reason).len(), 1);
    port.serves_oregon().await;
    assert_eq!(refusals(&port.registry), [(reason.to_owned(), 1)]);
    assert!(port.data.try_recv().is_err(), "nothing reached the handler");
}

#[tokio::test]
async fn an_authority_that_nobody_pinned_is_refused() {
    refused(|_| Some(Leaf::of("oregon").signed_by_stranger("oregon")), "unknown_ca").await;
    refused(|_| Some(Leaf::of("oregon").signed_by_stranger("madrid")), "unknown_ca").await;
}

#[tokio::test]
async fn a_name_that_nobody_pinned_is_refused() {
    refused(|port| Some(Leaf::of("madrid").signed_by(&port.folder("oregon"))), "unknown_ca").await;
}

#[tokio::test]
async fn s01_an_expired_leaf_is_refused() {
    refused(|p| Some(Leaf::of("oregon").expired().signed_by(&p.folder("oregon"))), "expired").await;
}

#[tokio::test]
async fn s01_a_leaf_not_yet_valid_is_refused() {
    let leaf = |p: &Port| Leaf::of("oregon").not_yet_valid().signed_by(&p.folder("oregon"));
    refused(|port| Some(leaf(port)), "not_yet_valid").await;
}

#[tokio::test]
async fn s05_no_authority_speaks_for_another_cluster() {
    // Tokyo's authority is pinned, for tokyo.
    refused(|p| Some(Leaf::of("oregon").signed_by(&p.folder("tokyo"))), "wrong_cluster").await;
}

#[tokio::test]
async fn a_uri_of_another_cluster_or_cluster_set_is_refused() {
    for uri in ["spiffe://clusterset.local/cluster/tokyo", "spiffe://other.local/cluster/oregon"] {
        let leaf = Leaf::of("oregon").with_uris(&[uri]);
        refused(|port| Some(leaf.signed_by(&port.folder("oregon"))), "wrong_cluster").await;
    }
}

#[tokio::test]
async fn our_own_name_is_refused() {
    refused(|port| Some(Credentials::read(&port.folder("paris"))), "wrong_cluster").await;
}

#[tokio::test]
async fn two_names_or_none_of_a_kind_are_refused() {
    let good = || Leaf::of("oregon");
    let leaves = [
        good().and_dns("tokyo.portolan.internal"),
        good().and_dns("oregon.portolan.internal"),
        good().with_dns(&[]),
        good().and_uri("spiffe://clusterset.local/cluster/tokyo"),
        good().and_uri("spiffe://clusterset.local/cluster/oregon"),
        good().with_uris(&[]),
    ];
    for leaf in leaves {
        refused(|port| Some(leaf.signed_by(&port.folder("oregon"))), "bad_identity").await;
    }
}

#[tokio::test]
async fn names_of_another_form_are_refused() {
    for dns in [
        "oregon",
        "a.oregon.portolan.internal",
        "oregon.portolan.internal.",
        "*.portolan.internal",
        "Oregon.portolan.internal",
        ".portolan.internal",
    ] {
        let leaf = Leaf::of("oregon").with_dns(&[dns]);
        refused(|port| Some(leaf.signed_by(&port.folder("oregon"))), "bad_identity").await;
    }
    for uri in [
        "https://clusterset.local/cluster/oregon",
        "spiffe://clusterset.local/ns/oregon",
        "spiffe://clusterset.local/cluster/oregon/",
        "spiffe://clusterset.local/cluster/",
        "SPIFFE://clusterset.local/cluster/oregon",
    ] {
        let leaf = Leaf::of("oregon").with_uris(&[uri]);
        refused(|port| Some(leaf.signed_by(&port.folder("oregon"))), "bad_identity").await;
    }
}

#[tokio::test]
async fn a_leaf_that_is_not_for_clients_is_refused() {
    let mut leaf = Leaf::of("oregon");
    leaf.usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    refused(|port| Some(leaf.signed_by(&port.folder("oregon"))), "bad_identity").await;
}

#[tokio::test]
async fn no_client_certificate_is_refused() {
    refused(|_| None, "no_client_certificate").await;
}

#[tokio::test]
async fn tls_1_2_is_refused_with_its_alert() {
    let (log, _guard) = Log::capture();
    let mut port = Port::open(Limits::default());
    let answer = knock_with_tls12(port.address).await.unwrap();
    // A fatal protocol_version alert.
    assert_eq!(answer.get(5..), Some(&[2, 70][..]), "{answer:?}");
    assert_eq!(refusals(&port.registry), [("tls_version".to_owned(), 1)]);
    assert_eq!(log.lines("connection refused").len(), 1);
    port.serves_oregon().await;
}

#[tokio::test]
async fn exactly_one_served_alpn_protocol_is_wanted() {
    let offers: [&[&[u8]]; 5] = [
        &[],
        &[b"h2"],
        &[b"portolan-data/1", b"portolan-control/1"],
        &[b"portolan-sibling/1"],
        &[b"portolan-data/2"],
    ];
    let mut port = Port::open(Limits::default());
    for (count, offer) in (1..).zip(offers) {
        let mut client = port.client(Some(Credentials::read(&port.folder("oregon"))));
        client.alpn = offer.iter().map(|protocol| protocol.to_vec()).collect();
        let error = client.knock(port.address).await.unwrap_err();
        let alert = tls_alert(&error);
        assert_eq!(alert, Some(rustls::AlertDescription::NoApplicationProtocol), "{error}");
        assert_eq!(refusals(&port.registry), [("alpn".to_owned(), count)]);
    }
    port.serves_oregon().await;
}

fn tls_alert(error: &io::Error) -> Option<rustls::AlertDescription> {
    match verify::tls_error(error) {
        Some(rustls::Error::AlertReceived(alert)) => Some(*alert),
        _ => None,
    }
}

#[tokio::test]
async fn garbage_is_refused_and_counted_as_other() {
    let mut port = Port::open(Limits::default());
    let mut stream = tokio::net::TcpStream::connect(port.address).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    assert_eq!(refusals(&port.registry), [("other".to_owned(), 1)]);
    port.serves_oregon().await;
}

#[tokio::test]
async fn a_refused_client_reads_the_alert_although_it_wrote_on() {
    let port = Port::open(Limits::default());
    let leaf = Leaf::of("oregon").expired().signed_by(&port.folder("oregon"));
    let mut stream = port.client(Some(leaf)).connect(port.address).await.unwrap();
    let (mut reader, mut writer) = tokio::io::split(&mut stream);
    let bytes = vec![0; 32 * 1024];
    let (error, _) = tokio::join!(reader.read_u8(), writer.write_all(&bytes));
    let error = error.unwrap_err();
    let alert = tls_alert(&error);
    assert_eq!(alert, Some(rustls::AlertDescription::CertificateExpired), "{error}");
}

#[tokio::test]
async fn each_kind_reaches_its_handler_over_tls_1_3() {
    let mut port = Port::open(Limits::default());
    let dialer = port.dialer("oregon");
    let paris = cluster("paris");
    let mut dialed = dialer.dial(&paris, port.address, Kind::Control).await.unwrap();
    let mut accepted = port.control.recv().await.unwrap();
    assert_eq!(accepted.kind, Kind::Control);
    assert_eq!(accepted.remote, dialed.stream.get_ref().0.local_addr().unwrap());
    for stream in [&dialed.stream, &accepted.stream] {
        let (tcp, tls) = stream.get_ref();
        assert_eq!(tls.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
        let suite = tls.negotiated_cipher_suite().unwrap().suite();
        assert_eq!(suite, rustls::CipherSuite::TLS13_AES_128_GCM_SHA256);
        let group = tls.negotiated_key_exchange_group().unwrap().name();
        assert_eq!(group, rustls::NamedGroup::X25519MLKEM768);
        assert!(tcp.nodelay().unwrap());
        assert!(socket2::SockRef::from(tcp).keepalive().unwrap());
    }
    dialed.stream.write_all(b"hello").await.unwrap();
    let mut hello = [0; 5];
    accepted.stream.read_exact(&mut hello).await.unwrap();
    assert_eq!(&hello, b"hello");
    assert!(accepted.peer.expires() > crate::clock::wall() + Duration::from_secs(23 * 3600));
    assert!(port.trust.still_trusts(&accepted.peer));
    for cluster in ["paris", "oregon"] {
        assert!(expiry(&port.registry, cluster).is_some(), "{cluster}");
    }
    assert!(dialer.dial(&paris, port.address, Kind::Park).await.is_err());
    assert_eq!(refusals(&port.registry), [("alpn".to_owned(), 1)]);
}

#[tokio::test]
async fn a_dial_believes_only_the_cluster_it_meant() {
    let port = Port::open(Limits::default());
    let (trust, registry) = trust::open(&port.folder("oregon"), "oregon");
    let dialer = Dialer::new(trust);
    // The address is paris's.
    let error = dialer.dial(&cluster("tokyo"), port.address, Kind::Data).await.unwrap_err();
    assert_eq!(error.fault(), DialFault::Tls, "{error}");
    assert_eq!(refusals(&registry), [("unknown_ca".to_owned(), 1)]);
    let error = dialer.dial(&cluster("madrid"), port.address, Kind::Data).await.unwrap_err();
    assert!(matches!(error, DialError::UnknownPeer(_)));
}

#[tokio::test]
async fn s01_a_dial_refuses_a_server_s_flawed_leaf() {
    let dir = tempfile::tempdir().unwrap();
    trust::mesh(dir.path(), &["paris", "oregon"]);
    let (paris, oregon) = (dir.path().join("paris"), dir.path().join("oregon"));
    for (leaf, reason) in [
        (Leaf::of("paris").expired(), "expired"),
        (Leaf::of("paris").not_yet_valid(), "not_yet_valid"),
        (Leaf::of("paris").with_dns(&["tokyo.portolan.internal"]), "wrong_cluster"),
        (Leaf::of("paris").with_uris(&["spiffe://clusterset.local/cluster/x"]), "wrong_cluster"),
        (Leaf::of("paris").and_dns("tokyo.portolan.internal"), "bad_identity"),
        (Leaf::of("paris").and_uri("spiffe://a/cluster/b"), "bad_identity"),
        (Leaf::of("paris").with_uris(&["nonsense"]), "bad_identity"),
    ] {
        let address = flawed_server(&leaf.signed_by(&paris)).await;
        let (trust, registry) = trust::open(&oregon, "oregon");
        let dialer = Dialer::new(trust);
        let error = dialer.dial(&cluster("paris"), address, Kind::Data).await.unwrap_err();
        assert_eq!(error.fault(), DialFault::Tls, "{error}");
        assert_eq!(refusals(&registry), [(reason.to_owned(), 1)], "{error}");
    }
}

/// A server that shows this pair to one client and asks for nothing.
async fn flawed_server(pair: &Credentials) -> SocketAddr {
    use rustls_pki_types::pem::PemObject;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let chain = rustls_pki_types::CertificateDer::pem_slice_iter(pair.certificate_pem.as_bytes());
    let key = rustls_pki_types::PrivateKeyDer::from_pem_slice(pair.key_pem.as_bytes()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain.collect::<Result<_, _>>().unwrap(), key)
        .unwrap();
    config.alpn_protocols = vec![Kind::Data.alpn().to_vec()];
    #[allow(clippy::disallowed_methods, reason = "a fake peer of one test")]
    tokio::spawn(async move {
        let (tcp, _) = listener.accept().await.unwrap();
        let _refused = tokio_rustls::TlsAcceptor::from(Arc::new(config)).accept(tcp).await;
    });
    address
}

#[tokio::test]
async fn a_refused_or_silent_address_is_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    trust::mesh(dir.path(), &["paris", "oregon"]);
    let dialer = Dialer::new(trust::open(&dir.path().join("oregon"), "oregon").0);
    let closed = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap()
    };
    let error = dialer.dial(&cluster("paris"), closed, Kind::Data).await.unwrap_err();
    assert_eq!(error.fault(), DialFault::Refused, "{error}");

    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap();
    tokio::time::pause();
    let error = dialer.dial(&cluster("paris"), address, Kind::Data).await.unwrap_err();
    assert_eq!(error.fault(), DialFault::Timeout, "{error}");
}
