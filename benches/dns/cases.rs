//! The loads, and the bounds that are held against them.

use crate::options::Group;
use crate::servers::Candidate;

/// One load.
#[derive(Debug)]
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) group: Group,
    pub(crate) traffic: Traffic,
    /// The server whose tables are swapped is loaded instead of those that are compared.
    pub(crate) is_swapped: bool,
    pub(crate) bounds: &'static [Bound],
}

/// What the client does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Traffic {
    /// As fast as answers come.
    Closed,
    /// So many queries a second.
    Open(u32),
    /// The same over TCP.
    Tcp,
    /// dnsperf over UDP.
    Dnsperf,
}

/// A bound on one figure of ours.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bound {
    pub(crate) figure: &'static str,
    pub(crate) limit: Limit,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Limit {
    /// At most so many times Knot's in the same round, by the median of the rounds.
    OfKnotInRounds(f64),
    /// At most so many times Knot's, by the medians.
    OfKnotByMedians(f64),
    /// At most so many in all rounds together.
    InAll(f64),
    /// At least so much, by the median.
    AtLeast(f64),
}

pub(crate) const CASES: [Case; 6] = [
    Case {
        name: "saturation",
        group: Group::Saturation,
        traffic: Traffic::Closed,
        is_swapped: false,
        bounds: &[Bound { figure: "cpu_us", limit: Limit::OfKnotInRounds(0.80) }],
    },
    Case {
        name: "20k",
        group: Group::Low,
        traffic: Traffic::Open(20_000),
        is_swapped: false,
        bounds: &[
            Bound { figure: "p50_us", limit: Limit::OfKnotByMedians(1.0) },
            Bound { figure: "p99_us", limit: Limit::OfKnotByMedians(1.5) },
        ],
    },
    Case {
        name: "100k",
        group: Group::High,
        traffic: Traffic::Open(100_000),
        is_swapped: false,
        bounds: &[Bound { figure: "lost", limit: Limit::InAll(0.0) }],
    },
    Case {
        name: "tcp",
        group: Group::Tcp,
        traffic: Traffic::Tcp,
        is_swapped: false,
        bounds: &[Bound { figure: "cpu_us", limit: Limit::OfKnotInRounds(1.0) }],
    },
    Case {
        name: "dnsperf",
        group: Group::Dnsperf,
        traffic: Traffic::Dnsperf,
        is_swapped: false,
        bounds: &[],
    },
    Case {
        name: "swap",
        group: Group::Swap,
        traffic: Traffic::Open(100_000),
        is_swapped: true,
        bounds: &[
            Bound { figure: "lost", limit: Limit::InAll(0.0) },
            Bound { figure: "swaps_per_second", limit: Limit::AtLeast(95.0) },
        ],
    },
];

impl Case {
    /// Whose figures are held against the bounds.
    pub(crate) fn ours(&self) -> Candidate {
        if self.is_swapped { Candidate::Swapped } else { Candidate::Portolan }
    }

    /// The figures by which a round is known to be disturbed.
    pub(crate) fn telling(&self) -> impl Iterator<Item = &'static str> + Clone + '_ {
        let bounds = self.bounds.iter().filter(|bound| {
            matches!(bound.limit, Limit::OfKnotInRounds(_) | Limit::OfKnotByMedians(_))
        });
        bounds.map(|bound| bound.figure)
    }
}
