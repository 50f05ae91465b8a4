//! Remote pods of headless imports: the gateway's ports that stand for them, and who is told of
//! those that are not reached.

use std::collections::BTreeSet;
use std::time::Instant;

use super::{Director, Seen};
use crate::kubernetes::{ClusterView, Event, Severity, Subject};
use crate::model::{Callee, PodName, PortKey, ServiceKey};
use crate::objects::{Exhausted, Observed, PodPorts};
use crate::routes::{RemotePods, Route};

impl Director {
    /// The gateway's ports of each remote pod of an import; allotted as those of imports are.
    pub(super) fn allot_pods(
        &mut self,
        key: &ServiceKey,
        route: Option<&Route>,
        observed: &Observed,
        now: Instant,
    ) -> (Option<PodPorts>, Option<Exhausted>) {
        if !self.led {
            return (None, None);
        }
        let none = RemotePods::default();
        let pods = route.filter(|_| observed.namespace_exists).map_or(&none, |route| &route.pods);
        // As long as its Service lingers a pod keeps its ports, and finds them when it is back.
        let keeps = |pod: &PodName| pods.get(pod).is_some() || observed.pods.contains_key(pod);
        let gone: Vec<PodName> = self.book.pods(key).filter(|pod| !keeps(pod)).cloned().collect();
        for pod in gone {
            self.book.release(&Callee::pod(key.clone(), pod), now);
        }
        let (mut allotted, mut exhausted) = (PodPorts::new(), None);
        for pod in &pods.led {
            let callee = Callee::pod(key.clone(), pod.name.clone());
            let ports: BTreeSet<PortKey> = pod.ports.iter().map(|port| port.key).collect();
            let given = match self.book.assign(&callee, &ports, now) {
                Ok(given) => Some(given),
                Err(none_left) => {
                    exhausted.get_or_insert(none_left);
                    self.book.held(&callee)
                }
            };
            allotted.extend(given.map(|given| (pod.name.clone(), given.clone())));
        }
        (Some(allotted), exhausted)
    }

    /// What those who import a headless service should know, as an Event on the ServiceImport.
    pub(super) fn tell_importer(
        &self,
        key: &ServiceKey,
        before: Option<&Seen>,
        now: &Seen,
        view: &ClusterView,
    ) {
        let told = |seen: &Seen| seen.route.as_ref().map(|route| route.pods.to_string());
        let Some(message) = told(now).filter(|message| !message.is_empty()) else { return };
        // Of an import that is not there yet nothing can be said.
        let Some(import) = &now.observed.import else { return };
        let known = before.filter(|before| before.observed.import.is_some()).and_then(told);
        if known.as_ref() == Some(&message) {
            return;
        }
        self.events.say(Event {
            subject: Subject {
                api_version: view.mcs.api_version().into(),
                kind: "ServiceImport".into(),
                namespace: key.namespace.as_str().into(),
                name: key.name.as_str().into(),
                uid: Some(import.uid.clone()),
            },
            severity: Severity::Warning,
            reason: "PodsNotReached",
            message: message.into(),
        });
    }
}
