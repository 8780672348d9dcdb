//! A session's address translation, as values to apply to a packet.

use waxwing_packet::{Changes, Rewrite, Translation};

use crate::Snapshot;
use crate::model::Backend;
use crate::session::{Direction, Stored};

/// The translation that the backend holds ready: for sessions that keep the client's address and port, of
/// services with one port. `None` for others.
#[inline(always)]
pub(crate) fn destination_nat<'a>(
    stored: &Stored,
    backend: &'a Backend,
    direction: Direction,
) -> Option<Changes<'a>> {
    let is_ready = stored.is_client_kept() && backend.port != Backend::PORT_KEPT;
    is_ready.then(|| match direction {
        Direction::Forward => Changes {
            destination: Some(&backend.to_backend),
            ..Changes::default()
        },
        Direction::Reply => Changes {
            source: Some(&backend.to_client),
            ..Changes::default()
        },
    })
}

/// Any session's translation, computed from its addresses and ports.
#[inline(never)]
pub(crate) fn full_nat(
    stored: Stored,
    backend: &Backend,
    snapshot: &Snapshot,
    direction: Direction,
) -> Rewrite {
    let session = stored.session();
    let port = session.service_port;
    let client = (session.client, session.client_port);
    // The snapshot has the address: the lookup has just matched it.
    let address = snapshot.seen_by_backend(&session).unwrap_or(session.client);
    let seen_by_backend = (address, session.source_port);
    let vip = (backend.vip, port);
    let server = (backend.address, backend.port_for(port));
    let change = |from, to| (from != to).then(|| Translation::new(from, to));
    let (source, destination) = match direction {
        Direction::Forward => (change(client, seen_by_backend), change(vip, server)),
        Direction::Reply => (change(server, vip), change(seen_by_backend, client)),
    };
    Rewrite {
        source,
        destination,
        ..Rewrite::default()
    }
}
