//! Fragmentation: a packet larger than the egress MTU leaves in fragments, if its sender allows that.
//!
//! Invariant: each fragment is a frame of its own from the pool, sent in order; the packet's own frame
//! returns to the pool. If pool or ring run out, the rest of the packet is dropped. No frame is ever in two
//! places.

use waxwing_packet::{Fragmentation, Packet, parse};

use crate::counters::WorkerCounters;
use crate::{DropReason, FrameBuf, FrameIo, PortId};

/// The most fragments of one packet: enough for a frame of one buffer on a link of 576 bytes (RFC 791), and
/// for 9000 bytes on an Ethernet. More would amplify a flood.
const FRAGMENTS_MAX: usize = 8;

/// Sends a packet, which is rewritten for `port`, in fragments that fit `mtu` bytes.
#[cold]
pub(crate) fn send<I: FrameIo>(
    io: &mut I,
    counters: &WorkerCounters,
    (frame, scratch): (&[u8], &mut [u8]),
    (port, mtu): (PortId, u16),
) -> Result<(), DropReason> {
    // Parsed anew: the rewrite may have changed the length of the link header.
    let Ok(Packet::Ip(packet)) = parse(frame) else {
        return Err(DropReason::Malformed);
    };
    let fragments = Fragmentation::new(frame, &packet, mtu)
        .filter(|fragments| fragments.count() <= FRAGMENTS_MAX)
        .ok_or(DropReason::TooBig)?;
    for number in 0..fragments.count() {
        let mut fragment = io.allocate(port).ok_or(DropReason::NoFrame)?;
        let len = fragments.frame_len(number);
        let written = fragment.set_len(len)
            && if fragment.rest_len() == 0 {
                fragments.write(number, frame, fragment.bytes_mut())
            } else {
                let written = fragments.write(number, frame, &mut scratch[..len]);
                fragment.copy_from(&scratch[..len]);
                written
            };
        if !written {
            return Err(DropReason::TooBig);
        }
        io.send(port, fragment)?;
        counters.fragments_sent.add(1);
        counters.transmitted.packets.add(1);
        counters.transmitted.bytes.add(len as u64);
    }
    counters.packets_fragmented.add(1);
    Ok(())
}
