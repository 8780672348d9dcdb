//! Services, their backends, and the health of those.

use std::fmt::{self, Write};

use waxwing_control::admin::status::{
    BackendHealthStatus, BackendStatus, NextHopStatus, ServiceStatus,
};
use waxwing_control::health::{AdminState, HealthState};

use super::table::Table;
use super::units;

pub(super) fn write_service(out: &mut String, service: &ServiceStatus) -> fmt::Result {
    writeln!(
        out,
        "\nservice   {}  {} {} port {}, policy {}, {} active sessions",
        service.name, service.protocol, service.vip, service.port, service.policy, service.active,
    )?;
    for (name, count) in &service.counters {
        writeln!(out, "  counter {name} = {count}")?;
    }
    for (name, value) in &service.gauges {
        writeln!(out, "  gauge {name} = {value}")?;
    }
    write!(out, "{}", table(&service.backends).indented())
}

/// Returns the table of a service's backends.
pub(super) fn table(backends: &[BackendStatus]) -> Table {
    let mut table = Table::new([
        "BACKEND",
        "ADDRESS",
        ">PORT",
        ">WEIGHT",
        ">ACTIVE",
        ">HALF-OPEN",
        ">CLOSING",
        ">TOTAL",
        ">CONNECT (us)",
        "STATE",
        "DETAILS",
    ]);
    for backend in backends {
        let latency = match backend.latency_us {
            0 => String::new(),
            latency => latency.to_string(),
        };
        let port = backend.port.map(|port| port.to_string());
        table.add([
            backend.name.clone().unwrap_or_default(),
            backend.address.clone(),
            port.unwrap_or_default(),
            backend
                .configured_weight
                .map_or_else(String::new, |it| it.to_string()),
            backend.active.to_string(),
            backend.half_open.to_string(),
            backend.closing.to_string(),
            backend.sessions.to_string(),
            latency,
            state(backend),
            details(backend).join("\n"),
        ]);
    }
    table
}

/// Returns the state, in capitals if nobody asked for it.
pub(crate) fn state(backend: &BackendStatus) -> String {
    if let Some(service) = &backend.removed_from {
        return format!("removed from {service}");
    }
    let Some(state) = backend.health.as_ref().map(|health| health.state) else {
        return "unknown".to_owned();
    };
    match state {
        HealthState::Down
        | HealthState::Unreachable
        | HealthState::Ejected
        | HealthState::Unchecked => state.label().to_uppercase(),
        _ => state.label().to_owned(),
    }
}

fn details(backend: &BackendStatus) -> Vec<String> {
    let mut lines = Vec::new();
    if backend.added {
        lines.push("added by an operator".to_owned());
    }
    let hop = &backend.next_hop;
    let state = backend.health.as_ref().map(|health| health.state);
    if !hop.resolved {
        // The state of an unreachable backend has the reason.
        lines.extend((state != Some(HealthState::Unreachable)).then(|| next_hop(hop)));
    } else if !hop.vlans.is_empty() {
        lines.push(vlans(&hop.vlans).trim_start().to_owned());
    }
    let is_idle = backend.weight == 0 && backend.configured_weight.is_some_and(|it| it > 0);
    if is_idle && state.is_some_and(HealthState::is_up) {
        lines.push("idle: a backup takes new sessions while no main backend does".to_owned());
    }
    let failures = [
        (backend.refused, "refused"),
        (backend.syn_retransmitted, "SYN retransmitted"),
        (backend.unanswered, "unanswered"),
    ];
    let failures = failures.iter().filter(|(count, _)| *count > 0);
    let failures: Vec<String> = failures.map(|(n, what)| format!("{n} {what}")).collect();
    if !failures.is_empty() {
        lines.push(format!("connections: {}", failures.join(", ")));
    }
    lines.extend(sampled(backend));
    let signals = backend.signals.iter();
    let signals: Vec<String> = signals.map(|(name, n)| format!("{name}={n}")).collect();
    if !signals.is_empty() {
        lines.push(format!("signals: {}", signals.join(", ")));
    }
    lines.extend(backend.health.iter().flat_map(health));
    lines
}

/// Returns what sampled sessions showed.
fn sampled(backend: &BackendStatus) -> Vec<String> {
    let mut lines = Vec::new();
    if backend.first_byte_us > 0 {
        let ms = f64::from(backend.first_byte_us) / 1000.0;
        lines.push(format!("first byte after {ms:.1} ms"));
    }
    let asked = &backend.sampled_forward;
    if asked.given_up > 0 {
        lines.push(format!(
            "clients gave up before the first byte: in {} of {} sampled sessions",
            asked.given_up, asked.sessions
        ));
    }
    for (of, whither) in [(asked, "to"), (&backend.sampled_reply, "from")] {
        if of.resent > 0 {
            lines.push(format!(
                "retransmitted {whither} it: {} of {} sampled segments",
                of.resent, of.segments
            ));
        }
        if of.stuck > 0 {
            lines.push(format!(
                "large packets {whither} it never acknowledged: in {} of {} sampled sessions",
                of.stuck, of.sessions
            ));
        }
    }
    lines
}

/// Returns nothing for a backend that is up or unchecked, and has no check.
fn health(health: &BackendHealthStatus) -> Vec<String> {
    if health.checks.is_empty() && health.state.is_up() {
        return Vec::new();
    }
    let admin = match health.admin {
        AdminState::Enabled => "",
        AdminState::Draining => ", set to drain",
        AdminState::Disabled => ", set to disable",
    };
    let weight = match health.weight_percent {
        100 => String::new(),
        percent => format!(", {percent}% of its weight"),
    };
    let (state, since) = (health.state.label(), units::since(health.since));
    let mut lines = vec![format!(
        "{state} for {since}{admin}{weight}: {}",
        health.reason
    )];
    for check in &health.checks {
        let ms = check.latency_us as f64 / 1000.0;
        let (name, state, reason) = (&check.check, &check.state, &check.reason);
        lines.push(format!("check {name} {state}: {reason} ({ms:.1} ms)"));
        lines.extend(
            check
                .log
                .iter()
                .map(|line| format!("log of {name}: {line}")),
        );
    }
    lines
}

/// Returns the state of a next hop, in capitals if it cannot be reached.
pub(super) fn next_hop(hop: &NextHopStatus) -> String {
    match hop.resolved {
        true => hop.state.clone(),
        false => format!("NOT REACHED: {}", hop.state),
    }
}

/// Returns ` (VLAN …)`, or nothing for an untagged next hop.
pub(super) fn vlans(ids: &[u16]) -> String {
    if ids.is_empty() {
        return String::new();
    }
    let ids: Vec<String> = ids.iter().rev().map(u16::to_string).collect();
    format!(" (VLAN {})", ids.join(" in "))
}
