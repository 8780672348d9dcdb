//! Why frames are dropped.

macro_rules! drop_reasons {
    ($($(#[$doc:meta])* $name:ident = $label:literal,)*) => {
        /// Why a frame was dropped. Each reason has a counter; its label names it in `status`, metrics and
        /// logs.
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
        #[repr(u8)]
        pub enum DropReason { $($(#[$doc])* $name,)* }

        impl DropReason {
            /// All reasons, in the order of their counters.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The name in `status`.
            #[must_use]
            pub const fn label(self) -> &'static str {
                match self { $(Self::$name => $label,)* }
            }
        }
    };
}

drop_reasons! {
    /// Malformed: a length or offset lies outside the frame, or a checksum that must be verified is wrong.
    Malformed = "malformed",
    /// To a VIP, of a protocol or ICMP type that is not served.
    Unsupported = "unsupported",
    /// An invalid source address (RFC 1812 section 5.3.7).
    Martian = "martian",
    /// A fragment to a VIP that is neither TCP, UDP nor of a ping, or whose session has ended since its
    /// datagram's first fragment.
    Fragment = "fragment",
    /// A first fragment without complete headers, or a later one that overlaps them (RFC 1858, RFC 3128, RFC
    /// 7112).
    TinyFragment = "tiny_fragment",
    /// A fragment of a datagram whose fragments overlap or contradict each other (RFC 5722).
    FragmentOverlap = "fragment_overlap",
    /// A fragment with the same range as another.
    FragmentDuplicate = "fragment_duplicate",
    /// A fragment whose datagram's first one did not arrive in time.
    FragmentTimeout = "fragment_timeout",
    /// A fragment beyond a limit: datagrams, waiting fragments, or fragments of one datagram.
    FragmentLimit = "fragment_limit",
    /// An ICMP error to a VIP about no session.
    IcmpNoSession = "icmp_no_session",
    /// An ICMP redirect about a session: its receiver's route to the other end is not the sender's to change.
    IcmpRedirect = "icmp_redirect",
    /// To a VIP, but to no service of it, and not to be answered (or `unserved = "drop"`).
    NoService = "no_service",
    /// A TCP packet without SYN and without a session, of a service with `mid_stream = "drop"`.
    MidStream = "mid_stream",
    /// No backend of the service takes new sessions.
    NoBackend = "no_backend",
    /// The session's backend is down, and the packet may not be answered.
    BackendDown = "backend_down",
    /// The rate limit of RSTs, ICMP errors or echo replies was reached.
    AnswerLimit = "answer_limit",
    /// A backend's RST to a SYN, withheld from the client so that its next SYN goes to another backend.
    RefusedRetried = "refused_retried",
    /// A reply, or an ICMP error about a session, from a port or VLAN by which its backend is not reached.
    SpoofedReply = "spoofed_reply",
    /// A client's packet, or an ICMP error about a session, from a port that faces servers and is not the
    /// session's.
    SpoofedRequest = "spoofed_request",
    /// The policy returned `Drop`.
    Policy = "policy",
    /// The session table is full and no session may be evicted.
    SessionTableFull = "session_table_full",
    /// The service has its `sessions_max`, and none of its sessions found may be evicted.
    ServiceFull = "service_full",
    /// The client's network opened more new sessions than `source_limit` allows.
    SourceLimit = "source_limit",
    /// Other sessions towards the backend have the client's address, its port and all tried alternatives.
    TupleClash = "tuple_clash",
    /// The session needs source NAT, and no pool has an address of its family.
    NoSourceAddress = "no_source_address",
    /// All source ports tried are taken by sessions that may not be evicted.
    SourcePorts = "source_ports",
    /// The MAC address of the next hop to the backend is unknown; its resolution was requested.
    NeighborUnresolved = "neighbor_unresolved",
    /// The kernel has no route to the client, or rejects it (`return_path = "route"`).
    NoRoute = "no_route",
    /// TTL or hop limit exceeded, and no ICMP error may be sent.
    HopLimit = "hop_limit",
    /// Larger than the egress MTU, and no ICMP error may be sent; or fragmentation is allowed, but the packet
    /// has IPv4 options or would make too many fragments.
    TooBig = "too_big",
    /// No headroom for a longer link header.
    NoHeadroom = "no_headroom",
    /// The pool has no frame for a fragment.
    NoFrame = "no_frame",
    /// The egress port's transmit ring is full.
    TransmitRingFull = "transmit_ring_full",
    /// The egress port has no queue on this worker.
    PortMissing = "port_missing",
    /// The kernel did not take a frame passed to it.
    KernelPathFull = "kernel_path_full",
}
