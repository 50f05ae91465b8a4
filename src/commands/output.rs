//! How answers are shown: as tables for people, as JSON or YAML for programs.

use std::io::{self, Write};
use std::net::IpAddr;
use std::time::Duration;

use clap::ValueEnum;
use serde::Serialize;

use super::table::{Table, shown};
use crate::admin::json::{CandidateJson, DrainJson, PeerJson, ServiceJson, SourceJson, StateJson};
use crate::health::PeerState;

/// The shape of the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Table,
    /// JSON, the agent's own words.
    Json,
    /// The same as YAML.
    Yaml,
}

/// Writes a value as the agent's own words; not for [`Format::Table`], which has its own shape
/// per command.
pub(super) fn write_data<T: Serialize>(
    out: &mut dyn Write,
    format: Format,
    value: &T,
) -> io::Result<()> {
    if format == Format::Yaml {
        let text = serde_saphyr::to_string(value).map_err(io::Error::other)?;
        return writeln!(out, "{}", text.trim_end());
    }
    serde_json::to_writer_pretty(&mut *out, value)?;
    writeln!(out)
}

/// What is wrong with an agent, in the order of its state; empty when all is well.
pub(super) fn troubles(state: &StateJson) -> Vec<String> {
    let mut troubles = Vec::new();
    if !state.source.synced {
        troubles.push("the source has not been read completely yet".to_owned());
    }
    if let Some(error) = &state.source.error {
        troubles.push(format!("the source has an error: {}", shown(error)));
    }
    for peer in &state.peers {
        if matches!(peer.state, PeerState::Up | PeerState::Draining) && peer.sessions > 0 {
            continue;
        }
        let mut text = format!("peer {} is {}", peer.cluster, peer.state.as_str());
        if peer.sessions == 0 {
            text.push_str(" and has no control session");
        }
        if let Some(error) = &peer.last_error {
            text.push_str(": ");
            text.push_str(&shown(error));
        }
        troubles.push(text);
    }
    troubles
}

/// `portolan status`.
pub(super) fn write_status(out: &mut dyn Write, state: &StateJson) -> io::Result<()> {
    writeln!(out, "cluster {} of {}", state.cluster, state.clusterset)?;
    writeln!(out, "version {}, route table {}", shown(&state.version), state.revision)?;
    writeln!(out, "source {}", source(&state.source))?;
    let served = state.services.iter().filter(|service| serves(service)).count();
    writeln!(out, "services {}, of which {served} can be served", state.services.len())?;
    writeln!(out)?;
    write_peers(out, &state.peers)?;
    if !state.drains.is_empty() {
        writeln!(out)?;
        write_drains(out, &state.drains)?;
    }
    let troubles = troubles(state);
    if !troubles.is_empty() {
        writeln!(out)?;
        for trouble in troubles {
            writeln!(out, "wrong: {trouble}")?;
        }
    }
    Ok(())
}

fn source(source: &SourceJson) -> String {
    let synced = if source.synced { "synced" } else { "not synced" };
    let kind = shown(&source.kind);
    match &source.error {
        Some(error) => {
            format!("{kind}, {synced}, {:.0} s old: {}", source.age_seconds, shown(error))
        }
        None => format!("{kind}, {synced}"),
    }
}

/// `portolan get peers`.
pub(super) fn write_peers(out: &mut dyn Write, peers: &[PeerJson]) -> io::Result<()> {
    let mut table =
        Table::new(&["PEER", "STATE", "RTT", "LOSS", "SESSIONS", "REVISION", "LAST ERROR"]);
    for peer in peers {
        table.row([
            peer.cluster.to_string(),
            peer.state.as_str().to_owned(),
            milliseconds(peer.rtt_ms),
            format!("{:.0} %", peer.loss_percent),
            peer.sessions.to_string(),
            peer.revision.to_string(),
            peer.last_error.clone().unwrap_or_default(),
        ]);
    }
    table.write(out)
}

/// What is drained.
pub(super) fn write_drains(out: &mut dyn Write, drains: &[DrainJson]) -> io::Result<()> {
    let mut table =
        Table::new(&["DRAINED", "BY", "COMPLETE AT", "OVER", "SHARE", "CONNECTIONS LEFT"]);
    for drain in drains {
        table.row([
            drain.name.clone(),
            word(&drain.by),
            drain.until.clone(),
            over(drain),
            percent(drain.share),
            drain.connections.to_string(),
        ]);
    }
    table.write(out)
}

/// The time of a drain's ramp, `10m`.
pub(super) fn over(drain: &DrainJson) -> String {
    let time = Duration::try_from_secs_f64(drain.over_seconds).unwrap_or_default();
    humantime::format_duration(time).to_string()
}

/// A share as people say it.
pub(super) fn percent(share: f64) -> String {
    format!("{:.0} %", share * 100.0)
}

/// `portolan get routes`: where a new connection to each name goes.
pub(super) fn write_routes(out: &mut dyn Write, services: &[ServiceJson]) -> io::Result<()> {
    let mut table = Table::new(&["SERVICE", "ADDRESSES", "PORTS", "GOES TO", "REASON", "THEN"]);
    for service in services {
        let mut usable = service.candidates.iter().filter(|candidate| candidate.usable);
        let first = usable.next();
        table.row([
            dotted(service),
            addresses(&service.ips),
            ports(service),
            first.map_or_else(|| "nowhere".to_owned(), |candidate| candidate.cluster.to_string()),
            first.map(reason).unwrap_or_default(),
            clusters(usable),
        ]);
    }
    table.write(out)
}

/// `portolan get imports` and, filtered, `portolan get exports`.
pub(super) fn write_services(out: &mut dyn Write, services: &[ServiceJson]) -> io::Result<()> {
    let mut table = Table::new(&["NAMESPACE", "NAME", "TYPE", "ADDRESSES", "PORTS", "EXPORTED BY"]);
    for service in services {
        table.row([
            service.namespace.to_string(),
            service.name.to_string(),
            word(&service.service_type),
            addresses(&service.ips),
            ports(service),
            clusters(service.candidates.iter()),
        ]);
    }
    table.write(out)
}

/// `portolan explain NAME`.
pub(super) fn write_explained(out: &mut dyn Write, service: &ServiceJson) -> io::Result<()> {
    let addresses = |list: &[IpAddr]| if list.is_empty() { "none".into() } else { addresses(list) };
    writeln!(out, "{} ({})", dotted(service), word(&service.service_type))?;
    writeln!(out, "addresses  {}", addresses(&service.ips))?;
    writeln!(out, "ports      {}", ports(service))?;
    writeln!(out, "dns now    {}", addresses(&service.dns))?;
    writeln!(out)?;
    let mut table = Table::new(&[
        "RANK", "CLUSTER", "STATE", "RTT", "WEIGHT", "SHARE", "USABLE", "REASON", "SINCE",
    ]);
    for candidate in &service.candidates {
        table.row([
            candidate.rank.to_string(),
            candidate.cluster.to_string(),
            candidate.state.as_str().to_owned(),
            milliseconds(candidate.rtt_ms),
            candidate.weight.to_string(),
            percent(candidate.share),
            if candidate.usable { "yes" } else { "no" }.to_owned(),
            reason(candidate),
            age(candidate.since),
        ]);
    }
    table.write(out)?;
    let first = service.candidates.iter().find(|candidate| candidate.usable);
    writeln!(out)?;
    match first {
        Some(first) => {
            let part = match first.share {
                share if share < 1.0 => format!(" with {} of its place", percent(share)),
                _ => String::new(),
            };
            let (cluster, because) = (&first.cluster, because(first));
            writeln!(out, "a new connection goes to {cluster}{part} because: {because}")
        }
        None if service.candidates.is_empty() => {
            writeln!(out, "a new connection is refused because: no cluster exports it")
        }
        None => writeln!(out, "a new connection is refused because: no candidate is usable"),
    }
}

/// Whether a new connection can go anywhere.
pub(super) fn serves(service: &ServiceJson) -> bool {
    service.candidates.iter().any(|candidate| candidate.usable)
}

/// A reason's code in words.
fn because(candidate: &CandidateJson) -> String {
    use crate::routes::Reason;
    let rtt = milliseconds(candidate.rtt_ms);
    match candidate.reason {
        Reason::Local => "it is this cluster".to_owned(),
        Reason::Nearest => format!("it is the nearest that is healthy ({rtt})"),
        Reason::TieLocality => format!("of the equally near ({rtt}), locality or name decides"),
        Reason::Pinned => "the policy pins it".to_owned(),
        Reason::Weighted => format!("it is drawn by weight ({})", candidate.weight),
        Reason::Suspect => "it is the best left, though it does not answer as it should".to_owned(),
        Reason::Draining => "it is the only one left, though it drains".to_owned(),
        Reason::LastResort => "nothing is healthy; this is the last known order".to_owned(),
        Reason::Fenced
        | Reason::Down
        | Reason::NoEndpoint
        | Reason::PortNotExported
        | Reason::NotAllowed => format!("it is all that is left ({})", reason(candidate)),
    }
}

fn dotted(service: &ServiceJson) -> String {
    format!("{}.{}", service.name, service.namespace)
}

fn addresses(list: &[IpAddr]) -> String {
    list.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

fn ports(service: &ServiceJson) -> String {
    let port = |p: &crate::admin::json::PortJson| format!("{}/{}", p.port, p.protocol);
    service.ports.iter().map(port).collect::<Vec<_>>().join(",")
}

fn clusters<'a>(candidates: impl Iterator<Item = &'a CandidateJson>) -> String {
    candidates.map(|candidate| candidate.cluster.as_str()).collect::<Vec<_>>().join(",")
}

fn milliseconds(value: Option<f64>) -> String {
    value.map(|ms| format!("{ms:.1} ms")).unwrap_or_default()
}

fn reason(candidate: &CandidateJson) -> String {
    word(&candidate.reason)
}

/// The spelling of the JSON, so that tables and data name things alike.
fn word<T: Serialize>(value: &T) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(text)) => text,
        Ok(other) => other.to_string(),
        Err(_) => String::new(),
    }
}

/// Seconds as people say them: `42 s`, `7 min`, `3 h`, `12 d`.
fn age(seconds: f64) -> String {
    const UNITS: [(f64, &str); 3] = [(86_400.0, "d"), (3_600.0, "h"), (60.0, "min")];
    for (unit, name) in UNITS {
        if seconds >= 2.0 * unit {
            return format!("{:.0} {name}", (seconds / unit).floor());
        }
    }
    format!("{:.0} s", seconds.max(0.0))
}

#[cfg(test)]
pub(in crate::commands) mod tests;
