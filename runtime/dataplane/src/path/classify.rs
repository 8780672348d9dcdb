//! Pass 1 for frames that are no plain packets: what each is. ARP, neighbour solicitations, ping and ICMP
//! errors are handled here.

use waxwing_packet::{
    IpPacket, Packet, ParseError, Transport, checksum, icmp, parse_head, parse_plain,
};

use super::flow::tuple_of;
use super::{Arrived, Batch, PacketSet, Slot, Verdict, WorkerContext, icmp_errors, vip_responder};
use crate::fragments::FragmentPass;
use crate::{DropReason, FrameBuf, Now, Snapshot};

/// Classifies the frames that [`super::fast_path::classify`] excepts; hashes TCP and UDP packets, and
/// prefetches their index buckets.
#[inline(never)]
pub(crate) fn classify_exceptions<F: FrameBuf>(
    context: &mut WorkerContext,
    fragments: &mut FragmentPass,
    (batch, exceptions): (&mut Batch, PacketSet),
    snapshot: &Snapshot,
    frames: &mut [F],
    now: Now,
) {
    for at in exceptions.iter() {
        let frame = &mut frames[at];
        // SYN, FIN and RST are no plain packets of the fast path, but are parsed as plain ones.
        let into = &mut batch.packets[at];
        *into = if frame.rest_len() == 0 {
            parse_plain(frame.bytes())
        } else {
            None
        };
        let tuple = into.as_ref().and_then(tuple_of);
        batch.verdicts[at] = if let Some(tuple) = tuple {
            Verdict::Lookup(context.shared.sessions.hash(&tuple))
        } else {
            let (packet, verdict) = classify_other(context, fragments, at, snapshot, frame, now);
            *into = packet;
            verdict
        };
        if let Verdict::Lookup(hash) = batch.verdicts[at] {
            batch.slots[at] = Slot::of(context.shared.sessions.reader().place(hash));
        }
    }
}

/// A frame that is not a plain, whole TCP or UDP packet. `at` is its index in the batch.
#[cold]
#[inline(never)]
fn classify_other<F: FrameBuf>(
    context: &mut WorkerContext,
    fragments: &mut FragmentPass,
    at: usize,
    snapshot: &Snapshot,
    frame: &mut F,
    now: Now,
) -> (Option<IpPacket>, Verdict) {
    let verdict = match parse_head(frame.bytes(), frame.rest_len()) {
        Ok(Packet::Ip(packet)) => {
            let verdict = match (tuple_of(&packet), packet.fragment) {
                (Some(tuple), None) => Verdict::Lookup(context.shared.sessions.hash(&tuple)),
                (_, Some(fragment)) => {
                    fragments.classify(context, at, snapshot, (&packet, fragment), now)
                }
                (None, None) => {
                    let packet = &packet;
                    classify_other_protocol(context, snapshot, Arrived { frame, packet }, now)
                }
            };
            return (Some(packet), verdict);
        }
        Ok(Packet::Arp(ethernet)) => {
            vip_responder::respond_to_arp(snapshot, frame, &ethernet).into()
        }
        Ok(Packet::Other(_)) => Verdict::PassToKernel,
        Err(ParseError::TinyFragment) => Verdict::Drop(DropReason::TinyFragment),
        Err(_) => Verdict::Drop(DropReason::Malformed),
    };
    (None, verdict)
}

/// An IP packet that is neither TCP nor UDP.
fn classify_other_protocol<F: FrameBuf>(
    context: &mut WorkerContext,
    snapshot: &Snapshot,
    mut arrived: Arrived<'_, F>,
    now: Now,
) -> Verdict {
    let packet = arrived.packet;
    if icmp::is_error(packet) || icmp::is_redirect(packet) {
        return icmp_errors::classify(context, snapshot, arrived, now);
    }
    if let Transport::Icmp { .. } = packet.transport {
        if vip_responder::is_ping(snapshot, packet) {
            return answer_ping(context, snapshot, &arrived, now);
        }
        match vip_responder::respond_to_solicitation(snapshot, arrived.reborrow()) {
            vip_responder::Response::NotForUs => {}
            response => return response.into(),
        }
    }
    if snapshot.is_vip(packet.destination) {
        Verdict::Drop(DropReason::Unsupported)
    } else {
        Verdict::PassToKernel
    }
}

/// The verdict on an echo request to a VIP. One with a wrong checksum is not answered.
fn answer_ping<F: FrameBuf>(
    context: &mut WorkerContext,
    snapshot: &Snapshot,
    arrived: &Arrived<'_, F>,
    now: Now,
) -> Verdict {
    let verdict = context.reject.echo(snapshot, arrived.packet, now);
    let whole = context.linearizer.whole(arrived.frame);
    if matches!(verdict, Verdict::Echo) && !checksum::are_correct(whole, arrived.packet) {
        return Verdict::Drop(DropReason::Malformed);
    }
    verdict
}
