//! The head of the state file: what the ids in the records stood for, and what goes on of each backend.
//!
//! Invariant: a version only adds fields, each with a default; a reader skips what it does not know.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use waxwing_dataplane::counters::SIGNALS;
use waxwing_dataplane::session::RECORD_LEN;
use waxwing_dataplane::{Backend, Now, Ports};
use waxwing_packet::Protocol;

use super::policies::KeptPolicy;
use crate::health::KeptHealth;
use crate::publish::controller::Controller;
use crate::publish::keys::{BackendKey, snapshot_key};
use crate::time::since_1970;

/// The version that this program writes, and the newest that it must understand to read a file.
pub(super) const VERSION: u32 = 1;

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(super) struct Head {
    /// The version that wrote it.
    pub(super) version: u32,
    /// The oldest version that can read it.
    pub(super) readable_by: u32,
    pub(super) record_len: usize,
    /// When it was written, in milliseconds since 1970.
    pub(super) written_ms: u64,
    /// The workers' clock then, in milliseconds.
    pub(super) clock_ms: u64,
    #[serde(default)]
    pub(super) backends: Vec<KeptBackend>,
    #[serde(default)]
    pub(super) ports: Vec<KeptPort>,
    #[serde(default)]
    pub(super) sources: Vec<KeptSource>,
    #[serde(default)]
    pub(super) policies: Vec<KeptPolicy>,
}

/// A backend, with what goes on of it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(super) struct KeptBackend {
    /// Its id in the records.
    pub(super) id: u32,
    /// Its service's name, for people.
    #[serde(default)]
    pub(super) service: String,
    pub(super) vip: IpAddr,
    /// The service's first and last port.
    pub(super) vip_ports: [u16; 2],
    /// `tcp` or `udp`.
    pub(super) protocol: String,
    pub(super) address: IpAddr,
    /// 0: the one that the client used.
    pub(super) port: u16,
    #[serde(default)]
    pub(super) signals: [u32; SIGNALS],
    #[serde(default)]
    pub(super) health: KeptHealth,
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(super) struct KeptPort {
    /// Its id in the records.
    pub(super) id: u8,
    /// Its interface.
    pub(super) name: String,
}

/// A source NAT address.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(super) struct KeptSource {
    /// Its id in the records.
    pub(super) id: u8,
    pub(super) address: IpAddr,
}

impl Head {
    pub(super) fn of(controller: &Controller, now: Now, policies: Vec<KeptPolicy>) -> Self {
        let snapshot = &controller.snapshot;
        let backend = |backend: &Backend| KeptBackend {
            id: backend.id.0,
            service: (snapshot.service(backend.service))
                .map_or_else(String::new, |service| service.name.to_string()),
            vip: backend.vip.into(),
            vip_ports: [backend.vip_ports.first(), backend.vip_ports.last()],
            protocol: backend.protocol.to_string(),
            address: backend.address.into(),
            port: backend.port,
            signals: controller.shared.gauges.signals(backend.id),
            health: controller.health.keep(snapshot_key(backend)),
        };
        let ports = (0..).zip(snapshot.ports());
        Self {
            version: VERSION,
            readable_by: 1,
            record_len: RECORD_LEN,
            written_ms: u64::try_from(since_1970().as_millis()).unwrap_or(u64::MAX),
            clock_ms: now.millis(),
            policies,
            backends: snapshot.backends().map(backend).collect(),
            ports: ports
                .map(|(id, port)| KeptPort {
                    id,
                    name: port.name.to_string(),
                })
                .collect(),
            sources: snapshot
                .sources()
                .iter()
                .map(|(id, address)| KeptSource {
                    id: id.0,
                    address: address.into(),
                })
                .collect(),
        }
    }
}

impl KeptBackend {
    /// Returns what identifies it; `None` if it is not valid.
    pub(super) fn key(&self) -> Option<BackendKey> {
        let [first, last] = self.vip_ports;
        let protocols = [Protocol::Tcp, Protocol::Udp];
        let protocol = protocols
            .into_iter()
            .find(|it| it.to_string() == self.protocol)?;
        let service = (self.vip.into(), Ports::range(first, last)?, protocol);
        Some((service, self.address.into(), self.port))
    }

    /// Returns what a line calls it.
    pub(super) fn title(&self) -> String {
        let Self {
            service,
            address,
            port,
            ..
        } = self;
        match port {
            0 => format!("backend {address} of service \"{service}\""),
            port => format!("backend {address} port {port} of service \"{service}\""),
        }
    }
}
