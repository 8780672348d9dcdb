//! How a packet leaves: its port and link header. Routed and transparent mode differ here.
//!
//! In routed mode the balancer is a layer-3 hop for everything it forwards. In transparent mode it bridges
//! the servers' frames, whose gateway is the router, and acts as a host for the clients' frames, which are
//! addressed to it as the holder of the VIP.
//!
//! Invariant: in transparent mode hop limits and VLAN tags stay as they are, and a frame that is not
//! addressed to the balancer leaves through the opposite port with its own MAC addresses. So no switch sees
//! a MAC address move.

use waxwing_packet::{Ethernet, Link, Mac, VlanTags};

use super::next_hop::EgressHop;
use crate::model::Port;
use crate::session::{Direction, Stored};
use crate::{DropReason, FrameBuf, PortId, Snapshot};

/// How a session's packet leaves.
pub(crate) struct Exit<'s> {
    /// The egress port, or a VLAN on it.
    pub(crate) egress: &'s Port,
    /// The destination MAC; the source is then the port's own. `None` keeps both MACs.
    pub(crate) next: Option<Mac>,
    /// The VLAN tags it leaves with.
    pub(crate) tags: VlanTags,
    /// Whether the hop limit is decremented.
    pub(crate) routed: bool,
}

impl<'s> Exit<'s> {
    /// The exit of a session's packet that arrived on `ingress` with this link header and goes to `to`.
    pub(crate) fn of(
        snapshot: &'s Snapshot,
        (ingress, ethernet): (PortId, &Ethernet),
        (stored, direction): (&Stored, Direction),
        to: &EgressHop,
    ) -> Result<Self, DropReason> {
        if let Some(egress) = routed_port(snapshot, to) {
            return Ok(Self {
                egress,
                next: Some(to.hop.mac),
                tags: to.tags(stored, egress),
                routed: true,
            });
        }
        let bridge = snapshot.port(ingress).and_then(|port| port.bridge);
        let bridge = bridge.ok_or(DropReason::PortMissing)?;
        let is_reply = direction == Direction::Reply;
        // A server that uses the balancer as its gateway, even in transparent mode, addresses replies to it.
        // Those go to the last hop, as in routed mode; all others pass through unchanged.
        let passes = is_reply && !bridge.is_own(ethernet.destination);
        let port = if passes || to.hop.port == PortId::ACROSS {
            bridge.peer
        } else {
            to.hop.port
        };
        let egress = snapshot.port(port).ok_or(DropReason::PortMissing)?;
        Ok(Self {
            egress,
            next: (!passes).then_some(to.hop.mac),
            tags: if is_reply && !passes {
                to.tags(stored, egress)
            } else {
                ethernet.tags
            },
            routed: false,
        })
    }

    /// The MAC addresses it leaves with; `None` keeps them.
    #[inline(always)]
    pub(crate) fn link(&self) -> Option<Link> {
        self.next.map(|destination| Link {
            source: self.egress.mac,
            destination,
        })
    }

    /// Gives the frame the exit's VLAN tags, unless it has them or keeps its link header.
    #[inline(always)]
    pub(crate) fn retag<F: FrameBuf>(
        &self,
        frame: &mut F,
        arrived: &Ethernet,
    ) -> Result<(), DropReason> {
        if arrived.tags != self.tags
            && let Some(link) = self.link()
        {
            return retag(frame, arrived, link, self.tags);
        }
        Ok(())
    }
}

/// Replaces a frame's link header by one with other VLAN tags, which may have another length.
#[cold]
fn retag<F: FrameBuf>(
    frame: &mut F,
    old: &Ethernet,
    link: Link,
    tags: VlanTags,
) -> Result<(), DropReason> {
    let new = Ethernet::new(link, tags, old.ethertype);
    let by = old.header_len() as isize - new.header_len() as isize;
    if !frame.move_start(by) {
        return Err(DropReason::NoHeadroom);
    }
    match new.write(frame.bytes_mut()) {
        Some(_) => Ok(()),
        None => Err(DropReason::Malformed),
    }
}

/// The exit in the common case: routed mode, no VLAN tags. `None` in all other cases.
#[inline(always)]
pub(crate) fn untagged_exit<'s>(
    snapshot: &'s Snapshot,
    stored: &Stored,
    to: &EgressHop,
) -> Option<Exit<'s>> {
    routed_port(snapshot, to)
        .filter(|egress| to.is_untagged(stored, egress))
        .map(|egress| Exit {
            egress,
            next: Some(to.hop.mac),
            tags: VlanTags::NONE,
            routed: true,
        })
}

/// The egress port in routed mode; `None` if the hop is behind a bridge port, or no port.
#[inline(always)]
fn routed_port<'s>(snapshot: &'s Snapshot, to: &EgressHop) -> Option<&'s Port> {
    let egress = snapshot.port(to.hop.port);
    egress.filter(|egress| egress.bridge.is_none())
}

/// In transparent mode, the port by which a frame that is not ours leaves unchanged; `None` in routed mode,
/// or if the frame is addressed to the balancer. (The kernel cannot bridge it: handed back through the TAP
/// device it would not arrive on a bridge port.)
pub(crate) fn bridge_exit<F: FrameBuf>(snapshot: &Snapshot, frame: &F) -> Option<PortId> {
    let bridge = snapshot.port(frame.port())?.bridge?;
    let destination = Mac(*frame.bytes().first_chunk()?);
    (!bridge.is_own(destination)).then_some(bridge.peer)
}
