use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use prometheus::Registry;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::json::{
    CandidateJson, DrainJson, PeerJson, PortJson, ServiceJson, SourceJson, StateJson,
};
use super::zone::Format;
use super::*;
use crate::catalog::ServiceType;
use crate::commands::client::Admin;
use crate::drain::{self, Phase};
use crate::health::PeerState;
use crate::model::{ClusterId, DnsName, Namespace, PortNumber, Protocol, ServiceName};
use crate::routes::{By, Reason};
use crate::telemetry::counter;
use crate::testing::table::{Tables, import};
use crate::zone::ZoneConfig;

/// A view of one service, `shop/web`.
struct Fixed {
    ready: AtomicBool,
}

fn key() -> ServiceKey {
    ServiceKey::new(Namespace::parse("shop").unwrap(), ServiceName::parse("web").unwrap())
}

fn web() -> ServiceJson {
    ServiceJson {
        namespace: key().namespace,
        name: key().name,
        service_type: ServiceType::ClusterSetIp,
        ips: vec![IpAddr::from([127, 64, 0, 1])],
        ports: vec![PortJson { port: PortNumber::new(80).unwrap(), protocol: Protocol::Tcp }],
        dns: vec![IpAddr::from([127, 64, 0, 1])],
        candidates: vec![CandidateJson {
            cluster: ClusterId::parse("oregon").unwrap(),
            rank: 1,
            state: PeerState::Up,
            rtt_ms: Some(20.25),
            weight: 100,
            share: 1.0,
            usable: true,
            reason: Reason::Nearest,
            since: 1.5,
        }],
    }
}

impl View for Fixed {
    fn ready(&self) -> bool {
        self.ready.load(Ordering::Relaxed)
    }

    fn live(&self) -> bool {
        true
    }

    fn state(&self) -> StateJson {
        StateJson {
            cluster: ClusterId::parse("paris").unwrap(),
            clusterset: DnsName::parse("clusterset.local").unwrap(),
            version: "1".to_owned(),
            revision: 7,
            source: SourceJson {
                kind: "files".to_owned(),
                synced: true,
                age_seconds: 0.5,
                error: None,
            },
            peers: vec![PeerJson {
                cluster: ClusterId::parse("oregon").unwrap(),
                state: PeerState::Up,
                rtt_ms: Some(20.0),
                loss_percent: 0.0,
                sessions: 1,
                revision: 3,
                last_error: None,
            }],
            services: vec![web()],
            drains: self.drains(),
        }
    }

    fn resolve_name(&self, text: &str) -> Result<ServiceKey, String> {
        let (name, namespace) = text.split_once('.').ok_or("a name looks like web.shop")?;
        let namespace = Namespace::parse(namespace).map_err(|error| error.to_string())?;
        let name = ServiceName::parse(name).map_err(|error| error.to_string())?;
        Ok(ServiceKey::new(namespace, name))
    }

    fn drains(&self) -> Vec<DrainJson> {
        vec![DrainJson {
            name: "oregon".to_owned(),
            by: By::Command,
            until: "2026-05-04T10:00:00Z".to_owned(),
            over_seconds: 600.0,
            share: 0.43,
            connections: 7,
        }]
    }

    fn zone(&self) -> Dump {
        // Some pieces' worth of records.
        let many: Vec<String> = (0..4000u32)
            .map(|n| format!("{} pod-{n}", std::net::Ipv4Addr::from_bits(0x0A00_0000 + n)))
            .collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        let table = Tables::new("paris")
            .revision(7)
            .vip("shop/web", &["127.64.0.1"], &["http:TCP:80"], &[])
            .headless("data/db", &["sql:TCP:5432"], &[("paris", &many)])
            .build();
        let zone = DnsName::parse("clusterset.local").unwrap();
        assert!(self.ready.load(Ordering::Relaxed), "a view that is not ready panics here");
        Dump::new(&table, &ZoneConfig { zone, ttl_seconds: 5 })
    }

    fn explain(&self, asked: &ServiceKey) -> Option<ServiceJson> {
        assert_ne!(asked.name.as_str(), "panic", "asked to panic");
        (*asked == key()).then(web)
    }
}

struct Port {
    address: SocketAddr,
    probes: SocketAddr,
    view: Arc<Fixed>,
    registry: Registry,
    trigger: drain::Trigger,
    tasks: JoinSet<Result<(), Error>>,
}

impl Port {
    fn open() -> Self {
        let view = Arc::new(Fixed { ready: AtomicBool::new(true) });
        let registry = Registry::new();
        counter(&registry, "portolan_test_total", "A test's.").unwrap().inc();
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let config = Config { listen: any, probes: Some(any) };
        let shown: Arc<dyn View> = Arc::clone(&view) as _;
        let server = Server::bind(config, shown, None, registry.clone()).unwrap();
        let (address, probes) = (server.local_addr(), server.probes_addr().unwrap());
        let (trigger, watch) = drain::channel();
        let mut tasks = JoinSet::new();
        tasks.spawn(server.run(watch));
        Self { address, probes, view, registry, trigger, tasks }
    }

    async fn get(&self, path: &str) -> (u16, String, String) {
        ask(self.address, &format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"))
            .await
    }
}

/// Sends a request and reads to the end: status, head and body.
async fn ask(address: SocketAddr, request: &str) -> (u16, String, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    // A reset after the answer is the answer's end too.
    let _end = stream.read_to_end(&mut answer).await;
    let answer = String::from_utf8(answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    (status, head.to_ascii_lowercase(), body.to_owned())
}

#[tokio::test]
async fn live_and_ready_are_told_apart() {
    let port = Port::open();
    assert_eq!(port.get("/livez").await.0, 200);
    assert_eq!(port.get("/readyz").await.0, 200);
    port.view.ready.store(false, Ordering::Relaxed);
    assert_eq!(port.get("/livez").await.0, 200);
    let (status, _, body) = port.get("/readyz").await;
    assert_eq!((status, body.as_str()), (503, "not ready\n"));
}

#[tokio::test]
async fn the_state_and_a_service_are_the_json_of_the_interface() {
    let port = Port::open();
    let (status, head, body) = port.get("/state").await;
    assert_eq!(status, 200);
    assert!(head.contains("content-type: application/json"), "{head}");
    assert!(head.contains("cache-control: no-store"), "{head}");
    assert_eq!(serde_json::from_str::<StateJson>(&body).unwrap(), port.view.state());

    let service = r#"{"namespace":"shop","name":"web","type":"ClusterSetIP","ips":["127.64.0.1"],"ports":[{"port":80,"protocol":"TCP"}],"dns":["127.64.0.1"],"candidates":[{"cluster":"oregon","rank":1,"state":"up","rttMs":20.25,"weight":100,"share":1.0,"usable":true,"reason":"nearest","since":1.5}]}"#;
    let drain = r#"{"name":"oregon","by":"command","until":"2026-05-04T10:00:00Z","overSeconds":600.0,"share":0.43,"connections":7}"#;
    let whole = format!(
        r#"{{"cluster":"paris","clusterset":"clusterset.local","version":"1","revision":7,"source":{{"kind":"files","synced":true,"ageSeconds":0.5,"error":null}},"peers":[{{"cluster":"oregon","state":"up","rttMs":20.0,"lossPercent":0.0,"sessions":1,"revision":3,"lastError":null}}],"services":[{service}],"drains":[{drain}]}}"#
    );
    assert_eq!(body, whole);
    let (status, _, body) = port.get("/explain?name=web.shop").await;
    assert_eq!((status, body.as_str()), (200, service));
}

#[tokio::test]
async fn what_is_not_there_is_refused_in_a_way_that_teaches() {
    let port = Port::open();
    let cases = [
        ("/explain?name=api.shop", 404, "\"error\":\"no cluster exports api in namespace shop"),
        ("/explain?name=web", 400, "a name looks like web.shop"),
        ("/explain", 400, "/explain?name=web.shop"),
        ("/explain?name=web.shop&x=1", 400, "/explain?name=web.shop"),
        ("/zone?format=axfr", 400, "/zone?format=json"),
        ("/nothing", 404, "/explain?name=web.shop"),
    ];
    for (path, status, part) in cases {
        let (found, _, body) = port.get(path).await;
        assert_eq!(found, status, "{path}: {body}");
        assert!(body.contains(part), "{path}: {body}");
    }
    let post = "POST /state HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    let (status, head, body) = ask(port.address, post).await;
    assert_eq!(status, 405, "{body}");
    assert!(head.contains("allow: get, head") && body.contains("only GET"), "{head}{body}");
    let body = "GET /state HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999999\r\n\r\nx";
    let (status, _, body) = ask(port.address, body).await;
    assert_eq!(status, 400, "{body}");
    assert!(body.contains("send no body"), "{body}");
}

#[tokio::test]
async fn s20_the_probes_listener_shows_no_state() {
    let port = Port::open();
    for (path, status) in
        [("/livez", 200), ("/readyz", 200), ("/metrics", 200), ("/state", 404), ("/explain", 404)]
    {
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        let (found, _, body) = ask(port.probes, &request).await;
        assert_eq!(found, status, "{path}");
        assert!(!body.contains("shop"), "{path}: {body}");
    }
}

#[tokio::test]
async fn the_zone_is_a_master_file_or_json() {
    let port = Port::open();
    let client = Admin::new(port.address);
    let text = client.zone(Format::Zone).await.unwrap();
    let text = String::from_utf8(text.to_vec()).unwrap();
    let (comments, records): (Vec<&str>, Vec<&str>) =
        text.lines().partition(|line| line.starts_with(';'));
    let count = 3 + 3 + 4 * 4000;
    assert_eq!(records.len(), count);
    assert_eq!(
        comments,
        ["; zone clusterset.local", "; serial 7, of route table 7", &format!("; {count} records")]
    );
    assert!(records[0].starts_with("clusterset.local. 5 IN SOA "), "{}", records[0]);
    assert!(text.ends_with("_http._tcp.web.shop.svc.clusterset.local. 5 IN SRV 0 100 80 web.shop.svc.clusterset.local.\n"));

    let json = client.zone(Format::Json).await.unwrap();
    let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
    assert_eq!((&json["zone"], &json["serial"]), (&"clusterset.local".into(), &7.into()));
    assert_eq!((&json["revision"], &json["count"]), (&7.into(), &count.into()));
    let again: Vec<String> = json["records"]
        .as_array()
        .unwrap()
        .iter()
        .map(|record| {
            let word = |key: &str| record[key].as_str().unwrap().to_owned();
            format!("{}. {} IN {} {}", word("name"), record["ttl"], word("type"), word("data"))
        })
        .collect();
    assert_eq!(again, records, "both say the same");
    let (_, head, _) = port.get("/zone").await;
    assert!(head.contains("content-type: text/dns"), "{head}");
}

#[tokio::test]
async fn half_a_zone_never_looks_whole() {
    let port = Port::open();
    port.view.ready.store(false, Ordering::Relaxed);
    let error = Admin::new(port.address).zone(Format::Zone).await.unwrap_err();
    assert!(matches!(error, crate::commands::client::Error::NotOurs { .. }), "{error}");
}

#[tokio::test]
async fn metrics_are_prometheus_text() {
    let port = Port::open();
    let (status, head, body) = port.get("/metrics").await;
    assert_eq!(status, 200);
    assert!(head.contains("content-type: text/plain; version=0.0.4"), "{head}");
    assert!(body.contains("portolan_test_total 1\n"), "{body}");
}

#[tokio::test]
async fn several_requests_share_a_connection() {
    let port = Port::open();
    let mut stream = TcpStream::connect(port.address).await.unwrap();
    for _ in 0..3 {
        stream.write_all(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"live\n") {
            assert_ne!(stream.read_buf(&mut answer).await.unwrap(), 0);
        }
    }
}

#[tokio::test]
async fn s10_slow_heads_and_idle_connections_are_ended() {
    let port = Port::open();
    for sent in ["", "GET /state HTTP/1.1\r\nho", "GET /livez HTTP/1.1\r\nhost: x\r\n\r\n"] {
        let mut slow = TcpStream::connect(port.address).await.unwrap();
        slow.write_all(sent.as_bytes()).await.unwrap();
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        let began = crate::clock::now();
        tokio::time::pause();
        let mut rest = Vec::new();
        let _end = slow.read_to_end(&mut rest).await;
        let took = crate::clock::now() - began;
        tokio::time::resume();
        assert!(took <= Duration::from_secs(61), "{sent:?} {took:?}");
    }
    let huge = format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(64 * 1024));
    let (status, _, _) = ask(port.address, &huge).await;
    assert!([0, 414, 431].contains(&status), "{status}");
    assert_eq!(port.get("/livez").await.0, 200);
}

#[tokio::test]
async fn s10_idle_connections_never_keep_a_probe_waiting() {
    let port = Port::open();
    let mut idle = Vec::new();
    for _ in 0..200 {
        idle.push(TcpStream::connect(port.address).await.unwrap());
    }
    let began = crate::clock::now();
    assert_eq!(port.get("/livez").await.0, 200);
    assert!(crate::clock::now() - began < Duration::from_secs(4));
    // The oldest were closed for it.
    assert_eq!(idle[0].read(&mut [0; 1]).await.unwrap_or(0), 0);
}

#[test]
fn a_route_is_shown_as_it_was_decided() {
    use crate::catalog::{DnsMode, Policy, SessionAffinity};
    use crate::model::PortSpec;
    use crate::routes::{Candidate, PortRoute, RemotePods, Route};
    let now = crate::clock::now();
    let candidate = Candidate {
        cluster: ClusterId::parse("oregon").unwrap(),
        local: false,
        state: PeerState::Up,
        rtt: Some(Duration::from_micros(20_250)),
        weight: 100,
        share: 1.0,
        usable: true,
        reason: Reason::Nearest,
        since: now - Duration::from_millis(1500),
    };
    let spec = PortSpec {
        name: "http".into(),
        protocol: Protocol::Tcp,
        port: PortNumber::new(80).unwrap(),
        app_protocol: None,
    };
    let route = Route {
        key: key(),
        service_type: ServiceType::ClusterSetIp,
        dns: DnsMode::Vip,
        policy: Policy::Nearest,
        session_affinity: SessionAffinity::default(),
        early_data: false,
        import: Arc::new(import(&["http:TCP:80"])),
        vips: vec![IpAddr::from([127, 64, 0, 1])],
        ports: vec![PortRoute { spec, candidates: vec![candidate.clone()], by_weight: false }],
        clusters: vec![candidate],
        direct: Vec::new(),
        pods: RemotePods::default(),
    };
    assert_eq!(json::service(&route, vec![IpAddr::from([127, 64, 0, 1])], now), web());
}

#[tokio::test]
async fn a_panic_ends_one_connection_and_is_counted() {
    let port = Port::open();
    assert_eq!(port.get("/explain?name=panic.shop").await.0, 0);
    let (status, _, body) = port.get("/metrics").await;
    assert_eq!(status, 200);
    let line = "portolan_panics_total{component=\"admin\"} 1";
    assert!(body.contains(line), "{body}");
    assert!(!port.registry.gather().is_empty());
}

#[tokio::test]
async fn it_answers_while_draining_and_ends_when_forced() {
    let mut port = Port::open();
    port.trigger.advance(Phase::Draining);
    assert_eq!(port.get("/livez").await.0, 200);
    port.trigger.advance(Phase::Forced);
    port.tasks.join_next().await.unwrap().unwrap().unwrap();
    assert!(TcpStream::connect(port.address).await.is_err());
}

#[tokio::test]
async fn a_port_in_use_refuses_to_start_with_the_field_s_name() {
    let port = Port::open();
    let view: Arc<dyn View> = Arc::clone(&port.view) as _;
    let config = Config { listen: port.address, probes: None };
    let error =
        Server::bind(config, Arc::clone(&view), None, Registry::new()).unwrap_err().to_string();
    assert!(error.contains("admin.listen"), "{error}");
    let any = "127.0.0.1:0".parse().unwrap();
    let config = Config { listen: any, probes: Some(port.address) };
    let error = Server::bind(config, view, None, Registry::new()).unwrap_err().to_string();
    assert!(error.contains("admin.probes"), "{error}");
}

/// A port that takes orders, and who carries them out.
fn with_orders()
-> (SocketAddr, tokio::sync::mpsc::Receiver<order::Order>, JoinSet<()>, drain::Trigger) {
    let view: Arc<dyn View> = Arc::new(Fixed { ready: AtomicBool::new(true) });
    let config = Config { listen: "127.0.0.1:0".parse().unwrap(), probes: None };
    let (orders, asked) = tokio::sync::mpsc::channel(1);
    let server = Server::bind(config, view, Some(orders), Registry::new()).unwrap();
    let address = server.local_addr();
    let (trigger, watch) = drain::channel();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { server.run(watch).await.unwrap() });
    (address, asked, tasks, trigger)
}

async fn post(address: SocketAddr, headers: &str, body: &str) -> (u16, String) {
    let length = body.len();
    let request = format!(
        "POST /drain HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n{headers}\r\n{body}"
    );
    let (status, _, body) = ask(address, &request).await;
    (status, body)
}

const JSON: &str = "content-type: application/json\r\n";

#[tokio::test]
async fn an_order_is_parsed_handed_on_and_answered() {
    use crate::routes::Drained;
    use order::{Change, DrainTaken};
    let (address, mut asked, mut tasks, _trigger) = with_orders();
    tasks.spawn(async move {
        let ten = Change::Drain(Duration::from_mins(10));
        let oregon = Drained::Cluster(ClusterId::parse("oregon").unwrap());
        for wanted in [(oregon, ten), (Drained::Service(key()), Change::Undo)] {
            let order = asked.recv().await.unwrap();
            assert_eq!((order.of, order.change), wanted);
            let cluster = ClusterId::parse("paris").unwrap();
            let replica = "ff".to_owned();
            let taken = DrainTaken { cluster, replica, drain: None, kept: true, note: None };
            order.answer.send(Ok(taken)).unwrap();
        }
        let order = asked.recv().await.unwrap();
        order.answer.send(Err("no such peer".to_owned())).unwrap();
    });
    let answer = r#"{"cluster":"paris","replica":"ff","drain":null,"kept":true,"note":null}"#;
    let order = post(address, JSON, r#"{"name":"oregon","over":"10m"}"#).await;
    assert_eq!(order, (200, answer.to_owned()));
    let order = post(address, JSON, r#"{"name":"web.shop","undo":true}"#).await;
    assert_eq!(order, (200, answer.to_owned()));
    let (status, body) = post(address, JSON, r#"{"name":"tokyo"}"#).await;
    assert_eq!((status, body.as_str()), (404, r#"{"error":"no such peer"}"#));
}

#[tokio::test]
async fn what_is_no_order_of_ours_is_refused_in_a_way_that_teaches() {
    let (address, mut asked, _tasks, _trigger) = with_orders();
    let large = format!(r#"{{"name":"{}"}}"#, "x".repeat(5000));
    let page = "content-type: application/json\r\norigin: http://evil.example\r\n";
    for (headers, body, status, part) in [
        ("", r#"{"name":"oregon"}"#, 415, "content-type"),
        ("content-type: text/plain\r\n", r#"{"name":"oregon"}"#, 415, "content-type"),
        (page, r#"{"name":"oregon"}"#, 415, "web pages"),
        (JSON, large.as_str(), 413, "4096"),
        (JSON, "", 400, "name"),
        (JSON, "{}", 400, "missing field `name`"),
        (JSON, r#"{"name":"oregon","overs":"1m"}"#, 400, "unknown field"),
        (JSON, r#"{"name":"oregon","over":"soon"}"#, 400, "over: "),
        (JSON, r#"{"name":"oregon","over":"25h"}"#, 400, "24h"),
        (JSON, r#"{"name":"oregon","over":"1m","undo":true}"#, 400, "at once"),
        (JSON, r#"{"name":"Oregon"}"#, 400, "neither a cluster"),
        (JSON, r#"{"name":"web.shop:80"}"#, 400, "port"),
    ] {
        let (found, text) = post(address, headers, body).await;
        assert_eq!(found, status, "{body}: {text}");
        assert!(text.contains(part), "{body}: {text}");
    }
    assert!(asked.try_recv().is_err(), "none of them was handed on");
}
