//! The state that the workers of a run share: services, backends, next hops, session table.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use waxwing_dataplane::HopTable;
use waxwing_dataplane::model::{Backend, MidStream, NoBackend, Port, Service, SourceUse, Timeouts};
use waxwing_dataplane::path::SharedState;
use waxwing_dataplane::session::{SessionTable, TableError};
use waxwing_dataplane::{
    BackendId, DirectFlows, FragmentLimits, FragmentTable, Gauges, NextHop, Ports, ServiceId,
    Snapshot, SourceRates,
};

use crate::addresses::{AddressPlan, BACK, FRONT, MACS, SERVERS, VIP_PORT};
use crate::frames::Frames;

/// The size of a testbed.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Capacity of the session table.
    pub sessions_max: u32,
    /// Services, each with a VIP of its own.
    pub services: u32,
    /// Backends of each service.
    pub backends: u32,
    /// Workers.
    pub workers: usize,
    /// Idle timeout of UDP sessions.
    pub udp_timeout: Duration,
}

impl Default for Size {
    fn default() -> Self {
        Self {
            sessions_max: 1024,
            services: 1,
            backends: 8,
            workers: 1,
            udp_timeout: Timeouts::default().udp,
        }
    }
}

/// The shared state of a run.
pub struct Testbed {
    pub(crate) plan: AddressPlan,
    pub(crate) size: Size,
    pub(crate) shared: SharedState,
    pub(crate) snapshot: Arc<Snapshot>,
    /// The latest virtual time of any past driver, in nanoseconds; the next driver starts there.
    pub(crate) clock: AtomicU64,
}

impl Testbed {
    /// Makes a testbed of this size without sessions.
    pub fn new(plan: AddressPlan, size: Size) -> Result<Self, TableError> {
        let backends_max = (size.services * size.backends) as usize;
        let shared = SharedState {
            sessions: Arc::new(SessionTable::new(size.sessions_max, [1, 2, 3, 4])?),
            next_hops: Arc::new(HopTable::new(backends_max)),
            gauges: Arc::new(Gauges::new(backends_max, size.workers + 1)),
            fragments: Arc::new(FragmentTable::new(FragmentLimits::default(), [5, 6, 7, 8])),
            direct: Arc::new(DirectFlows::new(1024)),
            source_rates: Arc::new(SourceRates::new([13, 14, 15, 16])),
        };
        let services: Vec<Service> = (0..size.services)
            .map(|number| service(plan, size, number))
            .collect();
        let mut backends = Vec::with_capacity(backends_max);
        for service in &services {
            for id in &service.backends {
                let hop = NextHop {
                    port: BACK,
                    mac: SERVERS,
                };
                shared.next_hops.set(*id, Some(hop));
                let (address, port) = plan.backend(id.0);
                backends.push(Backend::new(*id, service, address, port, 1));
            }
        }
        let ports = vec![
            Port::attached(FRONT, "front".into(), MACS[0], 1500),
            Port::attached(BACK, "back".into(), MACS[1], 1500),
        ];
        Ok(Self {
            plan,
            size,
            shared,
            snapshot: Arc::new(Snapshot::new(1, services, backends, ports)),
            clock: AtomicU64::new(1_000_000_000),
        })
    }

    /// The memory of the session table, in bytes.
    pub fn table_bytes(&self) -> usize {
        self.shared.sessions.memory_bytes()
    }

    /// The number of sessions.
    pub fn sessions(&self) -> usize {
        self.shared.sessions.len()
    }

    /// The number of backends of all services.
    pub(crate) fn backends(&self) -> u32 {
        self.size.services * self.size.backends
    }

    /// The maker of its clients' and backends' frames.
    pub fn frames(&self) -> Frames {
        Frames::new(self.plan, self.size.services)
    }
}

fn service(plan: AddressPlan, size: Size, number: u32) -> Service {
    let first = number * size.backends;
    Service {
        id: ServiceId(number),
        name: format!("service-{number}").into(),
        vip: plan.vip(number).0,
        ports: Ports::one(VIP_PORT),
        protocol: plan.protocol,
        source_nat: SourceUse::Auto,
        policy: 0,
        backends: (first..first + size.backends).map(BackendId).collect(),
        mid_stream: MidStream::Pick,
        adopts_replies: false,
        no_backend: NoBackend::Drop,
        sessions_max: None,
        timeouts: Timeouts {
            udp: size.udp_timeout,
            udp_unassured: size.udp_timeout,
            ..Timeouts::default()
        },
    }
}
