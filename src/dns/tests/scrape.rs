use std::time::Duration;

use hickory_proto::op::ResponseCode;
use prometheus::{Registry, TextEncoder};

use super::*;
use crate::dns::respond::Responded;

fn responded(qtype: Option<u16>, code: ResponseCode) -> Responded {
    Responded { qtype, code }
}

fn text(tallies: &Arc<Tallies>) -> String {
    let registry = Registry::new();
    registry.register(Box::new(Collected(Arc::clone(tallies)))).unwrap();
    TextEncoder::new().encode_to_string(&registry.gather()).unwrap()
}

#[test]
fn sets_are_summed_and_outlive_their_threads() {
    let tallies = Arc::new(Tallies::new().unwrap());
    let shared = tallies.counts(Transport::Tcp);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            let mut own = tallies.tally(Transport::Udp);
            let shared = &shared;
            scope.spawn(move || {
                for _ in 0..1000 {
                    own.answered(responded(Some(1), ResponseCode::NoError));
                    own.dropped();
                    shared.answered(
                        responded(Some(28), ResponseCode::NXDomain),
                        Duration::from_secs(1),
                    );
                    shared.dropped();
                }
                own.took(Duration::from_micros(7), 1000);
            });
        }
    });
    let text = text(&tallies);
    for line in [
        "portolan_dns_queries_total{qtype=\"A\",rcode=\"NOERROR\",transport=\"udp\"} 4000",
        "portolan_dns_queries_total{qtype=\"AAAA\",rcode=\"NXDOMAIN\",transport=\"tcp\"} 4000",
        "portolan_dns_dropped_total 8000",
        "portolan_dns_seconds_bucket{le=\"0.000005\"} 0",
        "portolan_dns_seconds_bucket{le=\"0.00001\"} 4000",
        "portolan_dns_seconds_bucket{le=\"0.025\"} 4000",
        "portolan_dns_seconds_bucket{le=\"+Inf\"} 8000",
        "portolan_dns_seconds_sum 4000.028",
        "portolan_dns_seconds_count 8000",
    ] {
        assert!(text.lines().any(|is| is == line), "{line} in\n{text}");
    }
    assert_eq!(text.matches("portolan_dns_queries_total{").count(), 2, "what was counted only");
}

/// A type and a code come from outside: whatever they are, the label sets are these.
#[test]
fn label_sets_are_bounded() {
    let tallies = Arc::new(Tallies::new().unwrap());
    let mut own = tallies.tally(Transport::Udp);
    for qtype in (0..=u16::MAX).map(Some).chain([None]) {
        for (high, low) in
            [(0, 0), (0, 1), (0, 3), (0, 4), (0, 5), (1, 0), (0, 2), (0, 9), (255, 15)]
        {
            own.answered(responded(qtype, ResponseCode::from(high, low)));
        }
    }
    let text = text(&tallies);
    let sets = text.matches("portolan_dns_queries_total{").count();
    assert_eq!(sets, QTYPES.len() * RCODES.len());
    let other = "portolan_dns_queries_total{qtype=\"PTR\",rcode=\"FORMERR\",transport=\"udp\"} 4";
    assert!(text.lines().any(|line| line == other), "{text}");
}
