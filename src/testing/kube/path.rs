//! What a request is about: its path and query.

use std::collections::BTreeMap;

use hyper::Uri;

/// A path below `/api` or `/apis`, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Path {
    pub(super) group: String,
    pub(super) version: String,
    /// Empty for the cluster's objects and for lists over all namespaces.
    pub(super) namespace: Option<String>,
    pub(super) resource: String,
    pub(super) name: Option<String>,
    pub(super) subresource: Option<String>,
}

impl Path {
    pub(super) fn parse(path: &str) -> Option<Self> {
        let parts: Vec<String> = path
            .split('/')
            .filter(|part| !part.is_empty())
            .map(|part| decode(part, false))
            .collect();
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        let (group, version, rest) = match parts.as_slice() {
            ["api", version, rest @ ..] => ("", *version, rest),
            ["apis", group, version, rest @ ..] => (*group, *version, rest),
            _ => return None,
        };
        // `/namespaces/x/status` is about the namespace, `/namespaces/x/services` is not.
        let (namespace, rest) = match rest {
            ["namespaces", _, "status" | "finalize"] => (None, rest),
            ["namespaces", namespace, inside @ ..] if !inside.is_empty() => {
                (Some((*namespace).to_owned()), inside)
            }
            rest => (None, rest),
        };
        let (resource, rest) = rest.split_first()?;
        let name = rest.first().map(|&name| name.to_owned());
        let subresource = rest.get(1).map(|&part| part.to_owned());
        if rest.len() > 2 {
            return None;
        }
        Some(Self {
            group: group.to_owned(),
            version: version.to_owned(),
            namespace,
            resource: (*resource).to_owned(),
            name,
            subresource,
        })
    }
}

/// The query of a request; of equal keys the last counts.
pub(super) fn query(uri: &Uri) -> BTreeMap<String, String> {
    let pairs = uri.query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(key, true), decode(value, true))
        })
        .collect()
}

/// Percent signs, and in a query plus signs, undone.
fn decode(text: &str, plus_is_space: bool) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        rest = tail;
        let hex = tail.get(..2).and_then(|two| std::str::from_utf8(two).ok());
        match (first, hex.and_then(|two| u8::from_str_radix(two, 16).ok())) {
            (b'%', Some(octet)) => {
                out.push(octet);
                rest = &tail[2..];
            }
            (b'+', _) if plus_is_space => out.push(b' '),
            _ => out.push(first),
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}
