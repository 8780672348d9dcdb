//! Frames on their way: how the network damages them, and how they are told in a trace.
//!
//! Invariant: what is damaged here, a receiver finds by its checksums. So whatever reaches an
//! application is what was sent, or somebody's fault.

use crate::random::Random;
use crate::view::{View, view};

/// Changes one byte of an IP packet, so that its checksums tell. What no checksum covers stays:
/// the length and next header of IPv6, and a datagram without one.
pub(crate) fn damage(frame: &mut [u8], random: &mut Random) {
    let Some(view) = view(frame) else { return };
    if view.has_no_checksum(frame) {
        return;
    }
    let at = view.network + random.index(view.end - view.network);
    let uncovered = view.v6 && at < view.network + 8;
    if !uncovered {
        frame[at] ^= 1 << random.below(8);
    }
}

/// A frame in a few words.
pub(crate) fn brief(frame: &[u8]) -> String {
    let Some(view) = view(frame) else {
        return format!("{} bytes", frame.len());
    };
    let View {
        source,
        source_port,
        destination,
        destination_port,
        ..
    } = view;
    let len = view.end - view.payload;
    format!(
        "{source} {source_port} -> {destination} {destination_port}, protocol {}, flags {:#04x}, \
         sequence {}, {len} bytes",
        view.protocol, view.flags, view.sequence
    )
}
