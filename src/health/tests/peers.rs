//! One test per rule about peers: several replicas, ranking, all silent at once, our own lag.

use std::collections::BTreeSet;
use std::time::Duration;

use super::rules::{alone, down_by_silence, oregon};
use super::sim::{Hand, cluster, ms, target};
use crate::health::ProbeKind::{Fresh, Standing};
use crate::health::*;

mod replicas {
    use super::*;

    #[test]
    fn a_new_replica_beside_an_up_one_is_up_on_its_first_pong() {
        let (mut hand, it) = alone();
        hand.up(0, &it, 10, 3);
        let other = target("oregon", 1, 2);
        hand.seen(2_100, &other);
        hand.ping(2_200, &other, 10);
        assert_eq!(hand.replica(&other).state, PeerState::Up);
    }

    #[test]
    fn a_restart_is_no_way_round_hold_down() {
        let (mut hand, it) = alone();
        let mut at = down_by_silence(&mut hand, &it);
        hand.clean(at + 300, at + 5_900, &it);
        at = hand.since(hand.peer("oregon").since);
        hand.unanswered(at + 1_000, &it, 8);
        hand.until(at + 3_600);
        assert_eq!(hand.state("oregon"), PeerState::Down);
        let down = hand.since(hand.peer("oregon").since);
        // The second flap: 10 s, for the new process as well.
        let new = target("oregon", 1, 2);
        hand.seen(down + 600, &new);
        hand.clean(down + 700, down + 10_900, &new);
        let up = hand.since(hand.peer("oregon").since);
        assert_eq!(hand.state("oregon"), PeerState::Up);
        assert!(up - down >= 10_000 && hand.replica(&new).slow_start < 0.2);
    }

    #[test]
    fn a_new_replica_while_none_is_up_comes_in_by_back() {
        let (mut hand, it) = alone();
        down_by_silence(&mut hand, &it);
        let new = target("oregon", 2, 2);
        hand.seen(60_000, &new);
        hand.ping(60_100, &new, 10);
        assert_eq!(hand.state("oregon"), PeerState::Down);
        hand.clean(60_300, 65_800, &new);
        assert_eq!(hand.state("oregon"), PeerState::Up);
    }

    #[test]
    fn one_outage_of_two_replicas_behind_one_address_is_one_flap() {
        let (mut hand, it) = alone();
        let other = target("oregon", 1, 2);
        hand.up(0, &it, 10, 2);
        hand.up(1_100, &other, 10, 2);
        hand.unanswered(2_200, &it, 9);
        hand.unanswered(4_800, &other, 9);
        hand.until(7_400);
        assert_eq!(hand.state("oregon"), PeerState::Down);
        let down = hand.since(hand.peer("oregon").since);
        hand.clean(down + 300, down + 6_000, &it);
        assert_eq!(hand.state("oregon"), PeerState::Up, "5 s, not 10");
    }

    #[test]
    fn a_peer_is_as_well_as_its_best_replica() {
        let (mut hand, it) = alone();
        let other = target("oregon", 2, 1);
        hand.up(0, &it, 10, 2);
        hand.up(1_100, &other, 30, 2);
        assert_eq!(hand.peer("oregon").rtt, Some(ms(10)));
        for n in 0..3 {
            hand.broken(2_200 + n * 300, &it);
        }
        assert_eq!(hand.replica(&it).state, PeerState::Down);
        assert_eq!(hand.state("oregon"), PeerState::Up);
        assert_eq!(hand.peer("oregon").rtt, Some(ms(30)));
        assert_eq!(hand.peer("oregon").replicas[0].target, other, "best first");
    }

    #[test]
    fn a_failure_before_ready_counts_against_the_address_alone() {
        let (mut hand, it) = alone();
        let other = target("oregon", 2, 1);
        hand.up(0, &it, 10, 2);
        hand.up(1_100, &other, 10, 2);
        hand.lost(2_200, &it);
        hand.lost(2_200, &other);
        hand.refused(2_300, "oregon", 1);
        hand.refused(2_400, "oregon", 1);
        assert_eq!(hand.replica(&it).state, PeerState::Down);
        assert_eq!(hand.replica(&other).state, PeerState::Up);
    }

    #[test]
    fn draining_is_shown_and_taken_back() {
        let (mut hand, it) = alone();
        hand.up(0, &it, 10, 2);
        hand.drain(1_100, &it, true);
        assert_eq!(hand.state("oregon"), PeerState::Draining);
        let other = target("oregon", 1, 2);
        hand.seen(1_200, &other);
        hand.ping(1_300, &other, 10);
        assert_eq!(hand.state("oregon"), PeerState::Up, "its successor is up at once");
        hand.drain(1_400, &it, false);
        assert_eq!(hand.replica(&it).state, PeerState::Up);
    }

    #[test]
    fn a_drained_process_that_goes_is_no_flap() {
        let (mut hand, it) = alone();
        hand.up(0, &it, 10, 2);
        hand.drain(1_100, &it, true);
        hand.lost(1_200, &it);
        hand.refused(1_300, "oregon", 1);
        hand.refused(1_400, "oregon", 1);
        assert_eq!(hand.state("oregon"), PeerState::Down);
        let new = target("oregon", 1, 2);
        hand.seen(1_500, &new);
        hand.clean(1_600, 7_200, &new);
        assert_eq!(hand.state("oregon"), PeerState::Up);
    }

    #[test]
    fn the_gone_are_forgotten_and_the_last_one_is_not() {
        let (mut hand, it) = alone();
        let other = target("oregon", 1, 2);
        hand.up(0, &it, 10, 2);
        hand.up(1_100, &other, 10, 2);
        hand.unanswered(2_300, &it, 12);
        hand.unanswered(6_000, &other, 12);
        hand.until(600_000);
        let view = hand.peer("oregon");
        assert_eq!(view.state, PeerState::Down);
        assert_eq!(view.replicas.len(), 1);
        assert_eq!(view.replicas[0].target, other);
    }

    #[test]
    fn a_peer_cannot_make_us_remember_more_than_64_replicas() {
        let (mut hand, it) = alone();
        hand.up(0, &it, 10, 2);
        for n in 2..1_000 {
            hand.seen(1_100 + n, &target("oregon", 1, n));
        }
        assert_eq!(hand.peer("oregon").replicas.len(), 64);
        assert_eq!(hand.state("oregon"), PeerState::Up);
    }

    #[test]
    fn peers_that_are_no_longer_set_are_gone_and_facts_about_them_are_dropped() {
        let (mut hand, it) = alone();
        hand.up(0, &it, 10, 2);
        hand.health.set_peers(&BTreeSet::from([cluster("tokyo")]), hand.at(1_100));
        hand.replied(1_200, &it);
        let views = hand.health.views(hand.at(1_200));
        assert_eq!(views.keys().collect::<Vec<_>>(), [&cluster("tokyo")]);
    }
}

mod ranking {
    use super::*;

    /// Up at 100 ms, then `rtt` for so many seconds.
    fn after(rtt: u64, seconds: u64) -> Option<Duration> {
        let (mut hand, it) = alone();
        hand.up(0, &it, 100, 10);
        for n in 0..seconds {
            hand.ping(10_000 + n * 1_000, &it, rtt);
        }
        hand.peer("oregon").ranking_rtt
    }

    #[test]
    fn moves_only_beyond_20_percent_for_10_s() {
        assert_eq!(after(115, 300), Some(ms(100)), "within 20 %");
        assert_eq!(after(200, 10), Some(ms(100)), "not long enough");
        assert!(after(200, 20) > Some(ms(150)));
    }

    #[test]
    fn moves_only_beyond_5_ms() {
        let (mut hand, it) = alone();
        hand.up(0, &it, 2, 10);
        for n in 0..100 {
            hand.ping(10_000 + n * 1_000, &it, 6);
        }
        assert_eq!(hand.peer("oregon").ranking_rtt, Some(ms(2)));
    }

    #[test]
    fn a_new_replica_does_not_decide_with_its_first_answer() {
        let (mut hand, it) = alone();
        hand.up(0, &it, 20, 5);
        let other = target("oregon", 2, 2);
        hand.seen(4_100, &other);
        hand.ping(4_200, &other, 250);
        hand.send(4_900, &it, Standing);
        hand.ping(5_300, &other, 250);
        assert_eq!(hand.replica(&it).state, PeerState::Suspect);
        assert_eq!(hand.state("oregon"), PeerState::Up, "by the new one");
        assert_eq!(hand.peer("oregon").ranking_rtt, Some(ms(20)));
        for n in 0..11 {
            hand.ping(6_000 + n * 1_000, &other, 250);
        }
        assert_eq!(hand.peer("oregon").ranking_rtt, Some(ms(250)), "it lasted for 10 s");
    }

    #[test]
    fn the_first_answer_does_not_decide() {
        let (mut hand, it) = alone();
        hand.seen(0, &it);
        hand.ping(0, &it, 250);
        for n in 1..5 {
            hand.ping(n * 1_000, &it, 20);
        }
        assert_eq!(hand.peer("oregon").ranking_rtt, Some(ms(20)));
    }
}

mod ourselves {
    use super::*;

    fn two() -> (Hand, Target, Target) {
        let mut hand = Hand::new(&["oregon", "tokyo"]);
        let (oregon, tokyo) = (oregon(), target("tokyo", 2, 1));
        hand.up(0, &oregon, 10, 5);
        hand.up(4_100, &tokyo, 10, 5);
        hand.ping(8_000, &oregon, 10);
        (hand, oregon, tokyo)
    }

    #[test]
    fn all_of_two_silent_at_once_are_kept_until_one_answers() {
        let (mut hand, oregon, tokyo) = two();
        for n in 0..100 {
            hand.send(9_000 + n * 300, &oregon, Standing);
            hand.send(9_100 + n * 300, &tokyo, Standing);
        }
        hand.until(40_000);
        assert_eq!(hand.state("oregon"), PeerState::Suspect);
        assert_eq!(hand.state("tokyo"), PeerState::Suspect);
        hand.ping(40_000, &tokyo, 10);
        assert_eq!(hand.state("tokyo"), PeerState::Up);
        for n in 0..20 {
            hand.send(40_100 + n * 300, &oregon, Standing);
            hand.ping(40_200 + n * 300, &tokyo, 10);
            let silent = 100 + n * 300;
            let down = hand.state("oregon") == PeerState::Down;
            assert_eq!(down, silent > 3_010 - 100, "{silent} ms after proof that we live");
        }
    }

    #[test]
    fn fresh_failures_do_not_count_while_all_are_silent() {
        let (mut hand, oregon, tokyo) = two();
        for n in 0..30 {
            hand.send(9_000 + n * 300, &oregon, Fresh);
            hand.send(9_100 + n * 300, &tokyo, Fresh);
        }
        hand.until(30_000);
        assert_eq!(hand.state("oregon"), PeerState::Suspect);
        assert_eq!(hand.state("tokyo"), PeerState::Suspect);
    }

    #[test]
    fn one_answer_from_any_peer_lets_the_silent_one_go_down() {
        let (mut hand, oregon, tokyo) = two();
        hand.unanswered(9_000, &oregon, 3);
        hand.ping(9_900, &tokyo, 10);
        hand.unanswered(9_950, &oregon, 4);
        hand.until(11_010);
        assert_eq!(hand.state("oregon"), PeerState::Down);
        assert_eq!(hand.state("tokyo"), PeerState::Up);
    }

    #[test]
    fn the_last_of_two_goes_down_normally_when_the_other_is_down_already() {
        let (mut hand, oregon, tokyo) = two();
        hand.ping(9_200, &tokyo, 10);
        hand.unanswered(9_000 + 300, &oregon, 8);
        for n in 0..5 {
            hand.ping(11_500 + n * 1_000, &tokyo, 10);
        }
        assert_eq!(hand.state("oregon"), PeerState::Down);
        hand.unanswered(16_000, &tokyo, 9);
        hand.until(19_000);
        assert_eq!(hand.state("tokyo"), PeerState::Down);
    }

    #[test]
    fn a_single_peer_goes_down_normally() {
        let (mut hand, it) = alone();
        down_by_silence(&mut hand, &it);
    }

    #[test]
    fn a_lagged_round_is_void() {
        let (mut hand, it) = alone();
        hand.up(0, &it, 10, 5);
        let id = hand.send(5_000, &it, Standing);
        hand.lagged(7_000, 1_950);
        hand.answer(7_000, &it, Standing, id, 2_000);
        hand.until(7_001);
        assert_eq!(hand.state("oregon"), PeerState::Up, "neither missed nor late");
        assert_eq!(hand.peer("oregon").rtt, Some(ms(10)), "our lag is no round trip");
    }

    #[test]
    fn a_short_lag_voids_nothing() {
        let (mut hand, it) = alone();
        hand.up(0, &it, 10, 5);
        hand.send(5_000, &it, Standing);
        hand.lagged(5_200, 200);
        hand.until(5_301);
        assert_eq!(hand.state("oregon"), PeerState::Suspect);
    }

    #[test]
    fn a_stopped_process_finds_nobody_down_when_it_goes_on() {
        let (mut hand, it) = alone();
        hand.up(0, &it, 10, 5);
        hand.unanswered(5_000, &it, 3);
        // Stopped for 30 s; the tick comes before any report of the lag.
        hand.health.tick(hand.at(35_000));
        hand.lagged(35_001, 29_900);
        assert_eq!(hand.state("oregon"), PeerState::Suspect, "as it was");
        hand.ping(35_300, &it, 10);
        assert_eq!(hand.state("oregon"), PeerState::Up);
    }

    #[test]
    fn at_most_two_rounds_in_a_row_are_void() {
        let (mut hand, it) = alone();
        hand.up(0, &it, 10, 5);
        let mut at = 4_500;
        for _ in 0..8 {
            hand.send(at, &it, Standing);
            hand.lagged(at + 290, 280);
            at += 600;
        }
        hand.until(at);
        assert_eq!(hand.state("oregon"), PeerState::Down, "{at}");
    }
}

mod numbers {
    use super::*;

    #[test]
    fn the_defaults_fit_together() {
        assert_eq!(Config::new(Timing::default()), Ok(Config::default()));
    }

    #[test]
    fn impossible_timings_are_refused() {
        let refused = |change: fn(&mut Timing)| {
            let mut timing = Timing::default();
            change(&mut timing);
            Config::new(timing).unwrap_err().to_string()
        };
        assert_eq!(refused(|t| t.back_good = 0), "back_good is zero; give a positive value");
        let text = refused(|t| t.ask_after = Duration::from_secs(9));
        assert_eq!(text, "ask_after is longer than down_after; swap them");
        assert!(refused(|t| t.ranking_share = f64::NAN).contains("between 0 and 1"));
    }
}
