//! DNS over TLS, asked by tokio-rustls as a resolver would.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, ProtocolVersion, RootCertStore, SupportedProtocolVersion};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::sockets::{
    PATIENCE, Running, config, ended, hold_time, read_frame, start_server, until,
};
use super::*;
use crate::drain::{self, Phase};
use crate::testing::trust::{self, Credentials, Leaf};
use crate::tls::{CertificateFiles, ServerCertificate};

/// paris's trust folder, with a pair of files beside it.
struct Keys(TempDir);

impl Keys {
    fn new() -> Self {
        let keys = Self(tempfile::tempdir().unwrap());
        trust::init(keys.dir(), "paris");
        keys.put(&keys.leaf());
        keys
    }

    fn dir(&self) -> &Path {
        self.0.path()
    }

    fn leaf(&self) -> Credentials {
        Leaf::of("paris").signed_by(self.dir())
    }

    fn files(&self) -> CertificateFiles {
        let [certificate, key] = ["dns.crt", "dns.key"].map(|name| self.dir().join(name));
        CertificateFiles { certificate, key }
    }

    fn put(&self, pair: &Credentials) {
        self.put_key(&pair.key_pem);
        fs::write(self.files().certificate, &pair.certificate_pem).unwrap();
    }

    fn put_key(&self, pem: &str) {
        fs::write(self.files().key, pem).unwrap();
        fs::set_permissions(self.files().key, fs::Permissions::from_mode(0o600)).unwrap();
    }

    fn open(&self) -> Arc<ServerCertificate> {
        Arc::new(ServerCertificate::open(self.files(), ALPN).unwrap())
    }

    /// A resolver that knows the cluster's authority and resumes sessions where it can.
    fn resolver(&self, alpn: &[&[u8]], version: &'static SupportedProtocolVersion) -> Resolver {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(self.dir().join("ca.pem")).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        Resolver(TlsConnector::from(Arc::new(config)))
    }
}

#[derive(Clone)]
struct Resolver(TlsConnector);

impl Resolver {
    async fn connect(&self, to: SocketAddr) -> std::io::Result<TlsStream<TcpStream>> {
        let tcp = TcpStream::connect(to).await?;
        let name = ServerName::try_from("paris.portolan.internal").unwrap();
        timeout(PATIENCE, self.0.connect(name, tcp)).await.unwrap()
    }

    /// One query over a connection of its own.
    async fn ask(&self, to: SocketAddr) -> std::io::Result<Message> {
        let mut stream = self.connect(to).await?;
        exchange(&mut stream).await
    }
}

/// One query, one answer.
async fn exchange(stream: &mut TlsStream<TcpStream>) -> std::io::Result<Message> {
    stream.write_all(&query(WEB, A).framed()).await?;
    let length = timeout(PATIENCE, stream.read_u16()).await.unwrap()?;
    let mut octets = vec![0; length.into()];
    timeout(PATIENCE, stream.read_exact(&mut octets)).await.unwrap()?;
    Ok(Message::from_vec(&octets).unwrap())
}

fn start_tls(config: Config, certificate: &Arc<ServerCertificate>) -> Running {
    start_server(config, |server| {
        server.with_tls(&["127.0.0.1:0".parse().unwrap()], Arc::clone(certificate)).unwrap()
    })
}

fn shown(stream: &TlsStream<TcpStream>) -> CertificateDer<'static> {
    stream.get_ref().1.peer_certificates().unwrap()[0].clone()
}

fn der(pair: &Credentials) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(pair.certificate_pem.as_bytes()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dns_over_tls_serves_while_its_certificate_is_replaced() {
    let keys = Keys::new();
    let certificate = keys.open();
    let running = start_tls(config(&[]), &certificate);
    let to = running.tls[0];
    let resolver = keys.resolver(&[ALPN], &TLS13);
    let mut kept = resolver.connect(to).await.unwrap();
    let (stop, stopping) = drain::channel();
    let mut clients = JoinSet::new();
    for _ in 0..4 {
        let (resolver, stopping) = (resolver.clone(), stopping.clone());
        clients.spawn(async move {
            let mut asked = 0_usize;
            while stopping.phase() < Phase::Draining {
                assert_eq!(resolver.ask(to).await.unwrap().answers.len(), 1);
                asked += 1;
            }
            asked
        });
    }
    for _ in 0..5 {
        let next = keys.leaf();
        // Two files cannot be replaced at once: between the two, the last good pair stays.
        keys.put_key(&next.key_pem);
        assert!(!certificate.reload());
        exchange(&mut resolver.connect(to).await.unwrap()).await.unwrap();
        fs::write(keys.files().certificate, &next.certificate_pem).unwrap();
        assert!(certificate.reload());
        // It has sessions of before that it could resume.
        let mut stream = resolver.connect(to).await.unwrap();
        assert_eq!(shown(&stream), der(&next));
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(ALPN));
        exchange(&mut stream).await.unwrap();
        exchange(&mut kept).await.unwrap();
    }
    stop.advance(Phase::Draining);
    let asked: usize = clients.join_all().await.into_iter().sum();
    assert!(asked > 20, "only {asked} connections while five certificates were replaced");
    let counted = "portolan_dns_queries_total{qtype=\"A\",rcode=\"NOERROR\",transport=\"tls\"}";
    assert!(running.metric(counted) >= 30.0);
    assert_eq!(running.metric("portolan_dns_tls_handshakes_failed_total"), 0.0);
    running.stopped().await;
    assert!(exchange(&mut kept).await.is_err(), "closed with the server");
}

#[tokio::test]
async fn the_cluster_s_own_certificate_is_shown_and_follows_the_trust_folder() {
    let keys = Keys::new();
    let (first, second) = (keys.leaf(), keys.leaf());
    first.install(keys.dir());
    let (trust, _) = trust::open(keys.dir(), "paris");
    let certificate = Arc::new(ServerCertificate::own(trust.clone(), ALPN).unwrap());
    let running = start_tls(config(&["127.0.0.1:0"]), &certificate);
    let resolver = keys.resolver(&[], &TLS13);
    assert_eq!(shown(&resolver.connect(running.tls[0]).await.unwrap()), der(&first));
    second.install(keys.dir());
    assert!(trust.reload());
    let mut stream = resolver.connect(running.tls[0]).await.unwrap();
    assert_eq!(shown(&stream), der(&second));
    assert_eq!(exchange(&mut stream).await.unwrap().answers.len(), 1);
    // The plain address serves beside it.
    let mut plain = running.connect().await;
    plain.write_all(&query(WEB, A).framed()).await.unwrap();
    assert_eq!(read_frame(&mut plain).await.answers.len(), 1);
}

#[tokio::test]
async fn older_resolvers_and_those_that_name_no_protocol_are_served_and_others_are_not() {
    let keys = Keys::new();
    let running = start_tls(config(&[]), &keys.open());
    let to = running.tls[0];
    for version in [&TLS12, &TLS13] {
        for alpn in [&[][..], &[ALPN], &[b"h2", ALPN]] {
            let mut stream = keys.resolver(alpn, version).connect(to).await.unwrap();
            assert_eq!(exchange(&mut stream).await.unwrap().answers.len(), 1);
            let spoken = stream.get_ref().1.protocol_version();
            let expected =
                if version == &TLS12 { ProtocolVersion::TLSv1_2 } else { ProtocolVersion::TLSv1_3 };
            assert_eq!(spoken, Some(expected));
        }
    }
    assert!(keys.resolver(&[b"h2"], &TLS13).ask(to).await.is_err());
    let mut plain = TcpStream::connect(to).await.unwrap();
    plain.write_all(&query(WEB, A).framed()).await.unwrap();
    let mut rest = Vec::new();
    let _reset_or_closed = timeout(PATIENCE, plain.read_to_end(&mut rest)).await.unwrap();
    until(|| running.metric("portolan_dns_tls_handshakes_failed_total") == 2.0).await;
    until(|| running.metric("portolan_dns_tcp_connections") == 0.0).await;
    assert_eq!(keys.resolver(&[ALPN], &TLS13).ask(to).await.unwrap().answers.len(), 1);
}

#[tokio::test]
async fn a_handshake_has_five_seconds_and_a_place_like_any_connection() {
    let keys = Keys::new();
    let _time = hold_time();
    let certificate = keys.open();
    let running = start_tls(Config { tcp_total: 1, ..config(&["127.0.0.1:0"]) }, &certificate);
    let mut silent = TcpStream::connect(running.tls[0]).await.unwrap();
    until(|| running.metric("portolan_dns_tcp_connections") == 1.0).await;
    let mut refused = running.connect().await;
    ended(&mut refused).await;
    tokio::time::advance(Duration::from_millis(4_900)).await;
    tokio::task::yield_now().await;
    assert_eq!(running.metric("portolan_dns_tcp_connections"), 1.0);
    tokio::time::advance(Duration::from_millis(200)).await;
    let mut octet = [0];
    assert!(matches!(silent.read(&mut octet).await, Ok(0) | Err(_)));
    until(|| running.metric("portolan_dns_tcp_connections") == 0.0).await;
    // A handshake done, the first query has its own three seconds.
    let mut idle = keys.resolver(&[ALPN], &TLS13).connect(running.tls[0]).await.unwrap();
    tokio::time::advance(Duration::from_millis(2_900)).await;
    exchange(&mut idle).await.unwrap();
}

/// What was good stays, whatever is put there, and the log names the file and what to do.
#[test]
fn a_bad_pair_refuses_to_start_and_does_not_replace_a_good_one() {
    let keys = Keys::new();
    let certificate = keys.open();
    let before = certificate.config();
    let good = keys.leaf();
    let expired = Leaf::of("paris").expired().signed_by(keys.dir());
    let files = keys.files();
    let write = |path: &PathBuf, text: &str| fs::write(path, text).unwrap();
    let refused = |what: &str, remedy: &str| {
        let error = ServerCertificate::open(keys.files(), ALPN).unwrap_err().to_string();
        assert!(error.contains(what) && error.contains(remedy), "{error}");
        assert!(!certificate.reload(), "{what}");
        assert!(Arc::ptr_eq(&before, &certificate.config()));
    };
    keys.put_key(&good.key_pem);
    refused("dns.key", "it is not the key of dns.crt; put the matching pair there");
    write(&files.key, "nonsense");
    refused("dns.key", "not a PEM key");
    keys.put_key(&good.key_pem);
    write(&files.certificate, "nonsense");
    refused("dns.crt", "issue it again");
    fs::remove_file(&files.certificate).unwrap();
    refused("dns.crt", "it is missing; put the issued pair there");
    keys.put(&good);
    fs::set_permissions(&files.key, fs::Permissions::from_mode(0o644)).unwrap();
    refused("dns.key", "chmod 600");
    keys.put(&expired);
    assert!(!certificate.reload(), "an expired one does not replace a good one");
    assert!(Arc::ptr_eq(&before, &certificate.config()));
    keys.put(&good);
    assert!(certificate.reload());
    assert!(!Arc::ptr_eq(&before, &certificate.config()));
}
