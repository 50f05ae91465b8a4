//! What the real server fills into Services: addresses by family and policy, and defaults.

use std::net::IpAddr;

use serde_json::{Value, json};

use super::addresses::Addresses;
use super::admit::default;
use super::kinds::Kind;
use super::refusal::Refusal;
use crate::catalog::IpFamily;

type Invalid = (&'static str, String);

/// Checks and completes a Service, and gives it its addresses.
pub(super) fn admit(
    kind: &Kind,
    addresses: &mut Addresses,
    table: usize,
    old: Option<&Value>,
    new: &mut Value,
) -> Result<(), Refusal> {
    let text = |field: &str| new["metadata"][field].as_str().unwrap_or_default().to_owned();
    let (namespace, name) = (text("namespace"), text("name"));
    let refuse = |(field, why): Invalid| Refusal::invalid(kind, &name, field, &why);
    let spec = &mut new["spec"];
    if !spec.is_object() {
        *spec = json!({});
    }
    defaults(spec);
    ports(spec, addresses).map_err(refuse)?;
    let none = Value::Null;
    let old = old.map_or(&none, |old| &old["spec"]);
    if spec["type"] == "ExternalName" {
        for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
            spec.as_object_mut().map(|spec| spec.remove(field));
        }
        addresses.release(table, &(namespace, name));
        return Ok(());
    }
    let old = if old["type"] == "ExternalName" { &none } else { old };
    keep(old, spec);
    let wanted = requested(spec).map_err(refuse)?;
    unchanged(old, &wanted).map_err(refuse)?;
    let families = families(spec, &wanted, addresses).map_err(refuse)?;
    spec["ipFamilies"] = json!(families);
    if wanted.first().is_some_and(|first| first == "None") {
        spec["clusterIP"] = json!("None");
        spec["clusterIPs"] = json!(["None"]);
        return Ok(());
    }
    let holder = (table, (namespace, name.clone()));
    let mut given: Vec<IpAddr> = Vec::new();
    for (position, &family) in families.iter().enumerate() {
        let address = match wanted.get(position) {
            Some(text) => taken(addresses, &holder, text).map_err(refuse)?,
            None => addresses.pick(family).ok_or_else(|| {
                refuse((
                    "spec.clusterIPs",
                    "Internal error: failed to allocate: range is full".into(),
                ))
            })?,
        };
        given.push(address);
    }
    spec["clusterIP"] = json!(given[0].to_string());
    spec["clusterIPs"] = given.iter().map(ToString::to_string).collect();
    addresses.set(holder, given);
    Ok(())
}

fn defaults(spec: &mut Value) {
    default(spec, "type", json!("ClusterIP"));
    default(spec, "sessionAffinity", json!("None"));
    if spec["sessionAffinity"] == "ClientIP" && spec["sessionAffinityConfig"].is_null() {
        spec["sessionAffinityConfig"] = json!({ "clientIP": { "timeoutSeconds": 10_800 } });
    }
    if spec["type"] != "ExternalName" {
        default(spec, "internalTrafficPolicy", json!("Cluster"));
    }
    if spec["type"] == "LoadBalancer" {
        default(spec, "allocateLoadBalancerNodePorts", json!(true));
    }
    if spec["type"] == "LoadBalancer" || spec["type"] == "NodePort" {
        default(spec, "externalTrafficPolicy", json!("Cluster"));
    }
}

fn ports(spec: &mut Value, addresses: &mut Addresses) -> Result<(), Invalid> {
    let headless = spec["clusterIP"] == "None" || spec["type"] == "ExternalName";
    let exposed = spec["type"] == "NodePort" || spec["allocateLoadBalancerNodePorts"] == true;
    let list = spec["ports"].as_array_mut().map_or(&mut [][..], Vec::as_mut_slice);
    if list.is_empty() && !headless {
        return Err(("spec.ports", "Required value".to_owned()));
    }
    let several = list.len() > 1;
    let mut seen: Vec<(Value, Value)> = Vec::new();
    for port in list {
        default(port, "protocol", json!("TCP"));
        if !port["port"].as_u64().is_some_and(|number| (1..=65_535).contains(&number)) {
            let why =
                format!("Invalid value: {}: must be between 1 and 65535, inclusive", port["port"]);
            return Err(("spec.ports[].port", why));
        }
        if !["TCP", "UDP", "SCTP"].iter().any(|protocol| port["protocol"] == *protocol) {
            let why = format!("Unsupported value: {}", port["protocol"]);
            return Err(("spec.ports[].protocol", why));
        }
        if several && port["name"].as_str().is_none_or(str::is_empty) {
            return Err(("spec.ports[].name", "Required value".to_owned()));
        }
        let number = port["port"].clone();
        default(port, "targetPort", number.clone());
        let this = (number, port["protocol"].clone());
        if seen.contains(&this) {
            return Err(("spec.ports", format!("Duplicate value: {port}")));
        }
        seen.push(this);
        if exposed && port["nodePort"].as_u64().unwrap_or(0) == 0 {
            port["nodePort"] = json!(addresses.node_port());
        }
    }
    Ok(())
}

/// What was given out stays, where an update does not speak of it.
fn keep(old: &Value, spec: &mut Value) {
    if spec["clusterIP"].as_str().is_none_or(str::is_empty) && spec["clusterIPs"].is_null() {
        spec["clusterIP"] = old["clusterIP"].clone();
    }
    if spec["clusterIP"] == old["clusterIP"] {
        default(spec, "clusterIPs", old["clusterIPs"].clone());
    }
    default(spec, "ipFamilyPolicy", old["ipFamilyPolicy"].clone());
    default(spec, "ipFamilies", old["ipFamilies"].clone());
    let several = spec["ipFamilies"].as_array().is_some_and(|families| families.len() > 1);
    let policy = if several { "RequireDualStack" } else { "SingleStack" };
    default(spec, "ipFamilyPolicy", json!(policy));
    if spec["ipFamilyPolicy"] == "SingleStack" {
        // Going back to one family gives the second address back.
        for field in ["clusterIPs", "ipFamilies"] {
            let unchanged = spec[field] == old[field];
            if let Some(list) = spec[field].as_array_mut().filter(|_| unchanged) {
                list.truncate(1);
            }
        }
    }
}

/// The asked addresses, in order; `None` alone for a headless one.
fn requested(spec: &Value) -> Result<Vec<String>, Invalid> {
    let first = spec["clusterIP"].as_str().unwrap_or_default();
    let list: Vec<String> = spec["clusterIPs"].as_array().map_or_else(Vec::new, |list| {
        list.iter().filter_map(|v| v.as_str().map(str::to_owned)).collect()
    });
    match list.first() {
        None if first.is_empty() => Ok(Vec::new()),
        None => Ok(vec![first.to_owned()]),
        Some(primary) if first.is_empty() || first == primary => Ok(list),
        Some(_) => {
            let why = "first value must match `clusterIP`".to_owned();
            Err(("spec.clusterIPs", format!("Invalid value: {list:?}: {why}")))
        }
    }
}

fn unchanged(old: &Value, wanted: &[String]) -> Result<(), Invalid> {
    let before = old["clusterIPs"].as_array().map_or(&[][..], Vec::as_slice);
    for (was, asked) in before.iter().zip(wanted) {
        if was != asked {
            let why = format!("Invalid value: {wanted:?}: may not change once set");
            return Err(("spec.clusterIPs", why));
        }
    }
    Ok(())
}

/// The families of a Service: those it names or whose addresses it asks for, and the other of
/// the cluster's where the policy wants both.
fn families(
    spec: &Value,
    wanted: &[String],
    addresses: &Addresses,
) -> Result<Vec<IpFamily>, Invalid> {
    let mut chosen = Vec::new();
    for text in spec["ipFamilies"].as_array().into_iter().flatten() {
        let known = [IpFamily::V4, IpFamily::V6].into_iter().find(|f| *text == json!(f));
        let family = known.filter(|family| addresses.families.contains(family));
        let why = || format!("Invalid value: {text}: not configured on this cluster");
        chosen.push(family.ok_or_else(|| ("spec.ipFamilies", why()))?);
    }
    for (position, text) in wanted.iter().enumerate().filter(|(_, text)| *text != "None") {
        let Ok(address) = text.parse::<IpAddr>() else {
            return Err(("spec.clusterIPs", format!("Invalid value: \"{text}\": must be an IP")));
        };
        let family = IpFamily::of(address);
        match chosen.get(position) {
            None => chosen.push(family),
            Some(named) if *named == family => {}
            Some(named) => {
                let why = format!("Invalid value: {text}: expected an {} value", json!(named));
                return Err(("spec.clusterIPs", why));
            }
        }
    }
    if chosen.is_empty() {
        chosen.extend(addresses.families.first());
    }
    let other = addresses.families.iter().find(|family| !chosen.contains(family)).copied();
    match spec["ipFamilyPolicy"].as_str() {
        Some("PreferDualStack") => chosen.extend(other),
        Some("RequireDualStack") => {
            chosen.extend(other);
            if chosen.len() < 2 {
                let why = "Invalid value: \"RequireDualStack\": this cluster is not configured \
                           for dual-stack services";
                return Err(("spec.ipFamilyPolicy", why.to_owned()));
            }
        }
        _ if chosen.len() > 1 => {
            let why = "Invalid value: \"SingleStack\": must be 'RequireDualStack' or \
                       'PreferDualStack' when multiple IP families or addresses are given";
            return Err(("spec.ipFamilyPolicy", why.to_owned()));
        }
        _ => {}
    }
    Ok(chosen)
}

fn taken(
    addresses: &Addresses,
    holder: &(usize, (String, String)),
    text: &str,
) -> Result<IpAddr, Invalid> {
    let address = text.parse().map_err(|_| ("spec.clusterIPs", format!("{text}: not an IP")))?;
    match addresses.refuses(holder, address) {
        None => Ok(address),
        Some(why) => {
            let text = format!("Invalid value: [\"{text}\"]: failed to allocate IP {text}: {why}");
            Err(("spec.clusterIPs", text))
        }
    }
}
