//! What the server says of itself: kinds, version, health.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::kinds::{Kind, Scope};
use super::serve::Answer;
use super::store::Store;

/// A path that does not exist, in the words of the real server: no `Status` object.
pub(super) const NOT_FOUND: Answer = Answer::Text(404, "404 page not found\n");

/// Answers whatever is not about objects.
pub(super) fn answer(store: &Store, path: &str) -> Answer {
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    let groups = groups(store);
    match parts.as_slice() {
        ["livez" | "readyz" | "healthz"] => Answer::Text(200, "ok"),
        ["version"] => Answer::Json(
            200,
            json!({
                "major": "1", "minor": "36", "gitVersion": "v1.36.0", "gitCommit": "",
                "gitTreeState": "clean", "buildDate": "2026-01-01T00:00:00Z", "goVersion": "go1",
                "compiler": "gc", "platform": "linux/amd64",
            }),
        ),
        ["api"] => {
            let versions = json!({ "kind": "APIVersions", "versions": ["v1"],
                "serverAddressByClientCIDRs": [] });
            Answer::Json(200, versions)
        }
        ["apis"] => {
            let list: Vec<Value> = groups.iter().map(|(name, v)| group(name, v)).collect();
            let body = json!({ "kind": "APIGroupList", "apiVersion": "v1", "groups": list });
            Answer::Json(200, body)
        }
        ["apis", name] => match groups.get(name) {
            None => NOT_FOUND,
            Some(versions) => {
                let mut body = group(name, versions);
                body["kind"] = json!("APIGroup");
                body["apiVersion"] = json!("v1");
                Answer::Json(200, body)
            }
        },
        ["api", version] => resources(store, "", version),
        ["apis", group, version] => resources(store, group, version),
        _ => NOT_FOUND,
    }
}

fn served(store: &Store) -> impl Iterator<Item = &Kind> {
    store.tables.iter().filter(|table| table.served).map(|table| table.kind.as_ref())
}

fn groups(store: &Store) -> BTreeMap<&str, Vec<&str>> {
    let mut groups: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for kind in served(store).filter(|kind| !kind.group.is_empty()) {
        let versions = groups.entry(&kind.group).or_default();
        for version in &kind.versions {
            if !versions.contains(&version.as_str()) {
                versions.push(version);
            }
        }
    }
    groups
}

fn group(name: &str, versions: &[&str]) -> Value {
    let version = |v: &&str| json!({ "groupVersion": format!("{name}/{v}"), "version": v });
    json!({
        "name": name,
        "versions": versions.iter().map(version).collect::<Vec<_>>(),
        "preferredVersion": versions.first().map(version),
    })
}

fn resources(store: &Store, group: &str, version: &str) -> Answer {
    let has = |kind: &&Kind| kind.group == group && kind.versions.iter().any(|v| v == version);
    let mut list = Vec::new();
    let mut known = false;
    for kind in served(store).filter(has) {
        known = true;
        let entry = |name: String, verbs: &[&str]| {
            json!({
                "name": name,
                "singularName": "",
                "namespaced": kind.scope == Scope::Namespaced,
                "kind": kind.kind,
                "verbs": verbs,
            })
        };
        let verbs =
            ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
        list.push(entry(kind.resource.clone(), &verbs));
        if kind.status {
            list.push(entry(format!("{}/status", kind.resource), &["get", "patch", "update"]));
        }
    }
    if !known {
        return NOT_FOUND;
    }
    let group_version =
        if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    let body = json!({ "kind": "APIResourceList", "apiVersion": "v1",
        "groupVersion": group_version, "resources": list });
    Answer::Json(200, body)
}
