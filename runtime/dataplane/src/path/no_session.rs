//! A TCP or UDP packet of no session: of a new flow, to a VIP's unserved port, a reply that opens a session,
//! or not ours.

use super::flow::{is_martian, tuple_of};
use super::{Arrived, Verdict, WorkerContext, adopt, direct};
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
        None if !snapshot.is_vip(packet.destination) => {
            match adopt::session(context, snapshot, &arrived, &tuple, hash, now) {
                Some(verdict) => verdict,
                // It bypasses the services.
                None => direct::pass(context, snapshot, arrived, now),
            }
        }
        // A reply to a VIP would come back here.
        _ if is_martian(snapshot, packet) => Verdict::Drop(DropReason::Martian),
        Some(service) => Verdict::NewFlow(hash, service.id),
        None if snapshot.rejects_unserved() => reject_unserved(context, &arrived, now),
        None => Verdict::Drop(DropReason::NoService),
    }
}

/// Answers a packet to a VIP's unserved port as a host does (RFC 9293 section 3.10.7.1, RFC 1122 section
/// 4.1.3.1, RFC 4443 section 3.1): with an RST or port unreachable.
#[cold]
fn reject_unserved<F: FrameBuf>(
    context: &mut WorkerContext,
    arrived: &Arrived<'_, F>,
    now: Now,
) -> Verdict {
    let WorkerContext {
        reject,
        linearizer,
        counters,
        ..
    } = context;
    let verdict = reject.check(linearizer, arrived, DropReason::NoService, now);
    if let Verdict::Reject(_) = verdict {
        counters.unserved_rejected.add(1);
    }
    verdict
}
