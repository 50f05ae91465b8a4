//! The candidates of one stream, in the order it tries them.

use std::cmp::Reverse;
use std::net::IpAddr;

use smallvec::SmallVec;

use super::affinity::{Client, Name};
use super::race::Runner;
use crate::catalog::{Policy, SessionAffinity};
use crate::health::PeerState;
use crate::model::{Callee, ClusterId, PodName, PortKey};
use crate::routes::{Candidate, PortRoute, Reason, Route, tied_up_to};

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

/// Where a client of a listener may go, best first.
pub(super) fn of_callee(
    route: &Route,
    callee: &Callee,
    port: PortKey,
    client: IpAddr,
    draw: impl FnMut() -> f64,
) -> SmallVec<[Destination; 4]> {
    match &callee.pod {
        Some(pod) => route.port(port).map(|port| of_pod(port, pod)).unwrap_or_default(),
        None => for_client(route, port, client, draw),
    }
}

/// Where a client's stream may go, best first: with affinity a matter of the client alone, else of
/// `draw`, which gives numbers from 0 to 1.
fn for_client(
    route: &Route,
    port: PortKey,
    client: IpAddr,
    draw: impl FnMut() -> f64,
) -> SmallVec<[Destination; 4]> {
    let Some(port) = route.port(port) else { return SmallVec::new() };
    match route.session_affinity {
        SessionAffinity::None => order(port, draw),
        SessionAffinity::ClientIp { .. } => at_home(port, &route.policy, Client::of(client)),
    }
}

/// The usable candidates, the client's own first, so that any replica of ours leads it to the
/// same cluster; the others keep their order. A candidate that takes only a share keeps that share
/// of its clients.
fn at_home(port: &PortRoute, policy: &Policy, client: Client) -> SmallVec<[Destination; 4]> {
    let mut left: SmallVec<[&Candidate; 4]> =
        port.candidates.iter().filter(|candidate| candidate.usable).collect();
    let name = |candidate: &Candidate| Name::of_cluster(candidate.cluster.as_str());
    if port.by_weight {
        let won =
            |c: &Candidate| client.weighted(name(c), f64::from(c.weight) * f64::from(c.share));
        // What has no weight wins nothing and keeps its order.
        left.sort_by(|one, other| won(other).total_cmp(&won(one)));
        return left.into_iter().map(destination).collect();
    }
    let serving = serving(&left);
    let band = match policy {
        Policy::Pinned(_) => serving.min(1),
        _ => band(&left[..serving]),
    };
    left[..band].sort_by_key(|candidate| Reverse(client.score(name(candidate))));
    let takes = |c: &&Candidate| c.share >= 1.0 || client.part(name(c)) < f64::from(c.share);
    if let Some(chosen) = left[..serving].iter().position(takes) {
        left[..=chosen].rotate_right(1);
    }
    left.into_iter().map(destination).collect()
}

/// How many of the first are as good as the best. The own cluster has no equal.
fn band(serving: &[&Candidate]) -> usize {
    if serving.first().is_none_or(|first| first.local) {
        return serving.len().min(1);
    }
    let Some(best) = serving.iter().filter_map(|candidate| candidate.rtt).min() else { return 1 };
    let most = tied_up_to(best);
    let equal =
        |candidate: &&&Candidate| !candidate.local && candidate.rtt.is_some_and(|rtt| rtt <= most);
    serving.iter().take_while(equal).count().max(1)
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
fn of_pod(port: &PortRoute, pod: &PodName) -> SmallVec<[Destination; 4]> {
    let tried = |c: &&Candidate| c.usable || c.reason == Reason::Down;
    let candidates = port.candidates.iter().filter(|candidate| candidate.cluster == pod.cluster);
    candidates.filter(|candidate| !candidate.local).filter(tried).map(destination).collect()
}

/// The usable candidates in the order to try them. Under `weighted` they are drawn without
/// replacement; else one that takes only a share keeps its place only with that.
/// `draw` gives numbers from 0 to 1.
pub(super) fn order(port: &PortRoute, mut draw: impl FnMut() -> f64) -> SmallVec<[Destination; 4]> {
    let mut left: SmallVec<[&Candidate; 4]> =
        port.candidates.iter().filter(|candidate| candidate.usable).collect();
    if port.by_weight {
        draw_by_weight(&mut left, &mut draw);
    } else {
        divide_by_share(&mut left, &mut draw);
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

/// Those with a weight first, drawn in proportion to what they take of it; the others keep their
/// order behind them.
fn draw_by_weight(left: &mut SmallVec<[&Candidate; 4]>, draw: &mut impl FnMut() -> f64) {
    let weighted = left.iter().filter(|candidate| candidate.weight > 0).count();
    left.sort_by_key(|candidate| candidate.weight == 0);
    for place in 0..weighted {
        let takes = |c: &Candidate| f64::from(c.weight) * f64::from(c.share);
        let chosen = drawn(&left[place..weighted], takes, draw());
        left[place..=place + chosen].rotate_right(1);
    }
}

/// The place of the candidate that a point between 0 and 1 falls to, each as wide as `width` says.
fn drawn(of: &[&Candidate], width: impl Fn(&Candidate) -> f64, at: f64) -> usize {
    let mut point = at * of.iter().map(|candidate| width(candidate)).sum::<f64>();
    let chosen = of.iter().position(|candidate| {
        point -= width(candidate);
        point < 0.0
    });
    chosen.unwrap_or(0)
}

/// One that takes only a share leaves the rest to the next serving one, which may take only a
/// share of that. A peer that was never heard, drains or is the last resort is no better place:
/// what nobody else takes is divided in proportion to the shares.
fn divide_by_share(left: &mut [&Candidate], draw: &mut impl FnMut() -> f64) {
    let serving = serving(left);
    if serving < 2 || left[0].share >= 1.0 {
        return;
    }
    let mut takes = |c: &&Candidate| c.share >= 1.0 || draw() < f64::from(c.share);
    let chosen = left[..serving].iter().position(&mut takes);
    let share = |c: &Candidate| f64::from(c.share);
    let chosen = chosen.unwrap_or_else(|| drawn(&left[..serving], share, draw()));
    left[..=chosen].rotate_right(1);
}

/// How many of the first serve as they should.
fn serving(left: &[&Candidate]) -> usize {
    let serves = |c: &Candidate| {
        c.state != PeerState::Unknown && !matches!(c.reason, Reason::Draining | Reason::LastResort)
    };
    left.iter().take_while(|candidate| serves(candidate)).count()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

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

    /// Of 1 000 clients, how many each cluster is the home of.
    fn homes(port: &PortRoute, policy: &Policy) -> Vec<(String, usize)> {
        let mut homes = std::collections::BTreeMap::new();
        for number in 0..1_000_u32 {
            let address = std::net::Ipv4Addr::from(0x7f00_0000 + number);
            let order = at_home(port, policy, Client::of(address.into()));
            assert_eq!(order.len(), port.candidates.iter().filter(|c| c.usable).count());
            *homes.entry(order[0].cluster.to_string()).or_default() += 1;
        }
        homes.into_iter().collect()
    }

    fn at(name: &str, millis: u64) -> Candidate {
        Candidate { rtt: Some(Duration::from_millis(millis)), ..candidate(name, 1, true) }
    }

    #[test]
    fn with_affinity_clients_spread_over_those_as_good_as_the_best() {
        let near = port(vec![at("b", 14), at("a", 10), at("c", 16)], false);
        let [(a, at_a), (b, at_b)] = &homes(&near, &Policy::Nearest)[..] else { panic!("two") };
        assert_eq!((a.as_str(), b.as_str()), ("a", "b"), "c is 6 ms from the best");
        assert!(at_a.abs_diff(*at_b) < 150, "{at_a} and {at_b}");
        let far = port(vec![at("a", 100), at("b", 119), at("c", 121)], false);
        assert_eq!(homes(&far, &Policy::Nearest).len(), 2, "20 % of 100 ms");
        let pinned = Policy::Pinned(vec![ClusterId::parse("b").unwrap()]);
        assert_eq!(homes(&near, &pinned), [("b".to_owned(), 1_000)]);
        let own = Candidate { local: true, ..at("own", 0) };
        let with_own = port(vec![own, at("a", 1)], false);
        assert_eq!(homes(&with_own, &Policy::Nearest), [("own".to_owned(), 1_000)]);
    }

    #[test]
    fn with_affinity_weights_and_slow_start_share_clients_and_not_streams() {
        let weights = vec![candidate("a", 100, true), candidate("b", 300, true)];
        let weighted = homes(&port(weights, true), &Policy::Weighted);
        assert!((200..300).contains(&weighted[0].1), "{weighted:?} for a quarter");
        let mut back = at("a", 10);
        back.share = 0.25;
        let alone = port(vec![back.clone(), at("b", 90)], false);
        let shared = homes(&alone, &Policy::Nearest);
        assert!((200..300).contains(&shared[0].1), "{shared:?} for a quarter");
        let equal = port(vec![back, at("b", 11)], false);
        let shared = homes(&equal, &Policy::Nearest);
        assert!((90..160).contains(&shared[0].1), "{shared:?} for an eighth");
    }

    #[test]
    fn with_affinity_a_cluster_gone_moves_only_its_own_clients() {
        let (all, left) =
            (vec![at("a", 10), at("b", 11), at("c", 12)], vec![at("c", 10), at("a", 9)]);
        let (all, left) = (port(all, false), port(left, false));
        for number in 0..1_000_u32 {
            let client = Client::of(std::net::Ipv4Addr::from(number).into());
            let before = at_home(&all, &Policy::Nearest, client)[0].cluster.clone();
            let after = at_home(&left, &Policy::Nearest, client)[0].cluster.clone();
            assert!(before == after || before.as_str() == "b");
        }
    }

    /// How often each leads in 10 000 choices, in percent.
    fn led(port: &PortRoute) -> std::collections::BTreeMap<String, f64> {
        use rand::{RngExt as _, SeedableRng as _};
        let mut random = rand::rngs::StdRng::seed_from_u64(7);
        let mut led = std::collections::BTreeMap::new();
        for _ in 0..10_000 {
            let first = order(port, || random.random_range(0.0..1.0)).remove(0);
            *led.entry(first.cluster.to_string()).or_default() += 0.01;
        }
        led
    }

    fn is_near(led: &std::collections::BTreeMap<String, f64>, name: &str, percent: f64) {
        let found = led.get(name).copied().unwrap_or_default();
        assert!((found - percent).abs() <= 3.0, "{name}: {found} % instead of {percent} %");
    }

    #[test]
    fn weights_hold_within_three_points_over_ten_thousand_choices() {
        let mut half = candidate("c", 400, true);
        half.share = 0.5;
        let weighted = port(vec![candidate("a", 600, true), candidate("b", 200, true), half], true);
        let led = led(&weighted);
        is_near(&led, "a", 60.0);
        is_near(&led, "b", 20.0);
        is_near(&led, "c", 20.0);
    }

    #[test]
    fn what_is_pinned_is_never_left_while_it_is_usable() {
        let mut pinned = candidate("far", 1, true);
        pinned.reason = Reason::Pinned;
        pinned.rtt = Some(Duration::from_millis(200));
        let mut near = candidate("near", 1000, true);
        near.rtt = Some(Duration::from_millis(1));
        let led = led(&port(vec![pinned, near], false));
        assert_eq!(led.len(), 1, "{led:?}");
        assert!(led.contains_key("far"));
    }

    #[test]
    fn shares_of_a_place_hold_within_three_points_over_ten_thousand_choices() {
        let with = |name: &str, share: f32| Candidate { share, ..candidate(name, 1, true) };
        let shares = led(&port(vec![with("a", 0.3), with("b", 0.5), with("c", 1.0)], false));
        is_near(&shares, "a", 30.0);
        is_near(&shares, "b", 35.0);
        is_near(&shares, "c", 35.0);
        let alone = led(&port(vec![with("a", 0.3), with("b", 0.3)], false));
        is_near(&alone, "a", 30.0 + 49.0 / 2.0);
        let drained = Candidate { reason: Reason::Draining, ..with("b", 0.0) };
        let last = led(&port(vec![with("a", 0.3), drained], false));
        is_near(&last, "a", 100.0);
    }
}
