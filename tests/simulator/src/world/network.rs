//! Damage to frames in the network, and their descriptions in the trace.
//!
//! Invariant: receivers detect all damage by checksums. Wrong data at an application is therefore a bug.

use crate::random::Random;
use crate::view::{View, view};

/// Changes one bit of an IP packet that a checksum covers. Not covered are length and next header of IPv6,
/// and datagrams without a checksum.
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

/// Describes a frame for the trace.
pub(crate) fn describe(frame: &[u8]) -> String {
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
