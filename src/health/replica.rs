//! One replica behind one address: what it answered, for how long it has been silent.

use std::time::{Duration, Instant};

use super::config::Timing;
use super::estimator::{Estimator, Loss, Ranking};
use super::fact::ProbeKind;
use super::phase::{Cause, Phase};
use super::probes::{Probe, Probes, Verdict};
use super::view::{Pace, PeerState};

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
    probes: Probes,
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
            probes: Probes::default(),
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
        let within = match kind {
            ProbeKind::Standing => self.estimator.good_within(timing),
            ProbeKind::Fresh => timing.probe_deadline,
        };
        if self.probes.push(kind, id, at, within) {
            self.loss.lost();
        }
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
        let probe = self.probes.take(kind, id);
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
        let Some(probe) = self.probes.take(kind, id) else {
            return false;
        };
        self.lose(&probe, at);
        self.fresh_exhausted(timing)
    }

    /// A probe came to nothing by our own fault: as if it had never left.
    pub(super) fn forget_probe(&mut self, kind: ProbeKind, id: u64, timing: &Timing) {
        let Some(probe) = self.probes.take(kind, id) else { return };
        self.unsend(probe.sent);
        self.recount(timing);
    }

    fn unsend(&mut self, sent: Instant) {
        if self.heard.is_none_or(|heard| sent >= heard) {
            self.unanswered = self.unanswered.saturating_sub(1);
        }
    }

    fn recount(&mut self, timing: &Timing) {
        if self.unanswered < timing.down_probes {
            self.enough_at = None;
        }
    }

    /// Something answered us.
    pub(super) fn hear(&mut self, at: Instant) {
        self.heard = Some(self.heard.map_or(at, |heard| heard.max(at)));
        self.silent_from = self.silent_from.max(at);
        self.unanswered = 0;
        self.enough_at = None;
        self.first_miss = None;
        self.phase.hear();
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
            self.phase.suspect();
        }
    }

    /// The standing connection ended.
    pub(super) fn standing_lost(&mut self, at: Instant) {
        self.standing = Standing::Lost(at);
    }

    /// A dial to its address was refused: not as it should be where no connection is left.
    pub(super) fn suspect_without_connection(&mut self) {
        if !self.connected() {
            self.phase.suspect();
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
        match self.phase {
            Phase::Unknown => self.go_up(None),
            Phase::Up { .. } => {}
            Phase::Suspect { ramp } => {
                if self.fresh_failed == 0 {
                    self.go_up(ramp);
                }
            }
            Phase::Down(_) => {
                let returns = self.phase.step_back(kind, at, held, timing);
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
        while let Some(verdict) = self.probes.judge(now, timing) {
            match verdict {
                Verdict::Missed(sent) => self.miss(sent, now),
                Verdict::Lost(probe) => {
                    given_up |= probe.kind == ProbeKind::Fresh;
                    self.lose(&probe, now);
                }
            }
        }
        given_up && self.fresh_exhausted(timing)
    }

    /// Silence has been judged: Down, or for one already Down another silence.
    pub(super) fn fall_silent(&mut self, at: Instant) {
        self.phase.fall_silent(self.first_miss, at);
    }

    /// Enters Down.
    pub(super) fn go_down(&mut self, cause: Cause, at: Instant) {
        self.phase = Phase::down(cause, self.first_miss, at);
    }

    /// Our own loop lagged: probes not yet judged count neither way, nor does that time as
    /// silence.
    pub(super) fn void(&mut self, by: Duration, at: Instant, timing: &Timing) {
        for sent in self.probes.void(at) {
            self.unsend(sent);
        }
        self.recount(timing);
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
        let enough = self.enough_at.filter(|_| self.phase.minds_silence())?;
        Some(enough.max(self.silent_from + timing.down_after))
    }

    /// When a probe is next judged by time.
    pub(super) fn judge_due(&self, timing: &Timing) -> Option<Instant> {
        self.probes.due(timing)
    }

    /// When its view next changes by time alone, after `after`.
    pub(super) fn view_due(&self, after: Instant, timing: &Timing) -> Option<Instant> {
        let ask = self.first_miss.map(|_| self.silent_from + timing.ask_after);
        let share = self.phase.share_due(after, timing);
        ask.filter(|at| *at > after).into_iter().chain(share).min()
    }

    /// When it may be forgotten, if it is gone.
    pub(super) fn forget_due(&self, timing: &Timing) -> Option<Instant> {
        self.phase.forget_due(self.heard.unwrap_or(self.seen), timing)
    }

    /// The state, without regard to draining.
    pub(super) fn state(&self) -> PeerState {
        self.phase.state()
    }

    /// Up or Suspect.
    pub(super) fn live(&self) -> bool {
        self.phase.live()
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
        self.phase.pace()
    }

    /// Whether its open streams are to be asked.
    pub(super) fn ask_streams(&self, now: Instant, timing: &Timing) -> bool {
        self.first_miss.is_some()
            && self.heard.is_some()
            && now.saturating_duration_since(self.silent_from) >= timing.ask_after
    }

    /// Since when a stream must have heard something to live on.
    pub(super) fn reset_unheard_since(&self) -> Option<Instant> {
        self.phase.reset_unheard_since()
    }

    /// The share it may take.
    pub(super) fn share(&self, now: Instant, timing: &Timing) -> f32 {
        self.phase.share(now, timing)
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
        self.fresh_failed >= timing.fresh_until_down && self.phase.live()
    }

    /// A probe was not good.
    fn miss(&mut self, sent: Instant, at: Instant) {
        if self.heard.is_none_or(|heard| sent >= heard) {
            self.first_miss.get_or_insert(at);
        }
        self.phase.miss(sent);
    }

    fn go_up(&mut self, ramp: Option<Instant>) {
        self.phase = Phase::Up { ramp };
        self.fresh_failed = 0;
        self.opens_unanswered = 0;
    }
}
