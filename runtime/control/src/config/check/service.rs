//! Checks of one service and its backends.

use std::collections::HashMap;

use waxwing_packet::{Address, Family, Protocol};

use super::First;
use crate::config::model::health::{CheckOverride, OnRefused};
use crate::config::model::service::{Backend, Service};
use crate::config::problem::{Problems, Span};

/// `vips`: the VIPs of all services, with their places.
pub(super) fn check(service: &Service, vips: &HashMap<Address, Span>, problems: &mut Problems) {
    new_sessions(service, problems);
    health_checks(service, problems);
    tcp_only(service, problems);
    endpoints(service, vips, problems);
}

/// Warns if no backend takes new sessions.
fn new_sessions(service: &Service, problems: &mut Problems) {
    let name = &service.name.value;
    let all = |is: fn(&Backend) -> bool| service.backends.iter().all(is);
    if service.backends.is_empty() {
        let text = format!(
            "service \"{name}\" has no backend, so its new sessions are dropped; write a \
             [[service.backend]]"
        );
        problems.warn(service.span, text);
        return;
    }
    if all(|backend| backend.weight == 0) {
        let text = format!(
            "every backend of \"{name}\" has weight 0, so its new sessions are dropped; write \
             `weight = 1` for at least one"
        );
        problems.warn(service.span, text);
    }
    if all(|backend| backend.backup) {
        let text = format!(
            "every backend of \"{name}\" is a backup, so `backup` has no effect; remove it from the \
             main backends"
        );
        problems.warn(service.span, text);
    }
}

fn health_checks(service: &Service, problems: &mut Problems) {
    let name = &service.name.value;
    if service.health.checks.is_empty() {
        let backends = service.backends.iter();
        for backend in backends.filter(|backend| backend.health != CheckOverride::default()) {
            let text = format!(
                "[service.backend.health] has no effect, because \"{name}\" has no health check; \
                 write a [[service.health]]"
            );
            problems.warn(backend.address.span, text);
        }
    }
    for check in &service.health.checks {
        let mut checked = service.backends.iter().filter(|it| it.health.enabled);
        let portless = |it: &Backend| it.port.is_none() && it.health.port.is_none();
        if check.port.is_none() && checked.any(portless) {
            let ports = service.ports.value;
            let text = format!(
                "\"{name}\" has ports {ports}, so the check needs a port; write `port = {}` in this \
                 table",
                ports.first()
            );
            problems.error(check.span, text);
        }
        if check.timing.timeout > check.timing.interval {
            let text = "a check that times out takes longer than `interval`, so failures are \
                        detected late; write a `timeout` no longer than `interval`";
            problems.warn(check.span, text);
        }
    }
}

fn tcp_only(service: &Service, problems: &mut Problems) {
    let is_udp = service.protocol.value == Protocol::Udp;
    if is_udp && service.health.on_refused == OnRefused::Retry {
        let text = "`on_refused` has no effect on UDP, where a backend cannot refuse a connection; remove it";
        problems.warn(service.span, text);
    }
}

fn endpoints(service: &Service, vips: &HashMap<Address, Span>, problems: &mut Problems) {
    let mut endpoints = First::new();
    let mut names = First::new();
    for backend in &service.backends {
        if let Some(name) = &backend.name
            && let Some(first) = names.seen(&name.value, name.span)
        {
            let (service, line) = (&service.name.value, problems.line(first));
            let text = format!(
                "a backend of \"{service}\" in line {line} is already named \"{}\"; rename one of them",
                name.value
            );
            problems.error(name.span, text);
        }
        let (address, span) = (backend.address.value, backend.address.span);
        let vip = service.vip.value;
        if address.family() != vip.family() {
            let family = match vip.family() {
                Family::V4 => "an IPv4 address, such as \"10.2.0.11\"",
                Family::V6 => "an IPv6 address, such as \"2001:db8::11\"",
            };
            let text =
                format!("{address} and the VIP {vip} have different IP versions; write {family}");
            problems.error(span, text);
        }
        if let Some(vip) = vips.get(&address) {
            let line = problems.line(*vip);
            let text = format!(
                "{address} is a VIP in line {line}, so its packets would loop back to the balancer; \
                 write the server's own address"
            );
            problems.error(span, text);
        }
        if let Some(first) = endpoints.seen((address, backend.snapshot_port()), span) {
            let (name, line) = (&service.name.value, problems.line(first));
            let port = backend
                .port
                .map_or_else(String::new, |port| format!(" port {}", port.value));
            let text = format!(
                "{address}{port} is already a backend of \"{name}\" in line {line}; write it once, \
                 with a higher `weight` for a larger share"
            );
            problems.error(span, text);
        }
    }
}
