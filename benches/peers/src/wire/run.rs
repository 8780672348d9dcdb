//! What all runs on the wire share.

use anyhow::Result;

use crate::contender::{Contender, Poll, Running, Settings};
use crate::cpu::Cores;
use crate::network::{Network, Protocol, Service};

/// The service's port, at the VIP and at the servers.
pub(super) const PORT: u16 = 8080;
/// Capacity for every session that a run can open.
pub(super) const SESSIONS_MAX: u64 = 4_000_000;

/// The parameters of a run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Run {
    pub(super) cores: Cores,
    pub(super) poll: Poll,
    pub(super) seconds: u32,
}

impl Run {
    pub(super) fn start(
        self,
        contender: Contender,
        network: &Network,
        protocol: Protocol,
    ) -> Result<Running<'_>> {
        let settings = Settings {
            services: &[service(protocol)],
            poll: self.poll,
            sessions_max: SESSIONS_MAX,
        };
        contender.start(network, &settings)
    }
}

/// The one service.
pub(super) const fn service(protocol: Protocol) -> Service {
    Service {
        name: "bench",
        protocol,
        port: PORT,
        backend_port: PORT,
    }
}
