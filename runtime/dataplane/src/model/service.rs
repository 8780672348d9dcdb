//! Services: what clients connect to.

use std::sync::Arc;

use waxwing_packet::{Address, Protocol};

use super::{BackendId, Ports, ServiceId, Timeouts};

/// What happens to a TCP packet that belongs to no session and opens none.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum MidStream {
    /// The policy picks a backend, as for a new flow: connections survive a restart if the policy is
    /// consistent.
    #[default]
    Pick,
    /// It is dropped and counted.
    Drop,
}

/// What happens to a new flow when no backend of its service takes new sessions.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum NoBackend {
    /// It is dropped and counted.
    #[default]
    Drop,
    /// Its client gets an RST (TCP) or port unreachable (UDP).
    Reject,
}

/// Which of a service's sessions get source NAT.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum SourceUse {
    /// Those whose client is in a network of [`super::SourcePool::clients`], or is the picked server
    /// itself.
    #[default]
    Auto,
    /// All.
    Always,
}

/// A VIP address, ports and protocol, with the backends behind it.
#[derive(Clone, Debug)]
pub struct Service {
    pub id: ServiceId,
    /// Its name in the config.
    pub name: Arc<str>,
    pub vip: Address,
    /// The ports clients use. When several services of a VIP cover a port, the one with the fewest ports
    /// gets it.
    pub ports: Ports,
    pub protocol: Protocol,
    pub source_nat: SourceUse,
    /// Index into [`crate::Epoch::policies`].
    pub policy: usize,
    /// The backends that picks index, in config order, weight 0 included.
    pub backends: Box<[BackendId]>,
    pub mid_stream: MidStream,
    /// Whether a reply of no session opens one: each of its backends' endpoints then serves no other service,
    /// and sends nothing but replies.
    pub adopts_replies: bool,
    pub no_backend: NoBackend,
    pub timeouts: Timeouts,
    /// The most sessions of its backends, if it has a limit: its share of the table.
    pub sessions_max: Option<u32>,
}
