//! One test per rule about a replica: probes, Suspect, Down, Back; with facts by hand.

use super::sim::{Hand, ms, target};
use crate::health::ProbeKind::{Fresh, Standing};
use crate::health::*;

pub(super) fn oregon() -> Target {
    target("oregon", 1, 1)
}

pub(super) fn alone() -> (Hand, Target) {
    (Hand::new(&["oregon"]), oregon())
}

/// Up, then silent from `4_010` ms on; Down at `7_010`.
pub(super) fn down_by_silence(hand: &mut Hand, target: &Target) -> u64 {
    hand.up(0, target, 10, 5);
    hand.unanswered(5_000, target, 7);
    hand.until(7_010);
    assert_eq!(hand.state("oregon"), PeerState::Down);
    7_010
}

mod probes {
    use super::*;

    #[test]
    fn steady_is_asked_for_while_up_and_quick_while_suspect_or_down() {
        let (mut hand, it) = alone();
        hand.up(0, &it, 10, 3);
        assert_eq!(hand.replica(&it).pace, Pace::Steady);
        hand.send(3_000, &it, Standing);
        hand.until(3_301);
        assert_eq!(hand.state("oregon"), PeerState::Suspect);
        assert_eq!(hand.replica(&it).pace, Pace::Quick);
        hand.unanswered(3_600, &it, 6);
        hand.until(5_200);
        assert_eq!(hand.state("oregon"), PeerState::Down);
        assert_eq!(hand.replica(&it).pace, Pace::Quick);
    }

    #[test]
    fn rtt_is_the_median_of_three_smoothed_over_10_s() {
        let (mut hand, it) = alone();
        hand.up(0, &it, 20, 5);
        assert_eq!(hand.peer("oregon").rtt, Some(ms(20)));
        hand.ping(5_000, &it, 200);
        assert_eq!(hand.peer("oregon").rtt, Some(ms(20)), "one slow answer moves nothing");
        for second in 6..17 {
            hand.ping(second * 1_000, &it, 200);
        }
        let rtt = hand.peer("oregon").rtt.unwrap();
        assert!(rtt > ms(130) && rtt < ms(150), "63 to 70 % of the way after 11 s: {rtt:?}");
    }

    #[test]
    fn a_pong_is_never_too_late_to_be_heard() {
        let (mut hand, it) = alone();
        hand.up(0, &it, 10, 5);
        let id = hand.send(5_000, &it, Standing);
        hand.unanswered(5_300, &it, 5);
        hand.answer(6_900, &it, Standing, id, 1_900);
        hand.unanswered(7_000, &it, 8);
        hand.until(9_800);
        assert_eq!(hand.state("oregon"), PeerState::Suspect, "heard 2.9 s ago");
        hand.until(9_900);
        assert_eq!(hand.state("oregon"), PeerState::Down);
    }

    #[test]
    fn good_is_a_pong_within_four_round_trips_between_300_ms_and_1_s() {
        for (rtt, late) in [(10, 310), (75, 310), (100, 410), (200, 810), (240, 970), (600, 1_010)]
        {
            let (mut hand, it) = alone();
            hand.up(0, &it, rtt, 5);
            let id = hand.send(10_000, &it, Standing);
            hand.until(10_000 + late - 20);
            assert_eq!(hand.state("oregon"), PeerState::Up, "rtt {rtt}");
            hand.until(10_000 + late);
            assert_eq!(hand.state("oregon"), PeerState::Suspect, "rtt {rtt}");
            hand.answer(10_000 + late + 5, &it, Standing, id, late + 5);
            assert_eq!(hand.state("oregon"), PeerState::Suspect, "late is heard, not good");
        }
    }

    #[test]
    fn a_fresh_probe_has_3_s() {
        let (mut hand, it) = alone();
        hand.up(0, &it, 10, 5);
        let id = hand.send(5_000, &it, Fresh);
        hand.ping(6_000, &it, 10);
        hand.ping(7_000, &it, 10);
        hand.answer(7_900, &it, Fresh, id, 10);
        assert_eq!(hand.state("oregon"), PeerState::Up);
        hand.send(8_000, &it, Fresh);
        hand.ping(9_000, &it, 10);
        hand.ping(10_000, &it, 10);
        hand.until(11_300);
        assert_eq!(hand.state("oregon"), PeerState::Suspect, "given up without a report too");
    }

    #[test]
    fn a_probe_that_failed_for_want_of_something_here_says_nothing() {
        let (mut hand, it) = alone();
        hand.up(0, &it, 10, 5);
        for n in 0..5 {
            let at = 5_000 + n * 500;
            let id = hand.send(at, &it, Fresh);
            hand.void(at + 10, &it, Fresh, id);
            hand.ping(at + 20, &it, 10);
        }
        assert_eq!(hand.state("oregon"), PeerState::Up);
        assert!(hand.peer("oregon").loss_percent < f32::EPSILON);
        let pings: Vec<_> = (0..5).map(|n| hand.send(8_000 + n * 10, &it, Standing)).collect();
        for id in pings {
            hand.void(8_100, &it, Standing, id);
        }
        hand.until(10_900);
        assert_eq!(hand.state("oregon"), PeerState::Up, "no probe is outstanding");
    }

    #[test]
    fn loss_is_the_share_unanswered_of_the_last_hundred() {
        let (mut hand, it) = alone();
        hand.up(0, &it, 10, 90);
        assert!(hand.peer("oregon").loss_percent < f32::EPSILON);
        for n in 0..10 {
            let id = hand.send(90_000 + n * 100, &it, Fresh);
            hand.fail(90_000 + n * 100 + 10, &it, Fresh, id);
            hand.ping(90_000 + n * 100 + 20, &it, 10);
        }
        // 110 probes, the first ten of which were good.
        assert!((hand.peer("oregon").loss_percent - 10.0).abs() < 0.01);
    }
}

mod suspect {
    use super::*;

    #[test]
    fn unknown_is_up_on_the_first_pong() {
        let (mut hand, it) = alone();
        assert_eq!(hand.state("oregon"), PeerState::Unknown);
        hand.seen(0, &it);
        assert_eq!(hand.state("oregon"), PeerState::Unknown);
        hand.replied(5, &it);
        assert_eq!(hand.state("oregon"), PeerState::Unknown, "a reply is no PONG");
        hand.ping(10, &it, 20);
        assert_eq!(hand.state("oregon"), PeerState::Up);
        assert_eq!(hand.since(hand.peer("oregon").since), 30);
        assert!((hand.replica(&it).slow_start - 1.0).abs() < f32::EPSILON, "no slow start");
    }

    #[test]
    fn two_opens_in_a_row_without_reply_are_suspect() {
        let (mut hand, it) = alone();
        hand.up(0, &it, 10, 2);
        hand.open_unanswered(1_100, &it);
        hand.replied(1_200, &it);
        hand.open_unanswered(1_300, &it);
        assert_eq!(hand.state("oregon"), PeerState::Up, "not in a row");
        hand.open_unanswered(1_400, &it);
        assert_eq!(hand.state("oregon"), PeerState::Suspect);
    }

    #[test]
    fn up_again_on_the_next_good_pong() {
        let (mut hand, it) = alone();
        hand.up(0, &it, 10, 2);
        hand.send(2_000, &it, Standing);
        hand.until(2_400);
        assert_eq!(hand.state("oregon"), PeerState::Suspect);
        hand.ping(2_600, &it, 10);
        assert_eq!(hand.state("oregon"), PeerState::Up);
    }

    #[test]
    fn not_up_again_while_the_last_fresh_probe_failed() {
        let (mut hand, it) = alone();
        hand.up(0, &it, 10, 2);
        hand.broken(2_000, &it);
        assert_eq!(hand.state("oregon"), PeerState::Suspect);
        hand.ping(2_300, &it, 10);
        assert_eq!(hand.state("oregon"), PeerState::Suspect);
        hand.fresh(2_600, &it, 10);
        assert_eq!(hand.state("oregon"), PeerState::Up);
    }
}

mod down {
    use super::*;

    #[test]
    fn silent_for_3_s_with_3_probes_outstanding() {
        let (mut hand, it) = alone();
        hand.up(0, &it, 10, 5);
        hand.unanswered(5_000, &it, 7);
        hand.until(7_009);
        assert_eq!(hand.state("oregon"), PeerState::Suspect);
        hand.until(7_010);
        assert_eq!(hand.state("oregon"), PeerState::Down);
    }

    #[test]
    fn silence_without_3_probes_is_not_down() {
        let (mut hand, it) = alone();
        hand.up(0, &it, 10, 5);
        hand.unanswered(5_000, &it, 2);
        hand.until(9_000);
        assert_eq!(hand.state("oregon"), PeerState::Suspect);
        hand.send(9_000, &it, Standing);
        hand.until(9_001);
        assert_eq!(hand.state("oregon"), PeerState::Down);
    }

    #[test]
    fn a_reply_is_an_answer() {
        let (mut hand, it) = alone();
        hand.up(0, &it, 10, 5);
        hand.unanswered(5_000, &it, 4);
        hand.replied(6_500, &it);
        hand.unanswered(6_600, &it, 9);
        hand.until(9_400);
        assert_eq!(hand.state("oregon"), PeerState::Suspect);
        hand.until(9_500);
        assert_eq!(hand.state("oregon"), PeerState::Down);
    }

    #[test]
    fn two_dials_refused_in_a_row_with_no_connection_left() {
        let (mut hand, it) = alone();
        hand.up(0, &it, 10, 5);
        hand.refused(4_100, "oregon", 1);
        hand.refused(4_200, "oregon", 1);
        assert_eq!(hand.state("oregon"), PeerState::Up, "its connection lives");
        hand.ping(5_000, &it, 10);
        hand.lost(5_100, &it);
        assert_eq!(hand.state("oregon"), PeerState::Up);
        hand.refused(5_200, "oregon", 1);
        assert_eq!(hand.state("oregon"), PeerState::Suspect);
        hand.refused(5_500, "oregon", 1);
        assert_eq!(hand.state("oregon"), PeerState::Down);
    }

    #[test]
    fn a_success_between_two_refusals_breaks_the_row() {
        let (mut hand, it) = alone();
        hand.up(0, &it, 10, 5);
        hand.lost(4_100, &it);
        hand.refused(4_200, "oregon", 1);
        hand.seen(4_300, &it);
        hand.refused(4_400, "oregon", 1);
        assert_eq!(hand.state("oregon"), PeerState::Suspect);
    }

    #[test]
    fn three_fresh_probes_in_a_row_whatever_the_old_connection_says() {
        let (mut hand, it) = alone();
        hand.up(0, &it, 10, 5);
        for n in 0..3 {
            assert_ne!(hand.state("oregon"), PeerState::Down);
            hand.ping(5_000 + n * 600, &it, 10);
            hand.broken(5_300 + n * 600, &it);
        }
        assert_eq!(hand.state("oregon"), PeerState::Down);
        assert_eq!(hand.replica(&it).reset_unheard_since, None, "no stream is reset");
    }

    #[test]
    fn a_fresh_success_breaks_the_row() {
        let (mut hand, it) = alone();
        hand.up(0, &it, 10, 5);
        hand.broken(5_000, &it);
        hand.broken(5_300, &it);
        hand.fresh(5_600, &it, 10);
        hand.broken(5_900, &it);
        hand.broken(6_200, &it);
        assert_eq!(hand.state("oregon"), PeerState::Suspect);
    }

    #[test]
    fn streams_are_asked_after_2_s_of_silence() {
        let (mut hand, it) = alone();
        hand.up(0, &it, 10, 5);
        hand.unanswered(5_000, &it, 3);
        hand.until(6_009);
        assert!(!hand.replica(&it).ask_streams);
        assert_eq!(hand.since(hand.health.next_wake().unwrap()), 6_010, "a tick is due for it");
        hand.until(6_010);
        assert!(hand.replica(&it).ask_streams);
        hand.ping(6_900, &it, 10);
        assert!(!hand.replica(&it).ask_streams);
    }

    #[test]
    fn streams_unheard_since_the_first_miss_are_reset_at_down_by_silence() {
        let (mut hand, it) = alone();
        down_by_silence(&mut hand, &it);
        let since = hand.replica(&it).reset_unheard_since.unwrap();
        assert_eq!(hand.since(since), 5_301);
    }

    #[test]
    fn silence_after_down_by_refusal_resets_streams_after_all() {
        let (mut hand, it) = alone();
        hand.up(0, &it, 10, 5);
        hand.lost(4_500, &it);
        hand.refused(4_600, "oregon", 1);
        hand.refused(4_700, "oregon", 1);
        assert_eq!(hand.state("oregon"), PeerState::Down);
        assert_eq!(
            hand.replica(&it).reset_unheard_since,
            None,
            "a dead process resets them itself"
        );
        for n in 0..9 {
            hand.broken(5_000 + n * 300, &it);
        }
        hand.until(7_500);
        let since = hand.replica(&it).reset_unheard_since.unwrap();
        assert_eq!(hand.since(since), 5_010);
    }

    #[test]
    fn silence_after_down_by_fresh_dials_resets_streams_after_all() {
        let (mut hand, it) = alone();
        hand.up(0, &it, 10, 5);
        for n in 0..3 {
            hand.broken(5_000 + n * 300, &it);
        }
        hand.ping(6_000, &it, 10);
        assert_eq!(hand.replica(&it).reset_unheard_since, None);
        hand.unanswered(6_300, &it, 10);
        hand.until(9_010);
        let since = hand.replica(&it).reset_unheard_since.unwrap();
        assert_eq!(hand.since(since), 6_601);
    }
}

mod back {
    use super::*;

    #[test]
    fn five_good_in_5_s_two_of_them_fresh() {
        let (mut hand, it) = alone();
        let down = down_by_silence(&mut hand, &it);
        // Long after the hold-down, so that only the clean run counts.
        hand.clean(down + 20_000, down + 24_900, &it);
        assert_eq!(hand.state("oregon"), PeerState::Down, "not 5 s yet");
        hand.clean(down + 24_900, down + 25_300, &it);
        assert_eq!(hand.state("oregon"), PeerState::Up);
    }

    #[test]
    fn without_fresh_ones_it_stays_down() {
        let (mut hand, it) = alone();
        let down = down_by_silence(&mut hand, &it);
        for n in 0..40 {
            hand.ping(down + 20_000 + n * 300, &it, 10);
        }
        assert_eq!(hand.state("oregon"), PeerState::Down);
        hand.fresh(down + 33_000, &it, 10);
        assert_eq!(hand.state("oregon"), PeerState::Down);
        hand.fresh(down + 33_300, &it, 10);
        assert_eq!(hand.state("oregon"), PeerState::Up);
    }

    #[test]
    fn a_missed_one_starts_the_run_again() {
        let (mut hand, it) = alone();
        let down = down_by_silence(&mut hand, &it);
        hand.clean(down + 20_000, down + 24_000, &it);
        hand.broken(down + 24_000, &it);
        hand.clean(down + 24_300, down + 29_200, &it);
        assert_eq!(hand.state("oregon"), PeerState::Down);
        hand.clean(down + 29_200, down + 29_800, &it);
        assert_eq!(hand.state("oregon"), PeerState::Up);
    }

    #[test]
    fn slow_start_takes_30_s() {
        let (mut hand, it) = alone();
        let down = down_by_silence(&mut hand, &it);
        hand.clean(down + 300, down + 5_800, &it);
        assert_eq!(hand.state("oregon"), PeerState::Up);
        let up = hand.since(hand.peer("oregon").since);
        let mut last = 0.0;
        for second in 0..=30 {
            hand.ping(up + second * 1_000 + 500, &it, 10);
            let share = hand.replica(&it).slow_start;
            assert!(share >= last && share > 0.0 && (share < 1.0 || second >= 29), "{second}");
            last = share;
        }
        assert!((last - 1.0).abs() < f32::EPSILON);
    }

    #[test]
    fn hold_down_is_5_s_from_the_moment_of_down_and_doubles_to_60_s() {
        let (mut hand, it) = alone();
        hand.up(0, &it, 10, 5);
        let mut at = 4_000;
        for held in [5_000, 10_000, 20_000, 40_000, 60_000, 60_000] {
            hand.unanswered(at + 1_000, &it, 8);
            hand.until(at + 4_000);
            assert_eq!(hand.state("oregon"), PeerState::Down);
            let down = hand.since(hand.peer("oregon").since);
            hand.clean(down + 300, down + held + 900, &it);
            assert_eq!(hand.state("oregon"), PeerState::Up, "hold-down {held}");
            let up = hand.since(hand.peer("oregon").since);
            assert!((held..held + 800).contains(&(up - down)), "{} of {held}", up - down);
            at = up;
        }
    }

    #[test]
    fn flaps_are_forgotten_after_5_min() {
        let (mut hand, it) = alone();
        hand.up(0, &it, 10, 5);
        let mut at = 4_000;
        for (calm, held) in [(0, 5_000), (0, 10_000), (301_000, 5_000)] {
            for n in 0..calm / 1_000 {
                hand.ping(at + 500 + n * 1_000, &it, 10);
            }
            at += calm;
            hand.unanswered(at + 1_000, &it, 8);
            hand.until(at + 3_600);
            let down = hand.since(hand.peer("oregon").since);
            hand.clean(down + 600, down + held + 1_200, &it);
            let up = hand.since(hand.peer("oregon").since);
            assert_eq!(hand.state("oregon"), PeerState::Up);
            assert!(up - down < held + 1_200, "{} of {held}", up - down);
            at = up;
        }
    }

    #[test]
    fn a_return_that_breaks_off_twice_must_be_clean_for_longer() {
        let (mut hand, it) = alone();
        let down = down_by_silence(&mut hand, &it);
        let mut at = down + 20_000;
        for _ in 0..2 {
            hand.clean(at, at + 2_000, &it);
            hand.broken(at + 2_100, &it);
            at += 2_400;
        }
        hand.clean(at, at + 9_900, &it);
        assert_eq!(hand.state("oregon"), PeerState::Down);
        hand.clean(at + 9_900, at + 10_500, &it);
        assert_eq!(hand.state("oregon"), PeerState::Up);
    }
}
