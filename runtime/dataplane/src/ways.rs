//! Where a session's packet goes next: to whom, behind which port, under which VLAN tags.
//!
//! Invariant: the way to a backend is the kernel's, by its next hop's word. The way back to a client is
//! where its last packet came from, or by the kernel's routes, as the operator chose; nothing that a
//! stranger sends chooses between the two.

use waxwing_packet::VlanTags;

use crate::counters::WorkerCounters;
use crate::routes::{Found, Routes};
use crate::session::Stored;
use crate::snapshot::{NextHops, Port};
use crate::{BackendId, DropReason, NextHop, Snapshot};

/// A next hop, and whose VLAN tags frames to it have.
#[derive(Clone, Copy)]
pub(crate) struct Way {
    pub(crate) hop: NextHop,
    /// Whether the session's client came from there, with tags of its own; else it is the next hop's
    /// port that says of which VLAN it is.
    pub(crate) is_last_hop: bool,
}

impl Way {
    /// The VLAN tags of a frame that goes this way by this port.
    #[inline(always)]
    pub(crate) fn tags(&self, stored: &Stored, egress: &Port) -> VlanTags {
        if self.is_last_hop {
            stored.tags()
        } else {
            egress.tags
        }
    }

    /// Whether it has none.
    #[inline(always)]
    pub(crate) fn is_untagged(&self, stored: &Stored, egress: &Port) -> bool {
        if self.is_last_hop {
            stored.is_untagged()
        } else {
            egress.tags.is_empty()
        }
    }
}

/// What ways are found by.
#[derive(Clone, Copy)]
pub(crate) struct Ways<'a> {
    pub(crate) next_hops: &'a NextHops,
    /// The kernel's routes, where replies go by them.
    pub(crate) routes: Option<&'a Routes>,
    pub(crate) counters: &'a WorkerCounters,
}

impl Ways<'_> {
    /// The way to a backend; one that is unknown is asked for.
    #[inline(always)]
    pub(crate) fn to_backend(self, backend: BackendId) -> Result<Way, DropReason> {
        let hop = self.next_hops.get_or_want(backend)?;
        Ok(by_port(hop))
    }

    /// The way back to a session's client.
    #[inline(always)]
    pub(crate) fn to_client(self, snapshot: &Snapshot, stored: &Stored) -> Result<Way, DropReason> {
        match self.routes {
            None => Ok(last_hop(stored)),
            Some(routes) => self.by_route(routes, snapshot, *stored),
        }
    }

    /// By the kernel's routes. A route that leads to a gateway which does not answer, or out of an
    /// interface that is no port, is known and cannot be gone: then the last hop, from which a packet
    /// of this client came just now, is better than no way at all. Where the kernel would refuse, it
    /// is the operator who says so.
    #[inline(never)]
    fn by_route(
        self,
        routes: &Routes,
        snapshot: &Snapshot,
        stored: Stored,
    ) -> Result<Way, DropReason> {
        let session = stored.session();
        match routes.find(&session) {
            Found::Hop(hop) => return Ok(by_port(hop)),
            // The client's MAC is where its packets come from, if they come from there.
            Found::OnLink(port) => {
                let egress = snapshot.port(port).ok_or(DropReason::PortMissing)?;
                if session.hop.port == egress.wire && session.tags.is_same_vlan(&egress.tags) {
                    return Ok(last_hop(&stored));
                }
            }
            Found::NoRoute => return Err(DropReason::NoRoute),
            Found::Unusable => {}
        }
        self.counters.by_last_hop.add(1);
        Ok(last_hop(&stored))
    }
}

#[inline(always)]
const fn by_port(hop: NextHop) -> Way {
    Way {
        hop,
        is_last_hop: false,
    }
}

#[inline(always)]
fn last_hop(stored: &Stored) -> Way {
    Way {
        hop: stored.hop(),
        is_last_hop: true,
    }
}
