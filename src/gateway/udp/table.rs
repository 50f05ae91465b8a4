//! The sessions of one side: who is known, who has been idle too long, who makes room. Pure: `now`
//! is an argument.
//!
//! Invariants: never more than the cap, the session that was idle longest makes room; a session
//! ends after [`UNANSWERED`] without a datagram as long as no reply was seen, after [`ANSWERED`]
//! from then on; every operation takes constant time.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, Instant};

/// Idle time of a session of which no reply was seen.
pub(super) const UNANSWERED: Duration = Duration::from_secs(10);
/// Idle time of a session that was answered.
pub(super) const ANSWERED: Duration = Duration::from_secs(60);

const NONE: usize = usize::MAX;

/// Names one session for as long as it lives; never another one after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ticket {
    slot: usize,
    generation: u64,
}

/// Which way a datagram went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// From the client.
    Asking,
    /// To the client.
    Answering,
}

#[derive(Debug)]
struct Entry<K, V> {
    key: K,
    value: V,
    generation: u64,
    last: Instant,
    answered: bool,
    before: usize,
    after: usize,
}

/// Slots in the order of their last datagram, the longest idle first.
#[derive(Debug, Clone, Copy)]
struct Queue {
    first: usize,
    last: usize,
}

/// Sessions by key.
#[derive(Debug)]
pub(super) struct Table<K, V> {
    slots: Vec<Option<Entry<K, V>>>,
    free: Vec<usize>,
    index: HashMap<K, usize>,
    /// Without an answer so far, and answered.
    queues: [Queue; 2],
    generation: u64,
    most: usize,
    patience: [Duration; 2],
}

impl<K: Hash + Eq + Clone, V> Table<K, V> {
    /// Room for `most` sessions, at least one.
    pub(super) fn new(most: usize) -> Self {
        Self {
            slots: Vec::new(),
            free: Vec::new(),
            index: HashMap::new(),
            queues: [Queue { first: NONE, last: NONE }; 2],
            generation: 0,
            most: most.max(1),
            patience: [UNANSWERED, ANSWERED],
        }
    }

    /// No session may be idle for longer, whatever was seen: it drains.
    pub(super) fn hurry(&mut self, most_idle: Duration) {
        self.patience = self.patience.map(|patience| patience.min(most_idle));
    }

    /// Sessions now.
    pub(super) fn len(&self) -> usize {
        self.index.len()
    }

    /// Its ticket, if it is known.
    pub(super) fn find(&self, key: &K) -> Option<Ticket> {
        let slot = *self.index.get(key)?;
        let generation = self.slots[slot].as_ref()?.generation;
        Some(Ticket { slot, generation })
    }

    /// What is known of a session that lives.
    pub(super) fn get_mut(&mut self, ticket: Ticket) -> Option<&mut V> {
        self.entry(ticket).map(|entry| &mut entry.value)
    }

    /// The same with its key.
    pub(super) fn both_mut(&mut self, ticket: Ticket) -> Option<(&K, &mut V)> {
        self.entry(ticket).map(|entry| (&entry.key, &mut entry.value))
    }

    /// Adds a session that is not known; the one that made room for it.
    pub(super) fn insert(&mut self, key: K, value: V, now: Instant) -> (Ticket, Option<(K, V)>) {
        let evicted = if self.len() >= self.most { self.evict() } else { None };
        self.generation += 1;
        let generation = self.generation;
        let entry = Entry {
            key: key.clone(),
            value,
            generation,
            last: now,
            answered: false,
            before: NONE,
            after: NONE,
        };
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None => {
                self.slots.push(None);
                self.slots.len() - 1
            }
        };
        self.slots[slot] = Some(entry);
        self.index.insert(key, slot);
        self.append(slot);
        (Ticket { slot, generation }, evicted)
    }

    /// A datagram went one way or the other.
    pub(super) fn touch(&mut self, ticket: Ticket, way: Way, now: Instant) {
        if self.entry(ticket).is_none() {
            return;
        }
        self.unlink(ticket.slot);
        if let Some(entry) = self.entry(ticket) {
            entry.last = entry.last.max(now);
            entry.answered |= way == Way::Answering;
        }
        self.append(ticket.slot);
    }

    /// Takes a session out.
    pub(super) fn remove(&mut self, ticket: Ticket) -> Option<(K, V)> {
        self.entry(ticket)?;
        self.take(ticket.slot)
    }

    /// Takes out one session that has been idle for too long.
    pub(super) fn expire(&mut self, now: Instant) -> Option<(K, V)> {
        let idle = |slot: usize| self.slots.get(slot)?.as_ref().map(|entry| entry.last);
        let due = (0..self.queues.len()).find_map(|which| {
            let first = self.queues[which].first;
            let last = idle(first)?;
            (now.saturating_duration_since(last) >= self.patience[which]).then_some(first)
        })?;
        self.take(due)
    }

    /// Takes out every session that matches; takes as long as there are sessions.
    pub(super) fn drain_where(&mut self, matches: impl Fn(&K, &V) -> bool) -> Vec<(K, V)> {
        let all = self.slots.iter().enumerate();
        let matching = |entry: &Option<Entry<K, V>>| {
            entry.as_ref().is_some_and(|entry| matches(&entry.key, &entry.value))
        };
        let slots: Vec<usize> =
            all.filter(|(_, entry)| matching(entry)).map(|(slot, _)| slot).collect();
        slots.into_iter().filter_map(|slot| self.take(slot)).collect()
    }

    /// Whether a session matches; takes as long as there are sessions.
    pub(super) fn any(&self, matches: impl Fn(&K) -> bool) -> bool {
        self.index.keys().any(matches)
    }

    fn entry(&mut self, ticket: Ticket) -> Option<&mut Entry<K, V>> {
        let entry = self.slots.get_mut(ticket.slot)?.as_mut()?;
        (entry.generation == ticket.generation).then_some(entry)
    }

    /// How many match; takes as long as there are sessions.
    pub(super) fn count(&self, matches: impl Fn(&K, &V) -> bool) -> usize {
        let all = self.slots.iter().flatten();
        all.filter(|entry| matches(&entry.key, &entry.value)).count()
    }

    /// Takes out the longest idle of all.
    pub(super) fn evict(&mut self) -> Option<(K, V)> {
        let firsts = self.queues.iter().map(|queue| queue.first).filter(|slot| *slot != NONE);
        let idle = |slot: &usize| self.slots[*slot].as_ref().map(|entry| entry.last);
        let longest = firsts.min_by_key(idle)?;
        self.take(longest)
    }

    fn take(&mut self, slot: usize) -> Option<(K, V)> {
        self.unlink(slot);
        let entry = self.slots.get_mut(slot)?.take()?;
        self.free.push(slot);
        self.index.remove(&entry.key);
        Some((entry.key, entry.value))
    }

    fn append(&mut self, slot: usize) {
        let Some(Some(entry)) = self.slots.get_mut(slot) else { return };
        let queue = &mut self.queues[usize::from(entry.answered)];
        (entry.before, entry.after) = (queue.last, NONE);
        let before = std::mem::replace(&mut queue.last, slot);
        match self.slots.get_mut(before) {
            Some(Some(entry)) => entry.after = slot,
            _ => queue.first = slot,
        }
    }

    fn unlink(&mut self, slot: usize) {
        let Some(Some(entry)) = self.slots.get(slot) else { return };
        let (before, after, which) = (entry.before, entry.after, usize::from(entry.answered));
        match self.slots.get_mut(before) {
            Some(Some(entry)) => entry.after = after,
            _ => self.queues[which].first = after,
        }
        match self.slots.get_mut(after) {
            Some(Some(entry)) => entry.before = before,
            _ => self.queues[which].last = before,
        }
    }
}

#[cfg(test)]
mod tests;
