//! A TCP or UDP packet of no session: of a new flow, to a VIP's unserved port, or not ours.

use super::flow::{is_martian, tuple_of};
use super::{Arrived, Verdict, WorkerContext, direct};
use crate::session::FlowHash;
use crate::{DropReason, FrameBuf, Now, Snapshot};

/// The verdict on a packet of no session: a new flow if it is sent to a service.
pub(crate) fn verdict<F: FrameBuf>(
    context: &mut WorkerContext,
    snapshot: &Snapshot,
    arrived: Arrived<'_, F>,
    hash: FlowHash,
    now: Now,
) -> Verdict {
    let packet = arrived.packet;
    let Some(tuple) = tuple_of(packet) else {
        return Verdict::PassToKernel;
    };
    match snapshot.service_at(tuple.destination, tuple.destination_port, tuple.protocol) {
        // A reply to a VIP would come back here.
        Some(_) if is_martian(packet.source) || snapshot.is_vip(packet.source) => {
            Verdict::Drop(DropReason::Martian)
        }
        Some(service) => Verdict::NewFlow(hash, service.id),
        None if snapshot.is_vip(packet.destination) => Verdict::Drop(DropReason::NoService),
        // It bypasses the services.
        None => direct::pass(context, snapshot, arrived, now),
    }
}
