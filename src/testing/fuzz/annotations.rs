//! The annotations of a ServiceExport.

use std::collections::BTreeMap;

use crate::catalog::{CallerRules, ClusterRules, Settings, parse_settings};

/// Octets of an annotation's problem: the key and some of the value are shown.
const MOST_SHOWN: usize = 1_024;

/// Lines of `key=value`: the annotations of one export, read all together and one by one.
pub(super) fn lines(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let pairs: BTreeMap<Box<str>, Box<str>> = text
        .lines()
        .filter_map(|line| line.split_once('='))
        .map(|(key, value)| (key.into(), value.into()))
        .collect();
    let wishes = parse_settings(&pairs);
    assert!(wishes.problems.len() <= pairs.len());
    for problem in &wishes.problems {
        assert!(problem.message.len() <= MOST_SHOWN, "a problem of {}", problem.message.len());
        assert!(!problem.message.chars().any(char::is_control), "{:?}", problem.message);
    }
    if wishes.problems.len() == pairs.len() {
        assert_eq!(wishes.settings, Settings::default(), "a bad value took effect");
    }
    let bad = |key: &str| {
        let field = format!("portolan.dev/{key}");
        wishes.problems.iter().any(|problem| *problem.field == *field)
    };
    if bad("clusters") {
        assert_eq!(wishes.clusters, ClusterRules::nobody());
    }
    if bad("allow") {
        assert_eq!(wishes.allow, CallerRules::nobody());
    }
    kept(&wishes.settings);
    kept(&wishes.clusters);
    kept(&wishes.allow);
}

/// What was understood is saved and restored as it is.
fn kept<T: serde::Serialize + serde::de::DeserializeOwned + PartialEq + std::fmt::Debug>(what: &T) {
    let saved = serde_json::to_vec(what).expect("it can be saved");
    let restored: T = serde_json::from_slice(&saved).expect("and restored");
    assert_eq!(&restored, what);
}
