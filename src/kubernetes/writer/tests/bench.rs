//! A desk before a fake API server, with a clock of its own.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::sync::watch;

use super::super::desk::{Desk, Turn};
use super::super::job::{Ended, Job};
use super::super::target::Target;
use super::super::{WriterInputs, WriterMetrics, WriterOutputs};
use crate::clock;
use crate::kubernetes::client::{Access, Clients};
use crate::kubernetes::events::{self, Speaker};
use crate::kubernetes::lease::Tenure;
use crate::kubernetes::mirror::{Existing, Mirror};
use crate::model::ServiceKey;
use crate::objects::{Kind, Object, ObjectId};
use crate::testing::kube::{ApiServer, Request};

const KINDS: [(Kind, &str); 3] = [
    (Kind::Service, "services"),
    (Kind::Import, "serviceimports"),
    (Kind::Slice, "endpointslices"),
];

pub(super) struct Bench {
    pub(super) server: ApiServer,
    pub(super) desk: Desk,
    pub(super) mirror: Arc<Mirror>,
    pub(super) clients: Arc<Clients>,
    pub(super) now: Instant,
    pub(super) refusals: watch::Receiver<Arc<BTreeMap<ServiceKey, Box<str>>>>,
    pub(super) speaker: Option<Speaker>,
    tenure: Arc<Tenure>,
    refused: watch::Sender<Arc<BTreeMap<ServiceKey, Box<str>>>>,
    mark: usize,
}

impl Bench {
    /// Leading, and in step with a server that has the namespace `shop`.
    pub(super) async fn start() -> Self {
        let server = ApiServer::start().await;
        server.put(serde_json::json!({
            "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "shop" },
        }));
        let clients = Arc::new(Clients::open(&Access::Url(server.url())).await.unwrap());
        let mirror = Arc::new(Mirror::default());
        let tenure = Arc::new(Tenure::default());
        let (events, speaker) = events::channel("portolan-0".into());
        let metrics = WriterMetrics::register(&prometheus::Registry::new()).unwrap();
        let desk = Desk::new(
            Arc::clone(&clients),
            Arc::clone(&mirror),
            Arc::clone(&tenure),
            events,
            metrics,
        );
        let (refused, refusals) = watch::channel(Arc::default());
        let now = clock::now();
        let mut bench = Self {
            server,
            desk,
            mirror,
            clients,
            now,
            refusals,
            speaker: Some(speaker),
            tenure,
            refused,
            mark: 0,
        };
        bench.feed();
        bench.lead(true);
        bench
    }

    /// Brings the mirror in step with the server, as the watches would.
    pub(super) fn feed(&self) {
        feed(&self.server, &self.mirror);
    }

    pub(super) fn lead(&mut self, leads: bool) {
        if leads {
            self.tenure.renewed(self.now);
        } else {
            self.tenure.ended();
        }
        self.desk.lead(leads, self.now);
    }

    /// Time passes; the Lease is renewed meanwhile if it was held.
    pub(super) fn pass(&mut self, long: Duration) {
        let held = self.tenure.permit(self.now).is_some();
        self.now += long;
        if held {
            self.tenure.renewed(self.now);
        }
    }

    /// The next request, if there is one now.
    pub(super) fn next(&mut self) -> Option<(Target, Box<Job>, Instant)> {
        match self.desk.turn(self.now) {
            Turn::Send(target, job, deadline) => Some((target, job, deadline)),
            Turn::At(_) => None,
        }
    }

    pub(super) async fn send(&self, next: (Target, Box<Job>, Instant)) -> Ended {
        let (target, job, deadline) = next;
        let client = self.clients.write.clone();
        job.run(target, client, deadline.max(clock::now() + Duration::from_secs(5))).await
    }

    /// Writes until nothing is to be written now; what the server was asked meanwhile.
    pub(super) async fn work(&mut self) -> Vec<Request> {
        while let Some(next) = self.next() {
            let ended = self.send(next).await;
            self.desk.finish(ended, self.now);
        }
        self.desk.publish(&self.refused);
        let requests = self.server.requests_since(self.mark);
        self.mark = self.server.mark();
        requests
    }

    /// When the next turn is.
    pub(super) fn wake(&mut self) -> Option<Instant> {
        match self.desk.turn(self.now) {
            Turn::At(moment) => moment,
            Turn::Send(..) => panic!("there is something to send"),
        }
    }

    /// An object as the server has it.
    pub(super) fn there(&self, id: &ObjectId) -> Option<Value> {
        let plural = KINDS.iter().find(|(kind, _)| *kind == id.kind).unwrap().1;
        self.server.get(plural, &format!("{}/{}", id.namespace, id.name))
    }
}

pub(super) fn feed(server: &ApiServer, mirror: &Mirror) {
    for (kind, plural) in KINDS {
        let version = server.version();
        let ours = server.list(plural).into_iter().filter_map(|value| {
            let object = Object::parse(kind, &value).ok().filter(Object::is_ours)?;
            let text = |field: &str| Box::from(value["metadata"][field].as_str().unwrap());
            Some((
                object.id(),
                Existing {
                    uid: text("uid"),
                    version: text("resourceVersion"),
                    object: Arc::new(object),
                    deleting: value["metadata"]["deletionTimestamp"].is_string(),
                },
            ))
        });
        mirror.listed(kind, version, ours.collect(), false);
        mirror.vacated(kind, |id| {
            server.get(plural, &format!("{}/{}", id.namespace, id.name)).is_some()
        });
    }
}

/// `verb resource name`, for comparison.
pub(super) fn short(requests: &[Request]) -> Vec<String> {
    let line = |of: &Request| {
        let name = of.subresource.as_deref().unwrap_or_default();
        format!("{:?} {} {name}", of.verb, of.resource).trim_end().to_owned()
    };
    requests.iter().map(line).collect()
}

/// What a writer is told and tells.
#[derive(Debug)]
pub(super) struct Ends {
    pub(super) desired: tokio::sync::mpsc::Sender<crate::objects::Desired>,
    _peers: watch::Sender<Arc<BTreeMap<Box<str>, crate::objects::PeerStatus>>>,
    pub(super) leader: watch::Receiver<bool>,
    _refusals: watch::Receiver<Arc<BTreeMap<ServiceKey, Box<str>>>>,
}

pub(super) fn ends() -> (Ends, WriterInputs, WriterOutputs) {
    let (desired, inputs) = tokio::sync::mpsc::channel(16);
    let (peers, statuses) = watch::channel(Arc::default());
    let (leads, leader) = watch::channel(false);
    let (refused, refusals) = watch::channel(Arc::default());
    (
        Ends { desired, _peers: peers, leader, _refusals: refusals },
        WriterInputs { desired: inputs, peers: statuses },
        WriterOutputs { leader: leads, refusals: refused },
    )
}
