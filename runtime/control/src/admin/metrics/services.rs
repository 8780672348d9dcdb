//! The metrics of services and their backends.
//!
//! Invariant: a service has a bounded number of series, each of its backends too, and no label is free text.
//! A backend is labelled by what commands call it: its name, or its endpoint if it has none.

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::Arc;

use waxwing_dataplane::counters::{SAMPLED_TIME_UNIT_US, SessionCounts};
use waxwing_dataplane::{Backend, BackendId, DropReason, ServiceId, Snapshot};

use super::text::{Labels, Page};
use crate::admin::filter::ServiceFilter;
use crate::admin::report::Reporter;
use crate::admin::status::SampledStatus;
use crate::config;
use crate::health::{BackendHealth, CheckState, Debounced, HealthState};
use crate::network::hop_state::HopState;
use crate::publish::counter_totals::{BackendTotals, Drops};
use crate::publish::keys::{BackendKey, service_in, snapshot_key};
use crate::publish::view::View;

/// A counter: its name after `waxwing_service_` or `waxwing_backend_`, its help, and its value.
type Row = (&'static str, &'static str, fn(&BackendTotals) -> u64);

const COUNTERS: [Row; 5] = [
    ("sessions_total", "Sessions opened.", |it| it.sessions),
    (
        "refused_total",
        "Sessions that the backend refused: it answered the SYN with an RST.",
        |it| it.refused,
    ),
    (
        "unanswered_total",
        "Sessions that the backend never answered.",
        |it| it.unanswered,
    ),
    (
        "syn_retransmits_total",
        "Sessions whose client retransmitted its SYN because no answer came.",
        |it| it.syn_retransmitted,
    ),
    (
        "icmp_unreachable_total",
        "ICMP errors about sessions, that the backend or its port cannot be reached.",
        |it| it.unreachable,
    ),
];

/// Packets and bytes.
type Traffic = fn(&BackendTotals) -> [u64; 2];

/// The directions of traffic: `forward` to backends, `reply` to clients.
const DIRECTIONS: [(&str, Traffic); 2] = [
    ("forward", |it| [it.forward.packets, it.forward.bytes]),
    ("reply", |it| [it.reply.packets, it.reply.bytes]),
];

/// A counter of sampled TCP sessions: its name after `waxwing_service_sampled_` or
/// `waxwing_backend_sampled_`, its help, and its value.
type SampledRow = (&'static str, &'static str, fn(&SampledStatus) -> u64);

const SAMPLED: [SampledRow; 4] = [
    (
        "sessions",
        "Sampled TCP sessions with data in this direction.",
        |it| it.sessions,
    ),
    (
        "segments",
        "Segments with data in sampled TCP sessions.",
        |it| it.segments,
    ),
    (
        "resent_segments",
        "Segments of those whose data had passed here before: they were retransmitted.",
        |it| it.resent,
    ),
    (
        "stuck_sessions",
        "Sampled TCP sessions in which a large packet was sent four times and never acknowledged.",
        |it| it.stuck,
    ),
];

/// Why packets are dropped whose service is known.
const SERVICE_DROPS: &[DropReason] = &[
    DropReason::Malformed,
    DropReason::MidStream,
    DropReason::NoBackend,
    DropReason::BackendDown,
    DropReason::AnswerLimit,
    DropReason::RefusedRetried,
    DropReason::SpoofedReply,
    DropReason::SpoofedRequest,
    DropReason::Policy,
    DropReason::SessionTableFull,
    DropReason::ServiceFull,
    DropReason::SourceLimit,
    DropReason::TupleClash,
    DropReason::NoSourceAddress,
    DropReason::SourcePorts,
    DropReason::NeighborUnresolved,
    DropReason::NoRoute,
    DropReason::HopLimit,
    DropReason::TooBig,
    DropReason::NoHeadroom,
];

/// Something with counters: a service, or a backend.
struct Counted {
    labels: Labels,
    totals: BackendTotals,
    sessions: SessionCounts,
}

struct ServiceRow<'a> {
    counted: Counted,
    id: ServiceId,
    drops: Drops,
    entry: &'a config::Service,
    takes_new: usize,
}

struct BackendRow {
    counted: Counted,
    id: BackendId,
    weight: u32,
    takes_new: bool,
    state: HealthState,
    is_resolved: bool,
    checks: Vec<CheckRow>,
}

struct CheckRow {
    labels: Labels,
    passes: bool,
    took_s: f64,
}

/// Writes the metrics of the filter's services.
pub(super) fn write(
    reporter: &Reporter,
    view: &View,
    filter: &ServiceFilter,
    page: &mut Page<'_>,
) -> io::Result<()> {
    let services = service_rows(reporter, view, filter);
    let counted: Vec<&Counted> = services.iter().map(|row| &row.counted).collect();
    write_counted("service", &counted, page)?;
    let mut family = page.gauge(
        "waxwing_service_sessions_max",
        "The service's share of the session table; that of a service without one is the table's capacity.",
    )?;
    for ServiceRow { counted, entry, .. } in &services {
        let max = entry.sessions_max.map(|max| max as usize);
        family.sample(&counted.labels, max.unwrap_or(reporter.sessions.capacity()))?;
    }
    let mut family = page.gauge(
        "waxwing_service_backends",
        "Backends, by whether they get new sessions.",
    )?;
    for row in &services {
        let others = row.entry.backends.len().saturating_sub(row.takes_new);
        let labels = &row.counted.labels;
        family.sample_by(labels, ("new_sessions", "yes"), row.takes_new)?;
        family.sample_by(labels, ("new_sessions", "no"), others)?;
    }
    let mut family = page.counter(
        "waxwing_service_drops_total",
        "Packets dropped whose service was known: of its new flows and of its sessions, by reason.",
    )?;
    for row in &services {
        for reason in SERVICE_DROPS {
            let count = row.drops.0[*reason as usize];
            family.sample_by(&row.counted.labels, ("reason", reason.label()), count)?;
        }
    }
    write_times(reporter, &services, page)?;
    module_values(reporter, view, filter, page)?;
    let backends = backend_rows(reporter, view, filter);
    let counted: Vec<&Counted> = backends.iter().map(|row| &row.counted).collect();
    write_counted("backend", &counted, page)?;
    write_backends(reporter, &backends, page)
}

/// Writes how long sampled sessions took.
fn write_times(
    reporter: &Reporter,
    services: &[ServiceRow<'_>],
    page: &mut Page<'_>,
) -> io::Result<()> {
    let times = services
        .iter()
        .map(|row| (&row.counted.labels, reporter.gauges.samples().times(row.id)));
    let times: Vec<_> = times.collect();
    let unit = f64::from(SAMPLED_TIME_UNIT_US);
    let mut family = page.histogram(
        "waxwing_service_connect_seconds",
        "Time from SYN to SYN-ACK in sampled sessions; the sum is up to a quarter too high.",
    )?;
    for (labels, times) in &times {
        family.times(labels, &times.connect, unit)?;
    }
    let mut family = page.histogram(
        "waxwing_service_first_byte_seconds",
        "Time from the client's first data to the server's in sampled TCP sessions; the sum is up to a \
         quarter too high.",
    )?;
    for (labels, times) in &times {
        family.times(labels, &times.first_byte, unit)?;
    }
    Ok(())
}

/// Writes what services and backends have in common.
fn write_counted(what: &str, rows: &[&Counted], page: &mut Page<'_>) -> io::Result<()> {
    for (name, help, value) in COUNTERS {
        let mut family = page.counter(&format!("waxwing_{what}_{name}"), help)?;
        for row in rows {
            family.sample(&row.labels, value(&row.totals))?;
        }
    }
    for (at, name, help) in [
        (0, "packets", "Packets forwarded, by direction."),
        (
            1,
            "bytes",
            "Bytes forwarded, link headers included, by direction.",
        ),
    ] {
        let mut family = page.counter(&format!("waxwing_{what}_{name}_total"), help)?;
        for row in rows {
            for (direction, traffic) in DIRECTIONS {
                let count = traffic(&row.totals)[at];
                family.sample_by(&row.labels, ("direction", direction), count)?;
            }
        }
    }
    for (name, help, value) in SAMPLED {
        let mut family = page.counter(&format!("waxwing_{what}_sampled_{name}_total"), help)?;
        for row in rows {
            for ((direction, _), sampled) in DIRECTIONS.iter().zip(&row.totals.sampled) {
                family.sample_by(&row.labels, ("direction", direction), value(sampled))?;
            }
        }
    }
    let mut family = page.counter(
        &format!("waxwing_{what}_sampled_given_up_total"),
        "Sampled TCP sessions whose client had sent data and ended before the server's first data.",
    )?;
    for row in rows {
        family.sample(&row.labels, row.totals.sampled[0].given_up)?;
    }
    let name = format!("waxwing_{what}_sessions");
    let mut family = page.gauge(&name, "Sessions in the table, by state.")?;
    for Counted {
        labels, sessions, ..
    } in rows
    {
        family.sample_by(labels, ("state", "half_open"), sessions.half_open)?;
        family.sample_by(labels, ("state", "active"), sessions.active)?;
        family.sample_by(labels, ("state", "closing"), sessions.closing)?;
    }
    Ok(())
}

fn write_backends(reporter: &Reporter, rows: &[BackendRow], page: &mut Page<'_>) -> io::Result<()> {
    let mut family = page.gauge(
        "waxwing_backend_up",
        "1 if the backend is up or nothing checks it; `reason` is its state.",
    )?;
    for row in rows {
        let up = u8::from(row.state.is_up());
        family.sample_by(&row.counted.labels, ("reason", row.state.label()), up)?;
    }
    /// A gauge: its name and help, and its value.
    type Row = (&'static str, &'static str, fn(&BackendRow) -> u32);
    const GAUGES: [Row; 3] = [
        (
            "waxwing_backend_takes_new",
            "1 if the workers give it new sessions.",
            |row| u32::from(row.takes_new),
        ),
        (
            "waxwing_backend_weight",
            "Its share of new sessions, after adjustments by health.",
            |row| row.weight,
        ),
        (
            "waxwing_backend_next_hop_resolved",
            "1 if packets can be sent to it.",
            |row| u32::from(row.is_resolved),
        ),
    ];
    for (name, help, value) in GAUGES {
        let mut family = page.gauge(name, help)?;
        for row in rows {
            family.sample(&row.counted.labels, value(row))?;
        }
    }
    let mut family = page.gauge(
        "waxwing_backend_connect_seconds",
        "Time from SYN to SYN-ACK, as a moving average; 0 if not measured.",
    )?;
    for row in rows {
        let us = reporter.gauges.latency_us(row.id);
        family.sample(&row.counted.labels, f64::from(us) * 1e-6)?;
    }
    let mut family = page.gauge(
        "waxwing_backend_first_byte_seconds",
        "Time from the client's first data to the server's, as a moving average over sampled TCP sessions; \
         0 if not measured.",
    )?;
    for row in rows {
        let us = reporter.gauges.samples().first_byte_us(row.id);
        family.sample(&row.counted.labels, f64::from(us) * 1e-6)?;
    }
    let checks = || rows.iter().flat_map(|row| &row.checks);
    let mut family = page.gauge(
        "waxwing_backend_check_passing",
        "1 if the health check passes, 0 if it fails or has no result yet.",
    )?;
    for check in checks() {
        family.sample(&check.labels, u8::from(check.passes))?;
    }
    let mut family = page.gauge(
        "waxwing_backend_check_seconds",
        "Time that the health check's last run took.",
    )?;
    for check in checks() {
        family.sample(&check.labels, check.took_s)?;
    }
    Ok(())
}

/// Writes the counters and gauges that policies define for themselves.
fn module_values(
    reporter: &Reporter,
    view: &View,
    filter: &ServiceFilter,
    page: &mut Page<'_>,
) -> io::Result<()> {
    let mut values = Vec::new();
    for policy in view.config.policies() {
        let mut by_service: Vec<_> = reporter.policy_host.counters(&policy).into_iter().collect();
        by_service.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
        // A service may have had another policy, and have gone.
        by_service.retain(|(service, _)| {
            let mut services = view.config.services.iter();
            filter.passes(service)
                && services.any(|it| it.name.value == *service && it.policy.value == policy)
        });
        values.extend(by_service.into_iter().map(|it| (policy.clone(), it)));
    }
    let labels = |service, module, kind, name| {
        Labels::new([("service", service), ("module", module), (kind, name)])
    };
    let mut family = page.counter(
        "waxwing_module_counter_total",
        "The policies' own counters, over all workers and builds.",
    )?;
    for (module, (service, own)) in &values {
        for (name, count) in &own.counters {
            family.sample(&labels(&**service, &**module, "counter", &**name), *count)?;
        }
    }
    let mut family = page.gauge(
        "waxwing_module_gauge",
        "The policies' own gauges, over the workers' instances that serve.",
    )?;
    for (module, (service, own)) in &values {
        for (name, value) in &own.gauges {
            family.sample(&labels(&**service, &**module, "gauge", &**name), *value)?;
        }
    }
    Ok(())
}

fn service_rows<'a>(
    reporter: &Reporter,
    view: &'a View,
    filter: &ServiceFilter,
) -> Vec<ServiceRow<'a>> {
    let totals = reporter.counters.by_service(&reporter.gauges);
    let drops = reporter.counters.drops_by_service();
    let sessions = sessions_by_service(reporter, &view.snapshot);
    let entries = view.config.services.iter();
    let rows = entries.filter_map(|entry| {
        let service = service_in(&view.snapshot, entry)?;
        let backends = service.backends.iter();
        let backends = backends.filter_map(|id| view.snapshot.backend(*id));
        Some(ServiceRow {
            counted: Counted {
                labels: Labels::new([("service", &*service.name)]),
                totals: totals.get(&service.name).copied().unwrap_or_default(),
                sessions: sessions.get(&service.id).copied().unwrap_or_default(),
            },
            id: service.id,
            drops: drops.get(&service.name).copied().unwrap_or_default(),
            entry,
            takes_new: backends.filter(|it| it.takes_new()).count(),
        })
    });
    rows.filter(|row| filter.passes(&row.entry.name.value))
        .collect()
}

/// Returns each service's sessions, those of its removed backends too.
fn sessions_by_service(
    reporter: &Reporter,
    snapshot: &Snapshot,
) -> HashMap<ServiceId, SessionCounts> {
    let mut sums: HashMap<ServiceId, SessionCounts> = HashMap::new();
    for backend in snapshot.backends() {
        let sessions = reporter.gauges.sessions(backend.id);
        let sum = sums.entry(backend.service).or_default();
        sum.half_open += sessions.half_open;
        sum.active += sessions.active;
        sum.closing += sessions.closing;
    }
    sums
}

/// Returns the backends of the filter's services in the config's order, then the removed ones that still have
/// sessions, unless another backend has their name.
fn backend_rows(reporter: &Reporter, view: &View, filter: &ServiceFilter) -> Vec<BackendRow> {
    let hops = reporter.resolver.states();
    let row = |backend: &Backend, health: &BackendHealth, of: (&str, &str, &[&Arc<str>])| {
        let (service, handle, checks) = of;
        let labels = [("service", service), ("backend", handle)];
        let check = |(state, name): (&CheckState, &&Arc<str>)| {
            let last = state.last.as_ref();
            CheckRow {
                labels: Labels::new(labels.into_iter().chain([("check", &***name)])),
                passes: state.debounced == Debounced::Passing,
                took_s: last.map_or(0.0, |(_, result)| result.took.as_secs_f64()),
            }
        };
        BackendRow {
            counted: Counted {
                labels: Labels::new(labels),
                totals: reporter.counters.of(backend.id, &reporter.gauges),
                sessions: reporter.gauges.sessions(backend.id),
            },
            id: backend.id,
            weight: backend.weight,
            takes_new: backend.takes_new(),
            state: health.state,
            is_resolved: hops
                .get(&backend.address)
                .is_some_and(HopState::is_resolved),
            checks: health.checks.iter().zip(checks).map(check).collect(),
        }
    };
    let mut rows = Vec::new();
    for entry in &view.config.services {
        let name = &entry.name.value;
        let service = service_in(&view.snapshot, entry).filter(|_| filter.passes(name));
        let ids = service.map_or(&[][..], |service| &service.backends);
        let checks = entry.health.checks.iter();
        let checks: Vec<&Arc<str>> = checks.map(|check| &check.module.value).collect();
        // The snapshot was made from this config, and has its backends in the same order.
        for (configured, id) in entry.backends.iter().zip(ids) {
            let Some(backend) = view.snapshot.backend(*id) else {
                continue;
            };
            let of = (&**name, &*configured.handle(), &checks[..]);
            let key = snapshot_key(backend);
            rows.extend(reporter.health.look(key, |health| row(backend, health, of)));
        }
    }
    let removed = reporter.health.removed();
    if !removed.is_empty() {
        let mut taken: HashSet<Labels> =
            rows.iter().map(|row| row.counted.labels.clone()).collect();
        let backends: HashMap<BackendKey, &Backend> = view
            .snapshot
            .backends()
            .map(|backend| (snapshot_key(backend), backend))
            .collect();
        for (key, known) in removed.iter().filter(|(_, it)| filter.passes(&it.service)) {
            let handle = known.entry.handle();
            let labels = Labels::new([("service", &*known.service), ("backend", &*handle)]);
            if let Some(backend) = backends.get(key).filter(|_| taken.insert(labels)) {
                rows.push(row(backend, &known.health, (&known.service, &handle, &[])));
            }
        }
    }
    rows
}
