//! Reads the `portolan.dev/*` annotations of a ServiceExport.

use std::collections::BTreeMap;
use std::num::NonZeroU32;

use super::local::ExportProblem;
use super::settings::{
    CallerRules, ClusterRules, DnsMode, Fence, LocalMode, Policy, ProxyProtocol, Settings, Steer,
    Weight,
};
use crate::model::{ClusterId, Drain};

/// Longest part of a bad value that is shown, in characters.
const SHOWN_CHARS: usize = 60;
/// Most endpoints that `spill-over` may want.
const MOST_WANTED: u32 = 10_000;

/// What the annotations of one export ask for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Wishes {
    /// What travels.
    pub settings: Settings,
    /// Who may import.
    pub clusters: ClusterRules,
    /// Who may call.
    pub allow: CallerRules,
    /// Most streams at a time through one gateway replica.
    pub most_streams: Option<u32>,
    /// What the own cluster is asked about its share.
    pub steer: Steer,
    /// Values that could not be used; by key.
    pub problems: Vec<ExportProblem>,
}

/// Reads annotations whose prefix `portolan.dev/` has been removed. It never fails: a bad value
/// is reported and its default used, but for `allow` and `clusters`, where it means nobody (a
/// slip of the pen must not open what was meant to be closed).
#[must_use]
pub fn parse_settings(annotations: &BTreeMap<Box<str>, Box<str>>) -> Wishes {
    let mut wishes = Wishes::default();
    for (key, value) in annotations {
        if let Err((expected, used)) = wishes.take(key, value.trim()) {
            let shown: String = value.chars().take(SHOWN_CHARS).collect();
            wishes.problems.push(ExportProblem {
                field: format!("portolan.dev/{key}").into(),
                message: format!(
                    "'{}' is not understood, {used}; use {expected}",
                    shown.escape_default()
                )
                .into(),
            });
        }
    }
    wishes
}

impl Wishes {
    /// Takes one annotation; the error says what was expected and what is used instead.
    fn take(&mut self, key: &str, value: &str) -> Result<(), (&'static str, &'static str)> {
        let settings = &mut self.settings;
        match key {
            "policy" => set(
                &mut settings.policy,
                policy(value),
                ("nearest, local, weighted or 'pinned: CLUSTER,CLUSTER'", "nearest is used"),
            ),
            "fence" => set(
                &mut settings.fence,
                match value {
                    "none" => Some(Fence::None),
                    "region" => Some(Fence::Region),
                    "zone" => Some(Fence::Zone),
                    _ => None,
                },
                ("region, zone or none", "none is used"),
            ),
            "dns" => set(
                &mut settings.dns,
                choose(value, [("vip", DnsMode::Vip), ("endpoints", DnsMode::Endpoints)]),
                ("vip or endpoints", "vip is used"),
            ),
            "weight" => set(
                &mut settings.weight,
                digits(value).and_then(Weight::new),
                ("a whole number from 0 to 1000", "100 is used"),
            ),
            "early-data" => set(
                &mut settings.early_data,
                choose(value, [("true", true), ("false", false)]),
                ("true or false", "false is used"),
            ),
            "proxy-protocol" => set(
                &mut settings.proxy_protocol,
                choose(value, [("none", ProxyProtocol::None), ("v2", ProxyProtocol::V2)]),
                ("v2 or none", "none is used"),
            ),
            "local" => set(
                &mut settings.local,
                choose(value, [("direct", LocalMode::Direct), ("gateway", LocalMode::Gateway)]),
                ("direct or gateway", "direct is used"),
            ),
            _ => self.take_own(key, value),
        }
    }

    /// Those that stay with the cluster that has the export.
    fn take_own(&mut self, key: &str, value: &str) -> Result<(), (&'static str, &'static str)> {
        match key {
            "max-streams" => set(
                &mut self.most_streams,
                match value {
                    "none" => Some(None),
                    _ => digits(value).filter(|most| *most > 0).map(Some),
                },
                ("a whole number from 1 to 4294967295, or none", "none is used"),
            ),
            "drain" => {
                let wanted = (
                    "an instant of RFC 3339 and a duration of at most 24h, as in \
                     2026-05-04T10:00:00Z,10m",
                    "nothing is drained by it",
                );
                self.steer.drain = Some(Drain::parse(value).map_err(|_| wanted)?);
                Ok(())
            }
            "spill-over" => {
                let wanted = digits(value).filter(|wanted| *wanted <= MOST_WANTED);
                self.steer.wanted = wanted.and_then(NonZeroU32::new);
                match self.steer.wanted {
                    Some(_) => Ok(()),
                    None => Err(("a whole number from 1 to 10000", "nothing spills over")),
                }
            }
            "clusters" => {
                self.clusters = ClusterRules::nobody();
                let wanted = ("a comma list of cluster ids, or *", "nobody may import");
                set(&mut self.clusters, ClusterRules::parse(value), wanted)
            }
            "allow" => {
                self.allow = CallerRules::nobody();
                let wanted = (
                    "a comma list of cluster/namespace/serviceaccount, each a name or *",
                    "nobody may call",
                );
                set(&mut self.allow, CallerRules::parse(value), wanted)
            }
            _ => Err((
                "policy, fence, dns, weight, clusters, allow, early-data, proxy-protocol, \
                 max-streams, local, drain or spill-over",
                "the annotation is ignored",
            )),
        }
    }
}

/// Puts a value where there is one, else passes the complaint on.
fn set<T, E>(slot: &mut T, value: Option<T>, complaint: E) -> Result<(), E> {
    *slot = value.ok_or(complaint)?;
    Ok(())
}

fn choose<T>(value: &str, from: [(&str, T); 2]) -> Option<T> {
    from.into_iter().find(|(text, _)| *text == value).map(|(_, choice)| choice)
}

/// Digits only: `+5` parses as a number in Rust but is not what the table allows.
fn digits(value: &str) -> Option<u32> {
    value.bytes().all(|b| b.is_ascii_digit()).then(|| value.parse().ok()).flatten()
}

fn policy(value: &str) -> Option<Policy> {
    match value {
        "nearest" => Some(Policy::Nearest),
        "local" => Some(Policy::Local),
        "weighted" => Some(Policy::Weighted),
        _ => {
            let mut clusters = Vec::new();
            for item in value.strip_prefix("pinned:")?.split(',') {
                let cluster = ClusterId::parse(item.trim()).ok()?;
                if !clusters.contains(&cluster) {
                    clusters.push(cluster);
                }
            }
            Some(Policy::Pinned(clusters))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::{Caller, Share};

    fn wishes(pairs: &[(&str, &str)]) -> Wishes {
        parse_settings(&pairs.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect())
    }

    fn cluster(name: &str) -> ClusterId {
        ClusterId::parse(name).unwrap()
    }

    #[test]
    fn every_value_of_the_table_is_understood() {
        let pinned = Policy::Pinned(vec![cluster("b"), cluster("a")]);
        for (text, policy) in [
            ("nearest", Policy::Nearest),
            ("local", Policy::Local),
            ("weighted", Policy::Weighted),
            ("pinned: b,a", pinned.clone()),
            (" pinned:b , a,b ", pinned),
        ] {
            let got = wishes(&[("policy", text)]);
            assert_eq!((got.settings.policy, got.problems), (policy, vec![]), "{text}");
        }
        let got = wishes(&[
            ("fence", "zone"),
            ("dns", "endpoints"),
            ("weight", "0"),
            ("early-data", "true"),
            ("proxy-protocol", "v2"),
            ("local", "gateway"),
        ]);
        assert_eq!(got.problems, []);
        assert_eq!(
            got.settings,
            Settings {
                policy: Policy::Nearest,
                fence: Fence::Zone,
                dns: DnsMode::Endpoints,
                weight: Weight::new(0).unwrap(),
                early_data: true,
                proxy_protocol: ProxyProtocol::V2,
                local: LocalMode::Gateway,
                share: Share::FULL,
            }
        );
        let got = wishes(&[("drain", "2026-05-04T10:00:00Z,10m"), ("spill-over", "3")]);
        assert_eq!(got.problems, []);
        assert_eq!(got.steer.drain.unwrap().to_string(), "2026-05-04T10:00:00Z,10m");
        assert_eq!(got.steer.wanted, NonZeroU32::new(3));
        assert_eq!(wishes(&[("weight", "1000")]).settings.weight.get(), 1000);
        for (text, most) in [("1", Some(1)), ("4294967295", Some(u32::MAX)), ("none", None)] {
            let got = wishes(&[("max-streams", text)]);
            assert_eq!((got.most_streams, got.problems), (most, vec![]), "{text}");
        }
    }

    #[test]
    fn a_bad_value_is_reported_and_its_default_used() {
        for (key, bad) in [
            ("policy", "closest"),
            ("policy", "pinned:"),
            ("policy", "pinned: a,,b"),
            ("policy", "Nearest"),
            ("fence", "rack"),
            ("dns", ""),
            ("weight", "1001"),
            ("weight", "-1"),
            ("weight", "+5"),
            ("weight", ""),
            ("weight", "99999999999"),
            ("early-data", "yes"),
            ("proxy-protocol", "v1"),
            ("local", "pods"),
            ("max-streams", "0"),
            ("max-streams", "4294967296"),
            ("max-streams", "all"),
            ("colour", "red"),
            ("drain", "10m"),
            ("drain", "2026-05-04T10:00:00Z,soon"),
            ("spill-over", "0"),
            ("spill-over", "10001"),
            ("spill-over", "two"),
        ] {
            let got = wishes(&[(key, bad)]);
            assert_eq!(got.steer, Steer::default(), "{key}={bad}");
            assert_eq!(got.settings, Settings::default(), "{key}={bad}");
            assert_eq!(got.most_streams, None, "{key}={bad}");
            assert_eq!(got.problems.len(), 1, "{key}={bad}");
            assert_eq!(&*got.problems[0].field, format!("portolan.dev/{key}"));
        }
        let long = wishes(&[("dns", &"x".repeat(1 << 20))]);
        assert!(long.problems[0].message.len() < 200);
    }

    #[test]
    fn a_bad_list_of_clusters_or_callers_means_nobody() {
        let me = cluster("a");
        for bad in ["", ",", "a,", "A", "a b", "a/b", "**"] {
            let got = wishes(&[("clusters", bad)]);
            assert!(!got.clusters.allows(&me), "{bad:?}");
            assert_eq!(got.problems.len(), 1, "{bad:?}");
        }
        let caller = Caller { cluster: &me, namespace: Some("n"), service_account: Some("s") };
        for bad in ["", "*", "a/n", "a/n/s/x", "a/n/", "a/n/s,", "a/N/s", "a*/n/s", "a/n/s,*/*"] {
            let got = wishes(&[("allow", bad)]);
            assert!(!got.allow.allows(caller), "{bad:?}");
            assert_eq!(got.problems.len(), 1, "{bad:?}");
        }
    }

    #[test]
    fn lists_of_clusters_and_callers_are_obeyed() {
        let (a, b) = (cluster("a"), cluster("b"));
        let got = wishes(&[("clusters", "a, c"), ("allow", "a/*/web.front, b/n/*")]);
        assert_eq!(got.problems, []);
        assert!(got.clusters.allows(&a) && !got.clusters.allows(&b));
        assert!(wishes(&[("clusters", "a,*")]).clusters.allows(&b));
        let caller =
            |cluster, namespace, service_account| Caller { cluster, namespace, service_account };
        for (who, allowed) in [
            (caller(&a, None, Some("web.front")), true),
            (caller(&a, Some("n"), None), false),
            (caller(&b, Some("n"), None), true),
            (caller(&b, None, Some("web.front")), false),
        ] {
            assert_eq!(got.allow.allows(who), allowed, "{who:?}");
        }
        assert!(wishes(&[]).allow.allows(caller(&b, None, None)));
    }
}
