//! Headless services of another cluster whose network is not ours: every pod by its own name.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::{RData, RecordType};
use portolan::testing::{Backend, PATIENCE, dns_exchange};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

use super::site::{Replica, Site};
use super::{answer, endpoints};

const NAME: &str = "db.shop.svc.clusterset.local";

/// A pod that says this to whoever connects, and closes.
async fn pod(host: IpAddr, says: String) -> Backend {
    Backend::start(host, move |mut stream| {
        let says = says.clone();
        async move {
            // A client that went away needs no answer.
            let _gone = stream.write_all(says.as_bytes()).await;
            let _gone = stream.shutdown().await;
        }
    })
    .await
}

/// Puts a pod of `shop/db` behind the Service, or takes it away; a slice of its own each, as each
/// listens elsewhere.
fn place(site: &Site, name: &str, at: Option<SocketAddr>) {
    let endpoint = |at: SocketAddr| {
        json!({
            "addresses": [at.ip().to_string()], "hostname": name,
            "conditions": { "ready": true, "serving": true, "terminating": false },
        })
    };
    site.api.put(json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "namespace": "shop", "name": format!("db-of-{name}"),
            "labels": {
                "kubernetes.io/service-name": "db",
                "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
            },
        },
        "addressType": "IPv4",
        "ports": [{ "name": "sql", "port": at.map_or(1, |at| at.port()), "protocol": "TCP" }],
        "endpoints": at.into_iter().map(endpoint).collect::<Vec<Value>>(),
    }));
}

fn export(site: &Site) {
    let metadata = json!({ "namespace": "shop", "name": "db" });
    site.api.put(json!({
        "apiVersion": "v1", "kind": "Service", "metadata": metadata,
        "spec": { "clusterIP": "None", "ports": [{ "name": "sql", "port": 5432 }] },
    }));
    site.api.put(json!({
        "apiVersion": "multicluster.x-k8s.io/v1beta1", "kind": "ServiceExport",
        "metadata": metadata,
    }));
}

/// Oregon exports so many pods, paris imports; nothing of either runs yet.
async fn two(block: u8, count: usize) -> (Site, Site, Vec<Backend>) {
    let ports = 20_000 + u16::from(block) * 100;
    let paris = Site::new("paris", (200, block), (ports, ports + 49)).await;
    let oregon = Site::new("oregon", (201, block), (ports + 50, ports + 99)).await;
    paris.peer(&oregon);
    oregon.peer(&paris);
    let mut pods = Vec::new();
    for number in 0..count {
        // Pods of both clusters may have the very same address.
        let says = format!("db-{number} of oregon");
        pods.push(pod(oregon.host(9), says).await);
        place(&oregon, &format!("db-{number}"), Some(pods[number].address));
    }
    export(&oregon);
    for site in [&paris, &oregon] {
        site.api.put(json!({
            "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "shop" },
        }));
    }
    (paris, oregon, pods)
}

/// What a name answers: its records as text and the code.
async fn asked(at: &Replica, name: &str, of: RecordType) -> Option<(ResponseCode, Vec<String>)> {
    let reply = dns_exchange(at.dns(), name, of).await.ok()?;
    let shown = |data: &RData| match data {
        RData::A(address) => address.0.to_string(),
        RData::SRV(srv) => format!("{} {}", srv.port, srv.target),
        other => format!("{other:?}"),
    };
    let records = reply.answers.iter().map(|record| shown(&record.data)).collect();
    Some((reply.metadata.response_code, records))
}

/// Asks until the answer suits.
async fn until(
    at: &Replica,
    name: &str,
    of: RecordType,
    suits: impl Fn(ResponseCode, &[String]) -> bool,
) -> Vec<String> {
    let looked = async {
        loop {
            if let Some((code, records)) = asked(at, name, of).await
                && suits(code, &records)
            {
                return records;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, looked).await.unwrap_or_else(|_| panic!("{name} answers"))
}

/// The one address of a pod's name.
async fn address(at: &Replica, name: &str) -> String {
    let name = format!("{name}.oregon.{NAME}");
    until(at, &name, RecordType::A, |_, found| found.len() == 1).await.remove(0)
}

/// Where kube-proxy would lead a connection to that address, once that is somewhere.
async fn behind(site: &Site, address: &str) -> SocketAddr {
    let services = site.api.list("services");
    let of = services.iter().find(|service| service["spec"]["clusterIP"] == *address);
    let name = of.expect("its Service")["metadata"]["name"].as_str().expect("a name").to_owned();
    let led = |slices: &[Value]| !endpoints(slices, &name).is_empty();
    let slices = site.api.await_list("endpointslices", led).await;
    endpoints(&slices, &name)[0]
}

/// Address by hostname, in the import's slices of oregon.
fn named(slices: &[Value]) -> Vec<(String, String)> {
    let label = "multicluster.kubernetes.io/source-cluster";
    let of = slices.iter().filter(|slice| slice["metadata"]["labels"][label] == "oregon");
    let all = of.flat_map(|slice| slice["endpoints"].as_array().into_iter().flatten());
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut found: Vec<_> = all.map(|e| (text(&e["hostname"]), text(&e["addresses"][0]))).collect();
    found.sort();
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn each_of_twenty_pods_is_reached_by_its_name_and_a_replaced_one_again() {
    let (mut paris, mut oregon, mut pods) = two(11, 20).await;
    let here = paris.start(1).await;
    let _there = oregon.start(1).await;
    let mut addresses = Vec::new();
    for number in 0..pods.len() {
        let found = address(&here, &format!("db-{number}")).await;
        let gateway = behind(&paris, &found).await;
        assert_eq!(gateway.ip(), here.host);
        assert_eq!(answer(gateway).await, format!("db-{number} of oregon"));
        addresses.push((format!("db-{number}"), found));
    }
    addresses.sort();
    let complete = |slices: &[Value]| named(slices) == addresses;
    paris.api.await_list("endpointslices", complete).await;
    let import = paris.api.get("serviceimports", "shop/db").expect("an import");
    assert_eq!(
        (import["spec"]["type"].as_str(), &import["spec"]["ips"]),
        (Some("Headless"), &Value::Null)
    );

    let before = address(&here, "db-7").await;
    place(&oregon, "db-7", None);
    let name = format!("db-7.oregon.{NAME}");
    until(&here, &name, RecordType::A, |code, _| code == ResponseCode::NXDomain).await;
    paris.api.await_list("endpointslices", |slices| named(slices).len() == 19).await;
    let other = behind(&paris, &address(&here, "db-8").await).await;
    assert_eq!(answer(other).await, "db-8 of oregon");
    pods[7] = pod(oregon.host(8), "db-7 again".to_owned()).await;
    place(&oregon, "db-7", Some(pods[7].address));
    assert_eq!(address(&here, "db-7").await, before, "its Service lingered");
    assert_eq!(answer(behind(&paris, &before).await).await, "db-7 again");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_name_answers_exactly_the_ready_pods_and_nothing_when_there_is_none() {
    let (mut paris, mut oregon, pods) = two(12, 2).await;
    // Paris has a pod of its own too, at its real address.
    let own = pod(paris.host(9), "db-0 of paris".to_owned()).await;
    place(&paris, "db-0", Some(own.address));
    export(&paris);
    let here = paris.start(1).await;
    let _there = oregon.start(1).await;
    let remote = [address(&here, "db-0").await, address(&here, "db-1").await];
    let mut wanted = vec![own.address.ip().to_string(), remote[0].clone(), remote[1].clone()];
    wanted.sort();
    let all = |found: &[String]| {
        let mut found = found.to_vec();
        found.sort();
        found == wanted
    };
    until(&here, NAME, RecordType::A, |_, found| all(found)).await;
    let srv = until(&here, NAME, RecordType::SRV, |_, found| found.len() == 3).await;
    for (port, pod) in [
        (own.address.port(), "db-0.paris"),
        (pods[0].address.port(), "db-0.oregon"),
        (pods[1].address.port(), "db-1.oregon"),
    ] {
        let record = format!("{port} {pod}.{NAME}.");
        assert!(srv.contains(&record), "{record} in {srv:?}");
    }
    assert_eq!(
        asked(&here, &format!("oregon.{NAME}"), RecordType::A).await,
        Some((ResponseCode::NoError, vec![]))
    );

    place(&paris, "db-0", None);
    place(&oregon, "db-0", None);
    until(&here, NAME, RecordType::A, |_, found| *found == remote[1..]).await;
    place(&oregon, "db-1", None);
    until(&here, NAME, RecordType::A, |code, _| code == ResponseCode::NXDomain).await;
    assert!(paris.api.has("serviceimports", "shop/db"), "the import stays");
    paris.api.delete("serviceexports", "shop/db");
    oregon.api.delete("serviceexports", "shop/db");
    paris.api.await_object("serviceimports", "shop/db", |import| import.is_none()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn k01_without_its_api_server_a_restarted_agent_leads_to_the_same_pods() {
    let (mut paris, mut oregon, _pods) = two(13, 3).await;
    let here = paris.start(1).await;
    let _there = oregon.start(1).await;
    let mut known = Vec::new();
    for number in 0..3 {
        let found = address(&here, &format!("db-{number}")).await;
        let gateway = behind(&paris, &found).await;
        assert_eq!(answer(gateway).await, format!("db-{number} of oregon"));
        known.push((found, gateway));
    }
    paris.saved(1).await;
    paris.peers_saved(1, "db-2").await;
    paris.api.stop().await;
    here.agent.kill();
    let again = paris.start(1).await;
    for (number, (found, gateway)) in known.iter().enumerate() {
        assert_eq!(address(&again, &format!("db-{number}")).await, *found);
        assert_eq!(answer(*gateway).await, format!("db-{number} of oregon"));
    }
    paris.api.resume().await;
    assert_eq!(answer(known[0].1).await, "db-0 of oregon");
}
