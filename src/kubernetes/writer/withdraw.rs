//! The one write that needs no leader: the addresses of a silent sibling leave the slices that
//! kube-proxy reads.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::change::feeds_proxy;
use crate::kubernetes::mirror::{Existing, Mirror};
use crate::objects::{Object, ObjectId};

/// How long it is tried: whoever is silent for longer is the leader's concern, and may be back.
const TRIED: Duration = Duration::from_secs(10);

/// The slices that addresses are to leave.
#[derive(Debug, Default)]
pub(super) struct Withdrawals {
    slices: BTreeMap<ObjectId, Withdrawal>,
}

#[derive(Debug)]
struct Withdrawal {
    addresses: BTreeSet<IpAddr>,
    until: Instant,
}

impl Withdrawals {
    /// Takes `addresses` out of whatever slice has them; returns those slices.
    pub(super) fn begin(
        &mut self,
        mirror: &Mirror,
        addresses: &[IpAddr],
        now: Instant,
    ) -> Vec<ObjectId> {
        let silent: BTreeSet<IpAddr> = addresses.iter().copied().collect();
        let mut found = Vec::new();
        for (id, existing) in mirror.keys().iter().flat_map(|key| mirror.of(key)) {
            if without(&existing.object, &silent).is_none() {
                continue;
            }
            let withdrawal = self
                .slices
                .entry(id.clone())
                .or_insert_with(|| Withdrawal { addresses: BTreeSet::new(), until: now });
            withdrawal.addresses.extend(&silent);
            withdrawal.until = now + TRIED;
            found.push(id);
        }
        found
    }

    /// Whether something is to leave that slice.
    pub(super) fn concerns(&self, id: &ObjectId) -> bool {
        self.slices.contains_key(id)
    }

    /// The slice as it should be; `None` if nothing is to be taken out (any more).
    pub(super) fn wanted(&self, id: &ObjectId, exists: &Existing) -> Option<Object> {
        without(&exists.object, &self.slices.get(id)?.addresses)
    }

    /// It is done, or the leader has decided since.
    pub(super) fn end(&mut self, id: &ObjectId) {
        self.slices.remove(id);
    }

    /// Gives up what was tried for long enough.
    pub(super) fn tidy(&mut self, now: Instant) {
        self.slices.retain(|_, withdrawal| now < withdrawal.until);
    }
}

/// A slice of kube-proxy's without these addresses; `None` where it has none of them, or would
/// have nothing left: a silent gateway is better than none at all.
fn without(object: &Arc<Object>, addresses: &BTreeSet<IpAddr>) -> Option<Object> {
    let Object::Slice(slice) = &**object else { return None };
    if !feeds_proxy(object) {
        return None;
    }
    let mut left = slice.clone();
    left.endpoints.retain(|endpoint| !endpoint.addresses.iter().any(|of| addresses.contains(of)));
    let fewer = left.endpoints.len() < slice.endpoints.len();
    (fewer && !left.endpoints.is_empty()).then_some(Object::Slice(left))
}
