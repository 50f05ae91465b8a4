//! Between replicas of one cluster: the own authority alone, on its own ALPN protocol alone.

use super::*;
use crate::testing::trust::Leaf;

/// A replica of paris with a trust of its own.
async fn dial(port: &Port, kind: Kind) -> Result<Dialed, DialError> {
    port.dialer("paris").dial(&cluster("paris"), port.address, kind).await
}

#[tokio::test]
async fn a_replica_of_the_own_cluster_comes_in_as_a_sibling() {
    let mut port = Port::with_siblings();
    let before = expiry(&port.registry, "paris");
    let dialed = dial(&port, Kind::Sibling).await.unwrap();
    let accepted = port.sibling.recv().await.unwrap();
    assert_eq!(accepted.kind, Kind::Sibling);
    for peer in [&dialed.peer, &accepted.peer] {
        assert_eq!(peer.cluster(), &cluster("paris"));
        assert!(port.trust.still_trusts(peer));
    }
    assert_eq!(expiry(&port.registry, "paris"), before, "the own leaf's, not the sibling's");
    port.serves_oregon().await;
}

#[tokio::test]
async fn our_own_name_is_dialled_as_nothing_but_a_sibling_and_nobody_else_is() {
    let port = Port::with_siblings();
    for kind in [Kind::Control, Kind::Data] {
        let error = dial(&port, kind).await.unwrap_err();
        assert!(matches!(error, DialError::UnknownPeer(_)), "{error}");
    }
    let oregon = cluster("oregon");
    let error = port.dialer("paris").dial(&oregon, port.address, Kind::Sibling).await.unwrap_err();
    assert!(matches!(error, DialError::UnknownPeer(_)), "{error}");
}

/// A client with this leaf that asks for this protocol.
async fn knock(port: &Port, credentials: Credentials, kind: Kind) -> io::Error {
    let mut client = port.client(Some(credentials));
    client.alpn = vec![kind.alpn().to_vec()];
    client.knock(port.address).await.unwrap_err()
}

#[tokio::test]
async fn a_peer_is_no_sibling_and_a_sibling_is_no_peer() {
    let mut port = Port::with_siblings();
    let oregon = Credentials::read(&port.folder("oregon"));
    let error = knock(&port, oregon, Kind::Sibling).await;
    assert_eq!(refusals(&port.registry), [("wrong_cluster".to_owned(), 1)], "{error}");
    let paris = Credentials::read(&port.folder("paris"));
    let error = knock(&port, paris, Kind::Control).await;
    assert_eq!(refusals(&port.registry), [("wrong_cluster".to_owned(), 2)], "{error}");
    assert!(port.sibling.try_recv().is_err() && port.control.try_recv().is_err());
}

#[tokio::test]
async fn no_other_authority_makes_siblings() {
    let mut port = Port::with_siblings();
    // Oregon's authority is pinned, for oregon; a stranger's for nobody.
    let others = [
        Leaf::of("paris").signed_by(&port.folder("oregon")),
        Leaf::of("paris").signed_by_stranger("paris"),
    ];
    for (count, leaf) in (1..).zip(others) {
        let error = knock(&port, leaf, Kind::Sibling).await;
        assert_eq!(refusals(&port.registry), [("unknown_ca".to_owned(), count)], "{error}");
    }
    let uri = Leaf::of("paris").with_uris(&["spiffe://clusterset.local/cluster/oregon"]);
    knock(&port, uri.signed_by(&port.folder("paris")), Kind::Sibling).await;
    assert!(refusals(&port.registry).contains(&("wrong_cluster".to_owned(), 1)));
    assert!(port.sibling.try_recv().is_err());
}

#[tokio::test]
async fn an_issued_leaf_without_the_authority_s_key_makes_siblings_too() {
    let mut port = Port::with_siblings();
    let folder = port.folder("paris");
    Leaf::of("paris").signed_by(&folder).install(&folder);
    assert!(port.trust.reload());
    let dialed = dial(&port, Kind::Sibling).await.unwrap();
    let accepted = port.sibling.recv().await.unwrap();
    assert!(port.trust.still_trusts(&dialed.peer) && port.trust.still_trusts(&accepted.peer));
}

#[tokio::test]
async fn a_new_authority_ends_the_trust_in_siblings_of_the_old() {
    let mut port = Port::with_siblings();
    let _dialed = dial(&port, Kind::Sibling).await.unwrap();
    let old = port.sibling.recv().await.unwrap().peer;
    let fresh = tempfile::tempdir().unwrap();
    trust::init(fresh.path(), "paris");
    for file in ["ca.pem", "ca.key", "cert.pem", "key.pem"] {
        std::fs::copy(fresh.path().join(file), port.folder("paris").join(file)).unwrap();
    }
    assert!(port.trust.reload());
    assert!(!port.trust.still_trusts(&old));
    tokio::time::timeout(std::time::Duration::from_secs(5), port.trust.lapsed(&old)).await.unwrap();
    dial(&port, Kind::Sibling).await.unwrap();
    assert!(port.trust.still_trusts(&port.sibling.recv().await.unwrap().peer));
}

#[tokio::test]
async fn in_a_rotation_siblings_of_both_authorities_believe_each_other() {
    let mut port = Port::with_siblings();
    let (folder, fresh) = (port.folder("paris"), tempfile::tempdir().unwrap());
    trust::init(fresh.path(), "paris");
    let read = |dir: &std::path::Path| std::fs::read(dir.join("ca.pem")).unwrap();
    let both = [read(&folder), read(fresh.path())].concat();
    std::fs::write(folder.join("ca.pem"), both).unwrap();
    // One replica has its leaf from the old authority still, the other has one from the new.
    let old = port.dialer("paris");
    for file in ["ca.key", "cert.pem", "key.pem"] {
        std::fs::copy(fresh.path().join(file), folder.join(file)).unwrap();
    }
    assert!(port.trust.reload());
    let new = port.dialer("paris");
    for dialer in [old, new] {
        let dialed = dialer.dial(&cluster("paris"), port.address, Kind::Sibling).await.unwrap();
        let accepted = port.sibling.recv().await.unwrap();
        assert!(port.trust.still_trusts(&accepted.peer) && port.trust.still_trusts(&dialed.peer));
    }
}

#[tokio::test]
async fn without_siblings_their_protocol_is_not_served() {
    let mut port = Port::open(Limits::default());
    let error = dial(&port, Kind::Sibling).await.unwrap_err();
    assert!(matches!(error, DialError::Rejected { .. }), "{error}");
    assert_eq!(refusals(&port.registry), [("alpn".to_owned(), 1)]);
    port.serves_oregon().await;
}
