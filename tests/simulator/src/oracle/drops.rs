//! Reasons why a frame of an existing session may be dropped.

use super::turn::Turn;
use crate::view::{TCP, UDP, View};

/// Whether a frame of a protected session may be dropped.
pub(super) fn is_excused(turn: &Turn<'_>, received: &View) -> bool {
    turn.limited || received.hop_limit <= 1 || received.end - received.network > 1500
}

/// Whether the hop limit ended a packet and its sender got an ICMP error. The packet still counts for its
/// session.
pub(super) fn is_time_exceeded(received: &View, sent: &View) -> bool {
    let is_error = !matches!(sent.protocol, TCP | UDP);
    received.hop_limit <= 1 && sent.destination == received.source && is_error
}
