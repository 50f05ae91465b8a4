//! What a request gets from the store.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::discovery;
use super::kinds::{Kind, Scope};
use super::list::Page;
use super::object::{Key, Look, Object};
use super::patch;
use super::path::Path;
use super::refusal::Refusal;
use super::rule::Verb;
use super::script::Request;
use super::selector::Selector;
use super::shared::Shared;
use super::watch::{Asked, error_line, write_event};
use super::writes::{Part, Preconditions, Writer};

/// What goes back.
pub(super) enum Answer {
    Bytes(u16, Vec<u8>),
    Json(u16, Value),
    Text(u16, &'static str),
    Watch(Box<Asked>),
}

/// A request for objects of a served kind.
struct Call<'a> {
    shared: &'a Shared,
    table: usize,
    kind: Arc<Kind>,
    look: Look,
    path: Path,
    request: &'a Request,
}

/// Serves what is left after the test's rules.
pub(super) fn serve(
    shared: &Shared,
    path: Option<Path>,
    request: &Request,
    content_type: &str,
    metadata_only: bool,
) -> Result<Answer, Refusal> {
    let Some(path) = path else { return Ok(discovery::answer(&shared.store(), &request.path)) };
    let found = {
        let store = shared.store();
        let table = store.table_at(&path.group, &path.version, &path.resource);
        table.map(|table| (table, Arc::clone(&store.tables[table].kind)))
    };
    let Some((table, kind)) = found else { return Ok(discovery::NOT_FOUND) };
    let look = Look::new(&kind, &path.version, metadata_only);
    let call = Call { shared, table, kind, look, path, request };
    call.part()?;
    match request.verb {
        Verb::Get => call.get(),
        Verb::List => call.list(),
        Verb::Watch => call.watch(),
        Verb::Create => call.create(),
        Verb::Update => call.update(),
        Verb::Patch => call.patch(content_type),
        Verb::Delete => call.delete(),
        Verb::DeleteCollection => call.delete_many(),
    }
}

impl Call<'_> {
    fn part(&self) -> Result<Part, Refusal> {
        match self.path.subresource.as_deref() {
            None => Ok(Part::Main),
            Some("status") if self.kind.status => Ok(Part::Status),
            Some(_) => {
                let text = "the server could not find the requested resource".to_owned();
                Err(Refusal::new(404, "NotFound", text))
            }
        }
    }

    fn key(&self) -> Key {
        let namespace = self.path.namespace.clone().unwrap_or_default();
        (namespace, self.path.name.clone().unwrap_or_default())
    }

    fn selector(&self) -> Result<Selector, Refusal> {
        let text = |key| self.request.query.get(key).map_or("", String::as_str);
        let namespace = self.path.namespace.clone();
        let mut fields = text("fieldSelector").to_owned();
        if let Some(name) = &self.path.name {
            // A watch of one object.
            fields = format!("metadata.name={name}");
        }
        Selector::parse(namespace, text("labelSelector"), &fields).map_err(Refusal::bad_request)
    }

    fn shown(&self, code: u16, object: &Object) -> Answer {
        let mut out = Vec::with_capacity(object.size() + 128);
        object.write(&self.look, &mut out);
        Answer::Bytes(code, out)
    }

    fn get(&self) -> Result<Answer, Refusal> {
        let object = self.shared.store().found(self.table, &self.key())?;
        Ok(self.shown(200, &object))
    }

    fn list(&self) -> Result<Answer, Refusal> {
        let selector = self.selector()?;
        let page =
            Page::find(&mut self.shared.store(), self.table, &selector, &self.request.query)?;
        Ok(Answer::Bytes(200, page.encode(&self.look, !self.kind.custom)))
    }

    fn watch(&self) -> Result<Answer, Refusal> {
        let selector = self.selector()?;
        let flag = |key| self.request.query.get(key).is_some_and(|text| text == "true");
        let number = |key| match self.request.query.get(key).filter(|text| !text.is_empty()) {
            None => Ok(0),
            Some(text) => text
                .parse::<u64>()
                .map_err(|_| Refusal::bad_request(format!("invalid {key}: {text:?}"))),
        };
        let since = number("resourceVersion")?;
        let timeout = number("timeoutSeconds")?;
        let store = self.shared.store();
        let table = &store.tables[self.table];
        let initial = flag("sendInitialEvents") || since == 0;
        let mut first = Vec::new();
        let mut position = since;
        if initial {
            position = store.version;
            let objects = table.matching(&selector);
            drop(store);
            for object in objects {
                write_event("ADDED", |out| object.write(&self.look, out), &mut first);
            }
        } else if since < table.floor {
            let line = error_line(&Refusal::too_old(since, table.floor));
            return Ok(Answer::Bytes(200, line));
        } else if since > store.version {
            let text = format!("Too large resource version: {since}, current: {}", store.version);
            return Err(Refusal::new(504, "Timeout", text));
        }
        let asked = Asked {
            table: self.table,
            selector,
            look: self.look.clone(),
            bookmarks: flag("allowWatchBookmarks"),
            mark_initial: flag("sendInitialEvents"),
            first,
            position,
            timeout: (timeout > 0).then(|| Duration::from_secs(timeout)),
        };
        Ok(Answer::Watch(Box::new(asked)))
    }

    /// The body as an object of this kind, in the namespace and with the name of the path.
    fn body(&self) -> Result<Value, Refusal> {
        let mut value: Value = serde_json::from_slice(&self.request.body)
            .map_err(|e| Refusal::bad_request(format!("the body is not JSON: {e}")))?;
        let api_version = self.kind.api_version(&self.path.version);
        if value["apiVersion"] != api_version || value["kind"] != self.kind.kind.as_str() {
            let text = format!(
                "the API version in the data ({}, {}) does not match the expected API version \
                 ({api_version}, {})",
                value["apiVersion"], value["kind"], self.kind.kind
            );
            return Err(Refusal::bad_request(text));
        }
        self.place(&mut value)?;
        Ok(value)
    }

    fn place(&self, value: &mut Value) -> Result<(), Refusal> {
        let metadata = &mut value["metadata"];
        if !metadata.is_object() {
            return Err(Refusal::bad_request("the object has no metadata"));
        }
        let said = |field: &str| metadata[field].as_str().unwrap_or_default().to_owned();
        let (namespace, name) = (said("namespace"), said("name"));
        if self.kind.scope == Scope::Namespaced {
            let here = self.path.namespace.clone().unwrap_or_default();
            if !namespace.is_empty() && namespace != here {
                let text = "the namespace of the provided object does not match the namespace \
                            sent on the request";
                return Err(Refusal::bad_request(text));
            }
            metadata["namespace"] = json!(here);
        }
        if let Some(wanted) = &self.path.name
            && name != *wanted
        {
            let text = format!(
                "the name of the object ({name}) does not match the name on the URL ({wanted})"
            );
            return Err(Refusal::bad_request(text));
        }
        Ok(())
    }

    fn create(&self) -> Result<Answer, Refusal> {
        let object = self.shared.store().create(self.table, self.body()?, Writer::Client)?;
        Ok(self.shown(201, &object))
    }

    fn update(&self) -> Result<Answer, Refusal> {
        let (part, key, value) = (self.part()?, self.key(), self.body()?);
        let object = self.shared.store().update(self.table, &key, value, part, Writer::Client)?;
        Ok(self.shown(200, &object))
    }

    fn patch(&self, content_type: &str) -> Result<Answer, Refusal> {
        let change: Value = serde_json::from_slice(&self.request.body)
            .map_err(|e| Refusal::bad_request(format!("the patch is not JSON: {e}")))?;
        let (part, key) = (self.part()?, self.key());
        let mut store = self.shared.store();
        let mut value = store.found(self.table, &key)?.inner_json();
        match content_type {
            "application/merge-patch+json" => patch::merge(&mut value, change),
            "application/json-patch+json" => patch::apply(&mut value, &change)
                .map_err(|why| Refusal::new(422, "Invalid", why))?,
            other => {
                let text = format!("the body of the request was in an unknown format: {other}");
                return Err(Refusal::new(415, "UnsupportedMediaType", text));
            }
        }
        self.place(&mut value)?;
        let object = store.update(self.table, &key, value, part, Writer::Client)?;
        drop(store);
        Ok(self.shown(200, &object))
    }

    fn preconditions(&self) -> Result<Preconditions, Refusal> {
        if self.request.body.is_empty() {
            return Ok(Preconditions::default());
        }
        let options: Value = serde_json::from_slice(&self.request.body)
            .map_err(|e| Refusal::bad_request(format!("the options are not JSON: {e}")))?;
        let wanted = |field: &str| options["preconditions"][field].as_str().map(str::to_owned);
        Ok(Preconditions { uid: wanted("uid"), version: wanted("resourceVersion") })
    }

    fn delete(&self) -> Result<Answer, Refusal> {
        let (key, wanted) = (self.key(), self.preconditions()?);
        let mut store = self.shared.store();
        let uid = store.found(self.table, &key)?.uid.clone();
        let left = store.delete(self.table, &key, &wanted)?;
        drop(store);
        Ok(left.map_or_else(
            || {
                let details = json!({
                    "name": key.1, "group": self.kind.group, "kind": self.kind.resource, "uid": uid,
                });
                Answer::Json(200, success(&details))
            },
            |object| self.shown(200, &object),
        ))
    }

    fn delete_many(&self) -> Result<Answer, Refusal> {
        let (selector, wanted) = (self.selector()?, self.preconditions()?);
        let mut store = self.shared.store();
        for object in store.tables[self.table].matching(&selector) {
            // One may have gone with its owner.
            if store.get(self.table, &object.key).is_some() {
                store.delete(self.table, &object.key, &wanted)?;
            }
        }
        drop(store);
        Ok(Answer::Json(200, success(&json!({}))))
    }
}

fn success(details: &Value) -> Value {
    json!({
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Success",
        "details": details,
    })
}
