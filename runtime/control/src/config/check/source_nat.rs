//! Checks of `[[source_nat]]` tables against each other, and against services and backends.

use std::collections::HashMap;

use waxwing_dataplane::model::SOURCES_MAX;
use waxwing_dataplane::model::SourceUse;
use waxwing_packet::{Address, Family, Prefix};

use crate::config::model::Config;
use crate::config::model::service::SourceNat;
use crate::config::problem::{Located, Problems, Span};

/// Maximum client networks: each new session searches them one by one.
const CLIENTS_MAX: usize = 256;

pub(super) fn check(config: &Config, problems: &mut Problems) {
    limits(config, problems);
    addresses(config, problems);
    clients(config, problems);
    for service in &config.services {
        let Some(uses) = service.source_nat else {
            continue;
        };
        let family = service.vip.value.family();
        if uses.value == SourceUse::Always && !has_address(&config.source_nat, family) {
            let family = label(family);
            let text = format!(
                "this service needs an {family} source address, but there is none, so all its new \
                 sessions would be dropped; write one in the `addresses` of a [[source_nat]]"
            );
            problems.error(uses.span, text);
        }
    }
}

fn limits(config: &Config, problems: &mut Problems) {
    let addresses = config.source_nat.iter().flat_map(|table| &table.addresses);
    if let Some(address) = addresses.clone().nth(SOURCES_MAX.into()) {
        let count = addresses.count();
        let text = format!(
            "{count} source addresses are more than the maximum; write {SOURCES_MAX} at most"
        );
        problems.error(address.span, text);
    }
    let clients = config.source_nat.iter().flat_map(|table| &table.clients);
    if let Some(prefix) = clients.clone().nth(CLIENTS_MAX) {
        let count = clients.count();
        let text = format!(
            "{count} networks in `clients` are more than the maximum; write {CLIENTS_MAX} at most, \
             for example by merging small networks into larger ones"
        );
        problems.error(prefix.span, text);
    }
}

/// Checks that a source address is used for nothing else, and is in one table only.
fn addresses(config: &Config, problems: &mut Problems) {
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
            let line = problems.line(*first);
            let text = format!("{value} is already {what} in line {line}; write an unused address");
            problems.error(*span, text);
        }
        let source = ("a source address", *span);
        taken.entry(*value).or_insert(source);
    }
}

/// Checks that a client network is in one table only, and that the table has an address of its IP
/// version.
fn clients(config: &Config, problems: &mut Problems) {
    let mut seen: HashMap<Prefix, Span> = HashMap::new();
    for table in &config.source_nat {
        for Located { value, span } in &table.clients {
            if let Some(first) = seen.insert(*value, *span) {
                let line = problems.line(first);
                let text = format!("{value} is already in `clients` in line {line}; write it once");
                problems.error(*span, text);
            }
            let family = value.network().family();
            if !has_address(std::slice::from_ref(table), family) {
                let family = label(family);
                let text = format!(
                    "this table has no {family} source address for {value}; write one in its \
                     `addresses`, or remove the network"
                );
                problems.error(*span, text);
            }
        }
    }
}

fn has_address(tables: &[SourceNat], family: Family) -> bool {
    let mut addresses = tables.iter().flat_map(|table| &table.addresses);
    addresses.any(|address| address.value.family() == family)
}

const fn label(family: Family) -> &'static str {
    match family {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
    }
}
