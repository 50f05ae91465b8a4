//! What an API server leaves out of a ServiceImport whose kind somebody else installed: an older
//! CustomResourceDefinition has fewer fields, and the server drops what it does not know.
//!
//! It is learned from what comes back, and not written again: else every import would be written
//! again and again, and never have its status.

use super::import::ServiceImport;

/// The fields that are not kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pruned {
    one_ip: bool,
    families: bool,
    internal_traffic_policy: bool,
    traffic_distribution: bool,
    conditions: bool,
    endpoint_slices: bool,
}

impl Pruned {
    /// Where only one address is accepted (`v1alpha1` at first).
    #[must_use]
    pub fn to_one_ip() -> Self {
        Self { one_ip: true, ..Self::default() }
    }

    /// The fields of `wanted` that are missing in what was `kept` of it; `None`: they do not
    /// explain the difference, or there is none.
    #[must_use]
    pub fn between(
        wanted: &ServiceImport,
        kept: &ServiceImport,
        with_status: bool,
    ) -> Option<Self> {
        let (spec, of) = (&wanted.spec, &kept.spec);
        let (status, had) = (&wanted.status, &kept.status);
        let pruned = Self {
            one_ip: false,
            families: of.families.is_empty() && !spec.families.is_empty(),
            internal_traffic_policy: of.internal_traffic_policy.is_none()
                && spec.internal_traffic_policy.is_some(),
            traffic_distribution: of.traffic_distribution.is_none()
                && spec.traffic_distribution.is_some(),
            conditions: with_status && had.conditions.is_empty() && !status.conditions.is_empty(),
            endpoint_slices: with_status
                && had.endpoint_slices.is_none()
                && status.endpoint_slices.is_some(),
        };
        let mut rest = wanted.clone();
        pruned.apply(&mut rest);
        let explained =
            rest.meta == kept.meta && rest.spec == *of && (!with_status || rest.status == *had);
        (explained && pruned != Self::default()).then_some(pruned)
    }

    /// Both.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            one_ip: self.one_ip || other.one_ip,
            families: self.families || other.families,
            internal_traffic_policy: self.internal_traffic_policy || other.internal_traffic_policy,
            traffic_distribution: self.traffic_distribution || other.traffic_distribution,
            conditions: self.conditions || other.conditions,
            endpoint_slices: self.endpoint_slices || other.endpoint_slices,
        }
    }

    /// Leaves out what is not kept.
    pub fn apply(self, import: &mut ServiceImport) {
        let ServiceImport { spec, status, .. } = import;
        if self.one_ip {
            spec.ips.truncate(1);
            spec.families.truncate(1);
        }
        if self.families {
            spec.families.clear();
        }
        if self.internal_traffic_policy {
            spec.internal_traffic_policy = None;
        }
        if self.traffic_distribution {
            spec.traffic_distribution = None;
        }
        if self.conditions {
            status.conditions.clear();
        }
        if self.endpoint_slices {
            status.endpoint_slices = None;
        }
    }

    /// For people.
    #[must_use]
    pub fn fields(self) -> Vec<&'static str> {
        let all = [
            (self.one_ip, "a second one of spec.ips"),
            (self.families, "spec.ipFamilies"),
            (self.internal_traffic_policy, "spec.internalTrafficPolicy"),
            (self.traffic_distribution, "spec.trafficDistribution"),
            (self.conditions, "status.conditions"),
            (self.endpoint_slices, "status.endpointSliceObjects"),
        ];
        all.into_iter().filter_map(|(missing, field)| missing.then_some(field)).collect()
    }
}
