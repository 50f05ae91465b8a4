//! Folds the exports of one name from all clusters into the one import that every cluster sees
//! (KEP-1645, "Constraints and Conflict Resolution").

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt;

use super::export::{Export, IpFamily, ServiceType, SessionAffinity};
use super::settings::{DnsMode, Fence, Policy};
use crate::model::{ClusterId, PortSpec};

/// One cluster's export of the name.
#[derive(Debug, Clone, Copy)]
pub struct Claim<'a> {
    /// Who exports; each cluster claims at most once.
    pub cluster: &'a ClusterId,
    /// What it says.
    pub export: &'a Export,
    /// Whether its `policy`, `fence` and `dns` may lead callers here.
    pub leads: bool,
}

/// The import, the same in every cluster but for `policy`, `fence` and `dns`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Merged {
    /// The oldest export's.
    pub service_type: ServiceType,
    /// The union, walked from the oldest export.
    pub ports: Vec<PortSpec>,
    /// The oldest export's.
    pub session_affinity: SessionAffinity,
    /// The oldest export's that names any; empty if none does.
    pub ip_families: Vec<IpFamily>,
    /// Those of all exports together, ascending: what some endpoint of it speaks.
    pub all_families: Vec<IpFamily>,
    /// The oldest export's, verbatim.
    pub internal_traffic_policy: Option<Box<str>>,
    /// The oldest export's, verbatim.
    pub traffic_distribution: Option<Box<str>>,
    /// The oldest export's map, entire.
    pub labels: BTreeMap<Box<str>, Box<str>>,
    /// The oldest export's map, entire.
    pub annotations: BTreeMap<Box<str>, Box<str>>,
    /// The own cluster's where it exports, else the oldest export's.
    pub policy: Policy,
    /// The own cluster's where it exports, else the oldest export's.
    pub fence: Fence,
    /// The own cluster's where it exports, else the oldest export's.
    pub dns: DnsMode,
    /// The exporting clusters, oldest export first.
    pub clusters: Vec<ClusterId>,
    /// Where the exports disagree; at most one per reason.
    pub conflicts: Vec<Conflict>,
}

/// The reasons of the condition `Conflict`, in the spelling of the MCS API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ConflictReason {
    /// The sets of (name, protocol, port, appProtocol) differ.
    Port,
    /// ClusterSetIP against Headless.
    Type,
    /// `sessionAffinity` differs.
    SessionAffinity,
    /// `sessionAffinityConfig` differs where the affinity itself is agreed.
    SessionAffinityConfig,
    /// The exported annotations differ.
    Annotations,
    /// The exported labels differ.
    Labels,
    /// `ipFamilies` differ.
    IpFamily,
    /// `internalTrafficPolicy` differs.
    InternalTrafficPolicy,
    /// `trafficDistribution` differs.
    TrafficDistribution,
}

impl ConflictReason {
    /// The reason as it stands in the condition.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Port => "PortConflict",
            Self::Type => "TypeConflict",
            Self::SessionAffinity => "SessionAffinityConflict",
            Self::SessionAffinityConfig => "SessionAffinityConfigConflict",
            Self::Annotations => "AnnotationsConflict",
            Self::Labels => "LabelsConflict",
            Self::IpFamily => "IPFamilyConflict",
            Self::InternalTrafficPolicy => "InternalTrafficPolicyConflict",
            Self::TrafficDistribution => "TrafficDistributionConflict",
        }
    }

    /// The field the exports disagree on.
    #[must_use]
    pub fn field(self) -> &'static str {
        match self {
            Self::Port => "ports",
            Self::Type => "type",
            Self::SessionAffinity => "sessionAffinity",
            Self::SessionAffinityConfig => "sessionAffinityConfig",
            Self::Annotations => "exportedAnnotations",
            Self::Labels => "exportedLabels",
            Self::IpFamily => "ipFamilies",
            Self::InternalTrafficPolicy => "internalTrafficPolicy",
            Self::TrafficDistribution => "trafficDistribution",
        }
    }
}

/// Why the winner comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precedence {
    /// Its export is the oldest.
    Oldest,
    /// Another is as old; its cluster's name comes first.
    FirstName,
}

/// One disagreement between the exports of a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    /// What about.
    pub reason: ConflictReason,
    /// The cluster whose value is used.
    pub winner: ClusterId,
    /// Why that one.
    pub why: Precedence,
    /// How many clusters say something else than the winner.
    pub disagree: usize,
    /// Of how many that export.
    pub exporters: usize,
}

impl fmt::Display for Conflict {
    /// The message of the condition: the field, who won and why, how many disagree.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { winner, disagree, exporters, .. } = self;
        let field = self.reason.field();
        match self.reason {
            ConflictReason::Port => write!(f, "{field}: all are joined, those of {winner} first")?,
            _ => write!(f, "{field}: the value of {winner} is used")?,
        }
        f.write_str(match self.why {
            Precedence::Oldest => ", whose export is the oldest",
            Precedence::FirstName => ", first by name of the oldest exports",
        })?;
        write!(f, "; {disagree} of {exporters} exporting clusters disagree")
    }
}

/// Folds the exports of one name; `None` when there is none. The result does not depend on the
/// order of `claims`: the oldest export comes first, of equally old ones the first by cluster
/// name. `own` is the importing cluster, whose own export decides how its callers are led; else
/// the oldest does that may.
#[must_use]
pub fn merge(own: Option<&ClusterId>, claims: &[Claim<'_>]) -> Option<Merged> {
    let mut claims = claims.to_vec();
    claims.sort_by_key(|claim| (claim.export.created_ms, claim.cluster));
    let oldest = claims.first()?.export;
    let leading = claims.iter().find(|claim| Some(claim.cluster) == own);
    let leading = leading.or_else(|| claims.iter().find(|claim| claim.leads));
    let settings = leading.map(|claim| claim.export.settings.clone()).unwrap_or_default();
    Some(Merged {
        service_type: oldest.service_type,
        ports: join_ports(&claims),
        session_affinity: oldest.session_affinity,
        ip_families: families(&claims).map(|(_, set)| set.to_vec()).unwrap_or_default(),
        all_families: all_families(&claims),
        internal_traffic_policy: oldest.internal_traffic_policy.clone(),
        traffic_distribution: oldest.traffic_distribution.clone(),
        labels: oldest.labels.clone(),
        annotations: oldest.annotations.clone(),
        policy: settings.policy,
        fence: settings.fence,
        dns: settings.dns,
        clusters: claims.iter().map(|claim| claim.cluster.clone()).collect(),
        conflicts: conflicts(&claims),
    })
}

/// Walks the exports oldest first: a port joins unless its name or its (protocol, number) is
/// already taken.
fn join_ports(claims: &[Claim<'_>]) -> Vec<PortSpec> {
    let (mut names, mut keys) = (HashSet::new(), HashSet::new());
    let all = claims.iter().flat_map(|claim| &claim.export.ports).map(|port| &port.spec);
    let free = all.filter(|spec| {
        let free = !names.contains(&*spec.name) && !keys.contains(&spec.key());
        if free {
            names.insert(&*spec.name);
            keys.insert(spec.key());
        }
        free
    });
    free.cloned().collect()
}

/// The families in force and who says so: a manifest may leave them open.
fn families<'a>(claims: &[Claim<'a>]) -> Option<(usize, &'a [IpFamily])> {
    let mut named = claims.iter().map(|claim| claim.export.ip_families.as_slice()).enumerate();
    named.find(|(_, families)| !families.is_empty())
}

fn all_families(claims: &[Claim<'_>]) -> Vec<IpFamily> {
    let named = claims.iter().flat_map(|claim| &claim.export.ip_families);
    named.copied().collect::<BTreeSet<_>>().into_iter().collect()
}

/// Where claims, sorted by precedence, say something else than the first.
fn conflicts(claims: &[Claim<'_>]) -> Vec<Conflict> {
    use ConflictReason as Reason;
    let Some(oldest) = claims.first().map(|claim| claim.export) else { return Vec::new() };
    let (families_by, families) = families(claims).unwrap_or_default();
    let ports = port_set(oldest);
    let affinity_differs = |export: &Export| {
        matches!(export.session_affinity, SessionAffinity::None)
            != matches!(oldest.session_affinity, SessionAffinity::None)
    };
    let differs = |reason: Reason, export: &Export| match reason {
        Reason::Port => port_set(export) != ports,
        Reason::Type => export.service_type != oldest.service_type,
        Reason::SessionAffinity => affinity_differs(export),
        Reason::SessionAffinityConfig => {
            !affinity_differs(export) && export.session_affinity != oldest.session_affinity
        }
        Reason::Annotations => export.annotations != oldest.annotations,
        Reason::Labels => export.labels != oldest.labels,
        Reason::IpFamily => !export.ip_families.is_empty() && export.ip_families != families,
        Reason::InternalTrafficPolicy => traffic_policy(export) != traffic_policy(oldest),
        Reason::TrafficDistribution => export.traffic_distribution != oldest.traffic_distribution,
    };
    let conflict = |reason: Reason| {
        let winner = if reason == Reason::IpFamily { families_by } else { 0 };
        let disagree = claims.iter().filter(|claim| differs(reason, claim.export)).count();
        (disagree > 0).then(|| Conflict {
            reason,
            winner: claims[winner].cluster.clone(),
            why: precedence(claims, winner),
            disagree,
            exporters: claims.len(),
        })
    };
    [
        Reason::Port,
        Reason::Type,
        Reason::SessionAffinity,
        Reason::SessionAffinityConfig,
        Reason::Annotations,
        Reason::Labels,
        Reason::IpFamily,
        Reason::InternalTrafficPolicy,
        Reason::TrafficDistribution,
    ]
    .into_iter()
    .filter_map(conflict)
    .collect()
}

fn precedence(claims: &[Claim<'_>], winner: usize) -> Precedence {
    let age = |index: usize| claims.get(index).map(|claim| claim.export.created_ms);
    if age(winner + 1) == age(winner) { Precedence::FirstName } else { Precedence::Oldest }
}

fn port_set(export: &Export) -> BTreeSet<&PortSpec> {
    export.ports.iter().map(|port| &port.spec).collect()
}

/// The API server writes the default out, a manifest may leave it away: both mean the same.
fn traffic_policy(export: &Export) -> &str {
    export.internal_traffic_policy.as_deref().unwrap_or("Cluster")
}

#[cfg(test)]
mod tests;
