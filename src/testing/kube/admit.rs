//! What the real server fills in and refuses, for the kinds where it matters here.

use std::net::IpAddr;

use serde_json::{Value, json};

use super::kinds::Kind;
use super::refusal::Refusal;
use super::services;
use super::store::Store;

const MAX_ENDPOINTS: usize = 1_000;
const MAX_ADDRESSES: usize = 100;

/// Checks and completes `new`, which is written over `old`.
pub(super) fn admit(
    store: &mut Store,
    table: usize,
    old: Option<&Value>,
    new: &mut Value,
) -> Result<(), Refusal> {
    let kind = store.tables[table].kind.clone();
    match (kind.group.as_str(), kind.resource.as_str()) {
        ("", "services") => services::admit(&kind, &mut store.addresses, table, old, new),
        ("discovery.k8s.io", "endpointslices") => slice(&kind, old, new),
        _ => Ok(()),
    }
}

fn slice(kind: &Kind, old: Option<&Value>, new: &mut Value) -> Result<(), Refusal> {
    let name = new["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    let invalid = |field: &str, why: String| Err(Refusal::invalid(kind, &name, field, &why));
    let address_type = new["addressType"].as_str().unwrap_or_default().to_owned();
    if !["IPv4", "IPv6", "FQDN"].contains(&address_type.as_str()) {
        let why = format!(
            "Unsupported value: \"{address_type}\": supported values: \"FQDN\", \"IPv4\", \"IPv6\""
        );
        return invalid("addressType", why);
    }
    if old.is_some_and(|old| old["addressType"] != new["addressType"]) {
        let why = format!("Invalid value: \"{address_type}\": field is immutable");
        return invalid("addressType", why);
    }
    for port in new["ports"].as_array_mut().into_iter().flatten() {
        default(port, "name", json!(""));
        default(port, "protocol", json!("TCP"));
    }
    let endpoints = new["endpoints"].as_array().map_or(&[][..], Vec::as_slice);
    if endpoints.len() > MAX_ENDPOINTS {
        let why = format!("Too many: {}: must have at most {MAX_ENDPOINTS} items", endpoints.len());
        return invalid("endpoints", why);
    }
    for (number, endpoint) in endpoints.iter().enumerate() {
        let field = format!("endpoints[{number}].addresses");
        let addresses = endpoint["addresses"].as_array().map_or(&[][..], Vec::as_slice);
        if addresses.is_empty() || addresses.len() > MAX_ADDRESSES {
            let why = format!("must contain 1 to {MAX_ADDRESSES} addresses");
            return invalid(&field, why);
        }
        for (position, address) in addresses.iter().enumerate() {
            let text = address.as_str().unwrap_or_default();
            let right = match text.parse::<IpAddr>() {
                Ok(IpAddr::V4(_)) => address_type == "IPv4",
                Ok(IpAddr::V6(_)) => address_type == "IPv6",
                Err(_) => address_type == "FQDN" && !text.is_empty(),
            };
            if !right {
                let why = format!("Invalid value: \"{text}\": must be a valid {address_type}");
                return invalid(&format!("{field}[{position}]"), why);
            }
        }
    }
    Ok(())
}

/// Fills in what is not said.
pub(super) fn default(object: &mut Value, field: &str, value: Value) {
    if object[field].is_null() {
        object[field] = value;
    }
}
