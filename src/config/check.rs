//! Looks at what a configuration points at, without starting anything: keys, manifests,
//! addresses, limits. Nothing is written, and every socket is closed again at the end.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use rustix::fs::{Access as Right, access};
use rustix::process::{Resource, getrlimit};
use serde::Serialize;
use tokio::sync::watch;

use super::{Config, Kubernetes, Source};
use crate::kubernetes::Access;
use crate::model::PortNumber;
use crate::{clock, dns, files, tls};

/// Descriptors that are not for streams: files, peers, DNS, admin (design: the caps).
const RESERVED_DESCRIPTORS: u64 = 1_000;
/// Most streams, however many descriptors there are.
const MAX_STREAMS: u64 = 10_000;
/// Fewer possible streams than this are worth a word.
const FEW_STREAMS: u64 = 1_000;
/// Without `ca.key`, a certificate that ends sooner is worth a word: nobody renews it here.
const EXPIRES_SOON: Duration = Duration::from_secs(6 * 3600);
/// What lets a pod ask the API server.
const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";
/// The ports of outgoing connections, IPv6 too.
const LOCAL_PORTS: &str = "/proc/sys/net/ipv4/ip_local_port_range";

/// How a finding turned out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// It will run, but probably not as meant.
    Doubtful,
    /// `run` would refuse to start, or not do its job.
    Wrong,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What: a key of the configuration, or `descriptors`.
    pub name: &'static str,
    /// How it is.
    pub verdict: Verdict,
    /// What was found and, unless it is well, what to do.
    pub text: String,
}

/// Whether the agent of this very configuration runs: it then holds its own addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Agent {
    /// None answers on the admin port.
    Absent,
    /// It answers.
    Running,
}

/// Everything that was looked at.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// In the order of the configuration's keys.
    pub checks: Vec<Finding>,
}

impl Report {
    /// The worst verdict.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        self.checks.iter().map(|finding| finding.verdict).max().unwrap_or(Verdict::Ok)
    }

    fn add(&mut self, name: &'static str, verdict: Verdict, text: impl Into<String>) {
        self.checks.push(Finding { name, verdict, text: text.into() });
    }
}

/// Looks at everything that `config` points at.
#[must_use]
pub fn check(config: &Config, agent: Agent) -> Report {
    let mut report = Report::default();
    source(config, &mut report);
    state(&config.state_dir, &mut report);
    vips(config, &mut report);
    listeners(config, agent, &mut report);
    trust(config, &mut report);
    dns_certificate(config, &mut report);
    descriptors(&mut report);
    report
}

fn source(config: &Config, report: &mut Report) {
    let dir = match &config.source {
        Source::Files(dir) => dir,
        Source::Kubernetes(kubernetes) => return self::kubernetes(kubernetes, report),
    };
    match files::Source::open(files::Config { dir: dir.clone() }) {
        Ok((_, events)) => {
            let text = format!("{} is read: {} objects", dir.display(), events.len());
            report.add("source", Verdict::Ok, text);
        }
        Err(error) => report.add("source", Verdict::Wrong, error.to_string()),
    }
}

/// What can be seen without asking the API server, which `run` does not need to start either.
fn kubernetes(kubernetes: &Kubernetes, report: &mut Report) {
    let name = "source";
    match &kubernetes.access {
        Access::InCluster if !Path::new(SERVICE_ACCOUNT).exists() => {
            let text = format!(
                "no service account is mounted at {SERVICE_ACCOUNT}: this is no pod, or its \
                 automountServiceAccountToken is false; elsewhere name a \
                 'source.kubernetes.kubeconfig'"
            );
            report.add(name, Verdict::Doubtful, text);
        }
        Access::InCluster => report.add(name, Verdict::Ok, "the API server of this pod's cluster"),
        Access::Kubeconfig(path) => match kube::config::Kubeconfig::read_from(path) {
            Ok(_) => report.add(name, Verdict::Ok, format!("{} is read", path.display())),
            Err(error) => {
                let text = format!(
                    "{}: {error}; name a readable kubeconfig in 'source.kubernetes.kubeconfig'",
                    path.display()
                );
                report.add(name, Verdict::Wrong, text);
            }
        },
        Access::Url(url) => {
            let text = format!("{url} is asked without encryption or credentials");
            report.add(name, Verdict::Doubtful, text);
        }
    }
    ports(&kubernetes.ports, report);
}

/// A gateway port that the system gave to an outgoing connection cannot be opened.
fn ports(ports: &RangeInclusive<PortNumber>, report: &mut Report) {
    let (first, last) = (ports.start().get(), ports.end().get());
    let local = std::fs::read_to_string(LOCAL_PORTS).ok().and_then(|text| {
        let mut numbers = text.split_whitespace().map(str::parse::<u16>);
        Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
    });
    let (name, shown) = ("source.kubernetes.ports", format!("{first}-{last}"));
    match local {
        Some((low, high)) if low <= last && first <= high => {
            let text = format!(
                "{shown} overlaps with {low}-{high}, from which the system takes the ports of \
                 outgoing connections; choose another range, or change \
                 net.ipv4.ip_local_port_range"
            );
            report.add(name, Verdict::Doubtful, text);
        }
        _ => report.add(name, Verdict::Ok, format!("{shown} are free for imports")),
    }
}

/// The folder is made at start, so what counts is the nearest one that exists.
fn state(dir: &Path, report: &mut Report) {
    let existing = dir
        .ancestors()
        .map(|path| if path.as_os_str().is_empty() { Path::new(".") } else { path })
        .find(|path| path.exists())
        .unwrap_or_else(|| Path::new("/"));
    let shown = dir.display();
    if !existing.is_dir() {
        let text = format!("{} is not a directory; choose another 'state.dir'", existing.display());
        report.add("state.dir", Verdict::Wrong, text);
    } else if let Err(error) = access(existing, Right::WRITE_OK | Right::EXEC_OK) {
        let text = format!(
            "{shown}: {} cannot be written ({error}); let this user write it, or choose another \
             'state.dir'",
            existing.display()
        );
        report.add("state.dir", Verdict::Wrong, text);
    } else {
        report.add("state.dir", Verdict::Ok, format!("{shown} can be written"));
    }
}

fn vips(config: &Config, report: &mut Report) {
    for range in &config.vips {
        if !config.gateway.outbound {
            report.add("vips", Verdict::Ok, format!("{range} is answered, not listened on"));
            continue;
        }
        match first_host(range).map(|address| TcpListener::bind(SocketAddr::new(address, 0))) {
            Some(Err(error)) if error.kind() == io::ErrorKind::AddrNotAvailable => {
                report.add("vips", Verdict::Wrong, format!("{range} {}", not_local(range)));
            }
            Some(Err(error)) => {
                let text = format!("{range} cannot be listened on: {error}; choose another range");
                report.add("vips", Verdict::Wrong, text);
            }
            Some(Ok(_)) | None => {
                report.add("vips", Verdict::Ok, format!("{range} can be listened on"));
            }
        }
    }
}

fn first_host(range: &IpNet) -> Option<IpAddr> {
    range.hosts().next()
}

fn not_local(range: &IpNet) -> String {
    let remedy = match range {
        IpNet::V4(_) => format!("'ip route add local {range} dev lo'"),
        IpNet::V6(_) => format!(
            "'ip -6 route add local {range} dev lo' and 'sysctl net.ipv6.ip_nonlocal_bind=1'"
        ),
    };
    format!("is not local to this machine; run {remedy}, or take a range inside 127.0.0.0/8")
}

/// Every listener is opened at once, so that two keys with the same address are found too.
fn listeners(config: &Config, agent: Agent, report: &mut Report) {
    let mut held = Held::default();
    for address in &config.gateway.listen {
        held.tcp("gateway.listen", *address, agent, report);
    }
    for address in &config.dns.listen {
        held.udp("dns.listen", *address, agent, report);
        held.tcp("dns.listen", *address, agent, report);
    }
    for address in &config.dns.tls.listen {
        held.tcp("dns.tls_listen", *address, agent, report);
    }
    held.tcp("admin.listen", config.admin.listen, agent, report);
    if let Some(address) = config.admin.probes {
        held.tcp("admin.probes", address, agent, report);
    }
}

/// The sockets of a check, open until its end.
#[derive(Debug, Default)]
struct Held {
    tcp: Vec<TcpListener>,
    udp: Vec<UdpSocket>,
}

impl Held {
    fn tcp(&mut self, key: &'static str, address: SocketAddr, agent: Agent, report: &mut Report) {
        let ours = |bound: &TcpListener| bound.local_addr().is_ok_and(|local| local == address);
        let twice = self.tcp.iter().any(ours);
        let opened = TcpListener::bind(address).map(|socket| self.tcp.push(socket));
        report.checks.push(listener(key, "TCP", address, opened, twice, agent));
    }

    fn udp(&mut self, key: &'static str, address: SocketAddr, agent: Agent, report: &mut Report) {
        let ours = |bound: &UdpSocket| bound.local_addr().is_ok_and(|local| local == address);
        let twice = self.udp.iter().any(ours);
        let opened = UdpSocket::bind(address).map(|socket| self.udp.push(socket));
        report.checks.push(listener(key, "UDP", address, opened, twice, agent));
    }
}

fn listener(
    name: &'static str,
    protocol: &str,
    address: SocketAddr,
    opened: io::Result<()>,
    twice: bool,
    agent: Agent,
) -> Finding {
    let Err(error) = opened else {
        let text = format!("{address} {protocol} can be listened on");
        return Finding { name, verdict: Verdict::Ok, text };
    };
    let text = match error.kind() {
        io::ErrorKind::AddrInUse if twice => format!(
            "{address} {protocol} is named twice in this file; give every listener an address or \
             port of its own"
        ),
        io::ErrorKind::AddrInUse if agent == Agent::Running => {
            let text = format!("{address} {protocol} is held by the running agent");
            return Finding { name, verdict: Verdict::Ok, text };
        }
        io::ErrorKind::AddrInUse => format!(
            "{address} {protocol} is taken by another process, perhaps another agent or resolver; \
             find it with 'ss -lntup sport = :{}' and stop it, or change '{name}'",
            address.port()
        ),
        io::ErrorKind::AddrNotAvailable => format!(
            "{address}: no interface of this machine has that address; add it with 'ip address \
             add', or change '{name}'"
        ),
        io::ErrorKind::PermissionDenied => format!(
            "{address}: a port below 1024 needs the capability CAP_NET_BIND_SERVICE; grant it, or \
             change '{name}'"
        ),
        _ => format!("{address} {protocol} cannot be listened on: {error}; change '{name}'"),
    };
    Finding { name, verdict: Verdict::Wrong, text }
}

fn trust(config: &Config, report: &mut Report) {
    let Some(dir) = &config.trust_dir else {
        // Only with Kubernetes may it be left out.
        let text = "the identity is in a Secret alone: a start needs the API server; mount the \
                    Secret and name its folder to start without";
        return report.add("trust.dir", Verdict::Ok, text);
    };
    let metrics = match tls::Metrics::register(&prometheus::Registry::new()) {
        Ok(metrics) => metrics,
        Err(error) => return report.add("trust.dir", Verdict::Wrong, error.to_string()),
    };
    let own = tls::Config {
        cluster: config.cluster.clone(),
        clusterset: config.clusterset.clone(),
        dir: dir.clone(),
    };
    let opened = match &config.source {
        Source::Files(_) => tls::Trust::open(own, metrics).map(Some),
        Source::Kubernetes(_) => mounted(own, metrics),
    };
    let trust = match opened {
        Ok(Some(trust)) => trust,
        Ok(None) => {
            let text =
                format!("{}: no Secret is mounted yet; the first start makes it", dir.display());
            return report.add("trust.dir", Verdict::Ok, text);
        }
        Err(error) => return report.add("trust.dir", Verdict::Wrong, error.to_string()),
    };
    let left = trust.own_expiry().duration_since(clock::wall()).unwrap_or_default();
    let dir = dir.display();
    if left < EXPIRES_SOON && !trust.renews() {
        let text = format!(
            "{dir}: the certificate ends in {} min, and without the authority's key nothing here \
             renews it; put a new certificate and key there",
            left.as_secs() / 60
        );
        report.add("trust.dir", Verdict::Doubtful, text);
    } else {
        let text = format!("{dir} speaks for {} of {}", config.cluster, config.clusterset);
        report.add("trust.dir", Verdict::Ok, text);
    }
    for peer in &config.peers {
        let cluster = &peer.cluster;
        if trust.knows(cluster) {
            report.add("peers", Verdict::Ok, format!("{cluster} is trusted"));
        } else {
            let text = format!(
                "{cluster} is not trusted yet; copy its ca.pem to {dir}/peers/{cluster}.pem"
            );
            report.add("peers", Verdict::Doubtful, text);
        }
    }
}

/// The mounted Secret, as `run` reads it; `None`: there is none yet.
fn mounted(own: tls::Config, metrics: tls::Metrics) -> Result<Option<tls::Trust>, tls::Error> {
    let Some(pair) = tls::Pair::mounted(&own.dir)? else { return Ok(None) };
    let supply = tls::Supply { own: Some(Arc::new(pair)), ..tls::Supply::default() };
    let (_, supply) = watch::channel(Arc::new(supply));
    tls::Trust::supplied(own, supply, metrics).map(Some)
}

/// Of DNS over TLS, where it is not the cluster's own.
fn dns_certificate(config: &Config, report: &mut Report) {
    let Some((certificate, key)) = config.dns.tls.files.clone() else { return };
    let name = "dns.tls_certificate";
    let shown = certificate.display().to_string();
    match tls::ServerCertificate::open(tls::CertificateFiles { certificate, key }, dns::ALPN) {
        Ok(_) => report.add(name, Verdict::Ok, format!("{shown} and its key are a pair")),
        Err(error) => report.add(name, Verdict::Wrong, error.to_string()),
    }
}

/// `run` raises the soft limit to the hard one, so the hard one counts.
fn descriptors(report: &mut Report) {
    let Some(hard) = getrlimit(Resource::Nofile).maximum else {
        return report.add("descriptors", Verdict::Ok, "no limit of open files");
    };
    let streams = (hard.saturating_sub(RESERVED_DESCRIPTORS) / 2).min(MAX_STREAMS);
    let text = format!("{hard} open files allow about {streams} streams at a time");
    if streams < FEW_STREAMS {
        let remedy = "raise the hard limit, for example LimitNOFILE=65536 in the systemd unit";
        report.add("descriptors", Verdict::Doubtful, format!("{text}; {remedy}"));
    } else {
        report.add("descriptors", Verdict::Ok, text);
    }
}

#[cfg(test)]
mod tests;
