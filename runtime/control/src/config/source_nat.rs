//! `[[source_nat]]`: the source addresses, who gets one, and what of them fits nothing else.
//!
//! Invariant: of what is wrong with a table nothing is used but the rest of it.

use std::collections::HashMap;

use waxwing_dataplane::Ports;
use waxwing_dataplane::model::SOURCES_MAX;
use waxwing_dataplane::model::SourceUse;
use waxwing_packet::{Address, Family, Prefix};

use super::problem::{Located, Span};
use super::reader::{Report, Table};
use super::{Config, schema, values};

/// The most networks of clients: each new session is looked for in them one by one.
const CLIENTS_MAX: usize = 256;
/// Below them are the ports of servers (RFC 6056 section 3.2).
const PORT_MIN: u16 = 1024;

/// A `[[source_nat]]` table.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SourceNat {
    /// Networks whose clients get a source address at every service.
    pub clients: Vec<Located<Prefix>>,
    /// The source addresses.
    pub addresses: Vec<Located<Address>>,
    /// The ports of each address.
    pub ports: Ports,
    /// The table's header.
    pub span: Span,
}

/// The words of a service's `source_nat`.
pub(super) const USES: [(&str, SourceUse); 2] =
    [("auto", SourceUse::Auto), ("always", SourceUse::Always)];

pub(super) fn read(root: &Table<'_, '_>, report: &mut Report) -> Vec<SourceNat> {
    let tables = root.tables(&schema::SOURCE_NAT, report);
    let read = |table: &Table<'_, '_>| {
        let clients = table.texts(&schema::CLIENTS, report, values::prefix);
        let before = report.problems.len();
        let addresses = table.texts(&schema::ADDRESSES, report, values::address);
        let all_read = report.problems.len() == before;
        let ports = table.ports(&schema::SOURCE_PORTS, report);
        if all_read && addresses.as_ref().is_some_and(Vec::is_empty) {
            let text = "`addresses` is empty; write `addresses = [\"10.2.0.9\"]`, with an address that \
                        servers send to through this host";
            report.error(table.span, text);
        }
        SourceNat {
            clients: clients.unwrap_or_default(),
            addresses: addresses.unwrap_or_default(),
            ports: ports.map_or_else(default_ports, |ports| ports.value),
            span: table.span,
        }
    };
    tables.iter().map(read).collect()
}

fn default_ports() -> Ports {
    Ports::range(PORT_MIN, u16::MAX).unwrap_or(Ports::ALL)
}

/// Checks the tables against each other, and against services and backends.
pub(super) fn check(config: &Config, report: &mut Report) {
    limits(config, report);
    addresses(config, report);
    clients(config, report);
    for service in &config.services {
        let Some(uses) = service.source_nat else {
            continue;
        };
        let family = service.vip.value.family();
        if uses.value == SourceUse::Always && !has_address(&config.source_nat, family) {
            let family = name(family);
            let text = format!(
                "there is no {family} source address for it, so all of its new sessions would be \
                 dropped; write one in the `addresses` of a [[source_nat]]"
            );
            report.error(uses.span, text);
        }
    }
}

fn limits(config: &Config, report: &mut Report) {
    let addresses = config.source_nat.iter().flat_map(|table| &table.addresses);
    if let Some(address) = addresses.clone().nth(SOURCES_MAX.into()) {
        let count = addresses.count();
        let text = format!(
            "{count} source addresses are more than there can be; write {SOURCES_MAX} at most"
        );
        report.error(address.span, text);
    }
    let clients = config.source_nat.iter().flat_map(|table| &table.clients);
    if let Some(prefix) = clients.clone().nth(CLIENTS_MAX) {
        let count = clients.count();
        let text = format!(
            "{count} networks in `clients` are more than there can be; write {CLIENTS_MAX} at most, \
             larger ones in place of many"
        );
        report.error(prefix.span, text);
    }
}

/// A source address is the balancer's own, and of one table.
fn addresses(config: &Config, report: &mut Report) {
    let mut taken: HashMap<Address, (&str, Span)> = HashMap::new();
    for service in &config.services {
        for backend in &service.backends {
            taken.insert(backend.address.value, ("a backend", backend.address.span));
        }
    }
    for service in &config.services {
        taken.insert(service.vip.value, ("a VIP", service.vip.span));
    }
    for Located { value, span } in config.source_nat.iter().flat_map(|table| &table.addresses) {
        if let Some((what, first)) = taken.get(value) {
            let line = report.line(*first);
            let text = format!(
                "{value} is {what}, in line {line}; write an address that nothing else has"
            );
            report.error(*span, text);
        }
        let source = ("a source address", *span);
        taken.entry(*value).or_insert(source);
    }
}

/// A network of clients is in one table, which has an address of its family.
fn clients(config: &Config, report: &mut Report) {
    let mut seen: HashMap<Prefix, Span> = HashMap::new();
    for table in &config.source_nat {
        for Located { value, span } in &table.clients {
            if let Some(first) = seen.insert(*value, *span) {
                let line = report.line(first);
                let text =
                    format!("{value} is in `clients` already, in line {line}; write it once");
                report.error(*span, text);
            }
            let family = value.network().family();
            if !has_address(std::slice::from_ref(table), family) {
                let family = name(family);
                let text = format!(
                    "the table has no {family} source address for {value}; write one in its \
                     `addresses`, or take the network out"
                );
                report.error(*span, text);
            }
        }
    }
}

fn has_address(tables: &[SourceNat], family: Family) -> bool {
    let mut addresses = tables.iter().flat_map(|table| &table.addresses);
    addresses.any(|address| address.value.family() == family)
}

const fn name(family: Family) -> &'static str {
    match family {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
    }
}
