//! What a translation may change in a frame: addresses, ports, hop limit, link header; and its
//! checksums by just that.
//!
//! Invariant: `reverse(forward(frame))` is the frame. A frame that came with a wrong checksum leaves
//! with one that is wrong by the same amount, so that its receiver finds it.

use waxwing_dataplane::PortId;
use waxwing_dataplane::session::Tuple;
use waxwing_packet::{Address, TcpFlags};

use crate::config::{PORT_MACS, source_address};
use crate::oracle::is_link_to;
use crate::view::{TCP, View, macs, tags, view};
use crate::wire::{Fate, Handled};

type Check = Result<(), String>;
/// A frame that was sent, and the port it left by.
type Out<'a> = (PortId, &'a Vec<u8>);

/// From a client to a backend.
pub(crate) fn of_request(frame: &Handled, came: &View, out: Out<'_>, went: &View) -> Check {
    if went.source != source_address(came.source).unwrap_or(came.source) {
        return Err("a client's frame has another source address than it should".into());
    }
    if !is_link_to(went.destination, (out.0, out.1)) {
        return Err("a frame went to another machine than its backend".into());
    }
    is_reversible(frame, came, out, went)
}

/// From a backend to a client: it comes from the VIP.
pub(crate) fn of_reply(
    frame: &Handled,
    came: &View,
    out: Out<'_>,
    (tuple, went): (&Tuple, &View),
) -> Check {
    let source = (went.source, went.source_port);
    if source != (tuple.destination, tuple.destination_port) {
        return Err("an answer does not come from the VIP".into());
    }
    if (went.destination, went.destination_port) != (tuple.source, tuple.source_port) {
        return Err("an answer does not go to the client".into());
    }
    let (_, mac) = macs(out.1);
    if mac != PORT_MACS[out.0.index()] {
        return Err("an answer has another MAC than its port's".into());
    }
    is_reversible(frame, came, out, went)
}

/// Puts the old addresses, ports and hop limit back, and compares all but the checksums; of these,
/// the error that they show.
fn is_reversible(frame: &Handled, came: &View, (_, out): Out<'_>, went: &View) -> Check {
    if came.errors(&frame.bytes) != went.errors(out)
        || came.has_no_checksum(&frame.bytes) != went.has_no_checksum(out)
    {
        return Err("a checksum changed by something else than the translation".into());
    }
    if went.hop_limit.checked_add(1) != Some(came.hop_limit) {
        return Err("the hop limit is not one less".into());
    }
    let mut back = out[went.network..].to_vec();
    let mut original = frame.bytes[came.network..].to_vec();
    let (addresses, hop) = if came.v6 { (8..40, 7) } else { (12..20, 8) };
    let segment = came.segment - came.network;
    let checksum = came.checksum_at() - came.network;
    if back.len() != original.len() {
        return Err("a frame changed its length".into());
    }
    back[addresses.clone()].copy_from_slice(&original[addresses]);
    back[hop] += 1;
    back[segment..segment + 4].copy_from_slice(&original[segment..segment + 4]);
    for bytes in [&mut back, &mut original] {
        bytes[checksum..checksum + 2].fill(0);
        if !came.v6 {
            bytes[10..12].fill(0);
        }
    }
    if back != original {
        return Err("the reverse of a translation is not the frame".into());
    }
    Ok(())
}

/// An answer of the balancer's own, in place of a backend's: it says so to its sender alone.
pub(crate) fn of_refusal(
    frame: &Handled,
    came: &View,
    out: Out<'_>,
    (from_vip, went): (Address, &View),
) -> Check {
    let (port, bytes) = out;
    let (to, from) = macs(&frame.bytes);
    if port != frame.port || macs(bytes) != (from, to) {
        return Err("a refusal does not go back where its frame came from".into());
    }
    if tags(bytes, went.network)[..] != tags(&frame.bytes, came.network)[..] {
        return Err("a refusal has other VLAN tags".into());
    }
    if went.source != from_vip || !went.is_right(bytes) {
        return Err("a refusal that its receiver will not believe".into());
    }
    if !came.is_right(&frame.bytes) {
        return Err("a damaged frame was answered".into());
    }
    if went.protocol == TCP && went.flags & TcpFlags::RST == 0 {
        return Err("a segment was answered with another than RST".into());
    }
    if went.protocol == came.protocol && came.flags & TcpFlags::RST != 0 {
        return Err("an RST was answered".into());
    }
    Ok(())
}

/// What becomes of an ICMP message has right checksums, if it had them when it came.
pub(crate) fn of_icmp(frame: &Handled, came: &View) -> Check {
    let Some(Fate::Sent(_, out)) = frame.fates.first() else {
        return Ok(());
    };
    let went = view(out).ok_or("what was sent is no whole packet")?;
    if came.is_right(&frame.bytes) && !went.is_right(out) {
        return Err("an ICMP message got a wrong checksum".into());
    }
    Ok(())
}
