//! Why frames are dropped.

macro_rules! drop_reasons {
    ($($(#[$doc:meta])* $name:ident = $label:literal,)*) => {
        /// Why a frame was dropped. Each has a counter of its own; the label is its name in
        /// `status`, in metrics and in logs.
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
        #[repr(u8)]
        pub enum DropReason { $($(#[$doc])* $name,)* }

        impl DropReason {
            /// Every reason, in the order of their counters.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The name in `status`, metrics and logs.
            #[must_use]
            pub const fn label(self) -> &'static str {
                match self { $(Self::$name => $label,)* }
            }
        }
    };
}

drop_reasons! {
    /// Not a well-formed frame: a length or offset lies outside of it.
    Malformed = "malformed",
    /// A header or protocol that a VIP does not serve (another protocol, an ICMP message that is not answered).
    Unsupported = "unsupported",
    /// A source address that no packet may have (RFC 1812 section 5.3.7).
    Martian = "martian",
    /// A fragment to a VIP that no session can be of (ICMP, another protocol), or whose session has
    /// ended since its datagram's first fragment passed.
    Fragment = "fragment",
    /// A first fragment without the whole of its headers, or another that lies in them (RFC 1858,
    /// RFC 3128, RFC 7112).
    TinyFragment = "tiny_fragment",
    /// A fragment that overlaps or contradicts another, and all others of its datagram (RFC 5722).
    FragmentOverlap = "fragment_overlap",
    /// A fragment of the very place of another.
    FragmentDuplicate = "fragment_duplicate",
    /// A fragment that waited in vain for its datagram's first one.
    FragmentTimeout = "fragment_timeout",
    /// A fragment that there was no room for: too many datagrams, too many that wait, or too many of
    /// one datagram.
    FragmentLimit = "fragment_limit",
    /// An ICMP error to a VIP about a packet of no session.
    IcmpNoSession = "icmp_no_session",
    /// A packet to a VIP, but to no service of it.
    NoService = "no_service",
    /// A TCP packet of no session and without SYN, where the service says to drop those.
    MidStream = "mid_stream",
    /// The service has no backend that takes new sessions.
    NoBackend = "no_backend",
    /// A packet of a session whose backend is down, and which nothing may be answered to.
    BackendDown = "backend_down",
    /// What it was to be answered with, RST, an ICMP error or an echo, is limited in its rate.
    AnswerLimit = "answer_limit",
    /// A backend's RST to a SYN, kept from the client: its next SYN goes to another backend.
    RefusedRetried = "refused_retried",
    /// The policy said to drop it.
    Policy = "policy",
    /// The session table is full and nothing in it may be evicted.
    SessionTableFull = "session_table_full",
    /// Another session to the same backend endpoint has the client's address and port.
    TupleClash = "tuple_clash",
    /// The client is the server that was picked, or the service is one of source NAT for all, and there
    /// is no source address of its family.
    NoSourceAddress = "no_source_address",
    /// Every source port that was tried is taken towards the backend, by sessions that stay.
    SourcePorts = "source_ports",
    /// The next hop towards the backend has no known MAC address (resolution was triggered).
    NeighborUnresolved = "neighbor_unresolved",
    /// The kernel's routes have none to the client, or refuse it (`return_path = "route"`).
    NoRoute = "no_route",
    /// TTL or hop limit ran out here, and nobody may be told.
    HopLimit = "hop_limit",
    /// The packet is larger than the egress port's MTU, and nobody may be told; or it is one of IPv4
    /// that may be cut to pieces, but has options, or would make too many.
    TooBig = "too_big",
    /// No headroom for a longer link header.
    NoHeadroom = "no_headroom",
    /// The pool has no frame for a piece of a packet that was too big.
    NoFrame = "no_frame",
    /// The egress port's transmit ring is full.
    TransmitRingFull = "transmit_ring_full",
    /// The egress port has no queue on this worker.
    PortMissing = "port_missing",
    /// The kernel did not take a frame handed back to it.
    KernelPathFull = "kernel_path_full",
}
