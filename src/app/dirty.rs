//! Which routes are out of date.

use std::collections::BTreeSet;

use crate::model::ServiceKey;

/// Which routes have to be decided again.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Dirty {
    /// None.
    Nothing,
    /// None, but what people see of the peers changed.
    Figures,
    /// These (possibly none), and what the gateway reads of the peers.
    Some(BTreeSet<ServiceKey>),
    /// All.
    All,
}

impl Dirty {
    pub(super) fn add(&mut self, keys: impl IntoIterator<Item = ServiceKey>) {
        match self {
            Self::All => {}
            Self::Some(set) => set.extend(keys),
            Self::Nothing | Self::Figures => *self = Self::Some(keys.into_iter().collect()),
        }
    }

    pub(super) fn figures(&mut self) {
        if *self == Self::Nothing {
            *self = Self::Figures;
        }
    }
}
