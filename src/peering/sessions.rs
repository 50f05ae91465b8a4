//! Which of several sessions to one peer is believed: pure.
//!
//! The oldest synced one. Another takes over when it ends, announces drain, becomes unsynced, or
//! its replica is Down; a session that comes back to order counts as young again, so that nothing
//! swings back and forth. While no session is in order, one that only drains or is only Down is
//! still believed; an unsynced or incomplete one never is.

use std::collections::BTreeMap;

use crate::model::ReplicaId;

/// One dialled session, numbered in the order of their dials.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct SessionId(pub(super) u64);

/// What counts about a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Standing {
    /// The replica it leads to.
    pub(super) replica: ReplicaId,
    /// The publisher's source is synced.
    pub(super) synced: bool,
    /// A whole catalog was received, within the caps.
    pub(super) complete: bool,
    /// The publisher announced drain.
    pub(super) draining: bool,
    /// Health has found the replica Down.
    pub(super) down: bool,
}

impl Standing {
    /// A session that has just opened.
    pub(super) fn new(replica: ReplicaId) -> Self {
        Self { replica, synced: false, complete: false, draining: false, down: false }
    }

    fn grade(self) -> Grade {
        match self {
            Self { synced: false, .. } | Self { complete: false, .. } => Grade::Never,
            Self { draining: true, .. } | Self { down: true, .. } => Grade::IfNeedBe,
            Self { .. } => Grade::Good,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Grade {
    Never,
    IfNeedBe,
    Good,
}

#[derive(Debug, Clone, Copy)]
struct Held {
    standing: Standing,
    /// When it came to its present grade, in the order of such changes.
    since: u64,
}

/// The sessions to one peer.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    held: BTreeMap<SessionId, Held>,
    changes: u64,
}

impl Sessions {
    /// Adds a session or changes its standing.
    pub(super) fn set(&mut self, id: SessionId, standing: Standing) {
        self.changes += 1;
        let fresh = Held { standing, since: self.changes };
        let held = self.held.entry(id).or_insert(fresh);
        if held.standing.grade() != standing.grade() {
            held.since = self.changes;
        }
        held.standing = standing;
    }

    /// Forgets a session that has ended.
    pub(super) fn end(&mut self, id: SessionId) {
        self.held.remove(&id);
    }

    pub(super) fn get(&self, id: SessionId) -> Option<Standing> {
        self.held.get(&id).map(|held| held.standing)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (SessionId, Standing)> {
        self.held.iter().map(|(id, held)| (*id, held.standing))
    }

    pub(super) fn len(&self) -> usize {
        self.held.len()
    }

    /// The session to that replica.
    pub(super) fn to(&self, replica: ReplicaId) -> Option<SessionId> {
        self.iter().find(|(_, standing)| standing.replica == replica).map(|(id, _)| id)
    }

    /// The session that is believed, if one may be.
    pub(super) fn believed(&self) -> Option<SessionId> {
        self.held
            .iter()
            .filter(|(_, held)| held.standing.grade() > Grade::Never)
            .min_by_key(|(_, held)| (std::cmp::Reverse(held.standing.grade()), held.since))
            .map(|(id, _)| *id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: SessionId = SessionId(1);
    const B: SessionId = SessionId(2);

    fn good(replica: u64) -> Standing {
        Standing { synced: true, complete: true, ..Standing::new(ReplicaId::from_u64(replica)) }
    }

    fn two() -> Sessions {
        let mut sessions = Sessions::default();
        sessions.set(A, good(1));
        sessions.set(B, good(2));
        sessions
    }

    #[test]
    fn the_oldest_in_order_is_believed() {
        let mut sessions = Sessions::default();
        assert_eq!(sessions.believed(), None);
        sessions.set(A, Standing::new(ReplicaId::from_u64(1)));
        assert_eq!(sessions.believed(), None, "nothing was received yet");
        sessions.set(A, Standing { synced: false, ..good(1) });
        assert_eq!(sessions.believed(), None, "an unsynced one is never believed");
        sessions.set(A, Standing { complete: false, ..good(1) });
        assert_eq!(sessions.believed(), None, "half a snapshot is never believed");
        sessions.set(B, good(2));
        assert_eq!(sessions.believed(), Some(B));
        sessions.set(A, good(1));
        assert_eq!(sessions.believed(), Some(B), "B was in order first");
    }

    #[test]
    fn another_takes_over_and_keeps_it() {
        let bad = [
            Standing { synced: false, ..good(1) },
            Standing { complete: false, ..good(1) },
            Standing { draining: true, ..good(1) },
            Standing { down: true, ..good(1) },
        ];
        for standing in bad {
            let mut sessions = two();
            assert_eq!(sessions.believed(), Some(A));
            sessions.set(A, standing);
            assert_eq!(sessions.believed(), Some(B), "{standing:?}");
            sessions.set(A, good(1));
            assert_eq!(sessions.believed(), Some(B), "{standing:?}: no way back by itself");
        }
        let mut sessions = two();
        sessions.end(A);
        assert_eq!(sessions.believed(), Some(B));
    }

    #[test]
    fn a_draining_or_down_one_is_better_than_none() {
        for standing in [
            Standing { draining: true, ..good(1) },
            Standing { down: true, ..good(1) },
            Standing { draining: true, down: true, ..good(1) },
        ] {
            let mut sessions = Sessions::default();
            sessions.set(A, standing);
            assert_eq!(sessions.believed(), Some(A), "{standing:?}");
            sessions.set(B, Standing { synced: false, ..good(2) });
            assert_eq!(sessions.believed(), Some(A), "{standing:?}");
        }
    }

    #[test]
    fn news_without_a_change_of_grade_keeps_the_age() {
        let mut sessions = two();
        sessions.set(A, good(1));
        assert_eq!(sessions.believed(), Some(A));
        assert_eq!(sessions.to(ReplicaId::from_u64(2)), Some(B));
        assert_eq!(sessions.to(ReplicaId::from_u64(3)), None);
    }
}
