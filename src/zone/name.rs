//! The name grammar: what the labels of a question denote, and names as people write them.

use thiserror::Error;

use crate::model::{
    DnsName, Namespace, ParseNameError, ParsePortError, PortNumber, Protocol, ServiceKey,
    ServiceName,
};

/// The label under the apex below which services stand.
pub(super) const SERVICES: &str = "svc";
/// The owner of the TXT record with the schema version (KEP-1645 specification.md, section 2.2).
pub(super) const VERSION: &str = "dns-version";
/// `ns.dns.<zone>` is the zone's name server.
pub(super) const SERVER: [&str; 2] = ["ns", "dns"];
/// Longest name in text form without the final dot, in octets (RFC 1035, section 2.3.4).
const MAX_NAME_OCTETS: usize = 253;

/// What the labels of a name denote by their shape alone, before any table is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Denoted<'q> {
    /// Not under the zone's apex.
    Outside,
    /// The zone itself.
    Apex,
    /// `dns-version.<zone>`.
    Version,
    /// `ns.dns.<zone>`, `dns.<zone>` or `svc.<zone>`: exist without any record.
    Bare,
    /// `<ns>.svc.<zone>`.
    Namespace(&'q str),
    /// `<service>.<ns>.svc.<zone>`.
    Service(Under<'q>),
    /// `_<proto>.<service>…`.
    Protocol(Under<'q>, Protocol),
    /// `_<port>._<proto>.<service>…`.
    Port(Under<'q>, Protocol, &'q str),
    /// `<clusterid>.<service>…`: reserved, exists only as the parent of pods' names.
    Cluster(Under<'q>, &'q str),
    /// `<hostname>.<clusterid>.<service>…`.
    Pod(Under<'q>, &'q str, &'q str),
    /// Under the apex, but no name of the grammar.
    Nothing,
}

/// The service that a name belongs to, unchecked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Under<'q> {
    pub(super) service: &'q str,
    pub(super) namespace: &'q str,
}

impl Under<'_> {
    /// The key to look up; `None` where the labels cannot name a Service at all.
    pub(super) fn key(self) -> Option<ServiceKey> {
        let namespace = Namespace::parse(self.namespace).ok()?;
        Some(ServiceKey::new(namespace, ServiceName::parse(self.service).ok()?))
    }
}

/// Reads lower-case labels, leftmost first. A label that is not UTF-8 can be no name of ours.
pub(super) fn denote<'q>(labels: &'q [Vec<u8>], zone: &DnsName) -> Denoted<'q> {
    let Some(inner) = strip_zone(labels, zone) else { return Denoted::Outside };
    // Five labels are the longest shape; a sixth is enough to know that it is none.
    let mut texts = [""; 6];
    if inner.len() >= texts.len() {
        return Denoted::Nothing;
    }
    for (text, label) in texts.iter_mut().zip(inner) {
        match std::str::from_utf8(label) {
            Ok(label) => *text = label,
            Err(_) => return Denoted::Nothing,
        }
    }
    shape(&texts[..inner.len()])
}

fn shape<'q>(labels: &[&'q str]) -> Denoted<'q> {
    match *labels {
        [] => Denoted::Apex,
        [VERSION] => Denoted::Version,
        [SERVICES] => Denoted::Bare,
        [dns] if dns == SERVER[1] => Denoted::Bare,
        [ns, dns] if [ns, dns] == SERVER => Denoted::Bare,
        [namespace, SERVICES] => Denoted::Namespace(namespace),
        [service, namespace, SERVICES] => Denoted::Service(Under { service, namespace }),
        [first, service, namespace, SERVICES] => {
            let under = Under { service, namespace };
            match first.strip_prefix('_') {
                Some(proto) => protocol(proto)
                    .map_or(Denoted::Nothing, |proto| Denoted::Protocol(under, proto)),
                None => Denoted::Cluster(under, first),
            }
        }
        [first, second, service, namespace, SERVICES] => {
            let under = Under { service, namespace };
            match (first.strip_prefix('_'), second.strip_prefix('_')) {
                (Some(port), Some(proto)) => protocol(proto)
                    .map_or(Denoted::Nothing, |proto| Denoted::Port(under, proto, port)),
                (None, None) => Denoted::Pod(under, second, first),
                _ => Denoted::Nothing,
            }
        }
        _ => Denoted::Nothing,
    }
}

/// The labels left of the apex; the comparison is label by label, never by text.
fn strip_zone<'q>(labels: &'q [Vec<u8>], zone: &DnsName) -> Option<&'q [Vec<u8>]> {
    let mut rest = labels;
    for wanted in zone.labels().rev() {
        let (last, before) = rest.split_last()?;
        if !last.eq_ignore_ascii_case(wanted.as_bytes()) {
            return None;
        }
        rest = before;
    }
    Some(rest)
}

fn protocol(label: &str) -> Option<Protocol> {
    [Protocol::Tcp, Protocol::Udp, Protocol::Sctp].into_iter().find(|p| p.label() == label)
}

/// `<service>.<ns>.svc.<zone>`; `None` where that is longer than DNS allows.
pub(super) fn service_name(key: &ServiceKey, zone: &DnsName) -> Option<Box<str>> {
    fitting(format!("{}.{}.{SERVICES}.{zone}", key.name, key.namespace))
}

/// `<hostname>.<clusterid>.<service>.<ns>.svc.<zone>`; `None` where that is too long.
pub(super) fn pod_name(host: &str, cluster: &str, service_name: &str) -> Option<Box<str>> {
    fitting(format!("{host}.{cluster}.{service_name}"))
}

/// The zone's name server, `ns.dns.<zone>`: the NS target and the SOA's MNAME. It is in the zone
/// without an address: who reaches this server already has one, and nobody delegates the zone.
/// A zone too long to hold the name is its own server.
#[must_use]
pub fn server_name(zone: &DnsName) -> Box<str> {
    let [ns, dns] = SERVER;
    fitting(format!("{ns}.{dns}.{zone}")).unwrap_or_else(|| zone.as_str().into())
}

/// The SOA's RNAME, `hostmaster.<zone>`; nobody reads it. A zone too long to hold the name is its
/// own mailbox.
#[must_use]
pub fn mailbox_name(zone: &DnsName) -> Box<str> {
    fitting(format!("hostmaster.{zone}")).unwrap_or_else(|| zone.as_str().into())
}

/// The name, if it is no longer than DNS allows.
pub(super) fn fitting(name: String) -> Option<Box<str>> {
    (name.len() <= MAX_NAME_OCTETS).then(|| name.into())
}

/// Why a name that a person gave was refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum NameError {
    /// Neither `<service>.<namespace>` nor the full name.
    #[error(
        "'{given}' names no service; give <service>.<namespace> or <service>.<namespace>.svc.{zone}, and :<port> if one port is meant"
    )]
    Shape {
        /// What was given.
        given: String,
        /// The zone in force.
        zone: DnsName,
    },
    /// A label that Kubernetes would not take.
    #[error("'{given}' names no service")]
    Label {
        /// What was given.
        given: String,
        /// What is wrong with it.
        #[source]
        source: ParseNameError,
    },
    /// What follows the colon is no port.
    #[error("'{given}' names no port")]
    Port {
        /// What was given.
        given: String,
        /// What is wrong with it.
        #[source]
        source: ParsePortError,
    },
}

/// Reads a service as people write it: `web.shop`, `web.shop.svc.clusterset.local`, both with an
/// optional final dot and an optional `:port`; upper case is folded.
pub fn parse_name(
    text: &str,
    zone: &DnsName,
) -> Result<(ServiceKey, Option<PortNumber>), NameError> {
    let given = || text.escape_default().to_string();
    let (name, port) = match text.rsplit_once(':') {
        Some((name, port)) => (name, Some(parse_port(port, given)?)),
        None => (text, None),
    };
    let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    let labels: Vec<&str> = name.split('.').collect();
    let (service, namespace) = match labels[..] {
        [service, namespace] => (service, namespace),
        [service, namespace, SERVICES, ref rest @ ..] if zone.labels().eq(rest.iter().copied()) => {
            (service, namespace)
        }
        _ => return Err(NameError::Shape { given: given(), zone: zone.clone() }),
    };
    let label = |source| NameError::Label { given: given(), source };
    let namespace = Namespace::parse(namespace).map_err(label)?;
    Ok((ServiceKey::new(namespace, ServiceName::parse(service).map_err(label)?), port))
}

fn parse_port(port: &str, given: impl Fn() -> String) -> Result<PortNumber, NameError> {
    let digits = !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
    let number = if digits { port.parse().ok() } else { None };
    number
        .ok_or_else(|| ParsePortError::Number(port.escape_default().to_string()))
        .and_then(PortNumber::new)
        .map_err(|source| NameError::Port { given: given(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn zone() -> DnsName {
        DnsName::parse("clusterset.local").unwrap()
    }

    fn labels(name: &str) -> Vec<Vec<u8>> {
        name.split('.').map(|label| label.as_bytes().to_vec()).collect()
    }

    #[test]
    fn every_shape_of_the_grammar() {
        let under = Under { service: "web", namespace: "shop" };
        for (name, denoted) in [
            ("clusterset.local", Denoted::Apex),
            ("dns-version.clusterset.local", Denoted::Version),
            ("svc.clusterset.local", Denoted::Bare),
            ("dns.clusterset.local", Denoted::Bare),
            ("ns.dns.clusterset.local", Denoted::Bare),
            ("shop.svc.clusterset.local", Denoted::Namespace("shop")),
            ("web.shop.svc.clusterset.local", Denoted::Service(under)),
            ("_tcp.web.shop.svc.clusterset.local", Denoted::Protocol(under, Protocol::Tcp)),
            ("paris.web.shop.svc.clusterset.local", Denoted::Cluster(under, "paris")),
            (
                "_http._tcp.web.shop.svc.clusterset.local",
                Denoted::Port(under, Protocol::Tcp, "http"),
            ),
            ("_q._sctp.web.shop.svc.clusterset.local", Denoted::Port(under, Protocol::Sctp, "q")),
            ("web-0.paris.web.shop.svc.clusterset.local", Denoted::Pod(under, "paris", "web-0")),
            ("_http.paris.web.shop.svc.clusterset.local", Denoted::Nothing),
            ("_http._icmp.web.shop.svc.clusterset.local", Denoted::Nothing),
            ("x.web-0.paris.web.shop.svc.clusterset.local", Denoted::Nothing),
            ("x.dns-version.clusterset.local", Denoted::Nothing),
            ("x.ns.dns.clusterset.local", Denoted::Nothing),
            ("pod.clusterset.local", Denoted::Nothing),
            ("web.shop.pod.clusterset.local", Denoted::Nothing),
            ("local", Denoted::Outside),
            ("xclusterset.local", Denoted::Outside),
            ("clusterset.local.example", Denoted::Outside),
            ("web.shop.svc.cluster.local", Denoted::Outside),
        ] {
            assert_eq!(denote(&labels(name), &zone()), denoted, "{name}");
        }
        assert_eq!(denote(&[], &zone()), Denoted::Outside);
        let bytes = [vec![0xff], b"shop".to_vec(), b"svc".to_vec()];
        let mut name = bytes.to_vec();
        name.extend(labels("clusterset.local"));
        assert_eq!(denote(&name, &zone()), Denoted::Nothing);
    }

    #[test]
    fn people_write_names_in_these_ways() {
        for (text, key, port) in [
            ("web.shop", "shop/web", None),
            ("WEB.Shop.", "shop/web", None),
            ("web.shop:80", "shop/web", Some(80)),
            ("web.shop.svc.clusterset.local", "shop/web", None),
            ("web.shop.svc.ClusterSet.local.:443", "shop/web", Some(443)),
            ("svc.svc", "svc/svc", None),
        ] {
            let (found, number) = parse_name(text, &zone()).unwrap();
            assert_eq!((found.to_string().as_str(), number.map(PortNumber::get)), (key, port));
        }
    }

    #[test]
    fn what_names_no_service_says_what_to_write() {
        for text in [
            "",
            ".",
            "web",
            "web.shop.svc",
            "web.shop.svc.cluster.local",
            "a.b.c",
            "web.shop..",
            "web.shop:",
            "web.shop:0",
            "web.shop:65536",
            "web.shop:+80",
            "web.shop:x",
            "we_b.shop",
            ".shop",
            "web.",
            "web.shop:80:80",
            "_http._tcp.web.shop.svc.clusterset.local",
        ] {
            assert!(parse_name(text, &zone()).is_err(), "{text:?}");
        }
        let text = parse_name("web", &zone()).unwrap_err().to_string();
        assert!(text.contains("<service>.<namespace>.svc.clusterset.local"), "{text}");
    }

    #[test]
    fn a_zone_too_long_for_a_server_name_is_its_own_server() {
        let long = DnsName::parse(&["a"; 126].join(".")).unwrap();
        assert_eq!(&*server_name(&long), long.as_str());
        assert_eq!(&*server_name(&zone()), "ns.dns.clusterset.local");
    }
}
