//! How a packet leaves: by which port and under which link header. Here the two modes part.
//!
//! In routed mode the balancer is a hop of layer 3 for whatever it forwards. In transparent mode it is
//! a bridge of two ports for the servers' frames, which their router is the gateway of, and a host for
//! the clients' frames, which are addressed to it as the holder of the VIP.
//!
//! Invariant: in transparent mode nobody's hop limit or VLAN tags change, and a frame that is not
//! addressed to the balancer itself leaves by the other port than it came by, with the MAC addresses
//! that it came with: no switch ever sees an address move.

use waxwing_packet::{Ethernet, Link, Mac, VlanTags};

use crate::session::{Direction, Stored};
use crate::snapshot::{Bridge, Port};
use crate::ways::Way;
use crate::{DropReason, FrameBuf, PortId, Snapshot};

/// How a packet of a session leaves.
pub(crate) struct Exit<'s> {
    /// The port: by the rings of the interface that it is, or is a VLAN on.
    pub(crate) egress: &'s Port,
    /// The MAC address it is sent to from the port's own; `None` where it keeps both that it came with.
    pub(crate) next: Option<Mac>,
    /// The VLAN tags it leaves with.
    pub(crate) tags: VlanTags,
    /// Whether this is a hop that its hop limit counts.
    pub(crate) routed: bool,
}

impl<'s> Exit<'s> {
    /// Of a session's packet that came by this port with this link header, and goes this way: to a backend
    /// (forward), or to where the client's packets come from (reply).
    pub(crate) fn of(
        snapshot: &'s Snapshot,
        arrived: (PortId, &Ethernet),
        (stored, direction): (&Stored, Direction),
        way: &Way,
    ) -> Result<Self, DropReason> {
        match routed_port(snapshot, way) {
            Some(egress) => Ok(Self {
                egress,
                next: Some(way.hop.mac),
                tags: way.tags(stored, egress),
                routed: true,
            }),
            None => Self::inline(snapshot, arrived, (stored, direction), way),
        }
    }

    /// In transparent mode. A reply that is addressed to the balancer, by a server that has it
    /// for its gateway after all, goes where the client's packets come from, as in routed mode.
    fn inline(
        snapshot: &'s Snapshot,
        (arrived, ethernet): (PortId, &Ethernet),
        (stored, direction): (&Stored, Direction),
        way: &Way,
    ) -> Result<Self, DropReason> {
        let bridge = snapshot.port(arrived).and_then(|port| port.bridge);
        let bridge = bridge.ok_or(DropReason::PortMissing)?;
        let is_reply = direction == Direction::Reply;
        let passes = is_reply && !bridge.is_own(ethernet.destination);
        let port = if passes || way.hop.port == PortId::ACROSS {
            bridge.peer
        } else {
            way.hop.port
        };
        let egress = snapshot.port(port).ok_or(DropReason::PortMissing)?;
        let turns = is_reply && !passes;
        Ok(Self {
            egress,
            next: (!passes).then_some(way.hop.mac),
            tags: if turns {
                way.tags(stored, egress)
            } else {
                ethernet.tags
            },
            routed: false,
        })
    }

    /// The MAC addresses it leaves with; `None` for those it came with.
    #[inline(always)]
    pub(crate) fn link(&self) -> Option<Link> {
        self.next.map(|destination| Link {
            source: self.egress.mac,
            destination,
        })
    }
}

/// The port of a way in routed mode without VLAN tags, where nothing but MAC addresses changes of the link header.
#[inline(always)]
pub(crate) fn plain_port<'s>(
    snapshot: &'s Snapshot,
    stored: &Stored,
    way: &Way,
) -> Option<&'s Port> {
    routed_port(snapshot, way).filter(|egress| way.is_untagged(stored, egress))
}

/// The port of a way in routed mode; `None` where it leads to a bridge, or nowhere.
#[inline(always)]
fn routed_port<'s>(snapshot: &'s Snapshot, way: &Way) -> Option<&'s Port> {
    let egress = snapshot.port(way.hop.port);
    egress.filter(|egress| egress.bridge.is_none())
}

/// The port by which a frame that is none of ours goes on as it is: in transparent mode, and unless it
/// is addressed to the balancer itself. (The kernel cannot bridge it: on the way back to the kernel
/// it would arrive on no port of the bridge.)
pub(crate) fn across<F: FrameBuf>(snapshot: &Snapshot, frame: &F) -> Option<PortId> {
    let bridge = snapshot.port(frame.port())?.bridge?;
    let destination = Mac(*frame.bytes().first_chunk()?);
    (!bridge.is_own(destination)).then_some(bridge.peer)
}

impl Bridge {
    fn is_own(&self, mac: Mac) -> bool {
        self.macs.contains(&mac)
    }
}
