//! Tables and properties of the order of candidates.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;
use crate::catalog::{
    Backend, CallerRules, ClusterRules, DnsMode, Export, ExportedEndpoint, ExportedPort, Fence,
    Guidance, IpFamily, LocalCatalog, LocalExport, PeerCatalog, Policy, ServiceType,
    SessionAffinity, Settings, Share, Steer, Weight,
};
use crate::health::{Pace, PeerState, PeerView, ReplicaView, Target};
use crate::model::{
    ClusterId, Locality, PortKey, PortNumber, PortSpec, Protocol, ReplicaId, ServiceKey,
};

pub(super) fn cluster(name: &str) -> ClusterId {
    ClusterId::parse(name).unwrap()
}

pub(super) fn web() -> ServiceKey {
    ServiceKey::parse("shop/web").unwrap()
}

fn port(number: u32) -> PortKey {
    PortKey::new(Protocol::Tcp, PortNumber::new(number).unwrap())
}

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn export(ports: &[(u32, u32)], created_ms: i64, settings: Settings) -> Export {
    let endpoint = |n: u32| ExportedEndpoint {
        address: IpAddr::from([10, 0, 0, u8::try_from(n).unwrap() + 1]),
        hostname: None,
        ports: ports.iter().map(|(number, _)| port(*number).into()).collect(),
    };
    Export {
        key: web(),
        created_ms,
        service_type: ServiceType::ClusterSetIp,
        ports: ports
            .iter()
            .map(|(number, ready)| ExportedPort {
                spec: PortSpec {
                    name: format!("p{number}").into(),
                    protocol: Protocol::Tcp,
                    port: PortNumber::new(*number).unwrap(),
                    app_protocol: None,
                },
                ready: *ready,
            })
            .collect(),
        session_affinity: SessionAffinity::None,
        ip_families: vec![IpFamily::V4],
        internal_traffic_policy: None,
        traffic_distribution: None,
        labels: BTreeMap::new(),
        annotations: BTreeMap::new(),
        settings,
        hosts: Vec::new(),
        endpoints: (0..ports.iter().map(|(_, ready)| *ready).max().unwrap_or(0))
            .map(endpoint)
            .collect(),
    }
}

/// A cluster set around paris, with one service.
pub(super) struct World {
    pub(super) inputs: Inputs,
    pub(super) now: Instant,
}

impl World {
    pub(super) fn new() -> Self {
        let now = crate::clock::now();
        let inputs = Inputs {
            cluster: cluster("paris"),
            started: now,
            locality: Locality { region: "eu".into(), zone: "eu-1".into() },
            network: "flat".into(),
            local: Arc::new(LocalCatalog::default()),
            peers: BTreeMap::new(),
            vips: BTreeMap::from([(web().into(), vec![IpAddr::from([127, 64, 0, 1])])]),
            ports: Arc::default(),
            namespaces: BTreeMap::new(),
            drains: Arc::default(),
        };
        Self { inputs, now }
    }

    pub(super) fn own(mut self, ready: u32, settings: Settings) -> Self {
        let backends = (0..ready)
            .map(|n| Backend {
                address: ([10, 9, 0, u8::try_from(n).unwrap() + 1], 80).into(),
                hostname: None,
            })
            .collect();
        let own = LocalExport {
            export: Arc::new(export(&[(80, ready)], 5, settings)),
            clusters: ClusterRules::Any,
            allow: CallerRules::default(),
            most_streams: None,
            steer: Steer::default(),
            direct_share: Share::FULL,
            guidance: Guidance::default(),
            backends: BTreeMap::from([(port(80), backends)]),
            slices: Vec::new(),
            problems: Vec::new(),
        };
        let exports = BTreeMap::from([(web(), Arc::new(own))]);
        self.inputs.local = Arc::new(LocalCatalog {
            revision: 1,
            synced: true,
            exports,
            ..LocalCatalog::default()
        });
        self
    }

    pub(super) fn peer(self, name: &str, state: PeerState, rtt: u64) -> Self {
        self.peer_with(name, state, rtt, &[(80, 2)], Settings::default())
    }

    pub(super) fn peer_with(
        mut self,
        name: &str,
        state: PeerState,
        rtt: u64,
        ports: &[(u32, u32)],
        settings: Settings,
    ) -> Self {
        let rtt = (state != Unknown).then(|| ms(rtt));
        let health = PeerView {
            state,
            since: self.now,
            rtt,
            ranking_rtt: rtt,
            loss_percent: 0.0,
            replicas: Vec::new(),
        };
        let catalog = PeerCatalog {
            exports: BTreeMap::from([(web(), Arc::new(export(ports, 10, settings)))]),
            network: "flat".into(),
            locality: Locality { region: "us".into(), zone: "us-1".into() },
        };
        let input =
            PeerInput { catalog: Arc::new(catalog), health: Some(health), ..PeerInput::default() };
        self.inputs.peers.insert(cluster(name), input);
        self
    }

    pub(super) fn at(mut self, name: &str, region: &str, zone: &str) -> Self {
        let peer = self.inputs.peers.get_mut(&cluster(name)).unwrap();
        let mut catalog = PeerCatalog::clone(&peer.catalog);
        catalog.locality = Locality { region: region.into(), zone: zone.into() };
        peer.catalog = Arc::new(catalog);
        self
    }

    pub(super) fn route(&self) -> Route {
        plan_service(&self.inputs, &web(), self.now).unwrap()
    }

    /// `cluster:reason`, an unusable one in brackets.
    pub(super) fn order(&self) -> Vec<String> {
        self.order_of(80)
    }

    fn order_of(&self, number: u32) -> Vec<String> {
        let route = self.route();
        let show = |c: &Candidate| {
            let text = format!("{}:{}", c.cluster, serde_json::to_value(c.reason).unwrap());
            let text = text.replace('"', "");
            if c.usable { text } else { format!("[{text}]") }
        };
        route.port(port(number)).unwrap().candidates.iter().map(show).collect()
    }
}

use PeerState::{Down, Draining, Suspect, Unknown, Up};

pub(super) fn settings(policy: Policy) -> Settings {
    Settings { policy, ..Settings::default() }
}

#[test]
fn nearest_orders_by_round_trip_with_the_own_cluster_first() {
    let world = World::new().own(1, Settings::default()).peer("oregon", Up, 20);
    let world = world.peer("tokyo", Up, 110);
    assert_eq!(world.order(), ["paris:local", "oregon:nearest", "tokyo:nearest"]);
}

#[test]
fn without_local_endpoints_the_nearest_peer_leads() {
    let world = World::new().own(0, Settings::default()).peer("oregon", Up, 20);
    let world = world.peer("tokyo", Up, 110);
    assert_eq!(world.order(), ["oregon:nearest", "tokyo:nearest", "[paris:no_endpoint]"]);
}

#[test]
fn s17_what_a_peer_claims_of_itself_draws_no_traffic() {
    let boasts = Settings { weight: Weight::new(1_000).unwrap(), ..Settings::default() };
    let world = World::new().own(0, Settings::default()).peer("oregon", Up, 20);
    let world = world.peer_with("tokyo", Up, 110, &[(80, 200)], boasts.clone());
    let world = world.at("tokyo", "eu", "eu-1");
    // Two hundred ready endpoints, all weight there is, next door: it is 110 ms away.
    assert_eq!(world.order(), ["oregon:nearest", "tokyo:nearest", "[paris:no_endpoint]"]);
    let gone = world.peer_with("tokyo", Down, 1, &[(80, 200)], boasts);
    assert_eq!(gone.order()[0], "oregon:nearest", "nor is it well because it says so");
    assert_eq!(Weight::new(1_001), None);
}

#[test]
fn a_suspect_keeps_its_place_a_down_peer_is_out() {
    let world = World::new().peer("oregon", Suspect, 20).peer("tokyo", Up, 110);
    assert_eq!(world.order(), ["oregon:suspect", "tokyo:nearest"]);
    let world = World::new().peer("oregon", Down, 20).peer("tokyo", Up, 110);
    assert_eq!(world.order(), ["tokyo:nearest", "[oregon:down]"]);
}

#[test]
fn draining_and_weight_zero_come_last_but_serve() {
    let zero = Settings { weight: Weight::new(0).unwrap(), ..Settings::default() };
    let world = World::new().peer("oregon", Draining, 20).peer("tokyo", Up, 110).peer_with(
        "berlin",
        Up,
        5,
        &[(80, 1)],
        zero,
    );
    assert_eq!(world.order(), ["tokyo:nearest", "berlin:draining", "oregon:draining"]);
}

#[test]
fn a_peer_never_heard_comes_after_those_that_answer() {
    let world = World::new().peer("oregon", Unknown, 0).peer("tokyo", Up, 110);
    assert_eq!(world.order(), ["tokyo:nearest", "oregon:nearest"]);
}

#[test]
fn the_order_of_an_earlier_run_holds_until_something_is_measured() {
    let mut world = World::new().peer("a", Unknown, 0).peer("b", Unknown, 0);
    world.inputs.peers.get_mut(&cluster("a")).unwrap().remembered_rtt = Some(ms(90));
    world.inputs.peers.get_mut(&cluster("b")).unwrap().remembered_rtt = Some(ms(10));
    assert_eq!(world.order(), ["b:nearest", "a:nearest"]);
}

#[test]
fn nothing_healthy_fails_open_in_the_last_known_order_for_a_day() {
    let world = World::new().peer("oregon", Down, 20).peer("tokyo", Down, 110);
    assert_eq!(world.order(), ["oregon:last_resort", "tokyo:last_resort"]);
    let mut later = world;
    later.now += Duration::from_hours(25);
    assert_eq!(later.order(), ["[oregon:down]", "[tokyo:down]"]);
}

#[test]
fn the_end_of_the_last_resort_is_told_once() {
    let world = World::new().peer("oregon", Down, 20).peer("tokyo", Up, 110);
    let since = world.inputs.peers[&cluster("oregon")].health.as_ref().unwrap().since;
    let end = since + Duration::from_hours(24);
    let ended = |before, now| world.inputs.last_resorts_ended(before, now);
    assert!(ended(since, end).is_empty(), "it may serve up to then");
    assert_eq!(ended(end, end + ms(1)), [web()].into());
    assert!(ended(end + ms(1), end + ms(900)).is_empty());
}

#[test]
fn ports_are_strict() {
    let world = World::new().peer_with("oregon", Up, 20, &[(80, 1)], Settings::default());
    let world = world.peer_with("tokyo", Up, 110, &[(80, 1), (443, 1)], Settings::default());
    assert_eq!(world.order_of(80), ["oregon:nearest", "tokyo:nearest"]);
    assert_eq!(world.order_of(443), ["tokyo:nearest", "[oregon:port_not_exported]"]);
}

#[test]
fn equally_near_peers_are_told_apart_by_locality() {
    let world = World::new().peer("a", Up, 20).peer("b", Up, 23).at("b", "eu", "eu-1");
    assert_eq!(world.order(), ["b:tie_locality", "a:tie_locality"]);
    let world = World::new().peer("a", Up, 20).peer("b", Up, 26).at("b", "eu", "eu-1");
    assert_eq!(world.order(), ["a:nearest", "b:nearest"], "6 ms is no tie");
}

#[test]
fn policies_order_as_the_table_of_annotations_says() {
    let of = |policy: Policy| {
        World::new().own(1, settings(policy)).peer("oregon", Up, 20).peer("tokyo", Up, 110).order()
    };
    assert_eq!(of(Policy::Local), ["paris:local", "[oregon:fenced]", "[tokyo:fenced]"]);
    let pinned = Policy::Pinned(vec![cluster("tokyo"), cluster("oregon")]);
    assert_eq!(of(pinned), ["tokyo:pinned", "oregon:pinned", "paris:local"]);
    assert_eq!(of(Policy::Weighted), ["paris:weighted", "oregon:weighted", "tokyo:weighted"]);
}

#[test]
fn policy_local_leaves_home_only_when_home_has_no_endpoint() {
    let world = World::new().own(0, settings(Policy::Local)).peer("oregon", Up, 20);
    assert_eq!(world.order(), ["oregon:nearest", "[paris:no_endpoint]"]);
}

#[test]
fn policy_local_leaves_a_home_that_is_drained_by_its_weight() {
    let drained = Settings { weight: Weight::new(0).unwrap(), ..settings(Policy::Local) };
    let world = World::new().own(1, drained).peer("oregon", Up, 20);
    assert_eq!(world.order(), ["oregon:nearest", "paris:draining"]);
}

#[test]
fn weights_draw_no_peer_never_heard_while_another_answers() {
    let weighted = settings(Policy::Weighted);
    let world = World::new().own(1, weighted.clone()).peer("oregon", Unknown, 0);
    let weights = |world: &World| -> Vec<u32> {
        world.route().ports[0].candidates.iter().map(|candidate| candidate.weight).collect()
    };
    assert_eq!(weights(&world), [100, 0]);
    let world = World::new()
        .peer_with("oregon", Unknown, 0, &[(80, 1)], weighted.clone())
        .peer_with("tokyo", Unknown, 0, &[(80, 1)], weighted);
    assert_eq!(weights(&world), [100, 100], "none answers: all are equally unknown");
}

#[test]
fn a_replica_that_comes_back_does_not_shrink_the_share_of_its_peer() {
    let mut world = World::new().peer("oregon", Up, 20);
    let peer = world.inputs.peers.get_mut(&cluster("oregon")).unwrap();
    let replica = |id: u64, state: PeerState, slow_start: f32| ReplicaView {
        target: Target {
            peer: cluster("oregon"),
            address: ([10, 0, 0, 1], 8443).into(),
            replica: ReplicaId::from_u64(id),
        },
        state,
        since: world.now,
        rtt: None,
        pace: Pace::Steady,
        ask_streams: false,
        reset_unheard_since: None,
        slow_start,
    };
    let health = peer.health.as_mut().unwrap();
    health.replicas = vec![replica(1, Up, 0.1), replica(2, Up, 1.0)];
    let share = |world: &World| world.route().ports[0].candidates[0].share;
    assert!((share(&world) - 1.0).abs() < f32::EPSILON);
    let health = world.inputs.peers.get_mut(&cluster("oregon")).unwrap().health.as_mut().unwrap();
    health.replicas[1].state = Down;
    assert!((share(&world) - 0.1).abs() < f32::EPSILON, "the dead take no share");
}

#[test]
fn a_namespace_leads_its_callers_but_for_what_the_own_export_says() {
    let said = |policy| Guidance { policy: Some(policy), ..Guidance::default() };
    let led = |mut world: World, own: Guidance| {
        let key = world.route().key;
        world.inputs.namespaces.insert(key.namespace.clone(), said(Policy::Local));
        let mut local = LocalCatalog::clone(&world.inputs.local);
        if let Some(export) = local.exports.get_mut(&key) {
            Arc::make_mut(export).guidance = own;
        }
        world.inputs.local = Arc::new(local);
        world.route().policy
    };
    let peer = || World::new().peer_with("oregon", Up, 20, &[(80, 1)], settings(Policy::Weighted));
    assert_eq!(led(peer(), Guidance::default()), Policy::Local);
    let own = || peer().own(1, settings(Policy::Nearest));
    assert_eq!(led(own(), Guidance::default()), Policy::Local, "its export says nothing");
    assert_eq!(led(own(), said(Policy::Nearest)), Policy::Nearest);
}

#[test]
fn a_peer_whose_policy_is_not_trusted_leads_nobody() {
    let world =
        || {
            World::new()
                .peer_with("oregon", Up, 20, &[(80, 1)], settings(Policy::Weighted))
                .peer_with("tokyo", Up, 110, &[(80, 1)], settings(Policy::Local))
        };
    let distrust = |mut world: World, peers: &[&str]| {
        for peer in peers {
            world.inputs.peers.get_mut(&cluster(peer)).unwrap().leads = false;
        }
        world.route().policy
    };
    // Of equally old exports the first by name counts.
    assert_eq!(distrust(world(), &[]), Policy::Weighted);
    assert_eq!(distrust(world(), &["oregon"]), Policy::Local);
    assert_eq!(distrust(world(), &["oregon", "tokyo"]), Policy::Nearest);
    let own = world().own(1, settings(Policy::Local));
    assert_eq!(distrust(own, &["oregon", "tokyo"]), Policy::Local, "the own one counts");
}

#[test]
fn weights_draw_and_slow_start_scales_them() {
    let heavy = Settings {
        weight: Weight::new(300).unwrap(),
        policy: Policy::Weighted,
        ..Settings::default()
    };
    let world = World::new().peer_with("oregon", Up, 20, &[(80, 1)], heavy);
    let route = world.route();
    let port = route.port(port(80)).unwrap();
    assert!(port.by_weight);
    assert_eq!(port.candidates[0].weight, 300);
}

#[test]
fn a_fence_is_never_left_not_even_as_a_last_resort() {
    let region = Settings { fence: Fence::Region, ..Settings::default() };
    let world = World::new().own(0, region).peer("oregon", Up, 20).peer("berlin", Down, 9);
    let world = world.at("berlin", "eu", "eu-2");
    assert_eq!(world.order(), ["berlin:last_resort", "[paris:no_endpoint]", "[oregon:fenced]"]);
}

#[test]
fn direct_endpoints_leave_out_the_dead_where_others_serve() {
    let endpoints = Settings { dns: DnsMode::Endpoints, ..Settings::default() };
    let world = |state| {
        World::new().peer_with("oregon", state, 20, &[(80, 1)], endpoints.clone()).peer_with(
            "tokyo",
            Up,
            110,
            &[(80, 2)],
            endpoints.clone(),
        )
    };
    let clusters = |world: &World| -> Vec<String> {
        world.route().direct.iter().map(|d| d.cluster.to_string()).collect()
    };
    assert_eq!(clusters(&world(Up)), ["oregon", "tokyo"]);
    assert_eq!(clusters(&world(Down)), ["tokyo"]);
    let mut apart = world(Up);
    apart.inputs.network = "".into();
    assert!(clusters(&apart).is_empty(), "an empty network is shared with nobody");
}

#[test]
fn endpoints_of_the_dead_leave_the_answers_also_where_only_the_address_serves() {
    let endpoints = Settings { dns: DnsMode::Endpoints, ..Settings::default() };
    let mut world = World::new()
        .peer_with("oregon", Down, 20, &[(80, 1)], endpoints.clone())
        .peer_with("tokyo", Up, 110, &[(80, 1)], endpoints);
    let tokyo = world.inputs.peers.get_mut(&cluster("tokyo")).unwrap();
    let mut catalog = PeerCatalog::clone(&tokyo.catalog);
    catalog.network = "other".into();
    tokyo.catalog = Arc::new(catalog);
    assert_eq!(world.route().direct, [], "tokyo serves behind the clusterset address");
}

#[test]
fn endpoints_of_the_dead_are_a_last_resort_for_a_day() {
    let endpoints = Settings { dns: DnsMode::Endpoints, ..Settings::default() };
    let mut world = World::new().peer_with("oregon", Down, 20, &[(80, 1)], endpoints);
    assert_eq!(world.route().direct.len(), 1);
    world.now += Duration::from_hours(25);
    assert_eq!(world.route().direct, []);
}

#[test]
fn headless_endpoints_of_the_dead_serve_where_no_other_can_be_reached() {
    let mut world = World::new().peer("oregon", Down, 20).peer("tokyo", Up, 110);
    for (name, network) in [("oregon", "flat"), ("tokyo", "other")] {
        let peer = world.inputs.peers.get_mut(&cluster(name)).unwrap();
        let mut export = export(&[(80, 1)], 10, Settings::default());
        export.service_type = ServiceType::Headless;
        peer.catalog = Arc::new(PeerCatalog {
            exports: BTreeMap::from([(web(), Arc::new(export))]),
            network: network.into(),
            locality: Locality::default(),
        });
    }
    let clusters = |world: &World| -> Vec<String> {
        world.route().direct.iter().map(|d| d.cluster.to_string()).collect()
    };
    assert_eq!(clusters(&world), ["oregon"]);
    world.now += Duration::from_hours(25);
    assert!(clusters(&world).is_empty());
}

#[test]
fn pods_on_another_network_are_named_at_the_addresses_they_have_here() {
    let mut world = World::new().peer("oregon", Up, 20).peer("tokyo", Down, 110);
    let pod = |name: &str, host: &str| crate::model::PodName {
        cluster: cluster(name),
        hostname: crate::model::HostLabel::parse(host).unwrap(),
    };
    for name in ["oregon", "tokyo"] {
        let peer = world.inputs.peers.get_mut(&cluster(name)).unwrap();
        let mut export = export(&[(80, 2)], 10, Settings::default());
        export.service_type = ServiceType::Headless;
        let host = |host| crate::catalog::ExportedHost {
            hostname: pod(name, host).hostname,
            ports: vec![port(80).into(), port(81).into()],
        };
        export.hosts = vec![host("db-0"), host("db-1")];
        peer.catalog = Arc::new(PeerCatalog {
            exports: BTreeMap::from([(web(), Arc::new(export))]),
            network: "other".into(),
            locality: Locality::default(),
        });
    }
    assert_eq!(world.route().direct, [], "none has an address yet");
    let vip = |last| IpAddr::from([10, 96, 0, last]);
    for (name, host, last) in [("oregon", "db-1", 1), ("oregon", "db-0", 2), ("tokyo", "db-0", 3)] {
        let callee = crate::model::Callee::pod(web(), pod(name, host));
        world.inputs.vips.insert(callee, vec![vip(last)]);
    }
    let route = world.route();
    let named = |route: &Route| -> Vec<String> {
        let all = route.direct.iter().flat_map(|d| d.endpoints.iter().map(move |e| (d, e)));
        all.map(|(d, e)| format!("{} {} {}", d.cluster, e.hostname.clone().unwrap(), e.address))
            .collect()
    };
    assert_eq!(named(&route), ["oregon db-1 10.96.0.1", "oregon db-0 10.96.0.2"]);
    assert_eq!(route.pods.led.len(), 4, "those of a dead cluster keep what they have");
    assert!(route.pods.led.iter().all(|pod| pod.ports.len() == 1), "the import has port 80 only");
    let usable = |of: &RemotePod| of.usable == (of.name.cluster == cluster("oregon"));
    assert!(route.pods.led.iter().all(usable));
    let table = plan(&world.inputs, world.now);
    assert_eq!(table.vips[&vip(3)].pod, Some(pod("tokyo", "db-0")));

    world.inputs.peers.get_mut(&cluster("oregon")).unwrap().health.as_mut().unwrap().state = Down;
    assert_eq!(named(&world.route()).len(), 3, "all dead: the last resort");
    world.inputs.network = "other".into();
    assert_eq!(world.route().pods.led, [], "on a shared network they are reached directly");
}

#[test]
fn only_the_dirty_services_are_planned_again() {
    let world = World::new().peer("oregon", Up, 20);
    let before = plan(&world.inputs, world.now);
    let same = replan(&before, &world.inputs, &[].into(), world.now);
    assert!(Arc::ptr_eq(&before.services[&web()], &same.services[&web()]));
    let mut gone = world;
    gone.inputs.peers.clear();
    let after = replan(&before, &gone.inputs, &[web()].into(), gone.now);
    assert!(after.services.is_empty() && after.vips.is_empty());
}

#[derive(Debug, Clone)]
struct AnyPeer {
    state: PeerState,
    rtt: u64,
    ready: u32,
    weight: u32,
}

fn any_peer() -> impl Strategy<Value = AnyPeer> {
    let states = prop::sample::select(vec![Up, Suspect, Down, Draining, Unknown]);
    (states, 1_u64..200, 0_u32..3, 0_u32..200).prop_map(|(state, rtt, ready, weight)| AnyPeer {
        state,
        rtt,
        ready,
        weight,
    })
}

fn any_policy() -> impl Strategy<Value = Policy> {
    prop_oneof![
        Just(Policy::Nearest),
        Just(Policy::Local),
        Just(Policy::Weighted),
        Just(Policy::Pinned(vec![cluster("c3"), cluster("paris"), cluster("c1")])),
    ]
}

proptest! {
    #[test]
    fn a_plan_does_not_depend_on_the_order_of_its_inputs_and_never_leads_into_the_dead(
        peers in prop::collection::vec(any_peer(), 0..6),
        own in prop::option::of(0_u32..3),
        policy in any_policy(),
    ) {
        let build = |reversed: bool| {
            let mut world = World::new();
            if let Some(ready) = own {
                world = world.own(ready, settings(policy.clone()));
            }
            let mut named: Vec<_> = peers.iter().enumerate().collect();
            if reversed {
                named.reverse();
            }
            for (index, peer) in named {
                let of = Settings {
                    policy: policy.clone(),
                    weight: Weight::new(peer.weight).unwrap(),
                    ..Settings::default()
                };
                let ports = [(80, peer.ready)];
                world = world.peer_with(&format!("c{index}"), peer.state, peer.rtt, &ports, of);
            }
            world
        };
        let (one, other) = (build(false), build(true));
        prop_assume!(own.is_some() || !peers.is_empty());
        prop_assert_eq!(one.order(), other.order());
        let route = one.route();
        let candidates = &route.port(port(80)).unwrap().candidates;
        prop_assert_eq!(candidates.len(), peers.len() + usize::from(own.is_some()));
        let unusable_from = candidates.iter().position(|c| !c.usable).unwrap_or(candidates.len());
        prop_assert!(candidates[unusable_from..].iter().all(|c| !c.usable), "unusable ones last");
        if candidates.iter().any(|c| c.usable && c.state != Down) {
            prop_assert!(candidates.iter().all(|c| !c.usable || c.state != Down));
        }
        let local_first = policy == Policy::Nearest && own.is_some_and(|ready| ready > 0);
        if local_first {
            prop_assert!(candidates[0].local);
        }
        let draining_from = candidates
            .iter()
            .position(|c| c.reason == Reason::Draining)
            .unwrap_or(unusable_from);
        prop_assert!(candidates[draining_from..unusable_from]
            .iter()
            .all(|c| c.reason == Reason::Draining), "draining last among the usable");
    }
}
