//! Walking the tree: fields are taken by name, what is left over is an unknown key, and every
//! fault goes to one list.

use std::fmt::Display;
use std::time::Duration;

use super::errors::{At, Problem};
use super::node::{Entry, Node, Value};

/// The list of faults found so far.
#[derive(Debug, Default)]
pub(super) struct Problems(pub(super) Vec<Problem>);

impl Problems {
    pub(super) fn add(&mut self, at: Option<At>, field: &str, text: impl Into<String>) {
        self.0.push(Problem::new(at, field, text));
    }
}

/// A mapping being read.
#[derive(Debug)]
pub(super) struct Fields<'a> {
    path: String,
    at: Option<At>,
    left: Vec<&'a Entry>,
    known: Vec<&'static str>,
    /// Not a mapping, which is reported already: what is missing in it is not reported too.
    broken: bool,
}

/// One value with the path that leads to it.
#[derive(Debug, Clone)]
pub(super) struct Field<'a> {
    pub(super) path: String,
    pub(super) node: &'a Node,
}

impl<'a> Fields<'a> {
    /// Reads `node` as a mapping; anything else is a fault and reads as an empty one.
    pub(super) fn of(path: &str, node: &'a Node, problems: &mut Problems) -> Self {
        let (left, broken) = match &node.value {
            Value::Map(entries) => (entries.iter().collect(), false),
            Value::Null => (Vec::new(), false),
            Value::Text(_) | Value::List(_) => {
                problems.add(
                    Some(node.at),
                    path,
                    format!("{} stands here; give a mapping, 'key: value'", node.kind()),
                );
                (Vec::new(), true)
            }
        };
        Self { path: path.to_owned(), at: Some(node.at), left, known: Vec::new(), broken }
    }

    /// The path of a key in here.
    pub(super) fn path(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// Takes a key; `null` counts as absent.
    pub(super) fn take(&mut self, key: &'static str) -> Option<Field<'a>> {
        self.known.push(key);
        let index = self.left.iter().position(|entry| entry.key == key)?;
        let node = &self.left.remove(index).node;
        let field = Field { path: self.path(key), node };
        (!matches!(node.value, Value::Null)).then_some(field)
    }

    /// Takes a key that must be there.
    pub(super) fn require(
        &mut self,
        key: &'static str,
        remedy: &str,
        problems: &mut Problems,
    ) -> Option<Field<'a>> {
        let field = self.take(key);
        if field.is_none() && !self.broken {
            problems.add(self.at, &self.path(key), format!("is missing; {remedy}"));
        }
        field
    }

    /// Takes a mapping; an absent one is empty.
    pub(super) fn nested(&mut self, key: &'static str, problems: &mut Problems) -> Self {
        match self.take(key) {
            Some(field) => Self::of(&field.path, field.node, problems),
            None => Self {
                path: self.path(key),
                at: self.at,
                left: Vec::new(),
                known: Vec::new(),
                broken: false,
            },
        }
    }

    /// Reports every key that nobody took.
    pub(super) fn finish(self, problems: &mut Problems) {
        for Entry { key: name, at, .. } in &self.left {
            let known = self.known.join(", ");
            let text = match nearest(name, &self.known) {
                Some(near) => format!("unknown key; did you mean '{near}'? known here: {known}"),
                None => format!("unknown key; remove it, or use one of: {known}"),
            };
            problems.add(Some(*at), &self.path(name), text);
        }
    }
}

impl<'a> Field<'a> {
    fn refuse(&self, text: impl Into<String>, problems: &mut Problems) {
        problems.add(Some(self.node.at), &self.path, text);
    }

    /// A scalar's text.
    pub(super) fn text(&self, problems: &mut Problems) -> Option<&'a str> {
        if let Value::Text(text) = &self.node.value {
            return Some(text);
        }
        self.refuse(format!("{} stands here; give one scalar", self.node.kind()), problems);
        None
    }

    /// A scalar, read by a parser whose error text names the value and the remedy.
    pub(super) fn parse<T, E: Display>(
        &self,
        parser: impl FnOnce(&str) -> Result<T, E>,
        problems: &mut Problems,
    ) -> Option<T> {
        let text = self.text(problems)?;
        parser(text).map_err(|error| self.refuse(error.to_string(), problems)).ok()
    }

    /// A list's items; one scalar (or mapping) counts as a list of one.
    pub(super) fn list(&self) -> Vec<Self> {
        let Value::List(items) = &self.node.value else {
            return vec![self.clone()];
        };
        let name = |index| format!("{}[{index}]", self.path);
        let field = |(index, node)| Field { path: name(index), node };
        items.iter().enumerate().map(field).collect()
    }

    /// A list, each item read by `parser`; faulty items are reported and left out.
    pub(super) fn parse_list<T, E: Display>(
        &self,
        parser: impl Fn(&str) -> Result<T, E>,
        problems: &mut Problems,
    ) -> Vec<T> {
        self.list().iter().filter_map(|item| item.parse(&parser, problems)).collect()
    }

    /// `true` or `false`.
    pub(super) fn boolean(&self, problems: &mut Problems) -> Option<bool> {
        self.parse(
            |text| match text {
                "true" => Ok(true),
                "false" => Ok(false),
                other => Err(format!("'{other}' is not a boolean; write true or false")),
            },
            problems,
        )
    }

    /// A duration with its unit, within bounds.
    pub(super) fn duration(
        &self,
        least: Duration,
        most: Duration,
        problems: &mut Problems,
    ) -> Option<Duration> {
        let bounds = || {
            let least = humantime::format_duration(least);
            format!("from {least} to {}", humantime::format_duration(most))
        };
        let parser = |text: &str| {
            let value = humantime::parse_duration(text).map_err(|_| {
                let bounds = bounds();
                format!(
                    "'{text}' is not a duration; write a number with its unit such as 5s, 300ms \
                     or 1h ({bounds})"
                )
            })?;
            if (least..=most).contains(&value) {
                return Ok(value);
            }
            Err(format!("'{text}' is out of range; give a duration {}", bounds()))
        };
        self.parse(parser, problems)
    }

    /// A whole number within bounds.
    pub(super) fn number(
        &self,
        least: usize,
        most: usize,
        problems: &mut Problems,
    ) -> Option<usize> {
        let parser = |text: &str| {
            text.parse().ok().filter(|value| (least..=most).contains(value)).ok_or_else(|| {
                format!("'{text}' is not usable; give a whole number from {least} to {most}")
            })
        };
        self.parse(parser, problems)
    }
}

/// The known key that is at most two typing mistakes away.
fn nearest(name: &str, known: &[&'static str]) -> Option<&'static str> {
    const MOST_MISTAKES: usize = 2;
    known
        .iter()
        .map(|key| (distance(name, key), *key))
        .filter(|(mistakes, key)| *mistakes <= MOST_MISTAKES && *mistakes < key.len())
        .min()
        .map(|(_, key)| key)
}

/// Levenshtein's distance, in bytes.
fn distance(left: &str, right: &str) -> usize {
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, a) in left.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in right.bytes().enumerate() {
            let replaced = diagonal + usize::from(a != b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[right.len()]
}
