//! Where a session's packet leaves: by which port, to whom, under which VLAN tags.
//!
//! Invariant: the way to a backend is the kernel's, by its next hop's word. The way back to a client is
//! where its last packet came from, or by the kernel's routes, as the operator chose; nothing that a
//! stranger sends chooses between the two.

use waxwing_packet::{Mac, VlanTags};

use crate::counters::WorkerCounters;
use crate::routes::{Found, Routes};
use crate::session::Session;
use crate::snapshot::{NextHops, Port};
use crate::{BackendId, DropReason, NextHop, Snapshot};

/// A way to leave by.
#[derive(Clone, Copy)]
pub(crate) struct Way<'a> {
    /// The port, or the VLAN on it.
    pub(crate) egress: &'a Port,
    /// To whom.
    pub(crate) mac: Mac,
    /// Under these tags.
    pub(crate) tags: VlanTags,
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
    #[inline]
    pub(crate) fn to_backend<'s>(
        self,
        snapshot: &'s Snapshot,
        backend: BackendId,
    ) -> Result<Way<'s>, DropReason> {
        by_hop(snapshot, self.next_hops.get_or_want(backend)?)
    }

    /// The way back to a session's client.
    #[inline]
    pub(crate) fn to_client<'s>(
        self,
        snapshot: &'s Snapshot,
        session: &Session,
    ) -> Result<Way<'s>, DropReason> {
        match self.routes {
            None => last_hop(snapshot, session),
            Some(routes) => self.by_route(routes, snapshot, session),
        }
    }

    /// By the kernel's routes. A route that leads to a gateway which does not answer, or out of an
    /// interface that is no port, is known and cannot be gone: then the last hop, from which a packet
    /// of this client came just now, is better than no way at all. Where the kernel would refuse, it
    /// is the operator who says so.
    fn by_route<'s>(
        self,
        routes: &Routes,
        snapshot: &'s Snapshot,
        session: &Session,
    ) -> Result<Way<'s>, DropReason> {
        match routes.find(session) {
            Found::Hop(hop) => return by_hop(snapshot, hop),
            // The client's MAC is where its packets come from, if they come from there.
            Found::OnLink(port) => {
                let egress = snapshot.port(port).ok_or(DropReason::PortMissing)?;
                if session.hop.port == egress.wire && session.tags.is_same_vlan(&egress.tags) {
                    return last_hop(snapshot, session);
                }
            }
            Found::NoRoute => return Err(DropReason::NoRoute),
            Found::Unusable => {}
        }
        self.counters.by_last_hop.add(1);
        last_hop(snapshot, session)
    }
}

#[inline]
fn by_hop(snapshot: &Snapshot, hop: NextHop) -> Result<Way<'_>, DropReason> {
    let egress = snapshot.port(hop.port).ok_or(DropReason::PortMissing)?;
    Ok(Way {
        egress,
        mac: hop.mac,
        tags: egress.tags,
    })
}

#[inline]
fn last_hop<'s>(snapshot: &'s Snapshot, session: &Session) -> Result<Way<'s>, DropReason> {
    let egress = snapshot
        .port(session.hop.port)
        .ok_or(DropReason::PortMissing)?;
    Ok(Way {
        egress,
        mac: session.hop.mac,
        tags: session.tags,
    })
}
