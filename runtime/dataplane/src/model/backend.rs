//! Backends: the servers behind a service.

use waxwing_packet::{Address, Protocol, Translation};

use super::{BackendId, Ports, Service, ServiceId, TimeoutTicks};
use crate::mix::endpoint_hash;

/// What happens to a backend's existing sessions. It takes effect at each client's next packet; replies are
/// forwarded as long as the session stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum SessionAction {
    /// They stay: the backend is up, drains, or may come back.
    #[default]
    Keep,
    /// They end; their clients get an RST (TCP) or port unreachable (UDP).
    Reset,
    /// They end, and the packet is treated as a new flow: stateless UDP continues at another backend.
    Repick,
}

/// A server behind a service, with all that a packet of one of its sessions needs.
#[derive(Clone, Debug)]
pub struct Backend {
    pub id: BackendId,
    /// The one service it belongs to. A server behind two services is two backends.
    pub service: ServiceId,
    pub address: Address,
    /// The server's port, or [`Backend::PORT_KEPT`].
    pub port: u16,
    /// A hash of its endpoint: what the native fallback draws by.
    pub hash: u64,
    /// The service's VIP.
    pub vip: Address,
    /// The service's ports.
    pub vip_ports: Ports,
    pub protocol: Protocol,
    /// Share of new sessions; 0 takes none.
    pub weight: u32,
    /// Whether it is up. A backend that is down takes no new sessions, whatever its weight.
    pub healthy: bool,
    /// What happens to its existing sessions; `Keep` while it takes new ones.
    pub sessions: SessionAction,
    /// Whether an RST to a client's SYN is withheld, so that the client's next SYN tries another backend.
    pub retries_refused: bool,
    /// Index into its service's backend list; `None` once the config no longer has it.
    pub place: Option<u32>,
    /// Its service's [`Service::policy`]; `None` once the config no longer has it.
    pub policy: Option<usize>,
    /// A request's destination, from VIP to backend. Valid for a service with one port.
    pub to_backend: Translation,
    /// A reply's source, from backend to VIP. Valid for a service with one port.
    pub to_client: Translation,
    /// Its service's timeouts.
    pub timeouts: TimeoutTicks,
}

impl Backend {
    /// Instead of a port: each session keeps the port that its client used (services with several ports).
    pub const PORT_KEPT: u16 = 0;

    /// A healthy backend of `service` that is not placed in a snapshot yet.
    #[must_use]
    pub fn new(id: BackendId, service: &Service, address: Address, port: u16, weight: u32) -> Self {
        Self {
            id,
            service: service.id,
            address,
            port,
            hash: endpoint_hash(address, port),
            vip: service.vip,
            vip_ports: service.ports,
            protocol: service.protocol,
            weight,
            healthy: true,
            sessions: SessionAction::Keep,
            retries_refused: false,
            place: None,
            policy: None,
            to_backend: Translation::new((service.vip, service.ports.first()), (address, port)),
            to_client: Translation::new((address, port), (service.vip, service.ports.first())),
            timeouts: service.timeouts.into(),
        }
    }

    /// The server's port for a session whose client used `service_port` on the VIP.
    #[inline]
    #[must_use]
    pub const fn port_for(&self, service_port: u16) -> u16 {
        match self.port {
            Self::PORT_KEPT => service_port,
            port => port,
        }
    }

    /// Whether the config no longer has it. It stays in snapshots until its last session has ended.
    #[inline]
    #[must_use]
    pub const fn is_removed(&self) -> bool {
        self.place.is_none()
    }

    /// Whether it takes new sessions.
    #[inline]
    #[must_use]
    pub const fn takes_new(&self) -> bool {
        self.weight > 0 && self.healthy
    }

    /// Whether it may get new flows of a connection that it already serves; true also while it drains.
    #[inline]
    #[must_use]
    pub const fn keeps_sessions(&self) -> bool {
        self.healthy && matches!(self.sessions, SessionAction::Keep)
    }
}
