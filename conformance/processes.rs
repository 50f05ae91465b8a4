//! Agents as processes of their own: kills, signals, restarts, changed and broken files.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use portolan::admin::json::ServiceJson;
use portolan::clock;
use portolan::dns::ALPN;
use portolan::health::PeerState;
use portolan::testing::trust::{Client, Credentials, Leaf};
use portolan::testing::{Backend, PATIENCE, Process, World, dns_query};
use rustix::process::Signal;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

const BINARY: &str = env!("CARGO_BIN_EXE_portolan");
const NAME: &str = "web.shop";
const DNS_NAME: &str = "web.shop.svc.clusterset.local";

fn loopback() -> std::net::IpAddr {
    std::net::Ipv4Addr::LOCALHOST.into()
}

fn start(world: &World, cluster: &str) -> Process {
    let config = world.write_config(cluster, |peer| vec![world.gateway(peer)]);
    Process::start(BINARY, &config, world.admin(cluster))
}

fn state_of(service: &ServiceJson, cluster: &str) -> Option<PeerState> {
    service.candidates.iter().find(|c| c.cluster.as_str() == cluster).map(|c| c.state)
}

/// Who leads, once there is an address to call.
fn leader(service: &ServiceJson) -> Option<&str> {
    let called = service.candidates.first().filter(|_| !service.ips.is_empty());
    called.filter(|c| c.usable).map(|c| c.cluster.as_str())
}

async fn call(agent: &Process) -> std::io::Result<String> {
    let service = agent.admin.explain(NAME).await.map_err(std::io::Error::other)?;
    let vip = (service.ips[0], service.ports[0].port.get());
    let mut stream = TcpStream::connect(vip).await?;
    stream.shutdown().await?;
    let mut answer = String::new();
    tokio::time::timeout(Duration::from_secs(10), stream.read_to_string(&mut answer)).await??;
    Ok(answer)
}

#[tokio::test(flavor = "multi_thread")]
async fn p02_the_only_gateway_of_a_cluster_is_killed_and_comes_back() {
    let world = World::new(&["paris", "oregon"]);
    let (near, far) =
        (Backend::naming(loopback(), "paris").await, Backend::naming(loopback(), "oregon").await);
    world.export("oregon", "shop/web", 80, &[far.address]);
    let (mut paris, mut oregon) = (start(&world, "paris"), start(&world, "oregon"));
    paris.ready(PATIENCE).await;
    oregon.ready(PATIENCE).await;
    paris.explains(NAME, "oregon leads", |s| leader(s) == Some("oregon")).await;
    assert_eq!(call(&paris).await.unwrap(), "oregon");

    let killed = clock::now();
    oregon.kill();
    paris
        .explains(NAME, "oregon is down", |s| state_of(s, "oregon") == Some(PeerState::Down))
        .await;
    let took = clock::now() - killed;
    assert!(took <= Duration::from_millis(4_500), "named for {took:?} after the kill");

    world.export("paris", "shop/web", 80, &[near.address]);
    paris.explains(NAME, "paris leads", |s| leader(s) == Some("paris")).await;
    assert_eq!(call(&paris).await.unwrap(), "paris", "local endpoints are unaffected");

    world.export("paris", "shop/web", 80, &[]);
    let mut oregon = start(&world, "oregon");
    oregon.ready(PATIENCE).await;
    paris
        .explains(NAME, "oregon is back by the rules", |s| {
            state_of(s, "oregon") == Some(PeerState::Up) && leader(s) == Some("oregon")
        })
        .await;
    assert_eq!(call(&paris).await.unwrap(), "oregon");
}

#[tokio::test(flavor = "multi_thread")]
async fn p03_a_killed_agent_answers_from_saved_state_with_every_peer_away() {
    let world = World::new(&["paris", "oregon"]);
    let far = Backend::naming(loopback(), "oregon").await;
    world.export("oregon", "shop/web", 80, &[far.address]);
    let (mut paris, mut oregon) = (start(&world, "paris"), start(&world, "oregon"));
    paris.ready(PATIENCE).await;
    oregon.ready(PATIENCE).await;
    let before = paris.explains(NAME, "oregon leads", |s| leader(s) == Some("oregon")).await.ips;
    let saved = world.path().join("paris/state/peers");
    let deadline = clock::now() + PATIENCE;
    while !fs::read_dir(saved.parent().unwrap()).unwrap().flatten().any(|entry| {
        entry.file_name().to_string_lossy().starts_with("peers")
            && entry.metadata().is_ok_and(|m| m.len() > 100)
    }) {
        assert!(clock::now() < deadline, "the peers' catalogs were never saved");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    oregon.kill();
    paris.kill();
    let mut paris = start(&world, "paris");
    let after = loop {
        if let Ok(addresses) = dns_query(world.dns("paris"), DNS_NAME).await {
            break addresses;
        }
        assert!(clock::now() - paris.started < PATIENCE, "no answer:\n{}", paris.log());
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    assert_eq!(after, before, "the address is the one of before");
    paris.ready(PATIENCE).await;
}

/// What a resolver of both replicas saw: it asks the first, and the other where that refuses or is
/// silent for 500 ms.
#[derive(Debug, Default)]
struct Resolved {
    asked: u32,
    lost: u32,
    /// The last answer of the first, and when it first had none.
    last: Option<Instant>,
    refused: Option<Instant>,
}

impl Resolved {
    /// Notes what became of one question: an answer of the first, or else of the other.
    fn note(&mut self, first: bool, other: bool) {
        let now = clock::now();
        self.asked += 1;
        if first {
            self.last = Some(now);
        } else {
            self.refused.get_or_insert(now);
            self.lost += u32::from(!other);
        }
    }
}

/// One question over a connection that is kept, or over a new one where there is none.
async fn ask_over(kept: &mut Option<TcpStream>, server: SocketAddr) -> bool {
    let answered = async {
        let stream = match kept {
            Some(stream) => stream,
            None => kept.insert(TcpStream::connect(server).await.ok()?),
        };
        stream.write_all(&framed_question()).await.ok()?;
        let mut answer = vec![0; stream.read_u16().await.ok()?.into()];
        stream.read_exact(&mut answer).await.ok()?;
        // NOERROR, and one answer.
        (answer[3] & 15 == 0 && answer[6..8] == [0, 1]).then_some(())
    };
    let answered = tokio::time::timeout(Duration::from_millis(500), answered).await;
    let answered = matches!(answered, Ok(Some(())));
    if !answered {
        *kept = None;
    }
    answered
}

fn framed_question() -> Vec<u8> {
    let mut question = vec![0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in DNS_NAME.split('.') {
        question.push(u8::try_from(label.len()).expect("a label"));
        question.extend(label.as_bytes());
    }
    question.extend([0, 0, 1, 0, 1]);
    let length = u16::try_from(question.len()).expect("a short question").to_be_bytes();
    [&length[..], &question].concat()
}

/// Asks by datagram and over connections until told to stop.
async fn resolve([first, other]: [SocketAddr; 2], until: Arc<AtomicBool>) -> [Resolved; 2] {
    let (mut by_datagram, mut over_tcp) = (Resolved::default(), Resolved::default());
    let mut kept = [None, None];
    while !until.load(Ordering::Relaxed) {
        let answered = dns_query(first, DNS_NAME).await.is_ok_and(|found| !found.is_empty());
        let other_answers =
            !answered && dns_query(other, DNS_NAME).await.is_ok_and(|found| !found.is_empty());
        by_datagram.note(answered, other_answers);
        // A kept connection may have been closed since; a resolver then opens another.
        let answered = ask_over(&mut kept[0], first).await || ask_over(&mut kept[0], first).await;
        let other_answers = !answered && ask_over(&mut kept[1], other).await;
        over_tcp.note(answered, other_answers);
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    [by_datagram, over_tcp]
}

#[tokio::test(flavor = "multi_thread")]
async fn p05_dns_goes_on_answering_for_its_delay_and_then_closes() {
    const DELAY: Duration = Duration::from_secs(2);
    let world = World::new(&["paris"]);
    let echo = Backend::echo(loopback()).await;
    world.export("paris", "shop/web", 80, &[echo.address]);
    let addresses = [1, 2].map(|which| SocketAddr::new(world.host("paris", which), 5353));
    let mut replicas = [1, 2].map(|which| {
        let config = world.write_replica("paris", which, |_| Vec::new());
        let text = fs::read_to_string(&config).unwrap();
        fs::write(
            &config,
            text.replace(":5353\"], shutdown_delay: 300ms", ":5353\"], shutdown_delay: 2s"),
        )
        .unwrap();
        Process::start(BINARY, &config, (world.host("paris", which), 9900).into())
    });
    for (replica, at) in replicas.iter_mut().zip(addresses) {
        replica.ready(PATIENCE).await;
        let deadline = clock::now() + PATIENCE;
        while !dns_query(at, DNS_NAME).await.is_ok_and(|found| !found.is_empty()) {
            assert!(clock::now() < deadline, "{at} never answered:\n{}", replica.log());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    let until = Arc::new(AtomicBool::new(false));
    let mut resolvers: JoinSet<_> =
        (0..4).map(|_| resolve(addresses, Arc::clone(&until))).collect();
    tokio::time::sleep(Duration::from_millis(200)).await;
    let told = clock::now();
    replicas[0].signal(Signal::TERM);
    replicas[0].ended(PATIENCE).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    until.store(true, Ordering::Relaxed);
    while let Some(seen) = resolvers.join_next().await {
        for seen in seen.unwrap() {
            assert_eq!(seen.lost, 0, "{seen:?}");
            let last = seen.last.expect("the first answered") - told;
            // The machine may be slow, the delay may not be cut short.
            assert!(last >= DELAY.mul_f64(0.9), "the last answer came {last:?} after the signal");
            let refused = seen.refused.expect("it closed in the end") - told;
            assert!(refused >= DELAY.mul_f64(0.9), "a question was refused {refused:?} after it");
            assert!(seen.asked > 100, "{seen:?}");
        }
    }
}

/// The certificate that is shown over TLS, after a question was answered there.
async fn shown(client: &Client, at: SocketAddr) -> Option<CertificateDer<'static>> {
    let mut stream = client.connect(at).await.ok()?;
    stream.write_all(&framed_question()).await.ok()?;
    let mut answer = vec![0; stream.read_u16().await.ok()?.into()];
    stream.read_exact(&mut answer).await.ok()?;
    stream.get_ref().1.peer_certificates()?.first().cloned()
}

#[tokio::test(flavor = "multi_thread")]
async fn dns_over_tls_shows_the_cluster_s_certificate_or_files_that_may_be_replaced() {
    let world = World::new(&["paris"]);
    let echo = Backend::echo(loopback()).await;
    world.export("paris", "shop/web", 80, &[echo.address]);
    let (trust, at) = (world.trust("paris"), SocketAddr::new(world.host("paris", 1), 8853));
    let client = Client { alpn: vec![ALPN.to_vec()], ..Client::of(&trust, "paris", None) };
    let start = |keys: &str| {
        let config = world.write_config("paris", |_| Vec::new());
        let text = fs::read_to_string(&config).unwrap();
        let dns = format!("dns: {{ tls_listen: '{at}', {keys}");
        fs::write(&config, text.replace("dns: { ", &dns)).unwrap();
        Process::start(BINARY, &config, world.admin("paris"))
    };
    let shows = async |agent: &Process, wanted: Option<&Credentials>| {
        let wanted = wanted
            .map(|pair| CertificateDer::from_pem_slice(pair.certificate_pem.as_bytes()).unwrap());
        let deadline = clock::now() + PATIENCE;
        loop {
            let seen = shown(&client, at).await;
            if seen.is_some() && (wanted.is_none() || seen == wanted) {
                return;
            }
            assert!(clock::now() < deadline, "never shown:\n{}", agent.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let mut paris = start("");
    // The client verified it as paris's.
    shows(&paris, None).await;
    paris.kill();

    let [first, second] = [(); 2].map(|()| Leaf::of("paris").signed_by(&trust));
    let [certificate, key] = ["dns.crt", "dns.key"].map(|name| world.path().join(name));
    let put = |path: &Path, text: &str| {
        fs::write(path, text).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o640)).unwrap();
    };
    put(&certificate, &first.certificate_pem);
    put(&key, &first.key_pem);
    let files = format!("tls_certificate: {}, tls_key: {}, ", certificate.display(), key.display());
    let paris = start(&files);
    shows(&paris, Some(&first)).await;
    put(&key, &second.key_pem);
    until_logged(&paris, "dns.key: it is not the key of dns.crt; put the matching pair there")
        .await;
    assert!(shown(&client, at).await.is_some(), "the last good pair stays");
    put(&certificate, &second.certificate_pem);
    shows(&paris, Some(&second)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p06_a_second_signal_ends_at_once() {
    let world = World::new(&["paris", "oregon"]);
    let echo = Backend::echo(loopback()).await;
    world.export("paris", "shop/web", 80, &[echo.address]);
    let config = world.write_config("paris", |_| vec![world.gateway("oregon")]);
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, text.replace("drain: 2s, shutdown_delay: 300ms", "drain: 60s")).unwrap();
    let mut paris = Process::start(BINARY, &config, world.admin("paris"));
    paris.ready(PATIENCE).await;
    let service = paris.explains(NAME, "an address", |s| !s.ips.is_empty()).await;
    let mut held = TcpStream::connect((service.ips[0], 80)).await.unwrap();
    held.write_all(b"x").await.unwrap();
    held.read_exact(&mut [0]).await.unwrap();
    paris.signal(Signal::TERM);
    let deadline = clock::now() + PATIENCE;
    while paris.admin.ready().await {
        assert!(clock::now() < deadline, "still ready after the first signal");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let second = clock::now();
    paris.signal(Signal::TERM);
    paris.ended(PATIENCE).await;
    assert!(clock::now() - second < Duration::from_secs(3), "the second signal was waited on");
}

/// The program behind a limit on its open files.
fn with_few_descriptors(world: &World, most: u32) -> String {
    let path = world.path().join("few-descriptors");
    let text = format!("#!/bin/sh\nulimit -n {most} && exec '{BINARY}' \"$@\"\n");
    fs::write(&path, text).expect("the disk takes it");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("the disk takes it");
    path.to_str().expect("a path in ASCII").to_owned()
}

fn descriptors(agent: &Process) -> usize {
    fs::read_dir(format!("/proc/{}/fd", agent.pid())).expect("it lives").count()
}

#[tokio::test(flavor = "multi_thread")]
async fn p09_without_descriptors_it_waits_quietly_and_recovers() {
    const MOST: usize = 220;
    let world = World::new(&["paris"]);
    let echo = Backend::echo(loopback()).await;
    world.export("paris", "shop/web", 80, &[echo.address]);
    let config = world.write_config("paris", |_| Vec::new());
    let binary = with_few_descriptors(&world, u32::try_from(MOST).unwrap());
    let mut paris = Process::start(&binary, &config, world.admin("paris"));
    paris.ready(PATIENCE).await;
    let service = paris.explains(NAME, "an address", |s| !s.ips.is_empty()).await;
    let mut held = TcpStream::connect((service.ips[0], 80)).await.unwrap();
    held.write_all(b"x").await.unwrap();
    held.read_exact(&mut [0]).await.unwrap();

    // More than it has descriptors for, on three of its ports; questions keep those of DNS open.
    let question = [&[0, 17, 0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0][..], &[0, 0, 1, 0, 1]].concat();
    let mut flood = Vec::new();
    for _ in 0..MOST {
        let mut stream = TcpStream::connect(world.dns("paris")).await.unwrap();
        stream.write_all(&question).await.unwrap();
        flood.push(stream);
        flood.push(TcpStream::connect(world.gateway("paris")).await.unwrap());
    }
    let deadline = clock::now() + PATIENCE;
    while descriptors(&paris) + 2 < MOST {
        assert!(clock::now() < deadline, "{} descriptors in use", descriptors(&paris));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let (before, began) = (paris.cpu(), clock::now());
    tokio::time::sleep(Duration::from_secs(2)).await;
    let (used, passed) = (paris.cpu() - before, clock::now() - began);
    held.write_all(b"y").await.unwrap();
    held.read_exact(&mut [0]).await.unwrap();
    assert!(used < passed / 10, "{used:?} of CPU in {passed:?} without descriptors");

    drop(flood);
    paris.explains(NAME, "it answers again", |_| true).await;
    let mut again = TcpStream::connect((service.ips[0], 80)).await.unwrap();
    again.write_all(b"z").await.unwrap();
    again.read_exact(&mut [0]).await.unwrap();
    assert!(dns_query(world.dns("paris"), DNS_NAME).await.is_ok());
    held.write_all(b"y").await.unwrap();
    held.read_exact(&mut [0]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn p11_damaged_state_is_ignored_and_the_agent_starts_cold() {
    let world = World::new(&["paris"]);
    let near = Backend::naming(loopback(), "paris").await;
    world.export("paris", "shop/web", 80, &[near.address]);
    let mut paris = start(&world, "paris");
    paris.ready(PATIENCE).await;
    paris.kill();
    let mut damaged = 0;
    for entry in fs::read_dir(world.path().join("paris/state")).unwrap().flatten() {
        let mut bytes = fs::read(entry.path()).unwrap();
        if let Some(last) = bytes.last_mut() {
            *last ^= 0xff;
            damaged += 1;
        }
        fs::write(entry.path(), bytes).unwrap();
    }
    assert!(damaged > 0, "nothing was saved");
    let mut paris = start(&world, "paris");
    paris.ready(PATIENCE).await;
    assert!(paris.log().contains("saved state ignored"), "{}", paris.log());
    paris.explains(NAME, "paris leads", |s| leader(s) == Some("paris") && !s.ips.is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn o03_a_bad_configuration_and_a_bad_manifest_leave_the_old_in_force() {
    let world = World::new(&["paris", "oregon"]);
    let near = Backend::naming(loopback(), "paris").await;
    world.export("paris", "shop/web", 80, &[near.address]);
    let mut paris = start(&world, "paris");
    paris.ready(PATIENCE).await;
    let config = world.path().join("paris/portolan.yaml");
    let good = fs::read_to_string(&config).unwrap();

    fs::write(&config, format!("{good}\nbogus: 1\n")).unwrap();
    until_logged(&paris, "bogus").await;
    until_metric(&paris, "portolan_config_faulty 1\n").await;
    assert!(!check(&config).status.success(), "check finds the same fault");
    world.manifest("paris", "broken.yaml", "kind: Service\nmetadata: [\n");
    let deadline = clock::now() + PATIENCE;
    loop {
        let source = paris.admin.state().await.unwrap().source;
        if let Some(error) = &source.error {
            assert!(error.contains("broken.yaml"), "the file is not named: {error}");
            break;
        }
        assert!(clock::now() < deadline, "the bad manifest was never reported");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(call(&paris).await.unwrap(), "paris", "the old state stays in force");

    world.remove_manifest("paris", "broken.yaml");
    world.export("paris", "shop/next", 81, &[near.address]);
    let deadline = clock::now() + PATIENCE;
    while paris.admin.explain("next.shop").await.is_err()
        || paris.admin.state().await.unwrap().source.error.is_some()
    {
        assert!(clock::now() < deadline, "the next good change was not taken");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    fs::write(&config, &good).unwrap();
    until_metric(&paris, "portolan_config_faulty 0\n").await;
    let report = check(&config);
    let text = String::from_utf8_lossy(&report.stdout).into_owned();
    assert!(report.status.success() || text.contains("in use"), "{text}");
}

async fn until_logged(agent: &Process, word: &str) {
    let deadline = clock::now() + PATIENCE;
    while !agent.log().contains(word) {
        assert!(clock::now() < deadline, "{word} was never logged:\n{}", agent.log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn until_metric(agent: &Process, line: &str) {
    let deadline = clock::now() + PATIENCE;
    while !agent.admin.metrics().await.expect("it answers").contains(line) {
        assert!(clock::now() < deadline, "{line} was never shown");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn check(config: &Path) -> std::process::Output {
    Command::new(BINARY).arg("check").arg("--config").arg(config).output().expect("runs")
}

#[tokio::test(flavor = "multi_thread")]
async fn s21_a_key_that_others_can_read_is_refused_with_the_remedy() {
    let world = World::new(&["paris"]);
    let config = world.write_config("paris", |_| Vec::new());
    let key = world.path().join("trust/paris/key.pem");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    let run = Command::new(BINARY).arg("run").arg("--config").arg(&config).output().expect("runs");
    let text = String::from_utf8_lossy(&run.stderr).into_owned();
    assert!(!run.status.success());
    assert!(text.contains("key.pem") && text.contains("chmod"), "{text}");
    assert!(!text.contains("PRIVATE KEY"), "the key itself is in the output");
}

#[tokio::test(flavor = "multi_thread")]
async fn s20_the_admin_port_shows_no_secret() {
    let world = World::new(&["paris"]);
    let mut paris = start(&world, "paris");
    paris.ready(PATIENCE).await;
    let state = serde_json::to_string(&paris.admin.state().await.unwrap()).unwrap();
    let metrics = paris.admin.metrics().await.unwrap();
    let key = fs::read_to_string(world.path().join("trust/paris/key.pem")).unwrap();
    let secret = key.lines().nth(1).expect("a PEM body");
    for (what, text) in [("state", state), ("metrics", metrics), ("log", paris.log())] {
        assert!(!text.contains(secret) && !text.contains("PRIVATE"), "a key in the {what}");
    }
}

#[test]
fn usage_errors_end_with_2_and_an_unreachable_agent_with_3() {
    let code = |arguments: &[&str]| {
        Command::new(BINARY).args(arguments).output().expect("runs").status.code()
    };
    assert_eq!(code(&["no-such-command"]), Some(2));
    assert_eq!(code(&["check", "--config", "/nonexistent/portolan.yaml"]), Some(2));
    assert_eq!(code(&["status", "--admin", "127.0.0.1:1"]), Some(3));
    assert_eq!(code(&["--version"]), Some(0));
}
