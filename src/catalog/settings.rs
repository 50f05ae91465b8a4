//! What a ServiceExport's `portolan.dev/*` annotations ask for.

use std::collections::BTreeSet;
use std::num::NonZeroU32;

use serde::{Deserialize, Serialize};

use crate::model::{ClusterId, DnsName, Drain, Namespace};

/// How candidates are ordered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum Policy {
    /// By measured round-trip time; the local cluster counts as 0 ms.
    #[default]
    Nearest,
    /// The local cluster only; others only when it has no endpoint.
    Local,
    /// At random by weight.
    Weighted,
    /// The named clusters in this order, then nearest.
    Pinned(Vec<ClusterId>),
}

/// What a call may not leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum Fence {
    /// Anywhere.
    #[default]
    None,
    /// Only clusters of the same region.
    Region,
    /// Only clusters of the same region and zone.
    Zone,
}

/// What a ClusterSetIP name resolves to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum DnsMode {
    /// The clusterset address.
    #[default]
    Vip,
    /// The endpoints of the nearest healthy cluster.
    Endpoints,
}

/// Whether local traffic goes through the gateway too (Kubernetes only).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum LocalMode {
    /// Local pods stand behind the VIP.
    #[default]
    Direct,
    /// Local traffic passes the gateway.
    Gateway,
}

/// The PROXY protocol spoken to the backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum ProxyProtocol {
    /// None.
    #[default]
    None,
    /// Version 2.
    V2,
}

/// A cluster's share, 0 to 1000; 0 is a drain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Weight(u16);

impl Weight {
    /// The largest share.
    pub const MAX: u16 = 1000;

    /// Refuses more than [`Weight::MAX`].
    #[must_use]
    pub fn new(value: u32) -> Option<Self> {
        u16::try_from(value).ok().filter(|v| *v <= Self::MAX).map(Self)
    }

    /// The share.
    #[must_use]
    pub fn get(self) -> u16 {
        self.0
    }
}

impl Default for Weight {
    fn default() -> Self {
        Self(100)
    }
}

/// Which part of the new connections that an export's place would bring it the export takes, in
/// percent: less than all while it drains or has too few backends. 0 is a drain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Share(u8);

impl Share {
    /// All of them.
    pub const FULL: Self = Self(100);
    /// None while another can take them.
    pub const NONE: Self = Self(0);

    /// Refuses more than 100.
    #[must_use]
    pub fn new(percent: u32) -> Option<Self> {
        u8::try_from(percent).ok().filter(|percent| *percent <= 100).map(Self)
    }

    /// 0 to 100.
    #[must_use]
    pub fn percent(self) -> u8 {
        self.0
    }

    /// 0 to 1.
    #[must_use]
    pub fn fraction(self) -> f32 {
        f32::from(self.0) / 100.0
    }

    /// This part of that part; nothing only where one of them is nothing.
    #[must_use]
    pub fn of(self, other: Self) -> Self {
        let product = u16::from(self.0) * u16::from(other.0);
        Self(u8::try_from(product.div_ceil(100)).unwrap_or(100))
    }
}

impl Default for Share {
    fn default() -> Self {
        Self::FULL
    }
}

/// What an export's annotations ask of its own cluster about its share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Steer {
    /// `portolan.dev/drain`.
    pub drain: Option<Drain>,
    /// `portolan.dev/spill-over`: with fewer ready endpoints than this, connections spill over.
    pub wanted: Option<NonZeroU32>,
}

/// The settings of one export that travel with it. Who may import (`clusters`) and who may call
/// (`allow`) stay at the exporter, which enforces them.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Settings {
    /// `portolan.dev/policy`.
    pub policy: Policy,
    /// `portolan.dev/fence`.
    pub fence: Fence,
    /// `portolan.dev/dns`.
    pub dns: DnsMode,
    /// `portolan.dev/weight`.
    pub weight: Weight,
    /// `portolan.dev/early-data`.
    pub early_data: bool,
    /// `portolan.dev/proxy-protocol`.
    pub proxy_protocol: ProxyProtocol,
    /// `portolan.dev/local`.
    pub local: LocalMode,
    /// What it takes at this moment.
    #[serde(default)]
    pub share: Share,
}

/// Who may import: `portolan.dev/clusters`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum ClusterRules {
    /// `*`.
    #[default]
    Any,
    /// The clusters listed; an empty set is nobody.
    Only(BTreeSet<ClusterId>),
}

impl ClusterRules {
    /// Nobody: what a bad value becomes.
    #[must_use]
    pub fn nobody() -> Self {
        Self::Only(BTreeSet::new())
    }

    /// Parses a comma list of cluster ids, or `*`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let items: Vec<&str> = text.split(',').map(str::trim).collect();
        let named = items.iter().filter(|item| **item != "*");
        let named: BTreeSet<ClusterId> =
            named.map(|item| ClusterId::parse(item).ok()).collect::<Option<_>>()?;
        Some(if items.contains(&"*") { Self::Any } else { Self::Only(named) })
    }

    /// Whether this cluster may import.
    #[must_use]
    pub fn allows(&self, cluster: &ClusterId) -> bool {
        match self {
            Self::Any => true,
            Self::Only(set) => set.contains(cluster),
        }
    }
}

/// A caller as the importing cluster vouches for it; an unknown part matches only `*`.
#[derive(Debug, Clone, Copy)]
pub struct Caller<'a> {
    /// From the certificate.
    pub cluster: &'a ClusterId,
    /// The client's namespace, where known.
    pub namespace: Option<&'a str>,
    /// The client's service account, where known.
    pub service_account: Option<&'a str>,
}

/// Who may call: `portolan.dev/allow`, a list of `cluster/namespace/serviceaccount`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallerRules(Vec<[Part; 3]>);

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum Part {
    Any,
    Is(Box<str>),
}

impl Part {
    fn parse(text: &str, is_name: impl Fn(&str) -> bool) -> Option<Self> {
        match text {
            "*" => Some(Self::Any),
            name => is_name(name).then(|| Self::Is(name.into())),
        }
    }

    fn matches(&self, value: Option<&str>) -> bool {
        match self {
            Self::Any => true,
            Self::Is(want) => value == Some(want),
        }
    }
}

impl Default for CallerRules {
    fn default() -> Self {
        Self(vec![[Part::Any, Part::Any, Part::Any]])
    }
}

impl CallerRules {
    /// Nobody: what a bad value becomes.
    #[must_use]
    pub fn nobody() -> Self {
        Self(Vec::new())
    }

    /// Parses a comma list of `cluster/namespace/serviceaccount`, `*` per part.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let rule = |item: &str| -> Option<[Part; 3]> {
            let mut parts = item.trim().split('/');
            let cluster = Part::parse(parts.next()?, |text| ClusterId::parse(text).is_ok())?;
            let namespace = Part::parse(parts.next()?, |text| Namespace::parse(text).is_ok())?;
            // A service account's name is a DNS subdomain.
            let account = Part::parse(parts.next()?, |text| DnsName::parse(text).is_ok())?;
            parts.next().is_none().then_some([cluster, namespace, account])
        };
        text.split(',').map(rule).collect::<Option<_>>().map(Self)
    }

    /// Whether this caller may call.
    #[must_use]
    pub fn allows(&self, caller: Caller<'_>) -> bool {
        self.0.iter().any(|[cluster, namespace, account]| {
            cluster.matches(Some(caller.cluster.as_str()))
                && namespace.matches(caller.namespace)
                && account.matches(caller.service_account)
        })
    }
}
