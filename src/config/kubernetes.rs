//! `source.kubernetes`: which objects are ours, and how the API server is reached.

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::path::Path;

use super::fields::{Field, Fields, Problems};
use super::load::directory;
use crate::kubernetes::Access;
use crate::model::{DnsName, Namespace, PortNumber, ServiceName};

/// The Service of the gateways, the Lease and the Deployment of the chart.
const DEFAULT_NAME: &str = "portolan";
/// The Secret with the cluster's authority.
const DEFAULT_SECRET: &str = "portolan-ca";
/// Outside of the node ports (30000–32767) and of Linux's local ports (32768–60999).
const DEFAULT_PORTS: (u16, u16) = (20_000, 29_999);
/// Below lie the ports that only privileged processes open.
const LOWEST_PORT: u16 = 1_024;
/// Fewer gateway ports than this are surely a mistake: each imported port takes one.
const FEWEST_PORTS: u16 = 16;
/// Where a pod finds its namespace, unless its service account is not mounted.
const NAMESPACE_FILE: &str = "/var/run/secrets/kubernetes.io/serviceaccount/namespace";

/// `source.kubernetes:`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kubernetes {
    /// Where the agent's own objects lie; `None`: where its pod runs, see
    /// [`Kubernetes::namespace`].
    pub namespace: Option<Namespace>,
    /// The Service of the gateways: its EndpointSlices name the replicas, its status tells the
    /// own addresses.
    pub service: ServiceName,
    /// The Secret with the cluster's authority, made at the first start; an RFC 1123 subdomain.
    pub secret: Box<str>,
    /// The Lease that says which replica writes; an RFC 1123 subdomain.
    pub lease: Box<str>,
    /// The gateway ports allotted to imports, each protocol counted apart.
    pub ports: RangeInclusive<PortNumber>,
    /// How the API server is reached.
    pub access: Access,
}

/// What a pod is told about itself by the downward API; everything is absent outside of one.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Pod {
    /// `POD_NAMESPACE`.
    pub namespace: Option<Namespace>,
    /// `POD_NAME`.
    pub name: Option<Box<str>>,
    /// `POD_UID`.
    pub uid: Option<Box<str>>,
    /// `POD_IPS`, one per family.
    pub addresses: Vec<IpAddr>,
    /// `NODE_NAME`.
    pub node: Option<Box<str>>,
}

impl Pod {
    /// Reads the variables through `get`; the error names the variable.
    ///
    /// # Errors
    /// A variable is set to what is no namespace or no address.
    pub fn read(get: impl Fn(&str) -> Option<String>) -> Result<Self, String> {
        let text = |name: &str| get(name).filter(|text| !text.is_empty());
        let namespace = text("POD_NAMESPACE")
            .map(|name| Namespace::parse(&name).map_err(|e| format!("POD_NAMESPACE: {e}")))
            .transpose()?;
        let address = |text: &str| {
            text.trim().parse().map_err(|_| {
                let text = text.escape_default();
                format!("POD_IPS: '{text}' is not an address; take it from status.podIPs")
            })
        };
        let addresses = text("POD_IPS").unwrap_or_default();
        let addresses = addresses.split(',').filter(|text| !text.is_empty()).map(address);
        Ok(Self {
            namespace,
            name: text("POD_NAME").map(Into::into),
            uid: text("POD_UID").map(Into::into),
            addresses: addresses.collect::<Result<_, _>>()?,
            node: text("NODE_NAME").map(Into::into),
        })
    }
}

impl Kubernetes {
    /// The own namespace: as configured, else the pod's, else the service account's.
    ///
    /// # Errors
    /// None of them says it; the text tells what to set.
    pub fn namespace(&self, pod: &Pod) -> Result<Namespace, String> {
        self.namespace_or(pod, Path::new(NAMESPACE_FILE))
    }

    fn namespace_or(&self, pod: &Pod, file: &Path) -> Result<Namespace, String> {
        if let Some(known) = self.namespace.as_ref().or(pod.namespace.as_ref()) {
            return Ok(known.clone());
        }
        let remedy = "set 'source.kubernetes.namespace', or POD_NAMESPACE by the downward API";
        let text = std::fs::read_to_string(file).map_err(|e| {
            format!("the own namespace is not known ({}: {e}); {remedy}", file.display())
        })?;
        Namespace::parse(text.trim()).map_err(|e| format!("{}: {e}; {remedy}", file.display()))
    }
}

/// Reads the section; what is faulty is reported and has its default in what comes back.
pub(super) fn kubernetes(field: &Field<'_>, base: &Path, problems: &mut Problems) -> Kubernetes {
    let mut section = Fields::of(&field.path, field.node, problems);
    let namespace =
        section.take("namespace").and_then(|field| field.parse(Namespace::parse, problems));
    let service = section.take("service").and_then(|f| f.parse(ServiceName::parse, problems));
    let secret = section.take("secret").and_then(|field| field.parse(object_name, problems));
    let lease = section.take("lease").and_then(|field| field.parse(object_name, problems));
    let ports = section.take("ports").and_then(|field| field.parse(ports, problems));
    let kubeconfig = section.take("kubeconfig");
    let server = section.take("server");
    if let (Some(_), Some(server)) = (&kubeconfig, &server) {
        let text = "stands beside 'kubeconfig', which names a server too; keep one of them";
        problems.add(Some(server.node.at), &server.path, text);
    }
    let kubeconfig = kubeconfig.and_then(|field| directory(&field, base, problems));
    let server = server.and_then(|field| field.parse(plain_url, problems));
    section.finish(problems);
    let access = match (kubeconfig, server) {
        (Some(path), _) => Access::Kubeconfig(path),
        (None, Some(url)) => Access::Url(url),
        (None, None) => Access::InCluster,
    };
    Kubernetes {
        namespace,
        service: service.unwrap_or_else(default_service),
        secret: secret.unwrap_or_else(|| DEFAULT_SECRET.into()),
        lease: lease.unwrap_or_else(|| DEFAULT_NAME.into()),
        ports: ports.unwrap_or_else(default_ports),
        access,
    }
}

fn default_service() -> ServiceName {
    ServiceName::parse(DEFAULT_NAME).expect("the default is a name")
}

fn default_ports() -> RangeInclusive<PortNumber> {
    let port = |number: u16| PortNumber::new(number.into()).expect("the default is a port");
    port(DEFAULT_PORTS.0)..=port(DEFAULT_PORTS.1)
}

/// The name of most objects: an RFC 1123 subdomain.
fn object_name(text: &str) -> Result<Box<str>, String> {
    match DnsName::parse(text) {
        Ok(name) if name.as_str() == text => Ok(text.into()),
        Ok(name) => Err(format!("'{text}' is not an object's name; write {name}")),
        Err(error) => Err(error.to_string()),
    }
}

fn ports(text: &str) -> Result<RangeInclusive<PortNumber>, String> {
    let refuse = |problem: &str| {
        let (first, last) = DEFAULT_PORTS;
        let text = text.escape_default();
        format!("'{text}' {problem}; write for example {first}-{last}")
    };
    let port =
        |text: &str| text.trim().parse().ok().and_then(|number| PortNumber::new(number).ok());
    let both = text.split_once('-').and_then(|(first, last)| Some((port(first)?, port(last)?)));
    let (first, last) = both.ok_or_else(|| refuse("is not a range of ports"))?;
    if first.get() < LOWEST_PORT {
        return Err(refuse(&format!("begins below {LOWEST_PORT}")));
    }
    if last.get().saturating_sub(first.get()) < FEWEST_PORTS - 1 {
        return Err(refuse(&format!("holds fewer than {FEWEST_PORTS} ports")));
    }
    Ok(first..=last)
}

fn plain_url(text: &str) -> Result<String, String> {
    let remedy = "write for example http://127.0.0.1:8001, or name a 'kubeconfig' for HTTPS";
    let plain = |uri: &hyper::Uri| uri.scheme_str() == Some("http") && uri.path() == "/";
    match text.parse::<hyper::Uri>() {
        Ok(uri) if plain(&uri) && uri.query().is_none() => Ok(text.to_owned()),
        _ => Err(format!("'{}' is not a plain server; {remedy}", text.escape_default())),
    }
}

#[cfg(test)]
mod tests;
