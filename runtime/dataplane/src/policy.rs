//! The interface to policies, which choose backends.

use std::any::Any;

use waxwing_packet::{Address, Protocol};

use crate::{BackendId, Gauges, Now, ServiceId, Snapshot};

/// The largest payload prefix a policy may request, in bytes.
pub const PAYLOAD_MAX: usize = 128;

/// A new flow, before it has a backend.
#[derive(Clone, Copy, Debug)]
pub struct NewFlow {
    pub source: Address,
    pub source_port: u16,
    pub destination: Address,
    pub destination_port: u16,
    pub protocol: Protocol,
    /// A hash of the 5-tuple, keyed by the cluster key: equal on all balancers of a cluster.
    pub hash: u64,
    /// Whether this is a TCP packet that opens no connection (no SYN). The connection may be older than this
    /// balancer; a consistent policy finds its backend again.
    pub mid_stream: bool,
    /// How many bytes of [`NewFlow::payload`] are set.
    pub payload_len: u8,
    /// The start of the transport payload, as much as the policy requested.
    pub payload: [u8; PAYLOAD_MAX],
}

/// A policy's choice for one new flow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pick {
    /// This backend: an index into [`crate::Service::backends`], not a [`BackendId`].
    Backend(u32),
    /// This backend even if it drains: the flow belongs to a connection that it already serves.
    Keep(u32),
    /// The packet is dropped; no session is opened.
    Drop,
    /// The native fallback (weighted rendezvous hashing) chooses.
    Fallback,
}

/// Why a policy returned no picks for a batch. The core uses the native fallback and counts that; the
/// policy's host logs the details, and repairs or replaces the policy outside the hot path.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PolicyFault {
    Trap,
    /// The module exceeded its time budget.
    Overrun,
    /// The module returned an invalid answer.
    BadAnswer,
    /// The instance has not been rebuilt yet after a fault.
    Disabled,
}

/// What a policy may read besides the flows.
#[derive(Clone, Copy)]
pub struct PickContext<'a> {
    /// The batch's time.
    pub now: Now,
    /// The service's backends, in the order that picks index.
    pub backends: &'a [BackendId],
    /// Live numbers by backend.
    pub gauges: &'a Gauges,
}

/// A closed session.
#[derive(Clone, Copy, Debug)]
pub struct Closed {
    /// An index into the service's backend list, as in [`Pick::Backend`].
    pub backend: u32,
    /// Its duration in milliseconds, with the precision of a tick.
    pub duration_ms: u64,
    /// The bytes of its frames in both directions, counted while its service's policy wanted closed sessions.
    pub bytes: u64,
    pub end: End,
}

/// How a session ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum End {
    /// Both ends sent a FIN.
    Closed,
    /// One end sent an RST, or its backend was down.
    Reset,
    /// It timed out.
    Idle,
    /// The backend never answered.
    Unanswered,
    /// The backend answered the SYN with an RST.
    Refused,
    /// It was evicted for another session.
    Evicted,
}

/// What a policy may read between two batches.
#[derive(Clone, Copy)]
pub struct TickContext<'a> {
    pub now: Now,
    pub snapshot: &'a Snapshot,
    /// Live numbers by backend.
    pub gauges: &'a Gauges,
}

/// The absence of a policy: the native fallback makes every choice.
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

/// Chooses backends for new flows. One value per worker and module, owned by the worker's thread and bound to
/// the snapshot of its epoch.
pub trait Policy: Send {
    /// The payload prefix it wants of each new flow, in bytes, at most [`PAYLOAD_MAX`].
    fn payload_len(&self) -> usize;

    /// Fills `picks[i]` for each `flows[i]`. All flows are of one service; both slices have the same length,
    /// at most [`crate::BATCH`].
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

    /// Whether to call [`Policy::closed`], and to count sessions' bytes for it. Asked once per epoch.
    fn wants_closed(&self) -> bool {
        false
    }

    /// Reports sessions of `service` that closed since the last call, at most [`crate::BATCH`].
    fn closed(&mut self, service: ServiceId, events: &[Closed]) {
        let _ = (service, events);
    }

    /// Takes over the state of a policy of the previous epoch that this one replaces. `context` is that of
    /// the new epoch. Called between two batches; must take bounded time.
    fn inherit(&mut self, old: &mut dyn Policy, context: TickContext<'_>) {
        let _ = (old, context);
    }

    /// For a policy of the same type to [`Policy::inherit`] from.
    fn as_any(&mut self) -> Option<&mut dyn Any> {
        None
    }

    /// Runs a bounded piece of the policy's own upkeep. Called between batches, and at least every 20 ms.
    fn tick(&mut self, context: TickContext<'_>) {
        let _ = context;
    }
}
