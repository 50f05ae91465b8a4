use std::collections::HashSet;

use proptest::prelude::*;

use super::*;

const HOUR: i64 = 3600 * 1000;

fn key(text: &str) -> Callee {
    ServiceKey::parse(text).unwrap().into()
}

fn nth_key(number: usize) -> Callee {
    key(&format!("shop/svc-{number}"))
}

fn over(ranges: &[&str]) -> Allocator {
    Allocator::new(ranges.iter().map(|range| range.parse().unwrap()).collect(), None)
}

fn restarted(allocator: &Allocator, ranges: &[&str]) -> Allocator {
    let json = serde_json::to_string(&allocator.saved()).unwrap();
    let ranges = ranges.iter().map(|range| range.parse().unwrap()).collect();
    Allocator::new(ranges, Some(serde_json::from_str(&json).unwrap()))
}

#[test]
fn a_name_has_one_address_per_range_and_keeps_it() {
    let mut allocator = over(&["fd00:64::/112", "127.64.0.0/16", "10.0.0.0/8"]);
    let first = allocator.assign(&key("shop/web"), 0).unwrap();
    assert!(first[0].is_ipv4() && first[1].is_ipv6() && first.len() == 2);
    assert!(first.iter().all(|address| allocator.is_vip(*address)));
    assert_eq!(allocator.assign(&key("shop/web"), 99 * HOUR).unwrap(), first);
    assert_eq!(allocator.get(&key("shop/web")), Some(first.as_slice()));
    assert_ne!(allocator.assign(&key("shop/db"), 0).unwrap(), first);
    assert_eq!(allocator.held().count(), 2);
    assert!(!allocator.is_vip("10.0.0.1".parse().unwrap()), "the second IPv4 range is not used");
    assert!(allocator.is_vip("::ffff:127.64.0.9".parse().unwrap()));
}

#[test]
fn the_pods_of_a_service_hold_addresses_of_their_own() {
    let mut allocator = over(&["127.64.0.0/16"]);
    let pod = |host: &str| {
        let cluster = crate::model::ClusterId::parse("oregon").unwrap();
        let hostname = crate::model::HostLabel::parse(host).unwrap();
        Callee::pod(key("shop/db").service, crate::model::PodName { cluster, hostname })
    };
    let [zero, one] = ["db-0", "db-1"].map(pod);
    let before = allocator.assign(&zero, 0).unwrap();
    assert_ne!(allocator.assign(&one, 0).unwrap(), before);
    allocator.assign(&key("shop/dbx"), 0).unwrap();
    allocator.release(&one, 0);
    let service = key("shop/db").service;
    assert!(allocator.held_of(&service).eq([&zero]));
    let again = restarted(&allocator, &["127.64.0.0/16"]);
    assert_eq!(again.get(&zero), Some(before.as_slice()));
    assert_eq!(again.get(&one), None);
}

#[test]
fn without_ranges_there_are_no_addresses() {
    assert_eq!(over(&[]).assign(&key("shop/web"), 0), Ok(vec![]));
}

#[test]
fn a_lost_state_gives_the_same_addresses() {
    let assign = |order: &mut dyn Iterator<Item = usize>| -> BTreeMap<usize, Vec<IpAddr>> {
        let mut allocator = over(&["127.64.0.0/16"]);
        order.map(|n| (n, allocator.assign(&nth_key(n), 0).unwrap())).collect()
    };
    let one = assign(&mut (0..1000));
    let other = assign(&mut (0..1000).rev());
    let moved = one.iter().filter(|(n, addresses)| other[n] != **addresses).count();
    assert!(moved < 50, "{moved} of 1000 moved");
}

#[test]
fn the_network_and_broadcast_addresses_are_never_used() {
    for (range, usable) in [
        ("10.0.0.0/29", 6),
        ("10.0.0.8/30", 2),
        ("10.0.0.4/31", 2),
        ("10.0.0.4/32", 1),
        ("fd00::/125", 7),
        ("fd00::/127", 2),
        ("fd00::1/128", 1),
    ] {
        let net: IpNet = range.parse().unwrap();
        let mut allocator = over(&[range]);
        let found: HashSet<IpAddr> =
            (0..usable).flat_map(|n| allocator.assign(&nth_key(n), 0).unwrap()).collect();
        assert_eq!(found.len(), usable, "{range}");
        if usable > 2 {
            assert!(!found.contains(&net.network()), "{range}");
        }
        if net.prefix_len() == 29 {
            assert!(!found.contains(&net.broadcast()));
        }
        let error = allocator.assign(&nth_key(usable), 0).unwrap_err();
        assert_eq!((error.held, error.resting), (usable, 0), "{range}");
    }
}

#[test]
fn the_largest_ranges_do_not_overflow() {
    for range in ["0.0.0.0/0", "::/0", "255.255.255.0/24", "ffff:ffff:ffff:ffff::/64"] {
        let mut allocator = over(&[range]);
        for n in 0..300 {
            let assigned = allocator.assign(&nth_key(n), i64::MAX);
            assert_eq!(assigned.is_ok(), range != "255.255.255.0/24" || n < 254, "{range} {n}");
        }
    }
}

#[test]
fn a_released_address_rests_a_day_but_its_own_name_may_have_it_back() {
    let mut allocator = over(&["10.0.0.4/32"]);
    let address = allocator.assign(&key("a/a"), 0).unwrap();
    allocator.release(&key("a/a"), HOUR);
    allocator.release(&key("a/a"), 20 * HOUR);
    assert_eq!(allocator.get(&key("a/a")), None);
    let error = allocator.assign(&key("b/b"), 25 * HOUR - 1).unwrap_err();
    assert_eq!((error.held, error.resting), (0, 1));
    assert!(error.to_string().contains("10.0.0.4/32") && error.to_string().contains("'vips'"));
    assert_eq!(allocator.assign(&key("a/a"), 25 * HOUR - 1), Ok(address.clone()));
    allocator.release(&key("a/a"), 30 * HOUR);
    assert_eq!(allocator.assign(&key("b/b"), 54 * HOUR), Ok(address));
    assert!(allocator.assign(&key("a/a"), 54 * HOUR).is_err());
}

#[test]
fn the_rest_outlives_a_restart_and_a_clock_that_was_set_back() {
    let range = ["10.0.0.4/32"];
    let mut allocator = over(&range);
    allocator.assign(&key("a/a"), 100 * HOUR).unwrap();
    allocator.release(&key("a/a"), 100 * HOUR);
    let mut allocator = restarted(&allocator, &range);
    assert!(allocator.assign(&key("b/b"), 123 * HOUR).is_err());
    // The clock is set back by four days: the rest is a day from now, not five.
    assert!(allocator.assign(&key("b/b"), 4 * HOUR).is_err());
    assert!(allocator.assign(&key("b/b"), 28 * HOUR).is_ok());
}

#[test]
fn changed_ranges_forget_what_no_longer_fits() {
    let mut allocator = over(&["10.0.0.0/24"]);
    let old = allocator.assign(&key("a/a"), 0).unwrap();
    let mut moved = restarted(&allocator, &["10.9.0.0/24"]);
    assert_eq!(moved.get(&key("a/a")), None);
    assert!(moved.is_vip(moved.ranges[0].nth(0)));
    assert_ne!(moved.assign(&key("a/a"), 0).unwrap(), old);
    let mut wider = restarted(&allocator, &["10.0.0.0/24", "fd00::/64"]);
    let both = wider.assign(&key("a/a"), 0).unwrap();
    assert_eq!((both[0], both.len()), (old[0], 2), "the IPv4 address stays");
}

#[test]
fn a_damaged_state_cannot_give_two_names_one_address() {
    let lease = |name: &str, address: &str| SavedLease {
        key: key(name),
        addresses: vec![address.parse().unwrap()],
        released_ms: None,
    };
    let leases = vec![lease("a/a", "10.0.0.1"), lease("b/b", "10.0.0.1"), lease("c/c", "10.0.0.0")];
    let allocator = Allocator::new(vec!["10.0.0.0/24".parse().unwrap()], Some(Saved { leases }));
    assert!(allocator.get(&key("a/a")).is_some());
    assert_eq!((allocator.get(&key("b/b")), allocator.get(&key("c/c"))), (None, None));
}

#[derive(Debug, Clone)]
enum Step {
    Assign(usize),
    Release(usize),
    Wait(i64),
    Restart,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0_usize..20).prop_map(Step::Assign),
        3 => (0_usize..20).prop_map(Step::Release),
        2 => (0..30 * HOUR).prop_map(Step::Wait),
        1 => Just(Step::Restart),
    ];
    prop::collection::vec(step, 1..120)
}

proptest! {
    #[test]
    fn addresses_are_unique_stable_and_not_reused_within_a_day(steps in steps()) {
        let ranges = ["10.0.0.0/28", "fd00::/120"];
        let mut allocator = over(&ranges);
        let mut now = 0;
        // What each name should hold, and who released an address last and when.
        let mut holds: BTreeMap<Callee, Vec<IpAddr>> = BTreeMap::new();
        let mut released: HashMap<IpAddr, (Callee, i64)> = HashMap::new();
        for step in steps {
            match step {
                Step::Assign(n) => {
                    let key = nth_key(n);
                    let Ok(addresses) = allocator.assign(&key, now) else {
                        prop_assert!(!holds.contains_key(&key));
                        continue;
                    };
                    prop_assert_eq!(addresses.len(), 2);
                    if let Some(held) = holds.get(&key) {
                        prop_assert_eq!(held, &addresses);
                    }
                    for address in &addresses {
                        if let Some((last, at)) = released.get(address) {
                            prop_assert!(last == &key || now - at >= REST_MS);
                        }
                    }
                    holds.insert(key, addresses);
                }
                Step::Release(n) => {
                    let key = nth_key(n);
                    allocator.release(&key, now);
                    for address in holds.remove(&key).unwrap_or_default() {
                        released.insert(address, (key.clone(), now));
                    }
                }
                Step::Wait(time) => now += time,
                Step::Restart => allocator = restarted(&allocator, &ranges),
            }
            let held: Vec<IpAddr> = holds.values().flatten().copied().collect();
            let distinct: HashSet<_> = held.iter().collect();
            prop_assert_eq!(distinct.len(), held.len());
            for (key, addresses) in &holds {
                prop_assert_eq!(allocator.get(key), Some(addresses.as_slice()));
            }
            prop_assert_eq!(allocator.held().count(), holds.len());
        }
    }
}
