//! Stable ids.
//!
//! Invariant: an id keeps its meaning while any session refers to it. It is reused only after the last such
//! session has ended.

/// An attached interface, or a VLAN on one: an index into [`crate::Snapshot::ports`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct PortId(pub u8);

/// A service.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct ServiceId(pub u32);

/// A backend: one id per service and endpoint.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct BackendId(pub u32);

/// A source NAT address.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord, Default)]
pub struct SourceId(pub u8);

/// The highest source id: a session stores it in one byte.
pub const SOURCES_MAX: u8 = u8::MAX;

impl PortId {
    /// The bridge port opposite the ingress port (transparent mode): stands for a backend whose side of the
    /// bridge is unknown.
    pub const ACROSS: Self = Self(u8::MAX);

    /// The kernel's own forwarding: stands for a client whose packets have not come here yet. It is no port,
    /// so the fast path does not send there.
    pub const KERNEL: Self = Self(u8::MAX - 1);

    #[inline]
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

impl ServiceId {
    #[inline]
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

impl BackendId {
    #[inline]
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

impl SourceId {
    /// No source NAT: the backend sees the client's own address.
    pub const CLIENT: Self = Self(0);

    /// Whether the backend sees the client's own address.
    #[inline]
    #[must_use]
    pub const fn is_client(self) -> bool {
        self.0 == 0
    }

    #[inline]
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}
