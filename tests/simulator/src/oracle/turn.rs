//! The turn that is checked, and what its snapshot says about sessions.

use waxwing_dataplane::session::{Session, SessionRef, Tuple};
use waxwing_dataplane::{Backend, Now, Snapshot};
use waxwing_packet::Address;

use crate::balancer::Balancer;
use crate::view::View;

/// A turn of a worker.
pub(crate) struct Turn<'a> {
    pub(crate) balancer: &'a Balancer,
    pub(crate) worker: usize,
    pub(crate) now: Now,
    /// Whether the transmit rings were limited.
    pub(crate) limited: bool,
    /// Whether the kernel took no frames.
    pub(crate) kernel_full: bool,
}

impl Turn<'_> {
    pub(crate) fn snapshot(&self) -> &Snapshot {
        &self.balancer.current[self.worker]
    }

    /// The core's current session of a client's flow.
    pub(crate) fn session(&self, tuple: &Tuple) -> Option<(SessionRef, Session)> {
        let sessions = &self.balancer.shared.sessions;
        sessions.find(sessions.hash(tuple), |session| {
            let vip = self.snapshot().backend(session.backend).map(|b| b.vip);
            tuple_of_session(session, vip) == Some(*tuple)
        })
    }
}

/// The client's tuple of a session.
pub(super) fn tuple_of_session(session: &Session, vip: Option<Address>) -> Option<Tuple> {
    Some(Tuple {
        source: session.client,
        destination: vip?,
        source_port: session.client_port,
        destination_port: session.service_port,
        protocol: session.protocol,
    })
}

/// The number of sessions that all workers evicted.
pub(crate) fn evictions(balancer: &Balancer) -> u64 {
    balancer.counters.iter().map(|c| c.evicted.get()).sum()
}

/// The backend of the service that a request was sent to.
pub(super) fn backend_of<'a>(
    snapshot: &'a Snapshot,
    tuple: &Tuple,
    sent: &View,
) -> Option<&'a Backend> {
    snapshot.backends().find(|b| {
        let port = tuple.destination_port;
        (b.vip, b.protocol) == (tuple.destination, tuple.protocol)
            && b.vip_ports.contains(port)
            && (b.address, b.port_for(port)) == (sent.destination, sent.destination_port)
    })
}

/// The client's address and port as seen by the session's backend.
pub(super) fn source_of(snapshot: &Snapshot, session: &Session) -> (Address, u16) {
    let address = snapshot.seen_by_backend(session);
    (address.unwrap_or(session.client), session.source_port)
}

/// The tuple of a backend's replies to a client's flow.
pub(super) fn reply_of(backend: &Backend, tuple: &Tuple, source: (Address, u16)) -> Tuple {
    Tuple {
        source: backend.address,
        destination: source.0,
        source_port: backend.port_for(tuple.destination_port),
        destination_port: source.1,
        protocol: tuple.protocol,
    }
}
