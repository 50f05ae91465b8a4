//! One replica behind one address: its probes and its state.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::config::Timing;
use super::estimator::{Estimator, Loss, Ranking};
use super::fact::ProbeKind;
use super::view::{Pace, PeerState};

/// Outstanding probes remembered per replica; at 300 ms and 3 s to live there are about ten.
const PROBES_MAX: usize = 64;

/// What the prober gets beyond the deadline of a fresh probe to report its failure itself.
const REPORT_SLACK: Duration = Duration::from_millis(250);

/// Good probes in a row, one of them fresh, that make a return: one answer on a path that is just
/// healing is none, nor are those of a standing connection while every dial hangs.
const RETURN_BEGUN: u32 = 2;

/// "Later than" as the next instant at which it can be seen.
const JUST_AFTER: Duration = Duration::from_millis(1);

/// The share of a replica that has just returned, and the steps in which it grows.
const SHARE_STEPS: u32 = 10;

/// Why a replica is Down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    /// Nothing heard for long enough.
    Silence,
    /// Its address refuses and no connection is left.
    Refused,
    /// Fresh probes fail in a row, whatever the standing connection says.
    Fresh,
    /// Another process answers where it was.
    Superseded,
    /// It was never Up: first seen while its peer had no Up replica.
    Newcomer,
}

/// Where a replica stands.
#[derive(Debug, Clone)]
pub(super) enum Phase {
    /// Seen, never heard.
    Unknown,
    /// Answering; `ramp` is when it returned, if it did.
    Up { ramp: Option<Instant> },
    /// Something is not as it should be.
    Suspect { ramp: Option<Instant> },
    /// Given up, perhaps on its way back.
    Down(Down),
}

/// What a Down replica remembers.
#[derive(Debug, Clone)]
pub(super) struct Down {
    pub(super) since: Instant,
    pub(super) cause: Cause,
    /// Since when streams must have heard something to live on.
    reset_unheard_since: Option<Instant>,
    /// Heard since then, so that another silence counts anew.
    heard: bool,
    /// Good probes in a row now.
    back: Option<Run>,
    /// Returns that broke off.
    breaks: u32,
}

/// A return under way (Back): good probes in a row, none missed.
#[derive(Debug, Clone)]
struct Run {
    since: Instant,
    good: u32,
    fresh: u32,
}

/// The standing probe connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// It has never answered.
    None,
    /// It answered and was not lost since.
    Live,
    /// Lost at that time.
    Lost(Instant),
}

#[derive(Debug, Clone)]
struct Probe {
    id: u64,
    kind: ProbeKind,
    sent: Instant,
    /// Good if answered within this.
    within: Duration,
    /// Already known not to be good.
    missed: bool,
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

/// An answer, judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    /// In time.
    Good,
    /// Heard, but too late to be good.
    Late,
}

/// One replica behind one address.
#[derive(Debug, Clone)]
pub(super) struct Replica {
    phase: Phase,
    probes: VecDeque<Probe>,
    loss: Loss,
    estimator: Estimator,
    ranking: Ranking,
    seen: Instant,
    heard: Option<Instant>,
    /// Where its silence is counted from: last heard, later where a round was void.
    silent_from: Instant,
    /// Probes sent since it was last heard, and when they became enough to mean Down.
    unanswered: u32,
    enough_at: Option<Instant>,
    /// The first probe of this silence that was found not good.
    first_miss: Option<Instant>,
    fresh_failed: u32,
    opens_unanswered: u32,
    standing: Standing,
    /// Round trips of probes that left before this measured our own lag.
    void_until: Option<Instant>,
}

impl Replica {
    /// First seen at `at`, as [`Phase::Unknown`] or on its way back.
    pub(super) fn new(at: Instant, newcomer: bool) -> Self {
        let mut replica = Self {
            phase: Phase::Unknown,
            probes: VecDeque::new(),
            loss: Loss::default(),
            estimator: Estimator::default(),
            ranking: Ranking::default(),
            seen: at,
            heard: None,
            silent_from: at,
            unanswered: 0,
            enough_at: None,
            first_miss: None,
            fresh_failed: 0,
            opens_unanswered: 0,
            standing: Standing::None,
            void_until: None,
        };
        if newcomer {
            replica.go_down(Cause::Newcomer, at);
        }
        replica
    }

    /// A probe left.
    pub(super) fn sent(&mut self, kind: ProbeKind, id: u64, at: Instant, timing: &Timing) {
        if self.probes.len() == PROBES_MAX {
            self.probes.pop_front();
            self.loss.lost();
        }
        let within = match kind {
            ProbeKind::Standing => self.estimator.good_within(timing),
            ProbeKind::Fresh => timing.probe_deadline,
        };
        self.probes.push_back(Probe { id, kind, sent: at, within, missed: false });
        if self.heard.is_none_or(|heard| at >= heard) {
            self.unanswered = self.unanswered.saturating_add(1);
            if self.unanswered >= timing.down_probes && self.enough_at.is_none() {
                self.enough_at = Some(at);
            }
        }
    }

    /// A probe was answered. What a good answer means is the peer's to say ([`Self::rise`]).
    pub(super) fn answered(
        &mut self,
        kind: ProbeKind,
        id: u64,
        at: Instant,
        rtt: Duration,
        timing: &Timing,
    ) -> Answer {
        let probe = self.take(kind, id);
        let within =
            probe.as_ref().map_or_else(|| self.estimator.good_within(timing), |p| p.within);
        let took = match (&probe, kind) {
            (Some(p), ProbeKind::Fresh) => at.saturating_duration_since(p.sent),
            _ => rtt,
        };
        self.hear(at);
        let ours =
            self.void_until.is_some_and(|until| at.checked_sub(rtt).is_none_or(|s| s < until));
        if !ours {
            self.estimator.sample(rtt, at, timing);
            if let Some(smoothed) = self.estimator.rtt() {
                self.ranking.offer(smoothed, self.estimator.settled(), at, timing);
            }
        }
        if probe.is_some() {
            self.loss.answered();
        }
        if kind == ProbeKind::Standing {
            self.standing = Standing::Live;
        }
        if took > within {
            if let Some(p) = probe.filter(|p| !p.missed) {
                self.miss(p.sent, at);
            }
            return Answer::Late;
        }
        if kind == ProbeKind::Fresh {
            self.fresh_failed = 0;
        }
        Answer::Good
    }

    /// A probe was given up, or its connection died. True if the replica is to go Down by it.
    pub(super) fn failed(
        &mut self,
        kind: ProbeKind,
        id: u64,
        at: Instant,
        timing: &Timing,
    ) -> bool {
        let Some(probe) = self.take(kind, id) else {
            return false;
        };
        self.lose(&probe, at);
        self.fresh_exhausted(timing)
    }

    /// Something answered us.
    pub(super) fn hear(&mut self, at: Instant) {
        self.heard = Some(self.heard.map_or(at, |heard| heard.max(at)));
        self.silent_from = self.silent_from.max(at);
        self.unanswered = 0;
        self.enough_at = None;
        self.first_miss = None;
        if let Phase::Down(down) = &mut self.phase {
            down.heard = true;
        }
    }

    /// A `REPLY` came.
    pub(super) fn replied(&mut self, at: Instant) {
        self.hear(at);
        self.opens_unanswered = 0;
    }

    /// An `OPEN` got none in time.
    pub(super) fn open_unanswered(&mut self, timing: &Timing) {
        self.opens_unanswered = self.opens_unanswered.saturating_add(1);
        if self.opens_unanswered >= timing.opens_until_suspect {
            self.suspect();
        }
    }

    /// The standing connection ended.
    pub(super) fn standing_lost(&mut self, at: Instant) {
        self.standing = Standing::Lost(at);
    }

    /// A dial to its address was refused: not as it should be where no connection is left.
    pub(super) fn suspect_without_connection(&mut self) {
        if !self.connected() {
            self.suspect();
        }
    }

    /// A good answer: Suspect → Up, or a step of Back. `held` is the end of the hold-down. True
    /// if it returned from Down.
    pub(super) fn rise(
        &mut self,
        kind: ProbeKind,
        at: Instant,
        held: Option<Instant>,
        timing: &Timing,
    ) -> bool {
        match &mut self.phase {
            Phase::Unknown => self.go_up(None),
            Phase::Up { .. } => {}
            Phase::Suspect { ramp } => {
                let ramp = *ramp;
                if self.fresh_failed == 0 {
                    self.go_up(ramp);
                }
            }
            Phase::Down(down) => {
                let run = down.back.get_or_insert(Run { since: at, good: 0, fresh: 0 });
                run.good += 1;
                run.fresh += u32::from(kind == ProbeKind::Fresh);
                let returns = run.good >= timing.back_good
                    && run.fresh >= timing.back_fresh
                    && at.saturating_duration_since(run.since) >= span(down.breaks, timing)
                    && held.is_none_or(|until| at >= until);
                if returns {
                    self.go_up(Some(at));
                }
                return returns;
            }
        }
        false
    }

    /// First heard: Up beside others of its peer or as its first, else by Back.
    pub(super) fn first_heard(&mut self, may_rise: bool, at: Instant) {
        if matches!(self.phase, Phase::Unknown) {
            if may_rise {
                self.go_up(None);
            } else {
                self.go_down(Cause::Newcomer, at);
            }
        }
    }

    /// Judges what time alone decides, silence excepted. True if it is to go Down by its fresh
    /// probes.
    pub(super) fn judge(&mut self, now: Instant, timing: &Timing) -> bool {
        let mut given_up = false;
        while let Some(place) = self.probes.iter().position(|p| p.due(timing) <= now) {
            let probe = &mut self.probes[place];
            if probe.kind == ProbeKind::Standing && !probe.missed {
                probe.missed = true;
                let sent = probe.sent;
                self.miss(sent, now);
            } else if let Some(probe) = self.probes.remove(place) {
                given_up |= probe.kind == ProbeKind::Fresh;
                self.lose(&probe, now);
            }
        }
        given_up && self.fresh_exhausted(timing)
    }

    /// Silence has been judged: Down, or for one already Down another silence.
    pub(super) fn fall_silent(&mut self, at: Instant) {
        if let Phase::Down(down) = &mut self.phase {
            down.heard = false;
            down.reset_unheard_since = Some(self.first_miss.unwrap_or(at));
        } else {
            self.go_down(Cause::Silence, at);
        }
    }

    /// Enters Down.
    pub(super) fn go_down(&mut self, cause: Cause, at: Instant) {
        self.phase = Phase::Down(Down {
            since: at,
            cause,
            reset_unheard_since: match cause {
                Cause::Silence => Some(self.first_miss.unwrap_or(at)),
                Cause::Refused | Cause::Fresh | Cause::Superseded | Cause::Newcomer => None,
            },
            heard: cause == Cause::Fresh,
            back: None,
            breaks: 0,
        });
    }

    /// Our own loop lagged: probes not yet judged count neither way, nor does that time as
    /// silence.
    pub(super) fn void(&mut self, by: Duration, at: Instant, timing: &Timing) {
        let heard = self.heard;
        let before = self.probes.len();
        let mut unanswered = 0;
        self.probes.retain(|p| {
            let void = !p.missed && p.sent < at;
            unanswered += u32::from(void && heard.is_none_or(|h| p.sent >= h));
            !void
        });
        if before != self.probes.len() {
            self.unanswered = self.unanswered.saturating_sub(unanswered);
            if self.unanswered < timing.down_probes {
                self.enough_at = None;
            }
        }
        self.silent_from = (self.silent_from + by).min(at).max(self.silent_from);
        self.void_until = Some(at);
    }

    /// Everybody was silent until now: it gets `grace` more before its silence means Down, and
    /// the fresh probes of that time say nothing.
    pub(super) fn spare(&mut self, grace: Duration, now: Instant, timing: &Timing) {
        let back = timing.down_after.saturating_sub(grace);
        if let Some(from) = now.checked_sub(back) {
            self.silent_from = self.silent_from.max(from);
        }
        self.fresh_failed = 0;
    }

    /// When its silence means Down, unless somebody answers: it has been long enough and there
    /// are enough unanswered probes.
    pub(super) fn silence_due(&self, timing: &Timing) -> Option<Instant> {
        let can = match &self.phase {
            Phase::Unknown => false,
            Phase::Up { .. } | Phase::Suspect { .. } => true,
            Phase::Down(down) => down.heard,
        };
        let enough = self.enough_at.filter(|_| can)?;
        Some(enough.max(self.silent_from + timing.down_after))
    }

    /// When a probe is next judged by time.
    pub(super) fn judge_due(&self, timing: &Timing) -> Option<Instant> {
        self.probes.iter().map(|p| p.due(timing)).min()
    }

    /// When its view next changes by time alone, after `after`.
    pub(super) fn view_due(&self, after: Instant, timing: &Timing) -> Option<Instant> {
        let ask = self.first_miss.map(|_| self.silent_from + timing.ask_after);
        let ramp = self.ramp().map(|from| {
            let step = timing.slow_start / SHARE_STEPS;
            (1..=SHARE_STEPS).map(|n| from + step * n).find(|at| *at > after).unwrap_or(from)
        });
        ask.into_iter().chain(ramp).filter(|at| *at > after).min()
    }

    /// When it may be forgotten, if it is gone.
    pub(super) fn forget_due(&self, timing: &Timing) -> Option<Instant> {
        let last = self.heard.unwrap_or(self.seen);
        match &self.phase {
            Phase::Unknown => Some(self.seen + timing.forget),
            Phase::Down(down) if down.cause == Cause::Superseded => {
                Some(down.since.max(last) + timing.forget_superseded)
            }
            Phase::Down(down) => Some(down.since.max(last) + timing.forget),
            Phase::Up { .. } | Phase::Suspect { .. } => None,
        }
    }

    /// The state, without regard to draining.
    pub(super) fn state(&self) -> PeerState {
        match self.phase {
            Phase::Unknown => PeerState::Unknown,
            Phase::Up { .. } => PeerState::Up,
            Phase::Suspect { .. } => PeerState::Suspect,
            Phase::Down(_) => PeerState::Down,
        }
    }

    /// Up with a live standing connection: a newcomer beside it needs no proof.
    pub(super) fn vouches(&self) -> bool {
        matches!(self.phase, Phase::Up { .. }) && !matches!(self.standing, Standing::Lost(_))
    }

    /// Whether its standing connection was lost and nothing was heard since; then when.
    pub(super) fn cut_off_since(&self) -> Option<Instant> {
        match self.standing {
            Standing::Lost(at) if self.heard.is_none_or(|heard| heard <= at) => Some(at),
            _ => None,
        }
    }

    /// Whether the standing connection lives.
    pub(super) fn connected(&self) -> bool {
        self.standing == Standing::Live
    }

    /// When it was first seen.
    pub(super) fn seen(&self) -> Instant {
        self.seen
    }

    /// When it was last heard.
    pub(super) fn heard(&self) -> Option<Instant> {
        self.heard
    }

    /// Smoothed round trip.
    pub(super) fn rtt(&self) -> Option<Duration> {
        self.estimator.rtt()
    }

    /// Whether the smoothed round trip has settled.
    pub(super) fn settled(&self) -> bool {
        self.estimator.settled()
    }

    /// The round trip that orders it among the replicas of its peer.
    pub(super) fn ranking(&self) -> Option<Duration> {
        self.ranking.value()
    }

    /// Share of its last hundred probes unanswered, in percent.
    pub(super) fn loss_percent(&self) -> f32 {
        self.loss.percent()
    }

    /// How to probe it.
    pub(super) fn pace(&self) -> Pace {
        match self.phase {
            Phase::Unknown | Phase::Up { .. } => Pace::Steady,
            Phase::Suspect { .. } | Phase::Down(_) => Pace::Quick,
        }
    }

    /// Whether its open streams are to be asked.
    pub(super) fn ask_streams(&self, now: Instant, timing: &Timing) -> bool {
        self.first_miss.is_some()
            && self.heard.is_some()
            && now.saturating_duration_since(self.silent_from) >= timing.ask_after
    }

    /// Since when a stream must have heard something to live on.
    pub(super) fn reset_unheard_since(&self) -> Option<Instant> {
        match &self.phase {
            Phase::Down(down) => down.reset_unheard_since,
            _ => None,
        }
    }

    /// The share it may take, in tenths, so that its view changes ten times and no more.
    pub(super) fn share(&self, now: Instant, timing: &Timing) -> f32 {
        let Some(from) = self.ramp() else {
            return 1.0;
        };
        let step = timing.slow_start / SHARE_STEPS;
        let steps = (1..=SHARE_STEPS).filter(|n| now >= from + step * *n).count();
        steps.max(1) as f32 / SHARE_STEPS as f32
    }

    fn ramp(&self) -> Option<Instant> {
        match self.phase {
            Phase::Up { ramp } | Phase::Suspect { ramp } => ramp,
            Phase::Unknown | Phase::Down(_) => None,
        }
    }

    fn take(&mut self, kind: ProbeKind, id: u64) -> Option<Probe> {
        let place = self.probes.iter().position(|p| p.id == id && p.kind == kind)?;
        self.probes.remove(place)
    }

    fn lose(&mut self, probe: &Probe, at: Instant) {
        self.loss.lost();
        if probe.kind == ProbeKind::Fresh {
            self.fresh_failed = self.fresh_failed.saturating_add(1);
        }
        if !probe.missed {
            self.miss(probe.sent, at);
        }
    }

    fn fresh_exhausted(&self, timing: &Timing) -> bool {
        self.fresh_failed >= timing.fresh_until_down
            && matches!(self.phase, Phase::Up { .. } | Phase::Suspect { .. })
    }

    /// A probe was not good.
    fn miss(&mut self, sent: Instant, at: Instant) {
        if self.heard.is_none_or(|heard| sent >= heard) {
            self.first_miss.get_or_insert(at);
        }
        self.suspect();
        if let Phase::Down(down) = &mut self.phase
            && let Some(run) = down.back.take_if(|run| sent >= run.since)
            && run.good >= RETURN_BEGUN
            && run.fresh > 0
        {
            down.breaks = down.breaks.saturating_add(1);
        }
    }

    fn suspect(&mut self) {
        if let Phase::Up { ramp } = self.phase {
            self.phase = Phase::Suspect { ramp };
        }
    }

    fn go_up(&mut self, ramp: Option<Instant>) {
        self.phase = Phase::Up { ramp };
        self.fresh_failed = 0;
        self.opens_unanswered = 0;
    }
}

/// How long a return must be clean. A return that broke off more often than a healing path's may
/// shows a path that loses some probes, not one that is mended: then the time doubles. Without
/// this a path with 20 % loss would return by luck and go Down again.
fn span(breaks: u32, timing: &Timing) -> Duration {
    let doublings = breaks.saturating_sub(timing.back_breaks_free).min(16);
    (timing.back_span * (1 << doublings)).min(timing.back_span_max)
}
