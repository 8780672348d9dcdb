//! Checks across values: what is said twice, or does not fit what is said elsewhere.
//!
//! Invariant: it looks at the config alone. What depends on the system (does the interface
//! exist, is there a route to the backend) is checked by whoever can see the system, through
//! [`Config::error_at`].

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::Hash;

use waxwing_dataplane::Ports;
use waxwing_packet::{Address, Family, Protocol};

use super::problem::Span;
use super::reader::Report;
use super::{Backend, Config, Mode, OnRefused, Override, ReturnPath, Service, source_nat};

/// As many ports as a port's id can number.
const PORTS_MAX: usize = 256;

/// Where each thing was written first.
struct First<K>(HashMap<K, Span>);

impl<K: Eq + Hash> First<K> {
    fn new() -> Self {
        Self(HashMap::new())
    }

    /// Notes a thing; where it is not the first of its kind, tells the first one's place.
    fn seen(&mut self, key: K, span: Span) -> Option<Span> {
        match self.0.entry(key) {
            Entry::Occupied(first) => Some(*first.get()),
            Entry::Vacant(none) => {
                none.insert(span);
                None
            }
        }
    }
}

pub(super) fn check(config: &Config, report: &mut Report) {
    ports(config, report);
    cpus(config, report);
    limits(config, report);
    names_and_vips(config, report);
    ranges(config, report);
    source_nat::check(config, report);
    let mut vips: HashMap<Address, Span> = HashMap::new();
    for service in &config.services {
        vips.entry(service.vip.value).or_insert(service.vip.span);
    }
    for service in &config.services {
        backends(service, &vips, report);
    }
}

fn ports(config: &Config, report: &mut Report) {
    let count = config.ports.len();
    if config.mode.value == Mode::Transparent && count != 2 {
        let text = format!(
            "transparent mode has two ports, those of a bridge, and here {} {count}; write two \
             [[port]], or `mode = \"routed\"`",
            if count == 1 { "is" } else { "are" },
        );
        report.error(config.mode.span, text);
    }
    if config.mode.value == Mode::Transparent && config.return_path == ReturnPath::Route {
        let text = "in transparent mode replies go to the servers' own gateway, not by this host's \
                    routes; write `return_path = \"last-hop\"`, or leave it out";
        report.error(config.mode.span, text);
    }
    let mut interfaces = First::new();
    for (number, port) in config.ports.iter().enumerate() {
        let interface = &port.interface;
        if let Some(first) = interfaces.seen(&interface.value, interface.span) {
            let (name, line) = (&interface.value, report.line(first));
            let text = format!("\"{name}\" is a port already, in line {line}; write it once");
            report.error(interface.span, text);
        }
        if number == PORTS_MAX {
            let text = format!("more than {PORTS_MAX} ports; write {PORTS_MAX} at most");
            report.error(interface.span, text);
        }
    }
}

fn cpus(config: &Config, report: &mut Report) {
    let mut cpus = First::new();
    for cpu in &config.workers.cpus {
        if cpus.seen(cpu.value, cpu.span).is_some() {
            let text = format!(
                "two workers would share CPU {}; write each CPU once",
                cpu.value
            );
            report.warn(cpu.span, text);
        }
    }
}

fn limits(config: &Config, report: &mut Report) {
    if let Some(service) = config.services.get(config.services_max) {
        let (have, max) = (config.services.len(), config.services_max);
        let text = format!(
            "{have} services are more than `services_max = {max}`; write a higher \
             `services_max`, with room for services that are replaced"
        );
        report.error(service.span, text);
    }
    let backends = || config.services.iter().flat_map(|service| &service.backends);
    if let Some(backend) = backends().nth(config.backends_max) {
        let (have, max) = (backends().count(), config.backends_max);
        let text = format!(
            "{have} backends are more than `backends_max = {max}`; write a higher \
             `backends_max`, with room for backends that are replaced"
        );
        report.error(backend.address.span, text);
    }
}

fn names_and_vips(config: &Config, report: &mut Report) {
    let mut names = First::new();
    let mut endpoints: First<(Address, Ports, Protocol)> = First::new();
    for Service {
        name,
        vip,
        ports,
        protocol,
        ..
    } in &config.services
    {
        if let Some(first) = names.seen(&name.value, name.span) {
            let (name_text, line) = (&name.value, report.line(first));
            let text =
                format!("\"{name_text}\" names a service already, in line {line}; write another");
            report.error(name.span, text);
        }
        let endpoint = (vip.value, ports.value, protocol.value);
        if let Some(first) = endpoints.seen(endpoint, vip.span) {
            let (vip_text, ports, protocol) = endpoint;
            let line = report.line(first);
            let text = format!(
                "{vip_text} {protocol} port {ports} is a service already, in line {line}; write \
                 another `vip`, `port` or `protocol`, or put the backends there"
            );
            report.error(vip.span, text);
        }
    }
}

/// Of two services that have a port the one with the fewer ports gets it, so one must lie in the other.
fn ranges(config: &Config, report: &mut Report) {
    let of = |service: &Service| (service.vip.value, service.protocol.value as u8);
    let mut services: Vec<&Service> = config.services.iter().collect();
    services.retain(|service| service.ports.value.single().is_none());
    services.sort_by_key(|service| {
        let ports = service.ports.value;
        (of(service), ports.first(), u16::MAX - ports.last())
    });
    // Those that the next one may lie in, the narrowest last.
    let mut around: Vec<&Service> = Vec::new();
    for service in services {
        let ports = service.ports.value;
        let is_over =
            |open: &Service| of(open) != of(service) || open.ports.value.last() < ports.first();
        while around.pop_if(|open| is_over(open)).is_some() {}
        if let Some(other) = around.last().filter(|open| open.ports.value.crosses(ports)) {
            let (name, line) = (&other.name.value, report.line(other.ports.span));
            let text = format!(
                "{ports} and the {} of \"{name}\", in line {line}, have ports in common, and neither lies \
                 in the other, so nobody can say whose those are; write ranges apart, or one in the other",
                other.ports.value
            );
            report.error(service.ports.span, text);
        }
        around.push(service);
    }
}

fn backends(service: &Service, vips: &HashMap<Address, Span>, report: &mut Report) {
    let name = &service.name.value;
    if service.backends.is_empty() {
        let text = format!(
            "service \"{name}\" has no backend, so its new sessions are dropped; write a \
             [[service.backend]]"
        );
        report.warn(service.span, text);
    } else if service.backends.iter().all(|backend| backend.weight == 0) {
        let text = format!(
            "every backend of \"{name}\" has weight 0, so its new sessions are dropped; write \
             `weight = 1` for one that is to take them"
        );
        report.warn(service.span, text);
    }
    if service.health.checks.is_empty() {
        let overrides = service.backends.iter();
        for backend in overrides.filter(|backend| backend.health != Override::default()) {
            let text = format!(
                "\"{name}\" has no health check that this backend could have otherwise; write a \
                 [[service.health]]"
            );
            report.warn(backend.address.span, text);
        }
    }
    for check in &service.health.checks {
        let mut checked = service.backends.iter().filter(|it| it.health.enabled);
        let portless = |it: &Backend| it.port.is_none() && it.health.port.is_none();
        if check.port.is_none() && checked.any(portless) {
            let text = format!(
                "\"{name}\" has ports {}, so the check is to be told which; write `port = {}` below it",
                service.ports.value,
                service.ports.value.first()
            );
            report.error(check.span, text);
        }
        if check.pace.timeout > check.pace.interval {
            let text = "a check that times out takes longer than `interval`, so it is found late; write a \
                        `timeout` no longer than that";
            report.warn(check.span, text);
        }
    }
    if service.protocol.value == Protocol::Udp {
        let tcp_only = [
            (service.health.ejection.is_some(), "[service.ejection]"),
            (
                service.health.on_refused == OnRefused::Retry,
                "`on_refused`",
            ),
        ];
        for (_, what) in tcp_only.iter().filter(|(is_set, _)| *is_set) {
            let text = format!("{what} has no effect: nothing says of UDP that it was refused");
            report.warn(service.span, text);
        }
    }
    if !service.backends.is_empty() && service.backends.iter().all(|backend| backend.backup) {
        let text = format!(
            "every backend of \"{name}\" is a backup, for none; take `backup` out where it should \
             serve first"
        );
        report.warn(service.span, text);
    }
    let mut endpoints = First::new();
    for backend in &service.backends {
        let (address, port) = (backend.address.value, backend.snapshot_port());
        let span = backend.address.span;
        if address.family() != service.vip.value.family() {
            let vip = service.vip.value;
            let family = match vip.family() {
                Family::V4 => "an IPv4 address, such as \"10.2.0.11\"",
                Family::V6 => "an IPv6 address, such as \"2001:db8::11\"",
            };
            let text =
                format!("{address} and the VIP {vip} are of two IP versions; write {family}");
            report.error(span, text);
        }
        if let Some(vip) = vips.get(&address) {
            let line = report.line(*vip);
            let text = format!(
                "{address} is a VIP, in line {line}, so packets would come back here; write a \
                 server's own address"
            );
            report.error(span, text);
        }
        if let Some(first) = endpoints.seen((address, port), span) {
            let line = report.line(first);
            let port = backend
                .port
                .map_or_else(String::new, |port| format!(" port {}", port.value));
            let text = format!(
                "{address}{port} is a backend of \"{name}\" already, in line {line}; write \
                 it once, with a higher `weight` for a larger share"
            );
            report.error(span, text);
        }
    }
}
