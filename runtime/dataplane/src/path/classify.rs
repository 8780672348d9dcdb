//! Pass 1: what each frame is. ARP, neighbour solicitations, ping and ICMP errors are handled here.

use waxwing_packet::{IpPacket, Packet, ParseError, Transport, icmp, parse_head, parse_plain};

use super::flow::tuple_of;
use super::{Arrived, Batch, Verdict, WorkerContext, icmp_errors, vip_responder};
use crate::fragments::FragmentPass;
use crate::{DropReason, FrameBuf, Now, Snapshot};

/// Parses and hashes every packet, and prefetches its index bucket.
#[inline(never)]
pub(crate) fn classify<F: FrameBuf>(
    context: &mut WorkerContext,
    fragments: &mut FragmentPass,
    batch: &mut Batch,
    snapshot: &Snapshot,
    frames: &mut [F],
    now: Now,
) {
    let mut bytes = 0;
    for frame in &mut *frames {
        bytes += frame.frame_len() as u64;
        if frame.rest_len() == 0
            && let Some(packet) = parse_plain(frame.bytes())
            && let Some(tuple) = tuple_of(&packet)
        {
            let hash = context.shared.sessions.hash(&tuple);
            context.shared.sessions.prefetch(hash);
            batch.push(Some(packet), Verdict::Lookup(hash, None));
        } else {
            let at = batch.verdicts.len();
            let (packet, verdict) = classify_other(context, fragments, at, snapshot, frame, now);
            batch.push(packet, verdict);
        }
    }
    context.counters.received.packets.add(frames.len() as u64);
    context.counters.received.bytes.add(bytes);
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
                (Some(tuple), None) => {
                    let hash = context.shared.sessions.hash(&tuple);
                    context.shared.sessions.prefetch(hash);
                    Verdict::Lookup(hash, None)
                }
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
    if icmp::is_error(packet) {
        return icmp_errors::classify(context, snapshot, arrived, now);
    }
    if let Transport::Icmp { .. } = packet.transport {
        if vip_responder::is_ping(snapshot, packet) {
            return context.reject.echo(now);
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
