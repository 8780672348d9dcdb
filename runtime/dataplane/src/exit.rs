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

use crate::session::Direction;
use crate::snapshot::{Bridge, Port};
use crate::ways::Way;
use crate::{DropReason, FrameBuf, PortId, Snapshot};

/// How a packet of a session leaves.
pub(crate) struct Exit<'a> {
    /// The attached port by whose rings it leaves.
    pub(crate) port: PortId,
    /// The egress port's MTU, in bytes.
    pub(crate) mtu: u16,
    /// The MAC addresses it leaves with; `None` for those it came with.
    pub(crate) link: Option<Link>,
    /// The VLAN tags it leaves with.
    pub(crate) tags: &'a VlanTags,
    /// Whether this is a hop that its hop limit counts.
    pub(crate) routed: bool,
}

impl<'a> Exit<'a> {
    /// Of a packet that came by this port with this link header, and is to go to `hop`: a backend's
    /// (forward), or the one that the client's packets come from (reply), with tags that suit it.
    #[inline]
    pub(crate) fn of(
        snapshot: &Snapshot,
        (arrived, ethernet): (PortId, &'a Ethernet),
        direction: Direction,
        (hop, tags): Way<'a>,
    ) -> Result<Self, DropReason> {
        match snapshot.port(hop.port) {
            Some(egress @ Port { bridge: None, .. }) => Ok(Self {
                port: egress.wire,
                mtu: egress.mtu,
                link: Some(Link {
                    source: egress.mac,
                    destination: hop.mac,
                }),
                tags,
                routed: true,
            }),
            _ => Self::inline(snapshot, (arrived, ethernet), direction, (hop, tags)),
        }
    }

    /// The same in transparent mode. A reply that is addressed to the balancer, by a server that has it
    /// for its gateway after all, goes where the client's packets come from, as in routed mode.
    #[inline(never)]
    fn inline(
        snapshot: &Snapshot,
        (arrived, ethernet): (PortId, &'a Ethernet),
        direction: Direction,
        (hop, tags): Way<'a>,
    ) -> Result<Self, DropReason> {
        let bridge = snapshot.port(arrived).and_then(|port| port.bridge);
        let bridge = bridge.ok_or(DropReason::PortMissing)?;
        let is_reply = direction == Direction::Reply;
        let passes = is_reply && !bridge.is_own(ethernet.destination);
        let port = if passes || hop.port == PortId::ACROSS {
            bridge.peer
        } else {
            hop.port
        };
        let egress = snapshot.port(port).ok_or(DropReason::PortMissing)?;
        let link = Link {
            source: egress.mac,
            destination: hop.mac,
        };
        let turns = is_reply && !passes;
        Ok(Self {
            port: egress.wire,
            mtu: egress.mtu,
            link: (!passes).then_some(link),
            tags: if turns { tags } else { &ethernet.tags },
            routed: false,
        })
    }
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
