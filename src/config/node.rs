//! The file as a tree in which everything knows its line and column.
//!
//! Deserialising straight into structs would end at the first wrong key; a tree that is walked
//! afterwards lets every fault of the file be told at once. Scalars are kept as they were
//! written: `cluster: 007` is the name `007`, not the number seven.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::{Location, Spanned};

use super::errors::{At, Problem};

/// A node of the file.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) at: At,
    pub(super) value: Value,
}

/// What a node holds.
#[derive(Debug, Clone)]
pub(super) enum Value {
    /// `null`, `~` or nothing: the same as leaving the key out.
    Null,
    /// A scalar, as written (quotes resolved).
    Text(String),
    /// A sequence.
    List(Vec<Node>),
    /// A mapping, in the file's order.
    Map(Vec<Entry>),
}

/// A key with its value.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) key: String,
    /// Where the key stands.
    pub(super) at: At,
    pub(super) node: Node,
}

impl Node {
    /// Reads a whole file; only what is not YAML at all (or holds a key twice) is refused here.
    pub(super) fn parse(source: &str) -> Result<Self, Problem> {
        let options = serde_saphyr::options! { strict_booleans: true, with_snippet: false };
        let raw: Option<Spanned<Raw>> = serde_saphyr::from_str_with_options(source, options)
            .map_err(|error| {
                Problem::new(error.location().as_ref().map(place), "", plain(&error))
            })?;
        Ok(raw.map_or_else(
            || Self { at: At::new(1, 1), value: Value::Null },
            |raw| Self::resolve(raw, source),
        ))
    }

    fn resolve(raw: Spanned<Raw>, source: &str) -> Self {
        let at = place(&raw.referenced);
        let value = match raw.value {
            Raw::Null => Value::Null,
            Raw::Text(text) => Value::Text(text),
            Raw::Typed(shown) => Value::Text(written(source, &raw.defined).unwrap_or(shown)),
            Raw::List(items) => {
                Value::List(items.into_iter().map(|item| Self::resolve(item, source)).collect())
            }
            Raw::Map(entries) => {
                let entry = |(key, node): (Spanned<String>, _)| Entry {
                    at: place(&key.referenced),
                    key: key.value,
                    node: Self::resolve(node, source),
                };
                Value::Map(entries.into_iter().map(entry).collect())
            }
        };
        Self { at, value }
    }

    /// Where the value at that path of keys stands; of a list, its item of that index.
    pub(super) fn locate(&self, path: &[&str], index: usize) -> Option<At> {
        let Some((first, rest)) = path.split_first() else {
            return Some(match &self.value {
                Value::List(items) => items.get(index).map_or(self.at, |item| item.at),
                Value::Null | Value::Text(_) | Value::Map(_) => self.at,
            });
        };
        let Value::Map(entries) = &self.value else { return None };
        entries.iter().find(|entry| entry.key == *first)?.node.locate(rest, index)
    }

    /// What it is, for error texts.
    pub(super) fn kind(&self) -> &'static str {
        match self.value {
            Value::Null => "nothing",
            Value::Text(_) => "a scalar",
            Value::List(_) => "a list",
            Value::Map(_) => "a mapping",
        }
    }
}

/// What a plain scalar such as `1e3` or `true` looked like in the file.
fn written(source: &str, defined: &Location) -> Option<String> {
    let span = defined.span();
    let start = usize::try_from(span.byte_offset()?).ok()?;
    let end = start.checked_add(usize::try_from(span.byte_len()?).ok()?)?;
    let text = source.get(start..end)?.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

fn place(location: &Location) -> At {
    At::new(location.line(), location.column())
}

/// The parser's text without the place, which we print in our own way, and without advice that
/// is meant for programmers.
fn plain(error: &serde_saphyr::Error) -> String {
    match error.without_snippet() {
        serde_saphyr::Error::DuplicateMappingKey { key: Some(key), .. } => {
            format!("the key '{key}' stands here a second time; remove one of them")
        }
        serde_saphyr::Error::MultipleDocuments { .. } => {
            "a second YAML document begins here; one file holds one configuration".to_owned()
        }
        other => {
            let text = other.to_string();
            let text = text.strip_prefix("error: ").unwrap_or(&text);
            let Some(location) = other.location() else { return text.to_owned() };
            let shown = format!(" at line {}, column {}", location.line(), location.column());
            text.strip_suffix(&shown).unwrap_or(text).to_owned()
        }
    }
}

/// A node as the deserialiser hands it over.
#[derive(Debug)]
enum Raw {
    Null,
    Text(String),
    /// A plain scalar that YAML reads as a number or a boolean, shown again.
    Typed(String),
    List(Vec<Spanned<Self>>),
    Map(Vec<(Spanned<String>, Spanned<Self>)>),
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RawVisitor)
    }
}

struct RawVisitor;

impl<'de> Visitor<'de> for RawVisitor {
    type Value = Raw;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a mapping, a list or a scalar")
    }

    fn visit_unit<E>(self) -> Result<Raw, E> {
        Ok(Raw::Null)
    }

    fn visit_none<E>(self) -> Result<Raw, E> {
        Ok(Raw::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Raw, D::Error> {
        Raw::deserialize(deserializer)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Raw, E> {
        Ok(Raw::Typed(value.to_string()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Raw, E> {
        Ok(Raw::Typed(value.to_string()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Raw, E> {
        Ok(Raw::Typed(value.to_string()))
    }

    fn visit_i128<E>(self, value: i128) -> Result<Raw, E> {
        Ok(Raw::Typed(value.to_string()))
    }

    fn visit_u128<E>(self, value: u128) -> Result<Raw, E> {
        Ok(Raw::Typed(value.to_string()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Raw, E> {
        Ok(Raw::Typed(value.to_string()))
    }

    fn visit_str<E>(self, value: &str) -> Result<Raw, E> {
        Ok(Raw::Text(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Raw, E> {
        Ok(Raw::Text(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Raw, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = list.next_element()? {
            items.push(item);
        }
        Ok(Raw::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Raw, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(Raw::Map(entries))
    }
}
