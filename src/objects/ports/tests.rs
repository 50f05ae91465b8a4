use proptest::prelude::*;

use super::*;

fn number(port: u32) -> PortNumber {
    PortNumber::new(port).unwrap()
}

fn key(name: &str) -> Callee {
    ServiceKey::parse(&format!("shop/{name}")).unwrap().into()
}

fn tcp(port: u32) -> PortKey {
    PortKey::new(Protocol::Tcp, number(port))
}

fn udp(port: u32) -> PortKey {
    PortKey::new(Protocol::Udp, number(port))
}

fn book(ports: u32) -> PortBook {
    PortBook::new(number(20_000)..=number(20_000 + ports - 1))
}

fn now() -> Instant {
    crate::clock::now()
}

#[test]
fn the_same_name_finds_the_same_port_in_an_empty_book() {
    let at = now();
    let one = book(10_000).assign(&key("web"), &[tcp(80), udp(53)].into(), at).unwrap().clone();
    let mut other = book(10_000);
    other.assign(&key("db"), &[tcp(5432)].into(), at).unwrap();
    assert_eq!(*other.assign(&key("web"), &[udp(53), tcp(80)].into(), at).unwrap(), one);
}

#[test]
fn what_is_given_stays_and_is_in_the_book() {
    let (mut book, at) = (book(100), now());
    let before = book.assign(&key("web"), &[tcp(80)].into(), at).unwrap().clone();
    let after = book.assign(&key("web"), &[tcp(80), tcp(443)].into(), at).unwrap().clone();
    assert_eq!(after[&tcp(80)], before[&tcp(80)]);
    assert_eq!(book.held(&key("web")), Some(&after));
    for (port, at) in after {
        assert_eq!(book.book()[&(Protocol::Tcp, at)], (key("web"), port));
    }
}

#[test]
fn tcp_and_udp_of_one_number_are_two_allocations_and_sctp_has_none() {
    let mut book = book(1);
    let sctp = PortKey::new(Protocol::Sctp, number(53));
    let given = book.assign(&key("dns"), &[tcp(53), udp(53), sctp].into(), now()).unwrap();
    assert_eq!(*given, [(tcp(53), number(20_000)), (udp(53), number(20_000))].into());
}

#[test]
fn a_released_port_rests_ten_minutes_for_all_but_its_own() {
    let (mut book, at) = (book(1), now());
    book.assign(&key("web"), &[tcp(80)].into(), at).unwrap();
    book.release(&key("web"), at);
    assert!(book.book().is_empty());
    let nearly = at + PORT_RESTS - Duration::from_millis(1);
    assert!(book.assign(&key("db"), &[tcp(80)].into(), nearly).is_err());
    assert!(book.clone().assign(&key("web"), &[tcp(80)].into(), nearly).is_ok());
    assert!(book.assign(&key("db"), &[tcp(80)].into(), at + PORT_RESTS).is_ok());
}

#[test]
fn a_port_that_is_not_named_any_more_is_released() {
    let (mut book, at) = (book(2), now());
    book.assign(&key("web"), &[tcp(80), tcp(443)].into(), at).unwrap();
    book.assign(&key("web"), &[tcp(80)].into(), at).unwrap();
    assert!(book.assign(&key("db"), &[tcp(80)].into(), at).is_err(), "it rests");
    assert!(book.assign(&key("db"), &[tcp(80)].into(), at + PORT_RESTS).is_ok());
}

#[test]
fn an_exhausted_range_takes_nothing_from_anybody() {
    let (mut book, at) = (book(2), now());
    let web = book.assign(&key("web"), &[tcp(80)].into(), at).unwrap().clone();
    let refused = book.assign(&key("db"), &[tcp(1), tcp(2)].into(), at).unwrap_err();
    assert_eq!((refused.held, refused.resting), (1, 0));
    assert!(refused.to_string().contains("widen the range"), "{refused}");
    assert_eq!(book.held(&key("db")).map(BTreeMap::len), Some(0), "all or nothing");
    assert_eq!(book.held(&key("web")), Some(&web));
    let more = book.assign(&key("web"), &[tcp(80), tcp(1), tcp(2)].into(), at);
    assert!(more.is_err());
    assert_eq!(book.held(&key("web")), Some(&web), "what it has it keeps");
    assert!(book.assign(&key("db"), &[udp(1), udp(2)].into(), at).is_ok(), "UDP is its own");
}

#[test]
fn records_are_restored_and_the_first_of_two_claims_holds() {
    let (mut book, at) = (book(10), now());
    let record = |port: PortKey, at: u32| BTreeMap::from([(port, number(at))]);
    let (db, web) = (record(tcp(5432), 20_003), record(tcp(80), 20_003));
    let (far, sctp) =
        (record(tcp(80), 19_999), record(PortKey::new(Protocol::Sctp, number(1)), 20_001));
    let keys = [key("db"), key("far"), key("sctp"), key("web")];
    book.restore(keys.iter().zip([&db, &far, &sctp, &web]), at);
    assert_eq!(book.held(&key("db")), Some(&db));
    for other in ["far", "sctp", "web"] {
        assert_eq!(book.held(&key(other)), None, "{other}");
    }
    let given = book.assign(&key("web"), &[tcp(80)].into(), at).unwrap();
    assert_ne!(given[&tcp(80)], number(20_003));
}

#[test]
fn who_held_a_port_keeps_it_against_an_earlier_name() {
    let (mut book, at) = (book(10), now());
    let record = BTreeMap::from([(tcp(80), number(20_003))]);
    book.restore([(&key("web"), &record)], at);
    book.restore([(&key("aaa"), &record), (&key("web"), &record)], at);
    assert_eq!(book.held(&key("web")), Some(&record));
    assert_eq!(book.held(&key("aaa")), None);
    book.restore([(&key("aaa"), &record)], at);
    assert_eq!(book.held(&key("aaa")), Some(&record), "a record is the truth");
}

#[test]
fn a_record_that_vanished_rests_too() {
    let (mut book, at) = (book(1), now());
    book.restore([(&key("web"), &BTreeMap::from([(tcp(80), number(20_000))]))], at);
    book.restore([], at);
    assert!(book.assign(&key("db"), &[tcp(80)].into(), at).is_err());
}

#[test]
fn a_pod_holds_ports_of_its_own_beside_its_service() {
    let (mut book, at) = (book(10), now());
    let pod = |host: &str| PodName {
        cluster: crate::model::ClusterId::parse("oregon").unwrap(),
        hostname: crate::model::HostLabel::parse(host).unwrap(),
    };
    let service = key("db");
    let callees = [service.clone(), Callee::pod(service.service.clone(), pod("db-0"))];
    let given = callees
        .each_ref()
        .map(|callee| book.assign(callee, &[tcp(80)].into(), at).unwrap()[&tcp(80)]);
    assert_ne!(given[0], given[1]);
    for (callee, number) in callees.iter().zip(given) {
        assert_eq!(book.book()[&(Protocol::Tcp, number)], (callee.clone(), tcp(80)));
    }
    assert!(book.pods(&service.service).eq([&pod("db-0")]));
    let recorded: BTreeMap<_, _> =
        callees.iter().map(|callee| (callee.clone(), book.held(callee).unwrap().clone())).collect();
    let mut restored = PortBook::new(number(20_000)..=number(20_009));
    restored.restore(&recorded, at);
    assert_eq!(restored.book(), book.book());
    book.release(&callees[1], at);
    assert_eq!((book.pods(&service.service).count(), book.book().len()), (0, 1));
}

#[derive(Debug, Clone)]
enum Step {
    Assign(u8, BTreeSet<u32>),
    Release(u8),
    Wait(u64),
    Restore,
}

fn any_step() -> impl Strategy<Value = Step> {
    let ports = prop::collection::btree_set(1_u32..5, 0..4);
    prop_oneof![
        (0_u8..4, ports).prop_map(|(name, ports)| Step::Assign(name, ports)),
        (0_u8..4).prop_map(Step::Release),
        (0_u64..700).prop_map(Step::Wait),
        Just(Step::Restore),
    ]
}

proptest! {
    #[test]
    fn no_port_is_shared_lost_or_given_before_it_rested(
        steps in prop::collection::vec(any_step(), 0..40),
    ) {
        let (mut book, mut at) = (book(6), now());
        let mut left: BTreeMap<PortNumber, (Of, Instant)> = BTreeMap::new();
        for step in steps {
            let before = book.book();
            match step {
                Step::Assign(name, ports) => {
                    let ports = ports.into_iter().map(tcp).collect();
                    let _ = book.assign(&key(&format!("s{name}")), &ports, at);
                }
                Step::Release(name) => book.release(&key(&format!("s{name}")), at),
                Step::Wait(seconds) => at += Duration::from_secs(seconds),
                Step::Restore => {
                    let held = book.held.clone();
                    book.restore(&held, at);
                }
            }
            let after = book.book();
            for ((_, number), of) in before.iter().filter(|(place, _)| !after.contains_key(place)) {
                left.insert(*number, (of.clone(), at));
            }
            for ((_, number), of) in after.iter() {
                if let Some((whose, since)) = left.remove(number) {
                    prop_assert!(whose == *of || at >= since + PORT_RESTS);
                }
                prop_assert_eq!(book.held(&of.0).and_then(|held| held.get(&of.1)), Some(number));
            }
            let held: usize = book.held.values().map(BTreeMap::len).sum();
            prop_assert_eq!(held, after.len());
        }
    }
}
