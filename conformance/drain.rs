//! Drains by hand and spill-over by need, with agents as processes of their own and clients that
//! go on calling: nothing fails, and shares keep to their line.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::Command;
use std::time::{Duration, Instant};

use portolan::admin::order::DrainTaken;
use portolan::clock;
use portolan::routes::Reason;
use portolan::testing::{Backend, PATIENCE, Process, World};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

const BINARY: &str = env!("CARGO_BIN_EXE_portolan");
const NAME: &str = "web.shop";
/// Both are equally near; a loaded machine must not measure otherwise.
const OREGON_FIRST: &str = "portolan.dev/policy: \"pinned: oregon,tokyo\"";
/// The bound for a drain without a ramp, and for taking one back.
const AT_ONCE: Duration = Duration::from_secs(2);
/// Longer than any call takes on a loaded machine.
const CALL: Duration = Duration::from_secs(10);

fn loopback() -> IpAddr {
    Ipv4Addr::LOCALHOST.into()
}

/// Says one letter, then echoes.
async fn says(letter: u8) -> Backend {
    Backend::start(loopback(), move |mut stream| async move {
        if stream.write_all(&[letter]).await.is_err() {
            return;
        }
        let (mut read, mut write) = stream.split();
        if tokio::io::copy(&mut read, &mut write).await.is_ok() {
            let _gone = write.shutdown().await;
        }
    })
    .await
}

async fn start(world: &World, cluster: &str) -> Process {
    let config = world.write_config(cluster, |peer| vec![world.gateway(peer)]);
    let mut agent = Process::start(BINARY, &config, world.admin(cluster));
    agent.ready(PATIENCE).await;
    agent
}

/// Waits until that cluster leads, by measurement, and nothing takes less than all.
async fn led_by(agent: &Process, cluster: &str) -> SocketAddr {
    let service = agent
        .explains(NAME, "the leader", |service| {
            let known = service.candidates.iter().all(|c| c.rtt_ms.is_some() && c.share >= 1.0);
            let first = service.candidates.first();
            known && !service.ips.is_empty() && first.is_some_and(|c| c.cluster.as_str() == cluster)
        })
        .await;
    SocketAddr::new(service.ips[0], service.ports[0].port.get())
}

/// Who answers a new connection.
async fn call(vip: SocketAddr) -> std::io::Result<char> {
    tokio::time::timeout(CALL, async {
        let mut stream = TcpStream::connect(vip).await?;
        let mut letter = [0];
        stream.read_exact(&mut letter).await?;
        Ok(char::from(letter[0]))
    })
    .await?
}

/// Who answers first, once the listener is open.
async fn first_answer(vip: SocketAddr) -> char {
    let deadline = clock::now() + PATIENCE;
    loop {
        match call(vip).await {
            Ok(letter) => return letter,
            Err(error) => assert!(clock::now() < deadline, "{vip}: {error}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// `portolan drain …`: its exit code and what it wrote.
async fn drain(arguments: &[&str], admin: SocketAddr) -> (Option<i32>, String) {
    let mut command = Command::new(BINARY);
    command.arg("drain").args(arguments).arg("--admin").arg(admin.to_string());
    let run = tokio::task::spawn_blocking(move || command.output().expect("it runs"));
    let output = run.await.expect("no panic");
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    (output.status.code(), text)
}

/// The time until new connections are answered there, from the moment the command returned.
async fn moved_to(vip: SocketAddr, letter: char) -> Duration {
    let began = clock::now();
    loop {
        let answered = call(vip).await.expect("no connection fails");
        let took = clock::now() - began;
        if answered == letter {
            return took;
        }
        assert!(took < PATIENCE, "{answered} still answers");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn o12_an_operator_drains_a_cluster_and_a_service_by_hand() {
    let world = World::new(&["paris", "oregon", "tokyo"]);
    let (near, far) = (says(b'o').await, says(b't').await);
    world.export_with("oregon", "shop/web", 80, &[near.address], OREGON_FIRST);
    world.export_with("tokyo", "shop/web", 80, &[far.address], OREGON_FIRST);
    let (oregon, _tokyo) = tokio::join!(start(&world, "oregon"), start(&world, "tokyo"));
    let mut paris = start(&world, "paris").await;
    let vip = led_by(&paris, "oregon").await;
    let mut held = TcpStream::connect(vip).await.unwrap();
    assert_eq!(held.read_u8().await.unwrap(), b'o');

    let admin = world.admin("paris");
    let (code, text) = drain(&["oregon", "-o", "json"], admin).await;
    assert_eq!(code, Some(0), "{text}");
    let took = moved_to(vip, 't').await;
    assert!(took <= AT_ONCE, "drained after {took:?}");
    let taken: DrainTaken = serde_json::from_str(&text).unwrap();
    assert_eq!((taken.cluster.as_str(), taken.kept), ("paris", true));
    let begun = taken.drain.expect("it is in force");
    assert!(begun.share <= 0.0 && begun.connections >= 1, "{begun:?}");
    held.write_all(b"x").await.unwrap();
    assert_eq!(held.read_u8().await.unwrap(), b'x', "open streams go on");
    let service = paris
        .explains(NAME, "the reason", |s| {
            s.candidates.last().is_some_and(|c| c.reason == Reason::Draining)
        })
        .await;
    assert!(service.candidates.last().is_some_and(|c| c.usable && c.share <= 0.0), "{service:?}");
    assert_eq!(paris.admin.state().await.unwrap().drains.len(), 1);
    drop(held);

    paris.kill();
    let paris = start(&world, "paris").await;
    paris.explains(NAME, "tokyo leads", |s| s.candidates[0].cluster.as_str() == "tokyo").await;
    // Whoever answers first after the restart, and all that follow.
    assert_eq!(first_answer(vip).await, 't', "kept over a restart");
    assert_eq!([call(vip).await.unwrap(), call(vip).await.unwrap()], ['t', 't']);
    let (code, text) = drain(&["oregon", "--undo"], admin).await;
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("no longer drained"), "{text}");
    let took = moved_to(vip, 'o').await;
    assert!(took <= AT_ONCE, "taken back after {took:?}");

    // A service is drained where it is exported, for every importer.
    let there = world.admin("oregon");
    assert_eq!(drain(&[NAME], there).await.0, Some(0));
    let took = moved_to(vip, 't').await;
    assert!(took <= AT_ONCE, "drained after {took:?}\n{}", oregon.log());
    assert_eq!(drain(&[NAME, "--undo"], there).await.0, Some(0));
    let took = moved_to(vip, 'o').await;
    assert!(took <= AT_ONCE, "taken back after {took:?}");

    for (arguments, code, part) in [
        (&["nowhere"][..], Some(1), "neither this cluster (paris) nor a peer (oregon, tokyo)"),
        (&[NAME], Some(1), "does not export web.shop"),
        (&["web.shop:80"], Some(2), "leave ':port' away"),
        (&["Oregon"], Some(2), "neither a cluster"),
    ] {
        let (found, text) = drain(arguments, admin).await;
        assert_eq!(found, code, "{arguments:?}: {text}");
        assert!(text.contains(part), "{arguments:?}: {text}");
    }
}

/// One call of a load: when it began, and who answered.
type Called = (Instant, Result<char, String>);

/// Calls at a steady pace, each on its own, until told to stop.
struct Load(JoinSet<Called>);

impl Load {
    async fn run(vip: SocketAddr, per_second: u32, until: Instant) -> Self {
        let mut calls = JoinSet::new();
        let mut due = clock::now();
        while due < until {
            tokio::time::sleep_until(due.into()).await;
            calls.spawn(async move {
                let began = clock::now();
                (began, call(vip).await.map_err(|error| error.to_string()))
            });
            due += Duration::from_secs(1) / per_second;
        }
        Self(calls)
    }

    async fn ended(self) -> Vec<(Instant, char)> {
        let called = self.0.join_all().await;
        let all = called.len();
        let failed: Vec<_> = called.iter().filter_map(|(_, who)| who.as_ref().err()).collect();
        assert!(failed.is_empty(), "{} of {all} failed: {:?}", failed.len(), failed.first());
        let mut answered: Vec<_> =
            called.into_iter().filter_map(|(at, who)| Some((at, who.ok()?))).collect();
        answered.sort_by_key(|(at, _)| *at);
        answered
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_under_load_loses_nothing_and_keeps_to_its_ramp() {
    let world = World::new(&["paris", "oregon", "tokyo"]);
    let (near, far) = (says(b'o').await, says(b't').await);
    world.export_with("oregon", "shop/web", 80, &[near.address], OREGON_FIRST);
    world.export_with("tokyo", "shop/web", 80, &[far.address], OREGON_FIRST);
    let (_oregon, _tokyo) = tokio::join!(start(&world, "oregon"), start(&world, "tokyo"));
    let paris = start(&world, "paris").await;
    let vip = led_by(&paris, "oregon").await;
    // A short ramp: what takes a minute in the field takes a quarter of it here.
    let over = Duration::from_secs(15);
    let begun = clock::now();
    let load = Load::run(vip, 200, begun + over + Duration::from_secs(5));
    let ordered = async {
        let (code, text) = drain(&["oregon", "--over", "15s"], world.admin("paris")).await;
        assert_eq!(code, Some(0), "{text}");
        clock::now()
    };
    let (load, ordered) = tokio::join!(load, ordered);
    let answered = load.ended().await;
    // The order was carried out before its command had returned.
    let line = |at: Instant| {
        let passed = at.saturating_duration_since(ordered).as_secs_f64();
        100.0 * (1.0 - passed / over.as_secs_f64()).clamp(0.0, 1.0)
    };
    let after: Vec<_> = answered.iter().filter(|(at, _)| *at >= ordered).collect();
    let mut report = Vec::new();
    for window in after.chunks(600) {
        let count = window.len() as f64;
        let wanted = window.iter().map(|(at, _)| line(*at)).sum::<f64>() / count;
        let found = 100.0 * window.iter().filter(|(_, who)| *who == 'o').count() as f64 / count;
        report.push((window.len(), wanted.round(), found.round()));
        // Of a few calls nobody can tell a share.
        if window.len() >= 200 {
            assert!((found - wanted).abs() <= 10.0, "{found} % instead of {wanted} %: {report:?}");
        }
    }
    println!("{} calls, none failed; calls, line and share in percent: {report:?}", answered.len());
    let (_, last) = after.last().expect("calls");
    assert_eq!(*last, 't', "the ramp has ended");
    drop((near, far));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_local_backend_goes_and_comes_back_under_load() {
    let world = World::new(&["paris", "oregon"]);
    let (own, far) = (says(b'p').await, says(b'o').await);
    let spill = "portolan.dev/spill-over: \"1\"";
    world.export_with("paris", "shop/web", 80, &[own.address], spill);
    world.export("oregon", "shop/web", 80, &[far.address]);
    let _oregon = start(&world, "oregon").await;
    let paris = start(&world, "paris").await;
    let vip = led_by(&paris, "paris").await;
    let begun = clock::now();
    let load = Load::run(vip, 100, begun + Duration::from_secs(20));
    let changes = async {
        tokio::time::sleep_until((begun + Duration::from_secs(2)).into()).await;
        world.export_with("paris", "shop/web", 80, &[], spill);
        paris
            .explains(NAME, "oregon leads", |s| s.candidates[0].cluster.as_str() == "oregon")
            .await;
        let gone = clock::now();
        tokio::time::sleep_until((begun + Duration::from_secs(5)).into()).await;
        world.export_with("paris", "shop/web", 80, &[own.address], spill);
        paris.explains(NAME, "paris leads", |s| s.candidates[0].cluster.as_str() == "paris").await;
        (gone, clock::now())
    };
    let (load, (gone, back)) = tokio::join!(load, changes);
    let answered = load.ended().await;
    let own_share = |from: Instant, to: Instant| {
        let within = answered.iter().filter(|(at, _)| *at >= from && *at < to);
        let (own, all) =
            within.fold((0, 0), |(own, all), (_, who)| (own + i32::from(*who == 'p'), all + 1));
        assert!(all > 20, "{all} calls");
        100.0 * f64::from(own) / f64::from(all)
    };
    let second = Duration::from_secs(1);
    let before = own_share(begun, begun + second);
    let while_gone = own_share(gone, back.checked_sub(second).expect("later"));
    let first = own_share(back, back + 2 * second);
    let middle = own_share(back + 4 * second, back + 7 * second);
    let last = own_share(back + 11 * second, back + 14 * second);
    println!("{before} {while_gone} {first} {middle} {last}");
    assert!(before >= 100.0 && while_gone <= 0.0, "{before} {while_gone}");
    assert!(first <= 35.0, "a cliff: {first} % in the first two seconds");
    assert!((30.0..=80.0).contains(&middle), "{middle}");
    assert!(last >= 100.0, "{last}");
}
