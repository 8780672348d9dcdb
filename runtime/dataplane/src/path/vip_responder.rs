//! Responses for VIPs: ARP, neighbour solicitations; and which packets are pings.
//!
//! Invariant: a response leaves by the port its request came from, to the address it came from, and only for
//! a VIP of the snapshot.

use waxwing_packet::arp::{Arp, Operation};
use waxwing_packet::ndp::Solicitation;
use waxwing_packet::{Ethernet, IpPacket, icmp};

use super::{Arrived, Verdict};
use crate::{DropReason, FrameBuf, Snapshot};

/// What came of a request.
pub(crate) enum Response {
    /// The frame now holds the response.
    Written,
    /// Not a request to us.
    NotForUs,
    Malformed,
}

impl From<Response> for Verdict {
    fn from(response: Response) -> Self {
        match response {
            Response::Written => Self::Respond,
            Response::NotForUs => Self::PassToKernel,
            Response::Malformed => Self::Drop(DropReason::Malformed),
        }
    }
}

/// Answers an ARP request for a VIP (RFC 826). A probe (RFC 5227 section 2.1.1) is answered too: that is how
/// another host learns that the address is taken.
pub(crate) fn respond_to_arp<F: FrameBuf>(
    snapshot: &Snapshot,
    frame: &mut F,
    ethernet: &Ethernet,
) -> Response {
    let Ok(request) = Arp::parse(frame.bytes(), ethernet) else {
        return Response::Malformed;
    };
    if request.operation != Operation::Request || !snapshot.is_vip(request.target) {
        return Response::NotForUs;
    }
    let Some(port) = snapshot.port(frame.port()) else {
        return Response::NotForUs;
    };
    let reply = request.reply(port.mac);
    written(frame.set_len(reply.frame_len()) && reply.write(frame.bytes_mut()))
}

/// Whether a packet is an echo request to a VIP, or its first fragment, and VIPs answer ping (RFC 1122
/// section 3.2.2.6, RFC 4443 section 4.2).
pub(crate) fn is_ping(snapshot: &Snapshot, packet: &IpPacket) -> bool {
    icmp::is_echo_request(packet) && snapshot.answers_ping() && snapshot.is_vip(packet.destination)
}

/// Answers a neighbour solicitation for a VIP (RFC 4861 section 7.2.4).
pub(crate) fn respond_to_solicitation<F: FrameBuf>(
    snapshot: &Snapshot,
    Arrived { frame, packet }: Arrived<'_, F>,
) -> Response {
    if !Solicitation::is_in(packet) {
        return Response::NotForUs;
    }
    let Ok(solicitation) = Solicitation::parse(frame.bytes(), packet) else {
        return Response::Malformed;
    };
    let Some(port) = snapshot
        .port(frame.port())
        .filter(|_| snapshot.is_vip(solicitation.target))
    else {
        return Response::NotForUs;
    };
    let reply = solicitation.answer(port.mac);
    written(frame.set_len(reply.frame_len()) && reply.write(frame.bytes_mut()))
}

const fn written(ok: bool) -> Response {
    if ok {
        Response::Written
    } else {
        Response::Malformed
    }
}
