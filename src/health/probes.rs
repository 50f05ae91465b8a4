//! The probes of one replica that are under way.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::config::Timing;
use super::fact::ProbeKind;

/// Outstanding probes remembered per replica; at 300 ms and 3 s to live there are about ten.
const PROBES_MAX: usize = 64;

/// What the prober gets beyond the deadline of a fresh probe to report its failure itself.
const REPORT_SLACK: Duration = Duration::from_millis(250);

/// "Later than" as the next instant at which it can be seen.
const JUST_AFTER: Duration = Duration::from_millis(1);

/// A probe under way.
#[derive(Debug, Clone)]
pub(super) struct Probe {
    id: u64,
    /// How it travels.
    pub(super) kind: ProbeKind,
    /// When it left.
    pub(super) sent: Instant,
    /// Good if answered within this.
    pub(super) within: Duration,
    /// Already known not to be good.
    pub(super) missed: bool,
}

impl Probe {
    /// When time alone will judge it next.
    fn due(&self, timing: &Timing) -> Instant {
        match self.kind {
            ProbeKind::Fresh => self.sent + timing.probe_deadline + REPORT_SLACK,
            ProbeKind::Standing if self.missed => self.sent + timing.probe_deadline + JUST_AFTER,
            ProbeKind::Standing => self.sent + self.within + JUST_AFTER,
        }
    }
}

/// What time alone says of a probe.
#[derive(Debug)]
pub(super) enum Verdict {
    /// Not good, but it may still be heard; it left then.
    Missed(Instant),
    /// Given up.
    Lost(Probe),
}

/// The probes under way, oldest first.
#[derive(Debug, Clone, Default)]
pub(super) struct Probes {
    list: VecDeque<Probe>,
}

impl Probes {
    /// A probe left. True if the oldest had to make room.
    pub(super) fn push(
        &mut self,
        kind: ProbeKind,
        id: u64,
        sent: Instant,
        within: Duration,
    ) -> bool {
        let full = self.list.len() == PROBES_MAX;
        if full {
            self.list.pop_front();
        }
        self.list.push_back(Probe { id, kind, sent, within, missed: false });
        full
    }

    /// The probe is over.
    pub(super) fn take(&mut self, kind: ProbeKind, id: u64) -> Option<Probe> {
        let place = self.list.iter().position(|p| p.id == id && p.kind == kind)?;
        self.list.remove(place)
    }

    /// The next verdict that is due.
    pub(super) fn judge(&mut self, now: Instant, timing: &Timing) -> Option<Verdict> {
        let place = self.list.iter().position(|p| p.due(timing) <= now)?;
        let probe = self.list.get_mut(place)?;
        if probe.kind == ProbeKind::Standing && !probe.missed {
            probe.missed = true;
            return Some(Verdict::Missed(probe.sent));
        }
        self.list.remove(place).map(Verdict::Lost)
    }

    /// When time alone next judges one.
    pub(super) fn due(&self, timing: &Timing) -> Option<Instant> {
        self.list.iter().map(|p| p.due(timing)).min()
    }

    /// Drops those sent before `at` and not judged yet: when each left.
    pub(super) fn void(&mut self, at: Instant) -> Vec<Instant> {
        let mut void = Vec::new();
        self.list.retain(|p| {
            let drop = !p.missed && p.sent < at;
            if drop {
                void.push(p.sent);
            }
            !drop
        });
        void
    }
}
