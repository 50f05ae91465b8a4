//! What a test does with the server.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use super::kinds::Kind;
use super::object::{Key, Object};
use super::rule::Rule;
use super::script::{End, Request, RuleId};
use super::server::ApiServer;
use super::store::Store;
use super::writes::{Part, Preconditions, Writer};
use crate::testing::PATIENCE;

/// Objects are named by the plural of their kind (`services`; `events.events.k8s.io` where the
/// plural is not enough) and by `namespace/name`, or `name` for those of the cluster. Changes
/// made here are seen by watches like any other; they are not in the log, meet no rule, and work
/// while the server is stopped.
///
/// # Panics
/// All of these panic with a clear text where the test asks for what cannot be: an unknown kind,
/// an object without a name, one that the real server would never hold, an await that takes
/// longer than [`PATIENCE`].
impl ApiServer {
    /// Creates an object or replaces it, and says how it is now.
    ///
    /// Defaults and checks are the server's own; status is taken from here too (kept if not
    /// given), and so are `uid` and `creationTimestamp` of a new one. A missing namespace is made.
    pub fn put(&self, object: Value) -> Value {
        let (table, written) = self.write(object);
        shown(&self.shared.store(), table, &written)
    }

    /// [`ApiServer::put`] where nobody wants to know how it is now.
    pub(super) fn write(&self, object: Value) -> (usize, Arc<Object>) {
        let mut store = self.shared.store();
        let table = table_of(&store, &object);
        let key = key_of(&object);
        let written = if store.get(table, &key).is_some() {
            store.update(table, &key, object, Part::Main, Writer::Test)
        } else {
            store.create(table, object, Writer::Test)
        };
        match written {
            Ok(object) => (table, object),
            Err(refusal) => {
                drop(store);
                panic!("the fake API server refuses {key:?}: {}", refusal.message)
            }
        }
    }

    /// From now on the schema of a kind lacks these fields (JSON pointers) and no others; they are
    /// dropped.
    pub fn prune(&self, resource: &str, fields: &'static [&'static str]) {
        let unknown = &mut self.shared.store().unknown;
        unknown.retain(|(of, _)| of != resource);
        unknown.push((resource.to_owned(), fields));
    }

    /// Whether an object is there.
    #[must_use]
    pub fn has(&self, resource: &str, key: &str) -> bool {
        let store = self.shared.store();
        store.get(store.table_called(resource), &parse(key)).is_some()
    }

    /// Like [`ApiServer::put`] without defaults and checks: for what a decoder cannot read, and
    /// for objects larger than the server would take.
    pub fn raw(&self, object: Value) -> Value {
        let mut store = self.shared.store();
        let table = table_of(&store, &object);
        let written = store.put_raw(table, object);
        shown(&store, table, &written)
    }

    /// Changes an object in place, status included.
    pub fn change(&self, resource: &str, key: &str, change: impl FnOnce(&mut Value)) -> Value {
        let mut object = self.get(resource, key).unwrap_or_else(|| panic!("no {resource} {key}"));
        change(&mut object);
        self.put(object)
    }

    /// An object as it is now.
    #[must_use]
    pub fn get(&self, resource: &str, key: &str) -> Option<Value> {
        let store = self.shared.store();
        let table = store.table_called(resource);
        store.get(table, &parse(key)).map(|object| shown(&store, table, object))
    }

    /// All objects of a kind, by namespace and name.
    #[must_use]
    pub fn list(&self, resource: &str) -> Vec<Value> {
        let store = self.shared.store();
        let table = store.table_called(resource);
        store.tables[table].objects.values().map(|o| shown(&store, table, o)).collect()
    }

    /// Deletes an object as a client would; whether it was there.
    pub fn delete(&self, resource: &str, key: &str) -> bool {
        let mut store = self.shared.store();
        let table = store.table_called(resource);
        store.delete(table, &parse(key), &Preconditions::default()).is_ok()
    }

    /// Marks a namespace as about to go: what is in it stays, nothing new comes in. It is gone
    /// with [`ApiServer::delete`].
    pub fn terminate(&self, namespace: &str) {
        let mut store = self.shared.store();
        let table = store.table_called("namespaces");
        let marked = store.terminate(table, &(String::new(), namespace.to_owned()));
        marked.unwrap_or_else(|refusal| panic!("{}", refusal.message));
    }

    /// The version that the server is at.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.shared.store().version
    }

    /// Serves a kind that it does not know, or one differently (say, of one version only).
    pub fn install(&self, kind: Kind) {
        self.shared.store().install(kind);
    }

    /// The paths of a kind are gone (404), as before its definition is installed. Its objects
    /// come back with [`ApiServer::restore`]; open watches end.
    pub fn uninstall(&self, resource: &str) {
        self.serve(resource, false);
        self.end_watches(resource, End::Clean);
    }

    /// Undoes [`ApiServer::uninstall`].
    pub fn restore(&self, resource: &str) {
        self.serve(resource, true);
    }

    fn serve(&self, resource: &str, served: bool) {
        let mut store = self.shared.store();
        let table = store.table_called(resource);
        store.tables[table].served = served;
    }

    /// From now on requests meet this; the oldest rule that fits decides.
    pub fn fail(&self, rule: Rule) -> RuleId {
        self.shared.script().add(rule)
    }

    /// Takes a rule back; requests stalled by it go on.
    pub fn take_back(&self, rule: RuleId) {
        self.shared.script().take_back(rule);
        self.shared.poke();
    }

    /// Watches of a kind, open ones and new ones, stay open and say nothing, not even when their
    /// time is over.
    pub fn black_hole(&self, resource: &str) {
        let table = self.shared.store().table_called(resource);
        self.shared.script().silence(table);
        self.wake(table);
    }

    /// Takes back every rule and every black hole. Watches that were silent catch up.
    pub fn heal(&self) {
        self.shared.script().heal();
        self.wake_all();
        self.shared.poke();
    }

    /// Every write takes so long before it is done, until [`ApiServer::heal`].
    pub fn slow_writes(&self, long: Duration) -> RuleId {
        self.fail(Rule::delay(long).writes())
    }

    /// Forgets the past: a watch that starts from any version handed out so far is told 410, and
    /// so is a list in the middle of its pages. Open watches go on (see
    /// [`ApiServer::end_watches`]).
    pub fn compact(&self) {
        self.shared.store().compact();
    }

    /// Ends the open watches of a kind.
    pub fn end_watches(&self, resource: &str, end: End) {
        let table = self.shared.store().table_called(resource);
        self.shared.script().end_watches(table, end);
        self.wake(table);
    }

    /// Sends a bookmark on every open watch that asked for them.
    pub fn bookmark(&self) {
        self.shared.script().ask_for_bookmarks();
        self.wake_all();
    }

    /// Sends a line of a test's own, as it is, on the open watches of a kind.
    pub fn garble(&self, resource: &str, line: &str) {
        let table = self.shared.store().table_called(resource);
        self.shared.script().garble(table, format!("{line}\n").as_bytes());
        self.wake(table);
    }

    fn wake(&self, table: usize) {
        self.shared.store().tables[table].signal.send_replace(());
    }

    fn wake_all(&self) {
        for table in &self.shared.store().tables {
            table.signal.send_replace(());
        }
    }

    /// Everything that clients have asked so far (the last 100 000).
    #[must_use]
    pub fn requests(&self) -> Vec<Request> {
        self.requests_since(0)
    }

    /// How many requests there have been: a mark for [`ApiServer::requests_since`].
    #[must_use]
    pub fn mark(&self) -> usize {
        self.shared.script().seen()
    }

    /// What has been asked since a mark.
    #[must_use]
    pub fn requests_since(&self, mark: usize) -> Vec<Request> {
        self.shared.script().since(mark).cloned().collect()
    }

    /// Open watches of a kind.
    #[must_use]
    pub fn watches(&self, resource: &str) -> usize {
        let table = self.shared.store().table_called(resource);
        self.shared.script().open_watches(table)
    }

    /// Waits for so many open watches of a kind, or more.
    pub async fn await_watches(&self, resource: &str, count: usize) {
        let what = format!("{count} watches of {resource}");
        let mut moved = self.shared.moved.subscribe();
        self.until(&what, &mut moved, || (self.watches(resource) >= count).then_some(())).await;
    }

    /// Waits for a request, those already made included; it may not be answered yet (`code` 0).
    pub async fn await_request(&self, is: impl Fn(&Request) -> bool) -> Request {
        self.await_request_since(0, is).await
    }

    /// Waits for a request that was made after a mark.
    pub async fn await_request_since(&self, mark: usize, is: impl Fn(&Request) -> bool) -> Request {
        let mut moved = self.shared.moved.subscribe();
        let find = || self.shared.script().since(mark).find(|request| is(request)).cloned();
        self.until("the request", &mut moved, find).await
    }

    /// Waits until an object, or its absence, is as wanted.
    pub async fn await_object(
        &self,
        resource: &str,
        key: &str,
        is: impl Fn(Option<&Value>) -> bool,
    ) -> Option<Value> {
        let mut signal = self.signal(resource);
        let look = || {
            let object = self.get(resource, key);
            is(object.as_ref()).then_some(object)
        };
        self.until(&format!("{resource} {key}"), &mut signal, look).await
    }

    /// Waits until the objects of a kind are as wanted.
    pub async fn await_list(&self, resource: &str, is: impl Fn(&[Value]) -> bool) -> Vec<Value> {
        let mut signal = self.signal(resource);
        let look = || Some(self.list(resource)).filter(|list| is(list));
        self.until(&format!("all {resource}"), &mut signal, look).await
    }

    fn signal(&self, resource: &str) -> tokio::sync::watch::Receiver<()> {
        let store = self.shared.store();
        store.tables[store.table_called(resource)].signal.subscribe()
    }

    async fn until<T>(
        &self,
        what: &str,
        changed: &mut tokio::sync::watch::Receiver<()>,
        look: impl Fn() -> Option<T>,
    ) -> T {
        let wait = async {
            loop {
                changed.mark_unchanged();
                if let Some(found) = look() {
                    return found;
                }
                let _ours = changed.changed().await;
            }
        };
        tokio::time::timeout(PATIENCE, wait)
            .await
            .unwrap_or_else(|_| panic!("waited {PATIENCE:?} for {what}"))
    }
}

fn table_of(store: &Store, object: &Value) -> usize {
    let text = |field: &str| object[field].as_str().unwrap_or_default();
    let found = store.table_of(text("apiVersion"), text("kind"));
    found.unwrap_or_else(|| panic!("the fake API server does not know the kind of {object}"))
}

fn key_of(object: &Value) -> Key {
    let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
    (text("namespace"), text("name"))
}

fn parse(key: &str) -> Key {
    let (namespace, name) = key.split_once('/').unwrap_or(("", key));
    (namespace.to_owned(), name.to_owned())
}

fn shown(store: &Store, table: usize, object: &Object) -> Value {
    let kind = &store.tables[table].kind;
    object.to_json(&kind.api_version(&kind.versions[0]), &kind.kind)
}
