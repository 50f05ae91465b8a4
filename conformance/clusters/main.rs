//! Clusters whose source is an API server: whole agents, real sockets, API servers in memory.

mod headless;
mod site;

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;
use hickory_proto::rr::rdata::opt::{EdnsCode, EdnsOption};
use portolan::admin::json::ServiceJson;
use portolan::admin::order::DrainAsk;
use portolan::clock;
use portolan::routes::{By, Reason};
use portolan::testing::kube::Verb;
use portolan::testing::{Backend, PATIENCE, dns_exchange_from, dns_query};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use site::{Replica, Site};

/// The name of the service that is exported.
const NAME: &str = "web.shop.svc.clusterset.local";

/// What a client reads of whoever answers there.
async fn answer(at: SocketAddr) -> String {
    let mut stream = TcpStream::connect(at).await.expect("somebody listens");
    let mut text = String::new();
    let read = stream.read_to_string(&mut text);
    tokio::time::timeout(Duration::from_secs(10), read).await.expect("in time").expect("an end");
    text
}

/// The endpoints of the slices that kube-proxy would read for a derived Service.
fn endpoints(slices: &[Value], service: &str) -> Vec<SocketAddr> {
    let mut found = Vec::new();
    let of = |slice: &&Value| slice["metadata"]["labels"]["kubernetes.io/service-name"] == *service;
    for slice in slices.iter().filter(of) {
        let port = slice["ports"][0]["port"].as_u64().expect("a port");
        for endpoint in slice["endpoints"].as_array().into_iter().flatten() {
            let address: IpAddr =
                endpoint["addresses"][0].as_str().expect("an address").parse().expect("an address");
            found.push(SocketAddr::new(address, u16::try_from(port).expect("a port")));
        }
    }
    found
}

fn derived(services: &[Value]) -> Option<String> {
    let ours = services
        .iter()
        .find(|service| service["metadata"]["labels"]["portolan.dev/service"] == "web")?;
    Some(ours["metadata"]["name"].as_str()?.to_owned())
}

/// Asks until the name answers as wanted.
async fn resolves(server: SocketAddr, is: impl Fn(&[IpAddr]) -> bool) -> Vec<IpAddr> {
    let asked = async {
        loop {
            if let Ok(found) = dns_query(server, NAME).await
                && is(&found)
            {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, asked).await.expect("the name answers as wanted")
}

/// Where clients of paris are led for `shop/web`, once that is so many places.
async fn led(paris: &Site, places: usize) -> Vec<SocketAddr> {
    let found = |slices: &[Value]| {
        derived(&paris.api.list("services")).map(|name| endpoints(slices, &name))
    };
    let slices = paris
        .api
        .await_list("endpointslices", |slices| found(slices).is_some_and(|f| f.len() == places))
        .await;
    found(&slices).expect("a derived Service")
}

/// Paris imports what only oregon has; nothing of either runs yet.
async fn two(block: u8) -> (Site, Site, Backend) {
    let ports = 20_000 + u16::from(block) * 100;
    let paris = Site::new("paris", (200, block), (ports, ports + 49)).await;
    let oregon = Site::new("oregon", (201, block), (ports + 50, ports + 99)).await;
    paris.peer(&oregon);
    oregon.peer(&paris);
    let web = Backend::naming(oregon.host(9), "oregon").await;
    oregon.api.export("shop/web", 80, web.address.port(), &[web.address.ip()]);
    paris.api.put(json!({
        "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "shop" },
    }));
    (paris, oregon, web)
}

fn ips(import: Option<&Value>) -> Vec<IpAddr> {
    let ips = import.and_then(|import| import["spec"]["ips"].as_array());
    let text = ips.into_iter().flatten().filter_map(Value::as_str);
    text.map(|text| text.parse().expect("an address")).collect()
}

/// Whether a condition of an object says that.
fn says(object: Option<&Value>, kind: &str, status: &str) -> bool {
    let conditions = object.and_then(|object| object["status"]["conditions"].as_array());
    let mut all = conditions.into_iter().flatten();
    all.any(|one| one["type"] == *kind && one["status"] == *status)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_is_imported_reached_and_withdrawn() {
    let (mut paris, mut oregon, _web) = two(1).await;
    let here = paris.start(1).await;
    let _there = oregon.start(1).await;
    let import = |import: Option<&Value>| {
        let cluster = import.map(|import| import["status"]["clusters"][0]["cluster"].clone());
        !ips(import).is_empty() && cluster.is_some_and(|cluster| cluster == "oregon")
    };
    let import = paris.api.await_object("serviceimports", "shop/web", import).await;
    let gateway = led(&paris, 1).await[0];
    assert_eq!(gateway.ip(), here.host);
    assert_eq!(answer(gateway).await, "oregon");
    let v4: Vec<_> = ips(import.as_ref()).into_iter().filter(IpAddr::is_ipv4).collect();
    assert_eq!(resolves(here.dns(), |found| !found.is_empty()).await, v4);
    let exported =
        |export: Option<&Value>| says(export, "Valid", "True") && says(export, "Ready", "True");
    oregon.api.await_object("serviceexports", "shop/web", exported).await;

    oregon.api.delete("serviceexports", "shop/web");
    paris.api.await_object("serviceimports", "shop/web", |import| import.is_none()).await;
    resolves(here.dns(), <[IpAddr]>::is_empty).await;
    led(&paris, 0).await;
    assert!(derived(&paris.api.list("services")).is_some(), "it lingers, empty");
}

#[tokio::test(flavor = "multi_thread")]
async fn k01_without_its_api_server_an_agent_serves_on_and_starts_again() {
    let (mut paris, mut oregon, _web) = two(2).await;
    let here = paris.start(1).await;
    let _there = oregon.start(1).await;
    let gateway = led(&paris, 1).await[0];
    assert_eq!(answer(gateway).await, "oregon");
    let before = resolves(here.dns(), |found| !found.is_empty()).await;
    paris.saved(1).await;

    paris.api.stop().await;
    assert_eq!(answer(gateway).await, "oregon");
    here.agent.kill();
    let again = paris.start(1).await;
    assert_eq!(resolves(again.dns(), |found| !found.is_empty()).await, before);
    assert_eq!(answer(gateway).await, "oregon", "the ports are those it had");
    paris.api.resume().await;
    assert_eq!(answer(gateway).await, "oregon");
}

/// Asks with EDNS until the extended error (RFC 8914) is that one; the code beside it.
async fn marked(server: SocketAddr, name: &str, error: Option<u16>) -> ResponseCode {
    let asked = async {
        loop {
            let client = server.ip();
            let asked = dns_exchange_from(client, server, name, RecordType::A, None).await;
            if let Ok(answer) = asked
                && let Some(edns) = &answer.edns
            {
                let found = edns.option(EdnsCode::Unknown(15));
                let wanted = error.map(|code| EdnsOption::Unknown(15, code.to_be_bytes().to_vec()));
                if found == wanted.as_ref() {
                    return answer.metadata.response_code;
                }
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, asked).await.expect("the name is marked as wanted")
}

#[tokio::test(flavor = "multi_thread")]
async fn stale_answer_carries_its_extended_error() {
    let (mut paris, mut oregon, _web) = two(9).await;
    let here = paris.start(1).await;
    let _there = oregon.start(1).await;
    let before = resolves(here.dns(), |found| !found.is_empty()).await;
    paris.saved(1).await;
    let none = "none.shop.svc.clusterset.local";
    assert_eq!(marked(here.dns(), NAME, None).await, ResponseCode::NoError);

    let away = clock::now();
    paris.api.stop().await;
    assert_eq!(marked(here.dns(), NAME, Some(3)).await, ResponseCode::NoError);
    assert!(clock::now() - away > Duration::from_secs(9), "a hiccup is no matter");
    assert_eq!(marked(here.dns(), none, Some(19)).await, ResponseCode::NXDomain);
    assert_eq!(resolves(here.dns(), |found| !found.is_empty()).await, before);

    here.agent.kill();
    let again = paris.start(1).await;
    assert_eq!(marked(again.dns(), NAME, Some(3)).await, ResponseCode::NoError);
    assert_eq!(resolves(again.dns(), |found| !found.is_empty()).await, before);
    paris.api.resume().await;
    assert_eq!(marked(again.dns(), NAME, None).await, ResponseCode::NoError);
    assert_eq!(marked(again.dns(), none, None).await, ResponseCode::NXDomain);
}

#[tokio::test(flavor = "multi_thread")]
async fn k16_a_replica_that_dies_leaves_the_slices_and_the_other_goes_on() {
    let (mut paris, mut oregon, _web) = two(3).await;
    let first = paris.start(1).await;
    let second = paris.start(2).await;
    let _there = oregon.start(1).await;
    for gateway in led(&paris, 2).await {
        assert_eq!(answer(gateway).await, "oregon");
    }
    first.agent.kill();
    let left = led(&paris, 1).await;
    assert_eq!(left[0].ip(), second.host);
    assert_eq!(answer(left[0]).await, "oregon");
    let _again = paris.start(1).await;
    led(&paris, 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_has_not_heard_a_peer_takes_nothing_of_it_away() {
    let (mut paris, mut oregon, _web) = two(4).await;
    let here = paris.start(1).await;
    let there = oregon.start(1).await;
    led(&paris, 1).await;
    // What kube-proxy reads is written first.
    paris.api.await_object("serviceimports", "shop/web", |import| import.is_some()).await;
    there.agent.kill();
    here.agent.kill();
    let mark = paris.api.mark();
    // Another pod: nothing saved.
    let _fresh = paris.start(2).await;
    paris.api.export("shop/own", 80, 9000, &[paris.host(9)]);
    paris.api.await_object("serviceimports", "shop/own", |own| !ips(own).is_empty()).await;
    let withdrawn = paris.api.requests_since(mark);
    let withdrawn: Vec<_> =
        withdrawn.iter().filter(|request| request.verb == Verb::Delete).collect();
    assert!(withdrawn.is_empty(), "{withdrawn:?}");
    assert!(paris.api.has("serviceimports", "shop/web"));
}

/// Waits until clients of that cluster are led there.
async fn leads_to(site: &Site, place: impl Fn(&SocketAddr) -> bool) -> SocketAddr {
    let found = |slices: &[Value]| {
        let led = derived(&site.api.list("services")).map(|name| endpoints(slices, &name));
        led.filter(|led| led.len() == 1 && led.iter().all(&place))
    };
    let slices = site.api.await_list("endpointslices", |slices| found(slices).is_some()).await;
    found(&slices).expect("just seen")[0]
}

/// Orders a drain of `web.shop`, or takes it back, and waits until an importer has heard of it.
async fn order(at: &Replica, importer: &Replica, undo: bool) {
    let ask = DrainAsk { name: "web.shop".to_owned(), over: None, undo };
    let began = clock::now();
    let taken = at.agent.admin.drain(&ask).await.expect("it is taken");
    assert!(taken.kept && taken.drain.is_some() != undo, "{taken:?}");
    let heard = |service: &ServiceJson| {
        let mut candidates = service.candidates.iter();
        let paris = candidates.find(|candidate| candidate.cluster.as_str() == "paris");
        paris.is_some_and(|paris| (paris.reason == Reason::Draining) != undo)
    };
    importer.agent.until("web.shop", heard).await;
    let took = clock::now() - began;
    assert!(took <= Duration::from_secs(2), "undo {undo}: the importer heard it after {took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn o12_a_service_is_drained_and_taken_back_also_without_the_api_server() {
    let (mut paris, mut oregon, _web) = two(5).await;
    let own = Backend::naming(paris.host(9), "paris").await;
    paris.api.export("shop/web", 80, own.address.port(), &[own.address.ip()]);
    let here = paris.start(1).await;
    let there = oregon.start(1).await;
    here.agent.peers_up().await;
    leads_to(&paris, |place| *place == own.address).await;

    order(&here, &there, false).await;
    let gateway = leads_to(&paris, |place| place.ip() == here.host).await;
    assert_eq!(answer(gateway).await, "oregon");
    order(&here, &there, true).await;
    leads_to(&paris, |place| *place == own.address).await;

    paris.api.stop().await;
    oregon.api.stop().await;
    order(&here, &there, false).await;
    assert_eq!(answer(gateway).await, "oregon");
    order(&here, &there, true).await;
    assert_eq!(answer(gateway).await, "paris");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_annotation_on_a_peer_drains_it_until_it_is_removed() {
    let (mut paris, mut oregon, _web) = two(6).await;
    let here = paris.start(1).await;
    let _there = oregon.start(1).await;
    here.agent.led_by("web.shop", "oregon").await;
    paris.peer_with(&oregon, &json!({ "portolan.dev/drain": "2026-05-04T10:00:00Z,10m" }));
    let drained = |service: &ServiceJson| service.candidates[0].reason == Reason::Draining;
    let service = here.agent.until("web.shop", drained).await;
    assert!(service.candidates[0].usable, "nobody else can");
    assert_eq!(here.agent.state().await.drains[0].by, By::Annotation);
    // What cannot be understood costs the drain, never the peer.
    paris.peer_with(&oregon, &json!({ "portolan.dev/drain": "soon" }));
    here.agent.until("web.shop", |service| !drained(service)).await;
    assert!(here.agent.state().await.drains.is_empty());
}
