//! Checks across values: duplicates, limits, and values that contradict each other.
//!
//! Invariant: these checks use the config alone. What depends on the system (does the interface
//! exist, is there a route to the backend) is checked elsewhere, with [`Config::error_at`].

mod adopt_replies;
mod service;
mod source_nat;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::Hash;

use waxwing_dataplane::Ports;
use waxwing_packet::{Address, Protocol};

use super::model::service::Service;
use super::model::{Config, Mode, ReturnPath};
use super::problem::{Problems, Span};

/// Number of ports that a port's id can count; two of its values mean no port.
const PORTS_MAX: usize = 254;

/// The place of the first use of each value.
struct First<K>(HashMap<K, Span>);

impl<K: Eq + Hash> First<K> {
    fn new() -> Self {
        Self(HashMap::new())
    }

    /// Records a use of `key`. Returns the place of the first use, unless this is the first.
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

pub(super) fn check(config: &Config, problems: &mut Problems) {
    transparent(config, problems);
    ports(config, problems);
    cpus(config, problems);
    limits(config, problems);
    names_and_vips(config, problems);
    ranges(config, problems);
    source_nat::check(config, problems);
    adopt_replies::check(config, problems);
    let mut vips: HashMap<Address, Span> = HashMap::new();
    for service in &config.services {
        vips.entry(service.vip.value).or_insert(service.vip.span);
    }
    for service in &config.services {
        service::check(service, &vips, problems);
    }
}

fn transparent(config: &Config, problems: &mut Problems) {
    if config.mode.value != Mode::Transparent {
        return;
    }
    let count = config.ports.len();
    if count != 2 {
        let text = format!(
            "transparent mode needs two ports, those of a bridge, but there {} {count}; write two \
             [[port]], or `mode = \"routed\"`",
            if count == 1 { "is" } else { "are" },
        );
        problems.error(config.mode.span, text);
    }
    if config.return_path == ReturnPath::Route {
        let text = "in transparent mode the servers send replies to their own gateway, so this \
                    host's routes do not apply; write `return_path = \"last-hop\"`, or remove it";
        problems.error(config.mode.span, text);
    }
}

fn ports(config: &Config, problems: &mut Problems) {
    let mut interfaces = First::new();
    for (number, port) in config.ports.iter().enumerate() {
        let interface = &port.interface;
        if let Some(first) = interfaces.seen(&interface.value, interface.span) {
            let (name, line) = (&interface.value, problems.line(first));
            let text = format!("\"{name}\" is already a port in line {line}; write it once");
            problems.error(interface.span, text);
        }
        if number == PORTS_MAX {
            let text = format!("there are more than {PORTS_MAX} ports; write {PORTS_MAX} at most");
            problems.error(interface.span, text);
        }
    }
}

fn cpus(config: &Config, problems: &mut Problems) {
    let mut cpus = First::new();
    for cpu in &config.workers.cpus {
        if cpus.seen(cpu.value, cpu.span).is_some() {
            let text = format!("two workers share CPU {}; write each CPU once", cpu.value);
            problems.warn(cpu.span, text);
        }
    }
}

fn limits(config: &Config, problems: &mut Problems) {
    if let Some(service) = config.services.get(config.services_max) {
        let (count, max) = (config.services.len(), config.services_max);
        let text = format!(
            "{count} services are more than `services_max = {max}`; raise `services_max`, and leave \
             room for services that a reload replaces"
        );
        problems.error(service.span, text);
    }
    let backends = || config.services.iter().flat_map(|service| &service.backends);
    if let Some(backend) = backends().nth(config.backends_max) {
        let (count, max) = (backends().count(), config.backends_max);
        let text = format!(
            "{count} backends are more than `backends_max = {max}`; raise `backends_max`, and leave \
             room for backends that a reload replaces"
        );
        problems.error(backend.address.span, text);
    }
}

fn names_and_vips(config: &Config, problems: &mut Problems) {
    let mut names = First::new();
    let mut endpoints: First<(Address, Ports, Protocol)> = First::new();
    for service in &config.services {
        let Service { name, vip, .. } = service;
        if let Some(first) = names.seen(&name.value, name.span) {
            let (value, line) = (&name.value, problems.line(first));
            let text = format!(
                "a service in line {line} is already named \"{value}\"; rename one of them"
            );
            problems.error(name.span, text);
        }
        let endpoint = (vip.value, service.ports.value, service.protocol.value);
        if let Some(first) = endpoints.seen(endpoint, vip.span) {
            let (address, ports, protocol) = endpoint;
            let line = problems.line(first);
            let text = format!(
                "{address} {protocol} port {ports} is already a service in line {line}; change \
                 `vip`, `port` or `protocol`, or move the backends there"
            );
            problems.error(vip.span, text);
        }
    }
}

/// Checks that of two overlapping port ranges one contains the other: the service with the fewest
/// ports gets a packet, so partly overlapping ranges would be ambiguous.
fn ranges(config: &Config, problems: &mut Problems) {
    let of = |service: &Service| (service.vip.value, service.protocol.value as u8);
    let mut services: Vec<&Service> = config.services.iter().collect();
    services.retain(|service| service.ports.value.single().is_none());
    services.sort_by_key(|service| {
        let ports = service.ports.value;
        (of(service), ports.first(), u16::MAX - ports.last())
    });
    // The ranges that may contain the next one, the narrowest last.
    let mut around: Vec<&Service> = Vec::new();
    for service in services {
        let ports = service.ports.value;
        let is_over =
            |open: &Service| of(open) != of(service) || open.ports.value.last() < ports.first();
        while around.pop_if(|open| is_over(open)).is_some() {}
        if let Some(other) = around.last().filter(|open| open.ports.value.crosses(ports)) {
            let (name, line) = (&other.name.value, problems.line(other.ports.span));
            let text = format!(
                "ports {ports} overlap ports {} of \"{name}\" in line {line}, and neither range \
                 contains the other; separate the ranges, or put one inside the other",
                other.ports.value
            );
            problems.error(service.ports.span, text);
        }
        around.push(service);
    }
}
