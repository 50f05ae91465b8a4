//! The order for clients elsewhere, and revisions over restarts.

use std::time::Duration;

use super::RouteTable;
use super::tests::{World, cluster, settings, web};
use crate::catalog::{DnsMode, Policy, Settings, Share, Weight};
use crate::health::PeerState::{self, Draining, Suspect, Unknown, Up};
use crate::testing::table::locality;

/// The own cluster and peers that all answer with endpoints; state, round trip, region and zone.
fn world(peers: &[(&str, PeerState, u64, &str, Settings)], own: Settings) -> World {
    let endpoints = |of: &Settings| Settings { dns: DnsMode::Endpoints, ..of.clone() };
    let mut world = World::new().own(1, endpoints(&own));
    for (name, state, rtt, place, settings) in peers {
        let place = locality(place);
        world = world.peer_with(name, *state, *rtt, &[(80, 1)], endpoints(settings));
        world = world.at(name, &place.region, &place.zone);
    }
    world
}

/// The clusters in the order for that place.
fn from(world: &World, place: &str) -> Vec<String> {
    let table = super::plan(&world.inputs, world.now);
    let route = &table.services[&web()];
    let seen = table.seen_from(route, &locality(place));
    let route = seen.as_ref().unwrap_or(route);
    route.direct.iter().map(|direct| direct.cluster.to_string()).collect()
}

fn plain() -> Settings {
    Settings::default()
}

#[test]
fn the_zone_comes_before_the_region_before_what_was_measured() {
    let world = world(
        &[
            ("berlin", Up, 20, "eu/eu-2", plain()),
            ("oregon", Up, 70, "us/us-1", plain()),
            ("quito", Up, 140, "us/us-2", plain()),
            ("tokyo", Up, 210, "ap/ap-1", plain()),
        ],
        plain(),
    );
    let here = ["paris", "berlin", "oregon", "quito", "tokyo"];
    for (place, order) in [
        ("eu/eu-1", here),
        ("af/af-1", here),
        ("", here),
        ("eu/eu-2", ["berlin", "paris", "oregon", "quito", "tokyo"]),
        ("us/us-2", ["quito", "oregon", "paris", "berlin", "tokyo"]),
        ("us", ["oregon", "quito", "paris", "berlin", "tokyo"]),
        ("ap/ap-9", ["tokyo", "paris", "berlin", "oregon", "quito"]),
    ] {
        assert_eq!(from(&world, place), order, "{place}");
    }
    let mut moved = world;
    moved.inputs.locality = locality("us/us-2");
    assert_eq!(from(&moved, "us/us-2"), here, "at our own place nearness is measured");
}

#[test]
fn health_and_policy_come_before_nearness() {
    let weighted = |weight: u32| Settings {
        weight: Weight::new(weight).unwrap(),
        ..settings(Policy::Weighted)
    };
    let pinned = || settings(Policy::Pinned(vec![cluster("tokyo"), cluster("oregon")]));
    for (peers, own, order) in [
        (
            [
                ("oregon", Draining, 20, "us/us-1", plain()),
                ("quito", Unknown, 0, "us/us-2", plain()),
                ("tokyo", Suspect, 90, "ap/ap-1", plain()),
            ],
            plain(),
            ["paris", "tokyo", "quito", "oregon"],
        ),
        (
            [
                ("oregon", Up, 20, "us/us-1", pinned()),
                ("quito", Up, 30, "us/us-2", pinned()),
                ("tokyo", Up, 90, "ap/ap-1", pinned()),
            ],
            pinned(),
            ["tokyo", "oregon", "quito", "paris"],
        ),
        (
            [
                ("oregon", Up, 20, "us/us-1", weighted(10)),
                ("quito", Up, 30, "us/us-2", weighted(100)),
                ("tokyo", Up, 90, "ap/ap-1", weighted(100)),
            ],
            weighted(100),
            ["quito", "paris", "tokyo", "oregon"],
        ),
        (
            [
                ("oregon", Up, 20, "us/us-1", plain()),
                ("quito", Up, 30, "us/us-2", plain()),
                ("tokyo", Up, 90, "ap/ap-1", plain()),
            ],
            Settings { share: Share::new(99).unwrap(), ..settings(Policy::Local) },
            ["paris", "oregon", "quito", "tokyo"],
        ),
    ] {
        assert_eq!(from(&world(&peers, own), "us/us-1"), order);
    }
}

/// Serials compare as RFC 1982 says.
fn later(one: u32, other: u32) -> bool {
    one != other && one.wrapping_sub(other) < 1 << 31
}

#[test]
fn revisions_rise_over_restarts_also_where_the_serial_wraps() {
    let serial = |revision: u64| u32::try_from(revision & u64::from(u32::MAX)).unwrap();
    let wrap_ms = (1i64 << 32) * 50;
    for start_ms in [0, 1_790_000_000_000, 9 * wrap_ms - 30_000] {
        let (mut now_ms, mut last) = (start_ms, None);
        // Each runs for a while, publishes all it may, and is begun anew after half a second.
        for run in [Duration::from_millis(1), Duration::from_secs(1), Duration::from_hours(1)] {
            let first = RouteTable::first_revision(now_ms);
            if let Some(last) = last {
                assert!(first > last && later(serial(first), serial(last)));
            }
            // Three at once, ten a second.
            last = Some(first + 3 + 10 * run.as_secs());
            now_ms += i64::try_from(run.as_millis()).unwrap() + 500;
        }
    }
    assert_eq!(RouteTable::first_revision(-5), 1, "a clock before 1970");
}
