//! A session's packet that does not simply leave: its session ended, it opened the session, it cannot be
//! forwarded, or it is a fragment.

use waxwing_packet::{Address, IpPacket};

use super::flow::FoundSession;
use super::verdict::Stop;
use super::{Arrived, Verdict, WorkerContext, general_path, session_check};
use crate::model::Backend;
use crate::session::{Direction, Session, SessionRef};
use crate::{DropReason, FrameBuf, Now, Snapshot};

/// [`general_path::forward`], with the verdict on a packet that stops.
#[inline(never)]
pub(crate) fn forward<F: FrameBuf>(
    context: &mut WorkerContext,
    snapshot: &Snapshot,
    mut arrived: Arrived<'_, F>,
    found: &FoundSession<'_>,
    now: Now,
) -> Verdict {
    match general_path::forward(context, snapshot, arrived.reborrow(), found, now) {
        Ok(port) => Verdict::Forward(port),
        Err(stop) => resolve(context, stop, snapshot, arrived, *found, now),
    }
}

/// Forwards a packet of a session that was opened in this batch, or is known from a first fragment. Other
/// packets of the batch may have changed or even ended the session since its lookup.
#[inline(never)]
pub(crate) fn forward_opened<F: FrameBuf>(
    context: &mut WorkerContext,
    snapshot: &Snapshot,
    mut arrived: Arrived<'_, F>,
    (at, session, direction): (SessionRef, &Session, Direction),
    now: Now,
) -> Verdict {
    let Some(backend) = snapshot.backend(session.backend) else {
        return Verdict::Drop(DropReason::NoBackend);
    };
    let stored = context.shared.sessions.stored(at);
    let found = FoundSession {
        at,
        stored: stored.unwrap_or_else(|| session.into()),
        direction,
        backend,
    };
    if let Err(reason) = general_path::check_ingress(context, snapshot, &arrived, &found) {
        return resolve(context, Stop::Drop(reason), snapshot, arrived, found, now);
    }
    match general_path::forward_checked(context, snapshot, arrived.reborrow(), &found, now) {
        Ok(port) => Verdict::Forward(port),
        Err(stop) => resolve(context, stop, snapshot, arrived, found, now),
    }
}

/// The verdict on a session's packet that stopped.
#[cold]
#[inline(never)]
pub(crate) fn resolve<F: FrameBuf>(
    context: &mut WorkerContext,
    stop: Stop,
    snapshot: &Snapshot,
    arrived: Arrived<'_, F>,
    found: FoundSession<'_>,
    now: Now,
) -> Verdict {
    let service = found.backend.service;
    let verdict = match stop {
        Stop::Ending(ending) => {
            let session = (found.at, found.stored.session(), found.direction);
            session_check::end(context, ending, snapshot, arrived, session, now)
        }
        Stop::FirstFragment => Verdict::Session(found.at, found.stored.session(), found.direction),
        Stop::ToKernel => Verdict::PassToKernel,
        Stop::Fragment(port, mtu) => Verdict::ForwardFragmented(port, mtu),
        Stop::Drop(reason) => Verdict::Drop(reason),
        Stop::Undeliverable(why) => {
            let from = error_source(snapshot, found.backend, arrived.packet);
            let WorkerContext {
                reject,
                linearizer,
                counters,
                ..
            } = context;
            reject
                .send_icmp_error(why, from, counters, linearizer, arrived, now)
                .map_or_else(Verdict::Drop, Verdict::Forward)
        }
    };
    if let Verdict::Drop(reason) = verdict {
        context.counters.count_drop_of(service, reason);
    }
    verdict
}

/// The source address of an ICMP error about a session's packet: the packet's destination if that is ours,
/// otherwise the VIP (the packet went to the client).
fn error_source(snapshot: &Snapshot, backend: &Backend, packet: &IpPacket) -> Address {
    if snapshot.is_vip(packet.destination) {
        packet.destination
    } else {
        backend.vip
    }
}
