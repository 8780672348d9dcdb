//! What the fast path reads of a backend and of a port: precomputed, and without what few packets need.
//!
//! Invariant: all of it follows from the snapshot's backends and ports, and is replaced with them. What is
//! not ready here takes the general path, which decides by the backend and the port themselves.

use std::sync::atomic::AtomicU8;

use waxwing_packet::plain::{Kind, PackedTags, PlainTranslation, SourceMac, wire_words};
use waxwing_packet::{Address, Family, Protocol, Translation};

use super::{Backend, Port, PortId, SessionAction, TimeoutTicks};

/// A backend: what its sessions' packets are compared with, and what they become.
#[derive(Debug)]
#[repr(align(64))]
pub(crate) struct BackendPath {
    /// `None` if its packets take the general path: there is no such backend, its service has several ports,
    /// or its sessions do not stay.
    pub(crate) kind: Option<Kind>,
    /// The port of its next hop, from which its replies come; see [`super::Snapshot::follow_ports`].
    pub(crate) reply_port: AtomicU8,
    pub(crate) to_backend: Side,
    pub(crate) to_client: Side,
    /// `None` like `kind`.
    pub(crate) timeouts: Option<TimeoutTicks>,
}

/// One direction.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Side {
    /// The far address that its packets have: a request the VIP, a reply the server's.
    pub(crate) far: [u64; 2],
    /// Their far port.
    pub(crate) port: u16,
    pub(crate) translation: PlainTranslation,
}

impl Side {
    fn new((address, port): (Address, u16), translation: &Translation) -> Self {
        Self {
            far: wire_words(address),
            port,
            translation: translation.into(),
        }
    }
}

impl Default for BackendPath {
    fn default() -> Self {
        Self {
            kind: None,
            reply_port: AtomicU8::new(PortId::ACROSS.0),
            to_backend: Side::default(),
            to_client: Side::default(),
            timeouts: None,
        }
    }
}

impl BackendPath {
    fn new(backend: &Backend) -> Self {
        let kind = match (backend.vip.family(), backend.protocol) {
            (Family::V4, Protocol::Tcp) => Kind::V4Tcp,
            (Family::V4, Protocol::Udp) => Kind::V4Udp,
            (Family::V6, Protocol::Tcp) => Kind::V6Tcp,
            (Family::V6, Protocol::Udp) => Kind::V6Udp,
        };
        let is_ready =
            backend.port != Backend::PORT_KEPT && backend.sessions == SessionAction::Keep;
        let vip = (backend.vip, backend.vip_ports.first());
        Self {
            kind: is_ready.then_some(kind),
            to_backend: Side::new(vip, &backend.to_backend),
            to_client: Side::new((backend.address, backend.port), &backend.to_client),
            timeouts: Some(backend.timeouts),
            ..Self::default()
        }
    }
}

/// All backends' paths, by id.
pub(super) fn paths(backends: &[Option<Backend>]) -> Box<[BackendPath]> {
    let path = |backend: &Option<Backend>| backend.as_ref().map(BackendPath::new);
    let paths = backends.iter().map(path);
    paths.map(Option::unwrap_or_default).collect()
}

/// A port, as the egress port of routed packets.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Egress {
    pub(crate) mac: SourceMac,
    /// 0 if there is no such port, or if it belongs to a bridge; the second one also if its frames carry
    /// tags.
    mtu: u16,
    untagged_mtu: u16,
    pub(crate) tags: PackedTags,
    pub(crate) tag_words: [u8; 8],
    pub(crate) wire: u8,
}

impl Egress {
    /// Its MTU; 0 if it does not send such frames by the fast path: with VLAN tags (`tagged`) or without.
    #[inline(always)]
    pub(crate) const fn mtu(&self, tagged: bool) -> u16 {
        if tagged { self.mtu } else { self.untagged_mtu }
    }
}

/// Every possible port, by id: reading one needs no check.
pub(super) fn egresses(ports: &[Port]) -> Box<[Egress; 256]> {
    let mut egresses = Box::new([Egress::default(); 256]);
    for (egress, port) in egresses.iter_mut().zip(ports) {
        let PortId(wire) = port.wire;
        let mtu = if port.bridge.is_none() { port.mtu } else { 0 };
        let tags = PackedTags::from(&port.tags);
        *egress = Egress {
            mac: port.mac.into(),
            mtu,
            untagged_mtu: if port.tags.is_empty() { mtu } else { 0 },
            tags,
            tag_words: tags.words(),
            wire,
        };
    }
    egresses
}
