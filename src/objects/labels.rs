//! Names, labels and annotations of what we write.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use aws_lc_rs::digest::{SHA256, digest};

use crate::model::{Callee, PodName, PortKey, PortNumber, Protocol, ServiceKey};

/// The value of the managed-by labels on everything of ours.
pub const MANAGER: &str = "portolan.dev";
/// Who manages a Service or a ServiceImport.
pub const LABEL_MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// Who manages an EndpointSlice.
pub const LABEL_SLICE_MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
/// The exported Service's name, on everything of ours.
pub const LABEL_SERVICE: &str = "portolan.dev/service";
/// On the derived Service of one remote pod: its hostname.
pub const LABEL_POD: &str = "portolan.dev/pod";
/// On the derived Service of one remote pod: its cluster.
pub const LABEL_POD_CLUSTER: &str = "portolan.dev/cluster";
/// The Service an EndpointSlice belongs to: what kube-proxy reads.
pub const LABEL_SLICE_SERVICE: &str = "kubernetes.io/service-name";
/// The multi-cluster service an EndpointSlice belongs to (KEP-1645).
pub const LABEL_MCS_SERVICE: &str = "multicluster.kubernetes.io/service-name";
/// The cluster whose endpoints an EndpointSlice holds (KEP-1645).
pub const LABEL_SOURCE_CLUSTER: &str = "multicluster.kubernetes.io/source-cluster";
/// On the derived Service: which ports of the gateway stand for its ports,
/// `tcp-80=20001,udp-53=20002`.
pub const ANNOTATION_PORTS: &str = "portolan.dev/ports";
/// On the import: which of its labels and annotations were exported, so that others' are told
/// from ours.
pub(super) const ANNOTATION_EXPORTED: &str = "portolan.dev/exported-keys";

/// So much of a service's name stands in the derived one, in octets.
const KEPT_OCTETS: usize = 40;
/// So many hex digits of a digest tell names apart.
const DIGEST_DIGITS: usize = 10;

/// The same for pods, whose names their exporter chooses freely: two of one digest, where ten
/// digits took it a million tries, are not to be found.
const POD_KEPT_OCTETS: usize = 20;
const POD_DIGEST_DIGITS: usize = 30;

/// The first digits of the SHA-256 of a text.
pub(super) fn short_digest(text: &str) -> String {
    first_digits(text, DIGEST_DIGITS)
}

fn first_digits(text: &str, digits: usize) -> String {
    let mut hex = String::with_capacity(digits);
    for octet in &digest(&SHA256, text.as_bytes()).as_ref()[..digits / 2] {
        // Writing to a string cannot fail.
        let _ = write!(hex, "{octet:02x}");
    }
    hex
}

/// The name of the derived Service: `portolan-`, the first 40 octets of the service's name, `-`
/// and 10 hex digits of SHA-256(namespace/name); 60 octets at most, an RFC 1035 label.
#[must_use]
pub fn derived_name(key: &ServiceKey) -> String {
    let digest = short_digest(&key.to_string());
    derived(key.name.as_str(), KEPT_OCTETS, &digest)
}

/// The same for one remote pod of it: `portolan-`, the first 20 octets of its hostname, `-` and 30
/// hex digits of SHA-256(namespace/name/pod.cluster).
pub(super) fn derived_pod_name(key: &ServiceKey, pod: &PodName) -> String {
    let digest = first_digits(&format!("{key}/{pod}"), POD_DIGEST_DIGITS);
    derived(pod.hostname.as_str(), POD_KEPT_OCTETS, &digest)
}

/// The name of the derived Service of a service or of one remote pod of it.
#[must_use]
pub fn derived_name_of(callee: &Callee) -> String {
    match &callee.pod {
        Some(pod) => derived_pod_name(&callee.service, pod),
        None => derived_name(&callee.service),
    }
}

fn derived(shown: &str, most: usize, digest: &str) -> String {
    // A label is ASCII, so any octet is a boundary.
    let kept = &shown[..shown.len().min(most)];
    format!("portolan-{kept}-{digest}")
}

/// The name of a port of the derived Service: `<proto>-<number>`.
pub(super) fn port_name(port: PortKey) -> String {
    format!("{}-{}", port.protocol.label(), port.port)
}

/// The value of [`ANNOTATION_PORTS`].
#[must_use]
pub fn write_ports(ports: &BTreeMap<PortKey, PortNumber>) -> String {
    let pairs: Vec<_> =
        ports.iter().map(|(port, gateway)| format!("{}={gateway}", port_name(*port))).collect();
    pairs.join(",")
}

/// Reads the value of [`ANNOTATION_PORTS`]; a pair that cannot be read is left out (its port is
/// then allotted anew), and of two for one port the first holds.
#[must_use]
pub fn parse_ports(text: &str) -> BTreeMap<PortKey, PortNumber> {
    let mut ports = BTreeMap::new();
    for (port, gateway) in text.split(',').filter_map(parse_pair) {
        ports.entry(port).or_insert(gateway);
    }
    ports
}

fn parse_pair(pair: &str) -> Option<(PortKey, PortNumber)> {
    let (name, gateway) = pair.trim().split_once('=')?;
    let (protocol, port) = name.split_once('-')?;
    // SCTP has no gateway.
    let protocol = [Protocol::Tcp, Protocol::Udp].into_iter().find(|p| p.label() == protocol)?;
    let number = |text: &str| PortNumber::new(text.parse().ok()?).ok();
    Some((PortKey::new(protocol, number(port)?), number(gateway)?))
}
