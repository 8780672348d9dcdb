//! A packet in pieces, where the way ahead takes no larger ones and its sender leaves that to routers.
//!
//! Invariant: each piece is a frame of its own from the pool, sent in order; the packet's own frame goes
//! back to the pool. So where the pool or the ring has no room the rest of the packet is dropped, and no
//! frame is ever in two places.

use waxwing_packet::{Fragmentation, Packet, parse};

use crate::counters::WorkerCounters;
use crate::{DropReason, FrameBuf, FrameIo, PortId};

/// The most pieces of one packet: those of a frame that one buffer holds on a link that takes the 576
/// bytes of RFC 791, and of a jumbo frame of 9000 bytes on an Ethernet. One packet that makes many is a
/// gift to a flood.
const PIECES_MAX: usize = 8;

/// Sends a packet, which was rewritten to leave by this port, in pieces that fit the MTU.
#[cold]
pub(crate) fn send<I: FrameIo>(
    io: &mut I,
    counters: &WorkerCounters,
    (frame, room): (&[u8], &mut [u8]),
    (port, mtu): (PortId, u16),
) -> Result<(), DropReason> {
    // Anew, since the link header may have got another length.
    let Ok(Packet::Ip(packet)) = parse(frame) else {
        return Err(DropReason::Malformed);
    };
    let cut = Fragmentation::new(frame, &packet, mtu)
        .filter(|cut| cut.count() <= PIECES_MAX)
        .ok_or(DropReason::TooBig)?;
    for number in 0..cut.count() {
        let mut piece = io.allocate(port).ok_or(DropReason::NoFrame)?;
        let len = cut.frame_len(number);
        let written = piece.set_len(len)
            && if piece.rest_len() == 0 {
                cut.write(number, frame, piece.bytes_mut())
            } else {
                let written = cut.write(number, frame, &mut room[..len]);
                piece.copy_from(&room[..len]);
                written
            };
        if !written {
            return Err(DropReason::TooBig);
        }
        io.send(port, piece)?;
        counters.pieces.add(1);
        counters.transmitted.packets.add(1);
        counters.transmitted.bytes.add(len as u64);
    }
    counters.cut.add(1);
    Ok(())
}
