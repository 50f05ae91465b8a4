//! From the tree to a [`Config`], section by section.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::io::Read as _;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;
use tracing_subscriber::EnvFilter;

use super::dns_tls::dns_tls;
use super::errors::{At, Problem};
use super::fields::{Field, Fields, Problems};
use super::kubernetes::kubernetes;
use super::localities::localities;
use super::node::Node;
use super::{Admin, Config, Congestion, Dns, Gateway, Log, MAX_FILE_BYTES, Peer, Source};
use crate::catalog::NamespaceRules;
use crate::dns::Io;
use crate::model::{ClusterId, DnsName, Locality, Namespace, PeerAddress, PortNumber, canonical};
use crate::telemetry::LogFormat;

/// The zone that the Multi-Cluster Services API names.
const DEFAULT_CLUSTERSET: &str = "clusterset.local";
/// Longest wait at shutdown that may be configured.
const MAX_SHUTDOWN: Duration = Duration::from_secs(3600);
/// Smallest and largest TTL: 0 would make every client ask for every connection.
const TTL_BOUNDS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(3600));
/// Widest clusterset ranges: more would swallow addresses that belong to others.
const WIDEST_VIPS: (u8, u8) = (8, 48);
/// Narrowest clusterset ranges: 14 names for IPv4.
const NARROWEST_VIPS: (u8, u8) = (28, 120);
/// Most TCP connections of DNS, of one source or of all, that may be configured.
const MAX_TCP: usize = 65_536;
/// Most addresses of one peer, listeners of one kind, and so on.
const MAX_LIST: usize = 256;
/// Longest name of a network, region or zone, in bytes.
const MAX_LABEL_BYTES: usize = 253;

/// The file's text.
pub(super) fn read(path: &Path) -> Result<String, Problem> {
    let refuse = |text: String| Problem::new(None, "", text);
    let unreadable = |error: std::io::Error| {
        refuse(format!("cannot be read: {error}; name a readable file with --config"))
    };
    let file = std::fs::File::open(path).map_err(unreadable)?;
    let mut bytes = Vec::new();
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(refuse(format!("is larger than the {MAX_FILE_BYTES} bytes read; shorten it")));
    }
    String::from_utf8(bytes).map_err(|e| {
        let line = 1 + e.as_bytes()[..e.utf8_error().valid_up_to()]
            .iter()
            .filter(|byte| **byte == b'\n')
            .count() as u64;
        Problem::new(Some(At::new(line, 1)), "", "is not UTF-8; save the file as UTF-8")
    })
}

/// The whole file.
pub(super) fn config(source: &str, path: &Path) -> Result<Config, Vec<Problem>> {
    let root = Node::parse(source).map_err(|problem| vec![problem])?;
    let mut problems = Problems::default();
    let mut fields = Fields::of("", &root, &mut problems);
    if !problems.0.is_empty() {
        return Err(problems.0);
    }
    let base = path.parent().unwrap_or_else(|| Path::new("")).to_owned();
    let loaded = sections(&root, &mut fields, &base, &mut problems);
    fields.finish(&mut problems);
    match loaded {
        Some(config) if problems.0.is_empty() => Ok(config),
        _ => Err(problems.0),
    }
}

fn sections(
    root: &Node,
    fields: &mut Fields<'_>,
    base: &Path,
    problems: &mut Problems,
) -> Option<Config> {
    let cluster = fields
        .require("cluster", "name this cluster, for example 'cluster: paris'", problems)
        .and_then(|field| field.parse(ClusterId::parse, problems));
    let clusterset = match fields.take("clusterset") {
        Some(field) => field.parse(DnsName::parse, problems),
        None => DnsName::parse(DEFAULT_CLUSTERSET).ok(),
    };
    let network = label(fields.take("network"), problems);
    let locality = locality(fields, problems);
    let source = source(fields, base, problems);
    let mut state = fields.nested("state", problems);
    let state_dir = state.take("dir").and_then(|field| directory(&field, base, problems));
    state.finish(problems);
    let gateway = gateway(fields, problems);
    let dns = dns(fields, base, problems);
    let admin = admin(fields, problems);
    let in_kubernetes = matches!(source, Some(Source::Kubernetes(_)));
    let vips = if in_kubernetes {
        const INSTEAD: &str = "clusterset addresses are those of Services; remove the key";
        refuse_with_kubernetes("vips", INSTEAD, fields, problems);
        Vec::new()
    } else {
        vips(fields, problems)
    };
    outside_vips(&vips, (&gateway, &dns, &admin), root, problems);
    if let Some(Source::Kubernetes(kubernetes)) = &source {
        outside_ports(&kubernetes.ports, (&gateway, &dns, &admin), root, problems);
    }
    let trust_dir = trust_dir(fields, base, in_kubernetes, problems);
    let peers = if in_kubernetes {
        const INSTEAD: &str = "peers are Peer objects (portolan.dev/v1alpha1); remove the key and \
                               apply one for each";
        refuse_with_kubernetes("peers", INSTEAD, fields, problems);
        Vec::new()
    } else {
        peers(fields, cluster.as_ref(), problems)
    };
    let log = log(fields, problems);

    let cluster = cluster?;
    let state_dir = state_dir.unwrap_or_else(|| base.join(format!("{cluster}.state")));
    Some(Config {
        clusterset: clusterset?,
        network,
        locality,
        source: source?,
        state_dir,
        vips,
        gateway,
        dns,
        admin,
        trust_dir,
        peers,
        log,
        cluster,
    })
}

pub(super) fn locality(fields: &mut Fields<'_>, problems: &mut Problems) -> Locality {
    let mut section = fields.nested("locality", problems);
    let region = label(section.take("region"), problems);
    let zone = label(section.take("zone"), problems);
    section.finish(problems);
    Locality { region, zone }
}

fn source(fields: &mut Fields<'_>, base: &Path, problems: &mut Problems) -> Option<Source> {
    const REMEDY: &str = "name a directory of manifests, for example 'source: { files: ./registry \
                          }', or write 'source: { kubernetes: {} }'";
    let field = fields.require("source", REMEDY, problems)?;
    let mut section = Fields::of(&field.path, field.node, problems);
    if let Some(field) = section.take("kubernetes") {
        if let Some(files) = section.take("files") {
            let text = "stands beside 'kubernetes'; an agent has one source, keep one of them";
            problems.add(Some(files.node.at), &files.path, text);
        }
        section.finish(problems);
        return Some(Source::Kubernetes(Box::new(kubernetes(&field, base, problems))));
    }
    let files = section.require("files", REMEDY, problems);
    section.finish(problems);
    Some(Source::Files(directory(&files?, base, problems)?))
}

/// A key that belongs to the files source.
fn refuse_with_kubernetes(
    key: &'static str,
    instead: &str,
    fields: &mut Fields<'_>,
    problems: &mut Problems,
) {
    if let Some(field) = fields.take(key) {
        let text = format!("has no meaning with 'source.kubernetes': {instead}");
        problems.add(Some(field.node.at), &field.path, text);
    }
}

/// Required, but not with Kubernetes, which has the identity in a Secret.
fn trust_dir(
    fields: &mut Fields<'_>,
    base: &Path,
    in_kubernetes: bool,
    problems: &mut Problems,
) -> Option<PathBuf> {
    const REMEDY: &str = "name the directory made by 'portolan trust init', for example './trust'";
    let mut trust = fields.nested("trust", problems);
    let dir =
        if in_kubernetes { trust.take("dir") } else { trust.require("dir", REMEDY, problems) };
    let dir = dir.and_then(|field| directory(&field, base, problems));
    trust.finish(problems);
    dir
}

fn gateway(fields: &mut Fields<'_>, problems: &mut Problems) -> Gateway {
    let defaults = Gateway::default();
    let mut section = fields.nested("gateway", problems);
    let listen = listen(section.take("listen"), problems).unwrap_or(defaults.listen);
    let advertise = section.take("advertise").map(|f| f.parse_list(peer_address, problems));
    let outbound = section.take("outbound").and_then(|field| field.boolean(problems));
    let congestion = section.take("congestion").and_then(|field| {
        let congestion = |text: &str| match text {
            "bbr" => Ok(Congestion::Bbr),
            "system" => Ok(Congestion::System),
            other => Err(format!("'{other}' is not a choice; use bbr or system")),
        };
        field.parse(congestion, problems)
    });
    let drain = duration(section.take("drain"), defaults.drain, problems);
    let shutdown_delay =
        duration(section.take("shutdown_delay"), defaults.shutdown_delay, problems);
    section.finish(problems);
    Gateway {
        listen,
        advertise: advertise.unwrap_or_default(),
        outbound: outbound.unwrap_or(defaults.outbound),
        congestion: congestion.unwrap_or(defaults.congestion),
        drain,
        shutdown_delay,
    }
}

fn dns(fields: &mut Fields<'_>, base: &Path, problems: &mut Problems) -> Dns {
    let defaults = Dns::default();
    let mut section = fields.nested("dns", problems);
    let listen = listen(section.take("listen"), problems).unwrap_or(defaults.listen);
    let ttl = section.take("ttl").and_then(|field| ttl(&field, problems)).unwrap_or(defaults.ttl);
    let io = section.take("io").and_then(|field| {
        let io = |text: &str| match text {
            "auto" => Ok(Io::Auto),
            "batch" => Ok(Io::Batch),
            "portable" => Ok(Io::Portable),
            other => {
                Err(format!("'{other}' is not a way to drive sockets; use auto, batch or portable"))
            }
        };
        field.parse(io, problems)
    });
    let allow = section.take("allow").map(|f| f.parse_list(network, problems));
    let forwarders = section.take("forwarders").map(|f| f.parse_list(network, problems));
    let localities = section.take("localities").map(|f| localities(&f, problems));
    let mut most =
        |key| section.take(key).and_then(|field: Field<'_>| field.number(1, MAX_TCP, problems));
    let (tcp_per_source, tcp_total) = (most("tcp_per_source"), most("tcp_total"));
    let tls = dns_tls(&mut section, base, problems);
    let shutdown_delay =
        duration(section.take("shutdown_delay"), defaults.shutdown_delay, problems);
    section.finish(problems);
    Dns {
        listen,
        ttl,
        io: io.unwrap_or_default(),
        allow: allow.unwrap_or_default(),
        forwarders: forwarders.unwrap_or_default(),
        localities: localities.unwrap_or_default(),
        tcp_per_source: tcp_per_source.unwrap_or(defaults.tcp_per_source),
        tcp_total: tcp_total.unwrap_or(defaults.tcp_total),
        tls,
        shutdown_delay,
    }
}

fn admin(fields: &mut Fields<'_>, problems: &mut Problems) -> Admin {
    let mut section = fields.nested("admin", problems);
    let listen = section.take("listen").and_then(|field| field.parse(socket, problems));
    let probes = section.take("probes").and_then(|field| field.parse(socket, problems));
    section.finish(problems);
    Admin { listen: listen.unwrap_or_else(|| Admin::default().listen), probes }
}

fn log(fields: &mut Fields<'_>, problems: &mut Problems) -> Log {
    let mut section = fields.nested("log", problems);
    let filter = section.take("filter").and_then(|field| {
        let filter = |text: &str| match EnvFilter::builder().parse(text) {
            Ok(_) => Ok(text.to_owned()),
            Err(e) => Err(format!(
                "'{text}' is not a log filter ({e}); write a level such as info, or \
                 'info,portolan::tls=debug'"
            )),
        };
        field.parse(filter, problems)
    });
    let format = section.take("format").and_then(|field| {
        let format = |text: &str| match text {
            "text" => Ok(LogFormat::Text),
            "json" => Ok(LogFormat::Json),
            other => Err(format!("'{other}' is not a log format; use text or json")),
        };
        field.parse(format, problems)
    });
    section.finish(problems);
    Log {
        filter: filter.unwrap_or_else(|| Log::default().filter),
        format: format.unwrap_or_default(),
    }
}

fn vips(fields: &mut Fields<'_>, problems: &mut Problems) -> Vec<IpNet> {
    const REMEDY: &str = "name a range for the addresses of imported services, for example \
                          'vips: 127.64.0.0/16'";
    let Some(field) = fields.require("vips", REMEDY, problems) else { return Vec::new() };
    let items = field.list();
    if items.is_empty() {
        problems.add(Some(field.node.at), &field.path, format!("is empty; {REMEDY}"));
    }
    let mut kept: Vec<IpNet> = Vec::new();
    for item in items {
        let Some(range) = item.parse(vip_range, problems) else { continue };
        let family = |net: &IpNet| net.addr().is_ipv4();
        if let Some(first) = kept.iter().find(|net| family(net) == family(&range)) {
            problems.add(
                Some(item.node.at),
                &item.path,
                format!("{range} is a second range of the same family as {first}; keep one"),
            );
        } else {
            kept.push(range);
        }
    }
    kept
}

/// Every listener with the key that names it and its index there.
fn listeners<'a>(
    (gateway, dns, admin): (&'a Gateway, &'a Dns, &'a Admin),
) -> impl Iterator<Item = ([&'static str; 2], usize, &'a SocketAddr)> {
    let listeners = [
        (["gateway", "listen"], gateway.listen.as_slice()),
        (["dns", "listen"], dns.listen.as_slice()),
        (["dns", "tls_listen"], dns.tls.listen.as_slice()),
        (["admin", "listen"], std::slice::from_ref(&admin.listen)),
        (["admin", "probes"], admin.probes.as_slice()),
    ];
    let each = |(path, addresses): ([&'static str; 2], &'a [SocketAddr])| {
        addresses.iter().enumerate().map(move |(index, address)| (path, index, address))
    };
    listeners.into_iter().flat_map(each)
}

/// Our own listeners may not lie inside the range from which services get their addresses.
fn outside_vips(
    vips: &[IpNet],
    own: (&Gateway, &Dns, &Admin),
    root: &Node,
    problems: &mut Problems,
) {
    for (path, index, address) in listeners(own) {
        let Some(range) = vips.iter().find(|range| range.contains(&address.ip())) else {
            continue;
        };
        let text = format!(
            "{address} lies inside the range {range} of 'vips', where a service may get it; \
             listen elsewhere or choose another range"
        );
        problems.add(root.locate(&path, index), &path.join("."), text);
    }
}

/// Nor on a port that an import may get on every address of the pod.
fn outside_ports(
    ports: &RangeInclusive<PortNumber>,
    own: (&Gateway, &Dns, &Admin),
    root: &Node,
    problems: &mut Problems,
) {
    for (path, index, address) in listeners(own) {
        let inside = |port: u16| (ports.start().get()..=ports.end().get()).contains(&port);
        if inside(address.port()) {
            let text = format!(
                "port {} lies inside the range {}-{} of 'source.kubernetes.ports', where an \
                 import may get it; listen elsewhere or choose another range",
                address.port(),
                ports.start(),
                ports.end()
            );
            problems.add(root.locate(&path, index), &path.join("."), text);
        }
    }
}

fn peers(fields: &mut Fields<'_>, own: Option<&ClusterId>, problems: &mut Problems) -> Vec<Peer> {
    let Some(field) = fields.take("peers") else { return Vec::new() };
    let mut seen: BTreeMap<ClusterId, String> = BTreeMap::new();
    let mut peers = Vec::new();
    for item in field.list() {
        let Some(peer) = peer(&item, own, problems) else { continue };
        if let Some(first) = seen.get(&peer.cluster) {
            problems.add(
                Some(item.node.at),
                &format!("{}.cluster", item.path),
                format!(
                    "'{}' is named in {first} already; put all its addresses into one entry",
                    peer.cluster
                ),
            );
            continue;
        }
        seen.insert(peer.cluster.clone(), item.path);
        peers.push(peer);
    }
    peers
}

fn peer(item: &Field<'_>, own: Option<&ClusterId>, problems: &mut Problems) -> Option<Peer> {
    let mut section = Fields::of(&item.path, item.node, problems);
    let cluster = section
        .require("cluster", "name the peer as its certificate does", problems)
        .and_then(|field| {
            let other = |text: &str| match ClusterId::parse(text) {
                Ok(name) if Some(&name) == own => {
                    Err(format!("'{name}' is this cluster itself; list only the other clusters"))
                }
                Ok(name) => Ok(name),
                Err(e) => Err(e.to_string()),
            };
            field.parse(other, problems)
        });
    let addresses = section.require(
        "addresses",
        "give at least one, for example 'addresses: gw.example.org:8443'",
        problems,
    );
    let addresses = addresses.map(|field| {
        if field.list().is_empty() {
            let text = "is empty; give at least one, for example 'gw.example.org:8443'";
            problems.add(Some(field.node.at), &field.path, text);
        }
        field.parse_list(peer_address, problems)
    });
    let networks = section.take("networks").map(|f| f.parse_list(network, problems));
    let namespaces = section.take("namespaces").map(|field| namespaces(&field, problems));
    section.finish(problems);
    Some(Peer {
        cluster: cluster?,
        addresses: addresses?,
        networks: networks.unwrap_or_default(),
        namespaces: namespaces.unwrap_or(NamespaceRules::Any),
    })
}

fn namespaces(field: &Field<'_>, problems: &mut Problems) -> NamespaceRules {
    let name = |text: &str| match text {
        "*" => Ok(None),
        name => Namespace::parse(name).map(Some),
    };
    let listed = field.parse_list(name, problems);
    match listed.into_iter().collect::<Option<BTreeSet<_>>>() {
        Some(only) => NamespaceRules::Only(only),
        None => NamespaceRules::Any,
    }
}

fn listen(field: Option<Field<'_>>, problems: &mut Problems) -> Option<Vec<SocketAddr>> {
    let field = field?;
    if field.list().is_empty() {
        let text = format!("has 0 addresses; give 1 to {MAX_LIST}, for example '0.0.0.0:8443'");
        problems.add(Some(field.node.at), &field.path, text);
    }
    Some(sockets(&field, problems))
}

/// Addresses to listen on, perhaps none.
pub(super) fn sockets(field: &Field<'_>, problems: &mut Problems) -> Vec<SocketAddr> {
    let count = field.list().len();
    if count > MAX_LIST {
        let text = format!("has {count} addresses; give at most {MAX_LIST}");
        problems.add(Some(field.node.at), &field.path, text);
    }
    field.parse_list(socket, problems)
}

fn ttl(field: &Field<'_>, problems: &mut Problems) -> Option<Duration> {
    let ttl = field.duration(TTL_BOUNDS.0, TTL_BOUNDS.1, problems)?;
    if ttl.subsec_nanos() != 0 {
        problems.add(
            Some(field.node.at),
            &field.path,
            "is not in whole seconds, as DNS counts them; write for example 5s",
        );
    }
    Some(ttl)
}

fn duration(field: Option<Field<'_>>, default: Duration, problems: &mut Problems) -> Duration {
    field.and_then(|f| f.duration(Duration::ZERO, MAX_SHUTDOWN, problems)).unwrap_or(default)
}

pub(super) fn directory(
    field: &Field<'_>,
    base: &Path,
    problems: &mut Problems,
) -> Option<PathBuf> {
    let parser = |text: &str| match text {
        "" => Err("is empty; name a directory"),
        path => Ok(base.join(path)),
    };
    field.parse(parser, problems)
}

/// A free label: anything printable, not too long.
fn label(field: Option<Field<'_>>, problems: &mut Problems) -> Box<str> {
    let parser = |text: &str| {
        if text.len() > MAX_LABEL_BYTES || text.chars().any(char::is_control) {
            return Err(format!("is not usable; give at most {MAX_LABEL_BYTES} printable bytes"));
        }
        Ok(Box::from(text))
    };
    field.and_then(|field| field.parse(parser, problems)).unwrap_or_default()
}

fn socket(text: &str) -> Result<SocketAddr, String> {
    let address: SocketAddr = text.parse().map_err(|_| {
        let text = text.escape_default();
        format!("'{text}' is not an address with a port; write 127.0.0.1:8443 or [::1]:8443")
    })?;
    Ok(SocketAddr::new(canonical(address.ip()), address.port()))
}

fn peer_address(text: &str) -> Result<PeerAddress, String> {
    PeerAddress::parse(text).map_err(|_| {
        let text = text.escape_default();
        format!(
            "'{text}' is not a peer's address; write host:port, for example 10.1.0.1:8443, \
             [2001:db8::1]:8443 or gw.example.org:8443"
        )
    })
}

/// A network, or a single address as a network of one.
pub(super) fn network(text: &str) -> Result<IpNet, String> {
    let parsed: Result<IpNet, ()> = match text.parse::<IpNet>() {
        Ok(net) => Ok(net),
        Err(_) => text.parse::<IpAddr>().map(IpNet::from).map_err(|_| ()),
    };
    let refuse = |text: &dyn Display| {
        format!("'{text}' is not a network; write it as address/prefix, for example 10.1.0.0/16")
    };
    let net = parsed.map_err(|()| refuse(&text.escape_default()))?;
    if net.addr() != net.network() {
        return Err(format!("{net} has host bits set; write {}", net.trunc()));
    }
    Ok(net)
}

fn vip_range(text: &str) -> Result<IpNet, String> {
    let net = network(text)?;
    let (widest, narrowest) = match net {
        IpNet::V4(_) => (WIDEST_VIPS.0, NARROWEST_VIPS.0),
        IpNet::V6(_) => (WIDEST_VIPS.1, NARROWEST_VIPS.1),
    };
    if !(widest..=narrowest).contains(&net.prefix_len()) {
        return Err(format!("{net} is not a usable size; give a /{widest} to a /{narrowest}"));
    }
    let address = net.network();
    if address.is_multicast() || address.is_unspecified() || net.contains(&broadcast()) {
        return Err(format!(
            "{net} holds addresses that no service can have; choose a private or loopback range, \
             for example 127.64.0.0/16 or fd00:64::/64"
        ));
    }
    Ok(net)
}

fn broadcast() -> IpAddr {
    IpAddr::from([255, 255, 255, 255])
}
