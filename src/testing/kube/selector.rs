//! Label and field selectors.

use std::collections::BTreeMap;

use serde_json::Value;

use super::object::Object;

#[derive(Debug, Clone, PartialEq, Eq)]
enum Term {
    Equal(String, String),
    NotEqual(String, String),
    In(String, Vec<String>),
    NotIn(String, Vec<String>),
    Exists(String),
    Missing(String),
}

/// Which objects a list or watch is about.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Selector {
    /// All namespaces if absent.
    pub(super) namespace: Option<String>,
    labels: Vec<Term>,
    fields: Vec<Term>,
}

impl Selector {
    pub(super) fn parse(
        namespace: Option<String>,
        labels: &str,
        fields: &str,
    ) -> Result<Self, String> {
        let labels = split(labels).into_iter().map(label_term).collect::<Result<_, _>>()?;
        let fields: Vec<Term> =
            split(fields).into_iter().map(equality).collect::<Result<_, _>>()?;
        Ok(Self { namespace, labels, fields })
    }

    pub(super) fn matches(&self, object: &Object) -> bool {
        self.namespace.as_ref().is_none_or(|ns| *ns == object.key.0)
            && self.labels.iter().all(|term| term.holds(|key| object.labels.get(key)))
            && self.fields.iter().all(|term| term.holds(|field| field_of(object, field)))
    }

    /// Whether `old` to `new` is seen, and as what.
    pub(super) fn matches_either(&self, old: Option<&Object>, new: &Object) -> (bool, bool) {
        (old.is_some_and(|object| self.matches(object)), self.matches(new))
    }
}

impl Term {
    fn holds<'a, S: AsRef<str> + 'a>(&self, value: impl Fn(&str) -> Option<S>) -> bool {
        let is = |key: &str, wanted: &str| value(key).is_some_and(|v| v.as_ref() == wanted);
        match self {
            Self::Equal(key, wanted) => is(key, wanted),
            Self::NotEqual(key, wanted) => !is(key, wanted),
            Self::In(key, any) => any.iter().any(|wanted| is(key, wanted)),
            Self::NotIn(key, any) => !any.iter().any(|wanted| is(key, wanted)),
            Self::Exists(key) => value(key).is_some(),
            Self::Missing(key) => value(key).is_none(),
        }
    }
}

/// Metadata is at hand; anything else is looked up in the object by its path.
fn field_of(object: &Object, field: &str) -> Option<String> {
    match field {
        "metadata.name" => Some(object.key.1.clone()),
        "metadata.namespace" => Some(object.key.0.clone()),
        path => {
            let pointer = format!("/{}", path.replace('.', "/"));
            match object.inner_json().pointer(&pointer)? {
                Value::String(text) => Some(text.clone()),
                other => Some(other.to_string()),
            }
        }
    }
}

/// At commas outside of parentheses.
fn split(text: &str) -> Vec<&str> {
    let mut depth = 0_u32;
    let comma = |c: char| {
        match c {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            _ => {}
        }
        c == ',' && depth == 0
    };
    text.split(comma).map(str::trim).filter(|term| !term.is_empty()).collect()
}

fn label_term(term: &str) -> Result<Term, String> {
    let listed = |key: &str, values: &str| -> Result<(String, Vec<String>), String> {
        let inside = values
            .trim()
            .strip_prefix('(')
            .and_then(|rest| rest.strip_suffix(')'))
            .ok_or_else(|| format!("unable to parse requirement: {term}"))?;
        Ok((key.trim().to_owned(), inside.split(',').map(|v| v.trim().to_owned()).collect()))
    };
    if let Some((key, values)) = term.split_once(" notin ") {
        return listed(key, values).map(|(key, any)| Term::NotIn(key, any));
    }
    if let Some((key, values)) = term.split_once(" in ") {
        return listed(key, values).map(|(key, any)| Term::In(key, any));
    }
    if term.contains('=') {
        return equality(term);
    }
    Ok(match term.strip_prefix('!') {
        Some(key) => Term::Missing(key.trim().to_owned()),
        None => Term::Exists(term.to_owned()),
    })
}

fn equality(term: &str) -> Result<Term, String> {
    let two = |separator: &str| {
        term.split_once(separator).map(|(k, v)| (k.trim().to_owned(), v.trim().to_owned()))
    };
    if let Some((key, value)) = two("!=") {
        return Ok(Term::NotEqual(key, value));
    }
    two("==")
        .or_else(|| two("="))
        .map(|(key, value)| Term::Equal(key, value))
        .ok_or_else(|| format!("invalid selector: {term}"))
}

/// Labels as selectors read them.
pub(super) fn labels_of(metadata: &Value) -> BTreeMap<String, String> {
    let Some(labels) = metadata.get("labels").and_then(Value::as_object) else {
        return BTreeMap::new();
    };
    labels
        .iter()
        .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
        .collect()
}
