//! Pods of a headless import whose network is not ours: each is reached through the gateway, at
//! an address of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use super::DirectEndpoints;
use crate::catalog::{EndpointPort, ExportedEndpoint, ExportedHost};
use crate::model::{ClusterId, Locality, PodName, PortKey, PortNumber, Protocol};

/// The most pods of one import that are led to.
pub const MAX_REMOTE_PODS: usize = 64;

/// The most ports of one such pod that are led to: each takes one of the gateway's, which all
/// imports share, and what a pod has is its exporter's to say.
pub const MAX_POD_PORTS: usize = 16;

/// A port of an address, and the Service port it stands for.
type Listens = BTreeMap<(Protocol, PortNumber), PortKey>;

/// One such pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemotePod {
    /// Which.
    pub name: PodName,
    /// The ports of the import that it serves and the gateway carries, ascending; at least one, at
    /// most [`MAX_POD_PORTS`].
    pub ports: Vec<EndpointPort>,
    /// Its addresses here, at most one per family; empty as long as it has none.
    pub vips: Vec<IpAddr>,
    /// Whether its cluster may serve: others are not named.
    pub usable: bool,
}

/// The pods of one import that are led to, and those that are not.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RemotePods {
    /// By name, at most [`MAX_REMOTE_PODS`].
    pub led: Vec<RemotePod>,
    /// How many more there are: these are not reached.
    pub left_out: usize,
    /// How many more ports those that are led to have: these are not reached.
    pub ports_left_out: usize,
    /// Clusters that have ready pods of which none has a hostname: these are not reached.
    pub nameless: Vec<ClusterId>,
}

impl RemotePod {
    /// What its addresses listen on: the port that the pod itself has, as every client of a
    /// headless service dials it, and the Service's number where no such port takes it.
    #[must_use]
    pub fn listens(&self) -> BTreeMap<(Protocol, PortNumber), PortKey> {
        let at = |number: PortNumber, port: &EndpointPort| ((port.key.protocol, number), port.key);
        let mut listens = Listens::new();
        for (place, key) in self.ports.iter().map(|port| at(port.number(), port)) {
            listens.entry(place).or_insert(key);
        }
        for (place, key) in self.ports.iter().map(|port| at(port.key.port, port)) {
            listens.entry(place).or_insert(key);
        }
        listens
    }

    fn endpoints(&self) -> impl Iterator<Item = ExportedEndpoint> {
        self.vips.iter().map(|vip| ExportedEndpoint {
            address: *vip,
            hostname: Some(self.name.hostname.clone()),
            ports: self.ports.clone(),
        })
    }
}

impl RemotePods {
    /// Chooses among the pods of these clusters, each of which has its part of the places: by
    /// hostname, so that what is chosen does not move when others come and go behind it.
    pub(super) fn choose<'a>(
        clusters: impl Iterator<Item = (&'a ClusterId, &'a [ExportedHost], bool)>,
        ports: &BTreeSet<PortKey>,
        vips: impl Fn(&PodName) -> Vec<IpAddr>,
    ) -> Self {
        let mut pods = Self::default();
        let mut clusters: Vec<_> = clusters.collect();
        clusters.sort_by_key(|(cluster, ..)| *cluster);
        let fair = MAX_REMOTE_PODS / clusters.len().max(1);
        let mut wanted: Vec<Vec<RemotePod>> = Vec::new();
        for (cluster, hosts, has_ready) in clusters {
            if hosts.is_empty() && has_ready {
                pods.nameless.push(cluster.clone());
            }
            let mut of_cluster = Vec::new();
            for host in hosts {
                let carried = |port: &&EndpointPort| {
                    port.key.protocol != Protocol::Sctp && ports.contains(&port.key)
                };
                let ports: Vec<_> = host.ports.iter().filter(carried).copied().collect();
                if ports.is_empty() || of_cluster.len() >= MAX_REMOTE_PODS {
                    pods.left_out += 1;
                    continue;
                }
                let name = PodName { cluster: cluster.clone(), hostname: host.hostname.clone() };
                of_cluster.push(RemotePod { vips: Vec::new(), name, ports, usable: false });
            }
            wanted.push(of_cluster);
        }
        // What some leave of their part goes to the first that want more.
        let taken: usize = wanted.iter().map(|of_cluster| of_cluster.len().min(fair)).sum();
        let mut room = MAX_REMOTE_PODS - taken;
        for mut of_cluster in wanted {
            let more = of_cluster.len().saturating_sub(fair).min(room);
            room -= more;
            let led = of_cluster.len().min(fair) + more;
            pods.left_out += of_cluster.len() - led;
            of_cluster.truncate(led);
            pods.led.extend(of_cluster);
        }
        for pod in &mut pods.led {
            pod.vips = vips(&pod.name);
            pods.ports_left_out += pod.ports.len().saturating_sub(MAX_POD_PORTS);
            pod.ports.sort_unstable();
            pod.ports.truncate(MAX_POD_PORTS);
        }
        pods
    }

    /// The pods of one cluster.
    pub fn of<'p>(&'p self, cluster: &'p ClusterId) -> impl Iterator<Item = &'p RemotePod> {
        self.led.iter().filter(move |pod| pod.name.cluster == *cluster)
    }

    /// That pod.
    #[must_use]
    pub fn get(&self, name: &PodName) -> Option<&RemotePod> {
        self.led.iter().find(|pod| pod.name == *name)
    }

    /// The pods of one cluster as endpoints at their addresses here; ascending by address.
    pub(super) fn endpoints(&self, cluster: &ClusterId) -> Vec<ExportedEndpoint> {
        let mut endpoints: Vec<_> = self.of(cluster).flat_map(RemotePod::endpoints).collect();
        endpoints.sort_unstable();
        endpoints
    }

    /// Those of the clusters that are named serve.
    pub(super) fn serve(&mut self, usable: &BTreeSet<&ClusterId>) {
        for pod in &mut self.led {
            pod.usable = usable.contains(&pod.name.cluster);
        }
    }
}

impl fmt::Display for RemotePods {
    /// What people must know of those that are not led to; empty when all are.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.ports_left_out > 0 {
            let more = if self.left_out > 0 || !self.nameless.is_empty() { "; " } else { "" };
            write!(
                f,
                "{} ports of pods of clusters whose network is not ours are not reached: the gateway leads to at most {MAX_POD_PORTS} of a pod, those of the lowest numbers{more}",
                self.ports_left_out
            )?;
        }
        if self.left_out > 0 {
            write!(
                f,
                "{} pods of clusters whose network is not ours are not reached: the gateway leads to at most {MAX_REMOTE_PODS} of an import, by a TCP or UDP port",
                self.left_out
            )?;
        }
        if let Some(first) = self.nameless.first() {
            let and = if self.left_out > 0 { "; " } else { "" };
            let more = match self.nameless.len() {
                1 => String::new(),
                all => format!(" and of {} more clusters", all - 1),
            };
            write!(
                f,
                "{and}the pods of {first}{more} have no hostname, by which alone they could be reached there: use a StatefulSet, or set hostname and subdomain"
            )?;
        }
        Ok(())
    }
}

impl DirectEndpoints {
    /// `None` where there is no endpoint.
    pub(super) fn new(
        cluster: &ClusterId,
        locality: &Locality,
        tier: u16,
        endpoints: Vec<ExportedEndpoint>,
    ) -> Option<Self> {
        (!endpoints.is_empty()).then(|| Self {
            cluster: cluster.clone(),
            locality: locality.clone(),
            tier,
            endpoints,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::HostLabel;

    fn number(port: u32) -> PortNumber {
        PortNumber::new(port).unwrap()
    }

    fn tcp(port: u32) -> PortKey {
        PortKey::new(Protocol::Tcp, number(port))
    }

    /// Ports as (Service's, target).
    fn pod(ports: &[(u32, u32)]) -> RemotePod {
        let port = |(port, target): &(u32, u32)| EndpointPort {
            key: tcp(*port),
            target: Some(number(*target)),
        };
        let name = PodName {
            cluster: ClusterId::parse("oregon").unwrap(),
            hostname: HostLabel::parse("db-0").unwrap(),
        };
        let ports = ports.iter().map(port).collect();
        RemotePod { name, ports, vips: Vec::new(), usable: true }
    }

    #[test]
    fn a_pod_listens_on_its_own_ports_before_those_of_the_service() {
        let listens = |ports: &[(u32, u32)]| -> Vec<(u16, u16)> {
            let all = pod(ports).listens().into_iter();
            all.map(|((_, number), key)| (number.get(), key.port.get())).collect()
        };
        assert_eq!(listens(&[(80, 80)]), [(80, 80)]);
        assert_eq!(listens(&[(80, 8080)]), [(80, 80), (8080, 80)]);
        // 8080 is where the pod has the first, and the number of the second.
        assert_eq!(listens(&[(80, 8080), (8080, 9090)]), [(80, 80), (8080, 80), (9090, 8080)]);
        assert_eq!(listens(&[(80, 9000), (81, 9000)]), [(80, 80), (81, 81), (9000, 80)]);
    }

    #[test]
    fn no_pod_takes_more_than_so_many_of_the_ports_that_all_imports_share() {
        let all: Vec<PortKey> = (1..=1_000).map(tcp).collect();
        let host = ExportedHost {
            hostname: HostLabel::parse("db-0").unwrap(),
            ports: all.iter().rev().map(|port| (*port).into()).collect(),
        };
        let (oregon, hosts) = (ClusterId::parse("oregon").unwrap(), [host]);
        let clusters: [(&ClusterId, &[ExportedHost], bool); 1] = [(&oregon, &hosts, true)];
        let wanted = all.iter().copied().collect();
        let pods = RemotePods::choose(clusters.into_iter(), &wanted, |_| Vec::new());
        let led: Vec<PortKey> = pods.led[0].ports.iter().map(|port| port.key).collect();
        assert_eq!(led, all[..MAX_POD_PORTS]);
        let told = pods.to_string();
        assert!(told.starts_with("984 ports of pods"), "{told}");
        assert!(told.contains("at most 16 of a pod"), "{told}");
    }

    #[test]
    fn no_cluster_takes_the_places_of_another() {
        let host = |n: usize| ExportedHost {
            hostname: HostLabel::parse(&format!("db-{n:02}")).unwrap(),
            ports: vec![tcp(80).into()],
        };
        let many: Vec<_> = (0..2 * MAX_REMOTE_PODS).map(host).collect();
        let [kyiv, oregon, tokyo] =
            ["kyiv", "oregon", "tokyo"].map(|n| ClusterId::parse(n).unwrap());
        let clusters: [(&ClusterId, &[ExportedHost], bool); 3] =
            [(&kyiv, &many, true), (&oregon, &many[..3], true), (&tokyo, &many, true)];
        let pods = RemotePods::choose(clusters.into_iter(), &[tcp(80)].into(), |_| Vec::new());
        let led = [&kyiv, &oregon, &tokyo].map(|cluster| pods.of(cluster).count());
        assert_eq!(led, [40, 3, 21]);
        assert_eq!(pods.left_out, 4 * MAX_REMOTE_PODS - 61);
    }

    #[test]
    fn the_first_by_name_are_led_to_and_the_others_counted() {
        let host = |n: usize, protocol| ExportedHost {
            hostname: HostLabel::parse(&format!("db-{n:02}")).unwrap(),
            ports: vec![PortKey::new(protocol, number(80)).into()],
        };
        let many: Vec<_> = (0..MAX_REMOTE_PODS).map(|n| host(n, Protocol::Tcp)).collect();
        let mixed = [host(0, Protocol::Sctp), host(1, Protocol::Tcp)];
        let [kyiv, oregon, tokyo] =
            ["kyiv", "oregon", "tokyo"].map(|n| ClusterId::parse(n).unwrap());
        let clusters: [(&ClusterId, &[ExportedHost], bool); 3] =
            [(&tokyo, &many, true), (&oregon, &mixed, true), (&kyiv, &[], true)];
        let all = [Protocol::Tcp, Protocol::Sctp].map(|of| PortKey::new(of, number(80))).into();
        let pods = RemotePods::choose(clusters.into_iter(), &all, |_| Vec::new());
        assert_eq!((pods.led.len(), pods.left_out), (MAX_REMOTE_PODS, 2));
        assert_eq!(pods.of(&oregon).count(), 1, "SCTP has no gateway");
        assert_eq!(pods.of(&tokyo).count(), MAX_REMOTE_PODS - 1);
        assert_eq!(pods.nameless, std::slice::from_ref(&kyiv));
        let none = RemotePods::choose(clusters.into_iter(), &BTreeSet::new(), |_| Vec::new());
        assert_eq!(none.led, [], "a port that the import lacks leads nowhere");
    }
}
