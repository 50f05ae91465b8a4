//! What is known of one sibling, and when it counts as silent: pure.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Condition;
use crate::model::ReplicaId;
use crate::routes::OpenPorts;

/// Between two questions.
pub(super) const ASK_EVERY: Duration = Duration::from_millis(500);
/// Three questions' time without an answer is silence.
pub(super) const SILENCE: Duration = Duration::from_millis(1_500);
/// So many refusals in a row are silence at once.
const MOST_REFUSALS: u32 = 2;
/// The loop that judges comes round this often.
pub(super) const ROUND: Duration = Duration::from_millis(250);
/// A round this much too late tells of this process, not of others.
const LATE: Duration = Duration::from_millis(200);
/// Late rounds in a row that are forgiven: after that others have to be judged all the same.
const MOST_LATE_ROUNDS: u32 = 2;

/// What a session with a sibling reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Report {
    /// It said who it is.
    Greeted(ReplicaId),
    /// It said how it is.
    Told {
        /// The ports that it has open.
        open: Arc<OpenPorts>,
        /// It is about to end.
        draining: bool,
    },
    /// It answered a question.
    Answered,
    /// The session ended, or could not begin.
    Lost(Loss),
}

/// How a session was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Loss {
    /// Its port refused, or reset the connection: as if no process was there.
    Refused,
    /// In a way that says nothing of the process.
    Other,
}

/// One sibling.
#[derive(Debug)]
pub(super) struct Life {
    condition: Condition,
    replica: Option<ReplicaId>,
    /// There is a session on which it greeted.
    greeted: bool,
    /// Its last answer; later by what is forgiven.
    heard: Option<Instant>,
    /// Refusals since.
    refusals: u32,
    open: Arc<OpenPorts>,
    draining: bool,
}

impl Life {
    pub(super) fn new() -> Self {
        Self {
            condition: Condition::New,
            replica: None,
            greeted: false,
            heard: None,
            refusals: 0,
            open: Arc::default(),
            draining: false,
        }
    }

    pub(super) fn condition(&self) -> Condition {
        self.condition
    }

    pub(super) fn replica(&self) -> Option<ReplicaId> {
        self.replica
    }

    pub(super) fn open(&self) -> &Arc<OpenPorts> {
        &self.open
    }

    pub(super) fn is_draining(&self) -> bool {
        self.draining
    }

    pub(super) fn hear(&mut self, report: Report, now: Instant) {
        match report {
            Report::Greeted(replica) => {
                // Another process in the same pod: what its predecessor had open is closed.
                if self.replica.replace(replica).is_some_and(|before| before != replica) {
                    self.open = Arc::default();
                    self.draining = false;
                }
                self.greeted = true;
            }
            Report::Told { open, draining } if self.greeted => {
                self.open = open;
                self.draining = draining;
            }
            Report::Answered if self.greeted => {
                self.heard = Some(now);
                self.refusals = 0;
                self.condition = Condition::Alive;
            }
            // Before its greeting nobody knows who speaks.
            Report::Told { .. } | Report::Answered => {}
            Report::Lost(loss) => {
                self.greeted = false;
                if loss == Loss::Refused {
                    self.refusals += 1;
                }
                if self.refusals >= MOST_REFUSALS {
                    self.fall_silent(now);
                }
            }
        }
    }

    /// When it falls silent unless it answers before.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let alive = self.condition == Condition::Alive;
        self.heard.filter(|_| alive).map(|heard| heard + SILENCE)
    }

    /// Judges it at this moment.
    pub(super) fn judge(&mut self, now: Instant) {
        if self.deadline().is_some_and(|deadline| deadline <= now) {
            self.fall_silent(now);
        }
    }

    /// So much time is not held against it.
    pub(super) fn forgive(&mut self, gap: Duration, now: Instant) {
        self.heard = self.heard.map(|heard| (heard + gap).min(now));
    }

    fn fall_silent(&mut self, now: Instant) {
        if self.condition == Condition::Alive {
            self.condition = Condition::Silent { since: now };
        }
    }
}

/// Finds when this process did not run: stopped, or without a processor.
#[derive(Debug)]
pub(super) struct Rounds {
    last: Instant,
    late: u32,
}

impl Rounds {
    pub(super) fn new(now: Instant) -> Self {
        Self { last: now, late: 0 }
    }

    /// When the next one is due.
    pub(super) fn next(&self) -> Instant {
        self.last + ROUND
    }

    /// One more round; the time that is to be forgiven because it came late.
    pub(super) fn begin(&mut self, now: Instant) -> Option<Duration> {
        let gap = now.saturating_duration_since(self.last);
        self.last = now;
        if gap <= ROUND + LATE {
            self.late = 0;
            return None;
        }
        self.late += 1;
        (self.late <= MOST_LATE_ROUNDS).then_some(gap)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;
    use crate::model::{PortNumber, Protocol};

    const MS: Duration = Duration::from_millis(1);

    fn open() -> Arc<OpenPorts> {
        Arc::new(OpenPorts::from([(Protocol::Tcp, PortNumber::new(20_000).unwrap())]))
    }

    fn greeted() -> Report {
        Report::Greeted(ReplicaId::from_u64(1))
    }

    /// One that answered at `now`.
    fn alive(now: Instant) -> Life {
        let mut life = Life::new();
        let told = Report::Told { open: open(), draining: false };
        for report in [greeted(), told, Report::Answered] {
            life.hear(report, now);
        }
        assert_eq!(life.condition(), Condition::Alive);
        life
    }

    #[test]
    fn it_lives_once_it_greeted_and_answered() {
        let now = clock::now();
        let mut life = Life::new();
        life.hear(Report::Answered, now);
        assert_eq!(life.condition(), Condition::New, "nobody said who it is");
        life.hear(greeted(), now);
        assert_eq!(life.condition(), Condition::New);
        life.hear(Report::Answered, now);
        assert_eq!(life.condition(), Condition::Alive);
    }

    #[test]
    fn one_that_never_answered_is_not_silent_either() {
        let now = clock::now();
        let mut life = Life::new();
        for _ in 0..5 {
            life.hear(Report::Lost(Loss::Refused), now);
        }
        life.judge(now + 60_000 * MS);
        assert_eq!((life.condition(), life.deadline()), (Condition::New, None));
    }

    #[test]
    fn it_is_silent_one_and_a_half_seconds_after_its_last_answer_whatever_became_of_the_session() {
        let start = clock::now();
        for lost in [false, true] {
            let mut life = alive(start);
            life.hear(Report::Answered, start + 500 * MS);
            if lost {
                life.hear(Report::Lost(Loss::Other), start + 600 * MS);
                life.hear(Report::Lost(Loss::Other), start + 700 * MS);
            }
            let deadline = start + 2_000 * MS;
            assert_eq!(life.deadline(), Some(deadline));
            life.judge(deadline - MS);
            assert_eq!(life.condition(), Condition::Alive);
            life.judge(deadline);
            assert_eq!(life.condition(), Condition::Silent { since: deadline });
            life.judge(deadline + 5_000 * MS);
            assert_eq!(life.condition(), Condition::Silent { since: deadline });
        }
    }

    #[test]
    fn two_refusals_in_a_row_are_silence_at_once() {
        let start = clock::now();
        let mut life = alive(start);
        life.hear(Report::Lost(Loss::Refused), start + 10 * MS);
        assert_eq!(life.condition(), Condition::Alive);
        life.hear(Report::Lost(Loss::Refused), start + 60 * MS);
        assert_eq!(life.condition(), Condition::Silent { since: start + 60 * MS });
    }

    #[test]
    fn an_answer_between_two_refusals_is_life_and_other_losses_do_not_count() {
        let start = clock::now();
        let mut life = alive(start);
        for _ in 0..3 {
            life.hear(Report::Lost(Loss::Refused), start);
            life.hear(Report::Lost(Loss::Other), start);
            life.hear(greeted(), start);
            life.hear(Report::Answered, start);
        }
        assert_eq!(life.condition(), Condition::Alive);
    }

    #[test]
    fn a_silent_one_that_answers_is_alive_at_once() {
        let start = clock::now();
        let mut life = alive(start);
        life.judge(start + SILENCE);
        life.hear(Report::Answered, start + 2_000 * MS);
        assert_eq!(life.condition(), Condition::Alive);
        assert_eq!(life.deadline(), Some(start + 3_500 * MS));
    }

    #[test]
    fn the_ports_of_a_process_end_with_it_and_outlive_a_session() {
        let start = clock::now();
        let mut life = alive(start);
        let drains = Report::Told { open: open(), draining: true };
        life.hear(drains, start);
        life.hear(Report::Lost(Loss::Other), start);
        life.hear(greeted(), start);
        assert_eq!((life.open(), life.is_draining()), (&open(), true));
        life.hear(Report::Greeted(ReplicaId::from_u64(2)), start);
        assert_eq!((life.open().len(), life.is_draining()), (0, false));
    }

    #[test]
    fn what_is_told_before_the_greeting_is_not_believed() {
        let mut life = Life::new();
        life.hear(Report::Told { open: open(), draining: true }, clock::now());
        assert_eq!((life.open().len(), life.is_draining()), (0, false));
    }

    #[test]
    fn time_in_which_we_did_not_run_is_forgiven_twice_in_a_row() {
        let start = clock::now();
        let mut rounds = Rounds::new(start);
        assert_eq!(rounds.next(), start + ROUND);
        assert_eq!(rounds.begin(start + 450 * MS), None);
        let mut now = start + 450 * MS;
        for forgiven in [true, true, false, false] {
            now += 10_000 * MS;
            assert_eq!(rounds.begin(now), forgiven.then_some(10_000 * MS));
        }
        now += ROUND;
        assert_eq!(rounds.begin(now), None);
        now += 451 * MS;
        assert_eq!(rounds.begin(now), Some(451 * MS));

        let mut life = alive(start);
        life.forgive(10_000 * MS, start + 10_300 * MS);
        assert_eq!(life.deadline(), Some(start + 11_500 * MS));
        life.forgive(10_000 * MS, start + 10_300 * MS);
        assert_eq!(life.deadline(), Some(start + 11_800 * MS), "nobody is heard in the future");
    }
}
