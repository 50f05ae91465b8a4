//! `dns.localities`: which client networks stand where.

use std::collections::BTreeMap;

use ipnet::IpNet;

use super::ClientPlace;
use super::fields::{Field, Fields, Problems};
use super::load::{locality, network};

/// Most entries: for each, answers that depend on the place are held once more.
const MAX_PLACES: usize = 16;
/// Most networks of all entries together.
const MAX_NETWORKS: usize = 256;

pub(super) fn localities(field: &Field<'_>, problems: &mut Problems) -> Vec<ClientPlace> {
    let items = field.list();
    if items.len() > MAX_PLACES {
        let text = format!(
            "has {} entries, more than the {MAX_PLACES} places that one server answers for; put \
             networks of one locality into one entry",
            items.len()
        );
        problems.add(Some(field.node.at), &field.path, text);
        return Vec::new();
    }
    let mut seen = BTreeMap::new();
    let places = items.iter().filter_map(|item| place(item, &mut seen, problems)).collect();
    if seen.len() > MAX_NETWORKS {
        let text = format!(
            "has {} networks, more than the {MAX_NETWORKS} that are looked through; give wider ones",
            seen.len()
        );
        problems.add(Some(field.node.at), &field.path, text);
    }
    places
}

/// One entry; `seen` are the networks so far, with the paths of those that have them.
fn place(
    item: &Field<'_>,
    seen: &mut BTreeMap<IpNet, String>,
    problems: &mut Problems,
) -> Option<ClientPlace> {
    let mut section = Fields::of(&item.path, item.node, problems);
    let networks = section.require(
        "networks",
        "name where the clients are, for example 'networks: [10.1.0.0/16]'",
        problems,
    );
    let at = item.node.at;
    let locality = locality(&mut section, problems);
    section.finish(problems);
    if locality.region.is_empty() {
        let path = format!("{}.locality.region", item.path);
        let text = "is missing; say where these networks are, as 'locality' does of a cluster, \
                    for example 'locality: { region: eu, zone: eu-1 }'";
        problems.add(Some(at), &path, text);
    }
    let listed = networks?;
    if listed.list().is_empty() {
        let text = "is empty; give at least one, for example '10.1.0.0/16'";
        problems.add(Some(listed.node.at), &listed.path, text);
    }
    let mut networks = Vec::new();
    for item in listed.list() {
        let Some(network) = item.parse(network, problems) else { continue };
        if let Some(first) = seen.get(&network) {
            let text = format!("{network} stands in {first} already; keep one of them");
            problems.add(Some(item.node.at), &item.path, text);
            continue;
        }
        seen.insert(network, item.path.clone());
        networks.push(network);
    }
    Some(ClientPlace { networks, locality })
}
