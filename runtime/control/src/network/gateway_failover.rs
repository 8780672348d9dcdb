//! Moves the last hop of sessions when a gateway fails over to another MAC address, or their client does. The
//! next packet of such a session may be a reply, so the client's packets cannot be relied on to update it.
//!
//! Invariant: one pass over the sessions at a time covers all gateways that moved in the meantime, and
//! passes take at most a tenth of the time: a flapping gateway causes no more work than that.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::time::Instant;
use waxwing_dataplane::session::SessionTable;
use waxwing_dataplane::{NextHop, PortId};
use waxwing_packet::{Address, Mac, VlanTags};

use crate::network::port::MovedNeighbour;

/// Starts the task that updates sessions, and returns the function that reports a moved neighbour to
/// it. The task ends when the function is dropped.
pub(crate) fn session_updater(
    sessions: &Arc<SessionTable>,
) -> impl Fn(MovedNeighbour) + Send + 'static {
    let sessions = Arc::clone(sessions);
    let (sender, mut received) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Some(first) = received.recv().await {
            let mut moves = Moves::default();
            moves.note(first);
            while let Ok(next) = received.try_recv() {
                moves.note(next);
            }
            let begun = Instant::now();
            let sessions = Arc::clone(&sessions);
            // On a blocking thread: there may be millions of sessions. A panic there is logged and ends
            // nothing else.
            let _ = tokio::task::spawn_blocking(move || moves.apply(&sessions)).await;
            tokio::time::sleep(begun.elapsed() * 10).await;
        }
    });
    move |moved| {
        let _ = sender.send(moved);
    }
}

/// The current MAC for each old MAC of a gateway.
#[derive(Default)]
struct Moves(Vec<SegmentMoves>);

/// The moves behind one port in one VLAN: of gateways, or of one client.
struct SegmentMoves {
    port: PortId,
    tags: VlanTags,
    client: Option<Address>,
    current: BTreeMap<[u8; 6], Mac>,
}

impl Moves {
    fn note(&mut self, moved: MovedNeighbour) {
        let MovedNeighbour {
            wire,
            tags,
            client,
            from,
            to,
        } = moved;
        let is_there =
            |known: &SegmentMoves| (known.port, known.tags, known.client) == (wire, tags, client);
        let at = self.0.iter().position(is_there).unwrap_or_else(|| {
            self.0.push(SegmentMoves {
                port: wire,
                tags,
                client,
                current: BTreeMap::new(),
            });
            self.0.len() - 1
        });
        let current = &mut self.0[at].current;
        // Gateways that moved to `from` earlier have moved on to `to`.
        current
            .values_mut()
            .filter(|known| **known == from)
            .for_each(|known| *known = to);
        current.insert(from.0, to);
        current.retain(|from, to| *from != to.0);
    }

    /// Returns the new MAC of a session's last hop, if it moved.
    fn new_mac(&self, client: Address, hop: NextHop, tags: &VlanTags) -> Option<Mac> {
        let is_there = |it: &&SegmentMoves| {
            it.port == hop.port
                && it.tags.is_same_vlan(tags)
                && it.client.is_none_or(|moved| moved == client)
        };
        let mut segments = self.0.iter().filter(is_there);
        segments.find_map(|it| it.current.get(&hop.mac.0).copied())
    }

    fn apply(&self, sessions: &SessionTable) {
        let count =
            sessions.move_hops(|session| self.new_mac(session.client, session.hop, &session.tags));
        for (from, to) in self.0.iter().flat_map(|segment| &segment.current) {
            tracing::info!("gateway or client {} moved to MAC {to}", Mac(*from));
        }
        tracing::info!("{count} sessions updated to the gateways' new MACs");
    }
}

#[cfg(test)]
mod tests {
    use waxwing_packet::VlanTag;

    use super::*;

    const fn mac(n: u8) -> Mac {
        Mac([2, 0, 0, 0, 0, n])
    }

    const CLIENT: Address = Address::v4([198, 51, 100, 7]);

    fn moved(from: u8, to: u8) -> MovedNeighbour {
        MovedNeighbour {
            wire: PortId(0),
            tags: VlanTags::NONE,
            client: None,
            from: mac(from),
            to: mac(to),
        }
    }

    fn new_mac(moves: &Moves, n: u8) -> Option<Mac> {
        let hop = NextHop {
            port: PortId(0),
            mac: mac(n),
        };
        moves.new_mac(CLIENT, hop, &VlanTags::NONE)
    }

    #[test]
    fn repeated_moves_lead_to_the_last_mac() {
        let mut moves = Moves::default();
        for (from, to) in [(1, 2), (2, 3), (7, 8)] {
            moves.note(moved(from, to));
        }
        assert_eq!(new_mac(&moves, 1), Some(mac(3)));
        assert_eq!(new_mac(&moves, 2), Some(mac(3)));
        assert_eq!(new_mac(&moves, 7), Some(mac(8)));
        assert_eq!(new_mac(&moves, 3), None);
    }

    #[test]
    fn a_gateway_that_moves_back_leaves_its_sessions_unchanged() {
        let mut moves = Moves::default();
        for (from, to) in [(1, 2), (2, 1)] {
            moves.note(moved(from, to));
        }
        assert_eq!(new_mac(&moves, 1), None);
        assert_eq!(new_mac(&moves, 2), Some(mac(1)));
    }

    #[test]
    fn a_flapping_gateway_takes_one_entry_per_mac() {
        let mut moves = Moves::default();
        for n in 0..10_000_u32 {
            let at = |n: u32| (n % 2) as u8;
            moves.note(moved(at(n), at(n + 1)));
        }
        assert_eq!(moves.0.len(), 1);
        assert!(moves.0[0].current.len() <= 2);
    }

    #[test]
    fn the_same_mac_on_another_port_or_vlan_is_another_gateway() {
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
        assert_eq!(moves.new_mac(CLIENT, hop(1), &VlanTags::NONE), None);
        assert_eq!(moves.new_mac(CLIENT, hop(0), &tags), None);
        // The priority does not make it another VLAN.
        moves.note(MovedNeighbour {
            tags,
            ..moved(1, 4)
        });
        let urgent = VlanTags::one(VlanTag {
            tpid: 0x8100,
            tci: 0xe005,
        });
        assert_eq!(moves.new_mac(CLIENT, hop(0), &urgent), Some(mac(4)));
    }

    /// Whoever announces an address as its own gets no other client's replies.
    #[test]
    fn a_client_moves_only_its_own_sessions() {
        let mut moves = Moves::default();
        moves.note(MovedNeighbour {
            client: Some(CLIENT),
            ..moved(1, 2)
        });
        let hop = NextHop {
            port: PortId(0),
            mac: mac(1),
        };
        let other = Address::v4([198, 51, 100, 8]);
        assert_eq!(new_mac(&moves, 1), Some(mac(2)));
        assert_eq!(moves.new_mac(other, hop, &VlanTags::NONE), None);
    }
}
