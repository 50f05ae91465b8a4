//! What is measured, and the bounds.

use crate::options::{Group, Kind};
use crate::pair::Candidate;

/// One way to use a pair.
#[derive(Debug)]
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) group: Group,
    pub(crate) kind: Kind,
    /// Whether every connection has `cubic`, instead of what each pair asks for.
    pub(crate) cubic: bool,
    /// The service that is called.
    pub(crate) service: &'static str,
    /// Streams or client threads; 0: as many as the command line says.
    pub(crate) streams: usize,
    pub(crate) millis: u64,
    pub(crate) figures: &'static [Figure],
}

/// One number that a case yields.
#[derive(Debug)]
pub(crate) struct Figure {
    /// As the load calls it.
    pub(crate) name: &'static str,
    pub(crate) bounds: &'static [Bound],
    /// Wanted, but missing it fails nothing.
    pub(crate) goals: &'static [Bound],
    /// Whether a round counts as disturbed when this is three times its median: costs and times
    /// are, and nothing else.
    pub(crate) is_cost: bool,
}

/// What Portolan's median is held against.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Bound {
    AtMost(f64),
    AtLeast(f64),
    /// In medians of another pair.
    Times(f64, Candidate),
    LeastTimes(f64, Candidate),
}

use Bound::{AtLeast, AtMost, LeastTimes, Times};
use Candidate::{Haproxy, Plain};

const fn cost(name: &'static str, bounds: &'static [Bound]) -> Figure {
    Figure { name, bounds, goals: &[], is_cost: true }
}

const fn other(name: &'static str, bounds: &'static [Bound]) -> Figure {
    Figure { name, bounds, goals: &[], is_cost: false }
}

const BULK_CPU: &[Bound] = &[Times(0.65, Haproxy), Times(2.0, Plain)];
const IDLE: &[Bound] = &[AtMost(16.0)];
const IDLE_GOAL: &[Bound] = &[AtMost(13.0)];

/// The round trip of [`FAR_CASES`].
pub(crate) const ROUND_TRIP_MS: f64 = 50.0;
/// Share of the packets lost, each way, where pings run beside bulk streams.
pub(crate) const LOSS: f64 = 0.003;

/// The cases on a path with a round trip of 50 ms and 200 Mbit/s.
pub(crate) const FAR_CASES: &[Case] = &[
    Case {
        name: "rtt-conn",
        group: Group::Rtt,
        kind: Kind::Paced,
        cubic: false,
        service: "echo",
        streams: 15,
        millis: 0,
        figures: &[cost("p50_ms", &[AtMost(102.0)]), cost("p99_ms", &[])],
    },
    Case {
        name: "rtt-miss",
        group: Group::Rtt,
        kind: Kind::Burst,
        cubic: false,
        service: "echo",
        streams: 64,
        millis: 0,
        figures: &[cost("p50_ms", &[]), cost("max_ms", &[])],
    },
    Case {
        name: "rtt-loss",
        group: Group::Rtt,
        kind: Kind::Beside,
        cubic: true,
        service: "echo",
        streams: 4,
        // Some 200 pings: of fewer the 99th percentile would be the worst.
        millis: 20_000,
        figures: &[
            cost("p50_ms", &[]),
            cost("p99_ms", &[AtMost(3.0 * ROUND_TRIP_MS)]),
            other("bulk_mbit_per_s", &[]),
        ],
    },
    Case {
        name: "rtt-loss-bbr",
        group: Group::Rtt,
        kind: Kind::Beside,
        cubic: false,
        service: "echo",
        streams: 4,
        millis: 20_000,
        figures: &[cost("p50_ms", &[]), cost("p99_ms", &[]), other("bulk_mbit_per_s", &[])],
    },
];

/// The cases on a path without delay.
pub(crate) const CASES: &[Case] = &[
    Case {
        name: "bulk-1",
        group: Group::Bulk,
        kind: Kind::Bulk,
        cubic: false,
        service: "sink",
        streams: 1,
        millis: 2_000,
        figures: &[cost("cpu_s_per_gb", BULK_CPU), other("gbit_per_s", &[])],
    },
    Case {
        name: "bulk-32",
        group: Group::Bulk,
        kind: Kind::Bulk,
        cubic: false,
        service: "sink",
        streams: 32,
        millis: 2_000,
        figures: &[
            cost("cpu_s_per_gb", BULK_CPU),
            other("gbit_per_s", &[]),
            other("jain", &[AtLeast(0.95)]),
        ],
    },
    Case {
        name: "conn",
        group: Group::Conn,
        kind: Kind::Conn,
        cubic: false,
        service: "echo",
        streams: 8,
        millis: 3_000,
        figures: &[
            Figure {
                name: "cpu_ms",
                bounds: &[Times(0.1, Haproxy), Times(1.5, Plain)],
                goals: &[Times(1.2, Plain)],
                is_cost: true,
            },
            other("per_second", &[LeastTimes(8.0, Haproxy)]),
            cost("p50_ms", &[]),
            cost("p99_ms", &[]),
        ],
    },
    Case {
        name: "ping",
        group: Group::Ping,
        kind: Kind::Ping,
        cubic: false,
        service: "echo",
        streams: 1,
        millis: 2_000,
        figures: &[
            cost("p50_us", &[Times(1.0, Haproxy)]),
            cost("p99_us", &[Times(1.2, Haproxy)]),
            cost("cpu_us", &[]),
        ],
    },
    Case {
        name: "idle",
        group: Group::Idle,
        kind: Kind::Idle,
        cubic: false,
        service: "echo",
        streams: 0,
        millis: 0,
        figures: &[
            Figure { name: "client_kib", bounds: IDLE, goals: IDLE_GOAL, is_cost: false },
            Figure { name: "server_kib", bounds: IDLE, goals: IDLE_GOAL, is_cost: false },
            other("base_client_mib", &[]),
            other("base_server_mib", &[]),
        ],
    },
    Case {
        name: "http",
        group: Group::Http,
        kind: Kind::Http,
        cubic: false,
        service: "http",
        streams: 32,
        millis: 2_000,
        figures: &[
            cost("p50_us", &[]),
            cost("p99_us", &[]),
            cost("cpu_us", &[]),
            other("per_second", &[]),
        ],
    },
];
