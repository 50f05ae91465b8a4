use proptest::prelude::*;

use super::*;

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

fn millis(count: u64) -> Duration {
    Duration::from_millis(count)
}

/// Everything that has expired at `now`.
fn expired(table: &mut Table<u32, char>, now: Instant) -> Vec<char> {
    std::iter::from_fn(|| table.expire(now)).map(|(_, value)| value).collect()
}

#[test]
fn a_session_lives_ten_seconds_and_sixty_once_it_was_answered() {
    // What happens to one session, and how long after the last of it the session ends.
    let cases: [(&[(u64, Way)], u64); 4] = [
        (&[], 10),
        (&[(9, Way::Asking), (18, Way::Asking)], 28),
        (&[(1, Way::Answering)], 61),
        (&[(1, Way::Answering), (50, Way::Asking), (55, Way::Asking)], 115),
    ];
    for (touches, end) in cases {
        let start = crate::clock::now();
        let mut table = Table::new(8);
        let (ticket, _) = table.insert(1, 'a', start);
        for (at, way) in touches {
            assert!(expired(&mut table, start + seconds(*at)).is_empty(), "{touches:?}");
            table.touch(ticket, *way, start + seconds(*at));
        }
        assert!(expired(&mut table, start + seconds(end) - millis(1)).is_empty(), "{touches:?}");
        assert_eq!(expired(&mut table, start + seconds(end)), ['a'], "{touches:?}");
        assert!(table.get_mut(ticket).is_none());
    }
}

#[test]
fn at_the_cap_the_longest_idle_makes_room_answered_or_not() {
    let start = crate::clock::now();
    let mut table = Table::new(3);
    let (one, _) = table.insert(1, 'a', start);
    table.insert(2, 'b', start + millis(1));
    let (three, none) = table.insert(3, 'c', start + millis(2));
    assert!(none.is_none());
    table.touch(one, Way::Answering, start + millis(3));
    assert_eq!(table.insert(4, 'd', start + millis(4)).1, Some((2, 'b')));
    table.touch(three, Way::Asking, start + millis(5));
    assert_eq!(table.insert(5, 'e', start + millis(6)).1, Some((1, 'a')), "answered, yet idle");
    assert_eq!(table.len(), 3);
    assert!(table.get_mut(three).is_some());
}

#[test]
fn a_ticket_never_names_another_session() {
    let start = crate::clock::now();
    let mut table = Table::new(1);
    let (one, _) = table.insert(1, 'a', start);
    let (two, evicted) = table.insert(1, 'b', start);
    assert_eq!(evicted, Some((1, 'a')));
    assert!(table.get_mut(one).is_none() && table.remove(one).is_none());
    assert_eq!(table.find(&1), Some(two));
    assert_eq!(table.remove(two), Some((1, 'b')));
    assert_eq!((table.find(&1), table.len()), (None, 0));
}

#[test]
fn a_drain_shortens_every_patience() {
    let start = crate::clock::now();
    let mut table = Table::new(8);
    let (one, _) = table.insert(1, 'a', start);
    table.insert(2, 'b', start);
    table.touch(one, Way::Answering, start + seconds(1));
    table.hurry(seconds(5));
    assert_eq!(expired(&mut table, start + seconds(5)), ['b']);
    assert_eq!(expired(&mut table, start + seconds(6)), ['a']);
}

#[test]
fn sessions_are_taken_out_by_what_they_are() {
    let start = crate::clock::now();
    let mut table = Table::new(8);
    for (key, value) in [(1, 'a'), (2, 'b'), (3, 'a')] {
        table.insert(key, value, start);
    }
    let mut taken = table.drain_where(|_, value| *value == 'a');
    taken.sort_unstable();
    assert_eq!(taken, [(1, 'a'), (3, 'a')]);
    assert!(table.any(|key| *key == 2) && !table.any(|key| *key == 1));
    assert_eq!(table.insert(4, 'd', start).1, None);
    assert_eq!(table.len(), 2);
}

/// What a table does, written down as simply as can be.
#[derive(Default)]
struct Model(Vec<(u32, u64, bool)>);

impl Model {
    fn at(&mut self, key: u32) -> Option<&mut (u32, u64, bool)> {
        self.0.iter_mut().find(|(other, ..)| *other == key)
    }

    fn expire(&mut self, now: u64) -> usize {
        let before = self.0.len();
        self.0.retain(|(_, last, answered)| now - last < if *answered { 60 } else { 10 });
        before - self.0.len()
    }

    fn evict(&mut self) {
        let longest = self.0.iter().map(|(_, last, _)| *last).min();
        let place = self.0.iter().position(|(_, last, _)| Some(*last) == longest);
        self.0.remove(place.expect("it is full"));
    }
}

proptest! {
    #[test]
    fn it_does_what_the_model_does(
        steps in proptest::collection::vec((0_u32..12, 0_u8..4, 1_u64..9), 1..300),
    ) {
        const MOST: usize = 5;
        let start = crate::clock::now();
        let (mut table, mut model, mut now) = (Table::new(MOST), Model::default(), 0);
        for (key, act, pass) in steps {
            // No two things happen in one second, so that the longest idle is one.
            now += pass;
            let at = start + seconds(now);
            let gone = std::iter::from_fn(|| table.expire(at)).count();
            prop_assert_eq!(gone, model.expire(now));
            match (table.find(&key), act) {
                (None, _) => {
                    let full = table.len() == MOST;
                    let (_, evicted) = table.insert(key, (), at);
                    prop_assert_eq!(evicted.is_some(), full);
                    if full {
                        model.evict();
                    }
                    model.0.push((key, now, false));
                }
                (Some(ticket), 0) => {
                    prop_assert!(table.remove(ticket).is_some());
                    model.0.retain(|(other, ..)| *other != key);
                }
                (Some(ticket), act) => {
                    let way = if act == 1 { Way::Answering } else { Way::Asking };
                    table.touch(ticket, way, at);
                    let entry = model.at(key).expect("it is known");
                    *entry = (key, now, entry.2 || act == 1);
                }
            }
            for key in 0..12 {
                prop_assert_eq!(table.find(&key).is_some(), model.at(key).is_some());
            }
        }
    }
}
