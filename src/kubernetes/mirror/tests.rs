use std::collections::BTreeMap;

use super::*;
use crate::catalog::IpFamily;
use crate::model::Namespace;
use crate::objects::{EndpointSlice, LABEL_SERVICE, Meta};

fn object(name: &str, service: &str) -> (ObjectId, Arc<Object>) {
    let meta = Meta {
        namespace: Namespace::parse("shop").unwrap(),
        name: name.into(),
        labels: BTreeMap::from([(LABEL_SERVICE.into(), service.into())]),
        annotations: BTreeMap::new(),
        owner: None,
    };
    let slice = EndpointSlice { meta, family: IpFamily::V4, ports: vec![], endpoints: vec![] };
    let object = Object::Slice(slice);
    (object.id(), Arc::new(object))
}

fn existing(object: &Arc<Object>, uid: &str, version: &str) -> Existing {
    Existing {
        uid: uid.into(),
        version: version.into(),
        object: Arc::clone(object),
        deleting: false,
    }
}

fn version(mirror: &Mirror, id: &ObjectId) -> Option<Box<str>> {
    mirror.get(id).map(|existing| existing.version)
}

#[test]
fn an_older_version_never_overwrites_a_newer_one() {
    let mirror = Mirror::default();
    let (id, slice) = object("a", "web");
    assert!(mirror.put(id.clone(), existing(&slice, "1", "10")));
    assert!(!mirror.put(id.clone(), existing(&slice, "1", "9")));
    assert!(!mirror.put(id.clone(), existing(&slice, "1", "10")), "the same again is no news");
    assert_eq!(version(&mirror, &id).as_deref(), Some("10"));
    assert!(!mirror.gone(&id, 9), "an end older than what is known is of an earlier object");
    assert!(mirror.put(id.clone(), existing(&slice, "2", "100")));
    assert!(mirror.gone(&id, 101));
    assert_eq!(mirror.get(&id), None);
    assert_eq!(mirror.keys(), []);
}

#[test]
fn what_the_writer_removed_does_not_come_back_from_a_late_event() {
    let mirror = Mirror::default();
    let (id, slice) = object("a", "web");
    mirror.put(id.clone(), existing(&slice, "1", "10"));
    assert!(!mirror.remove(&id, "0"), "another object of that name");
    assert!(mirror.remove(&id, "1"));
    assert!(!mirror.put(id.clone(), existing(&slice, "1", "11")));
    mirror.listed(Kind::Slice, 11, vec![(id.clone(), existing(&slice, "1", "11"))], false);
    assert_eq!(mirror.get(&id), None);
    assert!(mirror.put(id.clone(), existing(&slice, "2", "13")), "a new object of that name");
    assert_eq!(version(&mirror, &id).as_deref(), Some("13"));
}

#[test]
fn a_list_takes_away_what_is_older_than_it_and_unlisted() {
    let mirror = Mirror::default();
    let [(a, slice_a), (b, slice_b), (c, slice_c)] =
        [object("a", "web"), object("b", "web"), object("c", "db")];
    mirror.put(a.clone(), existing(&slice_a, "1", "10"));
    mirror.put(b.clone(), existing(&slice_b, "2", "30"));
    mirror.listed(Kind::Slice, 20, vec![(c.clone(), existing(&slice_c, "3", "15"))], false);
    assert_eq!(mirror.get(&a), None);
    assert!(mirror.get(&b).is_some(), "written after the list was made");
    assert_eq!(mirror.of(&c.key("db")).len(), 1);
    let keys: Vec<_> = mirror.keys().iter().map(ToString::to_string).collect();
    assert_eq!(keys, ["shop/db", "shop/web"]);
}

#[test]
fn a_store_that_was_set_back_is_believed() {
    let mirror = Mirror::default();
    let (id, slice) = object("a", "web");
    mirror.put(id.clone(), existing(&slice, "1", "100"));
    mirror.listed(Kind::Slice, 20, vec![(id.clone(), existing(&slice, "1", "15"))], true);
    assert_eq!(version(&mirror, &id).as_deref(), Some("15"));
}

#[test]
fn every_change_is_told_and_nothing_else() {
    let mirror = Mirror::default();
    let mut changed = mirror.changed();
    let (id, slice) = object("a", "web");
    mirror.put(id.clone(), existing(&slice, "1", "10"));
    assert!(changed.has_changed().unwrap());
    changed.mark_unchanged();
    mirror.put(id, existing(&slice, "1", "10"));
    assert!(!changed.has_changed().unwrap());
    assert!(!mirror.synced());
    for kind in [Kind::Service, Kind::Import, Kind::Slice] {
        mirror.listed(kind, 10, vec![], false);
    }
    assert!(mirror.synced());
    assert!(changed.has_changed().unwrap(), "that a kind is known to be empty is news");
}

impl ObjectId {
    fn key(&self, service: &str) -> ServiceKey {
        ServiceKey::new(self.namespace.clone(), service.parse().unwrap())
    }
}
