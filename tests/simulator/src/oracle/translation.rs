//! Checks translations: a translation may change addresses, ports, hop limit and link header, and the
//! checksums accordingly.
//!
//! Invariant: `reverse(forward(frame))` is the frame. A frame that arrives with a wrong checksum leaves
//! with a checksum that is wrong by the same amount, so that its receiver notices.

use waxwing_dataplane::PortId;
use waxwing_dataplane::session::Tuple;
use waxwing_packet::{Address, TcpFlags};

use super::routes::is_link_to;
use crate::addresses::PORT_MACS;
use crate::balancer::{Handled, Outcome};
use crate::view::{TCP, View, macs, tags, view};

type Check = Result<(), String>;
/// A sent frame and its port.
type Out<'a> = (PortId, &'a Vec<u8>);

/// Checks a frame from a client, whom the backend sees as `source`.
pub(super) fn check_request(
    frame: &Handled,
    received: &View,
    out: Out<'_>,
    (source, sent): (Address, &View),
) -> Check {
    if sent.source != source {
        return Err("a client's frame has the wrong source address".into());
    }
    if !is_link_to(sent.destination, (out.0, out.1)) {
        return Err("a frame has the wrong link header for its backend".into());
    }
    if sent.hop_limit.checked_add(1) != Some(received.hop_limit) {
        return Err("the hop limit was not decremented by one".into());
    }
    is_reversible(frame, received, out.1, sent)
}

/// Checks a frame from a backend to a client.
pub(super) fn check_reply(
    frame: &Handled,
    received: &View,
    out: Out<'_>,
    (tuple, sent): (&Tuple, &View),
) -> Check {
    check_ends(tuple, sent)?;
    let (_, mac) = macs(out.1);
    if mac != PORT_MACS[out.0.index()] {
        return Err("a reply's source MAC is not its port's".into());
    }
    if sent.hop_limit.checked_add(1) != Some(received.hop_limit) {
        return Err("the hop limit was not decremented by one".into());
    }
    is_reversible(frame, received, out.1, sent)
}

/// Checks a frame from a backend that the kernel routes to its client.
pub(super) fn check_reply_by_kernel(
    frame: &Handled,
    received: &View,
    out: &[u8],
    (tuple, sent): (&Tuple, &View),
) -> Check {
    check_ends(tuple, sent)?;
    if out[..sent.network] != frame.bytes[..received.network] {
        return Err("the kernel got a frame with another link header".into());
    }
    if sent.hop_limit != received.hop_limit {
        return Err("the hop limit was changed before the kernel routes the frame".into());
    }
    is_reversible(frame, received, out, sent)
}

/// Checks that a reply has the addresses and ports that its client knows.
fn check_ends(tuple: &Tuple, sent: &View) -> Check {
    let source = (sent.source, sent.source_port);
    if source != (tuple.destination, tuple.destination_port) {
        return Err("a reply's source is not the VIP".into());
    }
    if (sent.destination, sent.destination_port) != (tuple.source, tuple.source_port) {
        return Err("a reply's destination is not the client".into());
    }
    Ok(())
}

/// Restores addresses, ports and hop limit, and compares the frames. Of the checksums, only the error must be
/// equal.
fn is_reversible(frame: &Handled, received: &View, out: &[u8], sent: &View) -> Check {
    if received.checksum_errors(&frame.bytes) != sent.checksum_errors(out)
        || received.has_no_checksum(&frame.bytes) != sent.has_no_checksum(out)
    {
        return Err("a checksum changed by more than the translation".into());
    }
    let mut restored = out[sent.network..].to_vec();
    let mut original = frame.bytes[received.network..].to_vec();
    let (addresses, hop) = if received.v6 { (8..40, 7) } else { (12..20, 8) };
    let segment = received.segment - received.network;
    let checksum = received.checksum_at() - received.network;
    if restored.len() != original.len() {
        return Err("the length of a frame changed".into());
    }
    restored[addresses.clone()].copy_from_slice(&original[addresses]);
    restored[hop] = original[hop];
    restored[segment..segment + 4].copy_from_slice(&original[segment..segment + 4]);
    for bytes in [&mut restored, &mut original] {
        bytes[checksum..checksum + 2].fill(0);
        if !received.v6 {
            bytes[10..12].fill(0);
        }
    }
    if restored != original {
        return Err("the reverse translation does not yield the original frame".into());
    }
    Ok(())
}

/// Checks the balancer's own answer to a frame: an RST or an ICMP error to its sender.
pub(super) fn check_reject(
    frame: &Handled,
    received: &View,
    out: Out<'_>,
    (from_vip, sent): (Address, &View),
) -> Check {
    let (port, bytes) = out;
    let (to, from) = macs(&frame.bytes);
    if port != frame.port || macs(bytes) != (from, to) {
        return Err("a rejection was not sent back to its sender".into());
    }
    if tags(bytes, sent.network)[..] != tags(&frame.bytes, received.network)[..] {
        return Err("a rejection has other VLAN tags than its frame".into());
    }
    if sent.source != from_vip || !sent.has_valid_checksums(bytes) {
        return Err("a rejection has a wrong source or checksum".into());
    }
    if !received.has_valid_checksums(&frame.bytes) {
        return Err("a frame with a wrong checksum was answered".into());
    }
    if sent.protocol == TCP && sent.flags & TcpFlags::RST == 0 {
        return Err("a TCP segment was answered by a segment other than RST".into());
    }
    if sent.protocol == received.protocol && received.flags & TcpFlags::RST != 0 {
        return Err("an RST was answered".into());
    }
    Ok(())
}

/// Checks that a forwarded or answered ICMP message with correct checksums leaves with correct ones.
pub(super) fn check_icmp(frame: &Handled, received: &View) -> Check {
    let Some(Outcome::Sent(_, out)) = frame.outcomes.first() else {
        return Ok(());
    };
    let sent = view(out).ok_or("an incomplete packet was sent")?;
    if received.has_valid_checksums(&frame.bytes) && !sent.has_valid_checksums(out) {
        return Err("an ICMP message has a wrong checksum".into());
    }
    Ok(())
}
