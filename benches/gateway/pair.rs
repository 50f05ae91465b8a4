//! The pairs that are compared: client → first gateway → second gateway → backend.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use portolan::testing::trust;

use crate::backend::SERVICES;
use crate::options::Options;
use crate::place::{self, Place, Running};

/// The importing and the exporting cluster.
const CLUSTERS: [&str; 2] = ["near", "far"];
const GATEWAY_PORT: u16 = 8443;
const ADMIN_PORT: u16 = 9900;
/// Added to a service's port on the first and on the second gateway of the other pairs.
const NEAR_PORTS: u16 = 100;
const FAR_PORTS: u16 = 200;

/// Whose gateways they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Candidate {
    Portolan,
    Haproxy,
    Plain,
}

impl Candidate {
    pub(crate) const ALL: [Self; 3] = [Self::Portolan, Self::Haproxy, Self::Plain];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Portolan => "portolan",
            Self::Haproxy => "haproxy",
            Self::Plain => "plain",
        }
    }
}

/// Two gateways that run.
#[derive(Debug)]
pub(crate) struct Pair {
    /// First and second gateway.
    gateways: [Running; 2],
    /// Where clients call each service.
    entries: BTreeMap<&'static str, SocketAddr>,
}

impl Pair {
    /// Starts both gateways afresh, nothing kept from before, and waits until they serve.
    pub(crate) fn start(
        candidate: Candidate,
        place: &Place,
        options: &Options,
    ) -> io::Result<Self> {
        match candidate {
            Candidate::Portolan => portolan(place, &options.portolan),
            Candidate::Haproxy => haproxy(place, &options.haproxy),
            Candidate::Plain => plain(place),
        }
    }

    /// Where clients call a service.
    pub(crate) fn entry(&self, service: &str) -> SocketAddr {
        self.entries[service]
    }

    /// The process ids of first and second gateway.
    pub(crate) fn pids(&self) -> [u32; 2] {
        [self.gateways[0].pid(), self.gateways[1].pid()]
    }
}

/// Agents with the defaults, from files: pool, authorisation and metrics as they come.
fn portolan(place: &Place, binary: &Path) -> io::Result<Pair> {
    let hosts = [place.near.gateway, place.far.gateway];
    trust::mesh(&place.dir.join("trust"), &CLUSTERS);
    let mut gateways = Vec::new();
    for (index, side) in [&place.near, &place.far].into_iter().enumerate() {
        let (own, other) = (CLUSTERS[index], CLUSTERS[1 - index]);
        let registry = place.dir.join(own);
        fs::create_dir_all(&registry)?;
        // The far side has no clients; its range must only be a different one.
        let IpAddr::V4(vips) = place.vips else { unreachable!("loopback is IPv4") };
        let vips = u32::from(vips) + (u32::try_from(index).expect("0 or 1") << 7);
        let congestion = if place.cubic { "system" } else { "bbr" };
        let text = format!(
            "cluster: {own}\nsource: {{ files: ./{own} }}\nstate: {{ dir: ./{own}.state }}\n\
             vips: {}/25\ngateway: {{ listen: '{host}:{GATEWAY_PORT}', congestion: {congestion} }}\n\
             dns: {{ listen: '{host}:5353' }}\nadmin: {{ listen: '{host}:{ADMIN_PORT}' }}\n\
             trust: {{ dir: ./trust/{own} }}\n\
             peers: [{{ cluster: {other}, addresses: '{}:{GATEWAY_PORT}' }}]\n",
            std::net::Ipv4Addr::from(vips),
            hosts[1 - index],
            host = hosts[index],
        );
        let config = place.dir.join(format!("{own}.yaml"));
        fs::write(&config, text)?;
        if index == 1 {
            fs::write(registry.join("services.yaml"), exports(place))?;
        }
        let mut command = side.command(binary);
        command.arg("run").arg("--config").arg(&config);
        gateways.push(Running::start(command, &config.with_extension("log"))?);
    }
    let admin = SocketAddr::new(hosts[0], ADMIN_PORT).to_string();
    let mut question = vec!["entry".to_owned(), "--admin".to_owned(), admin];
    for (name, _) in SERVICES {
        question.extend(["--service".to_owned(), format!("bench/{name}")]);
    }
    let answer = place::ask(&place.near, &question)?;
    let found: Vec<SocketAddr> = serde_json::from_slice(&answer)?;
    let entries = SERVICES.iter().map(|(name, _)| *name).zip(found).collect();
    let gateways = gateways.try_into().expect("two were started");
    Ok(Pair { gateways, entries })
}

/// The services, for the importing cluster alone and for every caller in it.
fn exports(place: &Place) -> String {
    let mut text = String::new();
    for (name, port) in SERVICES {
        write!(
            text,
            "apiVersion: v1\nkind: Service\nmetadata: {{ namespace: bench, name: {name} }}\n\
             spec: {{ ports: [ {{ port: {port} }} ] }}\n---\n\
             apiVersion: multicluster.x-k8s.io/v1beta1\nkind: ServiceExport\nmetadata:\n  \
             namespace: bench\n  name: {name}\n  annotations:\n    portolan.dev/clusters: near\n    \
             portolan.dev/allow: near/*/*\n---\n\
             apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  namespace: bench\n  \
             name: {name}-1\n  labels: {{ kubernetes.io/service-name: {name} }}\n\
             addressType: IPv4\nports: [ {{ port: {port} }} ]\n\
             endpoints: [ {{ addresses: [\"{}\"] }} ]\n---\n",
            place.far.gateway
        )
        .expect("a String takes everything");
    }
    text
}

/// Two HAProxy processes in TCP mode, mutual TLS 1.3 between them, buffers at their defaults.
fn haproxy(place: &Place, binary: &Path) -> io::Result<Pair> {
    let trusted = place.dir.join("trust");
    trust::mesh(&trusted, &CLUSTERS);
    for own in CLUSTERS {
        let own = trusted.join(own);
        let pair = trust::Credentials::read(&own);
        fs::write(own.join("pair.pem"), pair.certificate_pem + &pair.key_pem)?;
    }
    let trusted = trusted.display();
    let (near, far) = (place.near.gateway, place.far.gateway);
    let globals = "global\n  nbthread 2\n  maxconn 9800\n  ssl-default-bind-options ssl-min-ver \
                   TLSv1.3\n  ssl-default-server-options ssl-min-ver TLSv1.3\ndefaults\n  mode tcp\n  \
                   timeout connect 5s\n  timeout client 1h\n  timeout server 1h\n  maxconn 9800\n";
    let mut text = [globals.to_owned(), globals.to_owned()];
    for (name, port) in SERVICES {
        let middle = SocketAddr::new(far, port + FAR_PORTS);
        write!(
            text[0],
            "listen {name}\n  bind {near}:{}\n  server far {middle} ssl crt \
             {trusted}/near/pair.pem ca-file {trusted}/far/ca.pem verify required\n",
            port + NEAR_PORTS,
        )
        .expect("a String takes everything");
        write!(
            text[1],
            "listen {name}\n  bind {middle} ssl crt {trusted}/far/pair.pem ca-file \
             {trusted}/near/ca.pem verify required\n  server backend {far}:{port}\n",
        )
        .expect("a String takes everything");
    }
    let mut gateways = Vec::new();
    for (index, side) in [&place.near, &place.far].into_iter().enumerate() {
        let config = place.dir.join(format!("haproxy-{}.cfg", CLUSTERS[index]));
        fs::write(&config, &text[index])?;
        let mut command = side.command(binary);
        command.arg("-db").arg("-f").arg(&config);
        gateways.push(Running::start(command, &config.with_extension("log"))?);
    }
    let [first, second] = <[Running; 2]>::try_from(gateways).expect("two were started");
    serving(place, [first, second])
}

/// Two processes of [`plain`](crate::plain).
fn plain(place: &Place) -> io::Result<Pair> {
    fs::create_dir_all(&place.dir)?;
    let (near, far) = (place.near.gateway, place.far.gateway);
    let maps = |listen: (IpAddr, u16), target: (IpAddr, u16)| {
        let each = SERVICES.iter().flat_map(move |(_, port)| {
            let listen = SocketAddr::new(listen.0, port + listen.1);
            let target = SocketAddr::new(target.0, port + target.1);
            ["--map".to_owned(), format!("{listen}={target}")]
        });
        std::iter::once("relay".to_owned()).chain(each).collect::<Vec<String>>()
    };
    let log = place.dir.join("plain.log");
    let start = |side, arguments: Vec<String>| {
        place::own(side, &arguments.iter().map(String::as_str).collect::<Vec<_>>(), &log)
    };
    let first = start(&place.near, maps((near, NEAR_PORTS), (far, FAR_PORTS)))?;
    let second = start(&place.far, maps((far, FAR_PORTS), (far, 0)))?;
    serving(place, [first, second])
}

/// A pair whose entries are the first gateway's own ports.
fn serving(place: &Place, mut gateways: [Running; 2]) -> io::Result<Pair> {
    let at = |host, added| SERVICES.map(|(_, port)| SocketAddr::new(host, port + added));
    let near = at(place.near.gateway, NEAR_PORTS);
    let far = at(place.far.gateway, FAR_PORTS);
    // The far side first: who is asked for too early may call it gone.
    for (side, addresses) in [(&place.far, far), (&place.near, near)] {
        let mut question = vec!["await".to_owned()];
        question.extend(addresses.iter().map(SocketAddr::to_string));
        if let Err(error) = place::ask(side, &question) {
            for (gateway, name) in gateways.iter_mut().zip(CLUSTERS) {
                gateway.check(name, &place.dir.join(format!("haproxy-{name}.log")))?;
            }
            return Err(error);
        }
    }
    let entries = SERVICES.iter().map(|(name, _)| *name).zip(near).collect();
    Ok(Pair { gateways, entries })
}
