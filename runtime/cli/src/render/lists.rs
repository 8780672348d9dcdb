//! The API's lists as tables.

use waxwing_control::admin::explain::Candidate;
use waxwing_control::admin::resources::{BackendItem, DropItem, ModuleItem, ServiceItem};
use waxwing_control::admin::status::{BackendStatus, PortStatus, WorkerStatus};

use super::table::Table;
use super::{backends, modules};

/// Returns a table of services.
pub(crate) fn services(services: &[ServiceItem]) -> String {
    let mut table = Table::new([
        "SERVICE",
        "PROTO",
        "VIP",
        ">PORT",
        "POLICY",
        "STATE",
        ">UP",
        ">OF",
        ">ACTIVE",
        ">SESSIONS",
        ">FAILED",
        ">BYTES IN",
        ">OUT",
    ]);
    for service in services {
        let failed = service.refused + service.unanswered;
        table.add([
            service.name.clone(),
            service.protocol.clone(),
            service.vip.clone(),
            service.port.to_string(),
            service.policy.clone(),
            service.state.label().to_owned(),
            service.up.to_string(),
            service.backends.to_string(),
            service.active.to_string(),
            service.sessions.to_string(),
            failed.to_string(),
            service.forward.bytes.to_string(),
            service.reply.bytes.to_string(),
        ]);
    }
    table.to_string()
}

/// Returns a table of backends.
pub(crate) fn backends(items: &[BackendItem]) -> String {
    let mut table = Table::new([
        "SERVICE", "BACKEND", "ADDRESS", ">PORT", ">WEIGHT", ">ACTIVE", ">TOTAL", ">FAILED",
        "STATE", "REASON",
    ]);
    for BackendItem { service, backend } in items {
        let BackendStatus { name, address, .. } = backend;
        let health = backend.health.as_ref();
        table.add([
            service.clone(),
            name.clone().unwrap_or_default(),
            address.clone(),
            backend
                .port
                .map_or_else(String::new, |port| port.to_string()),
            backend.weight.to_string(),
            backend.active.to_string(),
            backend.sessions.to_string(),
            (backend.refused + backend.unanswered).to_string(),
            backends::state(backend),
            health.map_or_else(String::new, |health| health.reason.clone()),
        ]);
    }
    table.to_string()
}

/// Returns a table of the backends that a new flow may get.
pub(crate) fn candidates(candidates: &[Candidate]) -> String {
    let mut table = Table::new([
        "BACKEND",
        "ADDRESS",
        ">WEIGHT",
        ">BY WEIGHT",
        ">OF SESSIONS",
        ">OF NEW FLOWS",
        ">ACTIVE",
        "STATE",
        "NEXT HOP",
        "",
    ]);
    for candidate in candidates {
        let backend = &candidate.backend;
        let percent = |part: f64| format!("{part} %");
        table.add([
            backend.name.clone().unwrap_or_default(),
            backend.address.clone(),
            backend.weight.to_string(),
            percent(candidate.weight_percent),
            percent(candidate.sessions_percent),
            candidate.expected_percent.map_or_else(String::new, percent),
            backend.active.to_string(),
            backends::state(backend),
            backend.next_hop.state.clone(),
            if candidate.chosen { "<- this" } else { "" }.to_owned(),
        ]);
    }
    table.to_string()
}

/// Returns a table of modules.
pub(crate) fn modules(items: &[ModuleItem]) -> String {
    let mut table = Table::new([
        "KIND",
        "MODULE",
        "BUILD",
        "VERSION",
        "SOURCE",
        "IN SERVICE",
        ">FAULTS",
        "DETAILS",
    ]);
    for ModuleItem { kind, module } in items {
        let mut details = Vec::new();
        if let Some(canary) = &module.canary {
            let left = canary.left_ms / 1000;
            details.push(format!("canary {} for {left}s more", canary.build.hash));
        }
        details.extend(
            module
                .refused
                .iter()
                .map(|it| format!("refused: {}", it.reason)),
        );
        for build in &module.quarantined {
            details.push(format!("quarantined {}: {}", build.hash, build.reason));
        }
        let [name, build, version, source, since, _] = modules::row(module);
        let (faults, details) = (module.faults.to_string(), details.join("\n"));
        let kind = kind.clone();
        table.add([kind, name, build, version, source, since, faults, details]);
    }
    table.to_string()
}

/// Returns a table of ports and their queues.
pub(crate) fn ports(ports: &[PortStatus]) -> String {
    super::ports_table(ports).to_string()
}

/// Returns a table of workers.
pub(crate) fn workers(workers: &[WorkerStatus]) -> String {
    super::workers_table(workers).to_string()
}

/// Returns a table of drops; those of no one service first.
pub(crate) fn drops(drops: &[DropItem]) -> String {
    let mut table = Table::new(["SERVICE", "REASON", ">PACKETS"]);
    for drop in drops {
        let service = drop.service.clone().unwrap_or_else(|| "all".to_owned());
        table.add([service, drop.reason.clone(), drop.packets.to_string()]);
    }
    table.to_string()
}
