//! Builds the status from the controller's published view and the current counters.
//!
//! Invariant: it only reads and never waits. A status is available while a module compiles, a reload is
//! checked or a worker is stuck.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use waxwing_dataplane::counters::{Distribution, Traffic, WorkerCounters};
use waxwing_dataplane::path::SharedState;
use waxwing_dataplane::session::SessionTable;
use waxwing_dataplane::{Backend, BackendId, DropReason, Gauges, Service, Snapshot, SourceId};
use waxwing_packet::Address;
use waxwing_plugin::checks::CheckHost;
use waxwing_plugin::{Host, ModuleValues};

use crate::admin::filter::{NoSuchService, ServiceFilter};
use crate::admin::flood::FloodWatch;
use crate::admin::log::LogState;
use crate::admin::ports::AttachedPorts;
use crate::admin::signals;
use crate::admin::status::{
    BackendStatus, BatchTimes, BuildStatus, ConfigStatus, NextHopStatus, PortStatus,
    ReturnPathStatus, ServiceStatus, SessionsStatus, SourceStatus, Status, TrafficStatus,
    WorkerStatus,
};
use crate::admin::symptoms::Symptoms;
use crate::config;
use crate::health::{HealthMonitor, HealthState};
use crate::network::hop_state::HopState;
use crate::network::resolver::{HopStates, Resolver};
use crate::publish::counter_totals::CounterTotals;
use crate::publish::keys::{service_in, snapshot_key};
use crate::publish::view::{CurrentView, View};
use crate::time::unix_seconds;

/// Everything that the status is built from.
pub(crate) struct Reporter {
    pub(crate) started: Instant,
    /// The zero of the workers' clock.
    pub(crate) clock_zero: Instant,
    pub(crate) started_at: SystemTime,
    pub(crate) view: Arc<CurrentView>,
    pub(crate) sessions: Arc<SessionTable>,
    pub(crate) gauges: Arc<Gauges>,
    /// All tables of the workers.
    pub(crate) shared: SharedState,
    pub(crate) counters: Arc<CounterTotals>,
    pub(crate) ports: Arc<dyn AttachedPorts>,
    pub(crate) resolver: Arc<Resolver>,
    pub(crate) policy_host: Arc<Host>,
    /// Given to the policies.
    pub(crate) policy_seed: u64,
    pub(crate) check_host: Arc<CheckHost>,
    pub(crate) health: Arc<HealthMonitor>,
    pub(crate) log: Arc<LogState>,
    pub(crate) flood: FloodWatch,
    pub(crate) symptoms: Symptoms,
}

impl Reporter {
    /// Returns the filter for a pattern of service names.
    pub(crate) fn filter(&self, pattern: Option<String>) -> Result<ServiceFilter, NoSuchService> {
        let view = self.view.get();
        let names = view.snapshot.services().map(|service| &*service.name);
        ServiceFilter::new(pattern, &names.collect::<Vec<_>>())
    }

    /// Returns the filter for a pattern of names of services that may have sessions: removed ones too.
    pub(crate) fn session_filter(
        &self,
        pattern: Option<String>,
    ) -> Result<ServiceFilter, NoSuchService> {
        let (view, removed) = (self.view.get(), self.health.removed());
        let names = view.snapshot.services().map(|service| &*service.name);
        let removed = removed.values().map(|removed| &*removed.service);
        ServiceFilter::new(pattern, &names.chain(removed).collect::<Vec<_>>())
    }

    pub(crate) fn status(&self, filter: &ServiceFilter) -> Status {
        let view = self.view.get();
        Status {
            version: env!("CARGO_PKG_VERSION").into(),
            pid: std::process::id(),
            uptime_s: self.started.elapsed().as_secs(),
            config: ConfigStatus {
                path: view.config.source().path().display().to_string(),
                generation: view.snapshot.generation,
                loaded_at: unix_seconds(view.loaded_at),
                last_reload: view.last_reload.clone(),
            },
            mode: view.config.mode.value.label().to_owned(),
            problems: self.problems(&view),
            log: self.log.status(),
            ports: self.ports(),
            frames: self.ports.frames(),
            return_path: self.return_path(&view),
            workers: self.workers(&view.snapshot),
            sessions: self.table(),
            source_nat: self.sources(&view),
            services: self.services(&view, filter),
            retired: self.retired(&view),
            module_files: self.policy_host.folder_problems(),
            modules: self.policy_host.status(),
            checks: self.check_host.status(),
            health_checks: self.health.checks_status(self.check_host.at_once()),
        }
    }

    pub(super) fn workers(&self, snapshot: &Snapshot) -> Vec<WorkerStatus> {
        let workers = self.counters.workers().iter().enumerate();
        workers
            .map(|(number, counters)| self.worker(snapshot, number, counters))
            .collect()
    }

    fn worker(
        &self,
        snapshot: &Snapshot,
        number: usize,
        counters: &WorkerCounters,
    ) -> WorkerStatus {
        let mut status = worker(number, counters);
        for backend in snapshot.backends() {
            let sessions = self.gauges.sessions_here(number, backend.id);
            status.sessions_active += u64::from(sessions.active);
            status.sessions_half_open += u64::from(sessions.half_open);
            status.sessions_closing += u64::from(sessions.closing);
        }
        status
    }

    pub(super) fn problems(&self, view: &View) -> Vec<String> {
        let log = self.log.status().problem;
        let log = log.map(|why| format!("lines of the log are dropped: {why}"));
        let flood = self.flood.problem(&self.sessions);
        let problems = view.problems.iter().cloned();
        let modules = self.policy_host.problem();
        let passes_checks = |backend: &Backend| {
            let state = self.health.state(snapshot_key(backend));
            state.is_some_and(|(state, _)| state == HealthState::Up)
        };
        let symptoms = self.symptoms.problems(&view.snapshot, passes_checks);
        let problems = problems.chain(log).chain(flood).chain(modules);
        let uneven = self.symptoms.uneven(view, &self.sessions);
        problems.chain(symptoms).chain(uneven).collect()
    }

    pub(super) fn ports(&self) -> Vec<PortStatus> {
        let host = self.resolver.host().borrow().clone();
        let mut ports = self.ports.ports();
        for port in &mut ports {
            let link = host.link(&port.interface);
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
        let known = self.resolver.return_state();
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
            used: self.sessions.len(),
            max,
            memory_bytes,
            bytes_per_session,
        }
    }

    pub(super) fn services(&self, view: &View, filter: &ServiceFilter) -> Vec<ServiceStatus> {
        let hops = self.resolver.states();
        let by_endpoint = |entry| Some((entry, service_in(&view.snapshot, entry)?));
        let policies = view.config.policies();
        let mut counters: HashMap<&str, _> = HashMap::new();
        for policy in &policies {
            counters.insert(policy, self.policy_host.counters(policy));
        }
        let status = |(entry, service): (&config::Service, &Service)| {
            // The snapshot was made from this config, and has its backends in the same order.
            let backends = entry.backends.iter().zip(&service.backends);
            let backends: Vec<BackendStatus> = backends
                .filter_map(|(configured, id)| {
                    let backend = view.snapshot.backend(*id)?;
                    Some(BackendStatus {
                        name: configured.name.as_ref().map(|name| name.value.to_string()),
                        configured_weight: Some(configured.weight),
                        added: configured.is_added,
                        health: Some(self.health.status(snapshot_key(backend), &entry.health)),
                        ..self.backend(backend, &view.snapshot, &entry.signals, &hops)
                    })
                })
                .collect();
            let own = counters
                .get(&*entry.policy.value)
                .and_then(|of_module| of_module.get(&service.name));
            let ModuleValues { counters, gauges } = own.cloned().unwrap_or_default();
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
                active: sum(&backends, |backend| backend.active),
                half_open: sum(&backends, |backend| backend.half_open),
                closing: sum(&backends, |backend| backend.closing),
                counters,
                gauges,
                backends,
            }
        };
        view.config
            .services
            .iter()
            .filter(|entry| filter.passes(&entry.name.value))
            .filter_map(by_endpoint)
            .map(status)
            .collect()
    }

    /// Returns the source addresses, including removed ones that still have sessions.
    fn sources(&self, view: &View) -> Vec<SourceStatus> {
        let status = |(id, address): (SourceId, Address)| {
            let mut tables = view.config.source_nat.iter();
            let table = tables.find(|table| table.addresses.iter().any(|it| it.value == address));
            SourceStatus {
                address: address.to_string(),
                ports: table.map(|table| table.ports.to_string()),
                sessions: self.gauges.sessions_from(id),
            }
        };
        view.snapshot.sources().iter().map(status).collect()
    }

    /// Returns the backends in the snapshot that no service lists.
    fn retired(&self, view: &View) -> Vec<BackendStatus> {
        let hops = self.resolver.states();
        let listed: HashSet<BackendId> = view
            .snapshot
            .services()
            .flat_map(|s| s.backends.iter().copied())
            .collect();
        let removed = self.health.removed();
        let status = |backend: &Backend| {
            let known = removed.get(&snapshot_key(backend));
            let name = known.and_then(|known| known.entry.name.as_ref());
            BackendStatus {
                name: name.map(|name| name.value.to_string()),
                removed_from: known.map(|known| known.service.to_string()),
                health: known.map(|known| self.health.status_of_removed(known)),
                ..self.backend(backend, &view.snapshot, &[], &hops)
            }
        };
        view.snapshot
            .backends()
            .filter(|backend| !listed.contains(&backend.id))
            .map(status)
            .collect()
    }

    fn backend(
        &self,
        backend: &Backend,
        snapshot: &Snapshot,
        signal_names: &[Arc<str>],
        hops: &HopStates,
    ) -> BackendStatus {
        let gauges = &self.gauges;
        let totals = self.counters.of(backend.id, gauges);
        let sessions = gauges.sessions(backend.id);
        let failures = gauges.failure_rate(backend.id);
        BackendStatus {
            name: None,
            removed_from: None,
            address: backend.address.to_string(),
            port: (backend.port != Backend::PORT_KEPT).then_some(backend.port),
            configured_weight: None,
            added: false,
            weight: backend.weight,
            healthy: backend.healthy,
            health: None,
            active: sessions.active,
            half_open: sessions.half_open,
            closing: sessions.closing,
            sessions: totals.sessions,
            refused: totals.refused,
            unanswered: totals.unanswered,
            syn_retransmitted: totals.syn_retransmitted,
            sessions_per_s: gauges.sessions_per_s(backend.id),
            failures_ppm: failures.ppm,
            failure_samples: failures.samples,
            latency_us: gauges.latency_us(backend.id),
            first_byte_us: gauges.samples().first_byte_us(backend.id),
            signals: signals::named(signal_names, gauges.signals(backend.id)),
            forward: totals.forward,
            reply: totals.reply,
            sampled_forward: totals.sampled[0],
            sampled_reply: totals.sampled[1],
            next_hop: next_hop(backend.address, snapshot, hops),
        }
    }
}

fn next_hop(address: Address, snapshot: &Snapshot, hops: &HopStates) -> NextHopStatus {
    let Some(hop) = hops.get(&address) else {
        return NextHopStatus {
            state: "route not looked up yet".into(),
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

fn sum(backends: &[BackendStatus], of: fn(&BackendStatus) -> u32) -> u64 {
    backends.iter().map(|backend| u64::from(of(backend))).sum()
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
        fragments_held: counters.held.get(),
        fragments_released: counters.released.get(),
        requests_answered: counters.responded.get(),
        announcements_sent: counters.announced.get(),
        batches: counters.batches.get(),
        batch_times: batch_times(&counters.batch_times()),
        sessions_opened: counters.opened.get(),
        sessions_assured: counters.assured.get(),
        sessions_expired: counters.expired.get(),
        sessions_evicted: counters.evicted.get(),
        sessions_rejected: counters.rejected.get(),
        unserved_rejected: counters.unserved_rejected.get(),
        sessions_reset: counters.reset.get(),
        sessions_moved: counters.repicked.get(),
        icmp_errors_forwarded: counters.icmp_errors_forwarded.get(),
        time_exceeded_sent: counters.time_exceeded_sent.get(),
        too_big_sent: counters.too_big_sent.get(),
        last_hop_fallbacks: counters.last_hop_fallbacks.get(),
        packets_fragmented: counters.packets_fragmented.get(),
        fallback_choices: counters.fallback.get(),
        epochs: counters.epochs.get(),
        drops,
        ..WorkerStatus::default()
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
