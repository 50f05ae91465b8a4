use std::time::Duration;

use prometheus::{Registry, TextEncoder};

use super::*;
use crate::clock;

fn rendered(registry: &Registry) -> String {
    TextEncoder::new().encode_to_string(&registry.gather()).unwrap()
}

#[test]
fn a_throttle_passes_the_first_and_counts_what_it_held_back() {
    let start = clock::now();
    let at = |ms| start + Duration::from_millis(ms);
    let throttle = Throttle::new(Duration::from_secs(1));
    let passed: Vec<_> = [0, 10, 999, 1000, 1500, 5000].map(|ms| throttle.pass(at(ms))).to_vec();
    assert_eq!(passed, [Some(0), None, None, Some(2), None, Some(1)]);
}

#[test]
fn builders_register_what_they_make() {
    let registry = Registry::new();
    counter(&registry, "a_total", "A.").unwrap().inc();
    counters(&registry, "b_total", "B.", &["x"]).unwrap().with_label_values(&["1"]).inc();
    gauge(&registry, "c", "C.").unwrap().set(2.5);
    gauges(&registry, "d", "D.", &["x"]).unwrap().with_label_values(&["1"]).set(3.0);
    histogram(&registry, "e", "E.", vec![1.0]).unwrap().observe(0.5);
    let labelled = histograms(&registry, "f", "F.", &["x"], vec![1.0]).unwrap();
    labelled.with_label_values(&["1"]).observe(0.5);
    for component in ["one", "two"] {
        panic_counter(&registry, component).unwrap();
    }
    let text = rendered(&registry);
    for line in [
        "a_total 1",
        "b_total{x=\"1\"} 1",
        "c 2.5",
        "d{x=\"1\"} 3",
        "e_count 1",
        "f_count{x=\"1\"} 1",
        "portolan_panics_total{component=\"one\"} 0",
        "portolan_panics_total{component=\"two\"} 0",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
    }
    assert!(counter(&registry, "a_total", "A.").is_err(), "a name is registered once");
}

#[test]
fn bucket_bounds_are_evenly_spread_from_the_shortest_to_the_longest() {
    let bounds = spread(Duration::from_millis(1), Duration::from_secs(1), 4);
    assert_eq!(bounds.len(), 4);
    for (bound, wanted) in bounds.iter().zip([0.001, 0.01, 0.1, 1.0]) {
        assert!((bound / wanted - 1.0).abs() < 1e-9, "{bounds:?}");
    }
}

#[test]
fn the_process_shows_its_own_figures() {
    let registry = Registry::new();
    register_process(&registry).unwrap();
    let value = |name: &str| {
        let text = rendered(&registry);
        let line = text.lines().find(|line| line.starts_with(&format!("{name} "))).unwrap();
        line.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap()
    };
    assert!(value("process_resident_memory_bytes") > 1e6);
    assert!(value("process_virtual_memory_bytes") >= value("process_resident_memory_bytes"));
    assert!(value("process_threads") >= 1.0);
    assert!(value("process_open_fds") >= 3.0);
    assert!(value("process_max_fds") >= value("process_open_fds"));
    let now = clock::wall_ms() as f64 / 1000.0;
    let started = value("process_start_time_seconds");
    assert!(started <= now + 2.0 && started > now - 7.0 * 24.0 * 3600.0, "{started} at {now}");
    let before = value("process_cpu_seconds_total");
    assert!(value("process_cpu_seconds_total") >= before);
}

#[test]
fn a_filter_quiets_libraries_unless_it_names_them() {
    let shown = |filter: &str| log::parse(filter).unwrap().to_string();
    assert!(shown("debug").contains("rustls=warn"));
    assert!(shown("debug").contains("debug"));
    let named = shown("info,rustls=trace");
    assert!(named.contains("rustls=trace") && !named.contains(",rustls=warn"), "{named}");
    let error = log::parse("info,=x=y").unwrap_err().to_string();
    assert!(error.contains("is not a log filter"), "{error}");
}
