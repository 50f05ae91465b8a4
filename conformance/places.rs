//! One DNS server for clients of several sites, through whole agents: three clusters on one
//! network, of which paris answers.

use std::net::IpAddr;

use hickory_proto::op::Message;
use hickory_proto::rr::rdata::opt::{ClientSubnet, EdnsCode, EdnsOption};
use hickory_proto::rr::{RData, RecordType};
use portolan::testing::{Agent, PATIENCE, World, dns_exchange_from};

const NAME: &str = "db.data.svc.clusterset.local";
const CLUSTERS: [(&str, &str); 3] =
    [("paris", "eu, zone: eu-1"), ("oregon", "us, zone: us-1"), ("tokyo", "ap, zone: ap-1")];

/// Hosts of paris from which clients ask: of two other sites, a resolver that is listed, nobody's.
const IN_OREGON: u8 = 3;
const IN_TOKYO: u8 = 4;
const LISTED: u8 = 5;
const ELSEWHERE: u8 = 6;

fn headless(address: IpAddr) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{ namespace: data, name: db }}\n\
         spec: {{ clusterIP: None, ports: [ {{ name: sql, port: 5432 }} ] }}\n---\n\
         apiVersion: multicluster.x-k8s.io/v1beta1\nkind: ServiceExport\n\
         metadata: {{ namespace: data, name: db }}\n---\n\
         apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  namespace: data\n  \
         name: db-1\n  labels: {{ kubernetes.io/service-name: db }}\naddressType: IPv4\n\
         ports: [ {{ name: sql, port: 5432 }} ]\n\
         endpoints: [ {{ addresses: [\"{address}\"], hostname: db-0 }} ]\n"
    )
}

/// A pod of every cluster, all agents running, paris' last.
fn start(world: &World) -> Vec<Agent> {
    let start = |(cluster, locality): &(&str, &str)| {
        world.manifest(cluster, "db.yaml", &headless(world.host(cluster, 9)));
        let path = world.write_config(cluster, |peer| vec![world.gateway(peer)]);
        let host = |role| world.host("paris", role);
        let places = format!(
            "dns: {{ forwarders: [{}], localities: [\
             {{ networks: [{}, 10.1.0.0/16], locality: {{ region: us, zone: us-1 }} }}, \
             {{ networks: [{}, \"2001:db8::/48\"], locality: {{ region: ap }} }}], ",
            host(LISTED),
            host(IN_OREGON),
            host(IN_TOKYO),
        );
        let text = std::fs::read_to_string(&path).expect("just written");
        let text = text.replace("dns: { ", &places);
        std::fs::write(&path, format!("{text}locality: {{ region: {locality} }}\n"))
            .expect("writable");
        Agent::start(&path)
    };
    CLUSTERS.iter().rev().map(start).collect()
}

async fn ask(world: &World, from: u8, option: Option<EdnsOption>) -> Option<Message> {
    let (client, server) = (world.host("paris", from), world.dns("paris"));
    dns_exchange_from(client, server, NAME, RecordType::A, option).await.ok()
}

/// The clusters in the order of the answer.
fn order(world: &World, answer: &Message) -> Vec<&'static str> {
    let cluster = |address: IpAddr| {
        CLUSTERS.iter().find(|(name, _)| world.host(name, 9) == address).map(|(name, _)| *name)
    };
    let of = |data: &RData| match data {
        RData::A(a) => cluster(a.0.into()),
        _ => None,
    };
    answer.answers.iter().filter_map(|record| of(&record.data)).collect()
}

/// Asks until all three are known and something else holds; which of the peers is nearer by
/// measurement here is chance.
async fn until(world: &World, from: u8, suits: impl Fn(&[&str]) -> bool) -> Vec<&'static str> {
    let looked = async {
        loop {
            if let Some(answer) = ask(world, from, None).await {
                let order = order(world, &answer);
                if order.len() == 3 && suits(&order) {
                    return order;
                }
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, looked).await.expect("the name answers as wanted")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn locality_by_source_orders_a_headless_answer() {
    let world = World::new(&["paris", "oregon", "tokyo"]);
    let _agents = start(&world);
    until(&world, ELSEWHERE, |order| order[0] == "paris").await;
    until(&world, IN_OREGON, |order| order[..2] == ["oregon", "paris"]).await;
    until(&world, IN_TOKYO, |order| order[..2] == ["tokyo", "paris"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn client_subnet_is_honoured_only_from_a_listed_forwarder() {
    let world = World::new(&["paris", "oregon", "tokyo"]);
    let _agents = start(&world);
    until(&world, LISTED, |order| order[0] == "paris").await;
    until(&world, IN_OREGON, |order| order[0] == "oregon").await;
    until(&world, IN_TOKYO, |order| order[0] == "tokyo").await;
    for (from, network, prefix, first, scope) in [
        (LISTED, "10.1.7.0", 24, "oregon", Some(16)),
        (LISTED, "2001:db8:0:1::", 64, "tokyo", Some(48)),
        (LISTED, "192.0.2.0", 24, "paris", Some(1)),
        (ELSEWHERE, "10.1.7.0", 24, "paris", None),
        (IN_TOKYO, "10.1.7.0", 24, "tokyo", None),
    ] {
        let subnet = ClientSubnet::new(network.parse().expect("an address"), prefix, 0);
        let answer = ask(&world, from, Some(EdnsOption::Subnet(subnet))).await.expect("an answer");
        assert_eq!(order(&world, &answer)[0], first, "{network} from {from}");
        let told = answer.edns.as_ref().and_then(|edns| edns.option(EdnsCode::Subnet));
        let echo = scope.map(|scope| {
            EdnsOption::Subnet(ClientSubnet::new(subnet.addr(), subnet.source_prefix(), scope))
        });
        assert_eq!(told, echo.as_ref(), "{network} from {from}");
    }
}
