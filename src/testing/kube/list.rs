//! Lists: whole, or in pages of one consistent state.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::json;

use super::object::{Look, Object};
use super::refusal::Refusal;
use super::selector::Selector;
use super::store::{Snapshot, Store};

/// One page, ready to be encoded without the store.
pub(super) struct Page {
    version: u64,
    objects: Arc<Vec<Arc<Object>>>,
    range: std::ops::Range<usize>,
    next: Option<String>,
}

impl Page {
    /// The page that a query asks for.
    pub(super) fn find(
        store: &mut Store,
        table: usize,
        selector: &Selector,
        query: &BTreeMap<String, String>,
    ) -> Result<Self, Refusal> {
        let limit = query.get("limit").and_then(|text| text.parse().ok()).filter(|&n| n > 0);
        let limit = limit.unwrap_or(usize::MAX);
        let token = query.get("continue").filter(|token| !token.is_empty());
        let (id, start, snapshot) = if let Some(token) = token {
            let (id, start) = parse_token(token)
                .ok_or_else(|| Refusal::bad_request("continue key is not valid"))?;
            (Some(id), start, store.snapshot(id).ok_or_else(Refusal::continue_expired)?)
        } else {
            let objects = Arc::new(store.tables[table].matching(selector));
            (None, 0, Snapshot { version: store.version, objects })
        };
        let end = start.saturating_add(limit).min(snapshot.objects.len());
        let version = snapshot.version;
        let objects = Arc::clone(&snapshot.objects);
        let next = (end < objects.len()).then(|| {
            let id = id.unwrap_or_else(|| store.keep_snapshot(snapshot));
            format!("{id}.{end}")
        });
        Ok(Self { version, range: start.min(end)..end, objects, next })
    }

    /// The list as a client sees it; `typed` ones name the kind once.
    pub(super) fn encode(&self, look: &Look, typed: bool) -> Vec<u8> {
        let objects = &self.objects[self.range.clone()];
        let size: usize = objects.iter().map(|object| object.size() + 96).sum();
        let mut out = Vec::with_capacity(size + 256);
        let mut metadata = json!({ "resourceVersion": self.version.to_string() });
        if let Some(next) = &self.next {
            metadata["continue"] = json!(next);
            metadata["remainingItemCount"] = json!(self.objects.len() - self.range.end);
        }
        let head = format!(
            "{{\"kind\":\"{}List\",\"apiVersion\":\"{}\",\"metadata\":{metadata},\"items\":[",
            look.kind, look.api_version
        );
        out.extend_from_slice(head.as_bytes());
        for (position, object) in objects.iter().enumerate() {
            if position > 0 {
                out.push(b',');
            }
            if typed && !look.metadata_only {
                object.write_item(look, &mut out);
            } else {
                object.write(look, &mut out);
            }
        }
        out.extend_from_slice(b"]}\n");
        out
    }
}

fn parse_token(token: &str) -> Option<(u64, usize)> {
    let (id, start) = token.split_once('.')?;
    Some((id.parse().ok()?, start.parse().ok()?))
}
