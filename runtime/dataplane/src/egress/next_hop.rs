//! Which next hop a session's packet goes to.
//!
//! Invariant: requests go to the next hop that the kernel resolved for the backend. Replies go to the hop
//! that the client's last packet came from, or along the kernel's routes if the operator chose
//! `return_path = "route"`. No packet can choose between the two.

use waxwing_packet::VlanTags;

use super::routes::{RouteLookup, Routes};
use super::{HopTable, NextHop};
use crate::counters::WorkerCounters;
use crate::model::Port;
use crate::session::Stored;
use crate::{BackendId, DropReason, Snapshot};

/// A next hop, and where the VLAN tags of frames to it come from.
#[derive(Clone, Copy)]
pub(crate) struct EgressHop {
    pub(crate) hop: NextHop,
    /// Whether this is the hop the client's packets come from: frames then carry the session's tags,
    /// otherwise those of the egress port.
    pub(crate) is_last_hop: bool,
}

impl EgressHop {
    /// The VLAN tags of a frame to this hop.
    #[inline(always)]
    pub(crate) fn tags(&self, stored: &Stored, egress: &Port) -> VlanTags {
        if self.is_last_hop {
            stored.tags()
        } else {
            egress.tags
        }
    }

    #[inline(always)]
    pub(crate) fn is_untagged(&self, stored: &Stored, egress: &Port) -> bool {
        if self.is_last_hop {
            stored.is_untagged()
        } else {
            egress.tags.is_empty()
        }
    }
}

/// Finds next hops for one worker.
#[derive(Clone, Copy)]
pub(crate) struct HopLookup<'a> {
    pub(crate) hops: &'a HopTable,
    /// The kernel's routes to clients, with `return_path = "route"`.
    pub(crate) routes: Option<&'a Routes>,
    pub(crate) counters: &'a WorkerCounters,
}

impl HopLookup<'_> {
    /// The next hop to a backend; requests its resolution if it is unresolved.
    #[inline(always)]
    pub(crate) fn to_backend(self, backend: BackendId) -> Result<EgressHop, DropReason> {
        let hop = self.hops.get_or_want(backend)?;
        Ok(through_port(hop))
    }

    /// The next hop of a reply to the session's client.
    #[inline(always)]
    pub(crate) fn to_client(
        self,
        snapshot: &Snapshot,
        stored: &Stored,
    ) -> Result<EgressHop, DropReason> {
        match self.routes {
            None => Ok(last_hop(stored)),
            Some(routes) => self.by_route(routes, snapshot, *stored),
        }
    }

    /// Follows the kernel's routes. If the route's gateway does not answer, or the route leaves through no
    /// attached port, the reply goes to the last hop: a packet of this client has just come from there.
    /// If the kernel has no route or rejects, the packet is dropped, as the operator configured.
    #[inline(never)]
    fn by_route(
        self,
        routes: &Routes,
        snapshot: &Snapshot,
        stored: Stored,
    ) -> Result<EgressHop, DropReason> {
        let session = stored.session();
        match routes.find(&session) {
            RouteLookup::Hop(hop) => return Ok(through_port(hop)),
            // The client is a neighbour: its MAC is known if its packets come through that port.
            RouteLookup::OnLink(port) => {
                let egress = snapshot.port(port).ok_or(DropReason::PortMissing)?;
                if session.hop.port == egress.wire && session.tags.is_same_vlan(&egress.tags) {
                    return Ok(last_hop(&stored));
                }
            }
            RouteLookup::NoRoute => return Err(DropReason::NoRoute),
            RouteLookup::Unusable => {}
        }
        self.counters.last_hop_fallbacks.add(1);
        Ok(last_hop(&stored))
    }
}

#[inline(always)]
const fn through_port(hop: NextHop) -> EgressHop {
    EgressHop {
        hop,
        is_last_hop: false,
    }
}

#[inline(always)]
fn last_hop(stored: &Stored) -> EgressHop {
    EgressHop {
        hop: stored.hop(),
        is_last_hop: true,
    }
}
