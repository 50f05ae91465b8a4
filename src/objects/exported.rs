//! Exported labels and annotations on the import. They come from owners of exports and from
//! peers: what the API server would refuse, and the whole import with it, is left out.

use std::collections::BTreeMap;

use super::import::ExportedKeys;
use super::labels::ANNOTATION_EXPORTED;
use super::object::Meta;
use crate::catalog::Merged;
use crate::model::{DnsName, MAX_LABEL_OCTETS};

/// The most octets of exported keys and values: the API server takes 256 KiB of annotations in
/// all, and the keys stand there once more ([`put`]).
const MAX_OCTETS: usize = 96 * 1024;
/// So many refused keys are named.
const NAMED_KEYS: usize = 5;

type Texts = BTreeMap<Box<str>, Box<str>>;

/// What of the exported labels and annotations may stand on an object.
#[derive(Debug, Default)]
pub(super) struct Exported {
    pub(super) labels: Texts,
    pub(super) annotations: Texts,
    /// Keys that may not.
    refused: Vec<Box<str>>,
}

impl Exported {
    pub(super) fn of(merged: &Merged) -> Self {
        let mut exported = Self::default();
        let mut octets = 0;
        let mut fits = |key: &str, value: &str| {
            octets += key.len() + value.len();
            is_key(key) && octets <= MAX_OCTETS
        };
        for (key, value) in &merged.labels {
            if fits(key, value) && is_label_value(value) {
                exported.labels.insert(key.clone(), value.clone());
            } else {
                exported.refused.push(key.clone());
            }
        }
        for (key, value) in &merged.annotations {
            if fits(key, value) {
                exported.annotations.insert(key.clone(), value.clone());
            } else {
                exported.refused.push(key.clone());
            }
        }
        exported
    }

    /// What the import says of those that are left out; empty when none is.
    pub(super) fn message(&self) -> String {
        if self.refused.is_empty() {
            return String::new();
        }
        let named: Vec<_> = self
            .refused
            .iter()
            .take(NAMED_KEYS)
            .map(|key| key.escape_debug().to_string())
            .collect();
        let more = match self.refused.len().saturating_sub(NAMED_KEYS) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        format!(
            "exported labels or annotations that are no valid ones are left out: {}{more}",
            named.join(", ")
        )
    }
}

/// Puts them on an import, with the record of which they are. Ours are never replaced.
pub(super) fn put(meta: &mut Meta, labels: Texts, annotations: Texts) {
    let keys = ExportedKeys {
        annotations: annotations.keys().cloned().collect(),
        labels: labels.keys().cloned().collect(),
    };
    if keys != ExportedKeys::default() {
        let text = serde_json::to_string(&keys).unwrap_or_default();
        meta.annotations.insert(ANNOTATION_EXPORTED.into(), text.into());
    }
    for (ours, exported) in [(&mut meta.labels, labels), (&mut meta.annotations, annotations)] {
        for (key, value) in exported {
            ours.entry(key).or_insert(value);
        }
    }
}

/// A qualified name: `name` or `domain/name`. (Keys of reserved domains never get here: see
/// `catalog::admit`.)
fn is_key(key: &str) -> bool {
    let (domain, name) = key.split_once('/').map_or((None, key), |(d, n)| (Some(d), n));
    // The parser of names folds case and a final dot, the API server does not.
    let is_domain = |text: &str| DnsName::parse(text).is_ok_and(|name| name.as_str() == text);
    domain.is_none_or(is_domain) && !name.is_empty() && is_label_value(name)
}

/// At most 63 letters, digits, `-`, `_` and `.`, beginning and ending with a letter or digit.
fn is_label_value(value: &str) -> bool {
    let edge = |octet: Option<&u8>| octet.is_none_or(u8::is_ascii_alphanumeric);
    let inside = |octet: &u8| octet.is_ascii_alphanumeric() || b"-_.".contains(octet);
    let octets = value.as_bytes();
    octets.len() <= MAX_LABEL_OCTETS
        && octets.iter().all(inside)
        && edge(octets.first())
        && edge(octets.last())
}
