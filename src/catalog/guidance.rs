//! How a cluster wants its own callers to be led, as far as it says so: annotations of a Namespace,
//! or those that an own ServiceExport really has.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::annotations::parse_settings;
use super::local::ExportProblem;
use super::merge::Merged;
use super::settings::{DnsMode, Fence, Policy};

/// What was said; `None` leaves it to others.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Guidance {
    /// `portolan.dev/policy`.
    pub policy: Option<Policy>,
    /// `portolan.dev/fence`.
    pub fence: Option<Fence>,
    /// `portolan.dev/dns`.
    pub dns: Option<DnsMode>,
}

impl Guidance {
    /// Reads annotations, the prefix removed. A value that cannot be used says nothing, and is told.
    #[must_use]
    pub fn parse(annotations: &BTreeMap<Box<str>, Box<str>>) -> (Self, Vec<ExportProblem>) {
        let guiding = |key: &str| matches!(key, "policy" | "fence" | "dns");
        let ours = annotations.iter().filter(|(key, _)| guiding(key));
        let ours: BTreeMap<_, _> = ours.map(|(k, value)| (k.clone(), value.clone())).collect();
        let wishes = parse_settings(&ours);
        let said = |key: &str| {
            let field = format!("portolan.dev/{key}");
            ours.contains_key(key) && wishes.problems.iter().all(|problem| *problem.field != field)
        };
        let guidance = Self {
            policy: said("policy").then(|| wishes.settings.policy.clone()),
            fence: said("fence").then_some(wishes.settings.fence),
            dns: said("dns").then_some(wishes.settings.dns),
        };
        (guidance, wishes.problems)
    }

    /// Leads the callers of an import, but for what the own export says itself.
    pub fn lead(&self, import: &mut Merged, own: Option<&Self>) {
        let unsaid = Self::default();
        let own = own.unwrap_or(&unsaid);
        if let (Some(policy), None) = (&self.policy, &own.policy) {
            import.policy = policy.clone();
        }
        if let (Some(fence), None) = (self.fence, own.fence) {
            import.fence = fence;
        }
        if let (Some(dns), None) = (self.dns, own.dns) {
            import.dns = dns;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_said_and_can_be_used_counts() {
        let annotations = |pairs: &[(&str, &str)]| {
            pairs.iter().map(|(key, value)| (Box::from(*key), Box::from(*value))).collect()
        };
        let (said, problems) = Guidance::parse(&annotations(&[
            ("policy", "local"),
            ("fence", "none"),
            ("weight", "x"),
        ]));
        let wanted = Guidance { policy: Some(Policy::Local), fence: Some(Fence::None), dns: None };
        assert_eq!((said, problems), (wanted, Vec::new()));
        let (said, problems) = Guidance::parse(&annotations(&[("dns", "both")]));
        assert_eq!((said, problems.len()), (Guidance::default(), 1));
    }
}
