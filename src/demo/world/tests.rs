use std::collections::BTreeSet;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::config::Config;

async fn get(at: std::net::SocketAddr) -> Option<String> {
    let mut stream = TcpStream::connect(at).await.ok()?;
    stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await.ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.ok()?;
    Some(answer)
}

#[tokio::test]
async fn the_stage_is_whole_before_any_agent_runs() {
    let world = World::build(None, "/bin/true".into()).await.unwrap();
    let path = world.path().to_owned();
    let mut claimed = BTreeSet::new();
    for cloud in Cloud::ALL {
        let dir = path.join(cloud.name());
        let config = Config::load(&dir.join("portolan.yaml")).unwrap();
        assert_eq!(config.cluster.as_str(), cloud.name());
        let trust = config.trust_dir.unwrap();
        assert!(trust.join("key.pem").is_file());
        for peer in &config.peers {
            let bundle = trust.join("peers").join(format!("{}.pem", peer.cluster));
            assert!(bundle.is_file(), "{}", bundle.display());
        }
        assert_eq!(config.peers.len(), 2);
        claimed.extend(config.vips.clone());
        let answer = get(world.block.pod(cloud, 1)).await.unwrap();
        assert!(answer.contains(&format!("\"pod\":\"web-{}-1\"", cloud.name())), "{answer}");
    }
    assert_eq!(claimed.len(), 3, "every cloud has addresses of its own");
    drop(world);
    assert!(!path.exists());
}

#[tokio::test]
async fn pods_go_and_come_back() {
    let world = World::build(None, "/bin/true".into()).await.unwrap();
    let manifest = world.path().join("paris/registry/web.yaml");
    let pod = world.block.pod(Cloud::Paris, 0);
    assert!(std::fs::read_to_string(&manifest).unwrap().contains(&pod.ip().to_string()));

    world.remove_pods(Cloud::Paris).unwrap();
    assert!(std::fs::read_to_string(&manifest).unwrap().contains("endpoints: []"));
    while get(pod).await.is_some() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    world.restore_pods(Cloud::Paris).await.unwrap();
    assert!(get(pod).await.is_some());
    assert!(std::fs::read_to_string(&manifest).unwrap().contains(&pod.ip().to_string()));
}

#[tokio::test]
async fn swallowing_a_cloud_cuts_both_of_its_links_and_no_other() {
    let world = World::build(None, "/bin/true".into()).await.unwrap();
    let mut gateways = BTreeMap::new();
    for cloud in Cloud::ALL {
        let gateway = TcpListener::bind(world.block.gateway(cloud)).await.unwrap();
        gateways.insert(cloud, gateway);
    }
    world.swallow(Cloud::Oregon);
    for from in Cloud::ALL {
        for to in from.others() {
            let cut = from == Cloud::Oregon || to == Cloud::Oregon;
            let _dialled = TcpStream::connect(world.block.line(from, to)).await.unwrap();
            // What passes arrives at once, and is waited for; what is cut is given a moment.
            let within = Duration::from_millis(if cut { 50 } else { 10_000 });
            let arrived = tokio::time::timeout(within, gateways[&to].accept()).await;
            assert_eq!(arrived.is_err(), cut, "{from:?} to {to:?}");
        }
    }
    assert_eq!(world.swallowed(Cloud::Oregon).connections, 4);
    assert_eq!(world.swallowed(Cloud::Paris).connections, 2);
}
