//! What a cloud's agent reads: its configuration and its manifests.

use std::fmt::Write as _;
use std::io;
use std::path::Path;

use super::Cloud;
use super::block::Block;

/// The name that resolves to one address for as long as it lives.
pub(crate) const WEB: &str = "web";
/// The name that resolves to the nearest cluster's pods.
pub(crate) const WEB_DIRECT: &str = "web-direct";
/// Their namespace.
pub(crate) const NAMESPACE: &str = "shop";
/// The zone.
pub(crate) const CLUSTERSET: &str = "clusterset.local";
/// Pods of each cloud.
pub(crate) const PODS: u8 = 2;

/// Whether a cloud has backends of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pods {
    /// All of them are ready.
    Ready,
    /// There are none.
    Gone,
}

/// The name of a pod.
pub(crate) fn pod_name(cloud: Cloud, pod: u8) -> String {
    format!("{WEB}-{}-{pod}", cloud.name())
}

/// The configuration file of a cloud's agent.
pub(super) fn configuration(block: &Block, cloud: Cloud) -> String {
    let mut text = format!(
        "cluster: {name}\n\
         clusterset: {CLUSTERSET}\n\
         network: demo            # equal on all three: pods reach each other directly\n\
         source: {{ files: ./registry }}\n\
         state: {{ dir: ./state }}\n\
         vips: [{vips}]\n\
         gateway: {{ listen: [\"{gateway}\"] }}\n\
         dns: {{ listen: [\"{dns}\"] }}\n\
         admin: {{ listen: \"{admin}\" }}\n\
         trust: {{ dir: ./trust }}\n\
         log: {{ filter: info, format: text }}\n\
         peers:                   # the addresses are those of the delay line\n",
        name = cloud.name(),
        vips = block.vips(cloud),
        gateway = block.gateway(cloud),
        dns = block.dns(cloud),
        admin = block.admin(cloud),
    );
    for peer in cloud.others() {
        writeln!(
            text,
            "  - {{ cluster: {}, addresses: [\"{}\"], networks: [\"{}\"] }}",
            peer.name(),
            block.line(cloud, peer),
            block.pods(peer)
        )
        .expect("writing to a String never fails");
    }
    text
}

/// Writes the manifests of both Services, each in one move so that no half is ever read.
pub(super) fn write_manifests(
    registry: &Path,
    block: &Block,
    cloud: Cloud,
    pods: Pods,
) -> io::Result<()> {
    for (service, annotations) in
        [(WEB, ""), (WEB_DIRECT, "  annotations: { portolan.dev/dns: endpoints }\n")]
    {
        let new = registry.join(format!(".{service}.new"));
        std::fs::write(&new, manifests(block, cloud, service, annotations, pods))?;
        std::fs::rename(new, registry.join(format!("{service}.yaml")))?;
    }
    Ok(())
}

fn manifests(block: &Block, cloud: Cloud, service: &str, annotations: &str, pods: Pods) -> String {
    let port = block.ports.service;
    let mut text = format!(
        "apiVersion: v1\nkind: Service\n\
         metadata: {{ name: {service}, namespace: {NAMESPACE} }}\n\
         spec:\n  ports: [{{ name: http, protocol: TCP, port: {port}, targetPort: {port} }}]\n\
         ---\n\
         apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
         metadata:\n  name: {service}-1\n  namespace: {NAMESPACE}\n  \
         labels: {{ kubernetes.io/service-name: {service} }}\n\
         addressType: IPv4\n\
         ports: [{{ name: http, protocol: TCP, port: {port} }}]\n"
    );
    match pods {
        Pods::Gone => text.push_str("endpoints: []\n"),
        Pods::Ready => {
            text.push_str("endpoints:\n");
            for pod in 0..PODS {
                writeln!(
                    text,
                    "  - {{ addresses: [\"{}\"], conditions: {{ ready: true }}, \
                     targetRef: {{ kind: Pod, name: {}, namespace: {NAMESPACE} }} }}",
                    block.pod(cloud, pod).ip(),
                    pod_name(cloud, pod)
                )
                .expect("writing to a String never fails");
            }
        }
    }
    write!(
        text,
        "---\napiVersion: multicluster.x-k8s.io/v1alpha1\nkind: ServiceExport\n\
         metadata:\n  name: {service}\n  namespace: {NAMESPACE}\n{annotations}"
    )
    .expect("writing to a String never fails");
    text
}
