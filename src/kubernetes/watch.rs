//! One watch per kind: list in pages, then follow the changes, for ever.
//!
//! Invariants: a list is handed on only when it is whole; the place in the stream moves only with
//! what was handed on; every answer has a deadline; in an outage at most 8 attempts in the first
//! minute and 4 in each later one. Not here: what an object is to us (`kinds`), what follows from
//! a change (`state`).

mod call;

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use http_body_util::BodyExt;
use kube::core::Request;
use kube::core::params::{ListParams, WatchParams};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout, timeout_at};

use self::call::{Trouble, page};
use super::client::Clients;
use super::kinds::{Decoder, Item, MAX_OBJECT_OCTETS, Name, Resource};
use super::{Metrics, Reason};
use crate::backoff::Backoff;
use crate::clock;

/// Objects per page of a list.
const PAGE: u32 = 500;
/// Most objects of one kind.
const MAX_OBJECTS: usize = 500_000;
/// The longest event: an object with what stands around it, in octets.
const MAX_EVENT_OCTETS: usize = MAX_OBJECT_OCTETS + 1024;
/// The longest pause that a server may ask for.
const MAX_ASKED_PAUSE: Duration = Duration::from_secs(60);

/// How long things may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Timing {
    /// After that the server is to end a watch; whole seconds.
    pub(super) watch: Duration,
    /// How much later than that it may do so.
    pub(super) grace: Duration,
    /// Until the head of an answer.
    pub(super) answer: Duration,
    /// Until a page of a list is whole.
    pub(super) page: Duration,
    /// Between two looks for a kind that is not installed.
    pub(super) absent: Duration,
    /// The shortest and the longest pause between attempts, before jitter.
    pub(super) pause: (Duration, Duration),
    /// At most so often the view and updates are published.
    pub(super) publish: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            watch: Duration::from_secs(60),
            grace: Duration::from_secs(5),
            answer: Duration::from_secs(10),
            page: Duration::from_secs(30),
            absent: Duration::from_secs(30),
            // Halved by jitter at worst: attempts after 0, 1, 3, 7, 15, 30, 45 and 60 s.
            pause: (Duration::from_secs(2), Duration::from_secs(30)),
            publish: Duration::from_millis(20),
        }
    }
}

/// What a watch tells.
#[derive(Debug)]
pub(super) enum Heard {
    /// Every object of the kind, as of that version.
    Listed { resource: Resource, version: Box<str>, items: Vec<Item> },
    /// What happened since, in order.
    Changed { resource: Resource, changes: Vec<Change> },
    /// The kind is not installed.
    Absent { resource: Resource },
    /// It cannot be listed or watched for now.
    Down { resource: Resource, what: String },
    /// It can again.
    Up { resource: Resource },
}

/// What happened to one object.
#[derive(Debug)]
pub(super) enum Change {
    /// It is so now.
    Put(Box<Item>),
    /// It went, at that version.
    Gone { name: Name, version: Box<str> },
}

/// One kind's watch.
#[derive(Debug)]
pub(super) struct Watcher {
    resource: Resource,
    /// The one namespace and the one name that are watched, where it is not all.
    only: Option<Name>,
    clients: Arc<Clients>,
    decoder: Arc<Decoder>,
    timing: Timing,
    metrics: Metrics,
    heard: mpsc::Sender<Heard>,
    backoff: Backoff,
    /// Which of the kind's versions is asked for.
    version: usize,
    /// Up to where everything was handed on; `None`: it must be listed.
    position: Option<Box<str>>,
    page: u32,
    /// The last watch fell silent: only a sign of life is good news.
    mute: bool,
    /// Listed again because of a 410, and no calm since.
    lost: bool,
    /// Trouble was reported.
    down: bool,
}

/// How a watch that began came to its end.
enum End {
    /// It lived as long as it should.
    Over,
    /// The server, or something between, cut it short.
    Short,
    /// The server did not end it when it should have: the connection is dead.
    Silent,
}

#[derive(Deserialize)]
struct Event<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    object: &'a RawValue,
}

#[derive(Deserialize)]
struct Bookmark {
    metadata: Version,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Version {
    resource_version: Box<str>,
}

impl Watcher {
    /// A watch of all objects of a kind, or of the one that is named.
    pub(super) fn new(
        resource: Resource,
        only: Option<Name>,
        clients: Arc<Clients>,
        decoder: Arc<Decoder>,
        (timing, metrics): (Timing, Metrics),
        heard: mpsc::Sender<Heard>,
    ) -> Self {
        let (min, max) = timing.pause;
        Self {
            resource,
            only,
            clients,
            decoder,
            timing,
            metrics,
            heard,
            backoff: Backoff::try_new(min, max).expect("the timing has a sound range"),
            version: 0,
            position: None,
            page: PAGE,
            mute: false,
            lost: false,
            down: false,
        }
    }

    /// Lists and watches until nobody listens any more.
    pub(super) async fn run(mut self) {
        while !self.heard.is_closed() {
            let outcome = match self.position.take() {
                None => match self.list().await {
                    Ok(()) => continue,
                    Err(trouble) => Err(trouble),
                },
                Some(from) => self.watch(from).await,
            };
            let pause = match outcome {
                Ok(End::Over) => {
                    self.prefer_again().await;
                    continue;
                }
                Ok(End::Silent) => {
                    self.fell_silent().await;
                    continue;
                }
                Ok(End::Short) => self.backoff.pause(),
                Err(trouble) => self.meet(trouble).await,
            };
            tokio::select! {
                () = sleep(pause) => {}
                () = self.heard.closed() => return,
            }
        }
    }

    /// Takes note of what went wrong; says how long to wait before the next attempt.
    async fn meet(&mut self, trouble: Trouble) -> Duration {
        let resource = self.resource;
        if trouble.status == Some(404) && resource.custom() {
            self.position = None;
            self.version += 1;
            if self.version < resource.versions().len() {
                return Duration::ZERO;
            }
            self.version = 0;
            self.clients.serves(resource, None);
            self.metrics.count(Reason::NotInstalled);
            self.down = true;
            self.say(Heard::Absent { resource }).await;
            return self.timing.absent;
        }
        self.metrics.count(trouble.reason);
        if trouble.reason == Reason::Gone {
            self.position = None;
            if !std::mem::replace(&mut self.lost, true) {
                tracing::info!(
                    kind = resource.kind(),
                    "the API server forgot our place; listing anew"
                );
                return Duration::ZERO;
            }
        }
        let asked = trouble.retry_after.unwrap_or_default().min(MAX_ASKED_PAUSE);
        let pause = self.backoff.pause().max(asked);
        let what = trouble.advice(resource);
        tracing::debug!(kind = resource.kind(), ?pause, "{what}");
        self.down = true;
        self.say(Heard::Down { resource, what }).await;
        pause
    }

    /// A kind may be missing for a moment only, as while the API server starts: where an older
    /// version is watched, a better one is looked for whenever a watch is over.
    async fn prefer_again(&mut self) {
        if self.version == 0 || self.position.is_none() {
            return;
        }
        let older = std::mem::take(&mut self.version);
        let (api, version) = self.api();
        let params = ListParams { limit: Some(1), ..Default::default() };
        let Ok(request) = api.list(&params) else {
            self.version = older;
            return;
        };
        let read = page(&self.clients.watch, request, &self.timing);
        match timeout(self.timing.page, read).await {
            Ok(Ok(_)) => {
                tracing::info!(kind = self.resource.kind(), version, "served again");
                self.position = None;
            }
            _ => self.version = older,
        }
    }

    /// Takes note of a watch that outlived its deadline. Its silence has been pause enough.
    async fn fell_silent(&mut self) {
        let trouble = Trouble::timeout("watch", self.timing.watch + self.timing.grace);
        self.metrics.count(trouble.reason);
        self.mute = true;
        self.down = true;
        let what = trouble.advice(self.resource);
        self.say(Heard::Down { resource: self.resource, what }).await;
    }

    async fn say(&self, heard: Heard) {
        // An error is that nobody listens; `run` sees that.
        let _gone = self.heard.send(heard).await;
    }

    async fn up(&mut self) {
        if std::mem::take(&mut self.down) {
            self.say(Heard::Up { resource: self.resource }).await;
        }
    }

    fn api(&self) -> (Request, &'static str) {
        let version = self.resource.versions()[self.version];
        let namespace = self.only.as_ref().map(|only| &*only.namespace);
        (Request::new(self.resource.path(version, namespace)), version)
    }

    fn field_selector(&self) -> Option<String> {
        self.only.as_ref().map(|only| format!("metadata.name={}", only.name))
    }

    /// Reads every page; on any trouble what was read is dropped.
    async fn list(&mut self) -> Result<(), Trouble> {
        let (api, version) = self.api();
        let mut params = ListParams { field_selector: self.field_selector(), ..Default::default() };
        let mut items = Vec::new();
        loop {
            params.limit = Some(self.page);
            let request = api.list(&params).map_err(|error| Trouble::answer(&error))?;
            let read = page(&self.clients.watch, request, &self.timing);
            let body = timeout(self.timing.page, read)
                .await
                .map_err(|_| Trouble::timeout("list", self.timing.page))??;
            let Some(body) = body else {
                if self.page == 1 {
                    return Err(Trouble::answer(&"one object is larger than a page may be"));
                }
                self.page = (self.page / 8).max(1);
                (params.continue_token, items) = (None, Vec::new());
                continue;
            };
            let page = call::List::parse(&body)?;
            if items.len() + page.items.len() > MAX_OBJECTS {
                return Err(Trouble::answer(&format!("there are more than {MAX_OBJECTS} of them")));
            }
            for raw in page.items {
                items.extend(self.item(raw));
            }
            match page.metadata.next() {
                Some(next) => params.continue_token = Some(next),
                None => {
                    let at = page.metadata.version().ok_or_else(|| {
                        Trouble::answer(&"the list has no metadata.resourceVersion")
                    })?;
                    self.clients.serves(self.resource, Some(version));
                    let heard =
                        Heard::Listed { resource: self.resource, version: at.clone(), items };
                    self.say(heard).await;
                    self.position = Some(at);
                    return Ok(());
                }
            }
        }
    }

    /// Follows the changes since that version.
    async fn watch(&mut self, from: Box<str>) -> Result<End, Trouble> {
        self.position = Some(from.clone());
        let (api, _) = self.api();
        let params = WatchParams {
            field_selector: self.field_selector(),
            timeout: u32::try_from(self.timing.watch.as_secs()).ok(),
            ..WatchParams::default()
        };
        let request = api.watch(&params, &from).map_err(|error| Trouble::answer(&error))?;
        let began = clock::now();
        let deadline = (began + self.timing.watch + self.timing.grace).into();
        let mut body = call::begin(&self.clients.watch, request, &self.timing, "watch").await?;
        if !self.mute {
            self.up().await;
        }
        let mut buffer = BytesMut::new();
        loop {
            let Ok(next) = timeout_at(deadline, body.frame()).await else {
                return Ok(End::Silent);
            };
            let whole = match next {
                Some(Ok(frame)) => {
                    buffer.extend_from_slice(&frame.into_data().unwrap_or_default());
                    None
                }
                Some(Err(error)) => {
                    self.metrics.count(Reason::Unreachable);
                    tracing::debug!(kind = self.resource.kind(), %error, "watch broke");
                    Some(End::Short)
                }
                None => Some(End::Over),
            };
            let lived = clock::now().saturating_duration_since(began);
            if lived >= self.timing.watch / 2 {
                self.backoff.reset();
                self.lost = false;
            }
            if !buffer.is_empty() || matches!(whole, Some(End::Over)) {
                self.mute = false;
                self.up().await;
            }
            self.take(&mut buffer).await?;
            match whole {
                Some(End::Over) if lived < self.timing.watch / 2 => return Ok(End::Short),
                Some(end) => return Ok(end),
                None => {}
            }
        }
    }

    /// Hands on the events that are whole.
    async fn take(&mut self, buffer: &mut BytesMut) -> Result<(), Trouble> {
        let mut changes = Vec::new();
        let mut outcome = Ok(());
        while let Some(end) = buffer.iter().position(|octet| *octet == b'\n') {
            let line = buffer.split_to(end);
            buffer.advance(1);
            if let Err(trouble) = self.event(&line, &mut changes) {
                outcome = Err(trouble);
                break;
            }
        }
        if !changes.is_empty() {
            self.say(Heard::Changed { resource: self.resource, changes }).await;
        }
        if outcome.is_ok() && buffer.len() > MAX_EVENT_OCTETS {
            // Whose event it is cannot be read; the list says that, and refuses it by name.
            self.position = None;
            return Err(Trouble::answer(&"an event is too large"));
        }
        outcome
    }

    fn event(&mut self, line: &[u8], changes: &mut Vec<Change>) -> Result<(), Trouble> {
        if line.trim_ascii().is_empty() {
            return Ok(());
        }
        let garbled = |watcher: &mut Self, error: serde_json::Error| {
            // What it was is lost: only a list can tell.
            watcher.position = None;
            Trouble::answer(&error)
        };
        let event: Event<'_> = match serde_json::from_slice(line) {
            Ok(event) => event,
            Err(error) => return Err(garbled(self, error)),
        };
        match &*event.kind {
            "ADDED" | "MODIFIED" => {
                if let Some(item) = self.item(event.object) {
                    self.advance(&item.version);
                    changes.push(Change::Put(item.into()));
                }
            }
            "DELETED" => {
                if let Some(Item { name, version, .. }) = self.item(event.object) {
                    self.advance(&version);
                    changes.push(Change::Gone { name, version });
                }
            }
            "BOOKMARK" => match serde_json::from_str::<Bookmark>(event.object.get()) {
                Ok(bookmark) => self.advance(&bookmark.metadata.resource_version),
                Err(error) => return Err(garbled(self, error)),
            },
            "ERROR" => return Err(Trouble::told(event.object.get())),
            // A kind of event of a later version of the API: it cannot matter to those before.
            _ => {}
        }
        Ok(())
    }

    fn advance(&mut self, version: &str) {
        if !version.is_empty() {
            self.position = Some(version.into());
        }
    }

    /// The object; one that does not even say which it is can only be counted.
    fn item(&self, raw: &RawValue) -> Option<Item> {
        self.decoder
            .item(self.resource, raw)
            .inspect_err(|why| {
                self.metrics.count(Reason::Object);
                tracing::warn!("{why}");
            })
            .ok()
    }
}
