//! Where a session's packet goes next: to whom, behind which port, under which VLAN tags.
//!
//! Invariant: the way to a backend is the kernel's, by its next hop's word. The way back to a client is
//! where its last packet came from, or by the kernel's routes, as the operator chose; nothing that a
//! stranger sends chooses between the two.

use waxwing_packet::VlanTags;

use crate::counters::WorkerCounters;
use crate::routes::{Found, Routes};
use crate::session::Session;
use crate::snapshot::NextHops;
use crate::{BackendId, DropReason, NextHop, Snapshot};

/// A next hop, and the tags that frames to it have.
pub(crate) type Way<'a> = (NextHop, &'a VlanTags);

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
    #[inline]
    pub(crate) fn to_backend<'s>(
        self,
        snapshot: &'s Snapshot,
        backend: BackendId,
    ) -> Result<Way<'s>, DropReason> {
        let hop = self.next_hops.get_or_want(backend)?;
        Ok((hop, tags_of(snapshot, hop)))
    }

    /// The way back to a session's client.
    #[inline]
    pub(crate) fn to_client<'s>(
        self,
        snapshot: &'s Snapshot,
        session: &'s Session,
    ) -> Result<Way<'s>, DropReason> {
        match self.routes {
            None => Ok((session.hop, &session.tags)),
            Some(routes) => self.by_route(routes, snapshot, session),
        }
    }

    /// By the kernel's routes. A route that leads to a gateway which does not answer, or out of an
    /// interface that is no port, is known and cannot be gone: then the last hop, from which a packet
    /// of this client came just now, is better than no way at all. Where the kernel would refuse, it
    /// is the operator who says so.
    #[inline(never)]
    fn by_route<'s>(
        self,
        routes: &Routes,
        snapshot: &'s Snapshot,
        session: &'s Session,
    ) -> Result<Way<'s>, DropReason> {
        let last_hop = (session.hop, &session.tags);
        match routes.find(session) {
            Found::Hop(hop) => return Ok((hop, tags_of(snapshot, hop))),
            // The client's MAC is where its packets come from, if they come from there.
            Found::OnLink(port) => {
                let egress = snapshot.port(port).ok_or(DropReason::PortMissing)?;
                if session.hop.port == egress.wire && session.tags.is_same_vlan(&egress.tags) {
                    return Ok(last_hop);
                }
            }
            Found::NoRoute => return Err(DropReason::NoRoute),
            Found::Unusable => {}
        }
        self.counters.by_last_hop.add(1);
        Ok(last_hop)
    }
}

/// The tags of the VLAN that a next hop is behind, if it is behind one.
#[inline]
fn tags_of(snapshot: &Snapshot, hop: NextHop) -> &VlanTags {
    let port = snapshot.port(hop.port);
    port.map_or(const { &VlanTags::NONE }, |port| &port.tags)
}
