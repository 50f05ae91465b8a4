//! The trust folder: what refuses to start, what changes live, what stays.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::time::Duration;

use super::*;
use crate::clock;
use crate::testing::trust::Leaf;

const HOUR: Duration = Duration::from_secs(3600);

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn copy(dir: &Path, from: &str, to: &str) {
    fs::copy(dir.join(from), dir.join(to)).unwrap();
}

fn start_error(dir: &Path, name: &str) -> String {
    let metrics = Metrics::register(&Registry::new()).unwrap();
    Trust::open(trust::config(dir, name), metrics).unwrap_err().to_string()
}

#[test]
fn init_makes_a_folder_once_with_keys_for_the_owner_alone() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("deep/paris");
    trust::init(&dir, "paris");
    for name in ["ca.key", "key.pem"] {
        let mode = fs::metadata(dir.join(name)).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{name}");
    }
    assert!(dir.join("peers").is_dir());
    let before = fs::read(dir.join("ca.key")).unwrap();
    let config = trust::config(&dir, "paris");
    let error = init(&dir, &config.cluster, &config.clusterset).unwrap_err();
    assert!(error.to_string().contains("exists already"), "{error}");
    assert_eq!(fs::read(dir.join("ca.key")).unwrap(), before);
    let (trust, _) = trust::open(&dir, "paris");
    let left = trust.own_expiry().duration_since(clock::wall()).unwrap();
    assert!(left > 23 * HOUR && left <= 24 * HOUR, "{left:?}");
}

#[test]
fn s21_keys_that_others_may_read_refuse_to_start_with_the_remedy() {
    let dir = tempfile::tempdir().unwrap();
    trust::init(dir.path(), "paris");
    for name in ["ca.key", "key.pem"] {
        for mode in [0o640, 0o604, 0o660, 0o644] {
            let path = dir.path().join(name);
            chmod(&path, mode);
            let error = start_error(dir.path(), "paris");
            assert!(error.contains(&format!("chmod 600 {}", path.display())), "{error}");
            chmod(&path, 0o600);
        }
    }
    assert!(trust::open(dir.path(), "paris").0.own_expiry() > clock::wall());
}

#[test]
fn s21_no_key_shows_in_debug_text() {
    let dir = tempfile::tempdir().unwrap();
    trust::mesh(dir.path(), &["paris", "oregon"]);
    let folder = dir.path().join("paris");
    let (trust, _) = trust::open(&folder, "paris");
    let shown = format!("{trust:?} {:?} {:?}", trust.material(), Dialer::new(trust.clone()));
    for name in ["ca.key", "key.pem"] {
        let pem = fs::read_to_string(folder.join(name)).unwrap();
        let body = pem.lines().nth(1).unwrap();
        assert!(!shown.contains(body), "{name}");
    }
    assert!(!shown.contains("PRIVATE"), "{shown}");
    assert!(shown.contains("redacted"), "{shown}");
}

#[test]
fn a_bad_folder_refuses_to_start_and_says_what_to_do() {
    type Spoil = fn(&Path);
    let cases: [(&str, Spoil, &str); 9] = [
        ("paris", |dir| fs::remove_file(dir.join("ca.pem")).unwrap(), "restore the pair"),
        (
            "paris",
            |dir| fs::write(dir.join("peers/oregon.pem"), "").unwrap(),
            "copy the cluster's ca.pem",
        ),
        ("paris", |dir| copy(dir, "cert.pem", "peers/oregon.pem"), "not cert.pem"),
        ("paris", |dir| fs::write(dir.join("peers/A B.pem"), "").unwrap(), "<cluster>.pem"),
        ("paris", |dir| copy(dir, "ca.pem", "peers/paris.pem"), "own name"),
        (
            "paris",
            |dir| {
                let other = tempfile::tempdir().unwrap();
                trust::init(other.path(), "paris");
                fs::copy(other.path().join("ca.pem"), dir.join("ca.pem")).unwrap();
            },
            "not the key of a certificate in ca.pem",
        ),
        (
            "tokyo",
            |dir| fs::remove_file(dir.join("ca.key")).unwrap(),
            "the configuration says 'tokyo'",
        ),
        (
            "paris",
            |dir| {
                let key = fs::read(dir.join("ca.key")).unwrap();
                fs::remove_file(dir.join("ca.key")).unwrap();
                fs::write(dir.join("key.pem"), key).unwrap();
            },
            "not the key of cert.pem",
        ),
        (
            "paris",
            |dir| {
                fs::remove_file(dir.join("ca.key")).unwrap();
                fs::remove_file(dir.join("cert.pem")).unwrap();
            },
            "portolan trust init",
        ),
    ];
    for (name, spoil, part) in cases {
        let dir = tempfile::tempdir().unwrap();
        trust::init(dir.path(), "paris");
        spoil(dir.path());
        let error = start_error(dir.path(), name);
        assert!(error.contains(part), "{error}");
    }
}

#[tokio::test]
async fn s03_a_removed_bundle_is_out_of_force_within_two_seconds() {
    let mut port = Port::open(Limits::default());
    let (_dialed, accepted) = port.serves_oregon().await;
    let mut generation = port.trust.generation();
    port.tasks.spawn(port.trust.clone().run(port.watch.clone()));
    trust::unpin(&port.folder("paris"), "oregon");
    tokio::time::timeout(Duration::from_secs(10), generation.changed()).await.unwrap().unwrap();
    assert!(!port.trust.knows(&cluster("oregon")));
    assert!(!port.trust.still_trusts(&accepted.peer), "its owner closes the live connection");
    assert!(port.trust.knows(&cluster("tokyo")));
    assert_eq!(expiry(&port.registry, "oregon"), None);

    let client = port.client(Some(Credentials::read(&port.folder("oregon"))));
    client.knock(port.address).await.unwrap_err();
    assert_eq!(refusals(&port.registry), [("unknown_ca".to_owned(), 1)]);
}

#[tokio::test(start_paused = true)]
async fn a_change_is_noticed_within_two_seconds_of_paused_time() {
    let port = Port::open(Limits::default());
    let mut generation = port.trust.generation();
    let (_trigger, watch) = drain::channel();
    let mut tasks = JoinSet::new();
    tasks.spawn(port.trust.clone().run(watch));
    tokio::time::sleep(Duration::from_millis(10_500)).await;
    assert!(!generation.has_changed().unwrap(), "nothing changed");
    let began = clock::now();
    trust::unpin(&port.folder("paris"), "tokyo");
    generation.changed().await.unwrap();
    let took = clock::now() - began;
    assert!(took <= Duration::from_secs(2), "{took:?}");
}

#[test]
fn a_replaced_bundle_ends_trust_in_what_the_old_one_verified() {
    let dir = tempfile::tempdir().unwrap();
    trust::mesh(dir.path(), &["paris", "oregon"]);
    let (paris, oregon) = (dir.path().join("paris"), dir.path().join("oregon"));
    let (trust, _) = trust::open(&paris, "paris");
    let fingerprint = trust.material().bundles[&cluster("oregon")].fingerprint;
    let peer = PeerIdentity::new(cluster("oregon"), clock::wall(), fingerprint);
    assert!(trust.still_trusts(&peer));
    // The same content in another spelling is no change.
    let pem = fs::read_to_string(oregon.join("ca.pem")).unwrap();
    fs::write(paris.join("peers/oregon.pem"), format!("# oregon\n{pem}\n{pem}")).unwrap();
    assert!(!trust.reload());
    assert!(trust.still_trusts(&peer));

    let other = dir.path().join("new-oregon");
    trust::init(&other, "oregon");
    trust::pin(&paris, "oregon", &other);
    assert!(trust.reload());
    assert!(trust.knows(&cluster("oregon")));
    assert!(!trust.still_trusts(&peer));
}

#[tokio::test]
async fn s03_a_dial_that_outlasts_its_bundle_is_refused() {
    use tokio::net::{TcpListener, TcpStream};
    let port = Port::open(Limits::default());
    let folder = port.folder("oregon");
    let (trust, _) = trust::open(&folder, "oregon");
    let front = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = front.local_addr().unwrap();
    let relay = async {
        let (mut client, _) = front.accept().await.unwrap();
        trust::unpin(&folder, "paris");
        assert!(trust.reload());
        let mut server = TcpStream::connect(port.address).await.unwrap();
        tokio::io::copy_bidirectional(&mut client, &mut server).await.unwrap();
        std::future::pending::<()>().await;
    };
    let (dialer, paris) = (Dialer::new(trust.clone()), cluster("paris"));
    let error = tokio::select! {
        dialed = dialer.dial(&paris, address, Kind::Data) => dialed.map(|_| ()).unwrap_err(),
        () = relay => unreachable!(),
    };
    assert!(matches!(error, DialError::Refused { reason: Refusal::UnknownCa, .. }), "{error}");
}

#[test]
fn s01_an_expired_pair_does_not_replace_a_good_leaf() {
    let dir = tempfile::tempdir().unwrap();
    trust::init(dir.path(), "paris");
    let (trust, _) = trust::open(dir.path(), "paris");
    let (expires, fresh) = (trust.own_expiry(), Leaf::of("paris").signed_by(dir.path()));
    // The authority's key is taken away; what `trust init` once wrote has long expired.
    Leaf::of("paris").expired().signed_by(dir.path()).install(dir.path());
    assert!(!trust.reload());
    assert_eq!(trust.own_expiry(), expires);
    fresh.install(dir.path());
    assert!(trust.reload());
    assert!(trust.own_expiry() > clock::wall());
}

#[test]
fn a_bad_change_keeps_the_last_good_and_says_so() {
    let (log, _guard) = Log::capture();
    let dir = tempfile::tempdir().unwrap();
    trust::mesh(dir.path(), &["paris", "oregon", "tokyo"]);
    let paris = dir.path().join("paris");
    let (trust, _) = trust::open(&paris, "paris");
    fs::write(paris.join("peers/oregon.pem"), "-----BEGIN CERT").unwrap();
    chmod(&paris.join("ca.key"), 0o644);
    assert!(!trust.reload());
    assert!(trust.knows(&cluster("oregon")));
    assert_eq!(log.lines("oregon.pem").len(), 1);
    assert_eq!(log.lines("chmod 600").len(), 1);
    assert!(!trust.reload());
    assert_eq!(log.lines("last good").len(), 2, "said once each");
    // What is wrong with the own files or one bundle does not hold up a revocation.
    trust::unpin(&paris, "tokyo");
    assert!(trust.reload());
    assert!(!trust.knows(&cluster("tokyo")));
    assert!(trust.knows(&cluster("oregon")));
    // The next good state is taken.
    trust::pin(&paris, "oregon", &dir.path().join("oregon"));
    chmod(&paris.join("ca.key"), 0o600);
    trust.reload();
    assert!(trust.knows(&cluster("oregon")));
    fs::rename(paris.join("peers"), paris.join("gone")).unwrap();
    assert!(!trust.reload());
    assert!(trust.knows(&cluster("oregon")), "a vanished folder is no revocation");
}

#[tokio::test]
async fn s02_a_rotated_leaf_serves_new_handshakes_and_breaks_none() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut port = Port::open(Limits::default());
    let folder = port.folder("paris");
    // As a secret volume is mounted: every file a link through a folder that is swapped.
    for (version, leaf) in [("v1", Leaf::of("paris")), ("v2", Leaf::of("paris"))] {
        let dir = folder.join(version);
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join("ca.key"), fs::read(folder.join("ca.key")).unwrap()).unwrap();
        chmod(&dir.join("ca.key"), 0o600);
        leaf.signed_by(&folder).install(&dir);
    }
    symlink("v1", folder.join("..data")).unwrap();
    for name in ["cert.pem", "key.pem"] {
        fs::remove_file(folder.join(name)).unwrap();
        symlink(format!("..data/{name}"), folder.join(name)).unwrap();
    }
    fs::remove_file(folder.join("ca.key")).unwrap();
    assert!(port.trust.reload());

    let (mut dialed, mut accepted) = port.serves_oregon().await;
    let shown = |dialed: &Dialed| dialed.stream.get_ref().1.peer_certificates().unwrap().to_vec();
    let first = shown(&dialed);
    symlink("v2", folder.join("..fresh")).unwrap();
    fs::rename(folder.join("..fresh"), folder.join("..data")).unwrap();
    assert!(port.trust.reload());
    let (second, _accepted) = port.serves_oregon().await;
    assert_ne!(first, shown(&second), "new handshakes show the new leaf");
    dialed.stream.write_all(b"still").await.unwrap();
    accepted.stream.read_exact(&mut [0; 5]).await.unwrap();
    assert!(port.trust.still_trusts(&accepted.peer));
}

#[test]
fn an_own_certificate_that_peers_would_refuse_is_announced() {
    let (log, _guard) = Log::capture();
    let dir = tempfile::tempdir().unwrap();
    trust::init(dir.path(), "paris");
    let good = trust::open(dir.path(), "paris");
    assert!(log.lines("refuse the own certificate").is_empty());
    Leaf::of("paris").signed_by_stranger("paris").install(dir.path());
    assert!(good.0.reload());
    assert_eq!(log.lines("refuse the own certificate").len(), 1);
}
