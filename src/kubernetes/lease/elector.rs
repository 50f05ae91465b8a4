//! The requests that keep or gain the Lease.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kube::Client;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::sleep_until;

use super::{DURATION, Observed, RETRY, Record, Step, Tenure, evaluate};
use crate::backoff::Backoff;
use crate::clock;
use crate::kubernetes::calls::{Call, Fault, Verb};
use crate::model::Namespace;
use crate::telemetry::Throttle;

/// How long one request about the Lease may take: after one that hangs, a holder has time for
/// another.
const REQUEST: Duration = Duration::from_secs(2);
/// Longest pause between looks while the API server is away.
const MAX_PAUSE: Duration = Duration::from_secs(10);
/// How often a refusal is said.
const COMPLAINTS: Duration = Duration::from_secs(60);

/// Where the Lease is.
#[derive(Debug, Clone)]
pub(in crate::kubernetes) struct LeaseName {
    /// The namespace.
    pub(in crate::kubernetes) namespace: Namespace,
    /// The object's name.
    pub(in crate::kubernetes) name: Box<str>,
}

/// Gains the Lease when it is free, keeps it while it can, and gives it back at the end.
pub(in crate::kubernetes) struct Elector {
    client: Client,
    lease: LeaseName,
    identity: Box<str>,
    tenure: Arc<Tenure>,
    observed: Option<Observed>,
    complaints: Throttle,
}

impl Elector {
    /// An elector for `identity`, unique among the replicas, which reports to `tenure`.
    pub(in crate::kubernetes) fn new(
        client: Client,
        lease: LeaseName,
        identity: Box<str>,
        tenure: Arc<Tenure>,
    ) -> Self {
        let complaints = Throttle::new(COMPLAINTS);
        Self { client, lease, identity, tenure, observed: None, complaints }
    }

    /// Runs until `stop` resolves, then gives the Lease back. `leader` follows the tenure: false
    /// at the latest when it ends.
    pub(in crate::kubernetes) async fn run(
        mut self,
        leader: watch::Sender<bool>,
        stop: impl Future<Output = ()>,
    ) {
        tokio::select! {
            () = stop => {}
            () = self.serve(&leader) => {}
        }
        leader.send_replace(false);
        self.release().await;
    }

    /// Looks, renews and takes for ever.
    async fn serve(&mut self, leader: &watch::Sender<bool>) {
        let mut away = Backoff::try_new(RETRY, MAX_PAUSE).expect("1 s is less than 10 s");
        let tenure = Arc::clone(&self.tenure);
        loop {
            let begun = clock::now();
            let outcome = tokio::select! {
                outcome = self.round() => outcome,
                () = lapsed(&tenure) => Err(Fault::Away("not renewed in time".into())),
            };
            let now = clock::now();
            let holds = self.tenure.permit(now).is_some();
            if !holds {
                self.tenure.ended();
            }
            say(leader, holds, &self.identity);
            let next = match outcome {
                Ok(()) => {
                    away.reset();
                    self.next_look(begun)
                }
                Err(fault) => {
                    self.complain(&fault, now);
                    begun + if holds { RETRY } else { away.pause() }
                }
            };
            tokio::select! {
                () = sleep_until(next.into()) => {}
                () = lapsed(&tenure) => {}
            }
        }
    }

    /// The next regular look, or the moment when the Lease becomes free if that is sooner: to be
    /// late then is time without a leader.
    fn next_look(&self, begun: Instant) -> Instant {
        let regular = begun + RETRY;
        match evaluate(self.observed.as_ref(), &self.identity, begun) {
            Step::Wait(free) if free > begun => regular.min(free),
            _ => regular,
        }
    }

    /// One look at the Lease and what follows from it. A holder renews without looking first:
    /// the version it carries tells whether anything happened.
    async fn round(&mut self) -> Result<(), Fault> {
        let now = clock::now();
        if self.tenure.permit(now).is_none() {
            self.look().await?;
        }
        let step = evaluate(self.observed.as_ref(), &self.identity, clock::now());
        match self.act(step).await {
            // Another was faster, or it was deleted: look, and judge at the next round.
            Err(Fault::Conflict(_) | Fault::Absent(_)) => {
                self.look().await?;
                if self.observed.as_ref().is_none_or(|o| *o.record.holder != *self.identity) {
                    self.tenure.ended();
                }
                Ok(())
            }
            other => other,
        }
    }

    async fn look(&mut self) -> Result<(), Fault> {
        match self.send(Verb::Read, Value::Null).await {
            Ok(whole) => {
                self.see(whole);
                Ok(())
            }
            Err(Fault::Absent(_)) => {
                self.observed = None;
                Ok(())
            }
            Err(fault) => Err(fault),
        }
    }

    async fn act(&mut self, step: Step) -> Result<(), Fault> {
        let wall = wall();
        let (verb, next) = match (step, &self.observed) {
            (Step::Wait(_), _) => return Ok(()),
            (Step::Take | Step::Renew, Some(Observed { record, .. })) => {
                (Verb::Replace, record.held_by(&self.identity, &wall))
            }
            (Step::Create | Step::Take | Step::Renew, _) => {
                let new = Record::read(json!({
                    "apiVersion": "coordination.k8s.io/v1",
                    "kind": "Lease",
                    "metadata": { "name": self.lease.name, "namespace": self.lease.namespace },
                }));
                (Verb::Create, new.held_by(&self.identity, &wall))
            }
        };
        let sent = clock::now();
        let whole = self.send(verb, next).await?;
        self.see(whole);
        self.tenure.renewed(sent);
        Ok(())
    }

    fn complain(&self, fault: &Fault, now: Instant) {
        let lease = &self.lease.name;
        if !matches!(fault, Fault::Refused(_)) {
            tracing::debug!(%fault, %lease, "the lease was not read or renewed");
        } else if self.complaints.pass(now).is_some() {
            tracing::warn!(
                %fault, %lease,
                "the lease is refused, so this replica cannot write; grant get, create and update \
                 of leases in its namespace"
            );
        }
    }

    /// Gives the Lease back, so that another need not wait for its end. Failing costs only time.
    async fn release(&mut self) {
        let held = self.tenure.permit(clock::now()).is_some();
        self.tenure.ended();
        let Some(Observed { record, .. }) = self.observed.take().filter(|_| held) else { return };
        match self.send(Verb::Replace, record.released(&wall())).await {
            Ok(_) => tracing::info!(lease = %self.lease.name, "lease given back"),
            Err(fault) => tracing::info!(
                %fault, "the lease could not be given back; another takes it in {DURATION:?}"
            ),
        }
    }

    fn see(&mut self, whole: Value) {
        let record = Record::read(whole);
        self.observed = Some(Observed::after(self.observed.as_ref(), record, clock::now()));
    }

    async fn send(&self, verb: Verb, body: Value) -> Result<Value, Fault> {
        let LeaseName { namespace, name } = &self.lease;
        let mut path = format!("/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases");
        if verb != Verb::Create {
            path = format!("{path}/{name}");
        }
        Call { verb, path, body }.send(&self.client, clock::now() + REQUEST).await
    }
}

/// Resolves when a tenure that runs now is over; never while there is none.
async fn lapsed(tenure: &Tenure) {
    loop {
        match tenure.until() {
            Some(until) if until <= clock::now() => return,
            Some(until) => sleep_until(until.into()).await,
            None => std::future::pending().await,
        }
    }
}

fn say(leader: &watch::Sender<bool>, holds: bool, identity: &str) {
    let changed = leader.send_if_modified(|was| std::mem::replace(was, holds) != holds);
    if changed && holds {
        tracing::info!(identity, "this replica writes to the API server now");
    } else if changed {
        tracing::info!(identity, "this replica no longer writes to the API server");
    }
}

/// Now for people: RFC 3339 with microseconds, as the API wants it.
fn wall() -> String {
    let now = jiff::Timestamp::from_millisecond(clock::wall_ms()).unwrap_or_default();
    format!("{now:.6}")
}
