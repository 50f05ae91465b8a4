//! The order of the candidates of one port, with a reason for each.

use std::cmp::Reverse;
use std::time::{Duration, Instant};

use super::{Candidate, Reason};
use crate::catalog::{Fence, Policy};
use crate::health::PeerState;
use crate::model::{ClusterId, Locality};

/// Round trips within this share of the best of their group, or [`TIE_FLOOR`], are equally near.
const TIE_SHARE: f64 = 0.2;
/// See [`TIE_SHARE`].
const TIE_FLOOR: Duration = Duration::from_millis(5);

/// The longest round trip that is as near as the best.
#[must_use]
pub fn tied_up_to(best: Duration) -> Duration {
    best + best.mul_f64(TIE_SHARE).max(TIE_FLOOR)
}
/// How long a Down peer may serve as the last resort.
const LAST_RESORT: Duration = Duration::from_hours(24);

/// One cluster that exports the service, as seen for one port.
#[derive(Debug, Clone)]
pub(super) struct Contender<'a> {
    pub(super) cluster: &'a ClusterId,
    pub(super) local: bool,
    pub(super) locality: &'a Locality,
    pub(super) state: PeerState,
    pub(super) since: Instant,
    pub(super) rtt: Option<Duration>,
    /// The exporter's own weight.
    pub(super) weight: u16,
    /// What it takes of its place: slow start, drains and need together, 0 to 1.
    pub(super) share: f32,
    /// A drain of it is complete.
    pub(super) drained: bool,
    /// Ready endpoints behind the port; `None`: the port is not exported.
    pub(super) ready: Option<u32>,
}

/// What orders them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rules<'a> {
    pub(super) policy: &'a Policy,
    pub(super) fence: Fence,
    pub(super) own: &'a Locality,
}

/// The group a candidate stands in; earlier is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Class {
    Serving,
    Unmeasured,
    Draining,
    LastResort,
    Out,
}

/// A candidate in its place.
#[derive(Debug)]
pub(super) struct Placed {
    pub(super) candidate: Candidate,
    /// Candidates of one tier differ by nearness alone; an earlier tier comes first from wherever
    /// one looks.
    pub(super) tier: u16,
}

/// Orders the contenders, best first.
pub(super) fn order(
    contenders: &[Contender<'_>],
    rules: Rules<'_>,
    now: Instant,
) -> Vec<Candidate> {
    place(contenders, rules, now).into_iter().map(|placed| placed.candidate).collect()
}

/// Orders the contenders, best first, and says which of them nearness alone has ordered.
pub(super) fn place(contenders: &[Contender<'_>], rules: Rules<'_>, now: Instant) -> Vec<Placed> {
    let mut placed: Vec<(Class, Reason, &Contender<'_>)> = contenders
        .iter()
        .map(|contender| {
            let (class, reason) = classify(contender, rules);
            (class, reason, contender)
        })
        .collect();
    confine_to_local(&mut placed, rules.policy);
    fail_open(&mut placed, now);
    let served = placed.iter().any(|(class, ..)| *class == Class::Serving);
    let ties = tie_groups(&placed);
    placed.sort_by_cached_key(|(class, _, contender)| {
        let tie = ties.iter().position(|group| group.contains(&contender.cluster));
        (
            *class,
            policy_rank(contender, rules.policy),
            !contender.local,
            tie.unwrap_or(usize::MAX),
            distance(contender.locality, rules.own),
            contender.rtt.unwrap_or(Duration::MAX),
            contender.cluster.clone(),
        )
    });
    let tier_of = |(class, _, contender): &(Class, Reason, &Contender<'_>)| {
        (*class, policy_rank(contender, rules.policy))
    };
    let mut tiers: Vec<_> = placed.iter().map(tier_of).collect();
    tiers.dedup();
    placed
        .into_iter()
        .map(|(class, reason, contender)| {
            let own = tier_of(&(class, reason, contender));
            let tier = tiers.iter().position(|tier| *tier == own);
            let tier = tier.and_then(|tier| u16::try_from(tier).ok()).unwrap_or(u16::MAX);
            let tied = ties.iter().find(|group| group.contains(&contender.cluster));
            let tied = tied.is_some_and(|group| {
                group.iter().any(|other| {
                    other_distance(contenders, other, rules.own)
                        != distance(contender.locality, rules.own)
                })
            });
            Placed { candidate: candidate(class, reason, contender, tied, served), tier }
        })
        .collect()
}

/// `served`: another answers, so one that was never heard draws nothing.
fn candidate(
    class: Class,
    reason: Reason,
    of: &Contender<'_>,
    tied: bool,
    served: bool,
) -> Candidate {
    let reason = if tied && reason == Reason::Nearest { Reason::TieLocality } else { reason };
    let weight = match class {
        Class::Unmeasured if served => 0,
        Class::Serving | Class::Unmeasured => of.weight.into(),
        Class::Draining | Class::LastResort | Class::Out => 0,
    };
    Candidate {
        cluster: of.cluster.clone(),
        local: of.local,
        state: of.state,
        rtt: of.rtt,
        weight,
        share: of.share,
        usable: class != Class::Out,
        reason,
        since: of.since,
    }
}

fn classify(contender: &Contender<'_>, rules: Rules<'_>) -> (Class, Reason) {
    match contender.ready {
        None => return (Class::Out, Reason::PortNotExported),
        Some(0) => return (Class::Out, Reason::NoEndpoint),
        Some(_) => {}
    }
    if !contender.local && fenced(contender.locality, rules.own, rules.fence) {
        return (Class::Out, Reason::Fenced);
    }
    if contender.state == PeerState::Down {
        return (Class::Out, Reason::Down);
    }
    let drained = contender.drained || contender.weight == 0;
    if drained || contender.state == PeerState::Draining {
        return (Class::Draining, Reason::Draining);
    }
    match contender.state {
        PeerState::Suspect => (Class::Serving, Reason::Suspect),
        PeerState::Unknown => (Class::Unmeasured, wanted(contender, rules.policy)),
        _ => (Class::Serving, wanted(contender, rules.policy)),
    }
}

/// Why a healthy contender stands where it does.
fn wanted(contender: &Contender<'_>, policy: &Policy) -> Reason {
    match policy {
        Policy::Weighted => Reason::Weighted,
        Policy::Pinned(list) if list.contains(contender.cluster) => Reason::Pinned,
        _ if contender.local => Reason::Local,
        _ => Reason::Nearest,
    }
}

/// `policy: local`: others are out while the own cluster serves and takes everything: what it is
/// to leave to others must find them.
fn confine_to_local(placed: &mut [(Class, Reason, &Contender<'_>)], policy: &Policy) {
    let takes_all = |c: &Contender<'_>| c.local && c.share >= 1.0;
    let alone = placed.iter().any(|(class, _, c)| takes_all(c) && *class == Class::Serving);
    if *policy == Policy::Local && alone {
        for (class, reason, contender) in placed.iter_mut() {
            if !contender.local && *class != Class::Out {
                (*class, *reason) = (Class::Out, Reason::Fenced);
            }
        }
    }
}

/// Whether what has been Down since then may still serve as the last resort.
pub(super) fn is_last_resort(since: Instant, now: Instant) -> bool {
    now.saturating_duration_since(since) <= LAST_RESORT
}

/// Nothing usable: those that went down last a day ago or less serve in their last known order.
fn fail_open(placed: &mut [(Class, Reason, &Contender<'_>)], now: Instant) {
    if placed.iter().any(|(class, ..)| *class != Class::Out) {
        return;
    }
    for (class, reason, contender) in placed.iter_mut() {
        if *reason == Reason::Down && is_last_resort(contender.since, now) {
            (*class, *reason) = (Class::LastResort, Reason::LastResort);
        }
    }
}

/// Groups of remote contenders that are equally near, nearest group first.
fn tie_groups<'a>(placed: &[(Class, Reason, &Contender<'a>)]) -> Vec<Vec<&'a ClusterId>> {
    let mut measured: Vec<(Duration, &ClusterId)> = placed
        .iter()
        .filter(|(_, _, contender)| !contender.local)
        .filter_map(|(_, _, contender)| Some((contender.rtt?, contender.cluster)))
        .collect();
    measured.sort();
    let mut groups: Vec<(Duration, Vec<&ClusterId>)> = Vec::new();
    for (rtt, cluster) in measured {
        match groups.last_mut() {
            Some((best, group)) if rtt <= tied_up_to(*best) => {
                group.push(cluster);
            }
            _ => groups.push((rtt, vec![cluster])),
        }
    }
    groups.into_iter().map(|(_, group)| group).collect()
}

/// What the policy alone says; equal values leave it to distance.
fn policy_rank(contender: &Contender<'_>, policy: &Policy) -> (usize, Reverse<u16>) {
    match policy {
        Policy::Pinned(list) => {
            let place = list.iter().position(|cluster| cluster == contender.cluster);
            (place.unwrap_or(usize::MAX), Reverse(0))
        }
        Policy::Weighted => (0, Reverse(contender.weight)),
        // Also while it leaves a share to others: from wherever a client asks, local comes first.
        Policy::Local => (usize::from(!contender.local), Reverse(0)),
        Policy::Nearest => (0, Reverse(0)),
    }
}

/// 0: same zone, 1: same region, 2: elsewhere or unknown.
pub(super) fn distance(there: &Locality, here: &Locality) -> u8 {
    if here.region.is_empty() || there.region != here.region {
        return 2;
    }
    u8::from(here.zone.is_empty() || there.zone != here.zone)
}

fn other_distance(contenders: &[Contender<'_>], cluster: &ClusterId, own: &Locality) -> u8 {
    contenders.iter().find(|c| c.cluster == cluster).map_or(2, |c| distance(c.locality, own))
}

fn fenced(there: &Locality, here: &Locality, fence: Fence) -> bool {
    match fence {
        Fence::None => false,
        Fence::Region => distance(there, here) > 1,
        Fence::Zone => distance(there, here) > 0,
    }
}
