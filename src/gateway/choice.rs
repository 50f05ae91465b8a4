//! Which of a peer's replicas a new stream goes to.

use std::net::SocketAddr;

use rand::RngExt;

use super::Shared;
use crate::health::{PeerState, ReplicaView, Target};
use crate::model::ClusterId;

/// Where a connection to a peer may be come by.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Choice {
    /// The replicas to take an idle connection of, best first; empty is any.
    pub(super) targets: Vec<Target>,
    /// Where to dial, best first.
    pub(super) addresses: Vec<SocketAddr>,
}

/// Of the replicas of the best class one is drawn by its share of slow start; the others of the
/// class may lend a spare. Without any known replica every address will do.
pub(super) fn choose(
    replicas: &[ReplicaView],
    addresses: &[SocketAddr],
    is_draining: impl Fn(&Target) -> bool,
    draw: f64,
) -> Choice {
    let class = |view: &ReplicaView| match view.state {
        PeerState::Draining => 3,
        _ if is_draining(&view.target) => 3,
        PeerState::Up => 0,
        PeerState::Suspect => 1,
        PeerState::Unknown => 2,
        PeerState::Down => 4,
    };
    let Some(best) = replicas.iter().map(class).min() else {
        let mut addresses = addresses.to_vec();
        let begin = addresses.iter().enumerate().position(|(place, _)| {
            let (place, count) = (place as f64, addresses.len() as f64);
            draw * count < place + 1.0
        });
        addresses.rotate_left(begin.unwrap_or(0));
        return Choice { targets: Vec::new(), addresses };
    };
    let mut of_class: Vec<&ReplicaView> =
        replicas.iter().filter(|view| class(view) == best).collect();
    // A sliver for those at 0, so that a class of only such still has a first.
    let share = |view: &ReplicaView| f64::from(view.slow_start).max(0.01);
    let mut point = draw * of_class.iter().map(|view| share(view)).sum::<f64>();
    let first = of_class.iter().position(|view| {
        point -= share(view);
        point < 0.0
    });
    of_class[..=first.unwrap_or(0)].rotate_right(1);
    let targets: Vec<Target> = of_class.iter().map(|view| view.target.clone()).collect();
    let mut addresses: Vec<SocketAddr> = Vec::with_capacity(targets.len());
    for target in &targets {
        // Replicas behind one address are dialled by it once.
        if !addresses.contains(&target.address) {
            addresses.push(target.address);
        }
    }
    Choice { targets, addresses }
}

impl Shared {
    /// The choice for one stream to that peer.
    pub(super) fn choose(&self, peer: &ClusterId) -> Choice {
        let table = self.routes.load();
        let Some(status) = table.peers.get(peer) else { return Choice::default() };
        let draw = rand::rng().random_range(0.0..1.0);
        let is_draining = |target: &Target| self.pool.is_draining(target);
        choose(&status.health.replicas, &status.addresses, is_draining, draw)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::Pace;
    use crate::model::ReplicaId;

    fn view(replica: u64, state: PeerState, slow_start: f32) -> ReplicaView {
        ReplicaView {
            target: Target {
                peer: ClusterId::parse("oregon").unwrap(),
                address: SocketAddr::from(([127, 0, 0, 1], u16::try_from(replica).unwrap())),
                replica: ReplicaId::from_u64(replica),
            },
            state,
            since: crate::clock::now(),
            rtt: None,
            pace: Pace::Steady,
            ask_streams: false,
            reset_unheard_since: None,
            slow_start,
        }
    }

    fn chosen(views: &[ReplicaView], draw: f64) -> Vec<u16> {
        let choice = choose(views, &[], |target| target.replica == ReplicaId::from_u64(9), draw);
        choice.addresses.iter().map(SocketAddr::port).collect()
    }

    #[test]
    fn the_best_class_serves_and_slow_start_takes_its_share() {
        let views = [
            view(1, PeerState::Up, 1.0),
            view(2, PeerState::Up, 0.25),
            view(3, PeerState::Suspect, 1.0),
            view(4, PeerState::Down, 1.0),
        ];
        assert_eq!(chosen(&views, 0.0), [1, 2]);
        assert_eq!(chosen(&views, 0.79), [1, 2]);
        assert_eq!(chosen(&views, 0.81), [2, 1]);
    }

    #[test]
    fn a_draining_replica_serves_only_where_no_other_does() {
        let (nine, ten) = (view(9, PeerState::Up, 1.0), view(10, PeerState::Unknown, 1.0));
        assert_eq!(chosen(&[nine.clone(), ten], 0.0), [10]);
        assert_eq!(chosen(&[nine.clone(), view(4, PeerState::Down, 1.0)], 0.0), [9]);
        assert_eq!(chosen(&[nine], 0.0), [9]);
    }

    #[test]
    fn without_known_replicas_every_address_will_do() {
        let address = SocketAddr::from(([127, 0, 0, 1], 1));
        let choice = choose(&[], &[address], |_| false, 0.5);
        assert_eq!(choice, Choice { targets: vec![], addresses: vec![address] });
    }
}
