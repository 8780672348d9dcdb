//! The metrics of the balancer as a whole: config, log, ports, sessions, next hops, checks, modules.

use std::io;

use waxwing_dataplane::SourceId;
use waxwing_plugin::{BuildStatus, CALL_TIME_UNIT_NS, ModuleStatus};

use super::text::{Labels, Page};
use crate::admin::report::Reporter;
use crate::health::HealthState;
use crate::network::hop_state::HopState;
use crate::publish::view::View;
use crate::time::unix_seconds;

pub(super) fn write(reporter: &Reporter, view: &View, page: &mut Page<'_>) -> io::Result<()> {
    config(reporter, view, page)?;
    ports(reporter, view, page)?;
    sessions(reporter, view, page)?;
    next_hops(reporter, page)?;
    checks(reporter, page)?;
    modules(reporter, page)
}

fn config(reporter: &Reporter, view: &View, page: &mut Page<'_>) -> io::Result<()> {
    let version = Labels::new([("version", env!("CARGO_PKG_VERSION"))]);
    page.gauge("waxwing_build_info", "The program's version; always 1.")?
        .sample(&version, 1)?;
    page.gauge(
        "waxwing_problems",
        "Problems that `waxwing status` shows now.",
    )?
    .value(reporter.problems(view).len())?;
    page.gauge(
        "waxwing_config_generation",
        "The state that the workers have; rises with every change.",
    )?
    .value(view.snapshot.generation)?;
    page.gauge(
        "waxwing_config_loaded_timestamp_seconds",
        "When the config in effect was loaded, in seconds since 1970.",
    )?
    .value(unix_seconds(view.loaded_at))?;
    let refused = view
        .last_reload
        .as_ref()
        .is_some_and(|it| it.error.is_some());
    page.gauge(
        "waxwing_config_last_reload_successful",
        "1 unless the last reload was refused.",
    )?
    .value(u8::from(!refused))?;
    let mut family = page.counter("waxwing_config_reloads_total", "Reloads, by result.")?;
    for (result, count) in [
        ("success", view.reloads.succeeded),
        ("refused", view.reloads.refused),
    ] {
        family.sample_by(&Labels::default(), ("result", result), count)?;
    }
    page.counter(
        "waxwing_log_lines_dropped_total",
        "Lines of the log that standard error did not take.",
    )?
    .value(reporter.log.lines_dropped())
}

fn ports(reporter: &Reporter, view: &View, page: &mut Page<'_>) -> io::Result<()> {
    let ports = reporter.ports();
    let mut family = page.gauge(
        "waxwing_port_up",
        "1 if the interface is up and has a carrier.",
    )?;
    for port in &ports {
        let labels = Labels::new([("interface", &*port.interface), ("xdp", &*port.mode)]);
        family.sample(&labels, u8::from(port.link_up == Some(true)))?;
    }
    let mut queues = Vec::new();
    for port in &ports {
        for queue in &port.queues {
            let number = queue.queue.to_string();
            let labels = [("interface", &*port.interface), ("queue", &*number)];
            queues.push((Labels::new(labels), queue));
        }
    }
    let mut family = page.gauge(
        "waxwing_queue_zero_copy",
        "1 if frames are shared with the driver, 0 if they are copied.",
    )?;
    for (labels, queue) in &queues {
        family.sample(labels, u8::from(queue.zero_copy))?;
    }
    let rings = view.config.rings;
    for (name, help, value) in [
        (
            "waxwing_queue_ring_descriptors",
            "Descriptors in each of the socket's four rings.",
            rings.size,
        ),
        (
            "waxwing_queue_frames",
            "Frames of memory (UMEM) for the queue.",
            rings.frames,
        ),
    ] {
        let mut family = page.gauge(name, help)?;
        for (labels, _) in &queues {
            family.sample(labels, value)?;
        }
    }
    let mut family = page.counter(
        "waxwing_queue_xsk_total",
        "The socket's statistics by their kernel names (struct xdp_statistics).",
    )?;
    for (labels, queue) in &queues {
        for (event, count) in &queue.statistics {
            family.sample_by(labels, ("event", event), count)?;
        }
    }
    let mut family = page.counter(
        "waxwing_xdp_frames_total",
        "Frames that the ports received, by what the XDP program took them for.",
    )?;
    for (class, count) in reporter.ports.frames() {
        family.sample_by(&Labels::default(), ("class", &class), count)?;
    }
    Ok(())
}

fn sessions(reporter: &Reporter, view: &View, page: &mut Page<'_>) -> io::Result<()> {
    let [mut half_open, mut active, mut closing] = [0_u64; 3];
    for backend in view.snapshot.backends() {
        let sessions = reporter.gauges.sessions(backend.id);
        half_open += u64::from(sessions.half_open);
        active += u64::from(sessions.active);
        closing += u64::from(sessions.closing);
    }
    let mut family = page.gauge("waxwing_sessions", "Sessions in the table, by state.")?;
    for (state, count) in [
        ("half_open", half_open),
        ("active", active),
        ("closing", closing),
    ] {
        family.sample_by(&Labels::default(), ("state", state), count)?;
    }
    for (name, help, value) in [
        (
            "waxwing_session_table_used",
            "Entries of the session table in use.",
            reporter.sessions.len(),
        ),
        (
            "waxwing_session_table_max",
            "Capacity of the session table.",
            reporter.sessions.capacity(),
        ),
        (
            "waxwing_session_table_bytes",
            "Memory of the session table, in bytes.",
            reporter.sessions.memory_bytes(),
        ),
    ] {
        page.gauge(name, help)?.value(value)?;
    }
    let mut family = page.gauge(
        "waxwing_source_nat_sessions",
        "Sessions that use a source address, in any state.",
    )?;
    for (id, address) in view.snapshot.sources().iter() {
        let id: SourceId = id;
        let labels = Labels::new([("source", &*address.to_string())]);
        family.sample(&labels, reporter.gauges.sessions_from(id))?;
    }
    Ok(())
}

fn next_hops(reporter: &Reporter, page: &mut Page<'_>) -> io::Result<()> {
    let (states, known) = (reporter.resolver.states(), reporter.resolver.return_state());
    let backends: Vec<bool> = states.values().map(HopState::is_resolved).collect();
    let gateways = known.gateways.iter();
    let gateways: Vec<bool> = gateways.map(|(_, hop)| hop.is_resolved()).collect();
    let mut family = page.gauge(
        "waxwing_next_hops",
        "Addresses of backends, and gateways to clients, by whether their neighbour is resolved.",
    )?;
    for (to, hops) in [("backend", backends), ("client_gateway", gateways)] {
        let labels = Labels::new([("to", to)]);
        let resolved = hops.iter().filter(|resolved| **resolved).count();
        family.sample_by(&labels, ("state", "resolved"), resolved)?;
        family.sample_by(&labels, ("state", "unresolved"), hops.len() - resolved)?;
    }
    page.gauge("waxwing_kernel_routes", "Routes read from the kernel.")?
        .value(known.routes)?;
    page.gauge(
        "waxwing_return_path_by_route",
        "1 if replies follow the kernel's routes, 0 if they go to the last hop.",
    )?
    .value(u8::from(known.by_routes))
}

fn checks(reporter: &Reporter, page: &mut Page<'_>) -> io::Result<()> {
    let checks = reporter.health.checks_status(reporter.check_host.at_once());
    let mut family = page.counter(
        "waxwing_health_checks_total",
        "Health checks that have ended, by result; `inconclusive` if this host could not make them.",
    )?;
    family.sample_by(&Labels::default(), ("result", "passed"), checks.passed)?;
    family.sample_by(&Labels::default(), ("result", "failed"), checks.failed)?;
    let others = checks.runs.saturating_sub(checks.passed + checks.failed);
    family.sample_by(&Labels::default(), ("result", "inconclusive"), others)?;
    page.gauge(
        "waxwing_health_checks_running",
        "Health checks running now.",
    )?
    .value(checks.running)?;
    page.gauge(
        "waxwing_health_checks_running_max",
        "The most health checks that run at once.",
    )?
    .value(checks.running_max)?;
    page.gauge(
        "waxwing_health_check_late_seconds",
        "How late health checks start: the 99th percentile of the last few thousand.",
    )?
    .value(seconds(checks.late_p99_ms))?;
    page.counter(
        "waxwing_health_checks_cpu_seconds_total",
        "Processor time of all health checks, in seconds.",
    )?
    .value(seconds(checks.cpu_ms))?;
    let mut family = page.counter(
        "waxwing_backend_transitions_total",
        "Changes of backends' states, by the new state.",
    )?;
    for state in HealthState::ALL {
        let count = reporter.health.transitions(state);
        family.sample_by(&Labels::default(), ("state", state.label()), count)?;
    }
    Ok(())
}

fn modules(reporter: &Reporter, page: &mut Page<'_>) -> io::Result<()> {
    let labelled = |kind: &'static str, modules: Vec<ModuleStatus>| {
        modules.into_iter().map(move |module| {
            let labels = Labels::new([("module", &*module.name), ("kind", kind)]);
            (labels, module, kind)
        })
    };
    let policies = labelled("policy", reporter.policy_host.status());
    let checks = labelled("check", reporter.check_host.status());
    let modules: Vec<_> = policies.chain(checks).collect();
    let mut family = page.gauge(
        "waxwing_module_info",
        "The build that serves on all workers, or all but the canary's; always 1.",
    )?;
    for (_, module, kind) in &modules {
        if let Some(build) = &module.serving {
            let BuildStatus { version, hash, .. } = build;
            let of = [("module", &*module.name), ("kind", *kind)];
            let of_build = [("version", &**version), ("build", &**hash)];
            family.sample(&Labels::new(of.into_iter().chain(of_build)), 1)?;
        }
    }
    /// Of a module: a family's name and help, and the value.
    type Row = (&'static str, &'static str, fn(&ModuleStatus) -> u64);
    const GAUGES: [Row; 3] = [
        (
            "waxwing_module_canary",
            "1 while a new build serves on the first worker only.",
            |it| u64::from(it.canary.is_some()),
        ),
        (
            "waxwing_module_refused",
            "1 while the newest build is refused and another one serves.",
            |it| u64::from(it.refused.is_some()),
        ),
        (
            "waxwing_module_quarantined_builds",
            "Builds that failed while serving and are not tried again.",
            |it| it.quarantined.len() as u64,
        ),
    ];
    for (name, help, value) in GAUGES {
        let mut family = page.gauge(name, help)?;
        for (labels, module, _) in &modules {
            family.sample(labels, value(module))?;
        }
    }
    let mut family = page.counter(
        "waxwing_module_faults_total",
        "Calls that trapped, ran too long or returned an invalid answer, over all builds.",
    )?;
    for (labels, module, _) in &modules {
        family.sample(labels, module.faults)?;
    }
    let of_policies = modules.iter().filter(|(.., kind)| *kind == "policy");
    let policies: Vec<&ModuleStatus> = of_policies.map(|(_, module, _)| module).collect();
    write_policies(reporter, &policies, page)
}

fn write_policies(
    reporter: &Reporter,
    policies: &[&ModuleStatus],
    page: &mut Page<'_>,
) -> io::Result<()> {
    let mut family = page.counter(
        "waxwing_module_flows_refused_total",
        "Flows left to the fallback: the pick takes no new sessions, or the module had used its share.",
    )?;
    for module in policies {
        let canary = module.canary.as_ref().map(|canary| &canary.build);
        for build in module.serving.iter().chain(canary) {
            let labels = Labels::new([("module", &*module.name), ("build", &*build.hash)]);
            let unavailable = build.unavailable_picks;
            family.sample_by(&labels, ("reason", "unavailable_pick"), unavailable)?;
            family.sample_by(&labels, ("reason", "over_share"), build.over_share_flows)?;
        }
    }
    let mut family = page.histogram(
        "waxwing_policy_call_seconds",
        "Time of a policy's calls, unless `module_share` is 0; the sum is up to a quarter too high.",
    )?;
    #[expect(clippy::cast_precision_loss, reason = "a small constant")]
    let unit = CALL_TIME_UNIT_NS as f64 * 1e-3;
    for module in policies {
        let labels = Labels::new([("module", &*module.name)]);
        family.times(
            &labels,
            &reporter.policy_host.call_times(&module.name),
            unit,
        )?;
    }
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "a float holds 2^53 of them")]
fn seconds(ms: u64) -> f64 {
    ms as f64 / 1e3
}
