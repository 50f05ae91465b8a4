//! What happens to the bytes of a stream between two clusters: both halves, every kind of end,
//! back-pressure, and shutdown. Whole agents over loopback, through `app::build`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use portolan::clock;
use portolan::testing::{Agent, Backend, PATIENCE, World, dns_query, drain};
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::timeout;

const NAME: &str = "web.shop";

/// Paris, whose clients call; oregon, which has the backends.
struct Pair {
    world: World,
    paris: Agent,
    oregon: Agent,
}

impl Pair {
    async fn new(backend: impl FnOnce(&World) -> SocketAddr) -> Self {
        let world = World::new(&["paris", "oregon"]);
        let address = backend(&world);
        world.export("oregon", "shop/web", 80, &[address]);
        let (paris, oregon) = (world.start("paris"), world.start("oregon"));
        paris.peers_up().await;
        paris.led_by(NAME, "oregon").await;
        Self { world, paris, oregon }
    }

    async fn connect(&self) -> TcpStream {
        self.paris.connect(NAME).await
    }
}

/// A world's address for oregon's backends is known before the world is: loopback is one host.
fn anywhere() -> std::net::IpAddr {
    std::net::Ipv4Addr::LOCALHOST.into()
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|i| u8::try_from(i * 31 % 251).expect("below 251")).collect()
}

fn reset_on_close(stream: &TcpStream) {
    SockRef::from(stream).set_linger(Some(Duration::ZERO)).expect("a socket");
}

async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("{what}: not within {PATIENCE:?}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn p16_a_client_that_half_closes_still_hears_the_whole_answer() {
    let (seen_tx, mut seen) = mpsc::channel(1);
    let backend = Backend::start(anywhere(), move |mut stream| {
        let seen = seen_tx.clone();
        async move {
            let mut request = Vec::new();
            stream.read_to_end(&mut request).await.expect("a FIN, no reset");
            seen.send(request).await.expect("the test waits");
            stream.write_all(&pattern(300_000)).await.expect("the client reads on");
        }
    })
    .await;
    let pair = Pair::new(|_| backend.address).await;
    let mut client = pair.connect().await;
    client.write_all(&pattern(200_000)).await.unwrap();
    client.shutdown().await.unwrap();
    assert_eq!(soon("the request", seen.recv()).await.unwrap(), pattern(200_000));
    let mut answer = Vec::new();
    soon("the answer", client.read_to_end(&mut answer)).await.unwrap();
    assert_eq!(answer, pattern(300_000));
}

#[tokio::test(flavor = "multi_thread")]
async fn p16_a_server_that_half_closes_still_reads_the_whole_request() {
    let (seen_tx, mut seen) = mpsc::channel(1);
    let backend = Backend::start(anywhere(), move |mut stream| {
        let seen = seen_tx.clone();
        async move {
            stream.write_all(b"go on").await.expect("the client reads");
            stream.shutdown().await.expect("half-close");
            let mut request = Vec::new();
            stream.read_to_end(&mut request).await.expect("a FIN, no reset");
            seen.send(request).await.expect("the test waits");
        }
    })
    .await;
    let pair = Pair::new(|_| backend.address).await;
    let mut client = pair.connect().await;
    let mut greeting = Vec::new();
    soon("the FIN", client.read_to_end(&mut greeting)).await.unwrap();
    assert_eq!(greeting, b"go on");
    client.write_all(&pattern(1_000_000)).await.unwrap();
    client.shutdown().await.unwrap();
    assert_eq!(soon("the request", seen.recv()).await.unwrap(), pattern(1_000_000));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_by_the_client_is_a_reset_at_the_backend() {
    let (seen_tx, mut seen) = mpsc::channel(1);
    let backend = Backend::start(anywhere(), move |mut stream| {
        let seen = seen_tx.clone();
        async move {
            let mut all = Vec::new();
            let end = stream.read_to_end(&mut all).await;
            seen.send((all, end.is_err())).await.expect("the test waits");
        }
    })
    .await;
    let pair = Pair::new(|_| backend.address).await;
    let mut client = pair.connect().await;
    client.write_all(b"half a requ").await.unwrap();
    // The bytes must have crossed before the reset overtakes them in the client's own kernel.
    soon("the backend's accept", async {
        while backend.accepted() == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    reset_on_close(&client);
    drop(client);
    let (bytes, was_reset) = soon("the end", seen.recv()).await.unwrap();
    assert!(was_reset, "the backend saw a FIN after {bytes:?}");
    let _whole_world_lives_until_here = &pair.world;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_by_the_backend_delivers_what_came_before_it_and_then_resets_the_client() {
    let backend = Backend::start(anywhere(), |mut stream| async move {
        let mut word = [0; 4];
        stream.read_exact(&mut word).await.expect("the request");
        stream.write_all(b"partial").await.expect("the client reads");
        // What was written must have left this host before the reset discards the rest.
        let mut more = [0; 2];
        stream.read_exact(&mut more).await.expect("the client has read it");
        reset_on_close(&stream);
    })
    .await;
    let pair = Pair::new(|_| backend.address).await;
    let mut client = pair.connect().await;
    client.write_all(b"give").await.unwrap();
    let mut partial = [0; 7];
    soon("the partial answer", client.read_exact(&mut partial)).await.unwrap();
    assert_eq!(&partial, b"partial");
    client.write_all(b"ok").await.unwrap();
    let end = soon("the end", client.read(&mut [0; 16])).await;
    assert_eq!(end.expect_err("a reset").kind(), std::io::ErrorKind::ConnectionReset);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_writes_and_closes_at_once_loses_nothing() {
    let backend = Backend::start(anywhere(), |mut stream| async move {
        stream.write_all(&pattern(100_000)).await.expect("room");
        stream.shutdown().await.expect("a FIN");
        drain(&mut stream).await;
    })
    .await;
    let pair = Pair::new(|_| backend.address).await;
    for _ in 0..20 {
        let mut client = pair.connect().await;
        let mut answer = Vec::new();
        soon("the answer", client.read_to_end(&mut answer)).await.unwrap();
        assert_eq!(answer, pattern(100_000));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_speaks_first_is_heard_before_the_client_says_a_word() {
    let backend = Backend::start(anywhere(), |mut stream| async move {
        stream.write_all(b"220 ready\r\n").await.expect("the client listens");
        let mut quit = [0; 4];
        stream.read_exact(&mut quit).await.expect("the client's turn");
        stream.write_all(b"221 bye\r\n").await.expect("the client listens");
    })
    .await;
    let pair = Pair::new(|_| backend.address).await;
    let mut client = pair.connect().await;
    let mut greeting = [0; 11];
    soon("the greeting", client.read_exact(&mut greeting)).await.unwrap();
    assert_eq!(&greeting, b"220 ready\r\n");
    client.write_all(b"QUIT").await.unwrap();
    let mut rest = Vec::new();
    soon("the farewell", client.read_to_end(&mut rest)).await.unwrap();
    assert_eq!(rest, b"221 bye\r\n");
}

/// Writes for ever and counts.
async fn flooding(written: Arc<AtomicU64>) -> Backend {
    Backend::start(anywhere(), move |mut stream| {
        let written = Arc::clone(&written);
        async move {
            let chunk = pattern(16 * 1024);
            while stream.write_all(&chunk).await.is_ok() {
                written.fetch_add(chunk.len() as u64, Ordering::Relaxed);
            }
        }
    })
    .await
}

/// Waits until a counter has stood still for half a second.
async fn standstill(counter: &AtomicU64) -> u64 {
    let deadline = clock::now() + PATIENCE;
    let mut last = counter.load(Ordering::Relaxed);
    loop {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let now = counter.load(Ordering::Relaxed);
        if now == last && now > 0 {
            return now;
        }
        assert!(clock::now() < deadline, "still growing at {now} bytes");
        last = now;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn p15_a_slow_reader_stops_its_writer_and_loses_nothing() {
    let written = Arc::new(AtomicU64::new(0));
    let backend = flooding(Arc::clone(&written)).await;
    let pair = Pair::new(|_| backend.address).await;
    let mut client = pair.connect().await;
    let stuck_at = standstill(&written).await;
    // Three TCP connections lie between them, each with a kernel window of a few MiB.
    assert!(stuck_at < 64 << 20, "{stuck_at} bytes are buffered for one slow reader");
    let mut left = usize::try_from(stuck_at).expect("fits");
    let expected = pattern(16 * 1024);
    let mut chunk = vec![0; expected.len()];
    while left > 0 {
        soon("the buffered bytes", client.read_exact(&mut chunk)).await.unwrap();
        assert_eq!(chunk, expected);
        left = left.saturating_sub(chunk.len());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn p04_drain_lets_open_streams_finish_inside_its_deadline() {
    let echo = Backend::echo(anywhere()).await;
    let mut pair = Pair::new(|_| echo.address).await;
    let mut clients = Vec::new();
    for _ in 0..100 {
        let mut client = pair.connect().await;
        client.write_all(b"1").await.unwrap();
        soon("an echo", client.read_exact(&mut [0])).await.unwrap();
        clients.push(client);
    }
    let ended = pair.oregon.begin_stop();
    pair.paris
        .until(NAME, |service| {
            service.candidates.iter().all(|c| c.state == portolan::health::PeerState::Draining)
        })
        .await;
    for client in &mut clients {
        client.write_all(b"2").await.unwrap();
        soon("an echo in the drain", client.read_exact(&mut [0])).await.unwrap();
        client.shutdown().await.unwrap();
        assert_eq!(soon("the FIN", client.read(&mut [0])).await.unwrap(), 0);
    }
    drop(clients);
    soon("the end of the drain", ended).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn p04_a_stream_that_outlives_the_deadline_is_reset() {
    let echo = Backend::echo(anywhere()).await;
    let mut pair = Pair::new(|_| echo.address).await;
    let mut client = pair.connect().await;
    client.write_all(b"1").await.unwrap();
    soon("an echo", client.read_exact(&mut [0])).await.unwrap();
    let ended = pair.oregon.begin_stop();
    soon("the end of the drain", ended).await.unwrap().unwrap();
    let end = soon("the reset", client.read(&mut [0])).await;
    assert_eq!(end.expect_err("a reset").kind(), std::io::ErrorKind::ConnectionReset);
}

#[tokio::test(flavor = "multi_thread")]
async fn s07_a_manifest_that_names_a_port_of_ours_opens_nothing() {
    let world = World::new(&["paris", "oregon"]);
    for (name, own) in [("admin", world.admin("oregon")), ("peer", world.gateway("paris"))] {
        world.export("oregon", &format!("shop/{name}"), 80, &[own]);
    }
    let (paris, _oregon) = (world.start("paris"), world.start("oregon"));
    paris.peers_up().await;
    for name in ["admin.shop", "peer.shop"] {
        paris.led_by(name, "oregon").await;
        let mut client = paris.connect(name).await;
        client.write_all(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        let end = soon("the end", client.read(&mut [0; 64])).await;
        assert!(end.is_err(), "{name} was reached: {end:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ports_in_use_refuse_to_start_and_name_the_address() {
    let world = World::new(&["paris"]);
    for taken in [world.gateway("paris"), world.admin("paris"), world.dns("paris")] {
        let _holder = std::net::TcpListener::bind(taken).expect("free until now");
        let config = world.write_config("paris", |_| Vec::new());
        let error = Agent::try_start(&config).expect_err("the port is taken");
        assert!(error.contains(&taken.to_string()), "{taken} is not named: {error}");
        assert!(error.contains("in use"), "the reason is missing: {error}");
    }
}

/// Two replicas of each cluster, written down in manifests alone: each of 100 clients has one pod.
#[tokio::test(flavor = "multi_thread")]
async fn session_affinity_keeps_a_client_at_one_pod_through_any_replica() {
    const PODS: [&str; 4] = ["pod-0", "pod-1", "pod-2", "pod-3"];
    let world = World::new(&["paris", "oregon"]);
    let mut pods = Vec::new();
    let mut text = "apiVersion: v1\nkind: Service\nmetadata: { namespace: shop, name: web }\n\
                    spec: { ports: [ { port: 80 } ], sessionAffinity: ClientIP }\n---\n\
                    apiVersion: multicluster.x-k8s.io/v1beta1\nkind: ServiceExport\n\
                    metadata: { namespace: shop, name: web }\n"
        .to_owned();
    for name in PODS {
        let pod = Backend::naming(anywhere(), name).await;
        text.push_str(&format!(
            "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{ namespace: \
             shop, name: {name}, labels: {{ kubernetes.io/service-name: web }} }}\naddressType: \
             IPv4\nports: [ {{ port: {} }} ]\nendpoints: [ {{ addresses: [\"{}\"] }} ]\n",
            pod.address.port(),
            pod.address.ip()
        ));
        pods.push(pod);
    }
    world.manifest("oregon", "web.yaml", &text);
    let both = |peer: &str| [1, 2].map(|which| (world.host(peer, which), 8443).into()).to_vec();
    let start = |cluster: &str, which| Agent::start(&world.write_replica(cluster, which, both));
    let _oregon = [start("oregon", 1), start("oregon", 2)];
    let paris = [start("paris", 1), start("paris", 2)];
    let mut homes = [Vec::new(), Vec::new()];
    for (agent, homes) in paris.iter().zip(&mut homes) {
        agent.peers_up().await;
        agent.led_by(NAME, "oregon").await;
        drop(agent.connect(NAME).await);
        let vip = agent.vip(NAME).await;
        for number in 1..=100 {
            let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
            socket.bind(([127, 91, 0, number], 0).into()).expect("loopback");
            let mut client = soon("a stream", socket.connect(vip)).await.unwrap();
            let mut name = String::new();
            soon("a name", client.read_to_string(&mut name)).await.unwrap();
            homes.push(name);
        }
    }
    assert_eq!(homes[0], homes[1], "another replica leads elsewhere");
    for name in PODS {
        assert!(homes[0].iter().filter(|home| *home == name).count() >= 10, "{name}: {homes:?}");
    }
}

/// The annotations of an export, from a manifest to the backend: the header of the PROXY protocol,
/// early data behind it, and the cap.
#[tokio::test(flavor = "multi_thread")]
async fn annotations_of_an_export_reach_its_backend() {
    let backend = Backend::start(anywhere(), |mut stream| async move {
        let mut start = [0; 33];
        stream.read_exact(&mut start).await.expect("a header and a word");
        stream.write_all(&start).await.expect("the client listens");
        drain(&mut stream).await;
    })
    .await;
    let world = World::new(&["paris", "oregon"]);
    let annotations = "portolan.dev/proxy-protocol: v2\nportolan.dev/early-data: \"true\"\n\
                       portolan.dev/max-streams: \"1\"";
    world.export_with("oregon", "shop/web", 80, &[backend.address], annotations);
    let (paris, _oregon) = (world.start("paris"), world.start("oregon"));
    paris.peers_up().await;
    paris.led_by(NAME, "oregon").await;
    for _ in 0..5 {
        let mut client = paris.connect(NAME).await;
        client.write_all(b"hello").await.unwrap();
        let mut start = [0; 33];
        soon("the start", client.read_exact(&mut start)).await.unwrap();
        assert_eq!(&start[..16], b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c");
        let from = client.local_addr().unwrap();
        assert_eq!(start[16..20], [127, 0, 0, 1], "{from}");
        assert_eq!(start[24..26], from.port().to_be_bytes());
        assert_eq!(&start[28..], b"hello");
        client.shutdown().await.unwrap();
        assert_eq!(soon("the end", client.read(&mut [0])).await.unwrap(), 0);
    }
    let mut first = paris.connect(NAME).await;
    first.write_all(b"hello").await.unwrap();
    soon("the start", first.read_exact(&mut [0; 33])).await.unwrap();
    let mut second = paris.connect(NAME).await;
    second.write_all(b"hello").await.unwrap();
    let refused = soon("the end", second.read(&mut [0])).await;
    assert!(refused.is_err(), "a second stream beside the only one");
}

/// From files, across networks: each pod of a headless service has a clusterset address.
#[tokio::test(flavor = "multi_thread")]
async fn a_pod_of_a_headless_service_is_reached_by_its_own_name() {
    let world = World::new(&["paris", "oregon"]);
    let pods =
        [Backend::naming(anywhere(), "db-0").await, Backend::naming(anywhere(), "db-1").await];
    let mut text = "apiVersion: v1\nkind: Service\n\
                    metadata: { namespace: shop, name: db }\n\
                    spec: { clusterIP: None, ports: [{ name: sql, port: 5432 }] }\n---\n\
                    apiVersion: multicluster.x-k8s.io/v1beta1\nkind: ServiceExport\n\
                    metadata: { namespace: shop, name: db }\n"
        .to_owned();
    for (number, pod) in pods.iter().enumerate() {
        let (ip, port) = (pod.address.ip(), pod.address.port());
        text.push_str(&format!(
            "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
             metadata: {{ namespace: shop, name: db-{number}, labels: {{ kubernetes.io/service-name: db }} }}\n\
             addressType: IPv4\nports: [{{ name: sql, port: {port} }}]\n\
             endpoints: [{{ addresses: [{ip}], hostname: db-{number} }}]\n"
        ));
    }
    std::fs::write(world.registry("oregon").join("db.yaml"), text).expect("writable");
    let start = |cluster: &str| {
        let path = world.write_config(cluster, |peer| vec![world.gateway(peer)]);
        let config = std::fs::read_to_string(&path).expect("just written");
        std::fs::write(&path, config.replace("network: flat\n", "")).expect("writable");
        Agent::start(&path)
    };
    let (paris, _oregon) = (start("paris"), start("oregon"));
    paris.peers_up().await;
    let of = |number: usize| format!("db-{number}.oregon.db.shop.svc.clusterset.local");
    let mut answered = Vec::new();
    for (number, pod) in pods.iter().enumerate() {
        let found = soon("its address", async {
            loop {
                match dns_query(world.dns("paris"), &of(number)).await {
                    Ok(found) if !found.is_empty() => return found,
                    _ => tokio::time::sleep(Duration::from_millis(20)).await,
                }
            }
        });
        let found = found.await;
        // The Service's number, and that of the pod itself.
        for port in [5432, pod.address.port()] {
            let mut client = soon("a listener", async {
                loop {
                    match TcpStream::connect((found[0], port)).await {
                        Ok(client) => return client,
                        Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
                    }
                }
            })
            .await;
            let mut said = String::new();
            soon("an answer", client.read_to_string(&mut said)).await.expect("a FIN");
            assert_eq!(said, format!("db-{number}"));
        }
        answered.extend(found);
    }
    answered.sort();
    let name = "db.shop.svc.clusterset.local";
    let mut all = dns_query(world.dns("paris"), name).await.expect("an answer");
    all.sort();
    assert_eq!(all, answered, "the name answers exactly these");
    // In its own cluster each pod stands with its real address.
    let own = dns_query(world.dns("oregon"), &of(0)).await.expect("an answer");
    assert_eq!(own, [pods[0].address.ip()]);
}
