//! Trust from a Secret: supplied in memory, or mounted as a folder.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use tokio::sync::watch;

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use super::super::bundle as bundles;
use super::*;
use crate::clock;
use crate::testing::trust::Leaf;

const NAME: &str = "Secret mesh/portolan-ca";

/// Paris by what it is supplied, beside the folders of a mesh.
struct Supplied {
    dir: TempDir,
    trust: Trust,
    supplier: watch::Sender<Arc<Supply>>,
}

impl Supplied {
    /// Trusts oregon and tokyo.
    fn open() -> Self {
        let dir = tempfile::tempdir().unwrap();
        trust::mesh(dir.path(), &["paris", "oregon", "tokyo"]);
        let mut supply = Supply {
            own: Some(Arc::new(trust::authority_pair(&dir.path().join("paris")))),
            ..Supply::default()
        };
        for peer in ["oregon", "tokyo"] {
            supply.peers.insert(cluster(peer), bundle(&dir.path().join(peer)));
        }
        let (supplier, receiver) = watch::channel(Arc::new(supply));
        let trust = supplied("paris", receiver).unwrap();
        Self { dir, trust, supplier }
    }

    /// Hands over what `change` makes of the last supply; whether it is in force now.
    fn change(&self, change: impl FnOnce(&mut Supply)) -> bool {
        self.supplier.send_modify(|supply| change(Arc::make_mut(supply)));
        self.trust.reload()
    }
}

fn supplied(name: &str, supply: watch::Receiver<Arc<Supply>>) -> Result<Trust, Error> {
    let config = trust::config(Path::new(NAME), name);
    Trust::supplied(config, supply, Metrics::register(&Registry::new()).unwrap())
}

fn start_error(name: &str, pair: Option<Pair>) -> String {
    let supply = Supply { own: pair.map(Arc::new), ..Supply::default() };
    supplied(name, watch::channel(Arc::new(supply)).1).unwrap_err().to_string()
}

fn bundle(dir: &Path) -> Arc<str> {
    fs::read_to_string(dir.join("ca.pem")).unwrap().into()
}

/// Writes a pair as the kubelet does, every file with `mode`.
fn mount(pair: &Pair, dir: &Path, mode: u32) {
    let bundle = pair.bundle.clone().unwrap_or_default();
    for (name, content) in
        [("tls.crt", &pair.certificate), ("tls.key", &pair.key), ("ca.crt", &bundle)]
    {
        let _absent = fs::remove_file(dir.join(name));
        if !content.is_empty() {
            fs::write(dir.join(name), content).unwrap();
            fs::set_permissions(dir.join(name), fs::Permissions::from_mode(mode)).unwrap();
        }
    }
}

#[tokio::test]
async fn a_supplied_authority_issues_leaves_that_peers_accept() {
    let port = Port::open(Limits::default());
    let oregon = trust::authority_pair(&port.folder("oregon"));
    let mut supply = Supply { own: Some(Arc::new(oregon)), ..Supply::default() };
    supply.peers.insert(cluster("paris"), bundle(&port.folder("paris")));
    let trust = supplied("oregon", watch::channel(Arc::new(supply)).1).unwrap();
    assert!(trust.renews());
    let dialed = Dialer::new(trust).dial(&cluster("paris"), port.address, Kind::Data).await;
    assert_eq!(dialed.unwrap().peer.cluster(), &cluster("paris"));
}

#[tokio::test]
async fn an_authority_below_another_is_accepted_by_those_who_pinned_the_other() {
    let port = Port::open(Limits::default());
    let authority = |name: &str, depth| {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(depth));
        params
    };
    let root_key = KeyPair::generate().unwrap();
    let root = authority("root", 1).self_signed(&root_key).unwrap();
    let issuer = Issuer::new(authority("root", 1), root_key);
    let key = KeyPair::generate().unwrap();
    let below = authority("oregon", 0).signed_by(&key, &issuer).unwrap();
    let pair = Pair {
        certificate: below.pem().into(),
        key: key.serialize_pem().into_bytes().into(),
        bundle: Some(root.pem().into()),
    };
    fs::write(port.folder("paris").join("peers/oregon.pem"), root.pem()).unwrap();
    assert!(port.trust.reload());

    let (log, _guard) = Log::capture();
    let mut supply = Supply { own: Some(Arc::new(pair)), ..Supply::default() };
    supply.peers.insert(cluster("paris"), bundle(&port.folder("paris")));
    let trust = supplied("oregon", watch::channel(Arc::new(supply)).1).unwrap();
    assert_eq!(log.lines("refuse the own certificate"), [""; 0]);
    let client = Dialer::new(trust);
    let mut dialed = client.dial(&cluster("paris"), port.address, Kind::Data).await.unwrap();
    // A TLS 1.3 client learns only by reading that it was refused.
    let read = tokio::io::AsyncReadExt::read_u8(&mut dialed.stream);
    let silent = tokio::time::timeout(Duration::from_millis(200), read).await;
    assert!(silent.is_err(), "{silent:?}");
}

/// An authority of that name, and what it signs with; its own key where nobody signs it.
fn authority(name: &str, by: Option<&Issuer<'_, KeyPair>>) -> (String, Issuer<'static, KeyPair>) {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let made = match by {
        Some(issuer) => params.signed_by(&key, issuer).unwrap(),
        None => params.self_signed(&key).unwrap(),
    };
    (made.pem(), Issuer::new(params, key))
}

#[test]
fn s21_an_authority_above_ours_makes_no_siblings() {
    let (root, root_key) = authority("root", None);
    let (middle, middle_key) = authority("middle", Some(&root_key));
    let (ours, our_key) = authority("paris", Some(&middle_key));
    let (before, _) = authority("paris", Some(&root_key));
    let pair = |certificate: &[&str]| Pair {
        certificate: certificate.concat().into(),
        key: our_key.key().serialize_pem().into_bytes().into(),
        bundle: Some([&*root, &*middle, &*before].concat().into()),
    };
    let trusted = |pair: Pair| {
        let files = pair.into_files(Path::new(NAME));
        bundles::authorities(&files.authority.unwrap()).unwrap()
    };
    let der = |pem: &str| CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
    // cert-manager puts what lies between in `tls.crt`, the root in `ca.crt`.
    assert_eq!(trusted(pair(&[&ours, &middle])), [der(&ours), der(&before)]);

    // A leaf with its chain: its issuer, not the root.
    let leaf = CertificateParams::new(["paris.portolan.internal".to_owned()]).unwrap();
    let leaf = leaf.signed_by(&KeyPair::generate().unwrap(), &our_key).unwrap().pem();
    assert_eq!(trusted(pair(&[&leaf, &ours, &middle])), [der(&ours)]);
    // Without its chain there is only `ca.crt`.
    assert_eq!(trusted(pair(&[&leaf])), [der(&root), der(&middle), der(&before)]);
}

#[test]
fn a_leaf_of_another_issuer_is_used_as_it_is_and_replaced_when_it_is() {
    let supplied = Supplied::open();
    let paris = supplied.dir.path().join("paris");
    let leaf = Leaf::of("paris").signed_by(&paris).pair(&paris);
    assert!(supplied.change(|supply| supply.own = Some(Arc::new(leaf))));
    assert!(!supplied.trust.renews());
    let first = supplied.trust.material().own.certified.cert.clone();
    let next = Leaf::of("paris").signed_by(&paris).pair(&paris);
    assert!(supplied.change(|supply| supply.own = Some(Arc::new(next))));
    assert_ne!(supplied.trust.material().own.certified.cert, first);
    // Only from outside, and an expired one does not replace a good one.
    let expired = Leaf::of("paris").expired().signed_by(&paris).pair(&paris);
    assert!(!supplied.change(|supply| supply.own = Some(Arc::new(expired))));
    assert!(supplied.trust.own_expiry() > clock::wall());
}

#[tokio::test(start_paused = true)]
async fn a_new_supply_is_in_force_at_once_and_a_removed_bundle_out_of_it() {
    let supplied = Supplied::open();
    let mut generation = supplied.trust.generation();
    let fingerprint = supplied.trust.material().bundles[&cluster("oregon")].fingerprint;
    let oregon = PeerIdentity::new(cluster("oregon"), clock::wall(), fingerprint);
    let (_trigger, watch) = drain::channel();
    let mut tasks = JoinSet::new();
    tasks.spawn(supplied.trust.clone().run(watch));
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    let began = clock::now();
    supplied.supplier.send_modify(|supply| {
        Arc::make_mut(supply).peers.remove(&cluster("oregon"));
    });
    generation.changed().await.unwrap();
    assert!(clock::now() - began < Duration::from_millis(100));
    assert!(!supplied.trust.still_trusts(&oregon));
    assert!(supplied.trust.knows(&cluster("tokyo")));
    // A supplier that is gone takes nothing along, and nothing spins.
    drop(supplied.supplier);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(supplied.trust.knows(&cluster("tokyo")));
    assert_eq!(tasks.len(), 1);
    assert!(tasks.try_join_next().is_none());
}

#[test]
fn what_is_bad_in_a_supply_leaves_the_last_good_in_force_and_says_so() {
    let (log, _guard) = Log::capture();
    let supplied = Supplied::open();
    let expires = supplied.trust.own_expiry();
    assert!(!supplied.change(|supply| supply.own = None));
    assert_eq!(log.lines("Secret mesh/portolan-ca: it is not there").len(), 1);
    let stranger = tempfile::tempdir().unwrap();
    trust::init(stranger.path(), "lyon");
    let lyon = Arc::new(trust::authority_pair(stranger.path()));
    assert!(!supplied.change(|supply| supply.own = Some(lyon)));
    assert_eq!(log.lines("it is the authority of 'lyon', the configuration says 'paris'").len(), 1);
    assert_eq!(supplied.trust.own_expiry(), expires);
    assert!(!supplied.change(|supply| {
        supply.peers.insert(cluster("oregon"), "-----BEGIN CERT".into());
    }));
    assert!(supplied.trust.knows(&cluster("oregon")));
    assert_eq!(log.lines("the bundle of Peer oregon").len(), 1);
    // Neither holds up a revocation.
    assert!(supplied.change(|supply| drop(supply.peers.remove(&cluster("tokyo")))));
    assert!(!supplied.trust.knows(&cluster("tokyo")));
    assert!(supplied.trust.knows(&cluster("oregon")));
}

#[test]
fn an_unusable_identity_refuses_to_start_but_a_bad_bundle_does_not() {
    let dir = tempfile::tempdir().unwrap();
    trust::init(dir.path(), "paris");
    let good = trust::authority_pair(dir.path());
    let leaf = Leaf::of("paris").signed_by(dir.path()).pair(dir.path());
    let garbage = Pair { certificate: b"x".to_vec(), ..good.clone() };
    let mixed = Pair { key: leaf.key.clone(), ..good.clone() };
    for (name, pair, want) in [
        ("paris", None, "Secret mesh/portolan-ca: it is not there; restore it"),
        (
            "lyon",
            Some(good.clone()),
            "Secret mesh/portolan-ca/tls.crt: it is the authority of 'par",
        ),
        ("lyon", Some(leaf), "Secret mesh/portolan-ca/tls.crt: it speaks for 'paris', the config"),
        ("paris", Some(garbage), "Secret mesh/portolan-ca/tls.crt: there is no certificate in it"),
        ("paris", Some(mixed), "Secret mesh/portolan-ca/tls.key: it is not the key of a certific"),
    ] {
        let error = start_error(name, pair);
        assert!(error.contains(want), "{error}");
    }
    let (log, _guard) = Log::capture();
    let mut supply = Supply { own: Some(Arc::new(good)), ..Supply::default() };
    supply.peers.insert(cluster("oregon"), "x".into());
    let trust = supplied("paris", watch::channel(Arc::new(supply)).1).unwrap();
    assert!(!trust.knows(&cluster("oregon")));
    assert_eq!(log.lines("left out").len(), 1);
}

#[test]
fn s21_the_group_may_read_a_mounted_key_and_nobody_else() {
    let dir = tempfile::tempdir().unwrap();
    trust::init(dir.path(), "paris");
    let pair = trust::authority_pair(dir.path());
    let secret = tempfile::tempdir().unwrap();
    assert!(Pair::mounted(secret.path()).unwrap().is_none());
    for mode in [0o400, 0o440, 0o600] {
        mount(&pair, secret.path(), mode);
        let read = Pair::mounted(secret.path()).unwrap().unwrap();
        assert_eq!(read.key, pair.key, "{mode:o}");
    }
    for mode in [0o644, 0o460, 0o444, 0o402] {
        mount(&pair, secret.path(), mode);
        let error = Pair::mounted(secret.path()).unwrap_err().to_string();
        assert!(error.contains("defaultMode 0400") && error.contains("tls.key"), "{error}");
    }
    // A folder that is no Secret volume has no reason for it.
    mount(&pair, secret.path(), 0o440);
    let metrics = Metrics::register(&Registry::new()).unwrap();
    let error = Trust::open(trust::config(secret.path(), "paris"), metrics).unwrap_err();
    assert!(matches!(error, Error::KeyReadable { .. }), "{error}");
}

#[test]
fn a_folder_with_the_names_of_a_secret_is_understood() {
    let dir = tempfile::tempdir().unwrap();
    trust::mesh(dir.path(), &["paris", "oregon"]);
    let paris = dir.path().join("paris");
    let secret = dir.path().join("secret");
    fs::create_dir(&secret).unwrap();
    mount(&trust::authority_pair(&paris), &secret, 0o600);
    let (trust, _) = trust::open(&secret, "paris");
    assert!(trust.renews());
    fs::create_dir(secret.join("peers")).unwrap();
    trust::pin(&secret, "oregon", &dir.path().join("oregon"));
    assert!(trust.reload());
    assert!(trust.knows(&cluster("oregon")));
    mount(&Leaf::of("paris").signed_by(&paris).pair(&paris), &secret, 0o600);
    assert!(trust.reload());
    assert!(!trust.renews());
    // The names of `trust init` come first.
    for name in ["cert.pem", "key.pem"] {
        fs::copy(paris.join(name), secret.join(name)).unwrap();
    }
    let before = trust.material().own.certified.cert.clone();
    assert!(trust.reload());
    assert_ne!(trust.material().own.certified.cert, before);
}

#[test]
fn s21_no_supplied_key_shows_in_debug_text() {
    let supplied = Supplied::open();
    let supply = Arc::clone(&supplied.supplier.borrow());
    let shown = format!("{supply:?} {:?}", supplied.trust);
    assert!(shown.contains("redacted") && !shown.contains("PRIVATE"), "{shown}");
    let key = String::from_utf8(supply.own.as_ref().unwrap().key.to_vec()).unwrap();
    assert!(!shown.contains(key.lines().nth(1).unwrap()));
}

#[test]
fn entries_of_a_secret_make_a_pair_or_name_what_is_missing() {
    let entries =
        |names: &'static [&str]| move |name: &str| names.contains(&name).then_some(&b"x"[..]);
    let name = Path::new(NAME);
    assert!(Pair::of_entries(entries(&["tls.crt", "tls.key"]), name).unwrap().bundle.is_none());
    let error = Pair::of_entries(entries(&["tls.crt", "ca.crt"]), name).unwrap_err().to_string();
    assert!(error.starts_with("Secret mesh/portolan-ca/tls.key: it is missing; the Se"), "{error}");
}
