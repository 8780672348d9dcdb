//! What the core asks of the thing that chooses backends.

use std::any::Any;

use waxwing_packet::{Address, Protocol};

use crate::{BackendId, Gauges, Now, ServiceId, Snapshot};

/// The most bytes of a flow's first payload that a policy may ask for.
pub const PAYLOAD_MAX: usize = 128;

/// A new flow, before it has a backend.
#[derive(Clone, Copy, Debug)]
pub struct NewFlow {
    /// The client's address.
    pub source: Address,
    /// The client's port.
    pub source_port: u16,
    /// The VIP.
    pub destination: Address,
    /// The service's port.
    pub destination_port: u16,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// A hash of the 5-tuple keyed by the cluster key: the same on every balancer of a cluster.
    pub hash: u64,
    /// A TCP packet that did not open a connection (no SYN): the connection may be older than
    /// this balancer, and a consistent policy will find its backend again.
    pub mid_stream: bool,
    /// How many bytes of [`NewFlow::payload`] are set.
    pub payload_len: u8,
    /// The start of the packet's transport payload, as much as the policy asked for.
    pub payload: [u8; PAYLOAD_MAX],
}

/// What a policy says of one new flow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pick {
    /// The session goes to this backend: an index into the service's backend list
    /// ([`crate::Service::backends`]), not a [`BackendId`].
    Backend(u32),
    /// The session goes to this backend even if it is draining: the flow belongs to a connection
    /// that it has already.
    Keep(u32),
    /// The packet is dropped; no session is made.
    Drop,
    /// The policy has no opinion: the native fallback (weighted rendezvous) chooses.
    Fallback,
}

/// Why a policy gave no picks for a batch. The core answers with the native fallback and counts
/// it; the policy's owner has logged the detail and mends or replaces it off the packet's way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PolicyFault {
    /// The module trapped.
    Trap,
    /// The module ran past its time budget.
    Overrun,
    /// The module answered with something that is not an answer.
    BadAnswer,
    /// The instance is waiting to be rebuilt after a fault.
    Disabled,
}

/// What a policy may look at beside the flows.
#[derive(Clone, Copy)]
pub struct PickContext<'a> {
    /// The batch's time.
    pub now: Now,
    /// The service's backends, in the order that picks index.
    pub backends: &'a [BackendId],
    /// Live numbers by backend.
    pub gauges: &'a Gauges,
}

/// A session that ended.
#[derive(Clone, Copy, Debug)]
pub struct Closed {
    /// Index into the service's backend list, as [`Pick::Backend`].
    pub backend: u32,
    /// How long it lived, in milliseconds, to the precision of a tick.
    pub duration_ms: u64,
    /// Bytes of its frames, both ways, for as long as its service's policies wanted to hear of them.
    pub bytes: u64,
    /// How it ended.
    pub end: End,
}

/// How a session ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum End {
    /// Both ends closed the connection (FIN).
    Closed,
    /// One end reset the connection (RST), or it ended because its backend was down.
    Reset,
    /// Nothing came for as long as the service's timeout.
    Idle,
    /// The backend never answered.
    Unanswered,
    /// The backend answered the connection's SYN with RST.
    Refused,
    /// It made room for another in a full session table.
    Evicted,
}

/// What a policy may look at between two batches.
#[derive(Clone, Copy)]
pub struct TickContext<'a> {
    /// The time.
    pub now: Now,
    /// Services and backends.
    pub snapshot: &'a Snapshot,
    /// Live numbers by backend.
    pub gauges: &'a Gauges,
}

/// Where no module serves: leaves every choice to the native fallback.
#[derive(Clone, Copy, Debug)]
pub struct Vacant;

impl Policy for Vacant {
    fn payload_len(&self) -> usize {
        0
    }

    fn pick(
        &mut self,
        _: ServiceId,
        _: PickContext<'_>,
        _: &[NewFlow],
        _: &mut [Pick],
    ) -> Result<(), PolicyFault> {
        Err(PolicyFault::Disabled)
    }
}

/// Chooses backends for the new flows of the services that it serves. One value per worker and
/// module, owned by the worker's thread; it is bound to the snapshot it was handed over with.
pub trait Policy: Send {
    /// How many bytes of payload it wants of each new flow, at most [`PAYLOAD_MAX`].
    fn payload_len(&self) -> usize;

    /// Fills `picks[i]` for each `flows[i]`, all of one service; both are of one length, at
    /// most [`crate::BATCH`].
    ///
    /// # Errors
    /// A [`PolicyFault`]; `picks` is then unspecified.
    fn pick(
        &mut self,
        service: ServiceId,
        context: PickContext<'_>,
        flows: &[NewFlow],
        picks: &mut [Pick],
    ) -> Result<(), PolicyFault>;

    /// Whether [`Policy::closed`] is to be called, and the bytes of sessions counted for it. Asked
    /// once, when the epoch is taken up.
    fn wants_closed(&self) -> bool {
        false
    }

    /// Sessions of `service` that ended since the last call, at most [`crate::BATCH`].
    fn closed(&mut self, service: ServiceId, events: &[Closed]) {
        let _ = (service, events);
    }

    /// This policy takes the place of one of the last epoch's, between two batches: it may take over
    /// what that one remembers, in a bounded time.
    fn inherit(&mut self, old: &mut dyn Policy) {
        let _ = old;
    }

    /// Itself, for another policy of its kind that is to [`Policy::inherit`] from it.
    fn as_any(&mut self) -> Option<&mut dyn Any> {
        None
    }

    /// Called between batches, and when there are none, at least every 20 ms: a bounded piece of
    /// the policy's own upkeep.
    fn tick(&mut self, context: TickContext<'_>) {
        let _ = context;
    }
}
