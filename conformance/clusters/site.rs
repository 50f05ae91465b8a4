//! A cluster for tests: an API server in memory, and agents as pods of it.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

use portolan::config::Pod;
use portolan::model::Namespace;
use portolan::testing::kube::ApiServer;
use portolan::testing::trust;
use portolan::testing::{Agent, PATIENCE};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Where agents run.
const NAMESPACE: &str = "portolan-system";

/// One cluster.
pub(super) struct Site {
    pub(super) name: &'static str,
    pub(super) api: ApiServer,
    dir: TempDir,
    /// The third octet of its loopback addresses; each test has a second octet of its own.
    block: (u8, u8),
    ports: (u16, u16),
    replicas: Vec<u8>,
}

/// One replica that runs.
pub(super) struct Replica {
    pub(super) agent: Agent,
    pub(super) host: IpAddr,
}

impl Site {
    /// A cluster with an authority of its own; nothing runs yet.
    pub(super) async fn new(name: &'static str, block: (u8, u8), ports: (u16, u16)) -> Self {
        let dir = TempDir::new().expect("a temporary directory");
        let api = ApiServer::start().await;
        api.put(
            json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": NAMESPACE } }),
        );
        let authority = dir.path().join("authority");
        trust::init(&authority, name);
        let pair = trust::authority_pair(&authority);
        // As the kubelet mounts it.
        let mounted = dir.path().join("mounted");
        std::fs::create_dir(&mounted).expect("a writable directory");
        for (name, octets) in
            [("tls.crt", pair.certificate.as_slice()), ("tls.key", pair.key.as_slice())]
        {
            let path = mounted.join(name);
            std::fs::write(&path, octets).expect("a writable directory");
            let readers = std::fs::Permissions::from_mode(0o440);
            std::fs::set_permissions(&path, readers).expect("an own file");
        }
        api.put(json!({
            "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
            "metadata": { "namespace": NAMESPACE, "name": "portolan-ca" },
            "data": {
                "tls.crt": base64(&pair.certificate), "tls.key": base64(&pair.key),
                "ca.crt": base64(&pair.certificate),
            },
        }));
        let site = Self { name, api, dir, block, ports, replicas: Vec::new() };
        site.api.put(json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": { "namespace": NAMESPACE, "name": "portolan" },
            "spec": { "ports": [{ "name": "gateway", "port": 8443 }] },
        }));
        site
    }

    /// The authority, as peers pin it.
    pub(super) fn bundle(&self) -> String {
        let path = self.dir.path().join("authority/ca.pem");
        std::fs::read_to_string(path).expect("an authority")
    }

    pub(super) fn host(&self, role: u8) -> IpAddr {
        IpAddr::V4(Ipv4Addr::new(127, self.block.0, self.block.1, role))
    }

    /// Knows another cluster by a Peer object.
    pub(super) fn peer(&self, other: &Self) {
        self.peer_with(other, &json!({}));
    }

    /// With annotations.
    pub(super) fn peer_with(&self, other: &Self, annotations: &Value) {
        self.api.put(json!({
            "apiVersion": "portolan.dev/v1alpha1", "kind": "Peer",
            "metadata": { "name": other.name, "annotations": annotations },
            "spec": {
                "addresses": [format!("{}:8443", other.host(1))],
                "bundle": other.bundle(),
            },
        }));
    }

    /// Starts a replica; its pod stands, ready, behind the gateway's Service.
    pub(super) async fn start(&mut self, number: u8) -> Replica {
        let path = self.write_config(number);
        let pod = Pod {
            namespace: Some(Namespace::parse(NAMESPACE).expect("a namespace")),
            name: Some(format!("portolan-{number}").into()),
            uid: Some(self.uid(number).into()),
            addresses: vec![self.host(number)],
            node: None,
        };
        let started = tokio::task::spawn_blocking(move || Agent::try_start_in(&path, pod));
        let agent = started.await.expect("no panic").unwrap_or_else(|error| panic!("{error}"));
        if !self.replicas.contains(&number) {
            self.replicas.push(number);
        }
        self.members(&self.replicas);
        Replica { agent, host: self.host(number) }
    }

    /// The pods behind the gateway's Service, all ready.
    pub(super) fn members(&self, replicas: &[u8]) {
        let endpoint = |number: &u8| {
            json!({
                "addresses": [self.host(*number).to_string()],
                "conditions": { "ready": true },
                "targetRef": {
                    "kind": "Pod", "namespace": NAMESPACE,
                    "name": format!("portolan-{number}"), "uid": self.uid(*number),
                },
            })
        };
        self.api.put(json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {
                "namespace": NAMESPACE, "name": "portolan-abc",
                "labels": { "kubernetes.io/service-name": "portolan" },
            },
            "addressType": "IPv4",
            "ports": [{ "name": "gateway", "port": 8443 }],
            "endpoints": replicas.iter().map(endpoint).collect::<Vec<Value>>(),
        }));
    }

    /// Waits until a replica has written down that it knows the addresses and ports of the import.
    pub(super) async fn saved(&self, number: u8) {
        let path = self.dir.path().join(format!("state-{number}/cluster"));
        let written = |text: &[u8]| {
            let text = String::from_utf8_lossy(text);
            ["\"addresses\":[]", "\"ports\":[]"].iter().all(|empty| !text.contains(empty))
        };
        let look = async {
            while !std::fs::read(&path).is_ok_and(|text| written(&text)) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(PATIENCE, look).await.expect("the state is written");
    }

    /// Waits until a replica has written down a catalog in which that text stands.
    pub(super) async fn peers_saved(&self, number: u8, text: &str) {
        let path = self.dir.path().join(format!("state-{number}/peers"));
        let look = async {
            let written = |found: &[u8]| String::from_utf8_lossy(found).contains(text);
            while !std::fs::read(&path).is_ok_and(|found| written(&found)) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(PATIENCE, look).await.expect("the state is written");
    }

    fn uid(&self, number: u8) -> String {
        format!("{}-{number}", self.name)
    }

    fn write_config(&self, number: u8) -> PathBuf {
        let host = self.host(number);
        let mut text = String::new();
        let (first, last) = self.ports;
        write!(
            text,
            "cluster: {name}\n\
             source: {{ kubernetes: {{ server: '{url}', ports: {first}-{last} }} }}\n\
             state: {{ dir: ./state-{number} }}\n\
             gateway: {{ listen: '{host}:8443', drain: 2s, shutdown_delay: 200ms }}\n\
             dns: {{ listen: '{host}:5353', shutdown_delay: 100ms }}\n\
             admin: {{ listen: '{host}:9900' }}\n\
             trust: {{ dir: ./mounted }}\n",
            name = self.name,
            url = self.api.url(),
        )
        .expect("a String takes everything");
        let path = self.dir.path().join(format!("{}-{number}.yaml", self.name));
        std::fs::write(&path, text).expect("a writable directory");
        path
    }
}

impl Replica {
    pub(super) fn dns(&self) -> SocketAddr {
        SocketAddr::new(self.host, 5353)
    }
}

fn base64(octets: &[u8]) -> String {
    use std::fmt::Write as _;
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in octets.chunks(3) {
        let mut word = 0_u32;
        for (place, octet) in chunk.iter().enumerate() {
            word |= u32::from(*octet) << (16 - 8 * place);
        }
        for place in 0..4 {
            let digit = DIGITS[((word >> (18 - 6 * place)) & 63) as usize];
            let shown = if place <= chunk.len() { char::from(digit) } else { '=' };
            text.write_char(shown).expect("a String takes everything");
        }
    }
    text
}
