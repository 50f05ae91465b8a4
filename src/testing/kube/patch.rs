//! Merge patches (RFC 7386) and JSON patches (RFC 6902, without `move` and `copy`).

use serde_json::{Map, Value};

/// A merge patch.
pub(super) fn merge(into: &mut Value, patch: Value) {
    let Value::Object(patch) = patch else {
        *into = patch;
        return;
    };
    if !into.is_object() {
        *into = Value::Object(Map::new());
    }
    for (field, value) in patch {
        if !value.is_null() {
            merge(&mut into[field.as_str()], value);
        } else if let Some(object) = into.as_object_mut() {
            object.remove(&field);
        }
    }
}

/// A JSON patch; the error says which operation could not be done.
pub(super) fn apply(into: &mut Value, operations: &Value) -> Result<(), String> {
    for operation in operations.as_array().ok_or("a JSON patch is a list")? {
        let path = operation["path"].as_str().unwrap_or_default();
        let value = &operation["value"];
        let done = match operation["op"].as_str() {
            Some("test") => into.pointer(path).is_some_and(|found| found == value),
            Some("replace") => match into.pointer_mut(path) {
                Some(target) => {
                    *target = value.clone();
                    true
                }
                None => false,
            },
            Some("add") => add(into, path, value.clone()),
            Some("remove") => remove(into, path),
            _ => false,
        };
        if !done {
            return Err(format!("the server rejected our request: {operation} cannot be done"));
        }
    }
    Ok(())
}

/// The parent of what a pointer names, and the last step to it.
fn parent<'a>(value: &'a mut Value, path: &str) -> Option<(&'a mut Value, String)> {
    let (parent, last) = path.rsplit_once('/')?;
    Some((value.pointer_mut(parent)?, last.replace("~1", "/").replace("~0", "~")))
}

fn add(value: &mut Value, path: &str, new: Value) -> bool {
    match parent(value, path) {
        Some((Value::Object(object), field)) => {
            object.insert(field, new);
            true
        }
        Some((Value::Array(list), last)) => {
            let at = if last == "-" { Some(list.len()) } else { last.parse().ok() };
            let Some(at) = at.filter(|at| *at <= list.len()) else { return false };
            list.insert(at, new);
            true
        }
        _ => false,
    }
}

fn remove(value: &mut Value, path: &str) -> bool {
    match parent(value, path) {
        Some((Value::Object(object), field)) => object.remove(&field).is_some(),
        Some((Value::Array(list), last)) => match last.parse::<usize>() {
            Ok(at) if at < list.len() => {
                list.remove(at);
                true
            }
            _ => false,
        },
        _ => false,
    }
}
