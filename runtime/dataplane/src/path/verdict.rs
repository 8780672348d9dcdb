//! What happens to a packet, and why a session's packet does not simply leave.

use waxwing_packet::Fragment;

use crate::session::{Direction, FlowHash, Session, SessionRef};
use crate::{DropReason, PortId, ServiceId};

/// What happens to a frame, as far as the passes so far have decided.
#[derive(Clone, Copy)]
pub(crate) enum Verdict {
    /// TCP or UDP: its session is to be looked up.
    Lookup(FlowHash),
    /// It belongs to this session and is not rewritten yet: the session was opened in this batch, or is
    /// known from the datagram's first fragment.
    Session(SessionRef, Session, Direction),
    /// It opens a session of this service.
    NewFlow(FlowHash, ServiceId),
    /// A fragment other than its datagram's first.
    LaterFragment(Fragment),
    /// Rewritten; leaves by this port.
    Forward(PortId),
    /// Rewritten; leaves by this port in fragments that fit this MTU, in bytes.
    ForwardFragmented(PortId, u16),
    /// An ICMP error about a session's packet, rewritten; leaves by this port.
    ForwardIcmpError(PortId),
    /// A fragment, copied to wait for its datagram's first.
    Held,
    /// The frame now holds its own response and leaves by its ingress port.
    Respond,
    /// An echo request to a VIP, or a fragment of one: to be turned into its reply, which leaves by the
    /// ingress port.
    Echo,
    /// To be turned into an RST or port unreachable, which leaves by the ingress port. The reason is that of
    /// its datagram's later fragments.
    Reject(DropReason),
    /// Not ours: bridged in transparent mode, otherwise passed to the kernel.
    PassToKernel,
    Drop(DropReason),
}

/// Why a session's packet does not simply leave.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Stop {
    Drop(DropReason),
    /// Its session ended before it.
    Ending(Ending),
    /// It is a datagram's first fragment: the later ones must learn the session first.
    FirstFragment,
    /// It cannot be forwarded, and its sender may be told.
    Undeliverable(Undeliverable),
    /// It is rewritten, and the kernel knows its next hop.
    ToKernel,
    /// It is rewritten for this port, but larger than this MTU in bytes, and may be fragmented.
    Fragment(PortId, u16),
}

/// Why a session ends before its packet is handled.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Ending {
    /// It timed out, or its connection is over and a SYN of either end reuses the tuple.
    Over,
    /// Its backend is down, and the packet is to go to another one.
    Repick,
    /// Its backend is down, and the client is to be reset.
    Reset,
}

/// Why a packet cannot be forwarded: what an ICMP error tells its sender.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Undeliverable {
    HopLimit,
    /// Larger than this egress MTU, in bytes.
    TooBig(u16),
}

impl From<DropReason> for Stop {
    fn from(reason: DropReason) -> Self {
        Self::Drop(reason)
    }
}
