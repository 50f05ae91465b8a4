//! Whom a call is for.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::{ClusterId, HostLabel, ServiceKey};

/// One pod of a headless service: its hostname, in the cluster that exports it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PodName {
    /// The cluster it runs in.
    pub cluster: ClusterId,
    /// Its hostname there.
    pub hostname: HostLabel,
}

impl fmt::Display for PodName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.hostname, self.cluster)
    }
}

/// Whom a clusterset address or a port of the gateway stands for: a service, or one pod of it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Callee {
    /// The service.
    #[serde(flatten)]
    pub service: ServiceKey,
    /// The pod, where only that one will do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<PodName>,
}

impl Callee {
    /// One pod of a service.
    #[must_use]
    pub fn pod(service: ServiceKey, pod: PodName) -> Self {
        Self { service, pod: Some(pod) }
    }

    /// What a map holds for the pods of one service, ascending.
    pub fn pods<'m, V>(
        map: &'m BTreeMap<Self, V>,
        service: &'m ServiceKey,
    ) -> impl Iterator<Item = (&'m PodName, &'m V)> {
        // A service itself sorts before its pods.
        let from = map.range(Self::from(service.clone())..);
        from.take_while(move |(callee, _)| callee.service == *service)
            .filter_map(|(callee, value)| Some((callee.pod.as_ref()?, value)))
    }
}

impl From<ServiceKey> for Callee {
    fn from(service: ServiceKey) -> Self {
        Self { service, pod: None }
    }
}

impl fmt::Display for Callee {
    /// `shop/db`, or `shop/db/db-0.oregon` for a pod.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.pod {
            Some(pod) => write!(f, "{}/{pod}", self.service),
            None => self.service.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(hostname: &str) -> PodName {
        PodName {
            cluster: ClusterId::parse("oregon").unwrap(),
            hostname: HostLabel::parse(hostname).unwrap(),
        }
    }

    #[test]
    fn the_pods_of_a_service_are_found_among_those_of_others() {
        let [db, web] = ["shop/db", "shop/web"].map(|key| ServiceKey::parse(key).unwrap());
        let map = BTreeMap::from([
            (Callee::from(db.clone()), 1),
            (Callee::pod(db.clone(), pod("db-0")), 2),
            (Callee::pod(db.clone(), pod("db-1")), 3),
            (Callee::from(web.clone()), 4),
        ]);
        let of = |key| Callee::pods(&map, key).map(|(_, value)| *value).collect::<Vec<_>>();
        assert_eq!((of(&db), of(&web)), (vec![2, 3], vec![]));
    }

    #[test]
    fn what_was_saved_before_there_were_pods_reads_as_a_service() {
        let old = r#"{"namespace":"shop","name":"db"}"#;
        let callee: Callee = serde_json::from_str(old).unwrap();
        assert_eq!(callee, Callee::from(ServiceKey::parse("shop/db").unwrap()));
        assert_eq!(serde_json::to_string(&callee).unwrap(), old);
        let pod = Callee::pod(callee.service, pod("db-0"));
        let text = serde_json::to_string(&pod).unwrap();
        assert_eq!(serde_json::from_str::<Callee>(&text).unwrap(), pod);
        assert_eq!(pod.to_string(), "shop/db/db-0.oregon");
    }
}
