//! What the balancer answers itself: ARP, neighbour solicitations and ping for a VIP; and the
//! link header of what it forwards.
//!
//! Invariant: an answer goes back over the port, and to the address, that the question came from,
//! and only for a VIP of the snapshot.

use waxwing_packet::arp::{Arp, Operation};
use waxwing_packet::ndp::Solicitation;
use waxwing_packet::{Ethernet, IpPacket, Link, VlanTags, icmp};

use crate::{DropReason, FrameBuf, Snapshot};

/// What became of a question.
pub(crate) enum Answer {
    /// The frame is now the answer.
    Written,
    /// It asks nothing of us.
    NotAsked,
    /// It is not well-formed.
    Malformed,
    /// It would be one answer too many.
    Limited,
}

/// Answers who has a VIP (RFC 826). A probe (RFC 5227 section 2.1.1) is answered too: that is how
/// another host learns that the address is taken.
pub(crate) fn answer_arp<F: FrameBuf>(
    snapshot: &Snapshot,
    frame: &mut F,
    ethernet: &Ethernet,
) -> Answer {
    let Ok(request) = Arp::parse(frame.bytes(), ethernet) else {
        return Answer::Malformed;
    };
    if request.operation != Operation::Request || !snapshot.is_vip(request.target) {
        return Answer::NotAsked;
    }
    let Some(port) = snapshot.port(frame.port()) else {
        return Answer::NotAsked;
    };
    let reply = request.reply(port.mac);
    written(frame.set_len(reply.frame_len()) && reply.write(frame.bytes_mut()))
}

/// Answers a neighbour solicitation (RFC 4861 section 7.2.4) or a ping (RFC 1122 section 3.2.2.6,
/// RFC 4443 section 4.2) for a VIP; `may_echo` limits the second.
pub(crate) fn answer_icmp<F: FrameBuf>(
    snapshot: &Snapshot,
    frame: &mut F,
    packet: &IpPacket,
    may_echo: impl FnOnce() -> bool,
) -> Answer {
    let is_ping = icmp::is_echo_request(packet) && snapshot.is_vip(packet.destination);
    if is_ping && snapshot.answers_ping() {
        if !may_echo() {
            return Answer::Limited;
        }
        if icmp::answer_echo(frame.bytes_mut(), packet) {
            return Answer::Written;
        }
    }
    if !Solicitation::is_in(packet) {
        return Answer::NotAsked;
    }
    let Ok(solicitation) = Solicitation::parse(frame.bytes(), packet) else {
        return Answer::Malformed;
    };
    let Some(port) = snapshot
        .port(frame.port())
        .filter(|_| snapshot.is_vip(solicitation.target))
    else {
        return Answer::NotAsked;
    };
    let reply = solicitation.answer(port.mac);
    written(frame.set_len(reply.frame_len()) && reply.write(frame.bytes_mut()))
}

const fn written(ok: bool) -> Answer {
    if ok {
        Answer::Written
    } else {
        Answer::Malformed
    }
}

/// Replaces a frame's link header by one with other VLAN tags, and so perhaps of another length.
#[cold]
pub(crate) fn retag<F: FrameBuf>(
    frame: &mut F,
    old: &Ethernet,
    link: Link,
    tags: VlanTags,
) -> Result<(), DropReason> {
    let new = Ethernet::new(link, tags, old.ethertype);
    let by = old.header_len() as isize - new.header_len() as isize;
    if !frame.move_start(by) {
        return Err(DropReason::NoHeadroom);
    }
    match new.write(frame.bytes_mut()) {
        Some(_) => Ok(()),
        None => Err(DropReason::Malformed),
    }
}
