//! What the workers of one run share.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use waxwing_dataplane::forward::Shared;
use waxwing_dataplane::session::{SessionTable, TableError};
use waxwing_dataplane::snapshot::{
    Backend, MidStream, NextHops, NoBackend, Port, Service, SourceUse, Timeouts,
};
use waxwing_dataplane::{
    BackendId, FragmentLimits, FragmentTable, Gauges, NextHop, Ports, ServiceId, Snapshot,
};

use crate::frames::{Frames, Kind};
use crate::lane::Lane;
use crate::plan::{BACK, FRONT, MACS, Plan, SERVERS, VIP_PORT};

/// How large it is.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// The most sessions.
    pub sessions_max: u32,
    /// Services, each with a VIP of its own.
    pub services: u32,
    /// Backends of each service.
    pub backends: u32,
    /// Workers.
    pub workers: usize,
    /// How long a session of UDP lives without a packet.
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

/// Services, backends, next hops and the session table.
pub struct World {
    pub(crate) plan: Plan,
    pub(crate) size: Size,
    pub(crate) shared: Shared,
    pub(crate) snapshot: Arc<Snapshot>,
    /// Nanoseconds: how far time has gone in any lane that is no more. The next lane goes on from there.
    pub(crate) clock: AtomicU64,
}

impl World {
    /// With this many of everything, and no session.
    ///
    /// # Errors
    /// There is not the memory for so many sessions, or no table has that many.
    pub fn new(plan: Plan, size: Size) -> Result<Self, TableError> {
        let backends_max = (size.services * size.backends) as usize;
        let shared = Shared {
            sessions: Arc::new(SessionTable::new(size.sessions_max, [1, 2, 3, 4])?),
            next_hops: Arc::new(NextHops::new(backends_max)),
            gauges: Arc::new(Gauges::new(backends_max, size.workers + 1)),
            fragments: Arc::new(FragmentTable::new(FragmentLimits::default(), [5, 6, 7, 8])),
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

    /// The memory of its session table, in bytes.
    #[must_use]
    pub fn table_bytes(&self) -> usize {
        self.shared.sessions.memory_bytes()
    }

    /// The sessions now.
    #[must_use]
    pub fn sessions(&self) -> usize {
        self.shared.sessions.len()
    }

    /// The backends of all services.
    pub(crate) fn backends(&self) -> u32 {
        self.size.services * self.size.backends
    }

    /// Makes its frames.
    #[must_use]
    pub fn frames(&self) -> Frames {
        Frames::new(self.plan, self.size.services)
    }

    /// Opens the sessions of the first so many clients, each by its whole handshake (of UDP: by a
    /// datagram and its answer). Says which backend each of them got.
    ///
    /// # Panics
    /// A packet was not forwarded: there is no room for so many sessions.
    #[must_use]
    pub fn open(&self, clients: u32) -> Vec<u16> {
        let mut lane = Lane::keeping(self, 0);
        let mut frames = self.frames();
        let mut backends = Vec::with_capacity(clients as usize);
        let batch = u32::try_from(waxwing_dataplane::BATCH).unwrap_or(1);
        for first in (0..clients).step_by(batch as usize) {
            let batch = first..clients.min(first + batch);
            for client in batch.clone() {
                lane.put_request(frames.request(client, Kind::Opening));
            }
            backends.extend(lane.backends_of_turn());
            for client in batch.clone() {
                let backend = backends[client as usize].into();
                lane.put_reply(frames.answer(backend, client, Kind::Opening));
            }
            lane.turn();
            for client in batch {
                lane.put_request(frames.request(client, Kind::Later));
            }
            lane.turn();
            lane.forget_sent();
        }
        assert_eq!(
            backends.len(),
            clients as usize,
            "every client has a backend"
        );
        assert_eq!(
            self.sessions(),
            clients as usize,
            "every client has a session"
        );
        backends
    }
}

fn service(plan: Plan, size: Size, number: u32) -> Service {
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
        no_backend: NoBackend::Drop,
        timeouts: Timeouts {
            udp: size.udp_timeout,
            ..Timeouts::default()
        },
    }
}
