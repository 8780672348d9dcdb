//! A packet in pieces, where the way ahead takes no larger ones and its sender leaves that to routers.
//!
//! Invariant: each piece is a frame of its own from the pool, sent in order; the packet's own frame goes
//! back to the pool. So where the pool or the ring has no room the rest of the packet is dropped, and no
//! frame is ever in two places.

use waxwing_packet::{Cut, Packet, parse};

use crate::counters::WorkerCounters;
use crate::{DropReason, FrameBuf, FrameIo, PortId};

/// The most pieces of one packet: those of the largest frame on a link that takes the 576 bytes of
/// RFC 791. One packet that makes many is a gift to a flood.
const PIECES_MAX: usize = 8;

/// Sends a packet, which was rewritten to leave by this port, in pieces that fit the MTU.
#[cold]
pub(crate) fn send<I: FrameIo>(
    io: &mut I,
    counters: &WorkerCounters,
    frame: &I::Frame,
    (port, mtu): (PortId, u16),
) -> Result<(), DropReason> {
    // Anew, since the link header may have got another length.
    let Ok(Packet::Ip(packet)) = parse(frame.bytes()) else {
        return Err(DropReason::Malformed);
    };
    let cut = Cut::new(frame.bytes(), &packet, mtu)
        .filter(|cut| cut.count() <= PIECES_MAX)
        .ok_or(DropReason::TooBig)?;
    for number in 0..cut.count() {
        let mut piece = io.allocate(port).ok_or(DropReason::NoFrame)?;
        let len = cut.frame_len(number);
        if !(piece.set_len(len) && cut.write(number, frame.bytes(), piece.bytes_mut())) {
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
