//! The one task that knows all siblings: it starts a session with each, hears what they report,
//! judges, and publishes the view.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinError, JoinSet};
use tokio::time::sleep_until;

use super::answer::Answer;
use super::life::{Life, Report, Rounds};
use super::link::SessionError;
use super::metrics::Silence;
use super::session::Session;
use super::{Condition, Member, Sibling, SiblingView, Siblings};
use crate::clock;
use crate::drain::{self, Phase};
use crate::tls::Accepted;

/// Reports waiting to be heard; sessions wait when it is full.
const REPORTS: usize = 256;
/// Members that are watched; nobody runs more replicas of a gateway.
const MAX_MEMBERS: usize = 64;
/// Connections that are answered at a time.
const MAX_ANSWERS: usize = 2 * MAX_MEMBERS;

/// One sibling and the task that asks it.
#[derive(Debug)]
struct Entry {
    member: Member,
    life: Life,
    number: u64,
    task: AbortHandle,
}

/// All siblings.
#[derive(Debug)]
pub(super) struct Hub {
    siblings: Siblings,
    view: watch::Sender<Arc<SiblingView>>,
    drain: drain::Watch,
    /// This process as a member, if it is one.
    own: Option<Member>,
    entries: BTreeMap<Box<str>, Entry>,
    sessions: JoinSet<Infallible>,
    answers: JoinSet<SessionError>,
    reports: mpsc::Sender<(u64, Report)>,
    heard: mpsc::Receiver<(u64, Report)>,
    begun: u64,
}

impl Hub {
    pub(super) fn new(
        siblings: Siblings,
        view: watch::Sender<Arc<SiblingView>>,
        drain: drain::Watch,
    ) -> Self {
        let (reports, heard) = mpsc::channel(REPORTS);
        Self {
            siblings,
            view,
            drain,
            own: None,
            entries: BTreeMap::new(),
            sessions: JoinSet::new(),
            answers: JoinSet::new(),
            reports,
            heard,
            begun: 0,
        }
    }

    pub(super) async fn run(mut self, mut accepted: mpsc::Receiver<Accepted>) {
        let (mut forced, mut announced) = (self.drain.clone(), self.drain.clone());
        let (mut listed, mut opening, mut accepting) = (true, true, true);
        let mut draining = announced.phase() >= Phase::Announced;
        let mut rounds = Rounds::new(clock::now());
        self.reconfigure();
        loop {
            let now = clock::now();
            if now >= rounds.next()
                && let Some(gap) = rounds.begin(now)
            {
                self.entries.values_mut().for_each(|entry| entry.life.forgive(gap, now));
            }
            // What has come is heard before anybody is judged.
            while let Ok((number, report)) = self.heard.try_recv() {
                self.hear(number, report);
            }
            self.judge(now);
            self.publish(draining);
            let deadlines = self.entries.values().filter_map(|entry| entry.life.deadline());
            let wake = deadlines.fold(rounds.next(), Instant::min);
            tokio::select! {
                biased;
                () = forced.reached(Phase::Forced) => return,
                () = announced.reached(Phase::Announced), if !draining => draining = true,
                Some((number, report)) = self.heard.recv() => self.hear(number, report),
                changed = self.siblings.members.changed(), if listed => {
                    listed = changed.is_ok();
                    self.reconfigure();
                }
                changed = self.siblings.open.changed(), if opening => opening = changed.is_ok(),
                Some(ended) = self.sessions.join_next() => self.session_ended(ended),
                Some(ended) = self.answers.join_next() => self.answer_ended(ended),
                connection = accepted.recv(), if accepting => match connection {
                    Some(connection) => self.answer(connection),
                    None => accepting = false,
                },
                () = sleep_until(wake.into()) => {}
            }
        }
    }

    /// Takes the list of members: new ones, changed ones, and those that are gone.
    fn reconfigure(&mut self) {
        let list = Arc::clone(&self.siblings.members.borrow_and_update());
        if list.len() > MAX_MEMBERS {
            tracing::warn!(replicas = list.len(), most = MAX_MEMBERS, "only some are watched");
        }
        let config = Arc::clone(&self.siblings.config);
        let is_own = |member: &Member| {
            (!config.uid.is_empty() && member.uid == config.uid)
                || member.addresses.iter().any(|at| config.addresses.contains(&at.ip()))
        };
        self.own = list.iter().find(|member| is_own(member)).cloned();
        let others = list.iter().filter(|member| !is_own(member)).take(MAX_MEMBERS);
        let wanted: BTreeMap<&str, &Member> =
            others.map(|member| (member.uid.as_ref(), member)).collect();
        self.entries.retain(|uid, entry| {
            let keep = wanted.contains_key(uid.as_ref());
            if !keep {
                entry.task.abort();
            }
            keep
        });
        for (uid, member) in wanted {
            let known = self.entries.get(uid).map(|entry| &entry.member);
            if known == Some(member) {
                continue;
            }
            let moved = known.is_none_or(|known| known.addresses != member.addresses);
            let started = moved.then(|| self.start(member.clone()));
            match (self.entries.get_mut(uid), started) {
                (Some(entry), started) => {
                    entry.member = member.clone();
                    if let Some((number, task)) = started {
                        entry.number = number;
                        std::mem::replace(&mut entry.task, task).abort();
                    }
                }
                (None, Some((number, task))) => {
                    let entry = Entry { member: member.clone(), life: Life::new(), number, task };
                    self.entries.insert(uid.into(), entry);
                }
                (None, None) => {}
            }
        }
    }

    /// Starts the task that asks a sibling.
    fn start(&mut self, member: Member) -> (u64, AbortHandle) {
        self.begun += 1;
        let session = Session {
            number: self.begun,
            member,
            config: Arc::clone(&self.siblings.config),
            dialer: self.siblings.dialer.clone(),
            trust: self.siblings.trust.clone(),
            reports: self.reports.clone(),
            metrics: self.siblings.metrics.clone(),
        };
        (self.begun, self.sessions.spawn(session.run()))
    }

    /// A session never returns: it was aborted, or it panicked and is begun again.
    fn session_ended(&mut self, ended: Result<Infallible, JoinError>) {
        let error = match ended {
            Ok(never) => match never {},
            Err(error) => error,
        };
        if error.is_cancelled() {
            return;
        }
        self.siblings.metrics.panicked();
        tracing::error!(%error, "a session with a sibling panicked");
        let entry = self.entries.values().find(|entry| entry.task.id() == error.id());
        let Some(member) = entry.map(|entry| entry.member.clone()) else { return };
        let uid = member.uid.clone();
        let (number, task) = self.start(member);
        if let Some(entry) = self.entries.get_mut(&uid) {
            (entry.number, entry.task) = (number, task);
        }
    }

    fn answer(&mut self, connection: Accepted) {
        if self.answers.len() >= MAX_ANSWERS {
            tracing::warn!(from = %connection.remote, most = MAX_ANSWERS, "too many siblings ask");
            return;
        }
        let answer = Answer {
            config: Arc::clone(&self.siblings.config),
            trust: self.siblings.trust.clone(),
            open: self.siblings.open.clone(),
            drain: self.drain.clone(),
            metrics: self.siblings.metrics.clone(),
        };
        self.answers.spawn(answer.run(connection));
    }

    fn answer_ended(&self, ended: Result<SessionError, JoinError>) {
        match ended {
            Ok(error) => tracing::debug!(%error, "a sibling asks no longer"),
            Err(error) if error.is_panic() => {
                self.siblings.metrics.panicked();
                tracing::error!(%error, "answering a sibling panicked");
            }
            Err(_) => {}
        }
    }

    fn hear(&mut self, number: u64, report: Report) {
        // Numbers are never used twice, so a report of an ended session finds nobody.
        let Some(entry) = self.entries.values_mut().find(|entry| entry.number == number) else {
            return;
        };
        let before = entry.life.condition();
        entry.life.hear(report, clock::now());
        match (before, entry.life.condition()) {
            (Condition::New | Condition::Silent { .. }, Condition::Alive) => {
                tracing::info!(sibling = %entry.member.name, "answers");
            }
            (Condition::Alive, Condition::Silent { .. }) => {
                self.fell_silent(number, Silence::Refused)
            }
            _ => {}
        }
    }

    fn judge(&mut self, now: Instant) {
        let mut fell = Vec::new();
        for entry in self.entries.values_mut() {
            let before = entry.life.condition();
            entry.life.judge(now);
            if entry.life.condition() != before {
                fell.push(entry.number);
            }
        }
        for number in fell {
            self.fell_silent(number, Silence::Unanswered);
        }
    }

    fn fell_silent(&self, number: u64, reason: Silence) {
        self.siblings.metrics.fell_silent(reason);
        if let Some(entry) = self.entries.values().find(|entry| entry.number == number) {
            let (name, reason) = (&entry.member.name, reason.as_str());
            tracing::warn!(sibling = %name, reason, "silent; clients are led past it");
        }
    }

    /// Tells what is known, if that changed.
    fn publish(&self, draining: bool) {
        let others = self.entries.iter().map(|(uid, entry)| {
            let sibling = Sibling {
                name: entry.member.name.clone(),
                addresses: entry.member.addresses.clone(),
                replica: entry.life.replica(),
                condition: entry.life.condition(),
                open: Arc::clone(entry.life.open()),
                draining: entry.life.is_draining(),
            };
            (uid.clone(), sibling)
        });
        let own = self.own.iter().map(|member| {
            let sibling = Sibling {
                name: member.name.clone(),
                addresses: member.addresses.clone(),
                replica: Some(self.siblings.config.replica),
                condition: Condition::Alive,
                open: Arc::clone(&self.siblings.open.borrow()),
                draining,
            };
            (member.uid.clone(), sibling)
        });
        let view = SiblingView { siblings: others.chain(own).collect() };
        self.view.send_if_modified(|before| {
            let differs = **before != view;
            if differs {
                self.siblings.metrics.count(&view, self.own.as_ref().map(|own| own.uid.as_ref()));
                *before = Arc::new(view);
            }
            differs
        });
    }
}
