//! Puts together what the balancer says of itself, from what the controller published and from
//! the counters as they are.
//!
//! Invariant: it reads and never waits: a status can be had while a module compiles, a reload is
//! checked or a worker is stuck.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Instant, SystemTime};

use tokio::sync::watch;
use waxwing_dataplane::counters::{Distribution, Traffic, WorkerCounters};
use waxwing_dataplane::session::{Phase, Session, SessionTable};
use waxwing_dataplane::{Backend, BackendId, DropReason, Gauges, Now, Service, Snapshot, SourceId};
use waxwing_packet::{Address, Family, Protocol};
use waxwing_plugin::checks::CheckHost;
use waxwing_plugin::{BuildsInUse, Host};

use crate::catalog::{BackendKey, backend_key, key_of};
use crate::config::{self, Config};
use crate::facts::HostFacts;
use crate::health::{Health, State};
use crate::neighbours::{HopStates, Resolver};
use crate::next_hop::HopState;
use crate::signals;
use crate::status::{
    BackendStatus, BatchTimes, BuildStatus, ConfigStatus, NextHopStatus, PortStatus, ReloadStatus,
    ReturnPathStatus, ServiceHealthStatus, ServiceStatus, SessionStatus, SessionsStatus,
    SourceStatus, Status, TrafficStatus, WorkerStatus,
};

/// What only the I/O side knows of the ports: how they are attached, and their sockets' numbers.
pub trait PortFacts: Send + Sync {
    /// Every port, in the order of their ids. [`PortStatus::link_up`], `mac` and `mtu` are filled
    /// in by the caller.
    fn ports(&self) -> Vec<PortStatus>;

    /// The largest MTU of which frames fit the memory that was laid out at the start, in bytes.
    fn mtu_max(&self) -> u32;
}

/// What the controller last put into effect.
#[derive(Clone)]
pub(crate) struct View {
    pub(crate) config: Arc<Config>,
    pub(crate) loaded_at: SystemTime,
    pub(crate) snapshot: Arc<Snapshot>,
    /// By the place of a policy in [`Config::policies`].
    pub(crate) modules: Vec<BuildsInUse>,
    pub(crate) last_reload: Option<ReloadStatus>,
    /// What is wrong, by what it is about.
    pub(crate) problems: Vec<String>,
}

/// Reads everything that is worth telling.
pub(crate) struct Reporter {
    pub(crate) started: Instant,
    pub(crate) view: Mutex<Arc<View>>,
    pub(crate) sessions: Arc<SessionTable>,
    pub(crate) gauges: Arc<Gauges>,
    pub(crate) counters: Vec<Arc<WorkerCounters>>,
    pub(crate) ports: Box<dyn PortFacts>,
    pub(crate) facts: watch::Receiver<Arc<HostFacts>>,
    pub(crate) resolver: Arc<Resolver>,
    pub(crate) host: Arc<Host>,
    pub(crate) check_host: Arc<CheckHost>,
    pub(crate) health: Arc<Health>,
    /// What had been counted under an id when its present backend got it.
    pub(crate) earlier: Mutex<HashMap<BackendId, Totals>>,
}

/// What all workers counted of a backend.
#[derive(Clone, Copy, Default)]
pub(crate) struct Totals {
    sessions: u64,
    refused: u64,
    unanswered: u64,
    repeated: u64,
    forward: TrafficStatus,
    reply: TrafficStatus,
}

impl Reporter {
    /// Takes note of the backends that `new` gives an id to: an id may have been another's before,
    /// and the workers' counters only ever count up. To be called before the workers are sent
    /// `new`.
    pub(crate) fn note_new_backends(&self, old: &Snapshot, new: &Snapshot) {
        let mut earlier = self.earlier.lock().unwrap_or_else(PoisonError::into_inner);
        for id in new.backends().map(|backend| backend.id) {
            if old.backend(id).is_none() {
                self.gauges.forget(id);
                earlier.insert(id, self.totals(id));
            }
        }
    }

    /// Sessions that were made on a backend, and those that it refused or never answered.
    pub(crate) fn sessions_and_failures(&self, id: BackendId) -> (u64, u64) {
        let totals = self.totals(id);
        (totals.sessions, totals.refused + totals.unanswered)
    }

    /// Clients' connections that a backend refused, or whose first SYN it did not answer.
    pub(crate) fn failed_connections(&self, id: BackendId) -> u64 {
        let totals = self.totals(id);
        totals.refused + totals.repeated
    }

    /// Everything counted under an id since the start.
    fn totals(&self, id: BackendId) -> Totals {
        let mut totals = Totals::default();
        for counters in self.counters.iter().map(|worker| worker.backend(id)) {
            totals.sessions += counters.sessions.get();
            totals.refused += counters.refused.get();
            totals.unanswered += counters.unanswered.get();
            totals.repeated += counters.syn_repeated.get();
            add(&mut totals.forward, &counters.forward);
            add(&mut totals.reply, &counters.reply);
        }
        totals
    }

    pub(crate) fn view(&self) -> Arc<View> {
        Arc::clone(&self.view.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn set_view(&self, view: View) {
        *self.view.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(view);
    }

    pub(crate) fn has_service(&self, name: &str) -> bool {
        self.view()
            .snapshot
            .services()
            .any(|service| &*service.name == name)
    }

    pub(crate) fn service_names(&self) -> Vec<String> {
        self.view()
            .snapshot
            .services()
            .map(|service| service.name.to_string())
            .collect()
    }

    /// Whether each service can be served.
    pub(crate) fn health(&self) -> Vec<ServiceHealthStatus> {
        let view = self.view();
        let is_up = |id: &&BackendId| {
            let backend = view.snapshot.backend(**id);
            backend.is_some_and(|backend| {
                backend.takes_new() && self.health.state(key_of(backend)) != State::Checking
            })
        };
        let status = |service: &Service| ServiceHealthStatus {
            service: service.name.to_string(),
            backends: service.backends.len(),
            up: service.backends.iter().filter(is_up).count(),
        };
        view.snapshot.services().map(status).collect()
    }

    /// Everything.
    pub(crate) fn status(&self) -> Status {
        let view = self.view();
        Status {
            version: env!("CARGO_PKG_VERSION").into(),
            pid: std::process::id(),
            uptime_s: self.started.elapsed().as_secs(),
            config: ConfigStatus {
                path: view.config.source().path().display().to_string(),
                generation: view.snapshot.generation,
                loaded_at: seconds(view.loaded_at),
                last_reload: view.last_reload.clone(),
            },
            mode: view.config.mode.value.label().to_owned(),
            problems: view.problems.clone(),
            ports: self.ports(),
            return_path: self.return_path(&view),
            workers: self
                .counters
                .iter()
                .enumerate()
                .map(|(n, c)| worker(n, c))
                .collect(),
            sessions: self.table(),
            source_nat: self.sources(&view),
            services: self.services(&view),
            retired: self.retired(&view),
            modules: self.host.status(),
            checks: self.check_host.status(),
            health_checks: self.health.checks_status(),
        }
    }

    fn ports(&self) -> Vec<PortStatus> {
        let facts = self.facts.borrow().clone();
        let mut ports = self.ports.ports();
        for port in &mut ports {
            let link = facts.link(&port.interface);
            port.link_up = link.map(|link| link.up && link.carrier);
            port.mac = link
                .and_then(|link| link.mac)
                .map(|m| m.to_string())
                .unwrap_or_default();
            port.mtu = link.map(|link| link.mtu).unwrap_or_default();
        }
        ports
    }

    fn return_path(&self, view: &View) -> ReturnPathStatus {
        let known = self.resolver.returns();
        let gateways = known.gateways.iter();
        ReturnPathStatus {
            mode: if known.by_routes { "route" } else { "last-hop" }.into(),
            routes: known.routes,
            gateways: gateways
                .map(|(_, hop)| hop_status(hop, &view.snapshot))
                .collect(),
            problem: known.problem.clone(),
        }
    }

    fn table(&self) -> SessionsStatus {
        let (max, memory_bytes) = (self.sessions.capacity(), self.sessions.memory_bytes());
        #[expect(clippy::cast_precision_loss, reason = "a ratio for people")]
        let bytes_per_session = memory_bytes as f64 / max.max(1) as f64;
        SessionsStatus {
            active: self.sessions.len(),
            max,
            memory_bytes,
            bytes_per_session,
        }
    }

    fn services(&self, view: &View) -> Vec<ServiceStatus> {
        let hops = self.resolver.states();
        let names = backend_names(&view.config);
        let by_endpoint = |entry| Some((entry, service_of(entry, &view.snapshot)?));
        let policies = view.config.policies();
        let mut counters: HashMap<&str, _> = HashMap::new();
        for policy in &policies {
            counters.insert(policy, self.host.counters(policy));
        }
        let status = |(entry, service): (&config::Service, &Service)| {
            let backends: Vec<BackendStatus> = service
                .backends
                .iter()
                .filter_map(|id| view.snapshot.backend(*id))
                .map(|backend| {
                    let known = self.health.status(key_of(backend), &entry.health);
                    BackendStatus {
                        health: Some(known),
                        ..self.backend(backend, &view.snapshot, &names, &entry.signals, &hops)
                    }
                })
                .collect();
            ServiceStatus {
                name: service.name.to_string(),
                vip: service.vip.to_string(),
                port: service.ports.into(),
                protocol: service.protocol.to_string(),
                policy: policies
                    .get(service.policy)
                    .map(ToString::to_string)
                    .unwrap_or_default(),
                module: view
                    .modules
                    .get(service.policy)
                    .map(|module| BuildStatus::from(&**module.majority())),
                active: backends
                    .iter()
                    .map(|backend| u64::from(backend.active))
                    .sum(),
                counters: counters
                    .get(&*entry.policy.value)
                    .and_then(|of_module| of_module.get(&service.name))
                    .cloned()
                    .unwrap_or_default(),
                backends,
            }
        };
        view.config
            .services
            .iter()
            .filter_map(by_endpoint)
            .map(status)
            .collect()
    }

    /// Source addresses, those included that were removed and have sessions.
    fn sources(&self, view: &View) -> Vec<SourceStatus> {
        let status = |(id, address): (SourceId, Address)| {
            let of =
                |table: &&config::SourceNat| table.addresses.iter().any(|it| it.value == address);
            let table = view.config.source_nat.iter().find(of);
            SourceStatus {
                address: address.to_string(),
                ports: table.map(|table| table.ports.to_string()),
                active: self.gauges.active_from(id),
            }
        };
        view.snapshot.sources().iter().map(status).collect()
    }

    /// Backends in the snapshot that no service lists.
    fn retired(&self, view: &View) -> Vec<BackendStatus> {
        let hops = self.resolver.states();
        let listed: std::collections::HashSet<BackendId> = view
            .snapshot
            .services()
            .flat_map(|s| s.backends.iter().copied())
            .collect();
        view.snapshot
            .backends()
            .filter(|backend| !listed.contains(&backend.id))
            .map(|backend| self.backend(backend, &view.snapshot, &HashMap::new(), &[], &hops))
            .collect()
    }

    fn backend(
        &self,
        backend: &Backend,
        snapshot: &Snapshot,
        names: &HashMap<BackendKey, String>,
        signal_names: &[Arc<str>],
        hops: &HopStates,
    ) -> BackendStatus {
        let now = self.totals(backend.id);
        let earlier = self.earlier.lock().unwrap_or_else(PoisonError::into_inner);
        let before = earlier.get(&backend.id).copied().unwrap_or_default();
        BackendStatus {
            name: names.get(&key_of(backend)).cloned(),
            address: backend.address.to_string(),
            port: (backend.port != Backend::PORT_KEPT).then_some(backend.port),
            weight: backend.weight,
            healthy: backend.healthy,
            health: None,
            active: self.gauges.active(backend.id),
            sessions: now.sessions - before.sessions,
            refused: now.refused - before.refused,
            unanswered: now.unanswered - before.unanswered,
            repeated: now.repeated - before.repeated,
            sessions_per_s: self.gauges.sessions_per_s(backend.id),
            failures_ppm: self.gauges.failures_ppm(backend.id),
            latency_us: self.gauges.latency_us(backend.id),
            signals: signals::named(signal_names, self.gauges.signals(backend.id)),
            forward: since(now.forward, before.forward),
            reply: since(now.reply, before.reply),
            next_hop: next_hop(backend.address, snapshot, hops),
        }
    }

    /// Every session, or one service's, as the table is walked.
    pub(crate) fn sessions(&self, service: Option<&str>) -> impl Iterator<Item = SessionStatus> {
        let view = self.view();
        let now = Now::from_start(self.started.elapsed());
        let wanted = service.and_then(|name| {
            view.snapshot
                .services()
                .find(|service| &*service.name == name)
                .map(|s| s.id)
        });
        self.sessions.iter().filter_map(move |(_, session)| {
            // One of a backend so new that this view does not know it: left out.
            let backend = view.snapshot.backend(session.backend)?;
            if wanted.is_some_and(|wanted| wanted != backend.service) {
                return None;
            }
            Some(session_status(&session, backend, &view.snapshot, now))
        })
    }
}

/// A config's service in the snapshot that was made of it.
pub(crate) fn service_of<'a>(
    entry: &config::Service,
    snapshot: &'a Snapshot,
) -> Option<&'a Service> {
    snapshot.service_of(entry.vip.value, entry.ports.value, entry.protocol.value)
}

/// The names that the config gives to backends.
fn backend_names(config: &Config) -> HashMap<BackendKey, String> {
    let named = |service: &config::Service| -> Vec<(BackendKey, String)> {
        let names = service.backends.iter().filter_map(|backend| {
            let name = backend.name.as_ref()?.value.to_string();
            Some((backend_key(service, backend), name))
        });
        names.collect()
    };
    config.services.iter().flat_map(named).collect()
}

fn next_hop(address: Address, snapshot: &Snapshot, hops: &HopStates) -> NextHopStatus {
    let Some(hop) = hops.get(&address) else {
        return NextHopStatus {
            state: "not looked up yet".into(),
            ..NextHopStatus::default()
        };
    };
    hop_status(hop, snapshot)
}

fn hop_status(hop: &HopState, snapshot: &Snapshot) -> NextHopStatus {
    let port = hop.port.and_then(|port| snapshot.port(port));
    let tags = port.map_or(&[][..], |port| port.tags.as_slice());
    NextHopStatus {
        resolved: hop.is_resolved(),
        via: hop.via.map(Into::into),
        interface: port.map(|port| port.name.to_string()),
        vlans: tags.iter().map(|tag| tag.tci & 0xfff).collect(),
        mac: hop.mac.map(|mac| mac.to_string()),
        state: hop.condition.to_string(),
    }
}

fn worker(number: usize, counters: &WorkerCounters) -> WorkerStatus {
    let drops = DropReason::ALL
        .iter()
        .map(|reason| (reason.label().to_owned(), counters.dropped(*reason).get()))
        .filter(|(_, count)| *count > 0)
        .collect();
    WorkerStatus {
        worker: number,
        received: traffic(&counters.received),
        transmitted: traffic(&counters.transmitted),
        to_kernel: counters.to_kernel.get(),
        bridged: counters.bridged.get(),
        held: counters.held.get(),
        released: counters.released.get(),
        answered: counters.answered.get(),
        announced: counters.announced.get(),
        batches: counters.batches.get(),
        batch_times: batch_times(&counters.batch_times()),
        expired: counters.expired.get(),
        evicted: counters.evicted.get(),
        rejected: counters.rejected.get(),
        reset: counters.reset.get(),
        repicked: counters.repicked.get(),
        errors_passed: counters.errors_passed.get(),
        told_hop_limit: counters.told_hop_limit.get(),
        told_too_big: counters.told_too_big.get(),
        by_last_hop: counters.by_last_hop.get(),
        cut: counters.cut.get(),
        fallback: counters.fallback.get(),
        epochs: counters.epochs.get(),
        drops,
    }
}

fn batch_times(times: &Distribution) -> BatchTimes {
    let quantile = |q| times.quantile_us(q).unwrap_or_default();
    BatchTimes {
        p50_us: quantile(0.5),
        p99_us: quantile(0.99),
        p999_us: quantile(0.999),
        buckets: times.buckets().collect(),
    }
}

fn traffic(traffic: &Traffic) -> TrafficStatus {
    TrafficStatus {
        packets: traffic.packets.get(),
        bytes: traffic.bytes.get(),
    }
}

fn add(sum: &mut TrafficStatus, traffic: &Traffic) {
    sum.packets += traffic.packets.get();
    sum.bytes += traffic.bytes.get();
}

fn since(now: TrafficStatus, before: TrafficStatus) -> TrafficStatus {
    TrafficStatus {
        packets: now.packets - before.packets,
        bytes: now.bytes - before.bytes,
    }
}

fn session_status(
    session: &Session,
    backend: &Backend,
    snapshot: &Snapshot,
    now: Now,
) -> SessionStatus {
    let vip = endpoint(backend.vip, session.service_port);
    let translated = !session.source.is_client() || session.source_port != session.client_port;
    let source = snapshot.seen_by_backend(session).filter(|_| translated);
    let tick_ms = |since: u32| u64::from(since) * 100;
    SessionStatus {
        service: snapshot
            .service(backend.service)
            .map_or_else(|| vip.clone(), |service| service.name.to_string()),
        protocol: session.protocol.to_string(),
        client: endpoint(session.client, session.client_port),
        vip,
        source: source.map(|source| endpoint(source, session.source_port)),
        backend: endpoint(backend.address, backend.port_for(session.service_port)),
        phase: (session.protocol == Protocol::Tcp).then(|| phase(session.tcp.phase()).to_owned()),
        age_ms: tick_ms(now.tick().since(session.created)),
        idle_ms: tick_ms(now.tick().since(session.seen)),
    }
}

const fn phase(phase: Phase) -> &'static str {
    match phase {
        Phase::HalfOpen => "half-open",
        Phase::Established => "established",
        Phase::Closing => "closing",
    }
}

/// An address and port as a URL writes them: an IPv6 address in brackets.
fn endpoint(address: Address, port: u16) -> String {
    match address.family() {
        Family::V4 => format!("{address}:{port}"),
        Family::V6 => format!("[{address}]:{port}"),
    }
}

pub(crate) fn seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}
