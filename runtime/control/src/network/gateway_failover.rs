//! Sessions follow a gateway that has failed over to another MAC address: their next reply may be what
//! their client waits for, and nothing comes from the client before.
//!
//! Invariant: one pass over the sessions at a time, for all gateways that moved meanwhile, and for a
//! tenth of the time at most: whoever can make a gateway flap makes no more work than that.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::time::Instant;
use waxwing_dataplane::session::SessionTable;
use waxwing_dataplane::{NextHop, PortId};
use waxwing_packet::{Mac, VlanTags};

use crate::network::port::MovedNeighbour;

/// What the resolver is to tell of gateways that move. It starts the task that has sessions follow,
/// which ends with it.
pub(crate) fn followed_by(
    sessions: &Arc<SessionTable>,
) -> impl Fn(MovedNeighbour) + Send + 'static {
    let sessions = Arc::clone(sessions);
    let (tell, mut told) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Some(first) = told.recv().await {
            let mut moves = Moves::default();
            moves.note(first);
            while let Ok(next) = told.try_recv() {
                moves.note(next);
            }
            let begun = Instant::now();
            let sessions = Arc::clone(&sessions);
            // Apart from the loops: there may be millions of sessions. A panic in it is logged, and ends
            // nothing else.
            let _ = tokio::task::spawn_blocking(move || moves.apply(&sessions)).await;
            tokio::time::sleep(begun.elapsed() * 10).await;
        }
    });
    // The task lives as long as this sender.
    move |moved| {
        let _ = tell.send(moved);
    }
}

/// Where each of the MACs that gateways had leads by now.
#[derive(Default)]
struct Moves(Vec<Wire>);

/// The gateways behind one port, in one VLAN.
struct Wire {
    port: PortId,
    tags: VlanTags,
    now: BTreeMap<[u8; 6], Mac>,
}

impl Moves {
    fn note(&mut self, moved: MovedNeighbour) {
        let MovedNeighbour {
            wire,
            tags,
            from,
            to,
        } = moved;
        let is_there = |known: &Wire| known.port == wire && known.tags == tags;
        let at = self.0.iter().position(is_there).unwrap_or_else(|| {
            self.0.push(Wire {
                port: wire,
                tags,
                now: BTreeMap::new(),
            });
            self.0.len() - 1
        });
        let now = &mut self.0[at].now;
        // What has moved to `from` before has moved on.
        now.values_mut()
            .filter(|known| **known == from)
            .for_each(|known| *known = to);
        now.insert(from.0, to);
        now.retain(|from, to| *from != to.0);
    }

    /// Where a session's last hop has moved.
    fn of(&self, hop: NextHop, tags: &VlanTags) -> Option<Mac> {
        let mut wires = self.0.iter();
        let wire = wires.find(|wire| wire.port == hop.port && wire.tags.is_same_vlan(tags))?;
        wire.now.get(&hop.mac.0).copied()
    }

    fn apply(&self, sessions: &SessionTable) {
        let count = sessions.move_hops(|session| self.of(session.hop, &session.tags));
        for (from, to) in self.0.iter().flat_map(|wire| &wire.now) {
            tracing::info!("gateway {} has become {to}", Mac(*from));
        }
        tracing::info!("{count} sessions' replies go to where gateways are now");
    }
}

#[cfg(test)]
mod tests {
    use waxwing_packet::VlanTag;

    use super::*;

    const fn mac(n: u8) -> Mac {
        Mac([2, 0, 0, 0, 0, n])
    }

    fn moved(from: u8, to: u8) -> MovedNeighbour {
        MovedNeighbour {
            wire: PortId(0),
            tags: VlanTags::NONE,
            from: mac(from),
            to: mac(to),
        }
    }

    fn goes_to(moves: &Moves, n: u8) -> Option<Mac> {
        let hop = NextHop {
            port: PortId(0),
            mac: mac(n),
        };
        moves.of(hop, &VlanTags::NONE)
    }

    #[test]
    fn a_gateway_that_moves_on_is_followed_all_the_way() {
        let mut moves = Moves::default();
        for (from, to) in [(1, 2), (2, 3), (7, 8)] {
            moves.note(moved(from, to));
        }
        assert_eq!(goes_to(&moves, 1), Some(mac(3)));
        assert_eq!(goes_to(&moves, 2), Some(mac(3)));
        assert_eq!(goes_to(&moves, 7), Some(mac(8)));
        assert_eq!(goes_to(&moves, 3), None);
    }

    #[test]
    fn a_gateway_that_comes_back_leaves_its_sessions_where_they_are() {
        let mut moves = Moves::default();
        for (from, to) in [(1, 2), (2, 1)] {
            moves.note(moved(from, to));
        }
        assert_eq!(goes_to(&moves, 1), None);
        assert_eq!(goes_to(&moves, 2), Some(mac(1)));
    }

    #[test]
    fn a_flapping_gateway_takes_no_more_room_than_it_has_macs() {
        let mut moves = Moves::default();
        for n in 0..10_000_u32 {
            let at = |n: u32| (n % 2) as u8;
            moves.note(moved(at(n), at(n + 1)));
        }
        assert_eq!(moves.0.len(), 1);
        assert!(moves.0[0].now.len() <= 2);
    }

    #[test]
    fn the_same_mac_elsewhere_is_another_gateway() {
        let mut moves = Moves::default();
        moves.note(moved(1, 2));
        let hop = |port| NextHop {
            port: PortId(port),
            mac: mac(1),
        };
        let tags = VlanTags::one(VlanTag {
            tpid: 0x8100,
            tci: 5,
        });
        assert_eq!(moves.of(hop(1), &VlanTags::NONE), None);
        assert_eq!(moves.of(hop(0), &tags), None);
        // A priority is no other VLAN.
        moves.note(MovedNeighbour {
            tags,
            ..moved(1, 4)
        });
        let urgent = VlanTags::one(VlanTag {
            tpid: 0x8100,
            tci: 0xe005,
        });
        assert_eq!(moves.of(hop(0), &urgent), Some(mac(4)));
    }
}
