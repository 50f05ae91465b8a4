//! What most tests put into a cluster: exported Services and their endpoints.

use std::net::IpAddr;

use serde_json::{Value, json};

use super::server::ApiServer;

/// `Service` and `EndpointSlice` name their port so.
const PORT_NAME: &str = "http";

impl ApiServer {
    /// A Service of one TCP port, its endpoints and its `ServiceExport`, all named `key`
    /// (`shop/web`).
    ///
    /// # Panics
    /// When the key has no namespace.
    pub fn export(&self, key: &str, port: u16, target_port: u16, endpoints: &[IpAddr]) {
        let (namespace, name) = split(key);
        let metadata = json!({ "namespace": namespace, "name": name });
        self.write(json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": metadata,
            "spec": {
                "selector": { "app": name },
                "ports": [{ "name": PORT_NAME, "port": port, "targetPort": target_port }],
            },
        }));
        self.endpoints(key, target_port, endpoints);
        self.write(json!({
            "apiVersion": "multicluster.x-k8s.io/v1beta1",
            "kind": "ServiceExport",
            "metadata": metadata,
        }));
    }

    /// The slices of a Service, one per family, as its controller would have them: these
    /// addresses, all ready.
    ///
    /// # Panics
    /// When the key has no namespace or there are more than 1 000 of a family.
    pub fn endpoints(&self, key: &str, target_port: u16, endpoints: &[IpAddr]) {
        for (family, is_v4) in [("IPv4", true), ("IPv6", false)] {
            let suffix = family.to_lowercase();
            let of_family = || endpoints.iter().filter(|address| address.is_ipv4() == is_v4);
            let (namespace, name) = split(key);
            let slice = format!("{name}-{suffix}");
            let is_empty = of_family().next().is_none();
            if is_empty && !self.has("endpointslices", &format!("{namespace}/{slice}")) {
                continue;
            }
            let list: Vec<Value> = of_family().map(|address| endpoint(name, *address)).collect();
            self.write(json!({
                "apiVersion": "discovery.k8s.io/v1",
                "kind": "EndpointSlice",
                "metadata": {
                    "namespace": namespace,
                    "name": slice,
                    "labels": {
                        "kubernetes.io/service-name": name,
                        "endpointslice.kubernetes.io/managed-by":
                            "endpointslice-controller.k8s.io",
                    },
                },
                "addressType": family,
                "ports": [{ "name": PORT_NAME, "port": target_port, "protocol": "TCP" }],
                "endpoints": list,
            }));
        }
    }
}

fn split(key: &str) -> (&str, &str) {
    key.split_once('/').unwrap_or_else(|| panic!("{key} has no namespace"))
}

fn endpoint(name: &str, address: IpAddr) -> Value {
    let pod = format!("{name}-{}", address.to_string().replace(['.', ':'], "-"));
    json!({
        "addresses": [address.to_string()],
        "conditions": { "ready": true, "serving": true, "terminating": false },
        "nodeName": "node-1",
        "zone": "zone-a",
        "targetRef": { "kind": "Pod", "name": pod },
    })
}
