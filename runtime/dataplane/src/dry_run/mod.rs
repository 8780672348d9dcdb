//! What would happen to a client's packet: the forwarder itself runs on copies of the tables, and keeps what
//! it would send.
//!
//! Invariant: there is no second way to decide. Nothing that a worker reads changes, and no frame leaves.
//!
//! The copied table holds only the sessions that matter: the flow's own, and those that have the source
//! endpoint which the flow would get.

mod frame;

use std::sync::{Arc, Mutex};

use waxwing_packet::{Ethernet, Link, Mac, VlanTags};

use crate::counters::WorkerCounters;
pub use crate::fate::Fate;
use crate::fate::Marks;
use crate::locks::lock;
use crate::model::{Backend, Faces, Port, Release};
use crate::path::{Forwarder, SharedState, find_session};
use crate::policy::{PickContext, Vacant};
use crate::session::{Phase, Session, TableError, Tuple};
use crate::{
    BATCH, BackendId, Epoch, FragmentLimits, FragmentTable, NewFlow, Now, Pick, Policy,
    PolicyFault, PortId, ServiceId, Snapshot,
};
use frame::{Arrival, DryFrame, DryIo};

/// How often a policy is asked for one flow, to see whether the flow alone decides.
const ASKED: usize = 8;
/// How many sessions that have the flow's source endpoint are taken into account.
const CLASHES_MAX: usize = 32;
/// The sender of a packet whose gateway is not known.
const UNKNOWN_SENDER: Mac = Mac([0x02, 0, 0, 0, 0, 0x01]);

/// The tables of a running balancer.
pub struct DryRun<'a> {
    pub shared: &'a SharedState,
    pub snapshot: &'a Arc<Snapshot>,
    /// Keys the hash that policies see.
    pub cluster_key: [u64; 4],
    pub now: Now,
}

/// A session of the running balancer.
#[derive(Clone, Copy, Debug)]
pub struct OpenSession {
    pub session: Session,
    /// Its frames' bytes in both directions; 0 unless its service's policy wants closed sessions.
    pub bytes: u64,
}

/// What would happen to a flow.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The session afterwards: the one there is, or the one that the request would open.
    pub session: Option<Session>,
    /// The policy's picks when asked several times; empty if it was not asked.
    pub picks: Vec<Result<Pick, PolicyFault>>,
    /// Whether the native fallback chose.
    pub is_fallback: bool,
    /// Whether the session that there is ends before the packet.
    pub has_ended: bool,
    pub request: Passage,
    /// The backend's answer.
    pub reply: Option<Passage>,
    /// A packet of the client as long as was asked, which must not be fragmented.
    pub large: Option<Passage>,
}

/// What would happen to a packet.
#[derive(Clone, Debug)]
pub struct Passage {
    /// Where it arrives: an attached port, or a VLAN.
    pub port: PortId,
    pub fate: Fate,
    /// What leaves.
    pub sent: Option<Sent>,
    /// Whether the kernel's route to the client could not be used.
    pub is_last_hop: bool,
}

/// A frame that would leave.
#[derive(Clone, Debug)]
pub struct Sent {
    /// The port, or the VLAN on it.
    pub port: PortId,
    pub ethernet: Ethernet,
    /// Its addresses and ports, if it is TCP or UDP.
    pub tuple: Option<Tuple>,
}

impl DryRun<'_> {
    /// The session of a client's flow.
    #[must_use]
    pub fn session(&self, flow: &Tuple) -> Option<OpenSession> {
        let sessions = &self.shared.sessions;
        let (at, session) = find_session(sessions, self.snapshot, flow)?;
        let bytes = sessions.bytes(at).unwrap_or_default();
        Some(OpenSession { session, bytes })
    }

    /// Where a client's packets arrive: by its session's return hop, else by the first port that does not
    /// face servers, else by the first one.
    #[must_use]
    pub fn arrival(&self, session: Option<&Session>) -> PortId {
        let ports = self.snapshot.ports();
        let named = session.map(|session| self.port_of(session.hop.port, &session.tags));
        let faces_clients = |(id, port): &(PortId, &Port)| match port.faces {
            Some(faces) => faces == Faces::Clients,
            None => !self.shared.next_hops.reaches_backends(*id),
        };
        let mut all = (0..).map(PortId).zip(ports);
        named
            .filter(|id| self.snapshot.port(*id).is_some())
            .or_else(|| all.find(faces_clients).map(|(id, _)| id))
            .unwrap_or(PortId(0))
    }

    /// Runs a client's packet: one that opens a session unless there is one. `len` is that of
    /// [`Outcome::large`], in bytes.
    ///
    /// # Errors
    /// There is no memory for the copies.
    pub fn run(
        &self,
        (flow, port, len): (&Tuple, PortId, u16),
        policy: Box<dyn Policy>,
    ) -> Result<Outcome, TableError> {
        let before = self.session(flow).map(|found| found.session);
        let asked = Arc::new(Asked {
            policy: Mutex::new(policy),
            picks: Mutex::default(),
            records: true,
        });
        let mut known: Vec<Session> = before.into_iter().collect();
        let flags = match before {
            Some(session) if session.tcp.phase() != Phase::Closing => frame::GOES_ON,
            _ => frame::OPENS,
        };
        let sender = before.map_or(UNKNOWN_SENDER, |session| session.hop.mac);
        loop {
            let tables = self.copy(&known)?;
            let mut bench = Bench::new(self, tables, Arc::clone(&asked));
            let arrival = self.arrival_at(port, sender);
            let request = bench.pass(&arrival, flow, flags, 0);
            let is_fallback = bench.counters.fallback.get() > 0;
            let session = find_session(&bench.shared.sessions, self.snapshot, flow);
            let session = session.map(|(_, session)| session);
            if let Some(session) = session
                && before.is_none()
                && known.len() < CLASHES_MAX
                && let Some(other) = self.clash(&session)
            {
                known.push(other);
                continue;
            }
            let has_ended = before
                .is_some_and(|before| session.is_none_or(|after| after.created != before.created));
            let is_forwarded = request.fate == Fate::Forwarded;
            let opened = session.filter(|_| is_forwarded);
            return Ok(Outcome {
                session,
                picks: lock(&asked.picks).clone(),
                is_fallback,
                has_ended,
                reply: opened.and_then(|session| bench.reply(&session)),
                large: opened.map(|_| bench.pass(&arrival, flow, frame::GOES_ON, usize::from(len))),
                request,
            });
        }
    }

    /// How many of so many flows, which differ from this one in the client's port, each backend would get.
    ///
    /// # Errors
    /// There is no memory for the copies.
    pub fn shares(
        &self,
        (flow, port): (&Tuple, PortId),
        clients: u16,
        policy: Box<dyn Policy>,
    ) -> Result<Vec<(BackendId, usize)>, TableError> {
        let asked = Arc::new(Asked {
            policy: Mutex::new(policy),
            picks: Mutex::default(),
            records: false,
        });
        let mut bench = Bench::new(self, self.copy(&[])?, asked);
        let arrival = self.arrival_at(port, UNKNOWN_SENDER);
        let frames: Vec<DryFrame> = (1..=clients)
            .map(|n| Tuple {
                source_port: flow.source_port.wrapping_add(n).max(1),
                ..*flow
            })
            .map(|flow| DryFrame::new(&arrival, &flow, frame::OPENS, 0))
            .collect();
        let mut frames = frames.into_iter();
        loop {
            let mut batch: Vec<DryFrame> = frames.by_ref().take(BATCH).collect();
            if batch.is_empty() {
                break;
            }
            bench.forward(&mut batch);
        }
        let mut shares: Vec<(BackendId, usize)> = Vec::new();
        for (_, session) in bench.shared.sessions.iter() {
            match shares.iter_mut().find(|(id, _)| *id == session.backend) {
                Some((_, count)) => *count += 1,
                None => shares.push((session.backend, 1)),
            }
        }
        Ok(shares)
    }

    /// The session that has a new one's endpoint towards its backend.
    fn clash(&self, session: &Session) -> Option<Session> {
        let reply = self.reply_of(session)?;
        let found = find_session(&self.shared.sessions, self.snapshot, &reply);
        found.map(|(_, other)| other)
    }

    /// The tuple of a session's replies.
    fn reply_of(&self, session: &Session) -> Option<Tuple> {
        let backend = self.snapshot.backend(session.backend)?;
        let server = (backend.address, backend.port_for(session.service_port));
        let seen = self.snapshot.seen_by_backend(session)?;
        let client = (seen, session.source_port);
        Some(frame::tuple(session.protocol, server, client))
    }

    /// Copies the tables, with these sessions.
    fn copy(&self, known: &[Session]) -> Result<SharedState, TableError> {
        const SESSIONS: u32 = 1024;
        let shared = self.shared;
        let sessions = shared.sessions.empty_like(SESSIONS)?;
        let mut slots = sessions.slot_cache();
        for session in known {
            let (Some(reply), Some(backend)) = (
                self.reply_of(session),
                self.snapshot.backend(session.backend),
            ) else {
                continue;
            };
            let hashes = [request_of(session, backend), reply].map(|tuple| sessions.hash(&tuple));
            let no = |_: &Session| false;
            sessions.insert(&mut slots, hashes[0], hashes[1], session, no, no);
        }
        let fragments = FragmentLimits {
            datagrams: 1,
            held: 1,
            ..FragmentLimits::default()
        };
        Ok(SharedState {
            sessions: Arc::new(sessions),
            next_hops: Arc::new(shared.next_hops.copy()),
            gauges: Arc::new(shared.gauges.copy()),
            fragments: Arc::new(FragmentTable::new(fragments, [0; 4])),
            // Written only for packets that are sent to no VIP.
            direct: Arc::clone(&shared.direct),
            source_rates: Arc::new(shared.source_rates.copy()),
        })
    }

    fn arrival_at(&self, id: PortId, sender: Mac) -> Arrival {
        let port = self.snapshot.port(id);
        Arrival {
            port: port.map_or(id, |port| port.wire),
            link: Link {
                source: sender,
                destination: port.map_or(UNKNOWN_SENDER, |port| port.mac),
            },
            tags: port.map_or(VlanTags::NONE, |port| port.tags),
        }
    }

    /// The port of frames with these tags on an attached port.
    fn port_of(&self, wire: PortId, tags: &VlanTags) -> PortId {
        let ports = (0..).map(PortId).zip(self.snapshot.ports());
        let mut of_wire = ports.filter(|(_, port)| port.wire == wire);
        let found = of_wire.find(|(_, port)| port.tags.is_same_vlan(tags));
        found.map_or(wire, |(id, _)| id)
    }
}

fn request_of(session: &Session, backend: &Backend) -> Tuple {
    let client = (session.client, session.client_port);
    frame::tuple(
        session.protocol,
        client,
        (backend.vip, session.service_port),
    )
}

/// A policy, and what it answered.
struct Asked {
    policy: Mutex<Box<dyn Policy>>,
    picks: Mutex<Vec<Result<Pick, PolicyFault>>>,
    /// Whether it is asked several times for the first flow, and its first pick is the answer from then on.
    records: bool,
}

struct Recorder(Arc<Asked>);

impl Policy for Recorder {
    fn payload_len(&self) -> usize {
        lock(&self.0.policy).payload_len()
    }

    fn pick(
        &mut self,
        service: ServiceId,
        context: PickContext<'_>,
        flows: &[NewFlow],
        picks: &mut [Pick],
    ) -> Result<(), PolicyFault> {
        let mut policy = lock(&self.0.policy);
        if !self.0.records {
            return policy.pick(service, context, flows, picks);
        }
        let mut known = lock(&self.0.picks);
        for _ in known.len()..ASKED {
            let asked = policy.pick(service, context, flows, picks);
            known.push(asked.map(|()| picks.first().copied().unwrap_or(Pick::Fallback)));
        }
        let first = known.first().copied().unwrap_or(Err(PolicyFault::Disabled));
        picks.fill(first?);
        Ok(())
    }
}

/// A forwarder on copied tables.
struct Bench<'a> {
    run: &'a DryRun<'a>,
    shared: SharedState,
    counters: Arc<WorkerCounters>,
    asked: Arc<Asked>,
}

impl<'a> Bench<'a> {
    fn new(run: &'a DryRun<'a>, shared: SharedState, asked: Arc<Asked>) -> Self {
        Self {
            run,
            shared,
            counters: Arc::new(WorkerCounters::new(0)),
            asked,
        }
    }

    /// Forwards a batch with counters of its own.
    fn forward(&mut self, frames: &mut Vec<DryFrame>) -> DryIo {
        let snapshot = self.run.snapshot;
        let backends = snapshot.backends().map(|it| it.id.index() + 1).max();
        let services = snapshot.services().map(|it| it.id.index() + 1).max();
        let counters = WorkerCounters::new(backends.unwrap_or(0));
        self.counters = Arc::new(counters.with_services(services.unwrap_or(0)));
        let policies = snapshot.services().map(|it| it.policy + 1).max();
        let recorder = || Box::new(Recorder(Arc::clone(&self.asked))) as Box<dyn Policy>;
        let release = Release::held();
        release.give();
        let mut epoch = Epoch {
            snapshot: Arc::clone(snapshot),
            policies: (0..policies.unwrap_or(0)).map(|_| recorder()).collect(),
            kept: Vec::new(),
            release,
        };
        let (shared, counters) = (self.shared.clone(), Arc::clone(&self.counters));
        let mut forwarder = Forwarder::new(shared, counters, 0, self.run.cluster_key, &epoch);
        forwarder.refresh_routes();
        let mut io = DryIo::default();
        forwarder.forward(&mut io, &mut epoch, frames, self.run.now);
        io
    }

    /// Forwards one packet.
    fn pass(&mut self, arrival: &Arrival, tuple: &Tuple, flags: u8, len: usize) -> Passage {
        let io = self.forward(&mut vec![DryFrame::new(arrival, tuple, flags, len)]);
        let sent = io.sent.first().map(|(port, bytes)| self.sent(*port, bytes));
        Passage {
            port: self.run.port_of(arrival.port, &arrival.tags),
            fate: Marks::ZERO.fate(&self.counters),
            sent: sent.flatten(),
            is_last_hop: self.counters.last_hop_fallbacks.get() > 0,
        }
    }

    fn sent(&self, wire: PortId, bytes: &[u8]) -> Option<Sent> {
        let (ethernet, tuple) = frame::read(bytes)?;
        Some(Sent {
            port: self.run.port_of(wire, &ethernet.tags),
            ethernet,
            tuple,
        })
    }

    /// Forwards the backend's answer to the client; `None` if its next hop is not resolved.
    fn reply(&mut self, session: &Session) -> Option<Passage> {
        let hop = self.shared.next_hops.get(session.backend)?;
        let at = match hop.port {
            PortId::ACROSS => self.run.snapshot.port(session.hop.port)?.bridge?.peer,
            port => port,
        };
        let mut arrival = self.run.arrival_at(at, hop.mac);
        if self
            .run
            .snapshot
            .port(at)
            .is_some_and(|port| port.bridge.is_some())
        {
            arrival.link.destination = session.hop.mac;
        }
        let tuple = self.run.reply_of(session)?;
        let flags = match session.tcp.phase() {
            Phase::HalfOpen => frame::ANSWERS,
            Phase::Established | Phase::Closing => frame::GOES_ON,
        };
        Some(self.pass(&arrival, &tuple, flags, 0))
    }
}

/// The policy of a service that has none that serves.
#[must_use]
pub fn no_policy() -> Box<dyn Policy> {
    Box::new(Vacant)
}

/// Whether a flow alone decides what its policy picks.
#[must_use]
pub fn is_decided_by_flow(picks: &[Result<Pick, PolicyFault>]) -> bool {
    picks.windows(2).all(|pair| pair[0] == pair[1])
}
