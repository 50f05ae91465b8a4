//! Clusters whose source is an API server: whole agents, real sockets, API servers in memory.

mod site;

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use portolan::testing::Backend;
use portolan::testing::dns_query;
use serde_json::Value;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use site::Site;

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
    let ours = services.iter().find(|service| {
        service["metadata"]["labels"]["portolan.dev/service"] == "web"
    })?;
    Some(ours["metadata"]["name"].as_str()?.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_is_imported_and_reached_in_the_other_cluster() {
    let mut paris = Site::new("paris", (200, 1), (20_000, 20_499)).await;
    let mut oregon = Site::new("oregon", (200, 2), (20_500, 20_999)).await;
    paris.peer(&oregon);
    oregon.peer(&paris);
    let web = Backend::naming(oregon.host(9), "oregon").await;
    oregon.api.export("shop/web", 80, web.address.port(), &[web.address.ip()]);
    paris.api.put(serde_json::json!({
        "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "shop" },
    }));
    let here = paris.start(1).await;
    let _there = oregon.start(1).await;

    let addressed = |import: Option<&Value>| {
        import.is_some_and(|import| import["spec"]["ips"][0].is_string())
    };
    let import = paris.api.await_object("serviceimports", "shop/web", addressed).await.unwrap();
    let ip: IpAddr = import["spec"]["ips"][0].as_str().unwrap().parse().unwrap();
    let services = paris.api.list("services");
    let derived = derived(&services).expect("a derived Service");
    let slices = paris
        .api
        .await_list("endpointslices", |slices| !endpoints(slices, &derived).is_empty())
        .await;
    let gateway = endpoints(&slices, &derived)[0];
    assert_eq!(gateway.ip(), here.host);
    assert_eq!(answer(gateway).await, "oregon");
    let name = "web.shop.svc.clusterset.local";
    assert_eq!(dns_query(here.dns(), name).await.unwrap(), vec![ip]);
    let exported = |export: Option<&Value>| {
        export.is_some_and(|export| {
            export["status"]["conditions"].as_array().is_some_and(|all| {
                all.iter().any(|one| one["type"] == "Ready" && one["status"] == "True")
            })
        })
    };
    oregon.api.await_object("serviceexports", "shop/web", exported).await;
}
