//! A status as text, for people.
//!
//! Invariant: what is well takes one line; what is wrong says why.

use std::fmt::{self, Display, Write};
use std::time::SystemTime;

use waxwing_control::admin::status::{
    BackendHealthStatus, BackendStatus, CanaryStatus, CheckStatus, ModuleStatus, PortStatus,
    QuarantinedBuild, ReturnPathStatus, ServiceStatus, Status, StepStatus, WorkerStatus,
};
use waxwing_control::health::{Admin, State};

/// The whole status.
pub(crate) fn status(status: &Status) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = write_status(&mut text, status);
    text
}

fn write_status(out: &mut String, status: &Status) -> fmt::Result {
    let Status {
        version,
        pid,
        uptime_s,
        config,
        sessions,
        ..
    } = status;
    writeln!(
        out,
        "waxwing {version}, pid {pid}, up {}",
        Seconds(*uptime_s)
    )?;
    writeln!(
        out,
        "config    {}, change {}, {} mode",
        config.path, config.generation, status.mode
    )?;
    if let Some(error) = config
        .last_reload
        .as_ref()
        .and_then(|reload| reload.error.as_ref())
    {
        writeln!(
            out,
            "          the last reload was refused:\n{}",
            Indented(error)
        )?;
    }
    writeln!(
        out,
        "sessions  {} of {}, {} ({:.0} bytes each)",
        sessions.active,
        sessions.max,
        Bytes(sessions.memory_bytes as u64),
        sessions.bytes_per_session,
    )?;
    for problem in &status.problems {
        writeln!(out, "PROBLEM   {problem}")?;
    }
    writeln!(out)?;
    status
        .ports
        .iter()
        .try_for_each(|port| write_port(out, port))?;
    write_return_path(out, &status.return_path)?;
    status
        .workers
        .iter()
        .try_for_each(|worker| write_worker(out, worker))?;
    status
        .services
        .iter()
        .try_for_each(|service| write_service(out, service))?;
    if !status.source_nat.is_empty() {
        writeln!(out)?;
    }
    for source in &status.source_nat {
        let ports = source
            .ports
            .as_ref()
            .map_or("removed".to_owned(), |ports| format!("ports {ports}"));
        let (address, active) = (&source.address, source.active);
        writeln!(out, "source    {address}  {ports}, {active} sessions")?;
    }
    if !status.retired.is_empty() {
        writeln!(out, "\nremoved, with sessions")?;
        status
            .retired
            .iter()
            .try_for_each(|backend| write_backend(out, backend))?;
    }
    writeln!(out)?;
    let modules = status.modules.iter().chain(&status.checks);
    modules
        .into_iter()
        .try_for_each(|module| write_module(out, module))?;
    let checks = &status.health_checks;
    if checks.runs > 0 {
        writeln!(
            out,
            "checks    {} done, {} running, late by {} ms (p99), {} ms (max)",
            checks.runs, checks.running, checks.late_p99_ms, checks.late_max_ms
        )?;
    }
    Ok(())
}

fn write_port(out: &mut String, port: &PortStatus) -> fmt::Result {
    let link = match port.link_up {
        Some(true) => "up",
        Some(false) => "DOWN",
        None => "GONE",
    };
    writeln!(
        out,
        "port      {}  {link}, {} XDP, {}, MTU {}",
        port.interface, port.mode, port.mac, port.mtu
    )?;
    for queue in &port.queues {
        let mode = if queue.zero_copy { "zero-copy" } else { "copy" };
        let why = queue
            .reason
            .as_ref()
            .map_or(String::new(), |reason| format!(" ({reason})"));
        let lost: u64 = ["rx_dropped", "rx_ring_full"]
            .iter()
            .filter_map(|name| queue.statistics.get(*name))
            .sum();
        let lost = if lost > 0 {
            format!(", {lost} lost before the worker")
        } else {
            String::new()
        };
        writeln!(out, "  queue {:<3} {mode}{why}{lost}", queue.queue)?;
    }
    Ok(())
}

/// The ways back to clients, and the gateways that they lead to.
fn write_return_path(out: &mut String, path: &ReturnPathStatus) -> fmt::Result {
    writeln!(out, "replies   by {}, {} routes", path.mode, path.routes)?;
    for gateway in &path.gateways {
        let via = gateway.via.map(|via| via.to_string()).unwrap_or_default();
        let interface = gateway.interface.as_deref().unwrap_or("no port");
        let reached = if gateway.resolved {
            ""
        } else {
            "NOT REACHED: "
        };
        let state = &gateway.state;
        writeln!(
            out,
            "  gateway {via} behind {interface}{}  {reached}{state}",
            Vlans(&gateway.vlans)
        )?;
    }
    Ok(())
}

/// VLAN ids in brackets, or nothing.
struct Vlans<'a>(&'a [u16]);

impl Display for Vlans<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ids: Vec<String> = self.0.iter().rev().map(u16::to_string).collect();
        match ids.is_empty() {
            true => Ok(()),
            false => write!(f, " (VLAN {})", ids.join(" in ")),
        }
    }
}

fn write_worker(out: &mut String, worker: &WorkerStatus) -> fmt::Result {
    writeln!(
        out,
        "worker {:<2} {} packets in, {} out, {} to the kernel, {} answered; sessions: {} expired, \
         {} evicted",
        worker.worker,
        worker.received.packets,
        worker.transmitted.packets,
        worker.to_kernel,
        worker.requests_answered,
        worker.sessions_expired,
        worker.sessions_evicted,
    )?;
    let times = &worker.batch_times;
    if !times.buckets.is_empty() {
        writeln!(
            out,
            "  batches took {} us (p50), {} us (p99), {} us (p99.9)",
            times.p50_us, times.p99_us, times.p999_us
        )?;
    }
    let rare = [
        (
            worker.fallback_choices,
            "flows chosen for by the native fallback",
        ),
        (worker.bridged, "frames passed from port to port"),
        (worker.icmp_errors_forwarded, "ICMP errors passed on"),
        (
            worker.time_exceeded_sent,
            "senders told of a hop limit used up",
        ),
        (worker.too_big_sent, "senders told of a packet too big"),
        (
            worker.last_hop_fallbacks,
            "replies by the last hop, for their route cannot be followed",
        ),
        (worker.packets_fragmented, "packets cut to pieces"),
        (worker.fragments_held, "fragments held"),
        (
            worker.sessions_rejected,
            "new sessions rejected, for no backend takes them",
        ),
        (
            worker.sessions_reset,
            "sessions reset, for their backend is down",
        ),
        (
            worker.sessions_moved,
            "sessions given to another backend, for theirs is down",
        ),
    ];
    for (count, what) in rare.iter().filter(|(count, _)| *count > 0) {
        writeln!(out, "  {count} {what}")?;
    }
    for (reason, count) in &worker.drops {
        writeln!(out, "  dropped {count:>12}  {reason}")?;
    }
    Ok(())
}

fn write_service(out: &mut String, service: &ServiceStatus) -> fmt::Result {
    writeln!(
        out,
        "\nservice   {}  {} {} port {}, {}, {} sessions",
        service.name, service.protocol, service.vip, service.port, service.policy, service.active,
    )?;
    for (name, count) in &service.counters {
        writeln!(out, "  counted {count:>12}  {name}")?;
    }
    service
        .backends
        .iter()
        .try_for_each(|backend| write_backend(out, backend))
}

fn write_backend(out: &mut String, backend: &BackendStatus) -> fmt::Result {
    let name = backend.name.as_deref().unwrap_or_default();
    let count = |n: u64, what: &str| match n {
        0 => String::new(),
        n => format!(", {n} {what}"),
    };
    let refused = count(backend.refused, "refused")
        + &count(backend.syn_retransmitted, "not answered at once")
        + &count(backend.unanswered, "unanswered");
    write!(
        out,
        "  {:<40} weight {:<4} {:>8} active {:>10} in all{refused}",
        match backend.port {
            Some(port) => format!("{} port {port} {name}", backend.address),
            None => format!("{} {name}", backend.address),
        },
        backend.weight,
        backend.active,
        backend.sessions,
    )?;
    if backend.latency_us > 0 {
        write!(out, ", connects in {} us", backend.latency_us)?;
    }
    for (name, value) in &backend.signals {
        write!(out, ", {name}={value}")?;
    }
    let hop = &backend.next_hop;
    if hop.resolved {
        writeln!(out, "{}", Vlans(&hop.vlans))?;
    } else {
        writeln!(out, "  NOT REACHED: {}", hop.state)?;
    }
    let health = backend.health.as_ref();
    health.map_or(Ok(()), |health| write_health(out, health))
}

/// Nothing where it is up and nobody checks it.
fn write_health(out: &mut String, health: &BackendHealthStatus) -> fmt::Result {
    if health.checks.is_empty() && health.state == State::Up {
        return Ok(());
    }
    let asked = match health.admin {
        Admin::Enabled => "",
        Admin::Draining => " (the operator drains it)",
        Admin::Disabled => " (the operator disabled it)",
    };
    let state = match health.state {
        State::Down | State::Ejected => health.state.word().to_uppercase(),
        state => state.word().to_owned(),
    };
    let weight = match health.weight_percent {
        100 => String::new(),
        percent => format!(", {percent} % of its weight"),
    };
    writeln!(
        out,
        "    {state}{asked} for {}{weight}: {}",
        Seconds(age(health.since)),
        health.reason
    )?;
    for check in &health.checks {
        let CheckStatus {
            check,
            state,
            reason,
            latency_us,
            ..
        } = check;
        let took = *latency_us as f64 / 1000.0;
        writeln!(out, "    {check} {state}: {reason} ({took:.1} ms)")?;
    }
    Ok(())
}

fn write_module(out: &mut String, module: &ModuleStatus) -> fmt::Result {
    match &module.serving {
        Some(serving) => writeln!(
            out,
            "module    {}  {} {} from {}, for {}, {} faults",
            module.name,
            serving.hash,
            serving.version,
            serving.source,
            Seconds(age(serving.since)),
            serving.faults,
        )?,
        None => writeln!(out, "module    {}  NONE SERVES", module.name)?,
    }
    if let Some(CanaryStatus { build, left_ms }) = &module.canary {
        writeln!(
            out,
            "  canary  {} {} on worker 0 for {left_ms} ms more",
            build.hash, build.version
        )?;
    }
    for QuarantinedBuild { hash, reason, .. } in &module.quarantined {
        let digits = hash.get(..12).unwrap_or(hash);
        writeln!(out, "  quarantined {digits}: {reason}")?;
    }
    let first = module.steps.len().saturating_sub(STEPS_SHOWN);
    for StepStatus { at, hash, text } in &module.steps[first..] {
        writeln!(out, "  {} ago  {hash} {text}", Seconds(age(*at)))?;
    }
    if let Some(refused) = &module.refused {
        let hash = refused.hash.as_deref().unwrap_or("unread");
        writeln!(out, "  refused {hash}:\n{}", Indented(&refused.reason))?;
    }
    Ok(())
}

/// How many of a module's last steps are shown; `--json` has more.
const STEPS_SHOWN: usize = 5;

/// How long ago a time of day was, in seconds.
fn age(at: u64) -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.map_or(0, |now| now.as_secs().saturating_sub(at))
}

/// A time span in its two largest units.
struct Seconds(u64);

impl Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (minutes, hours, days) = (self.0 / 60, self.0 / 3600, self.0 / 86_400);
        match self.0 {
            s if s < 60 => write!(f, "{s} s"),
            s if s < 3600 => write!(f, "{minutes} min {} s", s % 60),
            s if s < 86_400 => write!(f, "{hours} h {} min", minutes % 60),
            _ => write!(f, "{days} d {} h", hours % 24),
        }
    }
}

/// A size in the largest unit that leaves a digit before the point.
struct Bytes(u64);

impl Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            n if n < 1 << 10 => write!(f, "{n} B"),
            n if n < 1 << 20 => write!(f, "{} KiB", n >> 10),
            n if n < 1 << 30 => write!(f, "{} MiB", n >> 20),
            n => write!(f, "{:.1} GiB", n as f64 / f64::from(1 << 30)),
        }
    }
}

struct Indented<'a>(&'a str);

impl Display for Indented<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, line) in self.0.trim_end().lines().enumerate() {
            if at > 0 {
                f.write_char('\n')?;
            }
            write!(f, "    {line}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use waxwing_control::admin::status::NextHopStatus;

    use super::*;

    #[test]
    fn spans_and_sizes_read_well() {
        let spans = [
            (5, "5 s"),
            (65, "1 min 5 s"),
            (7265, "2 h 1 min"),
            (180_000, "2 d 2 h"),
        ];
        for (seconds, text) in spans {
            assert_eq!(Seconds(seconds).to_string(), text);
        }
        let sizes = [
            (17, "17 B"),
            (2048, "2 KiB"),
            (107 << 20, "107 MiB"),
            (3 << 29, "1.5 GiB"),
        ];
        for (bytes, text) in sizes {
            assert_eq!(Bytes(bytes).to_string(), text);
        }
    }

    #[test]
    fn gateways_are_shown_with_their_vlan_and_what_is_wrong() {
        let mut shown = Status::default();
        shown.return_path.mode = "route".into();
        let gateway = |resolved, vlans: &[u16], state: &str| NextHopStatus {
            resolved,
            via: Some(std::net::Ipv4Addr::new(10, 1, 0, 2).into()),
            interface: Some("eth0.200".into()),
            vlans: vlans.into(),
            mac: None,
            state: state.into(),
        };
        shown.return_path.gateways = vec![
            gateway(true, &[7, 200], "resolved"),
            gateway(false, &[], "it does not answer"),
        ];
        let text = status(&shown);
        let lines = [
            "gateway 10.1.0.2 behind eth0.200 (VLAN 200 in 7)  resolved",
            "gateway 10.1.0.2 behind eth0.200  NOT REACHED: it does not answer",
        ];
        for line in lines {
            assert!(text.contains(line), "{text}");
        }
    }

    #[test]
    fn an_unresolved_backend_and_a_refused_module_stand_out() {
        let mut shown = Status::default();
        let mut backend = BackendStatus {
            address: "10.2.0.11".into(),
            ..Default::default()
        };
        backend.next_hop.state = "10.2.0.11 does not answer".into();
        shown.services.push(ServiceStatus {
            backends: vec![backend],
            ..Default::default()
        });
        let refused = waxwing_control::admin::status::RefusedStatus {
            reason: "not a Wasm module".into(),
            ..Default::default()
        };
        shown.modules.push(ModuleStatus {
            refused: Some(refused),
            ..Default::default()
        });
        let text = status(&shown);
        assert!(
            text.contains("NOT REACHED: 10.2.0.11 does not answer"),
            "{text}"
        );
        assert!(
            text.contains("NONE SERVES") && text.contains("not a Wasm module"),
            "{text}"
        );
    }
}
