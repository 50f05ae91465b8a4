//! The candidates of one stream, in the order it tries them.

use smallvec::SmallVec;

use super::race::Runner;
use crate::health::PeerState;
use crate::model::{ClusterId, PodName};
use crate::routes::{Candidate, PortRoute, Reason};

/// Where a stream may go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Destination {
    /// The cluster.
    pub(super) cluster: ClusterId,
    /// Whether it is ours: its backends are dialled directly.
    pub(super) local: bool,
    /// What the race must know.
    pub(super) runner: Runner,
}

/// Whether the port's listener is open: an import that nobody can serve is closed, so that
/// clients are refused rather than reset.
pub(super) fn is_served(port: &PortRoute) -> bool {
    port.candidates.iter().any(|candidate| candidate.usable)
}

/// Whether a port leads anywhere: to some cluster, or to that of the one pod it stands for.
pub(super) fn serves(port: &PortRoute, pod: Option<&PodName>) -> bool {
    match pod {
        Some(pod) => port.candidates.iter().any(|c| c.usable && c.cluster == pod.cluster),
        None => is_served(port),
    }
}

/// The one cluster that has a pod. Whether it is there that cluster knows best, and one that is
/// Down is tried all the same, as there is no other.
pub(super) fn of_pod(port: &PortRoute, pod: &PodName) -> SmallVec<[Destination; 4]> {
    let tried = |c: &&Candidate| c.usable || c.reason == Reason::Down;
    let candidates = port.candidates.iter().filter(|candidate| candidate.cluster == pod.cluster);
    candidates.filter(|candidate| !candidate.local).filter(tried).map(destination).collect()
}

/// The usable candidates in the order to try them. Under `weighted` they are drawn without
/// replacement; else one that comes back slowly keeps its place only with its share.
/// `draw` gives numbers from 0 to 1.
pub(super) fn order(port: &PortRoute, mut draw: impl FnMut() -> f64) -> SmallVec<[Destination; 4]> {
    let mut left: SmallVec<[&Candidate; 4]> =
        port.candidates.iter().filter(|candidate| candidate.usable).collect();
    if port.by_weight {
        draw_by_weight(&mut left, &mut draw);
    } else {
        yield_slow_starters(&mut left, &mut draw);
    }
    left.into_iter().map(destination).collect()
}

fn destination(candidate: &Candidate) -> Destination {
    Destination {
        cluster: candidate.cluster.clone(),
        local: candidate.local,
        runner: Runner {
            rtt: candidate.rtt,
            suspect: candidate.state == PeerState::Suspect && !candidate.local,
        },
    }
}

/// Those with a weight first, drawn in proportion; the others keep their order behind them.
fn draw_by_weight(left: &mut SmallVec<[&Candidate; 4]>, draw: &mut impl FnMut() -> f64) {
    let weighted = left.iter().filter(|candidate| candidate.weight > 0).count();
    left.sort_by_key(|candidate| candidate.weight == 0);
    for place in 0..weighted {
        let sum: u32 = left[place..weighted].iter().map(|candidate| candidate.weight).sum();
        let mut point = draw() * f64::from(sum);
        let chosen = left[place..weighted]
            .iter()
            .position(|candidate| {
                point -= f64::from(candidate.weight);
                point < 0.0
            })
            .unwrap_or(0);
        left[place..=place + chosen].rotate_right(1);
    }
}

/// One in slow start steps back behind the next serving one, except for its share. A peer that
/// was never heard, drains or is the last resort is no better place.
fn yield_slow_starters(left: &mut [&Candidate], draw: &mut impl FnMut() -> f64) {
    let serves = |c: &Candidate| {
        c.state != PeerState::Unknown && !matches!(c.reason, Reason::Draining | Reason::LastResort)
    };
    let serving = left.iter().take_while(|candidate| serves(candidate)).count();
    for place in 0..serving.saturating_sub(1) {
        let share = f64::from(left[place].share);
        if share < 1.0 && draw() >= share {
            left.swap(place, place + 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{PortNumber, PortSpec, Protocol};

    fn candidate(name: &str, weight: u32, usable: bool) -> Candidate {
        Candidate {
            cluster: ClusterId::parse(name).unwrap(),
            local: false,
            state: PeerState::Up,
            rtt: None,
            weight,
            share: 1.0,
            usable,
            reason: Reason::Nearest,
            since: crate::clock::now(),
        }
    }

    fn port(candidates: Vec<Candidate>, by_weight: bool) -> PortRoute {
        let spec = PortSpec {
            name: "".into(),
            protocol: Protocol::Tcp,
            port: PortNumber::new(80).unwrap(),
            app_protocol: None,
        };
        PortRoute { spec, candidates, by_weight }
    }

    fn names(port: &PortRoute, draw: f64) -> Vec<String> {
        order(port, || draw).iter().map(|d| d.cluster.to_string()).collect()
    }

    #[test]
    fn unusable_candidates_are_left_out_and_the_order_is_kept() {
        let port = port(
            vec![candidate("a", 1, true), candidate("b", 1, false), candidate("c", 1, true)],
            false,
        );
        assert_eq!(names(&port, 0.99), ["a", "c"]);
        assert!(is_served(&port));
    }

    #[test]
    fn a_pod_is_nowhere_but_in_its_own_cluster() {
        let mut down = candidate("c", 1, false);
        down.reason = Reason::Down;
        let port = port(vec![candidate("a", 1, true), candidate("b", 1, false), down], false);
        for (cluster, tried, led) in
            [("a", 1, true), ("b", 0, false), ("c", 1, false), ("d", 0, false)]
        {
            let pod = PodName {
                cluster: ClusterId::parse(cluster).unwrap(),
                hostname: crate::model::HostLabel::parse("db-0").unwrap(),
            };
            let to = of_pod(&port, &pod);
            assert_eq!(to.len(), tried, "{cluster}");
            assert!(to.iter().all(|destination| destination.cluster == pod.cluster));
            assert_eq!(serves(&port, Some(&pod)), led, "{cluster}");
        }
    }

    #[test]
    fn weights_draw_in_proportion_and_zero_comes_last() {
        let weighted = port(
            vec![candidate("a", 0, true), candidate("b", 900, true), candidate("c", 100, true)],
            true,
        );
        assert_eq!(names(&weighted, 0.0), ["b", "c", "a"]);
        assert_eq!(names(&weighted, 0.95), ["c", "b", "a"]);
    }

    #[test]
    fn a_slow_starter_yields_except_for_its_share() {
        let mut back = candidate("a", 1, true);
        back.share = 0.25;
        let port = port(vec![back, candidate("b", 1, true)], false);
        assert_eq!(names(&port, 0.2), ["a", "b"]);
        assert_eq!(names(&port, 0.3), ["b", "a"]);
    }

    #[test]
    fn a_slow_starter_does_not_yield_to_a_peer_never_heard() {
        let mut back = candidate("a", 1, true);
        back.share = 0.25;
        let mut unheard = candidate("b", 1, true);
        unheard.state = PeerState::Unknown;
        let port = port(vec![back, unheard], false);
        assert_eq!(names(&port, 0.3), ["a", "b"]);
    }
}
