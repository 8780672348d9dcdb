//! The status, the sessions and the health of a running balancer as text, for people.
//!
//! Invariant: what is healthy takes one row; what is wrong says why.

mod backends;
pub(crate) mod lists;
mod modules;
mod table;
mod tree;
mod units;

#[cfg(test)]
mod tests;

pub(crate) use backends::state;
pub(crate) use tree::tree;

use std::fmt::{self, Write};
use std::time::{Duration, UNIX_EPOCH};

use waxwing_control::admin::events::Event;
use waxwing_control::admin::status::{
    HealthReport, PortStatus, QueueStatus, ReturnPathStatus, SessionStatus, SourceStatus, Status,
    WorkerStatus,
};

use table::Table;

/// Returns the whole status.
pub(crate) fn status(status: &Status) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = write_status(&mut out, status);
    out
}

/// Returns a table of sessions.
pub(crate) fn sessions(sessions: &[SessionStatus]) -> String {
    let mut table = Table::new([
        "SERVICE",
        "PROTO",
        "CLIENT",
        "BACKEND",
        "PHASE",
        ">AGE (s)",
        ">IDLE (s)",
    ]);
    for session in sessions {
        let client = match &session.source {
            Some(source) => format!("{} as {source}", session.client),
            None => session.client.clone(),
        };
        let seconds = |ms: u64| format!("{:.1}", ms as f64 / 1000.0);
        table.add([
            session.service.clone(),
            session.protocol.clone(),
            client,
            session.backend.clone(),
            session.phase.clone(),
            seconds(session.age_ms),
            seconds(session.idle_ms),
        ]);
    }
    table.to_string()
}

/// Returns an event as a line.
pub(crate) fn event(event: &Event) -> String {
    let at = humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(event.at));
    let (severity, area) = (event.severity.label(), &event.area);
    format!("{at} {severity:5} {area:8} {}\n", event.text)
}

/// Returns the balancer's health, and a table of its services.
pub(crate) fn health(health: &HealthReport) -> String {
    let mut out = format!("{}\n", health.state.label());
    for reason in &health.reasons {
        // Writing to a string cannot fail.
        let _ = writeln!(out, "  {reason}");
    }
    let mut table = Table::new(["SERVICE", "STATE", ">UP", ">OF", ">UNCHECKED", "REASON"]);
    for service in &health.services {
        let counts = [service.up, service.backends, service.unchecked];
        let [up, of, unchecked] = counts.map(|count| count.to_string());
        let (name, state) = (service.service.clone(), service.state.label().to_owned());
        table.add([name, state, up, of, unchecked, service.reasons.join("\n")]);
    }
    out + &table.to_string()
}

fn write_status(out: &mut String, status: &Status) -> fmt::Result {
    write_head(out, status)?;
    write_ports(out, status)?;
    write_return_path(out, &status.return_path)?;
    write_workers(out, &status.workers)?;
    for service in &status.services {
        backends::write_service(out, service)?;
    }
    if !status.retired.is_empty() {
        writeln!(out, "\nremoved backends that still have sessions")?;
        write!(out, "{}", backends::table(&status.retired).indented())?;
    }
    write_source_nat(out, &status.source_nat)?;
    modules::write(out, status)
}

fn write_head(out: &mut String, status: &Status) -> fmt::Result {
    let (config, sessions) = (&status.config, &status.sessions);
    let uptime = units::seconds(status.uptime_s);
    writeln!(
        out,
        "waxwing {}, pid {}, up {uptime}",
        status.version, status.pid
    )?;
    writeln!(
        out,
        "config    {}, generation {}, {} mode",
        config.path, config.generation, status.mode
    )?;
    if let Some(reload) = &config.last_reload {
        let since = units::since(reload.at);
        match &reload.error {
            Some(error) => {
                writeln!(out, "          the last reload, {since} ago, was refused:")?;
                write!(out, "{}", units::indented(error))?;
            }
            None => writeln!(out, "          reloaded {since} ago: {}", reload.changes)?,
        }
    }
    writeln!(
        out,
        "sessions  {} of {}, {} ({:.0} bytes each)",
        sessions.used,
        sessions.max,
        units::bytes(sessions.memory_bytes),
        sessions.bytes_per_session,
    )?;
    if status.log.lines_dropped > 0 {
        writeln!(out, "log       {} lines dropped", status.log.lines_dropped)?;
    }
    for problem in &status.problems {
        writeln!(out, "PROBLEM   {problem}")?;
    }
    Ok(())
}

fn ports_table(ports: &[PortStatus]) -> Table {
    let mut table = Table::new([
        "PORT", "LINK", "XDP", "MAC", ">MTU", ">QUEUE", "MODE", ">LOST",
    ]);
    for port in ports {
        let link = match port.link_up {
            Some(true) => "up",
            Some(false) => "DOWN",
            None => "GONE",
        };
        let head = [
            port.interface.clone(),
            link.to_owned(),
            port.mode.clone(),
            port.mac.clone(),
            port.mtu.to_string(),
        ];
        if port.queues.is_empty() {
            let [interface, link, mode, mac, mtu] = head.clone();
            let none = String::new;
            table.add([interface, link, mode, mac, mtu, none(), none(), none()]);
        }
        for (at, queue) in port.queues.iter().enumerate() {
            // The port's own cells stand in its first row only.
            let [interface, link, mode, mac, mtu] = match at {
                0 => head.clone(),
                _ => Default::default(),
            };
            let [number, copy, lost] = queue_cells(queue);
            table.add([interface, link, mode, mac, mtu, number, copy, lost]);
        }
    }
    table
}

fn write_ports(out: &mut String, status: &Status) -> fmt::Result {
    write!(out, "\n{}", ports_table(&status.ports))?;
    let lost = status.frames.get("no_socket").copied().unwrap_or(0);
    if lost > 0 {
        writeln!(
            out,
            "{lost} frames for the workers were dropped: their queue had no socket yet"
        )?;
    }
    Ok(())
}

/// Returns a queue's number, its mode, and the frames that it lost before the worker got them.
fn queue_cells(queue: &QueueStatus) -> [String; 3] {
    let mode = if queue.zero_copy { "zero-copy" } else { "copy" };
    let mode = match &queue.reason {
        Some(reason) => format!("{mode} ({reason})"),
        None => mode.to_owned(),
    };
    let lost = ["rx_dropped", "rx_ring_full"].iter();
    let lost: u64 = lost.filter_map(|name| queue.statistics.get(*name)).sum();
    [queue.queue.to_string(), mode, lost.to_string()]
}

/// Writes how replies find their next hop, and the gateways in use.
fn write_return_path(out: &mut String, path: &ReturnPathStatus) -> fmt::Result {
    writeln!(
        out,
        "\nreplies   by {}, {} kernel routes",
        path.mode, path.routes
    )?;
    let mut table = Table::new(["GATEWAY", "INTERFACE", "STATE"]).indented();
    for gateway in &path.gateways {
        let via = gateway.via.map(|via| via.to_string()).unwrap_or_default();
        let interface = gateway.interface.as_deref().unwrap_or("no port");
        table.add([
            via,
            format!("{interface}{}", backends::vlans(&gateway.vlans)),
            backends::next_hop(gateway),
        ]);
    }
    write!(out, "{table}")
}

fn workers_table(workers: &[WorkerStatus]) -> Table {
    let mut table = Table::new([
        ">WORKER",
        ">PACKETS IN",
        ">OUT",
        ">TO KERNEL",
        ">ANSWERED",
        ">ACTIVE",
        ">HALF-OPEN",
        ">CLOSING",
        ">EXPIRED",
        ">EVICTED",
        ">BATCH P50 (us)",
        ">P99",
        ">P99.9",
    ]);
    for worker in workers {
        let times = &worker.batch_times;
        let cells = [
            worker.worker as u64,
            worker.received.packets,
            worker.transmitted.packets,
            worker.to_kernel,
            worker.requests_answered,
            worker.sessions_active,
            worker.sessions_half_open,
            worker.sessions_closing,
            worker.sessions_expired,
            worker.sessions_evicted,
            times.p50_us,
            times.p99_us,
            times.p999_us,
        ];
        table.add(cells.map(|cell| cell.to_string()));
    }
    table
}

fn write_workers(out: &mut String, workers: &[WorkerStatus]) -> fmt::Result {
    write!(out, "\n{}", workers_table(workers))?;
    let mut table = Table::new([">WORKER", ">COUNT", "EVENT"]);
    for worker in workers {
        for (count, event) in events(worker).iter().filter(|(count, _)| *count > 0) {
            let event = (*event).to_owned();
            table.add([worker.worker.to_string(), count.to_string(), event]);
        }
        for (reason, count) in &worker.drops {
            let event = format!("packets dropped: {reason}");
            table.add([worker.worker.to_string(), count.to_string(), event]);
        }
    }
    let table = table.to_string();
    let gap = if table.is_empty() { "" } else { "\n" };
    write!(out, "{gap}{table}")
}

/// Returns the counters that are shown only if they are not 0.
fn events(worker: &WorkerStatus) -> [(u64, &'static str); 12] {
    [
        (
            worker.fallback_choices,
            "flows assigned by the native fallback, because the policy failed",
        ),
        (worker.bridged, "frames bridged from port to port"),
        (worker.icmp_errors_forwarded, "ICMP errors forwarded"),
        (worker.time_exceeded_sent, "ICMP time exceeded sent"),
        (worker.too_big_sent, "ICMP packet too big sent"),
        (
            worker.last_hop_fallbacks,
            "replies sent to the last hop, because their route cannot be followed",
        ),
        (worker.packets_fragmented, "packets fragmented"),
        (
            worker.fragments_held,
            "fragments held until the first one of their datagram arrived",
        ),
        (
            worker.sessions_rejected,
            "new sessions rejected, because no backend takes them",
        ),
        (
            worker.unserved_rejected,
            "packets to unserved ports of VIPs rejected",
        ),
        (
            worker.sessions_reset,
            "sessions reset, because their backend is down",
        ),
        (
            worker.sessions_moved,
            "sessions moved to another backend, because theirs is down",
        ),
    ]
}

fn write_source_nat(out: &mut String, sources: &[SourceStatus]) -> fmt::Result {
    let mut table = Table::new(["SOURCE ADDRESS", "PORTS", ">SESSIONS"]);
    for source in sources {
        let ports = source.ports.clone().unwrap_or_else(|| "removed".to_owned());
        table.add([source.address.clone(), ports, source.sessions.to_string()]);
    }
    let table = table.to_string();
    let gap = if table.is_empty() { "" } else { "\n" };
    write!(out, "{gap}{table}")
}
